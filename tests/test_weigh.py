"""What sound weighs in joint vectors: by hand, learned, as a graph of a bundle, and in search."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from export.__main__ import main
from export.bundle import (
    AlteredFile,
    Bundle,
    Joint,
    digest,
    open_bundle,
    parse_manifest,
    write_manifest,
)
from export.encoder import OnnxEncoder
from export.fusion import BadWeights, Fusion
from export.to_onnx import export_checkpoint, write_fusion
from export.verify import check_sound_weights, verify
from export.weigh import add_fusion
from index.collection import Collection
from index.search import Options, TargetQuery, search
from index.vectors.sizing import Sizing
from media.errors import BadConfig
from media.text import learn_tokenizer
from model.beds.gate import GateData, cross_validate, fit_gate, keep_weight, measure_gate
from model.config import TrainConfig
from model.network.fusion import MOST, START, SoundGate, join, learned_join
from model.training import checkpoint
from model.training.loop import make_optimiser
from model.training.tables import make_network

from .makers import ROOT, wait_until
from .test_joint import DIMS, axis, expected, mixed_items, unit
from .test_methods import make_features

BUNDLE = ROOT / "bundles" / "default"


class ByLikeness:
    """A fusion on paper: the sound weighs one plus its cosine with the pictures."""

    def weights(
        self, video: NDArray[np.float32], audio: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        return np.asarray(1 + (video * audio).sum(axis=1), np.float32)


LEARNED = Joint("video", "audio", 0.5, ByLikeness())  # type: ignore[arg-type]


def test_a_gate_weighs_every_sound_the_same_at_first() -> None:
    gate = SoundGate(4)
    x = torch.nn.functional.normalize(torch.randn(5, 4))
    assert gate(x, x.flip(0)).tolist() == pytest.approx([START] * 5)


def test_a_gate_by_hand() -> None:
    """Only the cosine counts, once: w = 2 sigmoid(tanh(5 v.a)), and j of it."""
    gate = SoundGate(2)
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.zero_()
        gate.up.weight[0, -1] = 1.0
        gate.down.weight[0, 0] = 1.0
    v, a = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]])
    weight = 2 / (1 + np.exp(-np.tanh(5 * 0.6)))
    assert gate(v, a).tolist() == pytest.approx([weight], abs=1e-6)
    summed = np.array([1 + 0.6 * weight, 0.8 * weight])
    expected_joint = summed / np.linalg.norm(summed)
    assert join(v, a, gate(v, a))[0].tolist() == pytest.approx(expected_joint, abs=1e-6)


def test_gradients_of_a_gate_are_those_of_differences() -> None:
    torch.manual_seed(0)
    gate = SoundGate(4).double()
    torch.nn.init.normal_(gate.down.weight)
    v, a = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in "va")
    assert torch.autograd.gradcheck(lambda x, y: join(x, y, gate(x, y)), (v, a))


def test_windows_with_one_of_both_are_that_one() -> None:
    v, a = axis(1)[None], axis(0, 1)[None]
    none = np.zeros_like(v)
    add = learned_join(SoundGate(8))
    assert np.array_equal(add(v, none, np.zeros(1, bool)), v)
    assert np.array_equal(add(none, a, np.zeros(1, bool)), a)
    assert add(v, a, np.ones(1, bool))[0] == pytest.approx((v + START * a)[0])
    assert LEARNED.add(v, a, np.ones(1, bool))[0] == pytest.approx((v + a)[0])
    assert np.array_equal(LEARNED.add(none, a, np.zeros(1, bool)), a)


@pytest.mark.parametrize("kind", ["exact", "hnsw"])
def test_search_uses_the_weight_of_each_window(tmp_path: Path, kind: str) -> None:
    """Against every joint score, with windows that lack a side, a filter, and a deleted item."""
    random = np.random.default_rng(0)
    items = mixed_items(200, random)
    box = Collection(tmp_path / "c", "f", DIMS, Sizing(kind))
    box.put(items)
    box.delete("i7")
    wait_until(lambda: not box.busy)
    left = [one for one in items if one.id != "i7"]
    for query in unit(random.normal(size=(10, 8))):
        for shelf in (None, "b"):
            twin = expected(
                [one for one in left if shelf in (None, one.metadata["shelf"])], query, LEARNED
            )
            best = sorted(twin, key=lambda id: -twin[id])[:10]
            asked = TargetQuery(LEARNED, query[None], comparable=(*DIMS, LEARNED))
            options = Options(10, filter={"shelf": shelf} if shelf else None, exact=True)
            answer = search(box, [asked], options)
            assert [hit.id for hit in answer.hits] == best
            assert answer.hits[0].score == pytest.approx(twin[best[0]], abs=1e-5)
    box.close()


# ---------------------------------------------------------------- learned


def make_data() -> GateData:
    """Twenty names. A picture's vector is mostly that of its name, and so is a sound's of its own.
    Half of the sounds are noise: they lie in one corner of the space, and seem to be of a name by
    chance. What is said of them says nothing.
    """
    random = np.random.default_rng(0)
    names = unit(random.normal(size=(20, 16)) * ([1.0] * 12 + [0.0] * 4))
    corner = np.eye(16)[15]
    noise = unit(names[random.integers(0, 20, 40)] + corner)
    pictures = unit(np.repeat(names, 3, axis=0) + 0.2 * random.normal(size=(60, 16)))
    of_names = unit(np.repeat(names, 2, axis=0) + 0.1 * random.normal(size=(40, 16)))
    return GateData(
        pictures=pictures,
        sounds=np.concatenate([of_names, noise]),
        texts=np.concatenate([names, np.float32(np.eye(16)[14:15])]),
        picture_texts=[[i // 3] for i in range(60)],
        sound_texts=[[i // 2] for i in range(40)] + [[20]] * 40,
        picture_groups=np.arange(60) // 3,
        sound_groups=np.concatenate([np.arange(40) // 2, np.full(40, 20)]),
        own={i: [2 * (i // 3), 2 * (i // 3) + 1] for i in range(45)},
    )


def test_one_name_cannot_be_left_out() -> None:
    data = make_data()
    one = replace(
        data,
        pictures=data.pictures[:3],
        sounds=data.sounds[:2],
        picture_groups=np.zeros(3, np.int64),
        sound_groups=np.zeros(2, np.int64),
        own={0: [0, 1]},
    )
    with pytest.raises(BadConfig, match="too few names"):
        cross_validate(one, steps=1)


def test_a_gate_learns_to_leave_noise_out() -> None:
    data = make_data()
    every = np.arange(60)
    gate = fit_gate(data, every, np.arange(80), steps=100)
    pictures = torch.from_numpy(data.pictures)
    with torch.no_grad():
        own = gate(pictures, torch.from_numpy(data.sounds[:40][2 * (every // 3)]))
        noise = gate(pictures, torch.from_numpy(data.sounds[40:][every % 40]))
    assert own.median() > noise.median()
    sounds = np.arange(80)
    learned = measure_gate(data, gate, every, sounds)
    alone = measure_gate(data, keep_weight(START), every, sounds)
    assert learned["pictures R@1"] > alone["pictures R@1"]


# ---------------------------------------------------------------- in a bundle


@pytest.fixture(scope="module")
def weighed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default bundle with a gate that was fitted for three steps on nothing real."""
    place = tmp_path_factory.mktemp("weighed")
    make_features(place / "features.npz")
    bundle, report = add_fusion(BUNDLE, place / "features.npz", place / "bundle", steps=3)
    assert report[0].startswith("weight of the sound") and report[-1].startswith("learned")
    return bundle.folder


def test_a_bundle_with_a_fusion_compares_with_the_one_without(weighed: Path) -> None:
    """It has the same fingerprint and golden vectors; only `any` is another target."""
    before, after = open_bundle(BUNDLE).manifest, open_bundle(weighed).manifest
    assert after.fingerprint == before.fingerprint and after.golden == before.golden
    (old,), (new,) = (m.routes(["text"], "any") for m in (before, after))
    assert isinstance(old.target, Joint) and isinstance(new.target, Joint)
    assert old.target.fusion is None and new.target.fusion is not None
    assert old.target != new.target and after.joint("stems") == new.target
    assert '"fusions"' not in (BUNDLE / "manifest.json").read_text()


def test_the_graph_gives_what_torch_gives(tmp_path: Path) -> None:
    torch.manual_seed(0)
    gate = SoundGate(8)
    torch.nn.init.normal_(gate.down.weight)
    write_fusion(gate, 8, tmp_path)
    fusion = Fusion("fusion.onnx", MOST, tmp_path, "digest")
    for n in (0, 1, 7, 5000):  # more than a page
        v, a = (torch.nn.functional.normalize(torch.randn(n, 8)) for _ in "va")
        with torch.no_grad():
            wanted = gate(v, a).numpy()
        assert np.abs(fusion.weights(v.numpy(), a.numpy()) - wanted).max(initial=0) < 1e-6
    with pytest.raises(BadWeights, match=r"between 0 and 0\.1"):
        replace(fusion, most=0.1).weights(v.numpy(), a.numpy())


@pytest.mark.parametrize(
    ("settings", "weight"), [({"audio_weight": 0.3}, 0.3), ({"learned": True}, 1.0)]
)
def test_a_bundle_weighs_sound_as_its_checkpoint_does(
    tmp_path: Path, settings: dict[str, Any], weight: float
) -> None:
    """A fixed weight and a learned one. Verifying says so where a bundle has another one."""
    config = replace(TrainConfig.load("smoke"), methods={"valor": settings})
    folder = save_untrained(config, tmp_path)
    bundle = export_checkpoint(folder, tmp_path / "bundle")
    joint = bundle.manifest.joint("vlsa")
    assert joint is not None and joint.audio_weight == weight
    assert (joint.fusion is not None) == bool(settings.get("learned"))
    (check,) = check_sound_weights(OnnxEncoder(bundle), folder)
    assert check.good and check.encoding == "any" and "1e-05" in check.seen
    plain = save_untrained(replace(config, methods={}), tmp_path / "plain")
    (check,) = check_sound_weights(OnnxEncoder(bundle), plain)
    assert not check.good
    equal = export_checkpoint(plain, tmp_path / "equal")
    assert equal.manifest.audio_weights == {}
    (check,) = check_sound_weights(OnnxEncoder(equal), plain)
    assert check.good


def test_verify_compares_the_weight_of_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle whose graph was fitted anew no longer has the weights of its checkpoint."""
    config = replace(TrainConfig.load("smoke"), methods={"valor": {"learned": True}})
    folder = save_untrained(config, tmp_path)
    bundle = export_checkpoint(folder, tmp_path / "bundle")
    monkeypatch.setattr("export.verify.RECORDINGS", ())  # which take long
    what = "weight of sound = checkpoint's"
    checks = verify(bundle.folder, "cpu", folder)
    assert next(check for check in checks if check.what == what).good
    dim = config.encoder.dim
    gate = SoundGate(dim)
    torch.nn.init.constant_(gate.down.bias, 1.0)
    write_fusion(gate, dim, bundle.folder)
    (wrong,) = check_sound_weights(OnnxEncoder(open_bundle_anew(bundle.folder)), folder)
    assert not wrong.good


def open_bundle_anew(folder: Path) -> Bundle:
    """A bundle whose fusion was written anew, with the manifest of that."""
    manifest = parse_manifest((folder / "manifest.json").read_bytes())
    files = manifest.files | {"fusion.onnx": digest(folder / "fusion.onnx")}
    write_manifest(folder, replace(manifest, files=files))
    return open_bundle(folder)


def save_untrained(config: TrainConfig, place: Path) -> Path:
    """The folder of a run that has not begun. A gate, if there is one, weighs sounds apart."""
    place.mkdir(exist_ok=True)
    learn_tokenizer(["a red ball bounces", "the sound of rain"], 200, place / "tokenizer.json")
    torch.manual_seed(0)
    model = make_network(config)
    if model.fusion is not None:
        torch.nn.init.normal_(model.fusion.down.weight)  # type: ignore[arg-type,union-attr]
    state = {"step": 1, "config": config.to_json(), "provenance": {"licences": []}, "best": {}}
    optimiser = make_optimiser(model, config)
    checkpoint.save(place / "checkpoint", model, optimiser, state, place / "tokenizer.json")
    return place / "checkpoint"


def test_an_altered_fusion_is_refused(weighed: Path, tmp_path: Path) -> None:
    shutil.copytree(weighed, tmp_path / "b")
    file = tmp_path / "b" / "fusion.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(AlteredFile, match=r"fusion\.onnx"):
        open_bundle(tmp_path / "b")


def test_features_that_are_not_there_or_do_not_fit_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    none = ["--features", str(tmp_path / "none.npz"), "--out", str(tmp_path / "out")]
    assert main(["weigh", str(BUNDLE), *none]) == 1
    assert "bench.real_bed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
