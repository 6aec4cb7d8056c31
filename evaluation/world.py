"""A procedural world of moving, sounding things, rendered to real MP4 and Ogg files with captions.

What is seen and what is heard share their causes: the material has a look and a timbre, the motion
a path and a way of exciting the material, speed is motion and rhythm, size is size and pitch, the
place has a look and an ambience. A caption mentions some of it, in varying words. `states` says
which attributes a caption commits to; a clip is relevant to a caption when it agrees with all of
them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from media.manifest import Caption
from media.modality import AUDIO, VIDEO
from media.progress import show_progress

Floats = NDArray[np.floating[Any]]

CLIP_S, FPS, RATE, PIXELS = 5.0, 8, 16_000, 96
SHUTTER = (0.0, 0.35)  # when a frame is exposed, in parts of its duration: fast things blur

COLOURS = {
    "red": (0.86, 0.14, 0.13),
    "orange": (0.96, 0.53, 0.08),
    "yellow": (0.97, 0.88, 0.20),
    "green": (0.16, 0.65, 0.23),
    "cyan": (0.18, 0.80, 0.83),
    "blue": (0.15, 0.28, 0.86),
    "purple": (0.52, 0.19, 0.70),
    "white": (0.95, 0.95, 0.95),
}


@dataclass(frozen=True)
class Material:
    """How a thing rings: partials relative to its pitch, their decay, and how much noise an impact
    holds.
    """

    pitch_hz: float
    partials: tuple[float, ...]
    decay_s: float
    noise: float
    glide: float = 0.0  # how far the pitch rises during a hit


MATERIALS = {
    "wood": Material(340, (1, 2.57, 4.21), 0.045, 0.25),
    "metal": Material(520, (1, 2.76, 5.40, 8.93), 0.60, 0.05),
    "glass": Material(1500, (1, 2.32, 4.25), 0.22, 0.03),
    "rubber": Material(120, (1, 1.99), 0.09, 0.05, -0.35),
    "stone": Material(900, (1, 1.61, 2.30), 0.015, 0.9),
    "water": Material(480, (1, 1.5), 0.12, 0.02, 1.2),
}

SHAPES = ("ball", "box", "triangle", "star", "ring", "cross", "crescent", "bar")
MOTIONS = ("bounce", "swing", "spin", "roll", "shake", "glide", "circle", "pulse")
SPEEDS_HZ = {"slow": 0.55, "steady": 1.1, "fast": 2.3}
SIZES = {"small": 0.22, "medium": 0.32, "large": 0.44}
PITCHES = {"small": 1.9, "medium": 1.0, "large": 0.52}
PLACES = ("rain", "wind", "night", "workshop", "room")


@dataclass(frozen=True)
class Scene:
    """One thing doing one thing in one place."""

    shape: str
    colour: str
    material: str
    motion: str
    speed: str
    size: str
    place: str
    seed: int = 0

    @property
    def attributes(self) -> dict[str, str]:
        return {k: v for k, v in asdict(self).items() if k != "seed"}


def assign_split(shape: str, colour: str, material: str, motion: str) -> str:
    """train, validation or test: a thing and its motion belong to one split only, by a hash of the
    combination.
    """
    digest = hashlib.sha256(f"{shape}/{colour}/{material}/{motion}".encode()).digest()
    return "test" if digest[0] < 32 else "validation" if digest[0] < 48 else "train"


def draw_scenes(split: str, count: int, seed: int = 0) -> list[Scene]:
    """`count` scenes of a split, drawn evenly."""
    random = np.random.default_rng([seed, {"train": 0, "validation": 1, "test": 2}[split]])
    found: list[Scene] = []
    while len(found) < count:
        shape, colour = str(random.choice(SHAPES)), str(random.choice(list(COLOURS)))
        material, motion = str(random.choice(list(MATERIALS))), str(random.choice(MOTIONS))
        if assign_split(shape, colour, material, motion) != split:
            continue
        speed, size = str(random.choice(list(SPEEDS_HZ))), str(random.choice(list(SIZES)))
        place = str(random.choice(PLACES))
        found.append(
            Scene(shape, colour, material, motion, speed, size, place, int(random.integers(2**31)))
        )
    return found


# ---------------------------------------------------------------- sight


@dataclass(frozen=True)
class Pose:
    x: float
    y: float
    angle: float
    scale: float


@dataclass(frozen=True)
class Course:
    """The numbers of one scene that are drawn by chance."""

    rate_hz: float
    phase: float
    x: float
    y: float
    reach: float


def draw_course(scene: Scene) -> Course:
    random = np.random.default_rng([scene.seed, 1])
    return Course(
        rate_hz=SPEEDS_HZ[scene.speed] * float(random.uniform(0.88, 1.14)),
        phase=float(random.uniform(0, 1)),
        x=float(random.uniform(-0.35, 0.35)),
        y=float(random.uniform(-0.25, 0.25)),
        reach=float(random.uniform(0.8, 1.1)),
    )


def pose(motion: str, c: Course, t: float) -> Pose:
    """Where the thing is at `t` seconds; x to the right, y down, both in [-1, 1]."""
    turn = c.rate_hz * t + c.phase
    wave = float(np.sin(2 * np.pi * turn))
    half = float(np.sin(np.pi * turn))
    match motion:
        case "bounce":
            return Pose(c.x, 0.55 - 1.0 * c.reach * abs(half), 0.0, 1.0)
        case "swing":
            lean = 0.85 * c.reach * half
            return Pose(1.15 * float(np.sin(lean)), -0.95 + 1.25 * float(np.cos(lean)), -lean, 1.0)
        case "spin":
            return Pose(c.x, c.y, 2 * np.pi * turn, 1.0)
        case "roll":
            across = 0.75 * float(np.sin(np.pi * turn))
            return Pose(across, 0.58, across * 5.0, 1.0)
        case "shake":
            burst = 0.13 if (turn % 1.0) < 0.5 else 0.0
            return Pose(
                c.x + burst * float(np.sin(57 * t)),
                c.y + burst * float(np.cos(71 * t)),
                0.3 * wave,
                1.0,
            )
        case "glide":
            return Pose(0.75 * half, c.y - 0.3, 0.25, 1.0)
        case "circle":
            return Pose(0.52 * float(np.cos(np.pi * turn)), 0.52 * half, 0.0, 1.0)
        case "pulse":
            return Pose(c.x, c.y, 0.0, 1.0 + 0.45 * wave)
    raise ValueError(motion)


def distance(shape: str, u: Floats, v: Floats) -> Floats:
    """Signed distance (about) to the unit shape's outline, negative inside."""
    r = np.hypot(u, v)
    away: Any
    match shape:
        case "ball":
            away = r - 0.95
        case "box":
            away = np.maximum(abs(u), abs(v)) - 0.82
        case "triangle":
            away = np.maximum(abs(u) * 0.87 - v * 0.5 - 0.5, v - 0.75)
        case "star":
            angle = np.arctan2(u, -v)
            away = r - (0.70 + 0.34 * np.cos(5 * angle))
        case "ring":
            away = abs(r - 0.72) - 0.24
        case "cross":
            away = np.minimum(
                np.maximum(abs(u) - 0.30, abs(v) - 0.95), np.maximum(abs(v) - 0.30, abs(u) - 0.95)
            )
        case "crescent":
            away = np.maximum(r - 0.95, 0.75 - np.hypot(u - 0.48, v))
        case "bar":
            away = np.maximum(abs(u) - 1.15, abs(v) - 0.32)
        case _:
            raise ValueError(shape)
    return np.asarray(away, np.float32)


def surface(scene: Scene, u: Floats, v: Floats, depth: Floats, t: float) -> tuple[Floats, Floats]:
    """Colour [h, w, 3] and opacity [h, w] of a thing's own coordinates; `depth` is the distance
    inside the outline.
    """
    base = np.array(COLOURS[scene.colour], np.float32)
    light: Any = np.ones_like(u)
    opacity, gloss = light, np.zeros_like(u)
    match scene.material:
        case "wood":
            light = 0.80 + 0.24 * np.sin(13 * v + 2.2 * np.sin(3 * u))
        case "metal":
            light = 0.62 + 0.38 * np.sin(2.6 * (u - v) + 0.6)
            gloss = np.exp(-(((u + v + 0.35) * 3.2) ** 2)) * 0.9
        case "glass":
            opacity = np.where(depth < 0.16, 0.95, 0.38)
            gloss = (
                np.where(depth < 0.12, 0.75, 0.0)
                + np.exp(-(((u + 0.4) ** 2 + (v + 0.4) ** 2) * 18)) * 0.8
            )
        case "rubber":
            light = np.where(depth < 0.20, 0.30, 0.92)
        case "stone":
            speckle = np.sin(np.floor(u * 5.5) * 127.1 + np.floor(v * 5.5) * 311.7) * 43758.5
            light = 0.55 + 0.6 * (speckle - np.floor(speckle))
        case "water":
            opacity = np.full_like(u, 0.72)
            gloss = 0.55 * np.clip(np.sin(7 * u + 5 * np.sin(4 * v + 5 * t)), 0, 1)
    colour = base * light[..., None]
    return np.clip(colour + gloss[..., None] * (1 - colour), 0, 1).astype(
        np.float32
    ), opacity.astype(np.float32)


def backdrop(scene: Scene, x: Floats, y: Floats, random: np.random.Generator) -> Floats:
    """The still part of the place, [h, w, 3], with three things that are not the subject."""
    canvas = np.empty((*x.shape, 3), np.float32)
    match scene.place:
        case "rain":
            canvas[:] = (0.34, 0.39, 0.46)
        case "wind":
            canvas[:] = (0.62, 0.74, 0.84)
            canvas[y > 0.45] = (0.50, 0.62, 0.38)
        case "night":
            canvas[:] = (0.06, 0.06, 0.13)
            for sx, sy in random.uniform(-1, 1, (26, 2)):
                canvas += 0.8 * np.exp(-((x - sx) ** 2 + (y - sy) ** 2) * 2500)[..., None]
        case "workshop":
            canvas[:] = (0.46, 0.42, 0.38)
            canvas -= 0.15 * ((np.mod(x * 3.2, 1) < 0.09) | (np.mod(y * 3.2, 1) < 0.09))[..., None]
        case "room":
            canvas[:] = (0.80, 0.76, 0.70)
            canvas[y > 0.72] = (0.60, 0.52, 0.45)
    for _ in range(3):
        cx, cy, size = random.uniform(-1, 1), random.uniform(-1, 1), random.uniform(0.06, 0.15)
        grey = random.uniform(0.25, 0.7)
        away = distance(str(random.choice(SHAPES)), (x - cx) / size, (y - cy) / size)
        canvas = np.where((away < 0)[..., None], canvas * 0.45 + grey * 0.55, canvas)
    return (canvas + random.uniform(-0.06, 0.06, 3)).astype(np.float32)


def weather(scene: Scene, x: Floats, y: Floats, t: float) -> Floats:
    """What moves in the place itself, as light added to the picture, [h, w, 1]."""
    added: Any = np.zeros((1, 1, 1))
    match scene.place:
        case "rain":
            added = (
                0.28 * (np.sin(41 * x + 9 * y) + np.sin(23 * y + 6 * x - 30 * t) > 1.45)[..., None]
            )
        case "wind":
            blades = np.sin(30 * x + 6 * np.sin(2.2 * t) * (y - 0.2)) > 0.55
            added = -0.16 * (blades & (y > 0.2))[..., None]
    return np.asarray(added, np.float32)


def string(p: Pose, x: Floats, y: Floats) -> NDArray[np.bool_]:
    """Where the string of a swinging thing is, from its pivot at (0, -0.95)."""
    dx, dy = p.x, p.y + 0.95
    along = np.clip((x * dx + (y + 0.95) * dy) / max(dx**2 + dy**2, 1e-6), 0, 1)
    return np.hypot(x - along * dx, y + 0.95 - along * dy) < 0.025


def draw_thing(scene: Scene, p: Pose, t: float, canvas: Floats) -> Floats:
    """The canvas [h, w, 3] with the thing on it; only the square around the thing is computed."""
    pixels = len(canvas)
    size = SIZES[scene.size] * p.scale
    low_x, high_x, low_y, high_y = (
        int(np.clip((centre + side * 1.3 * size + 1) / 2 * pixels + side, 0, pixels))
        for centre in (p.x, p.y)
        for side in (-1, 1)
    )
    if low_x >= high_x or low_y >= high_y:
        return canvas
    axis = np.linspace(-1, 1, pixels, dtype=np.float32)
    dx = ((axis[low_x:high_x] - p.x) / size)[None, :]
    dy = ((axis[low_y:high_y] - p.y) / size)[:, None]
    u = (np.cos(p.angle) * dx + np.sin(p.angle) * dy).astype(np.float32)
    v = (-np.sin(p.angle) * dx + np.cos(p.angle) * dy).astype(np.float32)
    away = distance(scene.shape, u, v)
    colour, opacity = surface(scene, u, v, -away, t)
    cover = (np.clip(0.5 - away * size * pixels / 2, 0, 1) * opacity)[..., None]
    drawn = canvas.copy()
    drawn[low_y:high_y, low_x:high_x] += cover * (colour - canvas[low_y:high_y, low_x:high_x])
    return drawn


def render_frames(scene: Scene, pixels: int) -> Iterator[NDArray[np.uint8]]:
    """The clip's frames, uint8 [pixels, pixels, 3], each exposed over the shutter's time."""
    c = draw_course(scene)
    axis = np.linspace(-1, 1, pixels, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    still = backdrop(scene, x, y, np.random.default_rng([scene.seed, 2]))
    noise = np.random.default_rng([scene.seed, 3])
    for i in range(round(CLIP_S * FPS)):
        t = i / FPS
        canvas = np.clip(still + weather(scene, x, y, t), 0, 1).astype(np.float32)
        if scene.motion == "swing":
            canvas[string(pose("swing", c, t), x, y)] = 0.15
        exposed = sum(
            draw_thing(scene, pose(scene.motion, c, t + part / FPS), t, canvas) for part in SHUTTER
        )
        grain = noise.integers(-7, 8, (pixels, pixels, 1), dtype=np.int16)
        yield np.clip(exposed * (255 / len(SHUTTER)) + grain, 0, 255).astype(np.uint8)


# ---------------------------------------------------------------- sound


def render_hit(material: Material, pitch_hz: float, random: np.random.Generator) -> Floats:
    """One impact: decaying partials and a burst of noise."""
    t = np.arange(round(min(6 * material.decay_s, 1.6) * RATE)) / RATE
    bend = t + material.glide * t**2 / (2 * material.decay_s * 4)
    sound = np.zeros_like(t)
    for i, partial_ in enumerate(material.partials):
        frequency = pitch_hz * partial_ * random.uniform(0.985, 1.015)
        if frequency < RATE * 0.47:
            sound += (
                np.sin(2 * np.pi * frequency * bend)
                * np.exp(-t * (1 + 0.5 * i) / material.decay_s)
                / (1 + 0.6 * i)
            )
    sound += material.noise * random.normal(size=len(t)) * np.exp(-t / 0.008)
    return np.asarray(sound * (1 - np.exp(-t / 0.0006)), np.float32)


def place_hits(times_s: Floats, hits: list[Floats], samples: int) -> Floats:
    out = np.zeros(samples, np.float32)
    for i, at in enumerate(times_s):
        sound = hits[i % len(hits)]
        start = round(at * RATE)
        if 0 <= start < samples:
            out[start : start + len(sound)] += sound[: samples - start]
    return out


def apply_friction(sound: Floats, samples: int, random: np.random.Generator) -> Floats:
    """The material under constant friction: noise through the response of a hit."""
    noise = random.normal(size=samples + len(sound))
    size = len(noise) + len(sound)
    out = np.fft.irfft(np.fft.rfft(noise, size) * np.fft.rfft(sound, size), size)
    return normalise_loudness(out[len(sound) : len(sound) + samples].astype(np.float32))


def normalise_loudness(sound: Floats) -> Floats:
    return np.asarray(sound / (np.sqrt(np.mean(sound**2)) + 1e-6), np.float32)


def render_voice(scene: Scene, c: Course, samples: int, random: np.random.Generator) -> Floats:
    """What the thing sounds like as it moves."""
    material = MATERIALS[scene.material]
    pitch = material.pitch_hz * PITCHES[scene.size] * float(random.uniform(0.93, 1.07))
    sound = render_hit(material, pitch, random)
    t = np.arange(samples) / RATE
    turn = c.rate_hz * t + c.phase
    whole = (np.arange(0, 40) - c.phase) / c.rate_hz  # the times at which `turn` is a whole number
    match scene.motion:
        case "bounce":
            return place_hits(whole, [sound], samples)
        case "swing":
            return place_hits(
                whole + 0.5 / c.rate_hz,
                [sound, render_hit(material, pitch * 0.70, random)],
                samples,
            )
        case "shake":
            rattle = (whole[:, None] + np.arange(0, 0.5 / c.rate_hz, 1 / 19)).ravel()
            return place_hits(rattle + random.uniform(-0.008, 0.008, len(rattle)), [sound], samples)
        case "roll":
            low = apply_friction(render_hit(MATERIALS["stone"], 90, random), samples, random)
            return (
                apply_friction(sound, samples, random) * (0.8 + 0.2 * np.sin(2 * np.pi * turn))
                + 0.35 * low
            )
        case "spin":
            return apply_friction(sound, samples, random) * np.mod(6 * turn, 1.0).astype(np.float32)
        case "glide":
            return (
                apply_friction(sound, samples, random)
                * np.sin(np.pi * (turn + 0.5)).astype(np.float32) ** 4
            )
        case "circle":
            warped = t + 0.16 * np.sin(2 * np.pi * turn) / (2 * np.pi * c.rate_hz)
            return np.interp(warped, t, apply_friction(sound, samples, random)).astype(np.float32)
        case "pulse":
            return (
                apply_friction(sound, samples, random)
                * (0.5 + 0.5 * np.sin(2 * np.pi * turn)).astype(np.float32) ** 1.5
            )
    raise ValueError(scene.motion)


def render_ambience(place: str, samples: int, random: np.random.Generator) -> Floats:
    t = np.arange(samples) / RATE
    noise = random.normal(size=samples)
    spectrum, hz = np.fft.rfft(noise), np.fft.rfftfreq(samples, 1 / RATE)
    match place:
        case "rain":
            hiss = np.fft.irfft(spectrum * (hz > 1800) * (hz / 4000) ** 0.5, samples)
            drops = (random.uniform(size=samples) < 0.004) * random.exponential(1.0, samples)
            return normalise_loudness(
                (normalise_loudness(hiss.astype(np.float32)) + 6 * drops).astype(np.float32)
            )
        case "wind":
            gust = 0.55 + 0.45 * np.sin(2 * np.pi * (0.3 * t + random.uniform()))
            return normalise_loudness(
                (np.fft.irfft(spectrum * np.exp(-hz / 260), samples) * gust).astype(np.float32)
            )
        case "night":
            chirp = (np.mod(t * random.uniform(1.8, 2.3) + random.uniform(), 1) < 0.4) & (
                np.mod(t * 31, 1) < 0.5
            )
            return normalise_loudness(
                (np.sin(2 * np.pi * random.uniform(4200, 4700) * t) * chirp).astype(np.float32)
            )
        case "workshop":
            hum = sum(
                np.sin(2 * np.pi * 100 * k * t + random.uniform(0, 6)) / k for k in (1, 2, 3, 5, 7)
            )
            return normalise_loudness(np.asarray(hum, np.float32))
        case "room":
            return normalise_loudness(
                np.fft.irfft(spectrum * np.exp(-hz / 3000), samples).astype(np.float32)
            ) * np.float32(0.03)
    raise ValueError(place)


def render_sound(scene: Scene) -> Floats:
    """The clip's sound, float32 [CLIP_S * RATE] within [-1, 1]."""
    samples = round(CLIP_S * RATE)
    random = np.random.default_rng([scene.seed, 4])
    own = normalise_loudness(render_voice(scene, draw_course(scene), samples, random))
    mixed = own + float(random.uniform(0.18, 0.45)) * render_ambience(scene.place, samples, random)
    mixed = mixed / (np.abs(mixed).max() + 1e-6) * float(random.uniform(0.35, 0.9))
    return np.asarray(mixed, np.float32)


# ---------------------------------------------------------------- words

WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "shape": {
        "ball": ("ball", "disc", "circle"),
        "box": ("box", "square", "block"),
        "triangle": ("triangle", "wedge"),
        "star": ("star", "starfish shape"),
        "ring": ("ring", "hoop"),
        "cross": ("cross", "plus sign"),
        "crescent": ("crescent", "half moon"),
        "bar": ("bar", "stick", "beam"),
    },
    "colour": {c: (c,) for c in COLOURS}
    | {"red": ("red", "scarlet"), "cyan": ("cyan", "turquoise"), "purple": ("purple", "violet")},
    "material": {
        "wood": ("wooden", "wood"),
        "metal": ("metal", "metallic", "steel"),
        "glass": ("glass", "glassy"),
        "rubber": ("rubber", "rubbery"),
        "stone": ("stone", "rocky"),
        "water": ("water", "liquid", "watery"),
    },
    "size": {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")},
    "speed": {
        "slow": ("slowly", "at a slow pace", "unhurriedly"),
        "fast": ("quickly", "fast", "rapidly"),
    },
    "place": {
        "rain": ("in the rain", "while it rains", "on a rainy day"),
        "wind": ("in a windy field", "outdoors in the wind", "on a windy day"),
        "night": ("at night", "under the stars", "in the dark"),
        "workshop": ("in a workshop", "by a tiled wall", "in a factory"),
        "room": ("in an empty room", "indoors", "in a quiet room"),
    },
    "motion": {
        "bounce": ("bouncing", "bouncing up and down", "hopping"),
        "swing": ("swinging", "swinging on a string", "swaying like a pendulum"),
        "spin": ("spinning", "turning in place", "rotating"),
        "roll": ("rolling", "rolling on the floor", "rolling back and forth"),
        "shake": ("shaking", "trembling in bursts", "rattling"),
        "glide": ("gliding", "floating from side to side", "drifting across"),
        "circle": ("circling", "moving in circles", "going round and round"),
        "pulse": ("pulsing", "growing and shrinking", "swelling and fading"),
    },
    "pitch": {"small": ("high-pitched", "high", "bright"), "large": ("deep", "low", "low-pitched")},
    "noise": {
        "bounce": ("thuds", "bouncing sounds", "regular knocks"),
        "swing": ("ticking back and forth", "two-tone ticking", "swinging sounds"),
        "spin": ("whirring", "spinning buzzes", "whirling sounds"),
        "roll": ("rumbling", "rolling sounds", "steady rolling"),
        "shake": ("rattling", "bursts of shaking", "shaking noises"),
        "glide": ("swishing", "gliding swooshes", "whooshing"),
        "circle": ("wobbling", "wavering tones", "circling sounds"),
        "pulse": ("throbbing", "pulsing", "swelling and fading"),
    },
    "rhythm": {"slow": ("slow", "unhurried", "leisurely"), "fast": ("quick", "fast", "rapid")},
    "backing": {
        "rain": ("with rain in the background", "while rain falls", "over the sound of rain"),
        "wind": ("with wind blowing", "in the wind", "over gusts of wind"),
        "night": ("with crickets chirping", "among crickets", "at night with insects"),
        "workshop": ("over an electric hum", "beside a humming machine", "with a mains hum"),
        "room": ("in silence", "with nothing else to hear", "in a quiet room"),
    },
}
AUDIO_WORDS = {
    "motion": "noise",
    "size": "pitch",
    "speed": "rhythm",
    "place": "backing",
    "material": "material",
}
LEADS = ("", "", "", "there is ", "a video of ", "we see ", "this shows ")
SOUND_LEADS = ("", "", "", "the sound of ", "we hear ", "a recording of ", "listen to ")


def choose_word(random: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(random.integers(len(words)))]


def choose_attributes(
    scene: Scene, chances: dict[str, float], least: int, random: np.random.Generator
) -> dict[str, str]:
    """Which attributes a caption mentions. Middling sizes and speeds go without saying."""
    values = {
        k: v for k, v in scene.attributes.items() if k in chances and v not in ("medium", "steady")
    }
    while True:
        chosen = {k: v for k, v in values.items() if random.uniform() < chances[k]}
        if len(chosen) >= min(least, len(values)):
            return chosen


def with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def make_video_caption(scene: Scene, random: np.random.Generator) -> Caption:
    chances = {
        "shape": 0.85,
        "colour": 0.85,
        "material": 0.5,
        "motion": 0.8,
        "size": 0.5,
        "speed": 0.4,
        "place": 0.4,
    }
    says = choose_attributes(scene, chances, 3, random)
    word = {k: choose_word(random, WORDS[k][v]) for k, v in says.items()}
    thing = " ".join(w for k in ("size", "colour", "material") if (w := word.get(k)))
    thing = with_article(
        f"{thing} {word.get('shape', choose_word(random, ('thing', 'object', 'shape')))}".strip()
    )
    doing = " ".join(w for k in ("motion", "speed") if (w := word.get(k)))
    if "motion" not in word and "speed" in word:
        doing = f"moving {doing}"
    text = f"{choose_word(random, LEADS)}{thing} {doing}".strip()
    if place := word.get("place"):
        text = f"{text} {place}" if random.uniform() < 0.7 else f"{place}, {text}"
    return Caption(text, (VIDEO,), says)


def make_audio_caption(scene: Scene, random: np.random.Generator) -> Caption:
    chances = {"material": 0.8, "motion": 0.8, "size": 0.5, "speed": 0.5, "place": 0.5}
    says = choose_attributes(scene, chances, 2, random)
    word = {k: choose_word(random, WORDS[AUDIO_WORDS[k]][v]) for k, v in says.items()}
    kind = " ".join(w for k in ("speed", "size", "material") if (w := word.get(k)))
    noise = word.get("motion", choose_word(random, ("noises", "sounds")))
    if random.uniform() < 0.5 and kind:
        text = f"{noise} of something {kind}" if "speed" not in word else f"{noise}, {kind}"
    else:
        text = f"{kind} {noise}".strip()
    text = f"{choose_word(random, SOUND_LEADS)}{text}"
    if place := word.get("place"):
        text = f"{text} {place}" if random.uniform() < 0.8 else f"{place}, {text}"
    return Caption(text, (AUDIO,), says)


def make_captions(scene: Scene, each: int = 4) -> list[Caption]:
    """Several captions about what is seen and as many about what is heard."""
    random = np.random.default_rng([scene.seed, 5])
    seen = [make_video_caption(scene, random) for _ in range(each)]
    return seen + [make_audio_caption(scene, random) for _ in range(each)]


# ---------------------------------------------------------------- files


def write_clip(path: Path, parts: list[Scene], pixels: int) -> None:
    """Scenes one after another as an MP4 file, H.264 and AAC; sound alone, Opus, where the name
    ends in .ogg.
    """
    with av.open(str(path), "w") as container:
        waveform = np.concatenate([render_sound(scene) for scene in parts])
        video = None
        if path.suffix != ".ogg":
            video = container.add_stream(
                "libx264", rate=FPS, options={"preset": "superfast", "crf": "23"}
            )
            video.width = video.height = pixels
            video.pix_fmt = "yuv420p"
            video.codec_context.thread_count = 1
        if path.suffix == ".ogg":
            audio = container.add_stream("libopus", rate=RATE, layout="mono")
        else:
            audio = container.add_stream(
                "aac", rate=RATE, layout="mono", options={"aac_coder": "fast"}
            )
        if video is not None:
            for scene in parts:
                for image in render_frames(scene, pixels):
                    container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(video.encode(None))
        for start in range(0, len(waveform), RATE):
            piece = av.AudioFrame.from_ndarray(
                waveform[None, start : start + RATE], format="fltp", layout="mono"
            )
            piece.sample_rate, piece.pts, piece.time_base = RATE, start, Fraction(1, RATE)
            container.mux(audio.encode(piece))
        container.mux(audio.encode(None))


def write_row(out: Path, pixels: int, job: tuple[str, list[Scene]]) -> dict[str, Any]:
    name, parts = job
    path = out / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_clip(path, parts, pixels)
    said = [caption for scene in parts for caption in make_captions(scene)]
    if path.suffix == ".ogg":
        said = [caption for caption in said if AUDIO in caption.about]
    metadata: dict[str, Any] = (
        parts[0].attributes if len(parts) == 1 else {"scenes": [p.attributes for p in parts]}
    )
    return {
        "path": name,
        "id": Path(name).stem,
        "captions": [asdict(caption) for caption in said],
        "metadata": metadata,
        "licence": "CC0-1.0, rendered by tercet",
    }


def render(
    out: Path, jobs: list[tuple[str, list[Scene]]], pixels: int, label: str, processes: int = 2
) -> None:
    """Write the clips and then, last, `manifest.jsonl` with a row for each: a folder without one is
    not finished.
    """
    out.mkdir(parents=True, exist_ok=True)
    work = partial(write_row, out, pixels)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        rows = list(show_progress(pool.map(work, jobs, chunksize=4), len(jobs), label, "clip"))
    text = "".join(json.dumps(row) + "\n" for row in rows)
    staging = out / "manifest.jsonl.part"
    staging.write_text(text, encoding="utf-8")
    staging.rename(out / "manifest.jsonl")


def render_split(out: Path, split: str, count: int, seed: int = 0) -> None:
    """A split of the world below `out`/`split`."""
    jobs = [
        (f"{split}-{i:05d}.mp4", [scene]) for i, scene in enumerate(draw_scenes(split, count, seed))
    ]
    render(out / split, jobs, PIXELS, f"rendering {split}")


def render_sample(out: Path) -> None:
    """The sample library of `make run`: 40 clips, 8 of three scenes each, 16 sounds; from the test
    split.
    """
    drawn = draw_scenes("test", 40 + 24 + 16, seed=7)
    jobs = [
        (f"{s.colour}-{s.material}-{s.shape}-{s.motion}-{i:02d}.mp4", [s])
        for i, s in enumerate(drawn[:40])
    ]
    jobs += [(f"three-scenes-{i:02d}.mp4", drawn[40 + 3 * i : 43 + 3 * i]) for i in range(8)]
    jobs += [(f"{s.material}-{s.motion}-{i:02d}.ogg", [s]) for i, s in enumerate(drawn[64:])]
    render(out, jobs, 240, "rendering the sample library")
