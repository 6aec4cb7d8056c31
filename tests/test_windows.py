"""From a file to windows of both modalities: when they lie and what is in them."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from media.audio import AudioSpec
from media.containers import Budget
from media.decode import PictureTimes, read_frames
from media.errors import Damaged, MissingModality
from media.sound import Sound
from media.video import Choice, VideoSpec
from media.windows import (
    DecodeOptions,
    InputSpecs,
    Media,
    decode_media,
    make_audio_part,
    make_peaks,
    plan_windows,
    read_media,
    read_video,
)

from .makers import BLUE, GREEN, RED, SPECS, make_clip, make_tone, make_wav, write_wav

WHITE = (240, 240, 240)
Colour = tuple[int, int, int]


@pytest.mark.parametrize(
    ("duration_s", "window_s", "overlap", "expected"),
    [
        (5.0, 5.0, 0.0, [(0.0, 5.0)]),
        # a tenth of a window at the end is left out, more than that is not
        (10.5, 5.0, 0.0, [(0.0, 5.0), (5.0, 10.0)]),
        (10.75, 5.0, 0.0, [(0.0, 5.0), (5.0, 10.0), (5.75, 10.75)]),
        (5.25, 5.0, 0.0, [(0.0, 5.0)]),
        # the step is 3.75, and 1.25 then remain
        (10.0, 5.0, 0.25, [(0.0, 5.0), (3.75, 8.75), (5.0, 10.0)]),
        # three windows of 0.1, though (0.3 - 0.1) / 0.1 is just below 2 in floating point
        (0.3, 0.1, 0.0, [(0.0, 0.1), (0.1, 0.2), (0.2, 0.2 + 0.1)]),
    ],
)
def test_when_windows_lie(
    duration_s: float, window_s: float, overlap: float, expected: list[tuple[float, float]]
) -> None:
    assert plan_windows(duration_s, window_s, overlap) == expected


def test_windows_of_sound() -> None:
    """Ten samples a second, windows of twenty: loud, silent, half a window, beyond the end."""
    specs = InputSpecs(2.0, None, AudioSpec(sample_rate=10, samples=20))
    loud = np.tile(np.array([0.5, -0.5], np.float32), 10)
    waveform = np.concatenate([loud, np.zeros(20, np.float32), loud[:10]])
    windows = [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0), (6.0, 8.0)]
    part = make_audio_part(waveform, windows, specs)["audio"]
    assert part.windows == [0, 1, 2] and part.empty == {1}
    assert part.array.dtype == np.float32
    assert part.array.tolist() == [
        loud.tolist(),
        [0.0] * 20,
        [*loud[:10].tolist(), *[0.0] * 10],
    ]
    # one that is beyond the sound between two that are not
    part = make_audio_part(waveform, [(9.0, 11.0), (0.0, 2.0)], specs)["audio"]
    assert part.windows == [1] and part.array.tolist() == [loud.tolist()]
    assert make_audio_part(None, windows, specs) == {}
    assert make_audio_part(waveform, windows, replace(specs, audio=None)) == {}


def test_the_shape_of_a_sound_where_it_is_wanted() -> None:
    specs = InputSpecs(2.0, None, AudioSpec(sample_rate=100, samples=200))
    waveform = np.repeat(np.array([0.0, 1.0], np.float32), 5)
    options = DecodeOptions(specs=specs, budget=Budget(), previews=True)
    assert list(make_peaks(waveform, 0.1, options)) == [0, 255]
    assert make_peaks(waveform, 0.1, replace(options, previews=False)) == b""
    assert make_peaks(None, 0.1, options) == b""
    silent = replace(options, specs=replace(specs, audio=None))
    assert make_peaks(waveform, 0.1, silent) == b""


def colours(frames: np.ndarray) -> list[Colour]:  # type: ignore[type-arg]
    """The colour of those known that each of [frames, height, width, 3] shows in its middle."""
    known = (RED, GREEN, BLUE, WHITE)
    middles = frames[:, frames.shape[1] // 2, frames.shape[2] // 2].astype(int)
    return [min(known, key=lambda c: int(np.abs(middle - c).sum())) for middle in middles]


def read_told(
    path: Path, end_s: float, audio_s: float = 0.0, spec: VideoSpec | None = None
) -> tuple[float, list[tuple[float, float]], list[int], list[list[Colour]]]:
    """Duration, windows, those seen and their colours, where packets say that pictures end so."""
    spec = spec or VideoSpec(frames=2, size=32)
    options = DecodeOptions(specs=InputSpecs(2.0, spec, AudioSpec(8000, 16_000)), budget=Budget())
    told = PictureTimes(np.empty(0), end_s)
    sound = Sound(np.zeros(round(8000 * audio_s), np.float32)) if audio_s else None
    duration_s, windows, part, *_ = read_video(
        path, spec, options, sound=sound, told=told, read=read_frames
    )
    return duration_s, windows, part.windows, [colours(rows) for rows in part.array]


def test_frames_are_chosen_again_where_the_packets_are_wrong(tmp_path: Path) -> None:
    """Four seconds: red and green, then blue and white; frames 0.5 and 1.5 s into each window."""
    path = make_clip(tmp_path / "c.mp4", [RED, GREEN, BLUE, WHITE], hz=None)
    both = [(0.0, 2.0), (2.0, 4.0)]
    right = [0, 1], [[RED, GREEN], [BLUE, WHITE]]
    assert read_told(path, 4.0) == (4.0, both, *right)
    assert read_told(path, 2.0) == (4.0, both, *right)
    assert read_told(path, 8.0) == (4.0, both, *right)
    # a difference of up to 0.05 s stays
    assert read_told(path, 4.04) == (4.04, both, *right)
    assert read_told(path, 4.06) == (4.0, both, *right)
    assert read_told(path, 3.96) == (3.96, [(0.0, 2.0), (1.96, 3.96)], *right)
    assert read_told(path, 3.94) == (4.0, both, *right)


def test_windows_after_the_last_picture_are_not_seen(tmp_path: Path) -> None:
    """Two seconds of pictures below six of sound: the second window starts where they end."""
    path = make_clip(tmp_path / "c.mp4", [RED, GREEN], hz=None)
    windows = [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0)]
    assert read_told(path, 2.0, audio_s=6.0) == (6.0, windows, [0], [[RED, GREEN]])
    # sound that is shorter than the pictures changes nothing
    assert read_told(path, 2.0, audio_s=1.0) == (2.0, [(0.0, 2.0)], [0], [[RED, GREEN]])


def test_windows_of_one_colour_are_empty(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "c.mp4", [RED, GREEN, BLUE, BLUE], hz=None)
    spotted = tmp_path / "s.mp4"
    with av.open(str(spotted), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for n in range(32):
            image = np.full((64, 64, 3), BLUE, np.uint8)
            if n < 16:  # in the first window, half of each picture
                image[:, :32] = RED
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    assert read_media(path, SPECS, Budget()).parts["video"].empty == {0, 1}
    assert read_media(spotted, SPECS, Budget()).parts["video"].empty == {1}


def jpeg_colour(data: bytes) -> Colour:
    with av.open(io.BytesIO(data), format="jpeg_pipe") as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    return colours(frame[None])[0]


def test_a_preview_shows_the_frame_after_the_middle(tmp_path: Path) -> None:
    """Four colours in each window: of four frames the third."""
    path = make_clip(
        tmp_path / "c.mp4", [RED, GREEN, BLUE, WHITE, GREEN, BLUE, RED, WHITE], 0.5, hz=440.0
    )
    media = decode_media(path, DecodeOptions(specs=SPECS, budget=Budget(), previews=True))
    assert {i: jpeg_colour(data) for i, data in media.pictures.items()} == {0: BLUE, 1: RED}
    assert len(media.peaks) == round(20 * media.duration_s)
    bare = read_media(path, SPECS, Budget())
    assert (bare.pictures, bare.peaks) == ({}, b"")


def modalities(media: Media) -> dict[str, list[int]]:
    return {name: part.windows for name, part in media.parts.items()}


def test_only_what_is_wanted_is_read(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "c.mkv", [RED, GREEN, BLUE, RED])
    budget = Budget()
    assert modalities(read_media(path, SPECS, budget)) == {"video": [0, 1], "audio": [0, 1]}
    assert modalities(read_media(path, SPECS, budget, ("video",))) == {"video": [0, 1]}
    heard = decode_media(
        path,
        DecodeOptions(specs=SPECS, budget=budget, modalities=("audio",), previews=True),
    )
    assert modalities(heard) == {"audio": [0, 1]} and heard.pictures == {}
    assert len(heard.peaks) == round(20 * heard.duration_s)
    seen_only, heard_only = replace(SPECS, audio=None), replace(SPECS, video=None)
    assert modalities(read_media(path, seen_only, budget)) == {"video": [0, 1]}
    assert modalities(read_media(path, heard_only, budget)) == {"audio": [0, 1]}


def test_windows_overlap_as_asked(tmp_path: Path) -> None:
    overlapping = DecodeOptions(specs=SPECS, budget=Budget(), overlap_share=0.5)
    expected = [(0.0, 2.0), (1.0, 3.0), (2.0, 4.0)]
    seen = make_clip(tmp_path / "c.mp4", [RED, GREEN, BLUE, RED], hz=None)
    heard = make_wav(tmp_path / "t.wav", 4.0)
    for path in (seen, heard):
        assert decode_media(path, overlapping).windows == expected


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    tone = make_wav(tmp_path / "t.wav", 1.0)
    film = make_clip(tmp_path / "c.mp4", [RED], hz=None)
    for path, specs, wanted, missing in (
        (tone, SPECS, ("video",), "video"),
        (film, SPECS, ("audio",), "audio"),
        (film, replace(SPECS, video=None), ("video", "audio"), "audio"),
        (tone, replace(SPECS, audio=None), ("video", "audio"), "video"),
    ):
        with pytest.raises(MissingModality) as raised:
            read_media(path, specs, Budget(), wanted)
        assert raised.value.modality == missing


def with_damaged_sound(path: Path, pictures: bool) -> Path:
    """A second in which every packet of the sound is noise, below red pictures or none."""
    with av.open(str(path), "w") as container:
        heard = container.add_stream("aac", rate=8000, layout="mono")
        if pictures:
            seen = container.add_stream("libx264", rate=8)
            seen.width, seen.height, seen.pix_fmt = 64, 64, "yuv420p"
            for _ in range(8):
                image = np.full((64, 64, 3), RED, np.uint8)
                container.mux(seen.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(seen.encode(None))
        tone = make_tone(1.0, 440.0, 8000)
        frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
        frame.sample_rate = 8000
        for packet in [*heard.encode(frame), *heard.encode(None)]:
            damaged = av.Packet(b"\x55" * packet.size)
            damaged.stream, damaged.time_base = heard, packet.time_base
            damaged.pts, damaged.dts = packet.pts, packet.dts
            container.mux(damaged)
    return path


def test_damaged_sound_leaves_the_pictures(tmp_path: Path) -> None:
    media = read_media(with_damaged_sound(tmp_path / "c.mkv", True), SPECS, Budget())
    assert modalities(media) == {"video": [0]}
    with pytest.raises(Damaged):
        read_media(tmp_path / "c.mkv", SPECS, Budget(), ("audio",))
    with pytest.raises(Damaged):
        read_media(with_damaged_sound(tmp_path / "d.mkv", False), SPECS, Budget())


def test_a_sound_gets_the_windows_of_its_length(tmp_path: Path) -> None:
    """5.5 seconds: two windows, and one that ends with the sound."""
    write_wav(tmp_path / "t.wav", make_tone(5.5, 440.0, 8000), 8000)
    media = read_media(tmp_path / "t.wav", SPECS, Budget())
    assert media.duration_s == 5.5 and media.windows == [(0.0, 2.0), (2.0, 4.0), (3.5, 5.5)]
    assert modalities(media) == {"audio": [0, 1, 2]}


def make_numbered(path: Path, seconds: int, every: int) -> None:
    """A film of four frames a second, frame n in grey 2 n, with a keyframe every so many frames."""
    with av.open(str(path), "w") as container:
        options = {"g": str(every), "sc_threshold": "0", "bf": "2", "crf": "5"}
        stream = container.add_stream("libx264", rate=4, options=options)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for n in range(4 * seconds):
            grey = np.full((32, 32, 3), 2 * n, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("seconds", "every", "shown"),
    [
        # a keyframe every 3 s: some windows have none within 2 s before their middle
        (31, 12, [[3, 6], [24, 24], [36, 48], [63, 66], [84, 84], [96, 108], [108, 108]]),
        # every 8 s
        (31, 32, [[3, 6], [3, 6], [35, 38], [64, 64], [67, 70], [99, 102], [99, 102]]),
        # one only: it stands for windows that begin up to 10 s after it
        (31, 1000, [[3, 6], [3, 6], [3, 6], [65, 75], [85, 95], [105, 115], [109, 119]]),
        # a short film: the frames on screen
        (10, 8, [[5, 15], [25, 35]]),
    ],
)
def test_keyframes_stand_for_windows_of_longer_films(
    tmp_path: Path, seconds: int, every: int, shown: list[list[int]]
) -> None:
    path = tmp_path / "v.mp4"
    make_numbered(path, seconds, every)
    spec = VideoSpec(frames=2, size=32, choice=Choice.KEYFRAMES)
    media = read_media(path, InputSpecs(5.0, spec, None), Budget())
    assert not media.shown_s
    options = DecodeOptions(specs=InputSpecs(5.0, spec, None), budget=Budget(), previews=True)
    shown_s = decode_media(path, options).shown_s
    assert [4 * at_s for at_s in shown_s.values()] == pytest.approx(
        [row[1] for row in shown], abs=1
    )
    frames = media.parts["video"].array
    found = np.round(frames.mean(axis=(2, 3, 4)) / 2).astype(int)
    assert np.abs(found - np.array(shown)).max() <= 1
