"""Sounds that were written into a pipe: their headers never got the size of the samples."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from media.containers import Budget
from media.repair import find_size_patches
from media.sound import read_waveform

from .makers import make_tone

RATE = 16_000


class Pipe:
    """Takes bytes, and cannot go back."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> int:
        self.data += data
        return len(data)


def write_sound(target: Any, container: str, options: dict[str, str]) -> None:
    codec = "pcm_s16be" if container in ("aiff", "au") else "pcm_s16le"
    tone = np.round(make_tone(2.0, 440.0, RATE) * 32767).astype(np.int16)
    with av.open(target, "w", format=container, options=options) as out:
        stream = out.add_stream(codec, rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("container", "options"),
    [("wav", {}), ("wav", {"rf64": "always"}), ("w64", {}), ("aiff", {}), ("au", {}), ("caf", {})],
)
def test_a_sound_from_a_pipe_is_read_whole(
    tmp_path: Path, container: str, options: dict[str, str]
) -> None:
    pipe = Pipe()
    write_sound(pipe, container, options)
    path = tmp_path / "sound"
    path.write_bytes(pipe.data)
    heard = read_waveform(path, RATE, Budget())
    assert heard is not None and len(heard) == 2 * RATE
    assert np.abs(heard - make_tone(2.0, 440.0, RATE)).max() < 0.01


@pytest.mark.parametrize(
    ("container", "options"), [("wav", {"rf64": "always"}), ("w64", {}), ("aiff", {})]
)
def test_sizes_that_are_told_stay(container: str, options: dict[str, str]) -> None:
    file = io.BytesIO()
    write_sound(file, container, options)
    assert find_size_patches(file, len(file.getvalue())) == []
