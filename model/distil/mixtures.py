"""Examples for a learner of sounds: recordings cut, sped up or slowed down, mixed, put into rooms,
filtered, buried in noise and turned up or down at random.

A teacher tells what each example sounds like, so that nothing has to be kept the same.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ..network.sound_classifier import PATCH_SAMPLES, RATE
from .recordings import Recordings

Sound = NDArray[np.float32]
OTHERS = (0.5, 0.38, 0.12)  # chances that none, one or two recordings are added to the first
OTHERS_DB = (-18.0, 3.0)  # how loud each is beside it
SPED = 0.35  # chance of another speed, from 0.74 to 1.35
ROOM = 0.3
FILTERED = 0.35
NOISY = 0.4
NOISE_DB = (-45.0, -8.0)
QUIETER = 0.7
QUIETEST_DB = -30.0
CLIPPED = 0.05
AUDIBLE = 0.03  # a piece whose peak is lower is drawn again, a few times


class Mixtures:
    """Examples from some of the recordings. A set is drawn by the square root of its length, one of
    its recordings evenly.
    """

    def __init__(self, recordings: Recordings, held_out: bool = False) -> None:
        self._recordings = recordings
        self._members: list[NDArray[np.int64]] = []
        seconds = []
        chosen = np.flatnonzero(recordings.held_out == held_out)
        sets = np.array(recordings.sets)[chosen]
        for name in sorted(set(sets.tolist())):
            members = chosen[sets == name]
            self._members.append(members)
            seconds.append(float(recordings.lengths[members].clip(RATE).sum()) / RATE)
        chances = np.sqrt(seconds)
        self._chances = chances / chances.sum()

    def example(self, seed: int) -> Sound:
        """An example [15600] in -1..1; the same for the same seed."""
        random = np.random.default_rng(seed)
        room = random.random() < ROOM
        samples = PATCH_SAMPLES + (RATE if room else 0)
        sound = self._piece(random, samples)
        for _ in range(random.choice(len(OTHERS), p=OTHERS)):
            sound = sound + self._piece(random, samples) * gain(random.uniform(*OTHERS_DB))
        if room:
            sound = put_in_room(sound, random)[RATE:]
        if random.random() < FILTERED:
            sound = colour(sound, random)
        if random.random() < NOISY:
            loudness = gain(random.uniform(*NOISE_DB)) * rms(sound)
            sound = sound + coloured_noise(random, len(sound)) * loudness
        sound = sound / (np.abs(sound).max() + 1e-9)
        sound = sound * (gain(random.uniform(QUIETEST_DB, 0)) if random.random() < QUIETER else 0.9)
        if random.random() < CLIPPED:
            sound = np.clip(sound * 4, -0.9, 0.9)
        return np.asarray(sound, np.float32)

    def _piece(self, random: Generator, samples: int) -> Sound:
        """Some samples of a recording at a loudness (rms) of one; a short one lies anywhere in
        them, or is repeated.
        """
        speed = float(np.exp(random.uniform(-0.3, 0.3))) if random.random() < SPED else 1.0
        members = self._members[random.choice(len(self._members), p=self._chances)]
        sound = self._recordings.sound(members[random.integers(len(members))])
        wanted = int(samples * speed) + 2
        if len(sound) > wanted:
            piece = audible_cut(sound, wanted, random)
        elif len(sound) < wanted // 2 and random.random() < 0.25:
            pause = np.zeros(random.integers(1, len(sound) + RATE // 8), np.float32)
            piece = np.tile(np.concatenate((sound, pause)), wanted // len(sound) + 1)[:wanted]
        else:
            piece = place(sound, wanted, random)
        if speed != 1.0:
            piece = np.interp(np.arange(samples) * speed, np.arange(len(piece)), piece)
        piece = piece[:samples].astype(np.float32)
        return piece / (rms(piece) + 1e-6)


def gain(decibels: float) -> float:
    """
    >>> gain(-20.0)
    0.1
    """
    return float(10 ** (decibels / 20))


def rms(sound: Sound) -> float:
    return float(np.sqrt(np.square(sound, dtype=np.float64).mean()))


def audible_cut(sound: Sound, samples: int, random: Generator) -> Sound:
    """A stretch of the sound in which something is heard, where four draws find one."""
    for _ in range(4):
        start = random.integers(len(sound) - samples + 1)
        cut = sound[start : start + samples]
        if np.abs(cut).max() > AUDIBLE:
            break
    return cut


def place(sound: Sound, samples: int, random: Generator) -> Sound:
    """A sound that is no longer than `samples` somewhere in them, at most a third of it cut off."""
    third = len(sound) // 3
    start = int(random.integers(-third, samples - len(sound) + third + 1))
    placed = np.zeros(samples, np.float32)
    first, last = max(start, 0), min(start + len(sound), samples)
    placed[first:last] = sound[first - start : last - start]
    return placed


def put_in_room(sound: Sound, random: Generator) -> Sound:
    """The sound with a direct path and noise that dies away within 0.05 to 0.8 s (60 dB)."""
    length = int(RATE * np.exp(random.uniform(np.log(0.05), np.log(0.8))))
    echo = random.standard_normal(length) * np.exp(-6.9 * np.arange(length) / length)
    echo[0] += random.uniform(0, 3) * np.sqrt(np.square(echo).sum())
    size = 1 << (len(sound) + length - 1).bit_length()
    spectrum = np.fft.rfft(sound, size) * np.fft.rfft(echo, size)
    return np.asarray(np.fft.irfft(spectrum, size)[: len(sound)], np.float32)


def colour(sound: Sound, random: Generator) -> Sound:
    """The sound with a slope over its frequencies, and at times without the highest or lowest."""
    hz = np.fft.rfftfreq(len(sound), 1 / RATE)
    slope_db = random.uniform(-4, 4)  # an octave
    response = 10 ** (slope_db / 20 * np.log2(np.maximum(hz, 60) / 1000))
    if random.random() < 0.5:
        response /= 1 + (hz / np.exp(random.uniform(np.log(2500), np.log(8000)))) ** 8
    if random.random() < 0.4:
        lowest = np.exp(random.uniform(np.log(40), np.log(400)))
        response /= 1 + (lowest / np.maximum(hz, 1)) ** 4
    return np.asarray(np.fft.irfft(np.fft.rfft(sound) * response, len(sound)), np.float32)


def coloured_noise(random: Generator, samples: int) -> Sound:
    """Noise at a loudness (rms) of one, whose power falls by 0 to 6 dB an octave."""
    spectrum = np.fft.rfft(random.standard_normal(samples))
    slope = random.uniform(0, 1)
    noise = np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), 20) ** slope, samples)
    return np.asarray(noise / np.sqrt(np.square(noise).mean()), np.float32)
