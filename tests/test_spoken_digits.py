"""Spoken digits: the head by hand, its fit, and the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from export.cells import find_pool, find_ways_around
from export.features import sound_spec
from export.spoken_digits import choose_others, fit_digits, fit_softmax, move, read_digits
from export.stems import halve
from export.to_onnx import trace_graph
from media.errors import BadConfig
from model.class_vectors import SentenceVectors
from model.network.sound_classifier import RATE, SoundClassifier, SoundScores
from model.network.spoken_digits import (
    DigitsHead,
    SoundWithDigitsEncoder,
    read_patches,
    share_patches,
)
from model.network.stems import LinearMap, SoundEncoder

from .makers import SHARED, needs_shared

DETAILS = 112 * 4 * 6


def classifier() -> SoundClassifier:
    torch.manual_seed(0)
    network = SoundClassifier()
    network.classes.weight.data.normal_(std=0.05)
    network.eval()
    network.fold()
    return network


def test_a_kind_counts_from_one_half_on() -> None:
    """Logits of ln 3, ln 9 and 0 against none are chances of 3/4, 9/10 and 1/2, which count 0.5,
    0.8 and 0. A patch that is not heard counts nothing.
    """
    head = DigitsHead(torch.tensor([[1.0, 0.0]]), torch.zeros(2), torch.tensor([[10.0, 0.0]]))
    details = torch.log(torch.tensor([[[3.0], [9.0], [1.0], [9.0]]]))
    shares = share_patches(torch.tensor([[True, True, True, False]]))
    assert torch.allclose(head(details, shares), torch.tensor([[(0.5 + 0.8 + 0) / 3 * 10, 0.0]]))


def test_where_no_patch_is_heard_all_count() -> None:
    assert share_patches(torch.zeros(1, 4, dtype=torch.bool)).tolist() == [[0.25] * 4]


def test_details_are_read_on_the_way_to_the_scores() -> None:
    network = classifier()
    patches = torch.randn(2, 64, 96)
    with torch.no_grad():
        details, logits = read_patches(network, patches)
        assert details.shape == (2, DETAILS)
        assert torch.allclose(logits, network(patches), atol=1e-5)


def test_a_head_that_is_sure_of_nothing_changes_nothing() -> None:
    scores = SoundScores(classifier())
    events = LinearMap(torch.randn(521, 384), torch.zeros(384))
    head = DigitsHead(torch.zeros(DETAILS, 3), torch.zeros(3), torch.randn(2, 384))
    waveform = 0.1 * torch.randn(2, 5 * RATE)
    with torch.no_grad():
        expected = SoundEncoder(scores, events)(waveform)
        found = SoundWithDigitsEncoder(scores, events, head)(waveform)
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_graph_gives_what_the_network_gives_alone_and_in_a_batch() -> None:
    events = LinearMap(torch.randn(521, 384), torch.zeros(384))
    head = DigitsHead(0.1 * torch.randn(DETAILS, 3), torch.zeros(3), torch.randn(2, 384))
    encoder = SoundWithDigitsEncoder(SoundScores(classifier()), events, head).eval()
    proto = trace_graph(encoder, "audio", sound_spec())
    halve(proto)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    waveform = 0.1 * torch.randn(2, 5 * RATE)
    waveform[1, RATE:] = 0.0
    with torch.no_grad():
        expected = encoder(waveform).numpy()
    (together,) = session.run(None, {"waveform": waveform.numpy()})
    (alone,) = session.run(None, {"waveform": waveform[1:].numpy()})
    assert (together * expected).sum(1).min() > 0.999
    assert np.allclose(together[1], alone[0], atol=1e-5)


def test_a_softmax_is_fitted_to_details_as_they_are() -> None:
    """Three clusters, far from zero and of another spread in each dimension."""
    random = np.random.default_rng(0)
    centres = np.array([[10, 0.0], [10, 0.4], [30, 0.2]])
    labels = np.repeat([0, 1, 2], 50)
    details = (centres[labels] + random.normal(size=(150, 2)) * [2, 0.02]).astype(np.float32)
    weight, bias = fit_softmax(details, labels, 3)
    assert ((details @ weight + bias).argmax(1) == labels).all()


def test_half_of_the_sounds_begin_later() -> None:
    window = np.ones(5 * RATE, np.float32)
    leads = [int(np.argmax(move(window, f"{i}.wav"))) for i in range(100)]
    assert 30 < sum(lead == 0 for lead in leads) < 70
    assert max(leads) < 0.48 * RATE
    assert leads == [int(np.argmax(move(window, f"{i}.wav"))) for i in range(100)]


def test_the_others_are_the_same_in_any_order() -> None:
    rows = [{"id": str(i)} for i in range(2000)]
    chosen = choose_others(rows)
    assert len(chosen) == 1200
    assert choose_others([*reversed(rows), *rows]) == chosen


def test_what_goes_around_the_mean_is_found() -> None:
    """Cells are cut at the mean of the last map; the details of the digits are read before it."""
    scores = SoundScores(classifier())
    events = LinearMap(torch.randn(521, 384), torch.zeros(384))
    head = DigitsHead(torch.randn(DETAILS, 3), torch.zeros(3), torch.randn(2, 384))
    plain = trace_graph(SoundEncoder(scores, events), "audio", sound_spec())
    assert find_ways_around(plain, find_pool(plain)) == []
    taught = trace_graph(SoundWithDigitsEncoder(scores, events, head), "audio", sound_spec())
    (way,) = find_ways_around(taught, find_pool(taught))
    used = [node.op_type for node in taught.graph.node if way in node.input]
    assert "Conv" in used and "Reshape" in used


@needs_shared
def test_only_open_rows_of_the_training_parts_are_learned_from() -> None:
    rows = read_digits(SHARED / "sounds")
    assert len(rows) == 2700
    assert len({row["group"] for row in rows}) == 10
    assert not any(int(row["id"].rpartition("_")[2]) < 5 for row in rows)
    assert {row["licence"] for row in rows} == {"CC BY-SA 4.0"}
    assert all(row["source"].startswith("Jakobovski/") for row in rows)


@needs_shared
def test_digits_need_the_patches_of_a_run(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="not a run of `distil`"):
        fit_digits(
            SHARED / "sounds",
            [],
            SHARED / "teachers" / "yamnet.tflite",
            cache=tmp_path,
            sentences=SentenceVectors(),
            mean=np.zeros(384, np.float32),
        )
