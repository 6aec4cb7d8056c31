"""Requests as odd clients send them: JSON with a key twice."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Iterator
from pathlib import Path

import pytest

from index.commands.search import parse_filter
from media.manifest import BadManifest, read_manifest
from service.app import create_app

from .makers import FakeEncoder, make_wav
from .test_service import Client, refused, settings, upload

ITEMS = "/v1/collections/default/items"
AS_JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    data = tmp_path_factory.mktemp("requests") / "data"
    with Client(create_app(settings(data), FakeEncoder())) as client:
        client.post(ITEMS, json={"text": "red", "id": "kept", "metadata": {"a": 0}})
        yield client


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", ITEMS, '{"text": "red", "id": "lost", "metadata": {"a": 1, "a": 2}}'),
        ("POST", ITEMS, '{"text": "red", "text": "blue", "a": 1}'),
        ("PATCH", f"{ITEMS}/kept", '{"metadata": {"b": {"a": 1, "a": 1}}}'),
        ("POST", "/v1/search/text-any", '{"query": "red", "filter": {"a": 1, "a": 2}}'),
        (
            "POST",
            "/v1/search",
            '{"parts": [{"text": "red"}], "targets": ["text"], "filter": {"a": 1, "a": 2}}',
        ),
        ("POST", "/v1/embed/text", '{"texts": ["a"], "a": 1, "a": 2}'),
    ],
)
def test_a_key_that_comes_twice_is_named(client: Client, method: str, path: str, body: str) -> None:
    answer = client.request(method, path, content=body, headers=AS_JSON)
    key = "text" if '"blue"' in body else "a"
    assert refused(answer, 400, "bad_request")["message"] == (
        f"the key '{key}' comes twice in one object"
    )
    assert client.get(f"{ITEMS}/kept").json()["metadata"] == {"a": 0}
    assert client.get(f"{ITEMS}/lost").status_code == 404


def test_a_key_that_comes_twice_in_a_field_is_named(client: Client, tmp_path: Path) -> None:
    tone = upload(make_wav(tmp_path / "tone.wav"))
    twice = '{"a": 1, "a": 2}'
    for path, field in ((ITEMS, "metadata"), ("/v1/search/audio-any", "filter")):
        answer = client.post(path, files=tone, data={field: twice})
        assert "'a' comes twice" in refused(answer, 400, "bad_request")["message"]
    listed = client.get(ITEMS, params={"order": "newest", "filter": twice})
    refused(listed, 400, "bad_request")


def test_a_key_that_comes_twice_in_a_manifest_is_named(tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"text": "a"}\n{"text": "b", "id": "x", "id": "y"}\n', encoding="utf-8")
    with pytest.raises(BadManifest, match=r"line 2.*'id' comes twice"):
        read_manifest(manifest)


@pytest.mark.parametrize("text", ["[]", "null", "0", '""', "{", '{"a": 1, "a": 2}', "[" * 5000])
def test_what_is_no_filter_is_a_usage_error(text: str) -> None:
    """An empty list or 0 would be no filter at all."""
    with pytest.raises(ArgumentTypeError):
        parse_filter(text)
