"""Scores and what they mean, by worked-out distributions."""

from __future__ import annotations

import numpy as np
import pytest

from index.calibration import HALF_MEAN, HALF_WIDTH, Calibration, fit_gumbel


def test_the_shortest_half_of_a_gumbel_distribution() -> None:
    """The constants, by trying every interval that holds half of it."""
    below = np.linspace(0.0001, 0.4999, 500_000)
    widths = -np.log(-np.log(below + 0.5)) + np.log(-np.log(below))
    best = widths.argmin()
    within = np.linspace(below[best], below[best] + 0.5, 1_000_001)
    assert widths[best] == pytest.approx(HALF_WIDTH, abs=1e-5)
    assert (-np.log(-np.log(within))).mean() == pytest.approx(HALF_MEAN, abs=1e-5)


def test_matches_do_not_move_what_a_non_match_is() -> None:
    """A third of the queries match something: the mode stays that of the others. The shortest half
    of all holds three quarters of the others, so the scale is less than twice theirs.
    """
    random = np.random.default_rng(0)
    others = random.gumbel(0.2, 0.02, 20_000)
    mode, scale = fit_gumbel(np.concatenate([others, random.normal(0.8, 0.05, 10_000)]))
    assert mode == pytest.approx(0.2, abs=0.01)
    assert 0.02 < scale < 0.04


def test_confidence_is_a_half_at_a_non_match() -> None:
    calibration = Calibration(typical=0.0, non_match=0.2, good=0.3)
    assert calibration.confidence(0.2) == pytest.approx(0.5)
    assert calibration.confidence(0.3) == pytest.approx(0.95)
    # exp(-exp(-x)) with x = ln(1 / ln 2) + 2 (x_0.95 - x_0.5) = 0.3665 + 2 * 2.6037
    assert calibration.confidence(0.4) == pytest.approx(0.99621, abs=1e-5)
    assert calibration.confidence(-1.0) == 0.0
