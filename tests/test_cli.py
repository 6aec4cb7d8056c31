"""The command `tercet`: one name for every command of every
package, as a console script runs it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import pytest

from export.verify import Check
from index.calibration import LIKELY
from index.commands.search import describe_match
from index.library import lock_folder
from index.search import Hit
from service.cli import COMMANDS, GROUPS, main

from .makers import ROOT, free_port, make_wav, only_installed_by, wait_ready

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def plain_environment() -> dict[str, str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("TERCET_")}
    return env | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}


def tercet(
    *arguments: str | Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service.cli", *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=env or plain_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


def document(ran: subprocess.CompletedProcess[str]) -> Any:
    """What a command with --json printed, which is one document and nothing else."""
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout)


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script `tercet` as pip writes it for the entry point of pyproject.toml."""
    module, function = PROJECT["scripts"]["tercet"].split(":")
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "tercet"
    lines = [
        f"#!{sys.executable}",
        "import sys",
        f"from {module} import {function}",
        "if __name__ == '__main__':",
    ]
    script.write_text("\n".join([*lines, f"    sys.exit({function}())\n"]))
    script.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def serving_only(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of an environment as the image has it: the
    extra cpu, and no package `model`.
    """
    return only_installed_by(tmp_path_factory.mktemp("only"), "cpu", without=("model",))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, serving_only: dict[str, str]) -> Path:
    """A data folder with three items, indexed by a command that has nothing but what serves."""
    place = tmp_path_factory.mktemp("cli")
    rows = [
        {"path": f"{name}.wav", "id": name, "text": f"the tone {name}", "metadata": {"hz": hz}}
        for name, hz in (("a", 300), ("b", 600), ("c", 900))
    ]
    for row in rows:
        make_wav(place / row["path"], 3.0, hz=row["metadata"]["hz"])
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    built = document(
        tercet("build", "--json", "--data", place / "data", place / "rows.jsonl", env=serving_only)
    )
    assert (built["indexed"], built["unchanged"], built["failed"]) == (3, 0, {})
    return place / "data"


def test_help_lists_every_command_in_its_group() -> None:
    shown = tercet("--help")
    assert shown.returncode == 0
    groups = shown.stdout.split("\n\n")[-len(GROUPS) :]
    for (title, commands), text in zip(GROUPS.items(), groups, strict=True):
        first, *lines = text.strip().splitlines()
        assert first == f"{title}:" and [line.split()[0] for line in lines] == list(commands)
        assert all(len(line) <= 80 and len(line.split()) > 2 for line in lines)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_has_its_name_and_ends_with_examples(name: str) -> None:
    shown = tercet(name, "--help")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith(f"usage: tercet {name} ") and "python -m" not in shown.stdout
    examples = re.search(r"\n\nExamples?:\n((?:  .+\n)+)\Z", shown.stdout)
    assert examples and all(
        line.startswith(f"  tercet {name} ") for line in examples.group(1).splitlines()
    )
    assert len(examples.group(1).splitlines()) <= 2


def test_the_help_of_a_package_has_the_packages_name() -> None:
    command = [sys.executable, "-m", "index", "search", "--help"]
    shown = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert (
        shown.startswith("usage: python -m index search ")
        and "  python -m index search --data mine" in shown
    )


def test_flags_of_serve_are_shown_as_they_are_typed() -> None:
    shown = " ".join(tercet("serve", "--help").stdout.split())
    assert "--api-keys API_KEYS bearer keys" in shown
    assert "--proxies PROXIES" in shown and "(default: 127.0.0.1,::1)" in shown
    assert "--provider {cpu,cuda,tensorrt}" in shown and "(default: 8000)" in shown
    assert "default: the log --allow-open" in shown
    assert "tuple" not in shown and "null" not in shown


def test_bash_completes_commands_and_flags(console: Path) -> None:
    script = tercet("completion", "bash").stdout
    assert tercet("completion", "zsh").stdout.endswith(script)
    asked = """
COMP_WORDS=(tercet re) COMP_CWORD=1; _tercet; echo "${COMPREPLY[@]}"
COMP_WORDS=(tercet search --te) COMP_CWORD=2; _tercet; echo "${COMPREPLY[@]}"
COMP_WORDS=(tercet search fi) COMP_CWORD=2; _tercet; echo "${COMPREPLY[@]}"
"""
    env = plain_environment()
    env["PATH"] = f"{console}{os.pathsep}{env['PATH']}"
    ran = subprocess.run(
        ["bash", "-c", script + asked],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.stdout.splitlines() == ["report reembed restore", "--text", ""], ran.stderr


def test_the_version_is_the_projects() -> None:
    assert metadata.version("tercet") == PROJECT["version"]
    assert tercet("--version").stdout == f"tercet {PROJECT['version']}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("searc",),
        ("--",),
        ("search",),
        ("serve", "--nonsense"),
        ("serve", "mcp"),
    ],
)
def test_what_is_called_wrongly_ends_with_status_2(arguments: tuple[str, ...]) -> None:
    ran = tercet(*arguments)
    assert ran.returncode == 2 and "usage: tercet" in ran.stderr and not ran.stdout


def test_what_fails_ends_with_status_1_and_a_reason(tmp_path: Path) -> None:
    for arguments in (
        ("search", "--data", tmp_path / "none", "--text", "x"),
        ("verify", tmp_path / "none"),
        ("evaluate", tmp_path / "none", "sample/manifest.jsonl"),
        ("train", "--config", tmp_path / "none.json", "--out", tmp_path / "run"),
    ):
        ran = tercet(*arguments)
        assert ran.returncode == 1 and ran.stderr.startswith(f"{arguments[0]}: "), ran.stderr
        assert len(ran.stderr.splitlines()) == 1, ran.stderr


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("train", "--config", "tiny", "--out", "none"), "train"),
        (("prepare", "clotho", "none", "--out", "none"), "train"),
        (("ablation", "--out", "none"), "train"),
        (("sample", "--out", "none"), "train"),
        (("evaluate", "sample", "sample/manifest.jsonl"), "train"),
        (("export", "checkpoint", "none", "--out", "none"), "train"),
        (("export", "pretrained", "none", "--out", "none"), "pretrained"),
        (("export", "stems", "--out", "none", "--open", "none", "--teachers", "none"), "stems"),
        (("mcp",), "mcp"),
    ],
)
def test_what_is_not_installed_names_the_extra(
    serving_only: dict[str, str], arguments: tuple[str, ...], extra: str
) -> None:
    ran = tercet(*arguments, env=serving_only)
    assert ran.returncode == 2, ran.stderr
    assert f"which is not installed (extra '{extra}')" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1 and not ran.stdout


def test_training_without_its_packages_names_the_extra(tmp_path: Path) -> None:
    """As after `make setup`: the package `model` is there, torch is not."""
    env = only_installed_by(tmp_path, "cpu")
    for module in ("service.cli", "model"):
        command = [
            sys.executable,
            "-m",
            module,
            "train",
            "--config",
            "tiny",
            "--out",
            str(tmp_path / "run"),
        ]
        ran = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
        assert (
            ran.returncode == 2
            and "(extra 'train')" in ran.stderr
            and len(ran.stderr.splitlines()) == 1
        )


def test_help_and_version_load_only_what_they_show() -> None:
    code = """import sys
from service.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
heavy = {"torch", "numpy", "onnxruntime", "uvicorn", "pydantic", "model", "index", "export"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)"""
    subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, timeout=60
    )


def test_items_are_listed_by_id(data: Path) -> None:
    page = document(tercet("items", "--data", data, "--limit", "2", "--json"))
    assert [item["id"] for item in page["items"]] == ["a", "b"] and page["next"] == "b"
    first = page["items"][0]
    assert (first["kind"], first["duration_s"], first["text"]) == ("audio", 3.0, "the tone a")
    assert first["metadata"] == {"hz": 300} and set(first["modalities"]) == {"audio", "text"}
    rest = document(tercet("items", "--data", data, "--after", "b", "--json"))
    assert [item["id"] for item in rest["items"]] == ["c"] and rest["next"] is None
    shown = tercet("items", "--data", data)
    assert [line.split()[-1] for line in shown.stdout.splitlines()[1:]] == [
        "a",
        "b",
        "c",
    ] and not shown.stderr
    assert tercet("items", "--data", data, "--limit", "1").stderr == "there are more: --after a\n"
    nothing = document(tercet("items", "--data", data, "--after", "c", "--json"))
    assert nothing == {"items": [], "next": None}


def test_a_wrong_setting_is_named_as_it_was_given() -> None:
    wrong = "Input should be a valid integer, unable to parse string as an integer"
    flag = tercet("serve", "--upload-max-mb", "much")
    assert (flag.returncode, flag.stderr) == (2, f"--upload-max-mb: {wrong}\n")
    variable = tercet("serve", env={**os.environ, "TERCET_UPLOAD_MAX_MB": "much"})
    assert (variable.returncode, variable.stderr) == (2, f"TERCET_UPLOAD_MAX_MB: {wrong}\n")


def test_a_file_that_cannot_be_opened_is_named(data: Path, tmp_path: Path) -> None:
    none, no_file = tmp_path / "none.wav", "No such file or directory"
    for command, message in (
        (("search", "--data", data, "--audio", none), f"search: {none}: {no_file}\n"),
        (("search", "--data", data, "--audio", tmp_path), f"search: {tmp_path}: Is a directory\n"),
        (("evaluate", "bundles/default", none), f"evaluate: {none}: {no_file}\n"),
    ):
        ran = tercet(*command)
        assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", message)


def test_a_search_answers_as_the_service_does(data: Path) -> None:
    """The document has the fields of the HTTP answer; what was
    not read comes as a warning in it.
    """
    asked = (
        "search",
        "--data",
        data,
        "--audio",
        data.parent / "b.wav",
        "--target",
        "audio",
        "--top-k",
        "2",
        "--json",
    )
    found = document(tercet(*asked))
    assert (
        found["route"] == "audio-audio"
        and found["collection"] == "default"
        and len(found["hits"]) == 2
    )
    best = found["hits"][0]
    assert best["id"] == "b" and best["score"] == pytest.approx(1.0, abs=1e-3)
    assert found["plan"]["exact"] and found["warnings"] == []
    long = document(tercet("search", "--data", data, "--text", "a steady tone " * 100, "--json"))
    assert any("only the beginning was read" in warning for warning in long["warnings"]), long[
        "warnings"
    ]


def test_reports_backups_and_reembeddings_are_documents(data: Path, tmp_path: Path) -> None:
    report = document(tercet("report", "--data", data, "--json"))
    assert {worth["encoding"] for worth in report["indexes"]} == {"audio", "text"}
    assert (report["near_duplicates"], report["gone"], report["out_of_reach"]) == ([], [], {})
    assert report["marks"] == {"marks": 0, "queries": 0, "learned": 0}
    agreed = document(tercet("report", "--data", data, "--agreement", "--json"))
    assert (agreed["total"], agreed["items"]) == (0, [])  # nothing has pictures and sound
    refused = tercet("learn", "--data", data, "--json")
    assert refused.returncode == 1 and "mark more hits" in refused.stderr
    counts = {"default": {"items": 3, "media_files": 0}}
    saved = document(tercet("backup", "--data", data, tmp_path / "saved", "--json"))
    assert saved == {"folder": str(tmp_path / "saved"), "collections": counts}
    restored = document(
        tercet("restore", "--data", tmp_path / "again", tmp_path / "saved", "--json")
    )
    assert restored == {"folder": str(tmp_path / "again"), "collections": counts}
    made = document(tercet("reembed", "--data", tmp_path / "again", "--json"))
    assert (made["items"], made["failed"]) == (3, {}) and made["overlaps"]
    dropped = document(tercet("reembed", "--data", tmp_path / "again", "--drop", "--json"))
    assert dropped == {"collection": "default", "done": "dropped what was staged"}


def test_a_build_that_fails_is_a_document_too(tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    ran = tercet("build", "--data", tmp_path / "data", tmp_path / "broken.wav", "--json")
    assert ran.returncode == 1 and list(json.loads(ran.stdout)["failed"]) == [
        str(tmp_path / "broken.wav")
    ]
    assert "0 indexed, 0 unchanged, 1 failed" in ran.stderr


def test_a_verification_is_a_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checks take minutes of a real bundle: two are made up."""
    good = Check(
        encoding="video",
        provider="cpu",
        precision="fp32",
        what="alone and in batches",
        seen="1.0",
        good=True,
    )
    bad = Check(
        encoding="audio",
        provider="cpu",
        precision="int8",
        what="R@10 beside fp32",
        seen="0.80 for 0.90",
        good=False,
    )
    for checks, status, failed in (([good], 0, 0), ([good, bad], 1, 1)):
        monkeypatch.setattr("export.verify.verify", lambda *_, made=checks: iter(made))
        assert main(["verify", "bundles/world", "--json"]) == status
        assert json.loads(capsys.readouterr().out) == {
            "checks": [asdict(c) for c in checks],
            "failed": failed,
        }


def test_evaluate_takes_a_bundle_by_its_place(data: Path) -> None:
    """As the contract has it: BUNDLE|CHECKPOINT MANIFEST, with options before or behind."""
    manifest = data.parent / "rows.jsonl"
    found = document(tercet("evaluate", "--json", "bundles/default", "--windows", "all", manifest))
    assert found["text-audio"]["queries"] == 3 and found["text-audio"]["gallery"] == 3
    refused = tercet("evaluate", "bundles/default", manifest, "--before")
    assert refused.returncode == 2 and "--before is for a checkpoint" in refused.stderr


def test_serve_serves_and_stops(data: Path, console: Path) -> None:
    port = free_port()
    command = [str(console / "tercet"), "serve", "--data", str(data), "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env=plain_environment() | {"TERCET_THREADS": "1"})
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_ready(client, process)
            listed = client.get("/v1/collections/default/items").json()
    finally:
        process.send_signal(2)
        assert process.wait(30) == 0
    assert listed == document(tercet("items", "--data", data, "--json"))


def fails(ran: subprocess.CompletedProcess[str], *said: str) -> bool:
    """Whether a command ended with status 1 and one sentence that says so."""
    [line] = ran.stderr.splitlines()
    return ran.returncode == 1 and not ran.stdout and all(words in line for words in said)


def test_what_cannot_start_says_why(tmp_path: Path) -> None:
    mine, file = tmp_path / "mine", tmp_path / "file"
    file.touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = tercet("serve", "--data", mine, "--port", str(port))
        assert fails(ran, f"service: port {port} of 127.0.0.1 is in use", "--port")
    assert not mine.exists()
    ran = tercet("serve", "--data", mine, "--socket", tmp_path / "none" / "socket")
    assert fails(ran, "service: --socket: the folder", "does not exist")
    for command in (("serve",), ("search", "--text", "x")):
        ran = tercet(*command, "--data", tmp_path, "--bundle", tmp_path / "none")
        assert fails(ran, f"{tmp_path / 'none' / 'manifest.json'} is missing from the bundle")
    for command in (("serve", "--port", str(free_port())), ("build", "sample")):
        ran = tercet(*command, "--data", file)
        assert fails(ran, f"the data folder {file} cannot be used: it is a file")


def test_a_data_folder_that_is_held_is_told(data: Path) -> None:
    with lock_folder(data):
        for command in (("serve", "--port", str(free_port())), ("search", "--text", "x")):
            ran = tercet(*command, "--data", data)
            assert fails(ran, "the data folder is open in another process: stop that one")


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root's rights")
def test_a_data_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", sys.executable, "-m"]
    command += ["service", "--data", str(tmp_path / "mine"), "--port", str(free_port())]
    ran = subprocess.run(
        command, cwd=ROOT, env=plain_environment(), capture_output=True, text=True, timeout=60
    )
    tmp_path.chmod(0o755)
    assert fails(ran, "service: the data folder", "cannot be used: Permission denied")


def test_the_quick_starts_box_of_tercet_runs(console: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "quickstart.md").read_text("utf-8")
    box = next(box for box in re.findall(r"```sh\n(.*?)```", page, re.S) if "tercet --help" in box)
    for name in ("bundles", "sample"):
        (tmp_path / name).symlink_to(ROOT / name)
    *_, search = box.strip().splitlines()
    assert "--json" in search
    script = f"set -eu\n{box.replace(search, search + ' > found.json')}"
    env = plain_environment()
    ran = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=env | {"PATH": f"{console}:{env['PATH']}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert json.loads((tmp_path / "found.json").read_text())["hits"][0]["id"] == "dog-barking"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tags", "--limit", "0"), "--limit: '0' is not a whole number from 1 on"),
        (("search", "--text", "a", "--top-k", "x"), "--top-k: 'x' is not a whole number from 1 on"),
        (("build", "a", "--workers", "0"), "--workers: '0' is not a whole number from 1 on"),
        (("build", "a", "--overlap", "2"), "--overlap: '2' is not a number from 0 to 0.9"),
        (("build", "a", "--file-max-s", "-1"), "--file-max-s: '-1' is not a number above 0"),
        (("items", "--index-latency-ms", "nan"), "latency-ms: 'nan' is not a number above 0"),
        (("items", "--index-memory-mb", "-1"), "-mb: '-1' is not a whole number from 0 on"),
    ],
)
def test_a_number_that_a_flag_cannot_take_is_a_usage_error(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--data", "none"])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and message in told
    assert told.startswith(f"usage: tercet {arguments[0]} ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("items", "--data", "none", "dog"),
        ("export", "verify", "none", "dog"),
        ("build", "--data", "none"),
    ],
)
def test_a_usage_error_shows_how_that_command_is_called(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    words = [word for word in arguments[:2] if word != "--data"]
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"usage: tercet {' '.join(words)} [-h]")


@pytest.mark.parametrize(
    ("confidence", "told"),
    [(0.8, "Likely moments, none of them certain."), (0.79, "No confident match"), (None, "No ")],
)
def test_a_search_says_as_the_page_does_how_sure_its_hits_are(
    confidence: float | None, told: str
) -> None:
    """One line said that nothing matched below a hit that was 95 % sure."""
    hit = Hit(
        id="a",
        kind="audio",
        duration_s=1.0,
        filename=None,
        modalities=["audio"],
        score=0.5,
        confidence=confidence,
        target="audio",
        start_s=0.0,
        end_s=1.0,
        scores={},
        evidence={},
        metadata={},
        moments=[],
    )
    assert describe_match([hit]).startswith(told)
    script = (ROOT / "service/page/results.js").read_text("utf-8")
    assert f"const LIKELY = {LIKELY};" in script
