"""What int8 gives and what it loses: one row and sixteen, beside fp32 and ONNX Runtime's own
`quantize_dynamic`.

    python -m bench.precision [BUNDLE] [--rounds 15]

One thread; the encoders take turns in each round, and the best round counts. "Cosine to fp32"
compares an item's vector with the one that fp32 gives. "Cosine to alone" compares it with the one
that the item gets in a batch of its own. Both columns have the lowest cosine of the items that
`export verify` encodes, in batches of 2, 7 and 32. `quantize_dynamic` has one scale for all
activations of a batch, and leaves the first product of each MLP in fp32. int8 was derived so
before.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic

from export.bundle import Bundle, open_bundle
from export.encoder import OnnxEncoder, parse_modality
from export.precision import find_logarithm_inputs, fold_constants
from export.verify import collect_items, encode_in_batches, encode_items, least_cosine

STOCK = "quantize_dynamic"
ROWS = (1, 16)


def mlp_up_projections(model: Any) -> list[str]:
    """The products that begin an MLP, four times as wide as what they read."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    weights = [
        (n.name, shapes.get(n.input[1], ())) for n in model.graph.node if n.op_type == "MatMul"
    ]
    return [name for name, shape in weights if len(shape) == 2 and shape[1] == 4 * shape[0]]


class Stock(OnnxEncoder):
    """The bundle as `quantize_dynamic` makes it."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle, threads=1)
        for encoding in bundle.manifest.graphs:
            with tempfile.TemporaryDirectory() as place:
                model = fold_constants(bundle.graph(encoding), Path(place))
                out = Path(place) / "int8.onnx"
                quantize_dynamic(
                    model,
                    out,
                    weight_type=QuantType.QInt8,
                    per_channel=True,
                    op_types_to_quantize=["MatMul"],
                    nodes_to_exclude=[*mlp_up_projections(model), *find_logarithm_inputs(model)],
                )
                options = onnxruntime.SessionOptions()
                options.intra_op_num_threads = 1
                options.enable_mem_pattern = False
                options.add_session_config_entry("session.x64quantprecision", "1")
                self._sessions[encoding] = onnxruntime.InferenceSession(
                    out, options, ["CPUExecutionProvider"]
                )


def best_ms(
    encoders: dict[str, OnnxEncoder], encoding: str, items: list[Any], rounds: int
) -> dict[str, float]:
    """The best round of each, in milliseconds; the first round warms."""
    best = dict.fromkeys(encoders, float("inf"))
    for n in range(rounds + 1):
        for name, encoder in encoders.items():
            began = time.perf_counter()
            encode_items(encoder, encoding, items)
            took = 1000 * (time.perf_counter() - began)
            best[name] = min(best[name], took) if n else best[name]
    return best


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.precision", description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("bundles/default"))
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    bundle = open_bundle(args.bundle)
    encoders = {
        "fp32": OnnxEncoder(bundle, threads=1),
        STOCK: Stock(bundle),
        "int8": OnnxEncoder(bundle, threads=1, precision="int8"),
    }
    items = collect_items(encoders["fp32"])
    print(
        "| encoding | precision | batch of 1, ms | speed, fp32 = 1 | batch of 16, ms "
        "| speed, fp32 = 1 | cosine to fp32 | cosine to alone |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for encoding in bundle.manifest.graphs:
        some = items[parse_modality(encoding)]
        random = np.random.default_rng(0).permutation(len(some))
        chosen = [some[i] for i in random[: max(ROWS)]]
        times = [best_ms(encoders, encoding, chosen[:n], args.rounds) for n in ROWS]
        expected = encode_in_batches(encoders["fp32"], encoding, some)[0]
        for name, encoder in encoders.items():
            vectors = encode_in_batches(encoder, encoding, some)
            cells = [f"{t[name]:.1f} | {t['fp32'] / t[name]:.2f}" for t in times]
            seen = (
                f"{least_cosine(vectors, expected):.5f} | {least_cosine(vectors, vectors[0]):.5f}"
            )
            print(f"| {encoding} | {name} | {' | '.join(cells)} | {seen} |", flush=True)


if __name__ == "__main__":
    main()
