"""How odd files affect good requests: whether each gets its answer, and the same for another
server.

    python -m bench.poison [FOLDER] [BUNDLE] [--rounds 2] [--beside PORT --model NAME]
    python -m bench.poison [FOLDER] [BUNDLE] --mutations 5000 [--seed 0]

Each file of FOLDER is sent to be embedded between texts whose vectors are known, 32 requests at a
time. A good answer is the vector that the same text has alone. With `--beside`, a server on this
machine that speaks OpenAI's shape at /embeddings (infinity-emb) gets the same texts, and the files
as pictures in data URLs, which is how it takes media.

With `--mutations`, so many damaged copies of the files are sent instead (see `mutants`). It ends
with status 1 where an answer is not one of the contract or comes late, the service is not ready
once, takes too much memory or keeps an upload.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import psutil

from .mutants import choose_files, find_faults, format_answers, send
from .serve import served

AT_ONCE, TEXTS = 32, [f"the number {n}" for n in range(7)]
Request = dict[str, Any]  # what httpx takes
Result = TypeVar("Result")


@dataclass
class Outcome:
    """What came of it: statuses of the odd ones, and how the good ones fared."""

    odd: Counter[str] = field(default_factory=Counter)
    good: Counter[str] = field(default_factory=Counter)
    ms: list[float] = field(default_factory=list)


def ours(text: str) -> Request:
    return {"url": "/v1/embed/text", "json": {"texts": [text]}}


def ours_odd(path: Path) -> Request:
    return {
        "url": "/v1/embed/video",
        "files": {"file": (path.name.encode("utf-8", "replace").decode(), path.read_bytes())},
    }


def theirs(model: str) -> tuple[Callable[[str], Request], Callable[[Path], Request]]:
    def text(text: str) -> Request:
        return {"url": "/embeddings", "json": {"model": model, "input": [text]}}

    def odd(path: Path) -> Request:
        picture = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
        return {
            "url": "/embeddings",
            "json": {"model": model, "input": [picture], "modality": "image"},
        }

    return text, odd


async def mixed(
    port: int,
    files: list[Path],
    text: Callable[[str], Request],
    odd: Callable[[Path], Request],
    rounds: int,
) -> Outcome:
    found, turns = Outcome(), asyncio.Semaphore(AT_ONCE)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}",
        timeout=60,
        limits=httpx.Limits(max_connections=AT_ONCE),
    ) as client:

        async def status(request: Request) -> tuple[str, Any]:
            try:
                answer = await client.post(**request)
            except httpx.HTTPError as error:
                return type(error).__name__, None
            return str(answer.status_code), answer.json()["data"][0].get(
                "embedding"
            ) if answer.is_success else None

        right = [np.array((await status(text(said)))[1]) for said in TEXTS]

        async def good(n: int) -> None:
            async with turns:
                began = time.perf_counter()
                said, vector = await status(text(TEXTS[n % len(TEXTS)]))
                found.ms.append(1000 * (time.perf_counter() - began))
            same = vector is not None and np.allclose(vector, right[n % len(TEXTS)], atol=1e-3)
            found.good["right" if same else f"wrong ({said})"] += 1

        async def bad(path: Path) -> None:
            async with turns:
                found.odd[(await status(odd(path)))[0]] += 1

        work = [*files * rounds, *range(len(files) * rounds)]
        random.Random(0).shuffle(work)
        await asyncio.gather(*(good(one) if isinstance(one, int) else bad(one) for one in work))
    return found


def held(process: psutil.Process) -> int:
    """Bytes of memory; what several processes share counts once. None of one that has ended."""
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return int(process.memory_full_info().pss)
    return 0


def watched(port: int, work: Callable[[], Result]) -> tuple[Result, float]:
    """The outcome, and the most MiB of memory of whoever listens on the port and its children."""
    listening = (
        c.pid
        for c in psutil.net_connections("tcp")
        if c.status == "LISTEN" and c.laddr.port == port and c.pid
    )
    server, peak = psutil.Process(next(listening)), [0.0]

    async def both() -> Result:
        task = asyncio.create_task(asyncio.to_thread(work))
        while not task.done():
            family = [server, *server.children(recursive=True)]
            peak[0] = max(peak[0], sum(map(held, family)) / 2**20)
            await asyncio.sleep(0.05)
        return await task

    return asyncio.run(both()), peak[0]


def run_async(work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    return asyncio.run(work())


def send_mutants(folder: Path, bundle: Path, count: int, seed: int) -> int:
    """Print what came of so many mutants. Returns 1 where something was wrong, else 0."""
    files = choose_files(folder)
    with tempfile.TemporaryDirectory() as place, served(bundle, Path(place) / "data", None) as port:
        sending = partial(send, port, files, seed, count)
        answers, peak_mb = watched(port, partial(run_async, sending))
        uploads = Path(place) / "data" / "uploads"
        left = len(list(uploads.iterdir())) if uploads.is_dir() else 0
    faults = find_faults(answers, peak_mb, left)
    print(f"{count} mutants of {len(files)} files, seed {seed}\n\n{format_answers(answers)}")
    print(f"peak memory: {peak_mb:.0f} MiB\nfiles left in uploads: {left}")
    print("\n".join([f"faults: {len(faults)}", *faults]))
    return 1 if faults else 0


def counted(of: Counter[str]) -> str:
    return ", ".join(f"{what}: {n}" for what, n in of.most_common())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.poison", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("sample"))
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("bundles/default"))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--beside", type=int, metavar="PORT")
    parser.add_argument("--model", default="default")
    parser.add_argument("--mutations", type=int, default=0, help="how many damaged copies are sent")
    parser.add_argument("--seed", type=int, default=0, help="chooses what is damaged, and how")
    args = parser.parse_args()
    if args.mutations:
        sys.exit(send_mutants(args.folder, args.bundle, args.mutations, args.seed))
    files = sorted(path for path in args.folder.rglob("*") if path.is_file())
    print(
        "| server | answers to odd files, by status | right answers to texts | p50, ms | p99, ms "
        "| peak memory, MiB |\n"
        "|---|---|---|---|---|---|"
    )
    with (
        tempfile.TemporaryDirectory() as place,
        served(args.bundle, Path(place) / "data", None) as port,
    ):
        both = [("ours", port, ours, ours_odd)]
        if args.beside:
            both.append(("the other", args.beside, *theirs(args.model)))
        for name, at, text, odd in both:
            sending = partial(mixed, at, files, text, odd, args.rounds)
            found, peak_mb = watched(at, partial(run_async, sending))
            p50, p99 = np.percentile(found.ms, (50, 99))
            told = f"{counted(found.odd)} | {counted(found.good)} | {p50:.0f} | {p99:.0f}"
            told += f" | {peak_mb:.0f}"
            print(f"| {name} | {told} |")


if __name__ == "__main__":
    main()
