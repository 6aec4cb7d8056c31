"""The shipped encoder on the sample library: README's commands, as they stand but for the port,
find what they name.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from .makers import ROOT, SHARED, free_port, needs_shared, serving

SAMPLE = ROOT / "sample" / "manifest.jsonl"
# by README's searches; None: an item is added
FOUND = ["dog-barking", "sailboat", "church-bell", "rain", None, "horse"]


def index(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "index", *arguments, "--data", str(data)]
    env = {key: value for key, value in os.environ.items() if not key.startswith("TERCET_")}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "data"
    built = index(folder, "build", str(SAMPLE))
    assert built.returncode == 0, built.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def client(data: Path) -> Iterator[httpx.Client]:
    with serving(data, port=free_port()) as (client, _):
        yield client


def readme_searches() -> list[str]:
    """The commands of README's box of searches."""
    boxes = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    box = next(box for box in boxes if "/v1/search/text-any" in box)
    return [
        command
        for command in re.split(r"\n(?=curl)", re.sub(r"^#.*\n", "", box, flags=re.M))
        if "curl" in command
    ]


def test_readme_finds_what_it_names(client: httpx.Client) -> None:
    commands = readme_searches()
    assert len(commands) == len(FOUND)
    for command, expected in zip(commands, FOUND, strict=True):
        typed = command.replace("http://127.0.0.1:8000", str(client.base_url).rstrip("/"))
        ran = subprocess.run(
            ["bash", "-c", typed], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        answer = json.loads(ran.stdout)
        assert "error" not in answer, (command, answer)
        if expected:
            ids = [hit["id"] for hit in answer["hits"]]
            assert expected in ids[:1] or (ids[0] == "mine" and expected in ids[:2]), (command, ids)
    client.delete("/v1/collections/default/items/mine").raise_for_status()


@pytest.mark.parametrize(
    ("query", "target", "expected"),
    [
        ("a tabby cat's face", "video", "cat-meowing"),
        ("tropical fish over a coral reef", "video", "fish-swimming"),
        ("lightning and thunder", "video", "thunderstorm"),
        ("a fire engine", "any", "fire-engine"),
        ("an elephant", "any", "elephant-walking"),
    ],
)
def test_words_find_things(client: httpx.Client, query: str, target: str, expected: str) -> None:
    answer = client.post(f"/v1/search/text-{target}", json={"query": query}).json()
    assert answer["hits"][0]["id"] == expected
    assert answer["hits"][0]["target"] == target


def test_a_moment_inside_a_longer_clip(client: httpx.Client) -> None:
    """The clip shows a guitar, a violin, a drum kit and a cello, five seconds each."""
    asked = {"query": "a drum kit", "filter": {"subject": "instrument"}}
    hit = client.post("/v1/search/text-video", json=asked).json()["hits"][0]
    assert (hit["id"], hit["start_s"]) == ("instruments", 10.0)


@pytest.mark.foreign
def test_openai_client_as_readme_has_it(client: httpx.Client) -> None:
    boxes = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    box = next(box for box in boxes if "import OpenAI" in box)
    typed = box.replace("http://127.0.0.1:8000", str(client.base_url).rstrip("/"))
    ran = subprocess.run([sys.executable, "-c", typed], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "384\n", ran.stderr


def test_in_int8_sixteen_at_once_get_the_vectors_they_get_alone(tmp_path: Path) -> None:
    """Over HTTP, where what waits is encoded in one batch."""
    rows = [json.loads(row) for row in SAMPLE.read_text("utf-8").splitlines()]
    texts = [*[row["text"] for row in rows if "text" in row][:32], "a", "5?!", "dog " * 100]
    files = {
        "audio": sorted(SAMPLE.parent.glob("*.ogg")),
        "video": sorted(SAMPLE.parent.glob("*.mp4"))[:12],
    }
    asked = [("text", {"json": {"texts": [text]}}) for text in texts]
    asked += [
        (kind, {"files": {"file": (f.name, f.read_bytes())}})
        for kind, some in files.items()
        for f in some
    ]
    with serving(tmp_path / "data", "--precision", "int8", port=free_port()) as (client, _):

        def vector(kind: str, body: dict[str, Any]) -> NDArray[np.float64]:
            answer = client.post(f"/v1/embed/{kind}", **body)
            answer.raise_for_status()
            return np.array(answer.json()["data"][0]["embedding"])

        alone = [vector(*one) for one in asked]
        with ThreadPoolExecutor(16) as at_once:
            together = list(at_once.map(lambda one: vector(*one), asked))
    cosines = [float(a @ b) for a, b in zip(alone, together, strict=True)]
    assert min(cosines) >= 0.9999, [
        (one[0], c) for one, c in zip(asked, cosines, strict=True) if c < 0.9999
    ]


def test_an_older_bundles_collection_is_told_and_embedded_anew(tmp_path: Path) -> None:
    """A data folder of the world's bundle: a search names the command, `index build --reembed`
    (`make run`) runs it.
    """
    old = tmp_path / "data"
    rows = SAMPLE.read_text("utf-8").splitlines()
    texts = tmp_path / "texts.jsonl"
    texts.write_text(
        "\n".join(row for row in rows if "path" not in json.loads(row)) + "\n", encoding="utf-8"
    )
    assert index(old, "build", "--bundle", "bundles/world", str(texts)).returncode == 0
    refused = index(old, "search", "--text", "a dog")
    assert (
        refused.returncode == 1
        and "tercet reembed --data DIR --collection default" in refused.stderr
    )
    built = index(old, "build", "--reembed", str(texts))
    assert built.returncode == 0, built.stderr
    assert f"{len(texts.read_text().splitlines())} items re-embedded" in built.stdout
    assert index(old, "search", "--text", "a dog", "--target", "text").returncode == 0


@functools.cache
def results(name: str) -> dict[str, Any]:
    manifest = SHARED / "real" / f"{name}.jsonl"
    command = [
        sys.executable,
        "-m",
        "export",
        "evaluate",
        "--bundle",
        "bundles/default",
        str(manifest),
    ]
    ran = subprocess.run(
        [*command, "--every-caption", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.mark.slow
@needs_shared
@pytest.mark.parametrize(
    ("name", "route", "least"),
    [
        ("video-sentences", "text-video", {"R@1": 0.42, "R@10": 0.79}),
        ("video-sentences", "text-any", {"R@1": 0.46, "R@10": 0.82}),
        ("video-labels", "text-video", {"R@10": 0.70}),
        ("video-sentences", "video-audio", {"R@10": 0.45}),
        ("sound-captions", "text-audio", {"R@1": 0.24, "R@10": 0.69}),
        ("sound-labels", "text-audio", {"R@10": 0.65}),
    ],
)
def test_it_finds_real_things(name: str, route: str, least: dict[str, float]) -> None:
    found = results(name)[route]
    assert all(found[measure] >= value for measure, value in least.items()), found


@pytest.mark.slow
@needs_shared
@pytest.mark.parametrize(
    ("name", "first", "among_five"), [("real_queries", 7, 14), ("plain_queries", 20, 23)]
)
def test_queries_that_were_written_before(
    name: str, first: int, among_five: int, tmp_path: Path
) -> None:
    """Of queries that were written before any encoder was asked them, how many find a right clip
    first, and among the first five, as docs/encoder.md has it; of those for things that are not
    there, at most one in fifteen is a good match. Of other good matches, nine in ten are right.
    """
    asked = json.loads((ROOT / "tests" / "data" / f"{name}.json").read_text("utf-8"))
    built = index(tmp_path / "data", "build", str(SHARED / "real" / f"{asked['gallery']}.jsonl"))
    assert built.returncode == 0, built.stderr[-2000:]
    with serving(tmp_path / "data", port=free_port()) as (client, _):

        def answer(query: str) -> dict[str, Any]:
            found: dict[str, Any] = client.post("/v1/search/text-any", json={"query": query}).json()
            return found

        places, good = [], []
        for one in asked["queries"]:
            found = answer(one["query"])
            ids = [hit["id"] for hit in found["hits"]]
            places.append(min((ids.index(id) + 1 for id in one["right"] if id in ids), default=99))
            if found["good_match"]:
                good.append(places[-1] == 1)
        wrong = [query for query in asked["absent"] if answer(query)["good_match"]]
    seen = f"{places}, good {good}, wrongly good {wrong}"
    assert sum(place == 1 for place in places) >= first, seen
    assert sum(place <= 5 for place in places) >= among_five, seen
    assert len(wrong) <= len(asked["absent"]) / 15 and sum(good) >= 0.9 * len(good), seen


def test_one_refused_text_among_many_is_named(client: httpx.Client) -> None:
    """By its place in what was sent, sounds between them counted, in the contract's shape and in
    OpenAI's.
    """
    refused = client.post("/v1/embed/text", json={"texts": ["a dog", "rain", " ", "a train"]})
    assert refused.status_code == 400
    assert refused.json()["error"] == {
        "code": "bad_text",
        "message": "the text of index 2 cannot be encoded: it is empty",
        "detail": {"reason": "it is empty", "index": 2},
    }
    refused = client.post("/v1/embeddings", json={"input": ["a dog", "rain", ""]})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "input[2]"
    alone = client.post("/v1/embeddings", json={"input": ""}).json()["error"]
    assert alone["param"] is None and alone["message"] == "this text cannot be encoded: it is empty"
