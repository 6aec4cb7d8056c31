"""The world's bed: VLSA of a preset, `miniature` if none is named, on the procedural world.

The clips are rendered to arrays, not to files, so that no decoder is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.clips import Clips
from evaluation.composed import COMPOSITIONS
from evaluation.retrieval import Embedder, Gallery, embed_first_windows
from evaluation.world import (
    CLIP_S,
    FPS,
    Scene,
    draw_scenes,
    make_captions,
    render_frames,
    render_sound,
)
from media.manifest import Row
from media.modality import AUDIO, VIDEO
from media.text import TextTokens

from ..config import EncoderConfig, TrainConfig
from ..data.batches import Inputs, Mixture
from ..network.transformer import VLSA
from ..training.loop import make_embedder, make_tokenizer, new_model
from ..training.tables import Rows

TRAIN = 3000  # clips
TEST = 400
GROUPS = 240  # of a benchmark of sounds put together


def render_clip(
    encoder: EncoderConfig, scene: Scene
) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Frames [F, size, size, 3] and samples; frames are drawn at twice the size and averaged."""
    places = ((np.arange(encoder.frames) + 0.5) * CLIP_S / encoder.frames * FPS).astype(int)
    size = encoder.size
    frames = []
    for number, frame in enumerate(render_frames(scene, 2 * size)):
        if number in places:
            frames.append(frame.reshape(size, 2, size, 2, 3).mean(axis=(1, 3)))
    return np.stack(frames).astype(np.uint8), render_sound(scene).astype(np.float16)


def render_clips(
    split: str,
    count: int,
    encoder: EncoderConfig,
    folder: Path,
    jobs: int,
    batch_together_by: Sequence[tuple[str, ...]] = (),
) -> Clips:
    """Clips of a split; `folder` keeps what was rendered. `batch_together_by`: see `Clips`."""
    scenes = draw_scenes(split, count)
    name = f"{split}-{count}-{encoder.frames}x{encoder.size}"
    files = {modality: folder / f"{name}-{modality}.npy" for modality in (VIDEO, AUDIO)}
    if not all(file.exists() for file in files.values()):
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            rendered = pool.map(partial(render_clip, encoder), scenes, chunksize=16)
            for file, values in zip(files.values(), zip(*rendered, strict=True), strict=True):
                part = file.with_suffix(".part.npy")
                np.save(part, np.stack(values))
                part.replace(file)
    # Mapped, so that runs at once share the memory.
    arrays = {modality: np.load(file, mmap_mode="r") for modality, file in files.items()}
    rows = [describe(scene, f"{split}-{number}") for number, scene in enumerate(scenes)]
    has = {name: np.ones(count, dtype=bool) for name in arrays}
    return Clips(rows, arrays, has, np.full(count, arrays[AUDIO].shape[1]), batch_together_by)


def describe(scene: Scene, name: str) -> Row:
    captions = tuple(make_captions(scene))
    return Row(id=name, path=None, captions=captions, group=name, metadata=scene.attributes)


class WorldBed:
    """Data, network and measures of the world's bed. `folder` keeps what was rendered."""

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        *,
        jobs: int = 2,
        train: int = TRAIN,
        test: int = TEST,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        encoder = config.encoder
        self.train = render_clips("train", train, encoder, folder, jobs, config.batch_together_by)
        self.test = render_clips("test", test, encoder, folder, jobs)
        file = folder / f"tokenizer-{train}-{encoder.tokenizer}-{encoder.vocabulary}.json"
        if not file.exists():
            texts = [caption.text for row in self.train.rows for caption in row.captions]
            orders = [
                text
                for composition in COMPOSITIONS.values()
                for number in range(3)
                for text in composition.say("", "", number)
            ]
            part = file.with_suffix(".part.json")
            make_tokenizer(texts + orders, encoder, part)
            part.replace(file)
        self.tokenizer = file
        self.tokens = TextTokens(file, encoder.text)

    def mixture(self, config: TrainConfig, methods: Rows) -> Mixture:
        return Mixture(
            [self.train],
            [1.0],
            self.tokens,
            Inputs.of(config.encoder),
            batch=config.batch,
            seed=config.seed,
            methods=methods,
        )

    def network(self, config: TrainConfig) -> VLSA:
        return new_model(config, self.tokenizer)

    def embedder(self, model: Any) -> Embedder:
        """In joint vectors sound weighs as much as pictures, whatever a method's bundle would say,
        but for what is learned: all arms are measured alike.
        """
        return make_embedder(model, self.tokens)

    def galleries(self, model: Any) -> dict[str, Gallery]:
        return embed_first_windows(self.embedder(model), self.test)

    def composed_scores(self, model: Any, kind: str) -> NDArray[np.float32]:
        """The scores of the benchmark of a kind of composition, [groups, sounds, texts]."""
        random = np.random.default_rng(5)
        space = self.embedder(model)
        composition = COMPOSITIONS[kind]
        sounds: list[NDArray[Any]] = []
        texts: list[str] = []
        for _ in range(min(GROUPS, len(self.test) // 2)):
            pair = random.choice(len(self.test), 2, replace=False)
            first, second = (self.test.clip(int(i)) for i in pair)
            assert first.waveform is not None and second.waveform is not None
            sounds += [
                composition.put(first.waveform, second.waveform),
                composition.put(second.waveform, first.waveform),
            ]
            said = [clip.row.captions_about(AUDIO)[0].text for clip in (first, second)]
            texts += composition.say(said[0], said[1], 0)
        heard = space.media(AUDIO, np.stack(sounds), list(range(len(sounds))))
        words = space.texts(texts)
        heard, words = (x.reshape(-1, 2, x.shape[-1]) for x in (heard, words))
        return np.asarray(heard @ words.transpose(0, 2, 1))
