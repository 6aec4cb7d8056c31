"""The world: honest splits, captions that are true, files that play."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evaluation.retrieval import GroupedCaption, is_relevant
from evaluation.world import (
    MATERIALS,
    WORDS,
    draw_scenes,
    make_captions,
    render,
    render_frames,
    render_sound,
)
from media.containers import Budget
from media.manifest import Row
from media.windows import read_media

from .makers import SPECS


def test_splits_share_no_combination() -> None:
    seen = {
        split: {(s.shape, s.colour, s.material, s.motion) for s in draw_scenes(split, 800)}
        for split in ("train", "validation", "test")
    }
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]


def test_the_same_seed_gives_the_same_world() -> None:
    a, b = draw_scenes("test", 3), draw_scenes("test", 3)
    assert a == b and (render_sound(a[0]) == render_sound(b[0])).all()
    assert (next(render_frames(a[1], 32)) == next(render_frames(b[1], 32))).all()


def test_captions_state_what_is_so() -> None:
    for scene in draw_scenes("train", 60):
        for caption in make_captions(scene):
            assert caption.states and caption.about in (("video",), ("audio",))
            row = Row(id="other", path=None, captions=(), group="other", metadata=scene.attributes)
            assert is_relevant(GroupedCaption(caption.text, caption.states, "g"), row)
            if "colour" in caption.states:
                assert any(word in caption.text for word in WORDS["colour"][scene.colour])
            if caption.about == ("audio",):
                assert not {"shape", "colour"} & set(caption.states)


def test_captions_vary() -> None:
    texts = {c.text for s in draw_scenes("train", 50) for c in make_captions(s)}
    assert len(texts) > 380  # of 400


def test_sound_and_sight_share_their_speed() -> None:
    """A fast bouncing thing hits more often than a slow one: count the peaks of its loudness."""

    def hits(speed: str) -> float:
        found = [
            s
            for s in draw_scenes("train", 3000)
            if (s.motion, s.material, s.speed) == ("bounce", "stone", speed)
        ]
        counts = []
        for scene in found[:4]:
            loud = np.abs(render_sound(scene)).reshape(-1, 400).max(axis=1)
            peaks = (
                (loud[1:-1] > loud[:-2])
                & (loud[1:-1] >= loud[2:])
                & (loud[1:-1] > 0.6 * loud.max())
            )
            counts.append(int(peaks.sum()))
        return float(np.mean(counts))

    assert hits("fast") > 2 * hits("slow") > 0


@pytest.mark.parametrize("material", list(MATERIALS))
def test_every_material_sounds(material: str) -> None:
    for scene in [s for s in draw_scenes("train", 300) if s.material == material][:4]:
        waveform = render_sound(scene)
        assert waveform.shape == (80_000,) and np.isfinite(waveform).all()
        assert 0.3 < np.abs(waveform).max() <= 1.0


def test_files_are_real_media(tmp_path: Path) -> None:
    one, two, three = draw_scenes("test", 3)
    render(tmp_path, [("a.mp4", [one]), ("b.mp4", [two, three]), ("c.ogg", [one])], 48, "test")
    rows = [
        json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text("utf-8").splitlines()
    ]
    assert [row["path"] for row in rows] == ["a.mp4", "b.mp4", "c.ogg"]
    assert rows[0]["metadata"] == one.attributes and len(rows[1]["metadata"]["scenes"]) == 2
    media = {row["path"]: read_media(tmp_path / row["path"], SPECS, Budget()) for row in rows}
    assert {name: set(m.parts) for name, m in media.items()} == {
        "a.mp4": {"video", "audio"},
        "b.mp4": {"video", "audio"},
        "c.ogg": {"audio"},
    }
    assert media["a.mp4"].duration_s == pytest.approx(5.0, abs=0.1)
    assert media["b.mp4"].duration_s == pytest.approx(10.0, abs=0.1)
