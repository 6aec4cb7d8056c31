"""A line for each change: who, what, when, its outcome; and the person that a proxy names."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.audit import write_line
from service.keys import KeyFile
from service.settings import Settings

from .makers import ROOT, FakeEncoder, free_port, make_wav
from .test_jobs import finished, started
from .test_keys import bearer, keys_command
from .test_operate import listening
from .test_service import Client, upload

ITEMS = "/v1/collections/default/items"


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def told(line: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(
        line.get(name) for name in ("action", "key", "collection", "item", "outcome", "status")
    )


def test_each_change_has_its_line(tmp_path: Path) -> None:
    tone = make_wav(tmp_path / "tone.wav", 1.0)
    audit = tmp_path / "audit.jsonl"
    settings = Settings(data=tmp_path / "data", api_keys="root", audit=audit)
    _, secret = KeyFile(settings.data).make("phone", "add")
    with Client(create_app(settings, FakeEncoder())) as client:
        phone, root = bearer(secret), bearer("root")
        client.post("/v1/collections", json={"name": "birds"}, headers=root)
        client.post(ITEMS, files=upload(tone), data={"id": "tone"}, headers=phone)
        client.post(ITEMS, json={"text": "red", "id": "words"}, headers=phone)
        client.post(ITEMS, files=upload(tone), data={"id": "x", "metadata": "{"}, headers=phone)
        client.delete(f"{ITEMS}/tone", headers=phone)
        client.delete(f"{ITEMS}/tone", headers=root)
        client.delete("/v1/collections/birds", headers=root)
        client.post("/v1/admin/reload", headers=root)
        client.get(ITEMS, headers=root)  # no change
        client.post("/v1/search/text-text", json={"query": "red"}, headers=root)
        client.delete(f"{ITEMS}/words")  # nobody
    lines = lines_of(audit)
    first, root_name = "TERCET_API_KEYS:1", "TERCET_API_KEYS:1"
    assert [told(line) for line in lines] == [
        ("collection.create", first, "birds", None, "done", 201),
        ("item.add", "phone", "default", "tone", "done", 201),
        ("item.add", "phone", "default", "words", "done", 201),
        ("item.add", "phone", "default", "x", "refused", 400),
        ("item.delete", "phone", "default", "tone", "refused", 403),
        ("item.delete", root_name, "default", "tone", "done", 204),
        ("collection.delete", root_name, "birds", None, "done", 204),
        ("service.reload", root_name, None, None, "refused", 409),
    ]
    assert [line["code"] for line in lines if line["outcome"] == "refused"] == [
        "bad_request",
        "forbidden",
        "cannot_reload",
    ]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d{3}Z", line["time"]) for line in lines)
    assert secret not in audit.read_text() and "Bearer" not in audit.read_text()
    assert audit.stat().st_mode & 0o777 == 0o600


def test_a_job_has_two_lines(tmp_path: Path) -> None:
    make_wav(tmp_path / "tone.wav", 1.0)
    audit = tmp_path / "audit.jsonl"
    settings = Settings(data=tmp_path / "data", imports=tmp_path, audit=audit)
    with Client(create_app(settings, FakeEncoder())) as client:
        job = started(client, "tone.wav")
        finished(client, job)
    begun, ended = sorted(lines_of(audit), key=lambda line: line["action"])
    assert (begun["action"], begun["job"], begun["path"]) == ("job.add", job, "tone.wav")
    assert begun["key"] is None and begun["by"] == "nothing"
    assert (ended["action"], ended["job"], ended["collection"]) == ("job.end", job, "default")
    assert (ended["outcome"], ended["indexed"], ended["failed"]) == ("done", 1, 0)


def test_without_a_file_the_lines_are_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.INFO, "tercet.audit"),
        Client(create_app(Settings(data=tmp_path / "data"), FakeEncoder())) as client,
    ):
        client.post(ITEMS, json={"text": "red", "id": "words"})
    [record] = [record for record in caplog.records if record.name == "tercet.audit"]
    line = json.loads(record.getMessage())
    assert told(line) == ("item.add", None, "default", "words", "done", 201)


def test_a_file_that_cannot_be_written_costs_no_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "tercet.audit"):
        write_line(tmp_path / "none" / "audit", {"action": "item.add"})
    said = [record.getMessage() for record in caplog.records]
    assert "cannot be written" in said[0] and json.loads(said[1])["action"] == "item.add"


def test_a_service_whose_audit_cannot_be_written_does_not_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service", "--data", str(tmp_path / "data")]
    command += ["--port", str(free_port()), "--audit", str(tmp_path / "none" / "audit")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 1 and "--audit" in ran.stderr and "cannot be written" in ran.stderr


def test_the_command_that_makes_keys_has_its_lines(tmp_path: Path) -> None:
    audit = tmp_path / "audit.jsonl"
    made = keys_command("make", "phone", "--data", tmp_path, TERCET_AUDIT=str(audit))
    keys_command("revoke", "phone", "--data", tmp_path, TERCET_AUDIT=str(audit))
    lines = lines_of(audit)
    assert [(line["action"], line["changed_key"]) for line in lines] == [
        ("key.make", "phone"),
        ("key.revoke", "phone"),
    ]
    assert made.stdout.strip() not in audit.read_text()


# ---------------------------------------------------------------- whom a proxy names


def identity_told(tmp_path: Path, sent: list[tuple[str, str]], **changes: Any) -> Any:
    """The identity in the line of a change that was asked for with these headers."""
    audit = tmp_path / "audit.jsonl"
    settings = Settings(data=tmp_path / "data", api_keys="root", audit=audit, **changes)
    with listening(settings) as port:
        address = f"http://127.0.0.1:{port}{ITEMS}"
        headers = [("Authorization", "Bearer root"), *sent]
        answer = httpx.post(address, json={"text": "red", "id": "a"}, headers=headers)
        assert answer.status_code == 201
    [line] = lines_of(audit)
    assert line["key"] == "TERCET_API_KEYS:1"
    return line["identity"]


ANNA = ("X-Forwarded-User", "anna@example.org")
ELSEWHERE = ("X-Forwarded-For", "203.0.113.9")  # who asks the proxy


def test_a_trusted_proxy_names_the_person(tmp_path: Path) -> None:
    named = identity_told(tmp_path, [ANNA, ELSEWHERE], identity_header="X-Forwarded-User")
    assert named == "anna@example.org"


@pytest.mark.parametrize(
    ("sent", "changes"),
    [
        ([ANNA], {}),  # no header is configured
        ([ANNA], {"identity_header": "Remote-User"}),  # another is
        ([ANNA], {"identity_header": "X-Forwarded-User", "proxies": "10.0.0.5"}),
        # the address that a stranger claims to be is not the one that has connected
        (
            [ANNA, ("X-Forwarded-For", "10.0.0.5")],
            {"identity_header": "X-Forwarded-User", "proxies": "10.0.0.5"},
        ),
        # a proxy that adds to what a client has sent, in place of replacing it
        ([ANNA, ("X-Forwarded-User", "root")], {"identity_header": "X-Forwarded-User"}),
    ],
)
def test_nobody_else_is_believed(
    tmp_path: Path, sent: list[tuple[str, str]], changes: dict[str, str]
) -> None:
    assert identity_told(tmp_path, sent, **changes) is None


def test_a_name_opens_nothing(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "data", api_keys="root", identity_header="X-Forwarded-User")
    with listening(settings) as port:
        answer = httpx.get(f"http://127.0.0.1:{port}/v1/models", headers=[ANNA])
        assert answer.status_code == 401
