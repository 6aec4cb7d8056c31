"""Windows told by the others of a recording, and answers against masked ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from media.errors import BadConfig
from media.manifest import Row
from media.modality import AUDIO, VIDEO
from model.methods import masked_answers, masked_windows

from .test_methods import inputs_of, random_unit, unit


def test_stretches_are_even_and_in_their_order() -> None:
    random = np.random.default_rng(0)

    def cut(values: np.ndarray, modality: str) -> list[list[int]]:
        return [
            masked_windows.take_stretch(
                values, random, number=number, of=3, modality=modality
            ).tolist()
            for number in range(3)
        ]

    assert cut(np.arange(6), VIDEO) == [[0, 0, 0, 1, 1, 1], [2, 2, 2, 3, 3, 3], [4, 4, 4, 5, 5, 5]]
    assert cut(np.arange(2), VIDEO) == [[0, 0], [0, 1], [1, 1]]
    assert cut(np.arange(1, 8), AUDIO) == [
        [1, 2, 0, 0, 0, 0, 0],
        [3, 4, 0, 0, 0, 0, 0],
        [5, 6, 7, 0, 0, 0, 0],
    ]


def test_a_hidden_window_is_told_by_the_others_alone() -> None:
    torch.manual_seed(0)
    settings = masked_windows.Settings(width=16, heads=2)
    sequence = masked_windows.WindowSequence(4, settings)
    windows = random_unit(0, 6).float().view(2, 3, 4)
    told = sequence(windows)
    assert told.shape == (2, 3, 4) and torch.allclose(told.norm(dim=-1), torch.ones(2, 3))
    other = windows.clone()
    other[0, 1] = -other[0, 1]
    changed = (sequence(other) - told).abs().amax(2) > 1e-6
    assert changed.tolist() == [[True, False, True], [False] * 3]
    with pytest.raises(BadConfig, match="multiple of heads"):
        masked_windows.rows(masked_windows.Settings(width=30))
    for of in ((), ("video", "video"), ("text",)):
        with pytest.raises(BadConfig, match="video, audio or both"):
            masked_windows.rows(masked_windows.Settings(of=of))


def test_windows_of_the_same_recording_and_group_do_not_count() -> None:
    """Rows 0 and 1 are one group, so their windows have those of row 2 against them, and those of
    row 2 all four. All scores are 0 but the own ones, which are 1.
    """
    windows = torch.eye(6, dtype=torch.float64).view(3, 2, 6)
    found = masked_windows.contrast_windows(windows, windows, torch.tensor([0, 0, 1]), 1.0)
    two, four = (-math.log(math.e / (math.e + others)) for others in (2, 4))
    assert found.item() == pytest.approx((2 * two + four) / 3)


def test_an_answer_is_asked_by_the_recording_and_what_is_left_of_the_caption() -> None:
    """Question 0 lies between the axes of the first two answers, question 1 on the second one."""
    y = unit([1, 0, 0], [0, 1, 0], [0, 0, 1])
    x, m = y, y[[1, 1, 2]]
    names = ("video", "masked_video_caption", "video_caption")
    inputs = inputs_of(dict(zip(names, (x, m, y), strict=True)), {"video": [1, 1, 0]})
    found = masked_answers.answer_term(inputs, *names)
    half = math.exp(math.sqrt(0.5))
    expected = -math.log(half / (2 * half)) - math.log(math.e / (math.e + 1))
    assert found is not None and found.item() == pytest.approx(expected / 2)


def test_words_are_left_out() -> None:
    row = Row(id="0", path=None, captions=(), group="0", metadata={})
    random = np.random.default_rng(0)
    for said, share, left in (("a red ball rolls", 0.5, 2), ("a dog", 0.01, 1), ("a b c", 0.99, 1)):
        found = masked_answers.leave_out_words(row, said, random, share=share)
        assert found is not None and len(found.split()) == left
        assert [word for word in said.split() if word in found.split()] == found.split()
    for said in ("rain", "", None):
        assert masked_answers.leave_out_words(row, said, random, share=0.5) is None
