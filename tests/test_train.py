"""Training: a split batch is a whole batch, a killed run is a whole run, and data comes as people
have it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import webdataset
from safetensors.torch import load_file
from torch.multiprocessing.spawn import spawn

from evaluation.clips import Clips
from media.errors import BadConfig
from media.manifest import BadManifest, read_manifest
from media.text import TextTokens
from model.config import TrainConfig
from model.data.batches import Batch, Inputs, Mixture
from model.data.prepare import prepare
from model.data.shards import Shards
from model.network.pretrained_vit import load_pretrained_vit
from model.network.transformer import VLSA
from model.training.ablation import (
    ARMS,
    AblationPlan,
    count_operations,
    plan_stages,
    run_ablation,
)
from model.training.checkpoint import load
from model.training.distributed import join_process_group, leave_process_group
from model.training.loop import Diverged, train
from model.training.step import StepRandomness, compute_gradients

from .makers import ROOT, free_port

RUN = TrainConfig.load("smoke")
SMOKE = RUN.encoder
ENCODER = replace(SMOKE, stem="convolution", stem_skip=True)
NAMES = ("video", "audio", "video_caption", "audio_caption")
TIMES = ("triplets_s",)  # of a step's figures, those that no two runs share
SETTINGS = TrainConfig(encoder=ENCODER, batch=12, spec_augment=True, local_share=0.5)


def some_batch() -> Batch:
    """Twelve rows, of which some lack each modality and two mean the same."""
    random = torch.Generator().manual_seed(1)
    there = torch.rand(4, 12, generator=random) < 0.75
    words = torch.randint(4, 200, (2, 12, 9), generator=random)
    return Batch(
        frames=torch.randint(
            0, 256, (12, *ENCODER.video.shape), dtype=torch.uint8, generator=random
        ),
        waveforms=0.1 * torch.randn(12, ENCODER.samples, generator=random),
        video_caption=words[0],
        audio_caption=words[1],
        has=dict(zip(NAMES, there, strict=True)),
        group_ids=torch.tensor([0, 0, *range(1, 11)]),
        ids=[f"row {i}" for i in range(12)],
    )


def gradients_of(config: TrainConfig) -> dict[str, torch.Tensor]:
    """Terms and gradients of one step on `some_batch`, by this process's share of it."""
    processes = join_process_group()
    torch.manual_seed(0)
    model = VLSA(config.encoder).train()
    model.recompute = config.recompute
    rows = processes.rows(config.batch)
    randomness = StepRandomness.draw(config, config.batch, seed=5)
    terms = compute_gradients(
        model,
        some_batch().take(rows),
        randomness.take(rows, torch.device("cpu")),
        config,
        processes,
    )
    return terms | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def one_of_two(rank: int, port: int, out: Path) -> None:
    os.environ |= {
        "WORLD_SIZE": "2",
        "RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    found = gradients_of(SETTINGS)
    if rank == 1:
        torch.save(found, out)
    leave_process_group()


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert (
        found.keys()
        >= expected.keys()
        > {"audio_video", "audio_text", "video_text", "local", "total", "log_scale"}
    )
    for name, value in expected.items():
        assert (found[name] - value).abs().max() <= 1e-5 * max(1.0, float(value.abs().max())), name


@pytest.fixture(scope="module")
def whole() -> dict[str, torch.Tensor]:
    return gradients_of(SETTINGS)


@pytest.mark.parametrize("size", [1, 4, 5])
def test_a_batch_in_pieces_has_the_gradients_of_the_whole(
    whole: dict[str, torch.Tensor], size: int
) -> None:
    assert_same(gradients_of(replace(SETTINGS, micro_batch=size)), whole)


def test_two_processes_have_the_gradients_of_one(
    whole: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    spawn(one_of_two, (free_port(), tmp_path / "found.pt"), nprocs=2)
    assert_same(torch.load(tmp_path / "found.pt"), whole)


def test_recomputed_activations_change_nothing(whole: dict[str, torch.Tensor]) -> None:
    assert_same(gradients_of(replace(SETTINGS, recompute=True)), whole)


def test_half_precision_is_close(whole: dict[str, torch.Tensor]) -> None:
    half = gradients_of(replace(SETTINGS, precision="bf16"))
    assert half["total"].item() == pytest.approx(whole["total"].item(), rel=0.02)
    assert all(g.dtype == torch.float32 for g in half.values())


def test_rows_without_a_modality_leave_its_terms_out() -> None:
    batch = some_batch()
    batch.has |= {m: torch.zeros(12, dtype=torch.bool) for m in ("video", "video_caption")}
    model = VLSA(ENCODER)
    terms = compute_gradients(model, batch, StepRandomness.draw(SETTINGS, 12, 0), SETTINGS)
    assert set(terms) == {"audio_text", "audio_text_match", "local", "total"}
    assert (
        model.stems["video"].steps[0].weight.grad is None
        or not model.stems["video"].steps[0].weight.grad.any()
    )


# ---------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, Path]:
    """A run of 20 steps, whole."""
    out = tmp_path_factory.mktemp("smoke")
    config = replace(RUN, checkpoint_steps=10, threads=1)
    train(config, out, resume=False)
    return config, out


def share(out: Path, tmp_path: Path) -> None:
    for name in ("cache", "world"):
        (tmp_path / name).symlink_to(out / name)


def rows_of(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_training_learns(smoke: tuple[TrainConfig, Path], tmp_path: Path) -> None:
    """Sixty clips over and over: the encoder must come to know them, far above chance."""
    config, out = smoke
    share(out, tmp_path)
    longer = replace(config, steps=150, checkpoint_steps=150, drop_tokens=0.0, learning_rate=3e-3)
    train(longer, tmp_path, resume=False)
    rows = rows_of(tmp_path)
    assert np.mean([r["audio_text"] for r in rows[-10:]]) < 0.7 * rows[0]["audio_text"]
    assert np.mean([r["local"] for r in rows[-10:]]) < rows[0]["local"]
    assert set(rows[-1]["R@10"]) >= {"text-video", "text-audio", "audio-text"}  # type: ignore[arg-type]
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_a_resumed_run_repeats_a_whole_one(smoke: tuple[TrainConfig, Path], tmp_path: Path) -> None:
    """Killed with -9 in the middle, resumed: the same weights
    and the same figures to the last bit.
    """
    config, out = smoke
    share(out, tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config.to_json()))
    command = [
        sys.executable,
        "-m",
        "model",
        "train",
        "--config",
        str(file),
        "--out",
        str(tmp_path),
    ]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            log = tmp_path / "metrics.jsonl"
            if log.exists() and log.read_text().count("\n") >= 13:
                process.kill()
        assert process.returncode in (-9, 0)
    train(config, tmp_path, resume=True)
    whole, resumed = load(out)[0], load(tmp_path)[0]
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    timeless = [
        [{k: v for k, v in row.items() if k not in TIMES} for row in rows_of(at)]
        for at in (out, tmp_path)
    ]
    assert timeless[0] == timeless[1]


def test_a_whole_run_under_torchrun_is_the_run_of_one_process(
    smoke: tuple[TrainConfig, Path], tmp_path: Path
) -> None:
    """Two processes, each with half of every batch: the same terms to begin with, one checkpoint,
    resumed by one.
    """
    config, out = smoke
    share(out, tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config.to_json()))
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
    ]
    command = [*torchrun, "-m", "model", "train", "--config", str(file), "--out", str(tmp_path)]
    subprocess.run(
        command,
        cwd=ROOT,
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    one, two = rows_of(out), rows_of(tmp_path)
    assert [row["step"] for row in two] == [row["step"] for row in one] and "R@10" in two[-1]
    for a, b in zip(one[:5], two[:5], strict=True):
        assert all(
            abs(a[name] - b[name]) < 1e-3 * max(abs(a[name]), 1) for name in a if name not in TIMES
        ), (a, b)
    train(replace(config, steps=22), tmp_path, resume=True)
    assert [row["step"] for row in rows_of(tmp_path)] == list(range(22))


def test_a_run_that_diverges_names_its_batch(
    smoke: tuple[TrainConfig, Path], tmp_path: Path
) -> None:
    config, out = smoke
    share(out, tmp_path)
    with pytest.raises(Diverged, match="train-"):
        train(replace(config, learning_rate=1e30, clip_norm=1e30), tmp_path, resume=False)


def test_a_run_stops_when_it_gets_no_better_and_keeps_the_best(
    smoke: tuple[TrainConfig, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = smoke
    share(out, tmp_path)
    train(
        replace(config, learning_rate=0.0, steps=20, checkpoint_steps=2, patience=3),
        tmp_path,
        resume=False,
    )
    assert "no better checkpoint since step 2" in capsys.readouterr().out
    assert load(tmp_path / "best")[2]["step"] == 2 and load(tmp_path)[2]["step"] == 8


def test_a_run_starts_from_another(smoke: tuple[TrainConfig, Path], tmp_path: Path) -> None:
    config, out = smoke
    share(out, tmp_path)
    train(replace(config, start_from=str(out), learning_rate=0.0, steps=1), tmp_path, resume=False)
    model, _, state = load(tmp_path)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.parameters(), load(out)[0].parameters(), strict=True)
    )
    assert state["provenance"]["started_from"]["trained_steps"] == 20
    with pytest.raises(BadConfig, match="another encoder"):
        train(replace(config, start_from=str(out), encoder=ENCODER), tmp_path, resume=False)


# ---------------------------------------------------------------- data


@pytest.fixture(scope="module")
def clips(smoke: tuple[TrainConfig, Path]) -> Path:
    """A folder of four rendered clips; the first has its words beside it."""
    folder = smoke[1] / "folder"
    for row, name in zip(
        read_manifest(smoke[1] / "world/train-64/train/manifest.jsonl"), "abcd", strict=False
    ):
        assert row.path is not None
        target = folder / ("balls" if name > "b" else "") / f"{name}_clip.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(row.path.read_bytes())
    (folder / "a_clip.txt").write_text("first words\n\nsecond words\n")
    (folder / "notes.md").write_text("not media")
    return folder


def test_a_folder_is_data(clips: Path, tmp_path: Path) -> None:
    found = Clips.open(str(clips), SMOKE.inputs, tmp_path, tmp_path)
    assert [(row.id, [c.text for c in row.captions], row.group) for row in found.rows] == [
        ("a_clip.mp4", ["first words", "second words"], "a_clip.mp4"),
        ("b_clip.mp4", ["b clip"], "b_clip.mp4"),
        ("balls/c_clip.mp4", ["balls"], "balls"),
        ("balls/d_clip.mp4", ["balls"], "balls"),
    ]
    assert found.has["video"].all() and found.has["audio"].all()


def write_shards(clips: Path, folder: Path) -> str:
    for shard in range(2):
        with webdataset.TarWriter(str(folder / f"clips-{shard}.tar")) as tar:
            for i in range(4):
                media = next(clips.rglob(f"{'abcd'[i]}_clip.mp4")).read_bytes()
                words = (
                    {"txt": f"words {i}\nmore words"}
                    if i % 2
                    else {"json": {"text": "said", "licence": "CC0"}}
                )
                tar.write(
                    {"__key__": f"{shard}-{i}", "mp4": media if i < 3 else b"damaged", **words}
                )
    return str(folder / "clips-{0..1}.tar")


def test_shards_are_data(clips: Path, smoke: tuple[TrainConfig, Path], tmp_path: Path) -> None:
    """Every sample once an epoch, the same whether read through or come back to; a damaged one is
    without media.
    """
    shards = Shards(write_shards(clips, tmp_path), SMOKE.inputs)
    assert len(shards) == 8 and {row.licence for row in shards.rows} == {"", "CC0"}
    drawn = [[d.row.id for d in shards.draw(step, 4, (0, 1))] for step in range(4)]
    assert (
        sorted(drawn[0] + drawn[1])
        == sorted(drawn[2] + drawn[3])
        == sorted(row.id for row in shards.rows)
    )
    assert drawn[0] + drawn[1] != drawn[2] + drawn[3]
    again = Shards(str(tmp_path / "clips-{0..1}.tar"), SMOKE.inputs)
    assert [[d.row.id for d in again.draw(step, 4, (0, 1))] for step in (3, 1)] == [
        drawn[3],
        drawn[1],
    ]
    tokens = TextTokens(smoke[1] / "tokenizer.json", SMOKE.text)
    batch = Mixture([shards], [1.0], tokens, Inputs.of(SMOKE), batch=8, seed=0).read_batch(0)
    damaged = torch.tensor([name.endswith("-3") for name in batch.ids])
    assert (
        (batch.has["video"] == ~damaged).all()
        and (batch.has["audio"] == ~damaged).all()
        and damaged.sum() == 2
    )
    assert batch.has["video_caption"].all() and batch.frames[~damaged].any()


def test_shards_with_bad_words_are_named(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "x.tar")) as tar:
        tar.write({"__key__": "broken", "mp4": b"", "json": b"[1, 2"})
    with pytest.raises(BadManifest, match=r"x.tar.*broken"):
        len(Shards(str(tmp_path / "x.tar"), SMOKE.inputs))
    with pytest.raises(FileNotFoundError):
        Shards(str(tmp_path / "y-{0..3}.tar"), SMOKE.inputs)


def test_alike_rows_come_together(smoke: tuple[TrainConfig, Path]) -> None:
    """Every row once an epoch, in runs that share what the epoch asks for."""
    out = smoke[1]
    world = Clips.open(
        "world:train:64",
        SMOKE.inputs,
        out / "cache",
        out / "world",
        batch_together_by=(("place",), ()),
    )
    places = [[d.row.metadata["place"] for d in world.draw(epoch, 64, (0,))] for epoch in (0, 1)]
    assert sorted(places[0]) == sorted(places[1])
    changes = [sum(a != b for a, b in pairwise(row)) for row in places]
    assert changes[0] < 16 < changes[1]


def test_words_alone_are_data(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"text": "a dog barking"}\n')
    words = Clips.open(str(tmp_path / "m.jsonl"), SMOKE.inputs, tmp_path, tmp_path)
    clip = words.clip(0)
    assert clip.row.id == "m-1" and clip.frames is None and clip.waveform is None
    (tmp_path / "n.jsonl").write_text('{"id": "nothing"}\n')
    with pytest.raises(BadManifest, match="line 1"):
        read_manifest(tmp_path / "n.jsonl")


def lay_out(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


ANNOTATION = {
    "videos": [
        {"video_id": "video0", "split": "train"},
        {"video_id": "video1", "split": "validate"},
    ],
    "sentences": [
        {"video_id": "video0", "caption": "a cat"},
        {"video_id": "video0", "caption": "a kitten"},
    ],
}
# A set, its files in miniature, and the (path, captions) of its training part; one more clip is
# listed and not there.
LAYOUTS = {
    "esc50": (
        {
            "meta/esc50.csv": "filename,fold,target,category,esc10,src_file,take\n"
            "1-1-A-0.wav,1,0,sea_waves,True,1,A\n"
            "1-2-A-0.wav,2,0,dog,True,1,A\n5-1-A-0.wav,5,0,dog,True,1,A\n",
            "audio/1-1-A-0.wav": "",
            "audio/5-1-A-0.wav": "",
        },
        [("audio/1-1-A-0.wav", ["sea waves", "the sound of sea waves"])],
    ),
    "audiocaps": (
        {
            "dataset/train.csv": "audiocap_id,youtube_id,start_time,caption\n"
            '1,abc,30,"Rain, and wind"\n2,abc,30,It rains\n3,zzz,0,Silence\n',
            "audio/train/Yabc.wav": "",
        },
        [("audio/train/Yabc.wav", ["Rain, and wind", "It rains"])],
    ),
    "clotho": (
        {
            "clotho_captions_development.csv": "file_name,"
            "caption_1,caption_2,caption_3,caption_4,caption_5\n"
            "Rain 1.wav,a,b,c,d,e\ngone.wav,a,b,c,d,e\n",
            "development/Rain 1.wav": "",
        },
        [("development/Rain 1.wav", ["a", "b", "c", "d", "e"])],
    ),
    "vggsound": (
        {
            "vggsound.csv": '---x_Zd,20,"dog barking, far",train\n'
            "gone,1,cat,train\nother,5,cat,test\n",
            "video/---x_Zd_000020.mp4": "",
            "video/other_000005.mp4": "",
        },
        [("video/---x_Zd_000020.mp4", ["dog barking, far", "the sound of dog barking, far"])],
    ),
    "msrvtt": (
        {
            "annotation/train_val_videodatainfo.json": json.dumps(
                ANNOTATION
                | {"videos": [*ANNOTATION["videos"], {"video_id": "video9", "split": "train"}]}
            ),
            "videos/video0.mp4": "",
            "videos/video1.mp4": "",
        },
        [("videos/video0.mp4", ["a cat", "a kitten"])],
    ),
}


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_public_sets_are_read_as_they_are_distributed(name: str, tmp_path: Path) -> None:
    files, expected = LAYOUTS[name]
    folder, out = lay_out(tmp_path / "set", files), tmp_path / "manifests" / "train.jsonl"
    assert prepare(name, folder, "train", out) == (1, 1)
    rows = read_manifest(out)
    found = [
        (row.path.resolve().relative_to(folder).as_posix(), [c.text for c in row.captions])
        for row in rows
        if row.path
    ]
    assert found == expected and all(row.licence for row in rows)
    with pytest.raises(BadManifest, match="not as its owners"):
        prepare(name, tmp_path / "elsewhere", "train", out)


@pytest.mark.parametrize("kind", ["clip", "vit"])
def test_the_trunk_can_start_from_a_published_transformer(tmp_path: Path, kind: str) -> None:
    """By name, from a small random model of the library's class; its patches project as the
    original's do.
    """
    shape = {
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    torch.manual_seed(3)
    if kind == "clip":
        vision = transformers.CLIPVisionConfig(**shape, image_size=32, patch_size=16)
        text = transformers.CLIPTextConfig(**shape, vocab_size=20)
        config = transformers.CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict())
        theirs = transformers.CLIPModel(config)
    else:
        theirs = transformers.ViTModel(
            transformers.ViTConfig(**shape, image_size=32, patch_size=16)
        )
    theirs.save_pretrained(tmp_path)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32})
    processor.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")

    model, told = VLSA(SMOKE), []
    used = load_pretrained_vit(model, str(tmp_path), told.append)
    # SMOKE has one layer
    assert len([name for name in used if re.search(r"layers?\.0\.", name)]) == 16
    assert "2 of" not in told[0] and "layer" in told[1]
    query = weights[
        next(name for name in used if re.search(r"layers?\.0\..*(q_proj|query)\.weight", name))
    ]
    assert torch.equal(model.blocks[0].qkv.weight[:32], query)
    first = weights[next(name for name in used if re.search(r"norm1\.weight|before\.weight", name))]
    assert all(torch.equal(norm.weight, first) for norm in model.blocks[0].norm1.norms.values())

    picture = torch.rand(1, 3, 32, 32)
    mean, deviation = (
        torch.tensor(v)[:, None, None] for v in (processor.image_mean, processor.image_std)
    )
    kernel = next(n for n in used if re.search(r"patch_embedding(s.projection)?.weight", n))
    bias = weights.get(kernel.replace("weight", "bias"))
    expected = torch.nn.functional.conv2d(
        (picture - mean) / deviation, weights[kernel], bias, stride=16
    )
    found = model.stems["video"](picture * 2 - 1)
    assert torch.allclose(found, expected.flatten(2).transpose(1, 2), atol=1e-4)
    places = weights[next(n for n in used if "position_embedding" in n)].view(-1, 32)[1:]
    assert torch.allclose(model.positions["video_inner"], places)

    with pytest.raises(BadConfig, match="32 wide"):
        load_pretrained_vit(VLSA(replace(SMOKE, width=64)), str(tmp_path))
    with pytest.raises(BadConfig, match=r"no model\.safetensors"):
        load_pretrained_vit(model, str(ROOT / "docs"))


def test_a_source_without_clips_is_named(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("")
    with tarfile.open(tmp_path / "none.tar", "w"):
        pass
    for name in ("none.jsonl", "none.tar"):
        config = replace(RUN, manifests=(str(tmp_path / name),), validation="world:validation:4")
        with pytest.raises(BadConfig, match=name):
            train(config, tmp_path / "run", resume=False, media=tmp_path)


def test_the_ablation_spends_the_same_on_every_arm_and_goes_on_where_it_was(tmp_path: Path) -> None:
    base = replace(
        RUN,
        manifests=("world:train:24",),
        validation="world:validation:8",
        steps=3,
        batch=8,
    )
    plan = AblationPlan(base, fine_tuning_steps=2, test="world:test:8", seeds=1)
    arms = plan_stages(plan, tmp_path)
    spent = {
        arm: sum(c.steps * count_operations(c, tmp_path) for c in configs)
        for arm, configs in arms.items()
    }
    a_step = max(
        count_operations(config, tmp_path) for configs in arms.values() for config in configs
    )
    aim = spent.pop(ARMS[1]) + 3 * count_operations(replace(base, video_text=False), tmp_path)
    assert all(0 <= aim - compute < a_step for compute in spent.values()), spent

    results = run_ablation(plan, tmp_path, log=lambda _: None)
    assert list(results) == list(ARMS) and all(len(runs) == 1 for runs in results.values())
    assert all("text-video" in run["after"][-1] for (run,) in results.values())
    said = (tmp_path / "tables.md").read_text()
    assert all(f"| {arm} |" in said for arm in ARMS) and "gallery 8" in said
    assert "<svg" in (tmp_path / "ablation.svg").read_text()

    done = {
        file: file.stat().st_mtime_ns for file in tmp_path.glob("*/stage-*/checkpoint/*/weights.pt")
    }
    done |= {file: file.stat().st_mtime_ns for file in tmp_path.glob("*/result.json")}
    assert len(done) >= len(ARMS)
    assert run_ablation(plan, tmp_path, log=lambda _: None) == results
    assert all(file.stat().st_mtime_ns == then for file, then in done.items())
