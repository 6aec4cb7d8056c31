"""What HTTP costs: texts embedded and searches answered by a server, beside the same ONNX session called in a loop.

    python -m bench.serve [BUNDLE] [--seconds 5] [--import FOLDER] [--beside PORT --model NAME]

The loop calls a session on all cores with its best batch; beside it the encoder is called with two batches at once, as
the service does. Each request of the server's carries one text; clients keep their connections and ask again as soon as
they are answered. All of it shares the machine: the server, its encoder and the clients. With `--import`, text searches
are timed alone and while that folder is imported by a job. With `--beside`, a server on this machine that speaks
OpenAI's shape at /embeddings (infinity-emb) is asked for the same texts in turn.
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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from export.bundle import open_bundle
from export.encoder import OnnxEncoder, session
from index.bank import phrases

CONCURRENCY = (1, 8, 32, 128)
BATCHES = (1, 8, 16, 32, 64, 128)


def looped(bundle: Path, seconds: float) -> tuple[tuple[float, int], tuple[float, int]]:
    """Texts a second and the batch that gives most: of one session on every core, called in a loop; and of the encoder,
    called with two batches side by side, as the service does.
    """
    encoder = OnnxEncoder.open(bundle)
    encoding = encoder.manifest.encodings("text")[0]
    alone = session(open_bundle(bundle).graph(encoding), "cpu", os.cpu_count() or 1, "fp32")
    one = best(lambda texts: alone.run(None, {"tokens": encoder.tokens(texts, encoding)}), seconds / 2)
    with ThreadPoolExecutor(2) as two:

        def both(texts: list[str]) -> None:
            list(two.map(lambda half: encoder.embed(encoding, encoder.tokens(half, encoding)), (texts, texts)))

        rate, batch = best(both, seconds / 2)
    return one, (2 * rate, batch)


def best(embed: Callable[[list[str]], Any], seconds: float) -> tuple[float, int]:
    texts, rates = phrases() * 2, {}
    for batch in BATCHES:
        embed(texts[:batch])
        done, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            at = done % len(texts)
            embed((texts + texts)[at : at + batch])
            done += batch
        rates[batch] = done / (time.perf_counter() - began)
    most = max(rates, key=lambda batch: rates[batch])
    return rates[most], most


def free() -> int:
    """A port that nobody listens on."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


@contextmanager
def served(bundle: Path, data: Path, imports: Path | None) -> Iterator[int]:
    """A server process, ready; its port."""
    port = free()
    command = [sys.executable, "-m", "service", "--bundle", str(bundle), "--data", str(data), "--port", str(port)]
    command += ["--imports", str(imports)] if imports else []
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while ask(port, "GET", "/readyz") is None:
            time.sleep(0.1)
        yield port
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
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            times.append(1000 * (time.perf_counter() - began))
            n += clients
        writer.close()

    await asyncio.gather(*(client(n) for n in range(clients)))
    return times


def told(name: str, times: list[float], seconds: float, loop: float) -> str:
    p50, p99 = np.percentile(times, (50, 99))
    return f"| {name} | {len(times) / seconds:.0f} | {len(times) / seconds / loop:.2f} | {p50:.1f} | {p99:.1f} |"


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
        f"while {now['indexed']} of {now['total']} files of {folder.name} are imported ({len(busy)} searches): ", end=""
    )
    print(f"p50 {p99[0]:.1f} ms, p99 {p99[1]:.1f} ms, {p99[1] / p50[1]:.1f} times the p99 alone")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.serve", description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("bundles/default"))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--import", type=Path, dest="imports", metavar="FOLDER")
    parser.add_argument("--beside", type=int, metavar="PORT")
    parser.add_argument("--model", default="default", help="what the other server calls its model")
    args = parser.parse_args()
    (loop, batch), (two, each) = looped(args.bundle, args.seconds)
    print(f"{os.cpu_count()} cores\n\n| | texts a second | of the loop | p50, ms | p99, ms |\n|---|---|---|---|---|")
    print(f"| one session in a loop, batches of {batch} | {loop:.0f} | 1.00 | | |")
    print(f"| two side by side, batches of {each} | {two:.0f} | {two / loop:.2f} | | |")
    embeds = [raw("/v1/embed/text", {"texts": [text]}) for text in phrases()]
    others = [raw("/embeddings", {"model": args.model, "input": [text]}) for text in phrases()]
    searches = [raw("/v1/search/text-video", {"query": text}) for text in phrases()]
    with tempfile.TemporaryDirectory() as folder, served(args.bundle, Path(folder) / "data", args.imports) as port:
        for clients in CONCURRENCY:
            for name, at, requests in (("ours", port, embeds), ("the other", args.beside, others)):
                if at is not None:
                    asyncio.run(asked(at, requests, clients, 1.0))
                    times = asyncio.run(asked(at, requests, clients, args.seconds))
                    print(told(f"{name} over HTTP, {clients} clients", times, args.seconds, loop), flush=True)
        if args.imports:
            importing(port, args.imports.resolve(), searches, args.seconds)


if __name__ == "__main__":
    main()
