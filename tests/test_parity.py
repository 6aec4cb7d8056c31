"""The same questions by HTTP, the Python client, an assistant's tools and the command: their
answers agree.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from index.__main__ import main as index_main
from service.client import Client, Refused
from service.links import item_address
from service.mcp import create_server

from .makers import ROOT, free_port, serving

SAMPLES = ("dog-barking", "rain", "journey")
ITEMS = "/v1/collections/default/items"
TIMED = {"took_ms", "added"}  # differ from one time to another


@dataclass
class Asked:
    """A service with three items, and what asks it."""

    http: httpx.Client
    client: Client
    tools: MCPServer
    copy: Path  # of its data folder

    def tool(self, name: str, **arguments: Any) -> Any:
        """What a tool answers; the message of its error as text."""
        try:
            result: Any = asyncio.run(self.tools.call_tool(name, arguments))
        except ToolError as error:
            return str(error).removeprefix(f"Error executing tool {name}: ")
        answer = result.structured_content
        return answer["result"] if answer.keys() == {"result"} else answer

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return read(self.http.post(path, json=body))

    def get(self, path: str, **query: Any) -> Any:
        return read(self.http.get(path, params=query))


def read(response: httpx.Response) -> Any:
    """An answer; an error as the client words it."""
    answer = response.json() if response.content else None
    if response.is_success:
        return answer
    error = answer["error"]
    return str(Refused(response.status_code, error["code"], error["message"], error["detail"]))


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(Refused) as error:
        call()
    return str(error.value)


def hits(found: dict[str, Any]) -> list[tuple[object, ...]]:
    kept = ("id", "kind", "score", "confidence", "start_s", "end_s", "moments")
    assert found["hits"]
    return [tuple(hit[key] for key in kept) for hit in found["hits"]]


def lasting(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key not in TIMED}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("parity")
    lines = (ROOT / "sample/manifest.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    manifest = place / "three.jsonl"
    with manifest.open("w", encoding="utf-8") as out:
        for row in rows:
            if row.get("id") in SAMPLES:
                row["path"] = str(ROOT / "sample" / row["path"])
                out.write(json.dumps(row) + "\n")
    assert index_main(["build", "--data", str(place / "data"), str(manifest)]) == 0
    return place / "data"


@pytest.fixture(scope="module")
def asked(data: Path) -> Iterator[Asked]:
    copy = data.with_name("copy")
    shutil.copytree(data, copy)
    port = free_port()
    with serving(data, "--bundle", str(ROOT / "bundles/default"), port=port) as (http, _):
        url = f"http://127.0.0.1:{port}"
        with Client(url, retries=0) as client:
            yield Asked(http, client, create_server(client, ROOT / "sample"), copy)


SEARCHES: tuple[tuple[str, str, dict[str, Any] | None], ...] = (
    ("a dog barking", "any", None),
    ("rain on a roof", "audio", None),
    ("a dog", "video", {"duration_s": {"$lt": 8}}),
    ("rain", "text", None),
)
WRONG = {"a": {"$x": 1}}


def test_searches_agree(asked: Asked) -> None:
    for words, target, filter in SEARCHES:
        body = {"query": words, "top_k": 2, "filter": filter}
        found = asked.post(f"/v1/search/text-{target}", body)
        options: dict[str, Any] = {"target": target, "filter": filter}
        by_client = asked.client.search(words, top_k=2, **options)
        assert lasting(found) == lasting(dict(by_client))
        assert hits(found) == hits(asked.tool("search", words=words, limit=2, **options))
    steps: list[dict[str, Any]] = [{"text": "a dog"}, {"text": "a train", "then": True}]
    found = asked.post("/v1/search", {"parts": steps, "targets": ["any"], "top_k": 2})
    assert hits(found) == hits(dict(asked.client.compose(steps, ["any"], top_k=2)))
    assert hits(found) == hits(asked.tool("search", words="a dog", then=["a train"], limit=2))
    marks = {"right": [{"id": "rain"}], "wrong": [{"id": "journey"}]}
    body = {"query": "weather", "feedback": marks}
    found = asked.post("/v1/search/text-any", body)
    assert hits(found) == hits(dict(asked.client.search("weather", feedback=marks)))
    assert hits(found) == hits(
        asked.tool("search", words="weather", right=["rain"], wrong=["journey"])
    )


def test_what_is_told_of_an_item_agrees(asked: Asked) -> None:
    item, client = f"{ITEMS}/dog-barking", asked.client
    described = asked.tool("describe", id="dog-barking", limit=3)
    assert asked.get(item) == client.item("default", "dog-barking") == described["item"]
    sentences = asked.get(f"{item}/description", limit=3)
    assert sentences == client.description("default", "dog-barking", 3)
    assert sentences["sentences"] == described["sentences"] != []
    texts = ["a dog", "a train"]
    ranking = asked.post("/v1/rank", {"texts": texts, "item": "dog-barking"})
    assert ranking == client.rank(texts, "dog-barking")
    assert ranking == asked.tool("rank", id="dog-barking", texts=texts)
    found = asked.get(f"{ITEMS}/journey/highlights", limit=2)
    assert found == client.highlights("default", "journey", 2)
    assert {"highlights": found} == asked.tool("highlights", id="journey", limit=2)
    tags = asked.get("/v1/collections/default/tags", limit=4)
    assert tags == client.tags(limit=4) == asked.tool("tags", limit=4)
    agreement = asked.get("/v1/collections/default/agreement", limit=2)
    assert agreement == client.agreement(limit=2) == asked.tool("agreement", limit=2)
    collections = asked.get("/v1/collections")["collections"]
    assert collections == client.collections() == asked.tool("collections")


def test_items_and_marks_come_and_go_alike(asked: Asked) -> None:
    client, file = asked.client, ROOT / "sample/rain.ogg"
    added = []
    for id in ("by http", "a/../by client", "by/tool"):
        if id == "by http":
            form = {"id": id, "metadata": '{"n": 1}'}
            parts = {"file": (file.name, file.read_bytes())}
            added.append(read(asked.http.post(ITEMS, data=form, files=parts)))
        elif id == "by/tool":
            added.append(asked.tool("add", path=file.name, id=id, metadata={"n": 1}))
        else:
            added.append(dict(client.add("default", file, id, {"n": 1})))
        told = asked.get(item_address("default", id, "", None).removesuffix("/"))
        assert told["id"] == id == added[-1].pop("id")
        assert told == client.item("default", id) == asked.tool("describe", id=id)["item"]
        assert told["metadata"] == {"n": 1}
        client.delete("default", id)
        assert "no item" in refused(lambda id=id: client.item("default", id))  # type: ignore[misc]
    assert added[0] == added[1] == added[2]

    right = [{"id": "rain"}]
    for keep in (
        lambda: asked.post("/v1/feedback", {"query": "weather", "right": right})["numbers"],
        lambda: client.mark("weather", right),
        lambda: asked.tool("mark", words="weather", right=["rain"])["numbers"],
    ):
        (number,) = keep()
        (kept,) = client.marks()["marks"]
        assert (kept["number"], kept["query"], kept["id"]) == (number, "weather", "rain")
        assert client.marks() == asked.get("/v1/feedback")
        client.delete_mark(number)


def test_errors_say_the_same(asked: Asked) -> None:
    client = asked.client
    search = "/v1/search/text-any"
    for by_http, by_client, by_tool in (
        (
            asked.get(f"{ITEMS}/none"),
            lambda: client.item("default", "none"),
            asked.tool("describe", id="none"),
        ),
        (
            asked.post(search, {"query": "dog", "collection": "none"}),
            lambda: client.search("dog", collection="none"),
            asked.tool("search", words="dog", collection="none"),
        ),
        (
            asked.post(search, {"query": "dog", "filter": WRONG}),
            lambda: client.search("dog", filter=WRONG),
            asked.tool("search", words="dog", filter=WRONG),
        ),
        (
            asked.post(search, {"query": "dog", "top_k": 0}),
            lambda: client.search("dog", top_k=0),
            asked.tool("search", words="dog", limit=0),
        ),
        (
            asked.post("/v1/rank", {"texts": ["a"], "item": "rain"}),
            lambda: client.rank(["a"], "rain"),
            asked.tool("rank", texts=["a"], id="rain"),
        ),
        (
            asked.get("/v1/collections/default/tags", limit=0),
            lambda: client.tags(limit=0),
            asked.tool("tags", limit=0),
        ),
        (
            read(asked.http.delete("/v1/feedback/99")),
            lambda: client.delete_mark(99),
            asked.tool("unmark", numbers=[99]),
        ),
    ):
        assert by_http == refused(by_client) == by_tool
    assert asked.post("/v1/jobs", {"path": "x"}) == refused(lambda: client.import_folder("x"))


def test_an_empty_id_is_refused_everywhere(asked: Asked) -> None:
    """It once counted as none: each time it was sent, another item was added."""
    file = ROOT / "sample/rain.ogg"
    parts = {"file": (file.name, file.read_bytes())}
    before = asked.get("/v1/collections/default")["items"]
    messages = {
        read(asked.http.post(ITEMS, data={"id": ""}, files=parts)),
        asked.post(ITEMS, {"text": "rain", "id": ""}),
        refused(lambda: asked.client.add("default", file, "")),
        refused(lambda: asked.client.add("default", "rain", "")),
        asked.tool("add", path=file.name, id=""),
    }
    assert messages == {"id: String should have at least 1 character (bad_request, 400)"}
    assert asked.get("/v1/collections/default")["items"] == before


def test_a_jobs_id_is_no_path(asked: Asked) -> None:
    for id in ("a?b", "a#b", "a b"):
        assert refused(lambda id=id: asked.client.job(id)) == (  # type: ignore[misc]
            f"No job {id!r}. (unknown_job, 404)"
        )


def test_a_rank_of_an_item_and_a_file_is_refused(asked: Asked) -> None:
    file = ROOT / "sample/rain.ogg"
    both = refused(lambda: asked.client.rank(["a", "b"], item="rain", file=file))
    assert both == asked.post("/v1/rank", {"texts": ["a", "b"]})


def test_the_command_answers_alike(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    """On a copy of the data folder: one process at a time has one open."""

    def command(*arguments: str) -> Any:
        status = index_main([arguments[0], "--data", str(asked.copy), *arguments[1:], "--json"])
        printed = capsys.readouterr()
        return json.loads(printed.out) if status == 0 else printed.err.strip()

    filter = {"duration_s": {"$lt": 8}}
    body = {"query": "a dog barking", "top_k": 2, "filter": filter}
    found = asked.post("/v1/search/text-any", body)
    flags = ["--filter", json.dumps(filter), "--text", "a dog barking", "--top-k", "2"]
    answer = command("search", *flags)
    assert lasting(found) == lasting(answer) and found.keys() == answer.keys()
    file = ROOT / "sample/rain.ogg"
    parts = {"file": (file.name, file.read_bytes())}
    found = read(asked.http.post("/v1/search/audio-text", files=parts))
    assert lasting(found) == lasting(command("search", "--audio", str(file), "--target", "text"))
    assert asked.get(ITEMS) == command("items")
    tags = asked.get("/v1/collections/default/tags", limit=4)
    assert tags == command("tags", "--limit", "4")
    wrong = command("search", "--text", "dog", "--filter", json.dumps(WRONG))
    told = asked.post("/v1/search/text-any", {"query": "dog", "filter": WRONG})
    assert told.startswith(wrong.removeprefix("search: ") + " (")
