"""Clients that other people wrote, against a server that runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.settings import Settings

from . import makers
from .makers import ROOT, make_clip, make_wav
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


def test_our_client_in_a_notebook(address: str, tone: Path) -> None:
    script = ROOT / "tests" / "foreign" / "notebook.py"
    command = [foreign_python(), str(script), address, "k", str(tone)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert json.loads(ran.stdout.splitlines()[-1]) == ["'tone'", "['tone']", "['tone']"]


# ---------------------------------------------------------------- curl and HTTPie

ITEMS = "/v1/collections/default/items"
NAME = "Vögel früh 鳥.wav"


def curl(*arguments: str, sent: bytes = b"") -> Any:
    """The JSON that curl is answered."""
    program = shutil.which("curl")
    if program is None:
        pytest.skip("curl is not installed")
    command = [program, "-sS", "-H", "authorization: Bearer k", *arguments]
    ran = subprocess.run(command, input=sent, capture_output=True, timeout=60)
    assert ran.returncode == 0, ran.stderr.decode()
    return json.loads(ran.stdout)


def httpie(*arguments: str) -> Any:
    """The JSON that HTTPie is answered."""
    command = [foreign_python(), "-m", "httpie", "--ignore-stdin", "--body"]
    command += ["--auth-type", "bearer", "--auth", "k", *arguments]
    ran = subprocess.run(command, capture_output=True, timeout=60)
    assert ran.returncode == 0, ran.stderr.decode()
    return json.loads(ran.stdout)


@pytest.mark.parametrize(
    "manner",
    [
        ["--http1.1"],
        ["--http1.0"],
        ["--form-escape"],
        ["-H", "transfer-encoding: chunked"],
        ["-H", "expect: 100-continue"],
    ],
)
def test_curl_uploads(address: str, tone: Path, manner: list[str]) -> None:
    form = ["-F", f'file=@{tone};filename="{NAME}"', "-F", 'metadata={"year": 2024}']
    added = curl(*manner, *form, address + ITEMS)
    found = curl(*manner, f"{address}{ITEMS}/{added['id']}")
    assert (found["filename"], found["metadata"]) == (NAME, {"year": 2024})
    assert found["duration_s"] == 1.0


@pytest.mark.parametrize("manner", ["--http1.0", "--http1.1"])
def test_curl_searches(address: str, tone: Path, manner: str) -> None:
    curl("-F", f"file=@{tone}", "-F", "id=searched", address + ITEMS)
    by_sound = curl(manner, "-F", f"file=@{tone}", address + "/v1/search/audio-audio")
    assert by_sound["hits"][0]["score"] == pytest.approx(1.0)
    head = ["-H", "content-type: application/json"]
    by_words = curl(manner, *head, "-d", '{"query": "red"}', address + "/v1/search/text-audio")
    assert by_words["hits"][0]["score"] == 0.0


def form_of(tone: Path, name: str) -> bytes:
    """A form with one file, whose name is given as `name` says."""
    head = f'--X\r\nContent-Disposition: form-data; name="file"; {name}\r\n\r\n'
    return head.encode() + tone.read_bytes() + b"\r\n--X--\r\n"


def test_an_extended_file_name(address: str, tone: Path) -> None:
    """RFC 7578 forbids it in forms. Beside a plain name it is passed over; alone it is refused, in
    words.
    """
    upload = ["-H", "content-type: multipart/form-data; boundary=X", "--data-binary", "@-"]
    extended = "filename*=UTF-8''V%C3%B6gel.wav"
    for both in (f'filename="plain.wav"; {extended}', f'{extended}; filename="plain.wav"'):
        added = curl(*upload, address + ITEMS, sent=form_of(tone, both))
        assert curl(f"{address}{ITEMS}/{added['id']}")["filename"] == "plain.wav"
    alone = curl(*upload, address + ITEMS, sent=form_of(tone, extended))["error"]
    assert alone["code"] == "bad_request" and "filename*= has no meaning" in alone["message"]


@pytest.mark.parametrize("manner", [["--multipart"], ["--multipart", "--chunked"]])
def test_httpie_uploads(address: str, tone: Path, tmp_path: Path, manner: list[str]) -> None:
    named = tmp_path / NAME
    named.write_bytes(tone.read_bytes())
    added = httpie(*manner, "POST", address + ITEMS, f"file@{named}", 'metadata={"year": 2024}')
    found = httpie("GET", f"{address}{ITEMS}/{added['id']}")
    assert (found["filename"], found["metadata"]) == (NAME, {"year": 2024})
    hits = httpie("POST", address + "/v1/search/text-audio", "query=red", "top_k:=1")["hits"]
    assert len(hits) == 1


# ---------------------------------------------------------------- Firefox


def test_firefox_searches(tmp_path: Path) -> None:
    """A search as it is typed, pictures, a film that only plays converted, and a console that says
    no more than that.
    """
    firefox = shutil.which("firefox-esr") or shutil.which("firefox")
    if firefox is None:
        pytest.skip("firefox is not installed")
    profile = tmp_path / "profile"
    profile.mkdir()
    with listening(Settings(data=tmp_path / "data")) as port:
        address = f"http://127.0.0.1:{port}"
        for name, colour in (("red.mp4", makers.RED), ("green.ts", makers.GREEN)):
            clip = make_clip(tmp_path / name, [colour, colour])
            curl("-F", f"file=@{clip}", address + ITEMS)
        script = ROOT / "tests" / "foreign" / "firefox.py"
        command = [foreign_python(), str(script), firefox, str(profile), address, "green"]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, ran.stderr[-4000:]
    found = json.loads(ran.stdout)
    assert found["headings"] == ["green.ts", "red.mp4"] and found["picture"]
    assert found["plays"] and found["back"]
    assert "q=green" in found["address"] and "item=" in found["address"]
    assert found["note"].startswith(
        "This browser cannot play green.ts. A converted version plays. Download the original"
    )
    assert [line for line in found["said"] if "green" not in line and "/media" not in line] == []
