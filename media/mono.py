"""Resamples sound with any channels to mono at one rate."""

from __future__ import annotations

import av
import numpy as np
from av.audio.frame import format_dtypes
from numpy.typing import NDArray

from .audio import SILENT_PEAK, silence_invalid_samples
from .containers import describe_fault
from .errors import Damaged

SAMPLES_AT_ONCE = 32_768  # of each channel; fewer, larger calls of FFmpeg are quicker
# normalises the gains of the mix, which FFmpeg does by default for integer samples only
NORMALISED = {"rematrix_maxval": "1"}
# a mix of opposite channels that has less than this share of their power loses them
LOST_SHARE = 0.01
BLOCK = 4096  # samples of which it is asked
DIRECTED = "AMBI"  # how FFmpeg's names of the channels of Ambisonics begin


class Mixer:
    """Sound of any channels to one sample format, layout and rate, by FFmpeg. If FFmpeg cannot mix
    a layout, such as two rear channels alone or more than 64 channels, each channel becomes the
    mean of all, see `average_channels`.
    """

    def __init__(self, format: str, layout: str, rate: int, frame_size: int | None = None) -> None:
        self._form = format, layout, rate, frame_size
        self._resampler = self._new_resampler()
        self._mixes: bool | None = None  # whether FFmpeg does; None before it was tried

    def _new_resampler(self) -> av.AudioResampler:
        return av.AudioResampler(*self._form, options=NORMALISED)

    @property
    def used(self) -> bool:
        return self._mixes is not None

    def __call__(self, frame: av.AudioFrame | None) -> list[av.AudioFrame]:
        """Add a frame, or None at the end. Returns what is ready."""
        if self._mixes is None and frame is not None:
            try:
                ready = self._resampler.resample(frame)
                self._mixes = True
                return ready
            except (av.FFmpegError, ValueError):
                self._resampler = self._new_resampler()
                self._mixes = False
        if frame is None or self._mixes:
            return self._resampler.resample(frame)
        return self._resampler.resample(average_channels(frame))


class MonoResampler:
    """Frames of one format to mono at `sample_rate`.

    Channels are mixed with the gains of `ffmpeg -ac 1`, as far as FFmpeg can (see `Mixer`). Two
    channels that are opposite would cancel out: half of their difference is taken.
    """

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._waiting = av.AudioFifo()
        self._mixer = self._new_mixer()
        # whether blocks of two channels are mixed here, as some of them were opposite
        self._blends = False

    def _new_mixer(self) -> Mixer:
        return Mixer("flt", "mono", self._sample_rate, frame_size=self._sample_rate)

    def __call__(self, frame: av.AudioFrame | None) -> list[NDArray[np.float32]]:
        """Add a frame, or None at the end. Returns what is ready, pieces of float32 [samples].

        Raises:
            Damaged: the sound cannot be resampled.
        """
        try:
            if frame is not None:
                self._waiting.write(frame)
            ready: list[av.AudioFrame] = []
            for piece in self._waiting.read_many(SAMPLES_AT_ONCE, partial=frame is None):
                ready += self._mixed(piece)
            if frame is None:
                ready += self._mixer(None)
            return [silence_invalid_samples(out.to_ndarray()[0]) for out in ready]
        except (av.FFmpegError, ValueError, MemoryError) as error:
            raise Damaged(f"its audio cannot be resampled ({describe_fault(error)})") from error

    def _mixed(self, piece: av.AudioFrame) -> list[av.AudioFrame]:
        if len(piece.layout.channels) != 2:
            return self._mixer(piece)
        channels = channel_samples(piece)
        opposite = are_opposite(channels)
        if not self._blends and not opposite.any():
            return self._mixer(piece)
        ready: list[av.AudioFrame] = []
        if not self._blends and self._mixer.used:
            ready = self._mixer(None)
            self._mixer = self._new_mixer()
        self._blends = True
        return ready + self._mixer(make_mono(piece, blend(channels, opposite)))


def are_opposite(channels: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether two channels [2, samples] cancel out where they are mixed, for each BLOCK of samples.
    Those that are silent don't.

    >>> are_opposite(np.array([[0.5, -0.2], [-0.5, 0.2]], np.float32)).tolist()
    [True]
    """
    left, right = channels
    starts = np.arange(0, len(left), BLOCK)
    with np.errstate(over="ignore", invalid="ignore"):
        power = np.add.reduceat(left * left + right * right, starts)
        # the power of the mean of both; above, twice the mean power of each
        mixed = np.add.reduceat((left + right) ** 2, starts) / 4
        lost = (mixed < LOST_SHARE * power / 2) & (power > 2 * BLOCK * SILENT_PEAK**2)
    return np.asarray(lost, np.bool_)


def blend(channels: NDArray[np.float32], opposite: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The mean of two channels [2, samples], or half their difference in blocks that are opposite.

    >>> blend(np.array([[0.5, -0.2], [-0.5, 0.2]], np.float32), np.array([True])).tolist()
    [0.5, -0.20000000298023224]
    """
    left, right = channels
    sign = np.repeat(np.where(opposite, np.float32(-1), np.float32(1)), BLOCK)[: len(left)]
    return np.asarray((left + sign * right) / 2, np.float32)


def channel_samples(frame: av.AudioFrame) -> NDArray[np.float32]:
    """A frame's samples as floats of [-1, 1], [channels, samples]."""
    if frame.format.is_planar:
        # PyAV may count more planes than there are channels, if those are more than eight
        planes = frame.planes[: len(frame.layout.channels)]
        kind = format_dtypes[frame.format.name]
        samples = np.stack(
            [np.frombuffer(memoryview(plane), kind, frame.samples) for plane in planes]
        )
    else:
        samples = frame.to_ndarray().reshape(frame.samples, -1).T
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / np.float32(128)
    if np.issubdtype(samples.dtype, np.integer):
        return samples.astype(np.float32) / np.float32(2 ** (8 * samples.dtype.itemsize - 1))
    return samples.astype(np.float32, copy=False)


def average_channels(frame: av.AudioFrame) -> av.AudioFrame:
    """A mono frame with the mean of a frame's channels. Of Ambisonics it is the first one, which
    hears every direction alike; the others are differences between directions. The mean of
    channels beside them is added.
    """
    samples = channel_samples(frame)
    directed = [channel.name.startswith(DIRECTED) for channel in frame.layout.channels]
    if not any(directed):
        return make_mono(frame, samples.mean(axis=0, dtype=np.float32))
    mono = samples[directed.index(True)]
    if not all(directed):
        mono = mono + samples[np.logical_not(directed)].mean(axis=0, dtype=np.float32)
    return make_mono(frame, mono)


def make_mono(frame: av.AudioFrame, samples: NDArray[np.float32]) -> av.AudioFrame:
    """A mono frame of `samples` [samples], which were made of `frame`."""
    mono = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
    mono.sample_rate = frame.sample_rate
    return mono
