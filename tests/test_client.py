"""The Python client against a real server, in both manners."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from index import highlights, search
from index.calibration import Calibration
from service import client, jobs, schemas
from service.client import AsyncClient, Client, Refused
from service.settings import Settings

from .makers import BLUE, GREEN, RED, make_clip, make_wav
from .test_operate import listening


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("clips")
    (place / "broken.mp4").write_bytes(b"nothing")
    story = make_clip(place / "story.mp4", [BLUE, BLUE, RED, RED])
    return {
        "story": story,
        "green": make_clip(place / "green.mp4", [GREEN]),
        "tone": make_wav(place / "tone.wav", 2.0),
    }


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, clips: dict[str, Path]) -> Iterator[str]:
    settings = Settings(
        data=tmp_path_factory.mktemp("data") / "data", api_keys="k", imports=clips["tone"].parent
    )
    with listening(settings) as port:
        yield f"http://127.0.0.1:{port}"


def test_everything_once(address: str, clips: dict[str, Path]) -> None:
    seen: list[tuple[int, int]] = []
    with Client(address, key="k") as tercet:
        size = clips["story"].stat().st_size
        added = tercet.add(
            "default",
            clips["story"],
            "a/story",
            {"year": 2024},
            seen=lambda at, of: seen.append((at, of)),
        )
        assert added["id"] == "a/story" and seen[-1] == (size, size)
        tercet.add("default", "green blue", "words")
        assert tercet.embed_text(["red"]) == [[1.0, 0.0, 0.0, 0.0]]
        assert tercet.embed_file(clips["tone"], "audio")[3] == 1.0
        (hit,) = tercet.search("red", filter={"year": {"$gt": 2020}}, top_k=5)["hits"]
        assert (hit["id"], hit["start_s"], hit["end_s"]) == ("a/story", 2.0, 4.0)
        by_sound = tercet.search(clips["tone"], "audio", filter={"year": 2024}, exact=True)
        assert by_sound["route"] == "audio-audio" and by_sound["hits"][0]["id"] == "a/story"
        assert tercet.search(clips["green"], "text", source="video")["hits"][0]["id"] == "words"
        parts = [{"file": "film", "modality": "video"}, {"text": "blue", "weight": 0.5}]
        mixed = tercet.compose(parts, ["text"], files={"film": clips["green"]})
        assert mixed["hits"][0]["id"] == "words" and len(mixed["hits"][0]["parts"]) == 2
        assert tercet.item("default", "a/story")["metadata"] == {"year": 2024}
        (first,) = tercet.highlights("default", "a/story", limit=1)
        assert 0.0 <= first["start_s"] < first["end_s"] <= 4.5
        where = tercet.where("default", "a/story", "red", start_s=2.0)
        assert where["start_s"] == 2.0 and where["video"] is not None
        assert [len(frame["map"]) for frame in where["video"]["frames"]] == [2] * 4
        agreed = tercet.agreement()
        assert [item["id"] for item in agreed["items"]] == ["a/story"]
        assert tercet.agreement(skip=1)["items"] == []
        starts = [one["start_s"] for one in tercet.item_agreement("default", "a/story")]
        assert starts and starts == sorted(starts)
        (number,) = tercet.mark("red", right=[{"id": "a/story", "start_s": 2.0}])
        assert [mark["number"] for mark in tercet.marks()["marks"]] == [number]
        tercet.delete_mark(number)
        assert tercet.marks()["marks"] == []
        job = tercet.wait(tercet.import_folder(".")["id"], every_s=0.05)
        assert (job["state"], job["indexed"], job["failed"]) == ("done", 3, 1)
        tercet.delete("default", "words")
        with pytest.raises(Refused) as refused:
            tercet.item("default", "words")
        assert (refused.value.status, refused.value.code) == (404, "unknown_item")
        assert [c["name"] for c in tercet.collections()] == ["default"]
    with Client(address, key="wrong") as stranger, pytest.raises(Refused, match="unauthorized"):
        stranger.collections()


def test_everything_awaited(address: str, clips: dict[str, Path]) -> None:
    async def work() -> None:
        async with AsyncClient(address, key="k") as tercet:
            await tercet.add("default", clips["green"], "mine")
            hits = (await tercet.search("green"))["hits"]
            assert "mine" in [hit["id"] for hit in hits]
            vectors = await asyncio.gather(
                *(tercet.embed_text([word]) for word in ("red", "green", "blue"))
            )
            assert [v[0].index(1.0) for v in vectors] == [0, 1, 2]
            assert (await tercet.embed_file(clips["tone"], "audio"))[3] == 1.0
            assert (await tercet.wait((await tercet.import_folder("tone.wav"))["id"], 0.05))[
                "state"
            ] == "done"
            assert (await tercet.item("default", "mine"))["kind"] == "video"
            await tercet.delete("default", "mine")
            with pytest.raises(Refused):
                await tercet.item("default", "mine")
            assert len(await tercet.collections()) == 1

    asyncio.run(work())


@pytest.mark.parametrize("id", ["a/../b", "../b", "b/.", "b/..", "./b"])
def test_an_id_that_looks_like_a_path_is_no_other_item(address: str, id: str) -> None:
    """Deleting it deletes it, and not `b`, to which its path leads."""
    with Client(address, key="k") as tercet:
        tercet.add("default", "green", "b")
        tercet.add("default", "blue", id)
        assert tercet.item("default", id)["text"] == "blue"
        tercet.delete("default", id)
        assert tercet.item("default", "b")["text"] == "green"
        with pytest.raises(Refused, match="no item"):
            tercet.item("default", id)
        tercet.delete("default", "b")


def test_a_name_of_a_file_that_is_no_path_is_not_searched_as_words(address: str) -> None:
    with Client(address, key="k") as tercet:
        with pytest.raises(ValueError, match="words have no audio: a file is given as a Path"):
            tercet.search("tone.wav", source="audio")
        assert tercet.search("red", source="text")["hits"] is not None


@pytest.mark.parametrize(
    "answer, fields",
    [
        (client.Found, schemas.SearchResult.model_fields),
        (client.Added, schemas.ItemAdded.model_fields),
        (client.Hit, [field.name for field in dataclasses.fields(search.Hit)]),
        (client.Moment, [field.name for field in dataclasses.fields(search.Moment)]),
        (client.Plan, [field.name for field in dataclasses.fields(search.Plan)]),
        (client.Calibration, [field.name for field in dataclasses.fields(Calibration)]),
        (client.Highlight, [field.name for field in dataclasses.fields(highlights.Highlight)]),
        (client.Where, schemas.WhereFound.model_fields),
        (client.SeenWhere, schemas.SeenWhere.model_fields),
        (client.HeardWhere, schemas.HeardWhere.model_fields),
        (client.FrameWhere, schemas.FrameWhere.model_fields),
        (client.Job, [field.name for field in dataclasses.fields(jobs.Job)]),
    ],
)
def test_an_answers_type_has_every_field_that_the_service_sends(
    answer: Any, fields: Iterable[str]
) -> None:
    assert list(answer.__annotations__) == list(fields)


def test_both_clients_have_the_same_methods() -> None:
    def methods(of: type) -> set[str]:
        return {name for name in dir(of) if not name.startswith("_")}

    assert methods(Client) == methods(AsyncClient) >= {"search", "add", "wait"}
    assert Client.search.__doc__ == AsyncClient.search.__doc__


def test_it_asks_again_when_it_is_told_to_wait(clips: dict[str, Path]) -> None:
    """Twice turned away, then answered, with the whole file
    each time; and in the end it gives up.
    """
    bodies: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(request.read())
        error = {"error": {"code": "overloaded", "message": "full", "detail": {}}}
        if len(bodies) < 3:
            return httpx.Response(429, headers={"Retry-After": "0"}, json=error)
        return httpx.Response(
            201, json={"id": "x", "windows": 1, "modalities": [], "duration_s": 1.0}
        )

    with Client("http://test", transport=httpx.MockTransport(answer)) as tercet:
        assert tercet.add("default", clips["tone"])["id"] == "x"
    data = clips["tone"].read_bytes()
    assert len(bodies) == 3 and all(data in body for body in bodies)
    bodies.clear()
    with (
        Client("http://test", retries=1, transport=httpx.MockTransport(answer)) as tercet,
        pytest.raises(Refused),
    ):
        tercet.embed_text(["x"])
    assert len(bodies) == 2
    page = httpx.MockTransport(lambda request: httpx.Response(502, text="<html>"))
    with (
        Client("http://test", transport=page) as tercet,
        pytest.raises(Refused, match="Bad Gateway"),
    ):
        tercet.collections()


class Closing:
    """Closes the connection under a request so often, after it has been read, and then answers."""

    def __init__(self, times: int, error: type[httpx.TransportError] = httpx.ReadError) -> None:
        self.times, self.error, self.bodies = times, error, list[bytes]()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.bodies.append(request.read())
        if len(self.bodies) <= self.times:
            raise self.error("Connection reset by peer")
        rows = {
            "data": [{"embedding": [1.0]}],
            "hits": [],
            "collections": [],
            "state": "done",
            "id": "x",
        }
        return httpx.Response(200, json=rows)


def repeatable(tercet: Client, tone: Path) -> dict[str, Callable[[], object]]:
    return {
        "collections": tercet.collections,
        "item": lambda: tercet.item("default", "x"),
        "job": lambda: tercet.job("x"),
        "text": lambda: tercet.embed_text(["red"]),
        "file": lambda: tercet.embed_file(tone, "audio"),
        "search": lambda: tercet.search("red"),
        "search by file": lambda: tercet.search(tone),
        "composed": lambda: tercet.compose([{"text": "red"}], ["any"]),
        "add under an id": lambda: tercet.add("default", tone, "x"),
        "words under an id": lambda: tercet.add("default", "rain", "x"),
    }


@pytest.mark.parametrize("error", [httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError])
def test_what_may_be_sent_twice_is_when_its_connection_is_closed(
    clips: dict[str, Path], error: type[httpx.TransportError]
) -> None:
    for name in repeatable(Client("http://test"), clips["tone"]):
        service = Closing(1, error)
        with Client("http://test", transport=httpx.MockTransport(service)) as tercet:
            repeatable(tercet, clips["tone"])[name]()
        assert len(service.bodies) == 2, name
    service = Closing(9, error)
    with (
        Client("http://test", retries=1, transport=httpx.MockTransport(service)) as tercet,
        pytest.raises(error),
    ):
        tercet.collections()
    assert len(service.bodies) == 2


def test_what_may_not_be_sent_twice_is_not(clips: dict[str, Path]) -> None:
    """The service may have heard it: there would be two items, two jobs, or a deletion of what was
    not there.
    """
    calls: list[Callable[[Client], object]] = [
        lambda tercet: tercet.add("default", clips["tone"]),
        lambda tercet: tercet.add("default", "rain"),
        lambda tercet: tercet.delete("default", "x"),
        lambda tercet: tercet.import_folder("."),
    ]
    for call in calls:
        service = Closing(1)
        with (
            Client("http://test", transport=httpx.MockTransport(service)) as tercet,
            pytest.raises(httpx.ReadError),
        ):
            call(tercet)
        assert len(service.bodies) == 1
    for error in (httpx.ConnectError, httpx.ReadTimeout):  # not a connection closed under a request
        service = Closing(1, error)
        with (
            Client("http://test", transport=httpx.MockTransport(service)) as tercet,
            pytest.raises(error),
        ):
            tercet.collections()
        assert len(service.bodies) == 1


def test_connections_closed_under_those_that_wait(clips: dict[str, Path]) -> None:
    async def work() -> None:
        service = Closing(1)
        async with AsyncClient("http://test", transport=httpx.MockTransport(service)) as tercet:
            assert await tercet.embed_file(clips["tone"], "audio") == [1.0]
        assert len(service.bodies) == 2 and all(
            clips["tone"].read_bytes() in body for body in service.bodies
        )
        service = Closing(1)
        async with AsyncClient("http://test", transport=httpx.MockTransport(service)) as tercet:
            with pytest.raises(httpx.ReadError):
                await tercet.add("default", "rain")
        assert len(service.bodies) == 1

    asyncio.run(work())


def test_a_connection_that_a_server_closes_while_it_rests() -> None:
    """A real one, which goes away as soon as a second request comes in over it."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 19\r\n\r\n"
    answer = head + b'{"collections": []}'
    connections: list[int] = []

    def serve(server: socket.socket) -> None:
        for number in range(2):
            connection, _ = server.accept()
            with connection:
                connections.append(number)
                connection.recv(65_536)
                connection.sendall(answer)
                connection.recv(65_536)  # and is not answered

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        with Client(f"http://127.0.0.1:{server.getsockname()[1]}") as tercet:
            assert [tercet.collections() for _ in range(2)] == [[], []]
        thread.join(10)
    assert connections == [0, 1]
