"""A client of the HTTP contract, on httpx: `Client`, and `AsyncClient` with the same methods to be
awaited.

>>> with Client("http://127.0.0.1:8000") as tercet:  # doctest: +SKIP
...     tercet.add("archive", Path("rain.wav"), metadata={"year": 2024})
...     for hit in tercet.search("rain on a tin roof", target="audio", collection="archive")["hits"]:
...         print(hit["id"], hit["start_s"], hit["score"])
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypedDict, TypeVar
from urllib.parse import quote

import httpx

Modality = Literal["video", "audio", "text"]
Target = Literal["any", "video", "audio", "text"]  # any: pictures and sound counted together
Seen = Callable[[int, int], None]  # bytes sent, bytes in all
AGAIN = (429, 503)  # answers after which asking again makes sense
# a connection that was closed under a request
CUT = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
LONGEST_WAIT_S = 60.0


class Refused(Exception):
    """What the service says is wrong; `code` is the contract's."""

    def __init__(self, status: int, code: str, message: str, detail: Mapping[str, Any]) -> None:
        super().__init__(f"{message} ({code}, {status})")
        self.status, self.code, self.message, self.detail = status, code, message, detail


class Moment(TypedDict):
    start_s: float
    end_s: float
    score: float


class Hit(TypedDict):
    id: str
    kind: str
    duration_s: float
    filename: str | None
    modalities: list[str]
    score: float
    confidence: float | None
    target: str
    start_s: float
    end_s: float
    scores: dict[str, float]
    evidence: dict[str, Moment]
    metadata: dict[str, Any]
    moments: list[Moment]


class Found(TypedDict):
    collection: str
    fingerprint: str
    route: str
    took_ms: float
    good_match: bool | None
    warnings: list[str]
    hits: list[Hit]


class Added(TypedDict):
    id: str
    windows: int
    modalities: list[str]
    duration_s: float
    warnings: list[str]


class Job(TypedDict):
    id: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    done: int
    total: int
    indexed: int
    failed: int
    failures: list[dict[str, str]]
    warned: int
    warnings: list[dict[str, str]]
    error: str | None


class Watched(BufferedReader):
    """A file that tells how much of it has been read."""

    def __init__(self, path: Path, seen: Seen) -> None:
        super().__init__(path.open("rb", buffering=0))
        self._seen, self._whole = seen, path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if data:
            self._seen(self.tell(), self._whole)
        return data


@dataclass(frozen=True)
class Call:
    """A request; files are opened for each try. One that is `repeatable` does no more when it is
    sent twice.
    """

    method: str
    path: str
    json: Any = None
    data: dict[str, Any] = field(default_factory=dict)
    file: Path | None = None
    seen: Seen | None = None
    repeatable: bool = False

    def may_repeat(self) -> bool:
        """Whether it is sent again where nobody knows if it has been heard."""
        return self.repeatable or self.method in ("GET", "HEAD")

    @contextmanager
    def arguments(self) -> Iterator[dict[str, Any]]:
        if self.file is None:
            yield {"json": self.json} if self.json is not None else {}
            return
        with Watched(self.file, self.seen) if self.seen else self.file.open("rb") as opened:
            yield {"files": {"file": (self.file.name, opened)}, "data": self.data}


Result = TypeVar("Result")
Steps = Generator[Call, Any, Result]  # calls out, answers in, what comes of it at the end


def item_path(collection: str, id: str) -> str:
    return f"/v1/collections/{quote(collection, safe='')}/items/{quote(id)}"


def embed_text(texts: Sequence[str], space: str | None) -> Steps[list[list[float]]]:
    answer = yield Call(
        "POST", "/v1/embed/text", {"texts": list(texts), "space": space}, repeatable=True
    )
    return [row["embedding"] for row in answer["data"]]


def embed_file(path: Path, modality: Modality, space: str | None) -> Steps[list[float]]:
    data = {"space": space} if space else {}
    answer = yield Call("POST", f"/v1/embed/{modality}", data=data, file=path, repeatable=True)
    vector: list[float] = answer["data"][0]["embedding"]
    return vector


def add(
    collection: str,
    item: Path | str,
    id: str | None,
    metadata: Mapping[str, Any] | None,
    seen: Seen | None,
) -> Steps[Added]:
    path = f"/v1/collections/{quote(collection, safe='')}/items"
    named = id is not None  # the same id again replaces; without one there would be two items
    if isinstance(item, str):
        body = {"text": item, "metadata": dict(metadata or {})} | ({"id": id} if id else {})
        added: Added = yield Call("POST", path, body, repeatable=named)
    else:
        data = ({"id": id} if id else {}) | (
            {"metadata": json.dumps(dict(metadata))} if metadata else {}
        )
        added = yield Call("POST", path, data=data, file=item, seen=seen, repeatable=named)
    return added


def search(
    query: str | Path,
    target: Target,
    source: Modality | None,
    collection: str,
    options: Mapping[str, Any],
) -> Steps[Found]:
    asked = {"collection": collection} | {k: v for k, v in options.items() if v is not None}
    if isinstance(query, str):
        found: Found = yield Call(
            "POST", f"/v1/search/text-{target}", {"query": query} | asked, repeatable=True
        )
    else:
        form = {k: json.dumps(v) if isinstance(v, dict | bool) else v for k, v in asked.items()}
        path = f"/v1/search/{source or 'audio'}-{target}"
        found = yield Call("POST", path, data=form, file=query, repeatable=True)
    return found


def compose(
    parts: Sequence[Mapping[str, Any]], targets: Sequence[Target], options: Mapping[str, Any]
) -> Steps[Found]:
    asked = {k: v for k, v in options.items() if v is not None}
    request = {"parts": list(parts), "targets": list(targets)} | asked
    found: Found = yield Call("POST", "/v1/search", request, repeatable=True)
    return found


def import_folder(path: str, collection: str) -> Steps[Job]:
    job: Job = yield Call(
        "POST", "/v1/jobs", {"kind": "import", "collection": collection, "path": path}
    )
    return job


def answer_of(response: httpx.Response) -> Any:
    """Its JSON. Raises Refused."""
    if response.is_success:
        return response.json() if response.content else None
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):  # something between here and the service
        error = {"code": "no_contract", "message": response.reason_phrase, "detail": {}}
    raise Refused(response.status_code, error["code"], error["message"], error["detail"])


def pause_of(response: httpx.Response, tried: int) -> float:
    """Seconds to wait before asking again: as many as the service says, else ever more."""
    said = response.headers.get("retry-after", "")
    return min(float(said) if said.isdigit() else pause_after(tried), LONGEST_WAIT_S)


def pause_after(tried: int) -> float:
    return float(0.5 * 2**tried)


def pause_of_cut(tried: int) -> float:
    """None at first: where a connection was closed while it rested, a new one will do at once."""
    return min(pause_after(tried - 1), LONGEST_WAIT_S) if tried else 0.0


def ended(job: Job) -> bool:
    return job["state"] not in ("queued", "running")


class Client:
    """Asks a service. `transport` is httpx's, for tests and proxies; `retries` are after 429 and
    503, and after a connection that was closed under a request, where the request may be sent
    twice: all but adding without an id, deleting and importing.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        retries: int = 4,
        timeout_s: float = 120.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=timeout_s, transport=transport
        )
        self._retries = retries

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._http.close()

    def _send(self, call: Call) -> Any:
        for tried in range(self._retries + 1):
            last = tried == self._retries
            try:
                with call.arguments() as arguments:
                    response = self._http.request(call.method, call.path, **arguments)
            except CUT:
                if last or not call.may_repeat():
                    raise
                time.sleep(pause_of_cut(tried))
                continue
            if response.status_code not in AGAIN or last:
                break
            time.sleep(pause_of(response, tried))
        return answer_of(response)

    def _run(self, steps: Steps[Result]) -> Result:
        answer: Any = None
        while True:
            try:
                answer = self._send(steps.send(answer))
            except StopIteration as end:
                result: Result = end.value
                return result

    def embed_text(self, texts: Sequence[str], space: str | None = None) -> list[list[float]]:
        """Unit vectors [n, dim]."""
        return self._run(embed_text(texts, space))

    def embed_file(self, path: Path, modality: Modality, space: str | None = None) -> list[float]:
        """The unit vector [dim] of a file's sound or pictures."""
        return self._run(embed_file(path, modality, space))

    def add(
        self,
        collection: str,
        item: Path | str,
        id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        seen: Seen | None = None,
    ) -> Added:
        """Add a file or, as a string, a text; `seen` hears how many bytes have been sent. Durable
        when this returns.
        """
        return self._run(add(collection, item, id, metadata, seen))

    def search(
        self,
        query: str | Path,
        target: Target = "any",
        source: Modality | None = None,
        collection: str = "default",
        **options: Any,
    ) -> Found:
        """Search by words or by a file, whose `source` modality asks; options as in the contract:
        top_k, filter, ...
        """
        return self._run(search(query, target, source, collection, options))

    def compose(
        self, parts: Sequence[Mapping[str, Any]], targets: Sequence[Target], **options: Any
    ) -> Found:
        """Search by weighted texts and items: {"text": "rain", "weight": 1.0}, {"item": ID,
        "modality": "audio"}.
        """
        return self._run(compose(parts, targets, options))

    def item(self, collection: str, id: str) -> dict[str, Any]:
        found: dict[str, Any] = self._send(Call("GET", item_path(collection, id)))
        return found

    def delete(self, collection: str, id: str) -> None:
        self._send(Call("DELETE", item_path(collection, id)))

    def collections(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._send(Call("GET", "/v1/collections"))["collections"]
        return found

    def import_folder(self, path: str, collection: str = "default") -> Job:
        """Begin to import what lies at a path of the service's import folder."""
        return self._run(import_folder(path, collection))

    def job(self, id: str) -> Job:
        job: Job = self._send(Call("GET", f"/v1/jobs/{id}"))
        return job

    def wait(self, id: str, every_s: float = 1.0) -> Job:
        """The job once it has ended."""
        while not ended(job := self.job(id)):
            time.sleep(every_s)
        return job


class AsyncClient:
    """`Client`, awaited."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        retries: int = 4,
        timeout_s: float = 120.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.AsyncClient(
            base_url=url, headers=headers, timeout=timeout_s, transport=transport
        )
        self._retries = retries

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def _send(self, call: Call) -> Any:
        for tried in range(self._retries + 1):
            last = tried == self._retries
            try:
                with call.arguments() as arguments:
                    response = await self._http.request(call.method, call.path, **arguments)
            except CUT:
                if last or not call.may_repeat():
                    raise
                await asyncio.sleep(pause_of_cut(tried))
                continue
            if response.status_code not in AGAIN or last:
                break
            await asyncio.sleep(pause_of(response, tried))
        return answer_of(response)

    async def _run(self, steps: Steps[Result]) -> Result:
        answer: Any = None
        while True:
            try:
                call = steps.send(answer)
            except StopIteration as end:
                result: Result = end.value
                return result
            answer = await self._send(call)

    async def embed_text(self, texts: Sequence[str], space: str | None = None) -> list[list[float]]:
        return await self._run(embed_text(texts, space))

    async def embed_file(
        self, path: Path, modality: Modality, space: str | None = None
    ) -> list[float]:
        return await self._run(embed_file(path, modality, space))

    async def add(
        self,
        collection: str,
        item: Path | str,
        id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        seen: Seen | None = None,
    ) -> Added:
        return await self._run(add(collection, item, id, metadata, seen))

    async def search(
        self,
        query: str | Path,
        target: Target = "any",
        source: Modality | None = None,
        collection: str = "default",
        **options: Any,
    ) -> Found:
        return await self._run(search(query, target, source, collection, options))

    async def compose(
        self, parts: Sequence[Mapping[str, Any]], targets: Sequence[Target], **options: Any
    ) -> Found:
        return await self._run(compose(parts, targets, options))

    async def item(self, collection: str, id: str) -> dict[str, Any]:
        found: dict[str, Any] = await self._send(Call("GET", item_path(collection, id)))
        return found

    async def delete(self, collection: str, id: str) -> None:
        await self._send(Call("DELETE", item_path(collection, id)))

    async def collections(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self._send(Call("GET", "/v1/collections")))[
            "collections"
        ]
        return found

    async def import_folder(self, path: str, collection: str = "default") -> Job:
        return await self._run(import_folder(path, collection))

    async def job(self, id: str) -> Job:
        job: Job = await self._send(Call("GET", f"/v1/jobs/{id}"))
        return job

    async def wait(self, id: str, every_s: float = 1.0) -> Job:
        while not ended(job := await self.job(id)):
            await asyncio.sleep(every_s)
        return job
