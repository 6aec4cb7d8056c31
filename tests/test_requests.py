"""Requests as odd clients send them: JSON with a key twice, forms that are cut short."""

from __future__ import annotations

import base64
import json
import tempfile
from argparse import ArgumentTypeError
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from index.collection import UnknownCollection
from index.commands.search import parse_filter
from index.library import Collections
from media.manifest import BadManifest, read_manifest
from service.app import create_app

from .makers import FakeEncoder, dims, make_wav, small_disk
from .test_operate import listening
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


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"texts"', "Expecting ':' delimiter at letter 8"),
        (b'{"texts": ["red"]} {}', "Extra data at letter 19"),
        (b'{"texts": ["\xff"]}', "it is not in UTF-8, or nested too deeply"),
        (b"[" * 100_000, "it is not in UTF-8, or nested too deeply"),
    ],
)
def test_a_body_that_is_not_json_says_why(client: Client, body: bytes, problem: str) -> None:
    answer = client.post("/v1/embed/text", content=body, headers=AS_JSON)
    error = refused(answer, 400, "bad_request")
    assert error["message"] == f"the body is not JSON: {problem}"
    assert error["detail"] == {"problem": error["message"]}


def test_a_body_that_is_too_large_is_told_the_limit(client: Client) -> None:
    """Whether it was announced or arrives in chunks."""
    large = b'{"texts": ["' + b"red " * 4_000_000 + b'"]}'
    for content in (large, iter([large])):
        answer = client.post("/v1/embed/text", content=content, headers=AS_JSON)
        assert refused(answer, 413, "too_large")["detail"] == {"limit_mb": 16}


def test_a_weight_is_a_number(client: Client) -> None:
    for weight in ("1", True, [1]):
        request = {"parts": [{"text": "red", "weight": weight}], "targets": ["text"]}
        message = refused(client.post("/v1/search", json=request), 400, "bad_request")["message"]
        assert message == "parts.0.text.weight: Input should be a valid number"


def test_head_is_answered_where_get_is(tmp_path: Path) -> None:
    """With the headers of GET and no body. Who may not GET may not ask for the head either."""
    sent = settings(tmp_path / "data", api_keys="k")
    with (
        listening(sent) as port,
        httpx.Client(base_url=f"http://localhost:{port}", trust_env=False) as client,
    ):
        assert client.head("/v1/models").status_code == 401
        client.headers["authorization"] = "Bearer k"
        client.post(ITEMS, json={"text": "red", "id": "a"}).raise_for_status()
        paths = ("/", "/healthz", "/readyz", "/docs", "/openapi.json", "/v1/models", "/v1/jobs")
        for path in (*paths, "/v1/models/x", ITEMS, f"{ITEMS}/a", f"{ITEMS}/b"):
            got, head = client.get(path), client.head(path)
            assert head.status_code == got.status_code != 405, path
            assert head.headers["content-length"] == got.headers["content-length"], path
            assert head.headers["content-type"] == got.headers["content-type"], path
            assert head.content == b"" != got.content
        assert client.head("/metrics").status_code == 200
        for path, methods in ((ITEMS, "GET, HEAD, POST"), ("/docs", "GET, HEAD")):
            refusal = client.put(path)
            assert refusal.status_code == 405 and refusal.headers["allow"] == methods
        assert "head" not in client.get("/openapi.json").json()["paths"]["/v1/models"]


def test_a_key_that_comes_twice_in_a_manifest_is_named(tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"text": "a"}\n{"text": "b", "id": "x", "id": "y"}\n', encoding="utf-8")
    with pytest.raises(BadManifest, match=r"line 2.*'id' comes twice"):
        read_manifest(manifest)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"path": "a.wav", "captions": "red"}', "captions are a list, and this is a text"),
        ('{"path": "a.wav", "text": ["red"]}', "a caption is a text or an object"),
        ('{"text": "   "}', "it has neither a path nor words"),
        ('{"path": ".", "text": "red"}', "no file has the path '.'"),
        ('{"path": "", "text": "red"}', "no file has the path ''"),
        ('{"path": "a.wav", "id": 0}', "a string, not int"),
        ('["a.wav"]', "a line is an object, and this is a list"),
        (
            '{"path": "a.wav", "captions": [{"text": "red", "about": "video"}]}',
            "what a caption is about is a list, and this is a text",
        ),
    ],
)
def test_what_a_manifest_cannot_mean_is_told(tmp_path: Path, line: str, problem: str) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"path": "b.wav"}\n' + line, encoding="utf-8")
    with pytest.raises(BadManifest, match="line 2") as refused:
        read_manifest(manifest)
    assert problem in str(refused.value)


def test_a_manifest_may_begin_with_a_mark_and_have_lines_of_windows(tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_bytes(b'\xef\xbb\xbf{"path": "a.wav"}\r\n\r\n  \r\n{"path": "b.wav"}\r\n')
    assert [row.id for row in read_manifest(manifest)] == ["a.wav", "b.wav"]


@pytest.mark.parametrize("text", ["[]", "null", "0", '""', "{", '{"a": 1, "a": 2}', "[" * 5000])
def test_what_is_no_filter_is_a_usage_error(text: str) -> None:
    """An empty list or 0 would be no filter at all."""
    with pytest.raises(ArgumentTypeError):
        parse_filter(text)


def part(head: str, body: bytes) -> bytes:
    return f"--x\r\ncontent-disposition: form-data; {head}\r\n\r\n".encode() + body + b"\r\n"


@pytest.mark.parametrize("path", [ITEMS, "/v1/search/audio-any", "/v1/embed/audio", "/v1/rank"])
def test_a_form_that_is_cut_short_says_so(client: Client, tmp_path: Path, path: str) -> None:
    """What came before would be taken otherwise, and the fields after it lost."""
    file = part('name="file"; filename="a.wav"', make_wav(tmp_path / "a.wav").read_bytes())
    fields = part('name="metadata"', b'{"a": 1}')
    before = len(client.get(ITEMS).json()["items"])
    as_form = {"content-type": "multipart/form-data; boundary=x"}
    whole = file + fields + b"--x--\r\n"
    for length in (0, 1000, len(file), len(file) + 10, len(file + fields), len(whole) - 4):
        answer = client.post(path, content=whole[:length], headers=as_form)
        assert "cut short" in refused(answer, 400, "bad_request")["message"]
    assert len(client.get(ITEMS).json()["items"]) == before


def test_the_end_of_a_form_as_clients_write_it(client: Client, tmp_path: Path) -> None:
    file = part('name="file"; filename="a.wav"', make_wav(tmp_path / "a.wav").read_bytes())
    for kind, end in (
        ("multipart/form-data; boundary=x", b"--x--"),
        ('Multipart/Form-Data; charset=utf-8; boundary="x"', b"--x--\r\n"),
        ("multipart/form-data; boundary=x", b"--x--\r\nwhat comes after the end is ignored"),
    ):
        answer = client.post(ITEMS, content=file + end, headers={"content-type": kind})
        assert answer.status_code == 201


def test_a_field_that_is_wrong_is_named(client: Client, tmp_path: Path) -> None:
    tone = upload(make_wav(tmp_path / "tone.wav"))
    long = client.post(ITEMS, files=tone, data={"id": "x" * 513})
    assert refused(long, 400, "bad_request")["message"].startswith("id: ")
    for text in ("[]", "null"):
        answer = client.post("/v1/search/audio-any", files=tone, data={"filter": text})
        assert refused(answer, 400, "bad_request")["message"].startswith("filter: ")


def test_json_behind_a_byte_order_mark_is_taken_in_a_form(client: Client, tmp_path: Path) -> None:
    tone = upload(make_wav(tmp_path / "tone.wav"))
    answer = client.post(ITEMS, files=tone, data={"id": "bom", "metadata": '\ufeff{"a": 1}'})
    assert answer.status_code == 201
    assert client.get(f"{ITEMS}/bom").json()["metadata"] == {"a": 1}


def test_an_upload_whose_collection_is_deleted_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is gone: that is no fault of the disk."""
    collections = Collections(tmp_path / "data", "fake", dims(4))
    box = collections.create("box")

    def copy(source: Path, target: Path) -> None:
        collections.delete("box")
        target.write_bytes(source.read_bytes())

    monkeypatch.setattr("index.collection.shutil.copyfile", copy)
    with pytest.raises(UnknownCollection):
        box.store_media(make_wav(tmp_path / "a.wav"), "a.wav")
    collections.close()


def test_the_file_of_several_that_is_wrong_is_named(client: Client, tmp_path: Path) -> None:
    tone = make_wav(tmp_path / "tone.wav").read_bytes()
    parts = [
        {"file": "a", "modality": "audio"},
        {"text": "red"},
        {"file": "b", "modality": "audio"},
    ]
    request = json.dumps({"parts": parts, "targets": ["audio"]})
    files = {"a": ("a.wav", tone), "b": ("b.wav", b"none")}
    answer = client.post("/v1/search", files=files, data={"request": request})
    error = refused(answer, 415, "not_media")
    assert error["message"].startswith("the file of index 2: not a media file")
    assert error["detail"]["index"] == 2

    def embedded(*inputs: str | bytes) -> dict[str, Any]:
        sounds = [
            part
            if isinstance(part, str)
            else {"type": "input_audio", "input_audio": {"data": part.decode(), "format": "wav"}}
            for part in inputs
        ]
        body: dict[str, Any] = client.post("/v1/embeddings", json={"input": sounds}).json()["error"]
        return body

    whole, broken = base64.b64encode(tone), base64.b64encode(b"none")
    error = embedded("red", whole, broken)
    assert error["message"].startswith("the file of index 2: not a media file")
    assert error["param"] == "input[2]"
    error = embedded("red", b"@")
    assert error["message"] == "the file of index 1: input_audio.data is not base64"
    error = embedded(broken)
    assert error["message"].startswith("not a media file") and error["param"] is None


def test_a_field_of_the_address_comes_once(client: Client) -> None:
    for path, field in (
        (f"{ITEMS}?limit=1&limit=2", "limit"),
        (f"{ITEMS}?after=a&limit=1&after=b", "after"),
        (f"{ITEMS}/kept?words=true&words=false", "words"),
    ):
        message = refused(client.get(path), 400, "bad_request")["message"]
        assert message == f"field '{field}' comes 2 times; it may come once"
    body = {"parts": [{"text": "red"}], "targets": ["text"]}
    answer = client.post("/v1/search?format=csv&format=edl", json=body)
    assert "field 'format' comes 2 times" in refused(answer, 400, "bad_request")["message"]
    # of no meaning here
    assert client.get(f"{ITEMS}?api-version=1&api-version=2").status_code == 200


def test_a_full_disk_is_not_the_clients_fault(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file on its way in lies where temporary files do."""
    sound = {"file": ("long.wav", bytes(5_000_000))}
    with small_disk(tmp_path / "small", "2m") as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        for path in (ITEMS, "/v1/embed/audio", "/v1/search/audio-any"):
            error = refused(client.post(path, files=sound), 503, "storage")
            assert error["message"] == "No space left on device"


def test_a_download_is_named_without_its_folders(client: Client, tmp_path: Path) -> None:
    tone = make_wav(tmp_path / "tone.wav").read_bytes()
    for sent, named in (("a/b/tone.wav", "tone.wav"), ("../tone.wav", "tone.wav")):
        added = client.post(ITEMS, files={"file": (sent, tone)}, data={"id": "named"})
        assert added.status_code == 201
        assert client.get(f"{ITEMS}/named").json()["filename"] == sent
        media = client.get(f"{ITEMS}/named/media")
        assert media.headers["content-disposition"] == f'inline; filename="{named}"'
