"""tercet doctor: what is there, what is missing, and what to do about it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from export.bundle import find_bundle
from index.library import lock_folder
from service.keys import KeyFile

from .makers import ROOT, free_port, only_installed_by

ROWS = dict[str, dict[str, str]]


def doctor(*arguments: object, env: dict[str, str] | None = None) -> tuple[int, Any]:
    """The exit status, and the checks by name."""
    command = [sys.executable, "-m", "service.cli", "doctor", "--json", *map(str, arguments)]
    plain = {name: value for name, value in os.environ.items() if "TERCET" not in name}
    ran = subprocess.run(
        command, cwd=ROOT, env=env or plain, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode in (0, 1), ran.stderr
    document = json.loads(ran.stdout)
    assert document["ready"] == (ran.returncode == 0)
    return ran.returncode, {check["name"]: check for check in document["checks"]}


def missing(rows: ROWS) -> set[str]:
    return {name for name, row in rows.items() if row["state"] == "missing"}


def test_a_machine_that_can_serve(tmp_path: Path) -> None:
    status, rows = doctor("--data", tmp_path / "data", "--port", free_port())
    assert status == 0 and not missing(rows)
    assert "CPU" in rows["ONNX Runtime"]["found"] and "for CPUs" in rows["FAISS"]["found"]
    assert "h264" in rows["decoders"]["found"] and "libvpx-vp9" in rows["encoders"]["found"]
    assert "gives its vectors by cpu" in rows["bundle"]["found"]
    assert "will be made" in rows["data folder"]["found"]
    assert rows["keys"]["found"] == "none: this machine alone is answered"
    assert "MB free" in rows["disk"]["found"] and "MB available" in rows["memory"]["found"]
    assert "cores" in rows["processor"]["found"]
    assert not (tmp_path / "data").exists()


def test_what_is_not_installed_comes_with_its_command(tmp_path: Path) -> None:
    """As after `pip install tercet` without an extra."""
    env = only_installed_by(tmp_path)
    status, rows = doctor("--data", tmp_path / "data", "--port", free_port(), env=env)
    assert status == 1 and missing(rows) == {"ONNX Runtime", "FAISS"}
    assert rows["FAISS"]["todo"].startswith("python -m pip install 'tercet[cpu]'")
    assert rows["extra screen"]["state"] == "optional"
    assert rows["extra screen"]["todo"] == "python -m pip install 'tercet[screen]'"
    assert rows["bundle"]["state"] == "ok"


def test_what_stands_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    bundle = tmp_path / "bundle"
    shutil.copytree(ROOT / "bundles" / "default", bundle)
    (bundle / "tokenizer.json").write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, rows = doctor("--data", tmp_path / "file", "--port", port, "--bundle", bundle)
    assert status == 1 and missing(rows) == {"bundle", "data folder", "address"}
    assert "tokenizer.json" in rows["bundle"]["found"]
    assert rows["data folder"]["found"].endswith("is a file")
    assert f"port {port}" in rows["address"]["found"]
    assert all(rows[name]["todo"] for name in missing(rows))


def test_a_data_folder_in_use_is_told(tmp_path: Path) -> None:
    with lock_folder(tmp_path / "data"):
        status, rows = doctor("--data", tmp_path / "data", "--port", free_port())
    assert status == 1 and missing(rows) == {"data folder"}
    assert "open in another process" in rows["data folder"]["found"]


def test_keys_are_counted_and_asked_for(tmp_path: Path) -> None:
    data = tmp_path / "data"
    there = ("--data", data, "--port", free_port())
    status, rows = doctor(*there, "--host", "0.0.0.0")
    assert status == 1 and missing(rows) == {"keys"}
    assert "tercet keys make" in rows["keys"]["todo"]
    KeyFile(data).make("phone", "read")
    KeyFile(data).make("laptop", "admin")
    status, rows = doctor(*there, "--host", "0.0.0.0")
    assert status == 0 and rows["keys"]["found"] == "1 read, 1 admin"
    (data / "keys.json").write_text("{")
    status, rows = doctor(*there)
    assert status == 1 and missing(rows) == {"keys"}


def test_settings_that_are_not_valid_are_told(tmp_path: Path) -> None:
    env = dict(os.environ) | {"TERCET_OVERLAP": "7"}
    status, rows = doctor("--data", tmp_path / "data", env=env)
    assert status == 1 and "overlap" in rows["settings"]["found"]


def test_lines_say_what_to_do(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service.cli", "doctor", "--data", str(tmp_path / "data")]
    command += ["--bundle", str(tmp_path / "none"), "--port", str(free_port())]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 1 and not ran.stderr
    lines = ran.stdout.splitlines()
    at = next(place for place, line in enumerate(lines) if line.startswith("missing   bundle"))
    assert lines[at + 1].strip().startswith("name a bundle by --bundle")
    assert lines[-1] == "Serving will not work: see what is missing."


def test_the_default_bundle_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_bundle(Path("bundles/default")) == ROOT / "bundles" / "default"
    assert find_bundle(Path("bundles/none")) == Path("bundles/none")
    (tmp_path / "bundles" / "default").mkdir(parents=True)
    assert find_bundle(Path("bundles/default")) == Path("bundles/default")
