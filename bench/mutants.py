"""Damaged media against a running service: whether every answer is one of the contract, and soon.

A mutant is a file some bytes of which were overwritten, left out or repeated. Every second one is
sent to be embedded; the others become items, of which a clip is made.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

AT_ONCE = 4
LARGEST = 400_000  # bytes of a file that mutants are made of
LATEST_S, MOST_MB = 15.0, 2048.0
READY_EVERY_S = 0.25
COLLECTION = "mutants"


@dataclass
class Answers:
    """What came of the mutants: `kinds` by what was asked, status and code, and one of each."""

    kinds: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    slowest: str = ""
    asked_ready: int = 0
    not_ready: int = 0


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Some bytes overwritten, left out or repeated, or the end cut off; up to three times.

    >>> mutate(b"abcdefgh", random.Random(1)) == mutate(b"abcdefgh", random.Random(1))
    True
    """
    made = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        if not made:
            break
        at = place(len(made), chance)
        length = min(chance.choice((1, 4, 64, 4096)), len(made) - at)
        match chance.randrange(5):
            case 0 | 1:
                made[at : at + length] = chance.randbytes(length)
            case 2:
                del made[at : at + length]
            case 3:
                made[at:at] = made[at : at + length]
            case _:
                del made[max(at, 1) :]
    return bytes(made)


def place(length: int, chance: random.Random) -> int:
    """Where to change something: one time in four in the first 512 bytes, where headers are."""
    return chance.randrange(min(length, 512) if chance.random() < 0.25 else length)


class Sender:
    """Sends mutants, a few at a time, and keeps what is answered."""

    def __init__(self, port: int, files: list[Path], seed: int) -> None:
        self.answers = Answers()
        self._files, self._seed = files, seed
        self._turns = asyncio.Semaphore(AT_ONCE)
        limits = httpx.Limits(max_connections=AT_ONCE + 1)
        address = f"http://127.0.0.1:{port}"
        self._client = httpx.AsyncClient(base_url=address, timeout=120, limits=limits)

    async def send(self, count: int) -> Answers:
        async with self._client:
            await self._client.post("/v1/collections", json={"name": COLLECTION})
            asking = asyncio.create_task(self._ask_ready())
            await asyncio.gather(*(self._send_one(number) for number in range(count)))
            asking.cancel()
        return self.answers

    async def _send_one(self, number: int) -> None:
        chance = random.Random(f"{self._seed}/{number}")
        path = chance.choice(self._files)
        data = mutate(path.read_bytes(), chance)
        name = path.name.encode("utf-8", "replace").decode()
        label = f"{number} of {name}"
        async with self._turns:
            if number % 2:
                modality = chance.choice(("video", "audio"))
                await self._ask("embed", label, "POST", f"/v1/embed/{modality}", (name, data))
                return
            items = f"/v1/collections/{COLLECTION}/items"
            added = await self._ask("add", label, "POST", items, (name, data))
            if added is None:
                return
            item = f"{items}/{added['id']}"
            if added.get("duration_s"):
                end_s = min(added["duration_s"], 1.0)
                await self._ask("clip", label, "GET", f"{item}/clip?start_s=0&end_s={end_s}")
            await self._ask("delete", label, "DELETE", item)

    async def _ask(
        self, what: str, label: str, method: str, url: str, file: tuple[str, bytes] | None = None
    ) -> Any:
        """The answer's JSON; None where it is an error or not JSON."""
        began = time.perf_counter()
        try:
            answer = await self._client.request(method, url, files={"file": file} if file else None)
        except httpx.HTTPError as error:
            self._count(f"{what} {type(error).__name__}", label)
            self.answers.faults.append(f"{what} {label}: {error!r}")
            return None
        took_s = time.perf_counter() - began
        if took_s > self.answers.slowest_s:
            self.answers.slowest_s, self.answers.slowest = took_s, f"{what} {label}"
        code = error_code(answer)
        self._count(f"{what} {answer.status_code} {code}".rstrip(), label)
        if took_s > LATEST_S:
            self.answers.faults.append(f"{what} {label}: {took_s:.1f} s")
        if not answer.is_success and (answer.status_code >= 500 or not code):
            self.answers.faults.append(f"{what} {label}: {answer.status_code} {answer.text[:200]}")
        typed = answer.headers.get("content-type", "").startswith("application/json")
        return answer.json() if answer.is_success and typed and answer.content else None

    def _count(self, kind: str, label: str) -> None:
        self.answers.kinds[kind] += 1
        self.answers.examples.setdefault(kind, label)

    async def _ask_ready(self) -> None:
        while True:
            await asyncio.sleep(READY_EVERY_S)
            self.answers.asked_ready += 1
            try:
                ready = (await self._client.get("/readyz")).is_success
            except httpx.HTTPError:
                ready = False
            self.answers.not_ready += not ready


async def send(port: int, files: list[Path], seed: int, count: int) -> Answers:
    """Send so many mutants to the service at a port."""
    return await Sender(port, files, seed).send(count)


def error_code(answer: httpx.Response) -> str:
    """The code of an error of the contract; none of another answer."""
    if answer.is_success:
        return ""
    try:
        return str(answer.json()["error"]["code"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return ""


def choose_files(folder: Path) -> list[Path]:
    """The files of a folder that mutants are made of, by name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in files if 0 < path.stat().st_size <= LARGEST]


def find_faults(answers: Answers, peak_mb: float, uploads: int) -> list[str]:
    """What is wrong, a line each. `uploads` are files that were left."""
    faults = list(answers.faults)
    if peak_mb > MOST_MB:
        faults.append(f"{peak_mb:.0f} MiB of memory")
    if answers.not_ready:
        faults.append(f"not ready {answers.not_ready} of {answers.asked_ready} times")
    if uploads:
        faults.append(f"{uploads} files left in uploads")
    return faults


def format_answers(answers: Answers) -> str:
    rows = [
        f"| {kind} | {count} | {answers.examples[kind]} |"
        for kind, count in sorted(answers.kinds.items())
    ]
    ready = answers.asked_ready - answers.not_ready
    return "\n".join(
        [
            "| answer | times | such as mutant |\n|---|---|---|",
            *rows,
            "",
            f"slowest: {answers.slowest_s:.1f} s ({answers.slowest})",
            f"ready: {ready} of {answers.asked_ready} times",
        ]
    )
