"""Stored media over HTTP: conditions and ranges as RFC 9110 has them, types by content, uploads'
suffixes.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from fastapi.routing import APIRoute
from httpx import Response

from index.collection import Collection
from index.ingest.build import build
from index.ingest.reembed import reembed
from index.library import Collections
from index.records.item import Item, NewItem
from media.containers import Budget
from media.mediatypes import media_type
from media.sandbox import Converters, Decoders
from service.app import create_app
from service.media import BadRange, Stored, ranges_of, seconds_of
from service.pipeline import media_suffix
from service.routes import ROUTES
from service.settings import Settings

from .makers import GREEN, RED, FakeEncoder, make_clip, make_tone, make_wav, wait_until
from .test_jobs import finished, started
from .test_operate import listening
from .test_security import exchanged
from .test_service import Client, add, refused, upload

ITEMS = "/v1/collections/default/items"
MEDIA, POSTER = f"{ITEMS}/film/media", f"{ITEMS}/film/poster"
YESTERDAY, TOMORROW = (
    formatdate(time.time() - 86_400, usegmt=True),
    formatdate(time.time() + 86_400, usegmt=True),
)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("films") / "film.mp4", [RED, RED])


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, film: Path) -> Iterator[Client]:
    data = tmp_path_factory.mktemp("media") / "data"
    with Client(create_app(Settings(data=data), FakeEncoder())) as client:
        add(client, film, id="film")
        yield client


def asked(client: Client, path: str = MEDIA, method: str = "GET", **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.request(method, path, headers=named)


# ---------------------------------------------------------------- conditions


@pytest.mark.parametrize("path", [MEDIA, POSTER, "/", "/page/page.js"])
def test_what_a_client_has_is_not_sent_again(client: Client, path: str) -> None:
    first = asked(client, path)
    tag = first.headers["etag"]
    assert first.status_code == 200 and re.fullmatch(r'"[0-9a-f]{32}"', tag)
    for tags in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        same = asked(client, path, if_none_match=tags)
        assert (same.status_code, same.content) == (304, b"") and same.headers["etag"] == tag
        assert same.headers.get("cache-control") == first.headers.get("cache-control")
        assert "content-type" not in same.headers
        assert asked(client, path, "HEAD", if_none_match=tags).status_code == 304
    for tags in ('"other"', tag.strip('"'), f'"{tag}'):
        assert asked(client, path, if_none_match=tags).status_code == 200
    assert asked(client, path, if_match=tag).status_code == 200
    assert asked(client, path, if_match=f'"other", {tag}').status_code == 200
    assert asked(client, path, if_match="*").status_code == 200
    for tags in ('"other"', f"W/{tag}", "other"):  # a weak tag never matches strongly
        refused(asked(client, path, if_match=tags), 412, "precondition_failed")


@pytest.mark.parametrize("path", [MEDIA, "/", "/page/page.css"])
def test_dates_are_conditions_where_there_is_no_tag(client: Client, path: str) -> None:
    first = asked(client, path)
    changed, tag = first.headers["last-modified"], first.headers["etag"]
    assert seconds_of(changed) == pytest.approx(time.time(), abs=10 * 365 * 86_400)
    assert asked(client, path, if_modified_since=changed).status_code == 304
    assert asked(client, path, if_modified_since=TOMORROW).status_code == 304
    assert asked(client, path, if_modified_since="Sun, 06 Nov 1994 08:49:37 GMT").status_code == 200
    assert (
        asked(client, path, if_modified_since="Sunday, 06-Nov-94 08:49:37 GMT").status_code == 200
    )
    assert asked(client, path, if_modified_since="rain").status_code == 200
    assert asked(client, path, if_unmodified_since=changed).status_code == 200
    assert asked(client, path, if_unmodified_since="rain").status_code == 200
    refused(
        asked(client, path, if_unmodified_since="Sun Nov  6 08:49:37 1994"),
        412,
        "precondition_failed",
    )
    # a tag goes before a date (13.2.2)
    assert (
        asked(client, path, if_none_match='"other"', if_modified_since=TOMORROW).status_code == 200
    )
    assert (
        asked(
            client, path, if_match=tag, if_unmodified_since="Sun, 06 Nov 1994 08:49:37 GMT"
        ).status_code
        == 200
    )
    assert (
        asked(
            client, path, if_none_match=tag, if_modified_since="Sun, 06 Nov 1994 08:49:37 GMT"
        ).status_code
        == 304
    )


def test_a_film_that_is_replaced_does_not_go_on_with_the_others_bytes(
    tmp_path: Path, film: Path
) -> None:
    with Client(create_app(Settings(data=tmp_path / "data"), FakeEncoder())) as client:
        add(client, film, id="film")
        before = asked(client)
        tag, part = before.headers["etag"], {"range": "bytes=100-199"}
        assert asked(client, if_match=tag, **part).status_code == 206
        add(client, make_clip(tmp_path / "film.mp4", [GREEN, GREEN]), id="film")
        refused(asked(client, if_match=tag, **part), 412, "precondition_failed")
        whole = asked(client, if_range=tag, **part)
        assert whole.status_code == 200 and whole.content == (tmp_path / "film.mp4").read_bytes()
        assert asked(client, if_none_match=tag).status_code == 200


def test_a_file_that_is_deleted_before_it_is_sent_is_sent_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    for asks, expected in (("bytes=", b"0123456789"), ("bytes=2-4", b"234"), ("bytes=-1", b"9")):
        file.write_bytes(b"0123456789")
        answer = Stored(file, "text/plain")
        file.unlink()
        sent = Client(answer).get("/", headers={"range": asks} if asks != "bytes=" else {})
        assert sent.content == expected


@pytest.mark.parametrize(
    "part, kind", [("media", "video/mp4"), ("clip?start_s=0&end_s=1", "video/webm")]
)
def test_an_item_that_is_replaced_meanwhile_is_one_version(
    tmp_path: Path, film: Path, monkeypatch: pytest.MonkeyPatch, part: str, kind: str
) -> None:
    """A sound is replaced by a film after its record has been read."""
    sound = make_wav(tmp_path / "a.wav", 3.0)
    find = Collection.item
    with Client(create_app(Settings(data=tmp_path / "data"), FakeEncoder())) as client:
        add(client, sound, id="a")
        replacing = iter([False, True]) if "clip" in part else iter([True])

        def find_and_replace(self: Collection, id: str) -> Item:
            found = find(self, id)
            if next(replacing, False):
                add(client, film, id="a")
            return found

        monkeypatch.setattr(Collection, "item", find_and_replace)
        answer = client.get(f"{ITEMS}/a/{part}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
        if part == "media":
            assert answer.content == film.read_bytes()


def test_a_sound_that_is_replaced_while_it_is_cut_is_looked_at_again(
    tmp_path: Path, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(Settings(data=tmp_path / "data"), FakeEncoder())
    with Client(app) as client:
        add(client, make_wav(tmp_path / "a.wav", 3.0), id="a")
        start = Converters.start
        replacing = iter([True])

        def replace_and_start(self: Converters, *args: Any) -> Any:
            if next(replacing, False):
                box = app.state.owner.active.state.collections.get("default")
                other = NewItem(id="a", kind="audio", duration_s=3.0, windows=[], vectors={})
                box.put_media(other, make_wav(tmp_path / "b.wav", 3.0, hz=880.0))
            return start(self, *args)

        monkeypatch.setattr(Converters, "start", replace_and_start)
        answer = client.get(f"{ITEMS}/a/clip?start_s=0&end_s=1")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/flac")


def test_an_older_file_in_the_place_of_another_is_another_version(tmp_path: Path) -> None:
    """Same size, an older time, as `cp -p` and `rsync -t` leave it."""
    library = tmp_path / "library"
    library.mkdir()
    tone, other = (
        make_wav(library / "tone.wav", 1.0),
        make_wav(tmp_path / "other.wav", 1.0, hz=880.0),
    )
    os.utime(other, (1_000_000_000, 1_000_000_000))
    with Client(
        create_app(Settings(data=tmp_path / "data", imports=library), FakeEncoder())
    ) as client:
        finished(client, started(client, "."))
        media = f"{ITEMS}/tone.wav/media"
        first = asked(client, media)
        # dates have whole seconds
        wait_until(lambda: int(time.time()) > int(tone.stat().st_ctime))
        shutil.copy2(other, tone)
        since = first.headers["last-modified"]
        assert (
            asked(client, media, if_none_match=first.headers["etag"]).content == other.read_bytes()
        )
        assert asked(client, media, if_modified_since=since).content == other.read_bytes()


# ---------------------------------------------------------------- ranges


@pytest.mark.parametrize(
    "asks, parts",
    [
        ("bytes=0-9", [(0, 10)]),
        ("bytes=0-", [(0, 100)]),
        ("bytes=-9", [(91, 100)]),
        ("bytes=-900", [(0, 100)]),
        ("BYTES = 5-5", [(5, 6)]),
        ("bytes=90-900", [(90, 100)]),
        ("bytes= 0-9 ,, 20-29", [(0, 10), (20, 30)]),
        ("bytes=0-9,100-", [(0, 10)]),
        ("bytes=100-,-0,3-3", [(3, 4)]),
        ("bytes=100-", []),
        ("bytes=-0", []),
        ("bytes=" + "9" * 5000 + "-", []),
        ("bytes=0-" + "9" * 5000, [(0, 100)]),
        ("items=0-9", None),
        ("seconds=1-2", None),
        ("bytes=" + ",".join(["0-0"] * 101), None),
    ],
)
def test_ranges(asks: str, parts: list[tuple[int, int]] | None) -> None:
    assert ranges_of(asks, 100) == parts


@pytest.mark.parametrize(
    "asks",
    [
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=9-0",
        "bytes=a-b",
        "bytes=1_0-20",
        "bytes=0-9,x",
        "bytes=٣-٤",
    ],
)
def test_ranges_that_are_none(asks: str) -> None:
    with pytest.raises(BadRange):
        ranges_of(asks, 100)


def test_parts_of_a_film(client: Client, film: Path) -> None:
    data = film.read_bytes()
    size, tag = len(data), asked(client).headers["etag"]
    for asks, first, end in (
        ("0-9", 0, 10),
        ("-9", size - 9, size),
        (f"5-{size}", 5, size),
        ("0-9,99999999-", 0, 10),
    ):
        part = asked(client, range=f"bytes={asks}")
        assert part.status_code == 206 and part.content == data[first:end], asks
        assert part.headers["content-range"] == f"bytes {first}-{end - 1}/{size}"
        assert part.headers["etag"] == tag and part.headers["accept-ranges"] == "bytes"
    two = asked(client, range="bytes=0-9,99999999-,20-29")
    assert two.status_code == 206 and two.headers["content-type"].startswith(
        "multipart/byteranges; boundary="
    )
    assert (
        two.content.count(b"Content-Range: bytes ") == 2
        and b"Content-Range: bytes 20-29/" in two.content
    )
    assert data[:10] in two.content and data[20:30] in two.content and b"video/mp4" in two.content
    for asks in ("items=0-9", "seconds=1-2"):
        assert asked(client, range=asks).content == data
    for asks in (f"bytes={size}-", "bytes=-0", "bytes=99999999-,88888888-"):
        nowhere = asked(client, range=asks)
        refused(nowhere, 416, "bad_range")
        assert nowhere.headers["content-range"] == f"bytes */{size}"
    assert "'9-0'" in refused(asked(client, range="bytes=9-0"), 400, "bad_range")["message"]


def test_a_part_of_what_is_still_there(client: Client) -> None:
    first = asked(client)
    for has in (first.headers["etag"], first.headers["last-modified"]):
        assert asked(client, range="bytes=0-9", if_range=has).status_code == 206
    for has in ('"other"', f"W/{first.headers['etag']}", YESTERDAY, "rain"):
        whole = asked(client, range="bytes=0-9", if_range=has)
        assert whole.status_code == 200 and whole.content == first.content
    assert asked(client, range="bytes=99999999-", if_range='"other"').status_code == 200
    assert asked(client, range="bytes=0-9", if_none_match=first.headers["etag"]).status_code == 304
    refused(asked(client, range="bytes=0-9", if_match='"other"'), 412, "precondition_failed")


@pytest.mark.parametrize("path", [MEDIA, POSTER, f"{ITEMS}/film/waveform", "/", "/page/page.css"])
def test_head_says_what_get_does(client: Client, path: str) -> None:
    whole = asked(client, path)
    varying = ("x-request-id", "server-timing")
    for headers in ({}, {"range": "bytes=0-9"}):
        head = asked(client, path, "HEAD", **headers)
        assert (head.status_code, head.content) == (200, b"")
        assert {k: v for k, v in head.headers.items() if k not in varying} == {
            k: v for k, v in whole.headers.items() if k not in varying
        }
    assert int(whole.headers["content-length"]) == len(whole.content)
    assert asked(client, f"{ITEMS}/nobody/media", "HEAD").status_code == 404


def test_heads_over_a_line_have_no_body(tmp_path: Path) -> None:
    """And a request that names no host, or two, is none (RFC 9112, 3.2)."""
    with listening(Settings(data=tmp_path / "data")) as port:
        close = b"Host: localhost\r\nConnection: close\r\n\r\n"
        for path in (b"/", b"/page/page.js", b"/v1/collections/default/items/nobody/poster"):
            head, _, rest = exchanged(port, b"HEAD " + path + b" HTTP/1.1\r\n" + close).partition(
                b"\r\n\r\n"
            )
            assert rest == b"" and b"content-length: " in head
        for hosts in (b"", b"Host: localhost\r\nHost: localhost\r\n"):
            answer = exchanged(port, b"GET /healthz HTTP/1.1\r\n" + hosts + b"\r\n")
            assert (
                answer.startswith(b"HTTP/1.1 400")
                and b'"bad_request"' in answer
                and answer.count(b"HTTP/1.1") == 1
            )
        assert exchanged(port, b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_every_route_behind_a_key_says_how_to_show_it(tmp_path: Path) -> None:
    with Client(
        create_app(Settings(data=tmp_path / "data", api_keys="sesame"), FakeEncoder())
    ) as client:
        behind = [route for route in ROUTES if isinstance(route, APIRoute) and "/v1/" in route.path]
        assert len(behind) > 20
        for route in behind:
            for method in route.methods:
                path = re.sub(r"\{.*?\}", "x", route.path)
                answer = client.request(
                    method, path, headers={"range": "bytes=0-9", "if-none-match": "*"}
                )
                assert (answer.status_code, answer.headers["www-authenticate"]) == (
                    401,
                    "Bearer",
                ), (method, path)


# ---------------------------------------------------------------- media types


def write_film(path: Path, container: str, video: str = "mpeg4", audio: str | None = "aac") -> Path:
    """Half a second of one colour and, where a codec is said, a tone, whatever the name says."""
    with av.open(str(path), "w", format=container) as out:
        pictures = out.add_stream(video, rate=25)
        pictures.width, pictures.height, pictures.pix_fmt = (
            64,
            64,
            "rgb8" if video == "gif" else "yuv420p",
        )
        sound = (
            out.add_stream(audio, rate=48_000, layout="stereo", bit_rate=128_000) if audio else None
        )
        image = np.full((64, 64, 3), RED, np.uint8)
        for _ in range(13):
            out.mux(pictures.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(pictures.encode(None))
        if sound:
            mux_tone(out, sound)
    return path


def write_sound(path: Path, container: str, codec: str) -> Path:
    with av.open(str(path), "w", format=container) as out:
        mux_tone(out, out.add_stream(codec, rate=48_000, layout="stereo", bit_rate=128_000))
    return path


def mux_tone(out: Any, stream: Any) -> None:
    tone = make_tone(0.5, 440.0, 48_000)
    fifo = av.AudioFifo()
    frame = av.AudioFrame.from_ndarray(np.stack([tone, tone]), format="fltp", layout="stereo")
    frame.sample_rate = 48_000
    fits = av.AudioResampler(stream.codec_context.format, "stereo", 48_000)
    for fitting in fits.resample(frame):
        fifo.write(fitting)
    for piece in fifo.read_many(stream.codec_context.frame_size or 1024, partial=True):
        out.mux(stream.encode(piece))
    out.mux(stream.encode(None))


FILMS = [
    ("mp4", "mpeg4", "aac", "video/mp4"),
    ("mov", "mpeg4", "aac", "video/quicktime"),
    ("3gp", "mpeg4", "aac", "video/3gpp"),
    ("3g2", "mpeg4", "aac", "video/3gpp2"),
    ("matroska", "mpeg4", "aac", "video/x-matroska"),
    ("webm", "libvpx", "libopus", "video/webm"),
    ("avi", "mpeg4", "mp2", "video/x-msvideo"),
    ("mpegts", "mpeg2video", "mp2", "video/mp2t"),
    ("mpeg", "mpeg2video", "mp2", "video/mpeg"),
    ("asf", "mpeg4", "wmav2", "video/x-ms-wmv"),
    ("flv", "flv", None, "video/x-flv"),
    ("gif", "gif", None, "image/gif"),
]
SOUNDS = [
    ("wav", "pcm_s16le", "audio/x-wav"),
    ("flac", "flac", "audio/flac"),
    ("mp3", "libmp3lame", "audio/mpeg"),
    ("ogg", "libopus", "audio/ogg"),
    ("mp4", "aac", "audio/mp4"),
    ("3gp", "aac", "audio/3gpp"),
    ("matroska", "flac", "audio/x-matroska"),
    ("webm", "libopus", "audio/webm"),
    ("adts", "aac", "audio/aac"),
    ("asf", "wmav2", "audio/x-ms-wma"),
    ("aiff", "pcm_s16be", "audio/x-aiff"),
    ("au", "pcm_s16be", "audio/basic"),
    ("caf", "pcm_s16le", "audio/x-caf"),
    ("w64", "pcm_s16le", "audio/x-w64"),
    ("wv", "wavpack", "audio/x-wavpack"),
    ("tta", "tta", "audio/x-tta"),
    ("ac3", "ac3", "audio/ac3"),
    ("eac3", "eac3", "audio/eac3"),
]


@pytest.mark.parametrize("name", ["blob", "page.html", "wrong.mp3"])
def test_a_media_type_is_of_the_content(tmp_path: Path, name: str) -> None:
    for container, video, audio, right in FILMS:
        assert (
            media_type(write_film(tmp_path / name, container, video, audio), pictures=True) == right
        )
    for container, codec, right in SOUNDS:
        assert media_type(write_sound(tmp_path / name, container, codec), pictures=False) == right


def test_tags_in_front_do_not_hide_what_a_sound_is(tmp_path: Path) -> None:
    """Longer than what is read of a file, one behind another,
    with a footer, and of the kind APE.
    """
    tag = b"ID3\x04\0\0" + bytes([0, 2, 0, 0]) + bytes(2 << 14)
    footed = (
        b"ID3\x04\0\x10" + bytes([0, 0, 1, 0]) + bytes(128) + b"3DI\x04\0\x10" + bytes([0, 0, 1, 0])
    )
    ape = (
        b"APETAGEX"
        + (2000).to_bytes(4, "little")
        + (64).to_bytes(4, "little")
        + bytes(16)
        + bytes(64)
    )
    for container, codec, right in (("flac", "flac", "audio/flac"), ("adts", "aac", "audio/aac")):
        sound = write_sound(tmp_path / "sound", container, codec).read_bytes()
        for front in (tag, tag + footed, footed + bytes(100), ape):
            (tmp_path / "tagged").write_bytes(front + sound)
            assert media_type(tmp_path / "tagged", pictures=False) == right
    (tmp_path / "junk.mp3").write_bytes(b"<html><script>" * 500)
    (tmp_path / "junk.html").write_bytes(b"<html><script>" * 500)
    assert media_type(tmp_path / "junk.mp3", pictures=False) == "audio/mpeg"
    assert media_type(tmp_path / "junk.html", pictures=False) == "application/octet-stream"
    for length in range(40):
        (tmp_path / "short").write_bytes((tag + b"\xff\xfb")[:length])
        assert "/" in media_type(tmp_path / "short", pictures=False)


def test_items_are_sent_as_what_they_are(tmp_path: Path) -> None:
    """Uploads under any name, and what batch building found,
    whatever the machine's own table says.
    """
    library, encoder = tmp_path / "library", FakeEncoder()
    library.mkdir()
    write_film(library / "film.3gp", "3gp")
    write_sound(library / "sound.m4a", "mp4", "aac")
    collections = Collections(
        tmp_path / "data", encoder.manifest.fingerprint, encoder.manifest.dims
    )
    decoders = Decoders(1)
    list(build(encoder, collections.create("default"), [library], decoders, Budget()))
    decoders.close()
    collections.close()
    with Client(create_app(Settings(data=tmp_path / "data"), FakeEncoder())) as client:
        add(client, write_film(tmp_path / "blob", "mpegts", "mpeg2video", "mp2"), id="phone")
        add(client, write_sound(tmp_path / "take.mp4", "3gp", "aac"), id="take")
        right = {"library/film.3gp": "video/3gpp", "library/sound.m4a": "audio/mp4"}
        right |= {"phone": "video/mp2t", "take": "audio/3gpp"}
        for id, kind in right.items():
            for method in ("GET", "HEAD"):
                assert (
                    asked(client, f"{ITEMS}/{id}/media", method).headers["content-type"] == kind
                ), id


# ---------------------------------------------------------------- uploads keep their suffix


def write_tagged_flac(path: Path) -> Path:
    """Sound behind a tag longer than FFmpeg's probe of 1 MiB, which only the file's name helps it
    through.
    """
    size = 1_300_000
    synchsafe = bytes([size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127])
    cover = b"APIC" + bytes(
        [
            (size - 10) >> 21 & 127,
            (size - 10) >> 14 & 127,
            (size - 10) >> 7 & 127,
            (size - 10) & 127,
        ]
    )
    picture = (
        b"\0\0\0image/jpeg\0\x03\0"
        + np.random.default_rng(0).integers(1, 255, size, np.uint8).tobytes()
    )
    sound = write_sound(path, "flac", "flac").read_bytes()
    path.write_bytes(b"ID3\x04\0\0" + synchsafe + (cover + picture)[:size] + sound)
    return path


def test_uploads_keep_their_suffix_for_the_decoder(tmp_path: Path) -> None:
    song = write_tagged_flac(tmp_path / "Song.FLAC")
    data = tmp_path / "data"
    with Client(create_app(Settings(data=data), FakeEncoder())) as client:
        assert client.post("/v1/embed/audio", files=upload(song)).status_code == 200
        assert add(client, song, id="song")["duration_s"] == pytest.approx(0.5, abs=0.1)
        assert asked(client, f"{ITEMS}/song/media").headers["content-type"] == "audio/flac"
        found = client.post("/v1/search/audio-audio", files=upload(song)).json()
        assert [hit["id"] for hit in found["hits"]] == ["song"]
        request = '{"parts": [{"file": "a", "modality": "audio"}], "targets": ["audio"]}'
        files = {"a": (song.name, song.read_bytes())}
        composed = client.post("/v1/search", data={"request": request}, files=files)
        assert composed.status_code == 200 and composed.json()["hits"][0]["id"] == "song"
        sound: dict[str, Any] = {"data": base64.b64encode(song.read_bytes()).decode()}
        for format, status in (("flac", 200), (None, 415)):
            part = {
                "type": "input_audio",
                "input_audio": sound | ({"format": format} if format else {}),
            }
            assert client.post("/v1/embeddings", json={"input": [part]}).status_code == status
    decoders = Decoders(1)
    list(reembed(data, "default", FakeEncoder("another"), decoders, Budget()))
    decoders.close()
    kept = list((data / "reembed" / "default" / "media").iterdir())
    assert [path.suffix for path in kept] == [".flac"]


@pytest.mark.parametrize(
    "name, suffix",
    [
        ("Song.FLAC", ".flac"),
        ("../../etc/x.mp3", ".mp3"),
        ("a\\..\\b.wav", ".wav"),
        ("x.mp3/../../y", ""),
        ("x.sh", ""),
        ("x.flac\0.sh", ""),
        ("x.sh\0.flac", ".flac"),
        (".flac", ""),
        ("x.", ""),
        ("x.flac ", ""),
        ("\udcff.ogg", ".ogg"),
        ("x." + "f" * 100_000, ""),
        ("", ""),
        (None, ""),
    ],
)
def test_only_a_known_suffix_of_a_clients_name_is_taken(name: str | None, suffix: str) -> None:
    assert media_suffix(name) == suffix
