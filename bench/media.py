"""What HTTP costs for media: files uploaded to be embedded, beside decoding them and encoding them
without it.

    python -m bench.media FOLDER [--bundle bundles/default] [--clients 8] [--rounds 3] [--seconds
    10]

For pictures and for sound it measures files per second: of two decoding processes alone, of the
encoder alone with sixteen decoded windows at a time, and of the service with one file a request.
Decoding and encoding alone have every core to themselves; the service shares them with its clients.
So the service is compared with the slower stage, and with one stage after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import numpy as np

from export.encoder import OnnxEncoder
from index.commands.flags import DECODE_MEMORY_MB
from media.containers import Budget
from media.errors import BadMedia
from media.sandbox import Decoders
from media.windows import DecodeOptions

from .serve import asked, served

BOUNDARY, WORKERS, BATCH, FILE_S = "bench-media", 2, 16, 60.0


def upload(kind: str, file: Path) -> bytes:
    """A whole request."""
    disposition = f'form-data; name="file"; filename="clip{file.suffix}"'
    head = f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n"
    body = head.encode() + file.read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode()
    lines = [f"POST /v1/embed/{kind} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    return (
        "\r\n".join(
            [*lines, f"Content-Type: multipart/form-data; boundary={BOUNDARY}", "", ""]
        ).encode()
        + body
    )


def alone(encoder: OnnxEncoder, files: list[Path], kind: str) -> tuple[float, float]:
    """Files per second decoded, and encoded."""
    decoders = Decoders(WORKERS, DECODE_MEMORY_MB, FILE_S)
    decoders.warm()
    began = time.perf_counter()
    options = DecodeOptions(specs=encoder.manifest.inputs, budget=Budget(), modalities=(kind,))
    futures = [decoders.start(file, options) for file in files]
    arrays = [decoders.finish(future).parts[kind].array for future in futures]
    decode_s = time.perf_counter() - began
    decoders.close()
    windows, encoding = np.concatenate(arrays), encoder.manifest.encodings(kind)[0]
    encoder.embed(encoding, windows[:BATCH])
    began = time.perf_counter()
    for at in range(0, len(windows), BATCH):
        encoder.embed(encoding, windows[at : at + BATCH])
    return len(files) / decode_s, len(files) / (time.perf_counter() - began)


def readable(encoder: OnnxEncoder, files: list[Path], kind: str) -> list[Path]:
    decoders = Decoders(WORKERS, DECODE_MEMORY_MB, FILE_S)
    options = DecodeOptions(specs=encoder.manifest.inputs, budget=Budget(), modalities=(kind,))
    futures = [(file, decoders.start(file, options)) for file in files]
    good = []
    for file, future in futures:
        try:
            good += [file] if kind in decoders.finish(future).parts else []
        except BadMedia:
            continue
    decoders.close()
    return good


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.media", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/default"))
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3, help="whose medians are printed")
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args()
    encoder = OnnxEncoder.open(args.bundle)
    print(
        "| what runs | files per second | speed, slower stage = 1 | speed, stages in turn = 1 |\n"
        "|---|---|---|---|"
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        served(args.bundle, Path(folder) / "data", None) as port,
    ):
        for kind in ("video", "audio"):
            files = readable(
                encoder, sorted(path for path in args.folder.iterdir() if path.is_file()), kind
            )
            requests = [upload(kind, file) for file in files]
            asyncio.run(asked(port, requests, args.clients, 1.0))
            rounds = []
            for _ in range(args.rounds):
                answered = asyncio.run(asked(port, requests, args.clients, args.seconds))
                rounds.append((*alone(encoder, files, kind), len(answered) / args.seconds))
            rates = np.array(rounds)  # [rounds, (decoding, encoding, over HTTP)]
            slower, after = rates[:, :2].min(axis=1), 1 / (1 / rates[:, :2]).sum(axis=1)
            for name, found in zip(
                (f"{kind}: decoding alone", "encoding alone", "over HTTP"), rates.T, strict=True
            ):
                columns = (f"{np.median(of):.2f}" for of in (found / slower, found / after))
                print(f"| {name} | {np.median(found):.1f} | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()
