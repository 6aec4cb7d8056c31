"""Clients that other people wrote, against a server that runs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.settings import Settings

from .makers import ROOT, make_wav
from .test_operate import listening

PYTHON = ROOT / "build" / "foreign" / "bin" / "python"
pytestmark = pytest.mark.foreign
RED, GREEN, SOUND = [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]
RED_BASE64 = "AACAPwAAAAAAAAAAAAAAAA=="  # four little-endian float32


def foreign_python() -> str:
    if not PYTHON.exists():
        pytest.skip("other people's clients are not installed: make build/foreign/.installed")
    return str(PYTHON)


@pytest.fixture(scope="module")
def tone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_wav(tmp_path_factory.mktemp("sounds") / "tone.wav")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with listening(Settings(data=tmp_path_factory.mktemp("data") / "data", api_keys="k")) as port:
        yield f"http://127.0.0.1:{port}"


def given_by(name: str, address: str, sound: Path) -> dict[str, Any]:
    """What a client gave its user, by what it was asked for."""
    script = ROOT / "tests" / "foreign" / "clients.py"
    command = [foreign_python(), str(script), name, f"{address}/v1", "k", str(sound)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr[-4000:]
    given: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    assert given["batch"] == [RED, GREEN] and given["floats"] == [RED]
    assert "Unknown model 'other'. This service has 'fake'." in given["wrong model"]
    assert "NotFoundError" in given["wrong model"]
    return given


def test_openai(address: str, tone: Path) -> None:
    """By itself it asks for base64, and decodes it; base64 that its user asks for it hands on."""
    given = given_by("openai", address, tone)
    assert given["nulls"] == [RED] and given["as it was sent"] == [RED_BASE64]
    assert given["parts"] == [RED, SOUND, GREEN]
    assert given["models"] == [["fake", 0, "tercet"]] and given["model"] == "fake"
    assert "Unknown model 'some/other'" in given["wrong model asked for"]
    for asked in ("token ids", "lists of token ids"):
        assert "BadRequestError" in given[asked] and "Send texts." in given[asked]
    assert given["wrong key"].startswith("AuthenticationError")


def test_langchain(address: str, tone: Path) -> None:
    """By itself it sends token ids; the refusal names the option that sends texts."""
    given = given_by("langchain", address, tone)
    assert "BadRequestError" in given["token ids"]
    assert "check_embedding_ctx_length=False" in given["token ids"]


def test_llamaindex(address: str, tone: Path) -> None:
    given_by("llamaindex", address, tone)


def test_litellm(address: str, tone: Path) -> None:
    given = given_by("litellm", address, tone)
    assert given["nulls"] == [RED] and given["as it was sent"] == [RED_BASE64]
    assert "Send texts." in given["token ids"]


def test_haystack(address: str, tone: Path) -> None:
    given_by("haystack", address, tone)
