"""A client of the HTTP contract, on httpx: `Client`, and `AsyncClient` with the same methods to be
awaited.

>>> with Client("http://127.0.0.1:8000") as tercet:  # doctest: +SKIP
...     tercet.add("archive", Path("rain.wav"), metadata={"year": 2024})
...     found = tercet.search("rain on a tin roof", target="audio", collection="archive")
...     for hit in found["hits"]:
...         print(hit["id"], hit["start_s"], hit["score"])

The methods are written once, as generators: they yield requests and pauses, and get responses.
`Client` and `AsyncClient` do what is yielded, each in its own manner.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import (
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    TypedDict,
    TypeVar,
    overload,
)
from urllib.parse import quote, urlencode

import httpx

Kind = Literal["video", "image", "audio", "text"]  # of an item
Modality = Literal["video", "audio", "text"]
Target = Literal["any", "video", "audio", "text"]  # any: pictures and sound scored together
Seen = Callable[[int, int], None]  # bytes sent, bytes in all
RETRY_STATUSES = (429, 503)  # too busy, not ready
# a connection that was closed under a request
CUT = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
LONGEST_WAIT_S = 60.0
PICTURES = {".png", ".apng", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".heic", ".heif", ".gif"}


class Refused(Exception):
    """What the service says is wrong. `code` is the contract's."""

    def __init__(self, status: int, code: str, message: str, detail: Mapping[str, Any]) -> None:
        super().__init__(f"{message} ({code}, {status})")
        self.status = status
        self.code = code
        self.message = message
        self.detail = detail


# ---------------------------------------------------------------- what the service answers


class Moment(TypedDict):
    start_s: float
    end_s: float
    score: float
    text: str | None


class TagMoment(TypedDict):
    name: str
    modality: str
    start_s: float
    end_s: float
    score: float


class Hit(TypedDict):
    id: str
    kind: Kind
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
    parts: list[float] | None
    text: str | None
    shown_s: float | None
    tags: list[TagMoment] | None


class Plan(TypedDict):
    exact: bool
    candidates: int
    ways: list[str]
    compared: int
    learned: bool


class Calibration(TypedDict):
    typical: float
    non_match: float
    good: float


class Found(TypedDict):
    collection: str
    fingerprint: str
    route: str
    space: str
    took_ms: float
    plan: Plan
    good_match: bool | None
    calibration: dict[str, Calibration]
    warnings: list[str]
    hits: list[Hit]


class Added(TypedDict):
    id: str
    windows: int
    modalities: list[str]
    duration_s: float
    warnings: list[str]


class Highlight(TypedDict):
    start_s: float
    end_s: float
    score: float
    why: list[str]


class FrameWhere(TypedDict):
    at_s: float
    map: list[list[float]]


class SeenWhere(TypedDict):
    frames: list[FrameWhere]


class HeardWhere(TypedDict):
    times_s: list[float]
    bands_hz: list[tuple[float, float]]
    map: list[list[float]]


class Where(TypedDict):
    start_s: float
    end_s: float
    video: SeenWhere | None
    audio: HeardWhere | None
    warnings: list[str]


class Job(TypedDict):
    id: str
    kind: Literal["import"]
    collection: str
    path: str
    created: float
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    done: int
    total: int
    indexed: int
    unchanged: int
    failed: int
    failures: list[dict[str, str]]
    warned: int
    warnings: list[dict[str, str]]
    moved: int
    copied: int
    changed: int
    left_out: dict[str, int]
    gone: int
    gone_ids: list[str]
    error: str | None
    finished: float | None


# ---------------------------------------------------------------- requests


class ReportingFile(BufferedReader):
    """A file that reports how much of it has been read."""

    def __init__(self, path: Path, seen: Seen) -> None:
        super().__init__(path.open("rb", buffering=0))
        self._seen = seen
        self._size = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if data:
            self._seen(self.tell(), self._size)
        return data


@dataclass(frozen=True)
class Call:
    """A request. Its files, by their fields, are opened for each attempt. `repeatable`: sending it
    twice does no more than sending it once.
    """

    method: str
    path: str
    json: Any = None
    data: dict[str, Any] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    seen: Seen | None = None
    repeatable: bool = False
    parsed: bool = True  # whether its answer is JSON

    def may_repeat(self) -> bool:
        """Whether it may be sent again where the service may have received it."""
        return self.repeatable or self.method in ("GET", "HEAD")

    @contextmanager
    def arguments(self) -> Iterator[dict[str, Any]]:
        """The keyword arguments of httpx's `request`."""
        if not self.files:
            yield {"json": self.json} if self.json is not None else {}
            return
        with ExitStack() as stack:
            streams = {}
            for name, path in self.files.items():
                opened = ReportingFile(path, self.seen) if self.seen else path.open("rb")
                streams[name] = (path.name, stack.enter_context(opened))
            yield {"files": streams, "data": self.data}


@dataclass(frozen=True)
class Pause:
    seconds: float


Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")
Steps = Generator[Call | Pause, Any, Result]  # a Call gets its response, a Pause nothing


def send(call: Call, retries: int) -> Steps[Any]:
    """A request until it is answered; the answer's JSON, or its bytes. Raises Refused,
    httpx.TransportError.
    """
    for attempt in range(retries + 1):
        is_last = attempt == retries
        try:
            response: httpx.Response = yield call
        except CUT:
            if is_last or not call.may_repeat():
                raise
            yield Pause(pause_after_cut(attempt))
            continue
        if response.status_code not in RETRY_STATUSES or is_last:
            break
        yield Pause(pause_after(response, attempt))
    return parse_answer(response) if call.parsed or response.is_error else response.content


def parse_answer(response: httpx.Response) -> Any:
    """A response's JSON. Raises Refused."""
    if response.is_success:
        return response.json() if response.content else None
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):  # from a proxy between here and the service
        error = {"code": "no_contract", "message": response.reason_phrase, "detail": {}}
    raise Refused(response.status_code, error["code"], error["message"], error["detail"])


def pause_after(response: httpx.Response, attempt: int) -> float:
    """Seconds to wait before asking again: what the service says, or twice as long each time."""
    retry_after = response.headers.get("retry-after", "")
    wanted_s = float(retry_after) if retry_after.isdigit() else backoff_s(attempt)
    return min(wanted_s, LONGEST_WAIT_S)


def pause_after_cut(attempt: int) -> float:
    """None at first: an idle connection may have been closed, and a new one will do at once."""
    return min(backoff_s(attempt - 1), LONGEST_WAIT_S) if attempt else 0.0


def backoff_s(attempt: int) -> float:
    return float(0.5 * 2**attempt)


def collection_path(collection: str) -> str:
    return f"/v1/collections/{quote(collection, safe='')}"


def item_path(collection: str, id: str) -> str:
    return f"{collection_path(collection)}/items/{quote_id(id)}"


def job_path(id: str) -> str:
    return f"/v1/jobs/{quote(id, safe='')}"


def quote_id(id: str) -> str:
    """An id as part of an address. HTTP clients resolve `..` between slashes, and would ask for
    another item: the slashes of such an id are quoted, too.

    >>> quote_id("a b/c"), quote_id("../c")
    ('a%20b/c', '..%2Fc')
    """
    is_dotted = any(part in (".", "..") for part in id.split("/"))
    return quote(id, safe="" if is_dotted else "/")


def without_none(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


# ---------------------------------------------------------------- the methods of both clients


class Method(Generic[Arguments, Result]):
    """A method of both clients. `Client` runs its steps, `AsyncClient` returns a coroutine."""

    def __init__(self, steps: Callable[Concatenate[Any, Arguments], Steps[Result]]) -> None:
        self._steps = steps
        self.__doc__ = steps.__doc__

    @overload
    def __get__(self, client: Client, owner: type) -> Callable[Arguments, Result]: ...

    @overload
    def __get__(
        self, client: AsyncClient, owner: type
    ) -> Callable[Arguments, Coroutine[Any, Any, Result]]: ...

    @overload
    def __get__(self, client: None, owner: type) -> Method[Arguments, Result]: ...

    def __get__(self, client: Client | AsyncClient | None, owner: type) -> Any:
        if client is None:
            return self
        steps = self._steps
        bound = client

        @wraps(steps)
        def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Any:
            return bound._run(steps(bound, *args, **kwargs))

        return call


class Methods:
    _retries: int

    def _send(self, call: Call) -> Steps[Any]:
        return send(call, self._retries)

    @Method
    def embed_text(
        self, texts: Sequence[str], space: str | None = None
    ) -> Steps[list[list[float]]]:
        """Unit vectors [n, dim]."""
        body = {"texts": list(texts), "space": space}
        answer = yield from self._send(Call("POST", "/v1/embed/text", body, repeatable=True))
        return [row["embedding"] for row in answer["data"]]

    @Method
    def embed_file(
        self, path: Path, modality: Modality, space: str | None = None
    ) -> Steps[list[float]]:
        """The unit vector [dim] of a file's sound or pictures."""
        data = {"space": space} if space else {}
        call = Call(
            "POST", f"/v1/embed/{modality}", data=data, files={"file": path}, repeatable=True
        )
        answer = yield from self._send(call)
        vector: list[float] = answer["data"][0]["embedding"]
        return vector

    @Method
    def add(
        self,
        collection: str,
        item: Path | str,
        id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        seen: Seen | None = None,
    ) -> Steps[Added]:
        """Add a file or, as a string, a text. It is durable when this returns. `seen` is called
        with the bytes sent and the bytes in all.
        """
        path = f"{collection_path(collection)}/items"
        named = id is not None  # the same id again replaces; without one there would be two items
        fields: dict[str, Any] = {"id": id} if named else {}
        if isinstance(item, str):
            body = {"text": item, "metadata": dict(metadata or {})} | fields
            call = Call("POST", path, body, repeatable=named)
        else:
            if metadata:
                fields["metadata"] = json.dumps(dict(metadata))
            call = Call(
                "POST", path, data=fields, files={"file": item}, seen=seen, repeatable=named
            )
        added: Added = yield from self._send(call)
        return added

    @Method
    def search(
        self,
        /,
        query: str | Path,
        target: Target = "any",
        source: Modality | None = None,
        collection: str = "default",
        **options: Any,
    ) -> Steps[Found]:
        """Search by words, or by a file that a `Path` names. `source` says which of a file's
        modalities; the default is video for pictures, going by their suffix, and audio for all
        else. `options` are the contract's: top_k, filter, ...

        Raises ValueError: words with another source than text.
        """
        if isinstance(query, str) and source not in (None, "text"):
            raise ValueError(f"words have no {source}: a file is given as a Path")
        fields = {"collection": collection} | without_none(options)
        if isinstance(query, str):
            body = {"query": query} | fields
            call = Call("POST", f"/v1/search/text-{target}", body, repeatable=True)
        else:
            form = {
                k: json.dumps(v) if isinstance(v, dict | bool) else v for k, v in fields.items()
            }
            default = "video" if query.suffix.lower() in PICTURES else "audio"
            path = f"/v1/search/{source or default}-{target}"
            call = Call("POST", path, data=form, files={"file": query}, repeatable=True)
        found: Found = yield from self._send(call)
        return found

    @Method
    def compose(
        self,
        /,
        parts: Sequence[Mapping[str, Any]],
        targets: Sequence[Target],
        files: Mapping[str, Path] | None = None,
        **options: Any,
    ) -> Steps[Found]:
        """Search by weighted texts, items and files: {"text": "rain", "weight": 1.0}, {"item": ID,
        "modality": "audio"}, {"file": NAME, "modality": "video"} with `files` by their names. A
        part with "then": True is looked for after those before it. With aggregate="item", each part
        must occur somewhere in an item.
        """
        body = {"parts": list(parts), "targets": list(targets)} | without_none(options)
        if files:
            form = {"request": json.dumps(body)}
            call = Call("POST", "/v1/search", data=form, files=files, repeatable=True)
        else:
            call = Call("POST", "/v1/search", body, repeatable=True)
        found: Found = yield from self._send(call)
        return found

    @Method
    def item(self, collection: str, id: str, words: bool = False) -> Steps[dict[str, Any]]:
        """An item; with `words`, all that its file says and shows in words."""
        path = item_path(collection, id) + ("?words=true" if words else "")
        item: dict[str, Any] = yield from self._send(Call("GET", path))
        return item

    @Method
    def clip(self, collection: str, id: str, start_s: float, end_s: float) -> Steps[bytes]:
        """A moment of an item as a file of its own: of a video WebM, of a sound FLAC."""
        query = urlencode({"start_s": start_s, "end_s": end_s})
        call = Call("GET", f"{item_path(collection, id)}/clip?{query}", parsed=False)
        data: bytes = yield from self._send(call)
        return data

    @Method
    def highlights(self, collection: str, id: str, limit: int = 5) -> Steps[list[Highlight]]:
        """The stretches of an item worth looking at first, the best first."""
        path = f"{item_path(collection, id)}/highlights?limit={limit}"
        found: list[Highlight] = yield from self._send(Call("GET", path))
        return found

    @Method
    def where(self, collection: str, id: str, query: str, start_s: float = 0.0) -> Steps[Where]:
        """Where in the frames, and where in time and frequency, words match the window of an item
        that begins at a second.
        """
        body = {"query": query, "start_s": start_s}
        path = f"{item_path(collection, id)}/where"
        found: Where = yield from self._send(Call("POST", path, body, repeatable=True))
        return found

    @Method
    def delete(self, collection: str, id: str) -> Steps[None]:
        yield from self._send(Call("DELETE", item_path(collection, id)))

    @Method
    def collections(self) -> Steps[list[dict[str, Any]]]:
        answer = yield from self._send(Call("GET", "/v1/collections"))
        collections: list[dict[str, Any]] = answer["collections"]
        return collections

    @Method
    def tags(
        self,
        collection: str = "default",
        modality: Literal["video", "audio"] | None = None,
        limit: int | None = None,
    ) -> Steps[dict[str, Any]]:
        """What is in a collection: its tags, those of most items first."""
        query = urlencode(without_none({"modality": modality, "limit": limit}))
        path = f"{collection_path(collection)}/tags" + (f"?{query}" if query else "")
        found: dict[str, Any] = yield from self._send(Call("GET", path))
        return found

    @Method
    def description(
        self, collection: str, id: str, limit: int | None = None
    ) -> Steps[dict[str, Any]]:
        """The sentences that fit an item best, with where they hold."""
        query = "" if limit is None else f"?limit={limit}"
        path = f"{item_path(collection, id)}/description{query}"
        found: dict[str, Any] = yield from self._send(Call("GET", path))
        return found

    @Method
    def rank(
        self,
        texts: Sequence[str],
        item: str | None = None,
        file: Path | None = None,
        collection: str = "default",
        target: Literal["any", "video", "audio"] = "any",
    ) -> Steps[dict[str, Any]]:
        """Which of the texts fits an item, or a file, best: choices with their probabilities."""
        body: dict[str, Any] = {"texts": list(texts), "collection": collection, "target": target}
        if file is None:
            call = Call("POST", "/v1/rank", body | {"item": item}, repeatable=True)
        else:
            form = {"request": json.dumps(body | without_none({"item": item}))}
            call = Call("POST", "/v1/rank", data=form, files={"file": file}, repeatable=True)
        found: dict[str, Any] = yield from self._send(call)
        return found

    @Method
    def agreement(
        self,
        collection: str = "default",
        first: Literal["lowest", "highest"] = "lowest",
        limit: int = 100,
        skip: int = 0,
    ) -> Steps[dict[str, Any]]:
        """The items by how well their sound and pictures agree, from 0 to 1."""
        query = urlencode({"first": first, "limit": limit, "skip": skip})
        path = f"{collection_path(collection)}/agreement?{query}"
        found: dict[str, Any] = yield from self._send(Call("GET", path))
        return found

    @Method
    def item_agreement(self, collection: str, id: str) -> Steps[list[dict[str, Any]]]:
        """How well sound and picture agree in each window of an item, in the order of time."""
        path = f"{item_path(collection, id)}/agreement"
        found: list[dict[str, Any]] = yield from self._send(Call("GET", path))
        return found

    @Method
    def mark(
        self,
        query: str | Mapping[str, str],
        right: Sequence[Mapping[str, Any]] = (),
        wrong: Sequence[Mapping[str, Any]] = (),
        collection: str = "default",
        target: Target = "any",
    ) -> Steps[list[int]]:
        """Keep marks on hits, {"id": ID, "start_s": SECOND} each, for `tercet learn`; returns their
        numbers. The query is words, or {"item": ID, "modality": "audio"}.
        """
        named = {"query": query, "collection": collection, "target": target}
        marks = {"right": list(right), "wrong": list(wrong)}
        body: dict[str, Any] = named | marks
        answer = yield from self._send(Call("POST", "/v1/feedback", body, repeatable=True))
        numbers: list[int] = answer["numbers"]
        return numbers

    @Method
    def marks(
        self, collection: str = "default", limit: int = 100, after: int = 0
    ) -> Steps[dict[str, Any]]:
        """The marks that are kept, and what to give as `after` for more."""
        query = urlencode({"collection": collection, "limit": limit, "after": after})
        page: dict[str, Any] = yield from self._send(Call("GET", f"/v1/feedback?{query}"))
        return page

    @Method
    def delete_mark(self, number: int, collection: str = "default") -> Steps[None]:
        query = urlencode({"collection": collection})
        yield from self._send(Call("DELETE", f"/v1/feedback/{number}?{query}"))

    @Method
    def import_folder(self, path: str, collection: str = "default") -> Steps[Job]:
        """Begin to import what lies at a path of the service's import folder."""
        body = {"kind": "import", "collection": collection, "path": path}
        job: Job = yield from self._send(Call("POST", "/v1/jobs", body))
        return job

    @Method
    def job(self, id: str) -> Steps[Job]:
        job: Job = yield from self._send(Call("GET", job_path(id)))
        return job

    @Method
    def wait(self, id: str, every_s: float = 1.0) -> Steps[Job]:
        """The job once it has ended."""
        while True:
            job: Job = yield from self._send(Call("GET", job_path(id)))
            if job["state"] not in ("queued", "running"):
                return job
            yield Pause(every_s)


class Client(Methods):
    """Asks a service. `transport` is httpx's, for tests and proxies.

    `retries` follow status 429 and 503. They also follow a connection that was closed under a
    request, where the request may be sent twice: all but adding without an id, deleting and
    importing.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        retries: int = 4,
        timeout_s: float = 120.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(
            base_url=url, headers=key_headers(key), timeout=timeout_s, transport=transport
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

    def _run(self, steps: Steps[Result]) -> Result:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    step = next(steps)
                    continue
                try:
                    response = self._request(step)
                except CUT as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(response)
        except StopIteration as end:
            result: Result = end.value
            return result

    def _request(self, call: Call) -> httpx.Response:
        with call.arguments() as arguments:
            return self._http.request(call.method, call.path, **arguments)


class AsyncClient(Methods):
    """`Client`, awaited."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        retries: int = 4,
        timeout_s: float = 120.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(
            base_url=url, headers=key_headers(key), timeout=timeout_s, transport=transport
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

    async def _run(self, steps: Steps[Result]) -> Result:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    step = next(steps)
                    continue
                try:
                    response = await self._request(step)
                except CUT as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(response)
        except StopIteration as end:
            result: Result = end.value
            return result

    async def _request(self, call: Call) -> httpx.Response:
        with call.arguments() as arguments:
            return await self._http.request(call.method, call.path, **arguments)


def key_headers(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}
