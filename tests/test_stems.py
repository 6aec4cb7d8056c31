"""Published stems and their readings: against other ways to compute the same, and against cases
worked out by hand.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from evaluation.kernel_maps import (
    KernelMap,
    compare,
    find_directions,
    kernel_held_out,
    kernel_ridge,
    mean_of_roots,
)
from evaluation.linear_maps import Linear, log_ranks, mean_within, ridge, unit
from export.bundle import open_bundle
from export.encoder import OnnxEncoder
from export.stems import (
    DIM,
    ClassVectors,
    Searched,
    halve,
    number_folds,
    to_kernel_map,
    to_phrase_memory,
    try_means,
)
from export.to_onnx import trace_graph
from media.video import VideoSpec
from model.class_vectors import PHRASES, ClassPhrases
from model.network.stems import (
    LinearMap,
    PhraseMemory,
    PictureEncoder,
    PictureStem,
    SameConv,
    fuse_batch_norm,
)

from .makers import ROOT

DATA = ROOT / "tests" / "data"
DEFAULT = ROOT / "bundles" / "default"


def test_a_folded_batch_norm_gives_the_same() -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5, eps=1e-3)
    norm.running_mean.normal_()  # type: ignore[union-attr]
    norm.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
    norm.eval()
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        weight, bias = fuse_batch_norm(conv.weight, dict(norm.state_dict()), 1e-3)
        assert torch.allclose(nn.functional.conv2d(x, weight, bias), norm(conv(x)), atol=1e-5)


def test_same_padding_puts_the_odd_pixel_to_the_right() -> None:
    """TensorFlow's SAME: of 4 pixels, kernel 3, stride 2, one pixel is added, behind the last."""
    plain = {"weight": torch.ones(1), "bias": torch.zeros(1), "running_mean": torch.zeros(1)}
    norm = plain | {"running_var": torch.ones(1) - 1e-3}
    conv = SameConv(torch.ones(1, 1, 3, 3), norm, stride=2, active=False)
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert conv(x).flatten().tolist() == pytest.approx([45.0, 39.0, 66.0, 50.0])


def lite_weights() -> dict[str, torch.Tensor]:
    """A tiny network of EfficientNet-Lite's kind: a stage of one block, and one of two."""
    torch.manual_seed(0)
    weights = {}

    def conv(name: str, norm: str, *shape: int) -> None:
        weights[f"{name}.weight"] = torch.randn(*shape)
        for key, value in (
            ("weight", 1.0),
            ("bias", 0.1),
            ("running_mean", 0.2),
            ("running_var", 1.5),
        ):
            weights[f"{norm}.{key}"] = torch.full((shape[0],), value)

    conv("_conv_stem", "_bn0", 4, 3, 3, 3)
    conv("_blocks.0._depthwise_conv", "_blocks.0._bn1", 4, 1, 3, 3)
    conv("_blocks.0._project_conv", "_blocks.0._bn2", 2, 4, 1, 1)
    for i, inputs in ((1, 2), (2, 6)):
        conv(f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0", 8, inputs, 1, 1)
        conv(f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1", 8, 1, 5, 5)
        conv(f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2", 6, 8, 1, 1)
    conv("_conv_head", "_bn1", 10, 6, 1, 1)
    return weights | {"_fc.weight": torch.randn(7, 10), "_fc.bias": torch.randn(7)}


def test_a_picture_stem_is_built_from_its_weights() -> None:
    stem = PictureStem(lite_weights()).eval()
    strides = [block.layers.filter.stride for block in stem.blocks]  # type: ignore[union-attr]
    assert strides == [1, 2, 1] and [block.residual for block in stem.blocks] == [
        False,
        False,
        True,
    ]
    frames = torch.randint(0, 256, (2, 3, 16, 16, 3), dtype=torch.uint8)
    features, logits = stem(frames)
    assert features.shape == (2, 3, 10) and logits.shape == (2, 3, 7)
    assert torch.allclose(stem(frames[1:, 2:])[0][0, 0], features[1, 2], atol=1e-4)


def test_halved_weights_are_widened_in_the_graph() -> None:
    random = np.random.default_rng(0)
    weight, bias = (
        random.normal(size=(64, 32)).astype(np.float32),
        random.normal(size=32).astype(np.float32),
    )
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("MatMul", ["x", "w"], ["y"]),
            onnx.helper.make_node("Add", ["y", "b"], ["z"]),
        ],
        "linear",
        [value("x", onnx.TensorProto.FLOAT, ["n", 64])],
        [value("z", onnx.TensorProto.FLOAT, ["n", 32])],
        [onnx.numpy_helper.from_array(weight, "w"), onnx.numpy_helper.from_array(bias, "b")],
    )
    proto = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
    )
    halve(proto)
    kept = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    # small ones stay
    assert kept == {"w_half": onnx.TensorProto.FLOAT16, "b": onnx.TensorProto.FLOAT}
    x = random.normal(size=(2, 64)).astype(np.float32)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    assert np.allclose(session.run(None, {"x": x})[0], x @ weight + bias, atol=2e-2)


def test_a_ridge_recovers_a_linear_map() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(300, 4)).astype(np.float32)
    truth = random.normal(size=(4, 8)).astype(np.float32)
    targets = unit(features @ truth)
    fitted = ridge(features, targets, strength=1e-6)
    assert (fitted(features) * targets).sum(axis=1).mean() > 0.95


def test_similarities_by_hand() -> None:
    """The roots of [4, 0] and [0, 1] are [2, 0] and [0, 1], their mean is [1, 0.5]: their
    directions are opposite, at a cosine of -1.
    """
    features = np.array([[4, 0], [0, 1]], np.float32)
    mean = mean_of_roots(features)
    assert mean.tolist() == [1.0, 0.5]
    directions = find_directions(features, mean)
    assert np.allclose(directions, unit(np.array([[1, -0.5], [-1, 0.5]], np.float32)))
    kernel = compare(directions, directions, sharpness=0.5)
    assert np.allclose(kernel, [[1, np.exp(-1)], [np.exp(-1), 1]])


def test_a_kernel_ridge_by_hand() -> None:
    """Two pictures with opposite targets, and similarities of 1 and e^-1: the coefficients are
    y / (1 - e^-1 + penalty).
    """
    features = np.array([[4, 0], [0, 1]], np.float32)
    targets = np.array([[1, 0], [-1, 0]], np.float32)
    fitted = kernel_ridge(features, targets, 0.5, penalty=0.1)
    expected = 1 / (1 - np.exp(-1) + 0.1)
    assert np.allclose(fitted.coefficients, [[expected, 0], [-expected, 0]])
    assert np.allclose(fitted(features), targets)


def test_a_kernel_ridge_leaves_out_what_it_is_told_to() -> None:
    """The short formula gives what a fit to the other parts gives, with the same means."""
    random = np.random.default_rng(0)
    features = random.random((60, 5)).astype(np.float32)
    targets = unit(random.normal(size=(60, 8)))
    parts = np.repeat([0, 1, 2], 20)
    directions = find_directions(features, mean_of_roots(features))
    kernel = compare(directions, directions, sharpness=2.0)
    found = kernel_held_out(kernel, targets, parts, penalty=0.1)
    rest = targets[20:] - targets.mean(axis=0)
    fitted = np.linalg.solve(kernel[20:, 20:] + 0.1 * np.eye(40), rest)
    assert np.allclose(found[:20], unit(kernel[:20, 20:] @ fitted), atol=1e-4)


def test_books_and_labels_are_left_out_whole() -> None:
    rows = [{"id": f"b{i}", "book": "Biology", "labels": [f"l{i}"]} for i in range(20)]
    rows += [{"id": f"c{i}", "labels": ["cat", f"l{i}"]} for i in range(20)]
    rows += [{"id": f"n{i}", "labels": []} for i in range(200)]
    folds = number_folds(rows)
    assert len(set(folds[:20])) == 1 and len(set(folds[20:40])) == 1
    assert set(folds[40:].tolist()) == set(range(7))


def test_ranks_of_names_by_hand() -> None:
    """The second query's own name is ranked second; of two entries of one name the best counts."""
    gallery = unit(np.array([[1, 0], [0, 1], [1, 1]], np.float32))
    queries = unit(np.array([[1, 0], [1, 0.1], [1, 0]], np.float32))
    assert np.exp(log_ranks(queries, gallery, ["a", "b", "a"])).tolist() == pytest.approx(
        [1.0, 3.0, 1.0]
    )
    apart = mean_within(queries, gallery, np.array([0, 1, 2]), ["a", "b", "a"])
    assert apart == 0.0  # each searched alone


def test_a_linear_map_gives_unit_vectors() -> None:
    linear = Linear(np.eye(2, dtype=np.float32), np.array([0, 1], np.float32))
    assert np.allclose(linear(np.array([[1, 0]], np.float32)), np.sqrt([[0.5, 0.5]]))


def picture_encoder(random: np.random.Generator) -> tuple[PictureEncoder, KernelMap]:
    """A tiny one, and the map that it holds."""
    fitted = kernel_ridge(
        6 * random.random((30, 10)).astype(np.float32),
        unit(random.normal(size=(30, 8))),
        2.5,
        penalty=0.1,
    )
    classes = LinearMap(torch.randn(7, 8), torch.zeros(8))
    stem = PictureStem(lite_weights())
    return PictureEncoder(stem, 0.4, classes, to_kernel_map(fitted), 0.6).eval(), fitted


def test_a_kernel_map_in_the_graph_gives_what_it_gave_when_fitted() -> None:
    encoder, fitted = picture_encoder(np.random.default_rng(0))
    features = 6 * torch.rand(5, 1, 10)
    alone = fitted(features[:, 0].numpy())
    assert np.allclose(encoder.captions(features).numpy(), alone, atol=1e-5)
    frames = torch.cat([features, features], dim=1)  # a window of two equal frames
    assert np.allclose(encoder.captions(frames).numpy(), alone, atol=1e-5)


def test_a_picture_in_a_batch_has_the_vector_that_it_has_alone(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    encoder, _ = picture_encoder(random)
    spec = VideoSpec(2, 16, "squash")
    proto = trace_graph(encoder, "video", spec)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    frames = random.integers(0, 256, (3, *spec.shape), np.uint8)
    (together,) = session.run(None, {"frames": frames})
    (alone,) = session.run(None, {"frames": frames[1:2]})
    assert np.allclose(together[1], alone[0], atol=1e-5)
    with torch.no_grad():
        expected = encoder(torch.from_numpy(frames)).numpy()
    assert np.allclose(together, expected, atol=1e-4)


def test_a_memory_of_phrases_by_hand() -> None:
    """One class has two phrases, another kind's only class has one. A text that is the first of
    them has a weight of e^ln2 = 2 there and of 1 elsewhere: three quarters are the first class's.
    The keys are compared along the first two axes, where the third's are zero.
    """
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    axes = torch.eye(3)[:, :2]
    vectors = torch.tensor([[4.0, 0.0, 0.0], [0.0, 0.0, 8.0]])
    memory = PhraseMemory(keys, axes, vectors, [(1, 2), (1, 1)], sharpness=math.log(2))
    assert memory(torch.eye(3)[:1]).tolist() == [pytest.approx([3.0, 0.0, 2.0])]


def test_the_memory_is_that_of_all_phrases_in_fewer_directions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Six phrases of four classes differ in five directions: what they share is left out, and a
    text's weights are still those of its cosines.
    """
    monkeypatch.setattr("export.stems.PHRASE_DIMS", 5)
    random = np.random.default_rng(0)
    mean, *texts = unit(random.normal(size=(7, DIM))).astype(np.float32)
    vectors = unit(random.normal(size=(4, DIM))).astype(np.float32)
    kinds = [
        ClassVectors(ClassPhrases(np.reshape(texts[:4], (2, 2, DIM)), 1, 1), vectors[:2]),
        ClassVectors(ClassPhrases(np.reshape(texts[4:], (2, 1, DIM)), 1, 0), vectors[2:]),
    ]
    asked = unit(random.normal(size=(3, DIM))).astype(np.float32)
    weights = np.exp(20 * asked @ unit(np.array(texts) - mean).T)
    weights /= weights.sum(axis=1, keepdims=True)
    expected = weights @ vectors[[0, 0, 1, 1, 2, 3]]
    with torch.no_grad():
        found = to_phrase_memory(kinds, mean)(torch.from_numpy(asked)).numpy()
    assert np.allclose(found, expected, atol=1e-5)


def test_classes_are_described_by_their_texts() -> None:
    """A name at 0; two captions at 2 and 4, a phrase at 5 and a short name, which does not count:
    (0 + (3 + 5) / 2) / 2 = 2. The other class's is 4 in the same way, and the mean of both is 3.
    """
    texts = np.array([[[2.0], [4.0], [5.0], [99.0]], [[8.0], [4.0], [2.0], [0.0]]], np.float32)
    described = ClassPhrases(texts, caption_count=2, phrase_count=1).describe(
        np.array([[0.0], [4.0]])
    )
    assert described.tolist() == [[-1.0], [1.0]]


@pytest.mark.parametrize(("kind", "classes"), [("sounds", 521), ("pictures", 1000)])
def test_every_class_has_phrases_that_no_test_asks_for(kind: str, classes: int) -> None:
    lines = (PHRASES / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == classes
    assert len({tuple(len(row[k]) for k in ("captions", "phrases", "names")) for row in rows}) == 1
    said = {text for row in rows for text in (*row["captions"], *row["phrases"])}
    asked = set()
    for groups in json.loads((DATA / "paraphrases.json").read_text(encoding="utf-8")).values():
        asked |= {text.removeprefix("a ").removeprefix("the ") for text in groups} | set(groups)
    for name in ("plain_queries.json", "real_queries.json"):
        queries = json.loads((DATA / name).read_text(encoding="utf-8"))["queries"]
        asked |= {query["query"] for query in queries}
    assert not said & asked


def test_the_mean_that_queries_lose_is_chosen_by_what_they_find() -> None:
    """Both queries lean to the captions' mean, which hides what they differ in."""
    means = np.array([[0, 0, 1], [0, 0, 1], [10, 0, 0]], np.float32)
    sentences = np.array([[5, 1, 0], [5.5, -1, 0]], np.float32)
    vectors = unit(np.array([[0.1, 1, 0], [0.9, -1, 0]], np.float32))
    searched = Searched(["a", "b"], np.zeros(2, np.int64), sentences, vectors)
    tried = {one.settings: one.loss for one in try_means(means, searched)}
    assert tried[0.5, 0.5, 0.0] == pytest.approx(np.log(2) / 2)  # both queries find the second
    assert tried[0.5, 0.0, 0.5] == 0.0


def test_the_command_names_what_it_lacks(tmp_path: Path) -> None:
    command = [
        "export",
        "stems",
        "--out",
        str(tmp_path / "b"),
        "--open",
        str(tmp_path),
        "--teachers",
        str(tmp_path),
    ]
    ran = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (
        ran.returncode == 2
        and "yamnet_class_map.csv" in ran.stderr
        and not (tmp_path / "b").exists()
    )


def test_the_shipped_bundle_is_what_its_card_says() -> None:
    manifest = open_bundle(DEFAULT).manifest
    assert (
        manifest.name == "default"
        and manifest.inputs.audio
        and manifest.inputs.audio.sample_rate == 16_000
    )
    assert manifest.dims == {"video": 384, "audio": 384, "text": 384}
    assert 0 < manifest.audio_weights["stems"] < 1
    assert manifest.inputs.video and manifest.inputs.video.fit == "squash"
    assert {"stems", "knows", "does_not_know", "fitted_on"} <= set(manifest.provenance)
    assert sum(path.stat().st_size for path in DEFAULT.iterdir()) <= 64_000_000


def test_texts_of_one_meaning_are_near() -> None:
    encoder = OnnxEncoder.open(DEFAULT)
    texts = ["a dog barking", "a puppy yelps", "a sailing boat"]
    vectors = encoder.embed("text", encoder.tokens(texts, "text"))
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2
