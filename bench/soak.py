"""Whether a service grows under long mixed load: its memory, threads, open files and child
processes.

    python -m bench.soak FOLDER [--bundle bundles/default] [--minutes 30] [--clients 8]

FOLDER has media. Clients embed texts and files, search by words and by files, add and delete items,
send files that are no media, and hang up in the middle of a request. Growth is fitted by least
squares after a fifth of the time.
"""

from __future__ import annotations

import argparse
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import psutil

from index.query_bank import list_queries
from media.containers import MEDIA

from .serve import ask, free, raw

SAMPLE_S = 5.0
KEPT = 200  # items a client leaves in the collection


class Load:
    """What one client does, one thing after the other, until told to stop."""

    def __init__(self, port: int, files: list[Path], seed: int) -> None:
        self.port, self.files, self.rng, self.seed = port, files, random.Random(seed), seed
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120)
        self.seen: Counter[str] = Counter()

    def run(self, stop: threading.Event) -> None:
        acts: list[Callable[[], httpx.Response | None]] = [
            self.texts,
            self.search,
            self.example,
            self.add,
            self.remove,
        ]
        acts += [self.texts, self.search, self.embed, self.nonsense, self.vanish]
        while not stop.is_set():
            act = self.rng.choice(acts)
            answer = act()
            self.seen[f"{act.__name__} {answer.status_code if answer is not None else 'gone'}"] += 1

    def words(self) -> str:
        return self.rng.choice(list_queries())

    def texts(self) -> httpx.Response:
        return self.http.post(
            "/v1/embed/text",
            json={"texts": [self.words() for _ in range(self.rng.randrange(1, 9))]},
        )

    def search(self) -> httpx.Response:
        return self.http.post(
            f"/v1/search/text-{self.luck.choice(['video', 'audio'])}", json={"query": self.words()}
        )

    def sent(self, path: str, **fields: str) -> httpx.Response:
        file = self.rng.choice(self.files)
        return self.http.post(path, files={"file": (file.name, file.read_bytes())}, data=fields)

    def example(self) -> httpx.Response:
        return self.sent("/v1/search/audio-audio")

    def embed(self) -> httpx.Response:
        return self.sent("/v1/embed/video")

    def add(self) -> httpx.Response:
        return self.sent(
            "/v1/collections/default/items", id=f"{self.seed}-{self.luck.randrange(KEPT)}"
        )

    def remove(self) -> httpx.Response:
        return self.http.delete(
            f"/v1/collections/default/items/{self.seed}-{self.luck.randrange(KEPT)}"
        )

    def nonsense(self) -> httpx.Response:
        return self.http.post(
            "/v1/embed/audio", files={"file": ("x.wav", self.rng.randbytes(5000))}
        )

    def vanish(self) -> None:
        whole = raw("/v1/embed/text", {"texts": [self.words()]})
        with socket.create_connection(("127.0.0.1", self.port)) as client:
            client.sendall(whole[: self.rng.randrange(len(whole) + 1)])


def state(server: psutil.Process) -> dict[str, float]:
    children = server.children(recursive=True)
    resident = server.memory_info().rss + sum(child.memory_info().rss for child in children)
    return {
        "memory, MiB": resident / 2**20,
        "of it the server's": server.memory_info().rss / 2**20,
        "threads": server.num_threads(),
        "open files": server.num_fds(),
        "children": len(children),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/default"))
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=8)
    args = parser.parse_args()
    files = [path for path in sorted(args.folder.rglob("*")) if path.suffix.lower() in MEDIA]
    port, stop, samples = free(), threading.Event(), []
    with tempfile.TemporaryDirectory() as place:
        command = [
            sys.executable,
            "-m",
            "service",
            "--bundle",
            str(args.bundle),
            "--data",
            f"{place}/data",
        ]
        process = subprocess.Popen([*command, "--port", str(port)], stderr=subprocess.DEVNULL)
        while ask(port, "GET", "/readyz") is None:
            time.sleep(0.1)
        server, idle = psutil.Process(process.pid), state(psutil.Process(process.pid))
        loads = [Load(port, files, seed) for seed in range(args.clients)]
        threads = [threading.Thread(target=load.run, args=(stop,), daemon=True) for load in loads]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        unready = 0
        while (at := time.monotonic() - began) < 60 * args.minutes:
            samples.append((at / 3600, state(server)))
            unready += ask(port, "GET", "/readyz") is None
            time.sleep(SAMPLE_S)
        stop.set()
        for thread in threads:
            thread.join()
        time.sleep(5.0)
        after = state(server)
        process.terminate()
        process.wait()
    seen = sum((load.seen for load in loads), Counter[str]())
    print(
        f"{sum(seen.values()):,} requests in {args.minutes:g} minutes, not ready in {unready} of "
        f"{len(samples)} looks"
    )
    print(", ".join(f"{name}: {count:,}" for name, count in sorted(seen.items())))
    warm = samples[len(samples) // 5 :]
    print(
        "\n| measure | idle before | after a fifth of the time | at the end | idle after "
        "| growth per hour, least squares |\n"
        "|---|---|---|---|---|---|"
    )
    for name in idle:
        slope = float(np.polyfit([at for at, _ in warm], [found[name] for _, found in warm], 1)[0])
        row = (idle[name], warm[0][1][name], warm[-1][1][name], after[name])
        print(f"| {name} | {' | '.join(f'{value:,.0f}' for value in row)} | {slope:+,.1f} |")


if __name__ == "__main__":
    main()
