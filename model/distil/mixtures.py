"""Examples for a learner of sounds: recordings cut, sped up or slowed down, mixed, put into rooms,
filtered, buried in noise and turned up or down at random, a batch at a time and on any device.

A teacher tells what each example sounds like, so that nothing has to be kept the same.

B batch, P pieces of all examples, S samples of a piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..network.sound_classifier import PATCH_SAMPLES, RATE
from .recordings import FULL, Recordings

OTHERS = (0.5, 0.38, 0.12)  # chances that none, one or two recordings are added to the first
OTHERS_DB = (-18.0, 3.0)  # how loud each is beside it
SPED = 0.35  # chance of another speed, from 0.74 to 1.35
REPEATED = 0.25  # chance that a recording of less than half of the piece is repeated
ROOM = 0.3
FILTERED = 0.35
NOISY = 0.4
NOISE_DB = (-45.0, -8.0)
QUIETER = 0.7
QUIETEST_DB = -30.0
CLIPPED = 0.05
AUDIBLE = 0.03  # a cut whose peak is lower is drawn again
DRAWS = 4
PEAK_EVERY = 16  # samples between those that a cut's peak is taken from
LEAD = RATE  # samples before an example in a room, whose echo it begins with
PIECE = LEAD + PATCH_SAMPLES


class Mixtures:
    """Examples from some of the recordings. A set is drawn by the square root of its length, one of
    its recordings evenly. All samples are kept on the device.
    """

    def __init__(
        self, recordings: Recordings, device: str = "cpu", *, held_out: bool = False
    ) -> None:
        self._device = torch.device(device)
        chosen = np.flatnonzero(recordings.held_out == held_out)
        sets = np.array(recordings.sets)[chosen]
        names, counts = np.unique(sets, return_counts=True)
        members = chosen[np.argsort(sets, kind="stable")]
        seconds = recordings.lengths[members].clip(RATE) / RATE
        firsts = np.concatenate(([0], counts[:-1])).cumsum()
        of_sets = np.add.reduceat(seconds, firsts) if len(names) else seconds
        self._chances = self._tensor(np.sqrt(of_sets))
        self._counts = self._tensor(counts)
        self._firsts = self._tensor(firsts)
        self._starts = self._tensor(recordings.starts[members])
        self._lengths = self._tensor(recordings.lengths[members])
        self._samples = torch.from_numpy(np.asarray(recordings.samples)).to(self._device)

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._device)

    def examples(self, count: int, seed: int) -> Tensor:
        """Examples [B, 15600] in -1..1; the same for the same seed and device."""
        random = Random(self._device, seed)
        in_room = random.happens(ROOM, count)
        others = torch.multinomial(
            torch.tensor(OTHERS, device=self._device), count, True, generator=random.generator
        )
        places = torch.arange(len(OTHERS), device=self._device)
        added = places <= others[:, None]  # [B, 3], the first piece always
        loudness = gain(random.uniform(*OTHERS_DB, count, len(OTHERS)))
        loudness[:, 0] = 1.0
        example = added.nonzero()[:, 0]
        pieces = self._pieces(random, in_room[example]) * loudness[added][:, None]
        sound = torch.zeros(count, PIECE, device=self._device).index_add_(0, example, pieces)
        change(sound, in_room, put_in_rooms, random)
        sound = sound[:, LEAD:].contiguous()
        change(sound, random.happens(FILTERED, count), colour, random)
        change(sound, random.happens(NOISY, count), add_noise, random)
        sound = sound / (sound.abs().amax(1, keepdim=True) + 1e-9)
        quieter = gain(random.uniform(QUIETEST_DB, 0.0, count, 1))
        turned = torch.where(random.happens(QUIETER, count)[:, None], quieter, 0.9)
        sound = sound * turned
        clipped = random.happens(CLIPPED, count)[:, None]
        return torch.where(clipped, (sound * 4).clamp(-0.9, 0.9), sound)

    def _pieces(self, random: Random, in_room: Tensor) -> Tensor:
        """Stretches [P, S] of recordings at a loudness (rms) of one. A short recording lies
        anywhere in its piece, or is repeated. What is not in a room begins after the lead.
        """
        count = len(in_room)
        speed = torch.exp(random.uniform(-0.3, 0.3, count))
        speed = torch.where(random.happens(SPED, count), speed, 1.0)
        member = self._draw_members(random, count)
        start = self._starts[member]
        length = self._lengths[member]
        lead = torch.where(in_room, 0, LEAD)
        wanted = ((PIECE - lead) * speed).long() + 2
        repeated = (length < wanted // 2) & random.happens(REPEATED, count)
        pause = 1 + (random.uniform(0.0, 1.0, count) * (length + RATE // 8)).long()
        period = torch.where(repeated, length + pause, PIECE * 4)
        first = torch.where(
            length > wanted,
            self._audible_start(random, start, length - wanted, wanted),
            torch.where(repeated, 0, -place(random, length, wanted)),
        )
        t = torch.arange(PIECE, device=self._device) - lead[:, None]
        at = first[:, None] + t.clamp(min=0) * speed[:, None]  # [P, S]
        at = torch.where(repeated[:, None], at % period[:, None], at)
        below = at.floor()
        share = at - below
        low = self._read(start, length, below.long())
        high = self._read(start, length, below.long() + 1)
        piece = torch.lerp(low, high, share) * (t >= 0)
        heard = (PIECE - lead)[:, None] / PIECE
        return piece / ((piece.square().mean(1, keepdim=True) / heard).sqrt() + 1e-6)

    def _draw_members(self, random: Random, count: int) -> Tensor:
        drawn = torch.multinomial(self._chances, count, True, generator=random.generator)
        within = (random.uniform(0.0, 1.0, count) * self._counts[drawn]).long()
        return self._firsts[drawn] + within.clamp(max=self._counts[drawn] - 1)

    def _audible_start(
        self, random: Random, start: Tensor, latest: Tensor, wanted: Tensor
    ) -> Tensor:
        """Where to cut recordings [P] so that something is heard, where one of four draws does."""
        draws = random.uniform(0.0, 1.0, len(start), DRAWS) * (latest.clamp(min=0) + 1)[:, None]
        draws = draws.long()
        steps = torch.arange(0, PIECE * 4 // 3, PEAK_EVERY, device=self._device)
        steps = torch.minimum(steps[None], wanted[:, None])  # [P, steps]
        inside = (start[:, None] + draws)[..., None] + steps[:, None]
        peaks = self._samples[inside.clamp(max=len(self._samples) - 1)].abs().amax(2)
        heard = peaks > AUDIBLE * FULL
        heard[:, -1] = True  # the last draw counts where none is heard
        return draws.gather(1, heard.int().argmax(1, keepdim=True))[:, 0]

    def _read(self, start: Tensor, length: Tensor, at: Tensor) -> Tensor:
        """Samples at places [P, S] of recordings, zero outside them."""
        inside = (at >= 0) & (at < length[:, None])
        places = start[:, None] + torch.where(inside, at, 0)
        return self._samples[places].float() * inside


class Random:
    """Draws on a device, the same for the same seed."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self.generator = torch.Generator(device).manual_seed(seed)
        self.device = device

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand(*shape, device=self.device, generator=self.generator)
        return low + (high - low) * drawn

    def happens(self, chance: float, *shape: int) -> Tensor:
        return self.uniform(0.0, 1.0, *shape) < chance

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self.device, generator=self.generator)


def gain(decibels: Tensor) -> Tensor:
    """
    >>> gain(torch.tensor([-20.0, 0.0])).tolist()
    [0.10000000149011612, 1.0]
    """
    return torch.as_tensor(10.0) ** (decibels / 20)


def change(
    sound: Tensor, chosen: Tensor, by: Callable[[Tensor, Random], Tensor], random: Random
) -> None:
    """Change those of the sounds [B, samples] that are chosen [B], in place."""
    if chosen.any():  # an FFT of no rows is an error
        sound[chosen] = by(sound[chosen], random)


def rms(sound: Tensor) -> Tensor:
    """Of sounds [B, samples], as [B, 1]."""
    return sound.square().mean(1, keepdim=True).sqrt()


def place(random: Random, length: Tensor, samples: Tensor) -> Tensor:
    """Where sounds begin that are no longer than `samples`, at most a third of each cut off."""
    third = length // 3
    room = samples - length + 2 * third + 1
    drawn = (random.uniform(0.0, 1.0, len(length)) * room.clamp(min=1)).long()
    return drawn - third


def put_in_rooms(sound: Tensor, random: Random) -> Tensor:
    """The sounds [B, samples] with a direct path and noise that dies away within 0.05 to 0.8 s
    (60 dB).
    """
    count, samples = sound.shape
    longest = round(0.8 * RATE)
    length = RATE * torch.exp(random.uniform(math.log(0.05), math.log(0.8), count, 1))
    t = torch.arange(longest, device=sound.device)
    echo = random.normal(count, longest) * torch.exp(-6.9 * t / length) * (t < length)
    direct = random.uniform(0.0, 3.0, count) * echo.square().sum(1).sqrt()
    echo[:, 0] += direct
    size = 1 << (samples + longest - 1).bit_length()
    spectrum = torch.fft.rfft(sound, size) * torch.fft.rfft(echo, size)
    heard: Tensor = torch.fft.irfft(spectrum, size)[:, :samples]
    return heard


def colour(sound: Tensor, random: Random) -> Tensor:
    """The sounds [B, samples] with a slope over their frequencies, and at times without the highest
    or lowest.
    """
    count, samples = sound.shape
    hz = torch.fft.rfftfreq(samples, 1 / RATE, device=sound.device)
    slope_db = random.uniform(-4.0, 4.0, count, 1)  # an octave
    response = gain(slope_db * torch.log2(hz.clamp(min=60) / 1000))
    highest = torch.exp(random.uniform(math.log(2500), math.log(8000), count, 1))
    without_highest = response / (1 + (hz / highest) ** 8)
    response = torch.where(random.happens(0.5, count, 1), without_highest, response)
    lowest = torch.exp(random.uniform(math.log(40), math.log(400), count, 1))
    without_lowest = response / (1 + (lowest / hz.clamp(min=1)) ** 4)
    response = torch.where(random.happens(0.4, count, 1), without_lowest, response)
    coloured: Tensor = torch.fft.irfft(torch.fft.rfft(sound) * response, samples)
    return coloured


def add_noise(sound: Tensor, random: Random) -> Tensor:
    """The sounds [B, samples] and noise beside them whose power falls by 0 to 6 dB an octave."""
    count, samples = sound.shape
    spectrum = torch.fft.rfft(random.normal(count, samples))
    slope = random.uniform(0.0, 1.0, count, 1)
    bins = torch.arange(spectrum.shape[1], device=spectrum.device).clamp(min=20)
    noise = torch.fft.irfft(spectrum / bins**slope, samples)
    loudness = gain(random.uniform(*NOISE_DB, count, 1)) * rms(sound)
    noisy: Tensor = sound + noise / rms(noise) * loudness
    return noisy
