"""Files to windows: which frames, which samples, and what is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from media import containers, decode, hardware
from media.audio import AudioSpec, cut_window, silence_invalid_samples
from media.containers import Budget
from media.decode import (
    End,
    FrameRequest,
    PictureTimes,
    read_every_frame,
    read_few_frames,
    read_frames,
    read_picture_times,
    scale_frame,
)
from media.errors import (
    BadMedia,
    BeyondBudget,
    Damaged,
    DecoderFailed,
    MissingModality,
    NotMedia,
    TooLong,
)
from media.hardware import use_hardware
from media.sandbox import Decoders
from media.sound import read_waveform
from media.text import BadText, TextSpec, TextTokens, learn_tokenizer
from media.video import VideoSpec
from media.windows import DecodeOptions, decode_media, plan_windows, read_media

from .makers import (
    BLUE,
    GREEN,
    RED,
    SHARED,
    SPECS,
    in_a_thread_of_its_own,
    make_clip,
    make_tone,
    make_wav,
    needs_shared,
    write_wav,
)

WITH_PREVIEWS = DecodeOptions(specs=SPECS, budget=Budget(), previews=True)


def test_frames_are_uniform_in_the_window(tmp_path: Path) -> None:
    media = read_media(make_clip(tmp_path / "c.mp4", [RED, GREEN], hz=None), SPECS, Budget())
    assert media.windows == [(0.0, 2.0)]
    frames = media.parts["video"].array  # of a 2 s window at 0.25, 0.75, 1.25, 1.75 s
    assert frames.shape == (1, 4, 32, 32, 3) and frames.dtype == np.uint8
    centre = frames[0, :, 16, 16].astype(int)
    assert [int(np.argmax(c)) for c in centre] == [0, 0, 1, 1]
    assert np.abs(centre[0] - RED).max() < 12


def test_both_modalities_share_one_time_grid(tmp_path: Path) -> None:
    media = read_media(
        make_clip(tmp_path / "c.mkv", [RED, GREEN, BLUE, RED, GREEN]), SPECS, Budget()
    )
    assert [w[0] for w in media.windows] == pytest.approx([0, 2, 3], abs=0.15)
    assert media.parts["video"].windows == media.parts["audio"].windows == [0, 1, 2]
    assert media.parts["audio"].array.shape == (3, 16_000)


@given(st.floats(0.05, 500), st.floats(0.5, 20), st.sampled_from([0.0, 0.25, 0.5, 0.9]))
def test_windows_cover_an_item(duration_s: float, window_s: float, overlap: float) -> None:
    windows = plan_windows(duration_s, window_s, overlap)
    assert all(a[0] < b[0] for a, b in pairwise(windows))
    assert windows[0][0] == 0.0
    assert all(0 < end - start <= window_s + 1e-6 for start, end in windows)
    assert all(b[0] <= a[1] + 1e-6 for a, b in pairwise(windows))
    assert duration_s - windows[-1][1] <= 0.1 * window_s + 1e-6


def test_rotation_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "r.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.set_display_rotation(90)
        image = np.full((64, 64, 3), BLUE, np.uint8)
        image[:32] = RED  # the top as stored
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    frames, _, shown = read_frames(
        path,
        FrameRequest(
            times_s=[0.1],
            spec=VideoSpec(frames=1, size=32),
            budget=Budget(),
            preview_times_s={0.1},
        ),
    )
    with av.open(str(path)) as container:
        turned = next(container.decode(video=0)).rotation
    expected = np.rot90(image, k=turned // 90)[::2, ::2]
    assert turned in (90, -90) and np.abs(frames[0].astype(int) - expected).mean() < 12
    assert np.abs(opened_jpeg(shown[0.1])[::2, ::2].astype(int) - expected).mean() < 12


def opened_jpeg(data: bytes) -> NDArray[np.uint8]:
    with av.open(io.BytesIO(data), format="jpeg_pipe") as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def test_previews_show_each_window_and_the_whole_sound(tmp_path: Path) -> None:
    """Four seconds in windows of two: red, then blue; a tone of half of full scale."""
    path = make_clip(tmp_path / "v.mp4", [RED, RED, BLUE, BLUE])
    media = decode_media(path, WITH_PREVIEWS)
    assert sorted(media.pictures) == [0, 1] and len(media.peaks) == pytest.approx(80, abs=3)
    for window, colour in ((0, RED), (1, BLUE)):
        picture = opened_jpeg(media.pictures[window])
        assert picture.shape == (64, 64, 3) and np.abs(picture.astype(int) - colour).max() < 40
    assert np.median(list(media.peaks)) == pytest.approx(127, abs=12)
    bare = read_media(path, SPECS, Budget())
    assert bare.pictures == {} and bare.peaks == b""
    wide = tmp_path / "wide.mp4"
    with av.open(str(wide), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        container.mux(
            stream.encode(
                av.VideoFrame.from_ndarray(np.zeros((720, 1280, 3), np.uint8), format="rgb24")
            )
        )
        container.mux(stream.encode(None))
    assert opened_jpeg(decode_media(wide, WITH_PREVIEWS).pictures[0]).shape == (
        180,
        320,
        3,
    )


def test_cover_art_is_not_video() -> None:
    path = SHARED / "odd" / "g_x_cover.m4a"
    if not path.exists():
        pytest.skip("the shared recordings are not beside this checkout")
    assert set(read_media(path, SPECS, Budget()).parts) == {"audio"}
    with pytest.raises(MissingModality):
        read_media(path, SPECS, Budget(), ("video",))


def test_sound_is_resampled_to_mono(tmp_path: Path) -> None:
    waveform = read_waveform(make_wav(tmp_path / "t.wav", 1.0, 1000.0, 44_100), 8000, Budget())
    assert waveform is not None and abs(len(waveform) - 8000) <= 16
    assert int(np.abs(np.fft.rfft(waveform[:8000])).argmax()) == 1000


def test_a_short_sound_is_padded() -> None:
    spec = AudioSpec(sample_rate=10, samples=20)
    piece = cut_window(np.ones(5, np.float32), 0.0, 2.0, spec)
    assert piece is not None and piece.tolist() == [1.0] * 5 + [0.0] * 15
    assert cut_window(np.ones(5, np.float32), 2.0, 4.0, spec) is None


def test_samples_that_are_no_numbers_become_silence(tmp_path: Path) -> None:
    wild = np.array([np.nan, np.inf, -np.inf, 1e30, 0.25], np.float32)
    assert silence_invalid_samples(wild).tolist() == [0.0, 0.0, 0.0, 0.0, 0.25]
    write_wav(tmp_path / "w.wav", np.tile(wild, 2000), 8000)
    waveform = read_waveform(tmp_path / "w.wav", 8000, Budget())
    assert waveform is not None and np.isfinite(waveform).all() and np.abs(waveform).max() <= 1


def test_a_sound_that_changes_its_rate_all_the_time_is_within_the_budget(tmp_path: Path) -> None:
    """Half a second at 8 kHz, half a second at 11.025 kHz, forty times: twenty seconds."""
    pieces = []
    for rate in (8_000, 11_025):
        with av.open(str(tmp_path / "piece.aac"), "w", format="adts") as piece:
            stream = piece.add_stream("aac", rate=rate, layout="mono")
            frame = av.AudioFrame.from_ndarray(
                make_tone(0.5, 440.0, rate)[None], format="fltp", layout="mono"
            )
            frame.sample_rate = rate
            piece.mux([packet for part in (frame, None) for packet in stream.encode(part)])
        pieces.append((tmp_path / "piece.aac").read_bytes())
    path = tmp_path / "changing.aac"
    path.write_bytes(b"".join(pieces * 20))
    waveform = read_waveform(path, 16_000, Budget())
    assert waveform is not None and 18 < len(waveform) / 16_000 < 30
    with pytest.raises(TooLong):
        read_waveform(path, 16_000, Budget(seconds=5.0))


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (Budget(seconds=2.0), TooLong),
        (Budget(frames=5), BeyondBudget),
        (Budget(samples=1000), BeyondBudget),
        (Budget(frame_pixels=100), BeyondBudget),
        (Budget(streams=1), BeyondBudget),
    ],
)
def test_the_budget_holds(tmp_path: Path, budget: Budget, expected: type[BadMedia]) -> None:
    path = make_clip(tmp_path / "c.mp4", [RED, GREEN, BLUE])
    with pytest.raises(expected) as raised:
        read_media(path, SPECS, budget)
    assert isinstance(raised.value, BeyondBudget) and raised.value.amount > raised.value.limit


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\0" * 5000, b"ffconcat version 1.0\nfile secret.mp4\n"]
)
def test_what_is_not_media_is_refused(tmp_path: Path, content: bytes) -> None:
    make_clip(tmp_path / "secret.mp4", [RED])
    (tmp_path / "x.mp4").write_bytes(content)
    with pytest.raises((NotMedia, Damaged, MissingModality)):
        read_media(tmp_path / "x.mp4", SPECS, Budget())


def test_a_name_is_never_a_protocol(tmp_path: Path) -> None:
    path = make_wav(tmp_path / "concat:a|b.wav")
    assert set(read_media(path, SPECS, Budget()).parts) == {"audio"}


def test_a_decoder_that_hangs_or_dies_costs_one_file(tmp_path: Path) -> None:
    good = make_clip(tmp_path / "good.mp4", [RED])
    long = make_clip(tmp_path / "long.mp4", [RED, GREEN] * 60, fps=30)
    decoders = Decoders(workers=1, max_s=0.03)
    try:
        with pytest.raises(DecoderFailed):
            decoders.finish(decoders.start(long, DecodeOptions(specs=SPECS, budget=Budget())))
    finally:
        decoders.close()
    decoders = Decoders(workers=1, memory_mb=768, max_s=20)
    try:
        assert (
            "video"
            in decoders.finish(
                decoders.start(good, DecodeOptions(specs=SPECS, budget=Budget()))
            ).parts
        )
    finally:
        decoders.close()


def test_tokens_are_padded_and_cut(tmp_path: Path) -> None:
    learn_tokenizer(["a red ball", "a blue box"] * 5, 200, tmp_path / "t.json")
    tokens = TextTokens(tmp_path / "t.json", TextSpec(tokens=6))
    ids = tokens(["red", "A RED ball a red ball a red ball"])
    assert ids.shape == (2, 6) and ids.dtype == np.int64
    assert (ids[0] != 0).sum() == 3 and (ids[1] != 0).all()
    assert (tokens(["Red"]) == tokens(["red"])).all()
    for bad in ("", "  \n"):
        with pytest.raises(BadText):
            tokens([bad])
    tokens(["\ud800 lone surrogate", "emoji 🎬", "\0", "x" * 10**6])


@needs_shared
def test_every_odd_file_is_read_or_refused() -> None:
    """Within the budget, with nothing but BadMedia, and with finite arrays; good ones are read."""
    rows = [
        json.loads(line)
        for line in (SHARED / "odd" / "manifest.jsonl").read_text("utf-8").splitlines()
    ]
    for row in rows:
        try:
            media = read_media(SHARED / row["path"], SPECS, Budget())
        except BadMedia as fault:
            assert str(fault) and row["expect"] not in ("ok (audio)", "ok (video)"), (
                row["path"],
                fault,
            )
        else:
            assert media.parts and row["expect"] not in (
                "must not read other files",
                "must not open sockets",
            ), row["path"]
            for part in media.parts.values():
                assert np.isfinite(part.array).all() and len(part.array) == len(part.windows)


def make_changing(path: Path, codec: str, options: dict[str, str]) -> None:
    """Seven seconds of pictures that change all the time, 24 of them a second."""
    y, x = np.mgrid[0:64, 0:96]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for t in range(24 * 7):
            waves = [
                127 + 100 * np.sin(x / (5 + c) + t / 3) * np.cos(y / (7 - c)) for c in range(3)
            ]
            image = np.stack(waves, axis=-1).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"bf": "3", "g": "40", "crf": "20"}),
        ("libsvtav1", {"g": "40", "preset": "12", "svtav1-params": "lp=1"}),
    ],
)
def test_decoding_less_chooses_the_same_frames(
    tmp_path: Path, codec: str, options: dict[str, str]
) -> None:
    """There are frames between that others refer to, and some that none does."""
    path = tmp_path / "v.mp4"
    in_a_thread_of_its_own(lambda: make_changing(path, codec, options))
    times = [0.0, 0.31, 0.33, 1.0, 2.52, 2.52, 5.9, 6.95, 30.0]
    assert SPECS.video
    shown = {0.31, 2.52, 30.0}
    told = read_picture_times(path, Budget())
    assert told is not None
    request = FrameRequest(times_s=times, spec=SPECS.video, budget=Budget(), preview_times_s=shown)
    end = End(0.0)
    every = list(read_every_frame(path, request, told, end))
    few = list(read_few_frames(path, request, told))
    assert all((a.frame == b.frame).all() for a, b in zip(few, every, strict=True))
    assert [picture.jpeg for picture in few] == [picture.jpeg for picture in every]
    later = list(read_few_frames(path, replace(request, times_s=times[1:]), told))
    assert all((a.frame == b.frame).all() for a, b in zip(later, every[1:], strict=True))
    pictured = [t for t, picture in zip(times, few, strict=True) if picture.jpeg]
    assert pictured == [0.31, 2.52, 2.52, 30.0]
    assert told.end_s == pytest.approx(end.seconds) == pytest.approx(7.0)


@pytest.mark.slow
@needs_shared
def test_decoding_less_chooses_the_same_frames_of_real_and_odd_files() -> None:
    """Every file whose packets tell their times; the others are decoded whole."""
    assert SPECS.video
    compared = 0
    for path in sorted(
        p for p in (*SHARED.glob("videos/*.mp4"), *SHARED.glob("odd/**/*")) if p.is_file()
    ):
        try:
            told = read_picture_times(path, Budget()) or PictureTimes(np.empty(0), 0.0)
            times = [(i + 0.5) * told.end_s / 12 for i in range(12)]
            request = FrameRequest(times_s=times, spec=SPECS.video, budget=Budget())
            few = list(read_few_frames(path, request, told))
        except BadMedia:
            continue
        end = End(0.0)
        every = list(read_every_frame(path, request, told, end))
        alike = all((a.frame == b.frame).all() for a, b in zip(few, every, strict=True))
        assert alike and told.end_s == pytest.approx(end.seconds, abs=1e-3), path.name
        compared += 1
    assert compared > 200


@pytest.fixture
def on_hardware() -> Iterator[Callable[[str], None]]:
    yield use_hardware
    use_hardware("off")


def test_what_hardware_does_not_decode_is_decoded_in_software(
    tmp_path: Path, on_hardware: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """There is no such device here, so opening the file on it fails."""
    path = make_clip(tmp_path / "v.mp4", [RED, GREEN])
    budget, spec = Budget(), VideoSpec(frames=2, size=16)
    request = FrameRequest(times_s=[0.5, 1.5], spec=spec, budget=budget)
    expected, _, _ = read_frames(path, request)
    on_hardware("vaapi")
    found, _, _ = read_frames(path, request)
    assert (found == expected).all()
    [line] = caplog.messages
    assert line.startswith("v.mp4: vaapi does not decode it (")
    assert line.endswith("; in software instead")


def test_hardware_is_asked_for_pictures_and_takes_over_again_in_software_where_it_stops(
    tmp_path: Path,
    on_hardware: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The stand-in decodes in software, and stops at the second frame that is wanted."""
    path = make_clip(tmp_path / "v.mp4", [RED, GREEN])
    request = FrameRequest(
        times_s=[0.2, 0.7, 1.5], spec=VideoSpec(frames=2, size=16), budget=Budget()
    )
    expected, _, _ = read_frames(path, request)
    asked: list[str] = []
    scaled: list[int] = []

    def stand_in(device: str | None) -> None:
        asked.extend([device] if device else [])

    def scale(frame: av.VideoFrame, spec: VideoSpec, aspect: float) -> NDArray[np.uint8]:
        scaled.append(frame.pts or 0)
        if len(scaled) == 2:
            raise Damaged("the device is gone")
        return scale_frame(frame, spec, aspect)

    monkeypatch.setattr(containers, "make_accelerator", stand_in)
    monkeypatch.setattr(decode, "scale_frame", scale)
    monkeypatch.setattr(hardware, "hwdevices_available", lambda: ["qsv", "vaapi", "cuda"])
    on_hardware("auto")
    found, _, _ = read_frames(path, request)
    assert (found == expected).all() and asked == ["cuda"]
    assert len(scaled) == 4 and scaled[1] == scaled[2]  # the first frame is not decoded twice
    assert caplog.messages == [
        "v.mp4: cuda does not decode it (the device is gone); in software instead"
    ]


def test_fewer_picture_times_tell_of_the_same_pictures() -> None:
    starts_s = np.arange(10.0)
    told = PictureTimes(
        np.empty(0), 10.0, np.arange(0, 1000, 100), starts_s, np.isin(starts_s, [0.0, 5.0])
    )
    kept = told.keep([2.5, 7.0, 7.9])
    assert kept.pts.tolist() == [0, 200, 500, 700] and kept.end_s == 10.0
    assert kept.pts[kept.is_key].tolist() == [0, 500]
    for times_s in ([2.5, 7.0, 7.9], [-1.0, 5.0]):
        assert (kept.pts[kept.on_screen(times_s)] == told.pts[told.on_screen(times_s)]).all()
    nothing = PictureTimes(np.array([0.0, 1.0]), 2.0)
    assert nothing.keep([0.5]) is nothing
