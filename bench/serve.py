"""What HTTP costs: texts embedded and searches answered by a server, beside the same ONNX session
called in a loop.

    python -m bench.serve [BUNDLE] [--rounds 3] [--seconds 5] [--import FOLDER] [--beside PORT
    --model NAME]

The loop calls a session on all cores with its best batch. A second row calls the encoder with two
batches at once, as the service does. A third calls it with one text after the other: what a text
alone takes over HTTP is compared with that. Each request has one text. Clients keep their
connections and ask again as soon as they are answered. The sides take turns, and medians of the
rounds are printed, because a machine's speed changes. Server, encoder and clients share the
machine. Where others use it, too, compare the processor time that a text takes. With `--import`,
text searches are timed alone and while that folder is imported by a job. With `--beside`, a server
on this machine that speaks OpenAI's shape at /embeddings (infinity-emb) is asked for the same texts
in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bench.films import processor_s
from export.bundle import open_bundle
from export.encoder import OnnxEncoder, open_session
from index.query_bank import list_queries

CONCURRENCY = (1, 8, 32, 128)
ONE_TEXT = "the encoder, one text after the other"
BATCHES = (1, 8, 16, 32, 64, 128)
# a server: its name, its port, its process if that can be seen, and what it is asked
Side = tuple[str, int, psutil.Process | None, list[bytes]]


class Loops:
    """The encoder without HTTP: one session on every core, called in a loop; and two batches side
    by side, as the service encodes. Each with the batch that gives it most.
    """

    def __init__(self, bundle: Path, seconds: float) -> None:
        encoder = OnnxEncoder.open(bundle)
        encoding = encoder.manifest.encodings("text")[0]
        self._encoder, self._encoding = encoder, encoding
        alone = open_session(
            open_bundle(bundle).graph(encoding), "cpu", os.cpu_count() or 1, "fp32"
        )
        pool = ThreadPoolExecutor(2)

        def one(texts: list[str]) -> None:
            alone.run(None, {"tokens": encoder.tokens(texts, encoding)})

        def two(texts: list[str]) -> None:
            list(
                pool.map(
                    lambda half: encoder.embed(encoding, encoder.tokens(half, encoding)),
                    (texts, texts),
                )
            )

        self._ways = {"one session in a loop": (one, 1), "two batches side by side": (two, 2)}
        self._best = {
            name: max(BATCHES, key=lambda batch: rate(embed, batch, seconds / 2))
            for name, (embed, _) in self._ways.items()
        }

    def rates(self, seconds: float) -> dict[str, tuple[float, float]]:
        """Texts per second by what is called, the loop first, and milliseconds of processor time a
        text.
        """
        found = {}
        for name, (embed, times) in self._ways.items():
            batch = self._best[name]
            began, used_s = time.perf_counter(), time.process_time()
            texts_s = times * rate(embed, batch, seconds)
            texts = texts_s * (time.perf_counter() - began)
            used_ms = 1000 * (time.process_time() - used_s) / texts
            found[f"{name}, batches of {batch}"] = texts_s, used_ms
        return found

    def waits(self, seconds: float) -> list[float]:
        """Milliseconds of each text, read and encoded one after the other."""
        times: list[float] = []
        texts = list_queries()
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            text = texts[len(times) % len(texts)]
            self._encoder.embed(self._encoding, self._encoder.tokens([text], self._encoding))
            times.append(1000 * (time.perf_counter() - began))
        return times


def rate(embed: Callable[[list[str]], Any], batch: int, seconds: float) -> float:
    """Texts per second of a function that takes so many at once."""
    texts, done = list_queries() * 3, 0
    embed(texts[:batch])
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        at = done % len(list_queries())
        embed(texts[at : at + batch])
        done += batch
    return done / (time.perf_counter() - began)


def free() -> int:
    """A port that nobody listens on."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


def find_listener(port: int) -> psutil.Process | None:
    """The process that listens on a port of this machine, if the system shows it."""
    for connection in psutil.net_connections("tcp"):
        listens = connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
        if listens and connection.pid is not None:
            return psutil.Process(connection.pid)
    return None


@contextmanager
def served(bundle: Path, data: Path, imports: Path | None) -> Iterator[tuple[int, psutil.Process]]:
    """A server process, ready: its port, and the process."""
    port = free()
    command = [
        sys.executable,
        "-m",
        "service",
        "--bundle",
        str(bundle),
        "--data",
        str(data),
        "--port",
        str(port),
    ]
    command += ["--imports", str(imports)] if imports else []
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while ask(port, "GET", "/readyz") is None:
            time.sleep(0.1)
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def ask(port: int, method: str, path: str, body: Any = None) -> Any:
    """An answer's JSON, or None."""
    headers = {"Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read())
    except OSError:
        return None


def raw(path: str, body: Any) -> bytes:
    data = json.dumps(body).encode()
    kind = ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", *kind, "", ""]).encode() + data


async def asked(port: int, requests: list[bytes], clients: int, seconds: float) -> list[float]:
    """Milliseconds of every request that so many clients got answered in that time."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def client(n: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (began := time.perf_counter()) < end:
            writer.write(requests[n % len(requests)])
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = next(
                line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
            )
            await reader.readexactly(int(length.split(b":")[1]))
            if (now := time.perf_counter()) <= end:  # what is still on its way then does not count
                times.append(1000 * (now - began))
            n += clients
        writer.close()

    await asyncio.gather(*(client(n) for n in range(clients)))
    return times


def told(
    name: str, rates: list[float], loop: list[float], times: list[float], used: list[float]
) -> str:
    """A row: medians over the rounds, and what all requests of all rounds took."""
    of_loop = sorted(each / alone for each, alone in zip(rates, loop, strict=True))
    spread = (
        f"{np.median(of_loop):.2f} ({of_loop[0]:.2f} to {of_loop[-1]:.2f})"
        if rates is not loop
        else "1.00"
    )
    waits = " | ".join(f"{ms:.1f}" for ms in np.percentile(times, (50, 99))) if times else "|"
    spent = f"{np.median(used):.2f}" if used else ""
    return f"| {name} | {np.median(rates):.0f} | {spread} | {waits} | {spent} |"


def importing(port: int, folder: Path, searches: list[bytes], seconds: float) -> None:
    """Searches by words, one after the other, alone and while a folder is imported."""
    idle = asyncio.run(asked(port, searches, 1, seconds))
    job = ask(port, "POST", "/v1/jobs", {"kind": "import", "path": "."})
    busy: list[float] = []
    while (now := ask(port, "GET", f"/v1/jobs/{job['id']}"))["state"] in ("queued", "running"):
        busy += asyncio.run(asked(port, searches, 1, 1.0))
    p50, p99 = (np.percentile(times, (50, 99)) for times in (idle, busy))
    print(f"\ntext search alone: p50 {p50[0]:.1f} ms, p99 {p50[1]:.1f} ms")
    print(
        f"while {now['indexed']} of {now['total']} files of {folder.name} are imported "
        f"({len(busy)} searches): ",
        end="",
    )
    print(f"p50 {p99[0]:.1f} ms, p99 {p99[1]:.1f} ms, {p99[1] / p50[1]:.1f} times the p99 alone")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.serve", description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("bundles/default"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--import", type=Path, dest="imports", metavar="FOLDER")
    parser.add_argument("--beside", type=int, metavar="PORT")
    parser.add_argument("--model", default="default", help="what the other server calls its model")
    args = parser.parse_args()
    embeds = [raw("/v1/embed/text", {"texts": [text]}) for text in list_queries()]
    others = [raw("/embeddings", {"model": args.model, "input": [text]}) for text in list_queries()]
    searches = [raw("/v1/search/text-video", {"query": text}) for text in list_queries()]
    with (
        tempfile.TemporaryDirectory() as folder,
        served(args.bundle, Path(folder) / "data", args.imports) as (port, server),
    ):
        sides: list[Side] = [("ours", port, server, embeds)]
        if args.beside is not None:
            sides.append(("the other", args.beside, find_listener(args.beside), others))
        loops = Loops(args.bundle, args.seconds)
        rates = defaultdict[str, list[float]](list)
        used = defaultdict[str, list[float]](list)  # processor time
        times: dict[str, list[float]] = {}
        alone, first = list[float](), list[float]()  # medians of rounds, of a text alone
        for _ in range(args.rounds):
            for name, (found, used_ms) in loops.rates(args.seconds).items():
                rates[name].append(found)
                used[name].append(used_ms)
            before_s = time.process_time()
            waits = loops.waits(args.seconds)
            used[ONE_TEXT].append(1000 * (time.process_time() - before_s) / len(waits))
            rates[ONE_TEXT].append(len(waits) / args.seconds)
            times[ONE_TEXT] = times.get(ONE_TEXT, []) + waits
            alone.append(float(np.median(waits)))
            for clients in CONCURRENCY:
                for name, at, process, requests in sides:
                    name = f"{name} over HTTP, {clients} clients"
                    asyncio.run(asked(at, requests, clients, 1.0))
                    before_s = processor_s(process) if process else 0.0
                    took = asyncio.run(asked(at, requests, clients, args.seconds))
                    if process:
                        spent_ms = 1000 * (processor_s(process) - before_s)
                        used[name].append(spent_ms / max(len(took), 1))
                    rates[name].append(len(took) / args.seconds)
                    times[name] = times.get(name, []) + took
                    if clients == 1 and at == port:
                        first.append(float(np.median(took)))
        loop = next(iter(rates.values()))
        print(f"{os.cpu_count()} cores, {args.rounds} rounds\n")
        print(
            "| what runs | texts per second | speed, loop = 1 | p50, ms | p99, ms |"
            " processor ms a text |\n|---|---|---|---|---|---|"
        )
        print(
            "\n".join(
                told(name, found, loop, times.get(name, []), used[name])
                for name, found in rates.items()
            ),
            flush=True,
        )
        longer = np.median(np.array(first) / np.array(alone))
        print(f"\nOne client waits {longer:.2f} times as long as the encoder takes for a text.")
        if args.imports:
            importing(port, args.imports.resolve(), searches, args.seconds)


if __name__ == "__main__":
    main()
