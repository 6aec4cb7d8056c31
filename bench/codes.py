"""FAISS's kinds of codes beside each other: the quickest search that reaches a recall, and what the
index costs.

    python -m bench.codes [--count 100000] [--dim 256] [--recall 0.985] [--captions FOLDER] [--keep
    FOLDER]

The vectors are those of `bench.search`, made or of captions. Each kind is searched with all
settings of a grid: lists, or the graph's width, and how many vectors are rescored. It has one
thread and 200 queries. The row is the quickest setting that reaches the recall, or else the one
with the highest recall. "Bytes per vector" leaves out the stored vectors for rescoring.
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from pathlib import Path

import faiss
import numpy as np

from index.vectors.codes import lists_for

from .search import ASKED, TEN, captions, made, measured, true_ten

LISTS, WIDTHS, FACTORS = (4, 8, 16, 32, 64, 128), (32, 64, 128, 256), (2, 4, 8, 16, 32)
CODES = ("RaBitQ", "RaBitQfs", "RaBitQfs4", "EDEN4", "SQ8")
WHOLE = ("Flat", "FlatPanorama8_32")  # eight levels, 32 vectors at a time


def lists_row(
    x: np.ndarray, name: str, queries: np.ndarray, truth: list[set[int]], least: float
) -> str:
    began = time.perf_counter()
    index = faiss.index_factory(
        x.shape[1], f"IVF{lists_for(len(x))},{name}", faiss.METRIC_INNER_PRODUCT
    )
    index.train(x)
    index.add(x)
    built = time.perf_counter() - began
    size = faiss.serialize_index(index).nbytes / len(x)
    seen = []
    refined = index if name in WHOLE else faiss.IndexRefineFlat(index, faiss.swig_ptr(x))
    for lists, factor in product(LISTS, (1,) if name in WHOLE else FACTORS):
        params = faiss.SearchParametersIVF(nprobe=lists)
        if name not in WHOLE:
            params = faiss.IndexRefineSearchParameters(k_factor=factor, base_index_params=params)
        found = measured(
            lambda q, p=params: refined.search(q[None], TEN, params=p)[1][0].tolist(),
            queries,
            truth,
        )
        seen.append(
            (f"{lists} lists" + ("" if name in WHOLE else f", {TEN * factor} compared"), *found)
        )
    return row(f"lists, {name}", seen, size, built, least)


def graph_row(x: np.ndarray, queries: np.ndarray, truth: list[set[int]], least: float) -> str:
    began = time.perf_counter()
    index = faiss.index_factory(x.shape[1], "HNSW32,Flat", faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 120
    index.add(x)
    built = time.perf_counter() - began
    seen = []
    for width in WIDTHS:
        params = faiss.SearchParametersHNSW(efSearch=width)
        found = measured(
            lambda q, p=params: index.search(q[None], TEN, params=p)[1][0].tolist(), queries, truth
        )
        seen.append((f"width {width}", *found))
    return row("HNSW32,Flat", seen, faiss.serialize_index(index).nbytes / len(x), built, least)


def row(
    name: str, seen: list[tuple[str, float, float, float]], size: float, built: float, least: float
) -> str:
    enough = [one for one in seen if one[3] >= least]
    best = min(enough, key=lambda one: one[1]) if enough else max(seen, key=lambda one: one[3])
    return f"| {name} | {best[0]} | {best[1]:.3f} | {best[3]:.3f} | {size:.0f} | {built:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.codes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--recall", type=float, default=0.985)
    parser.add_argument(
        "--captions",
        type=Path,
        help="a folder of CSV files with captions, in place of made vectors",
    )
    parser.add_argument(
        "--keep", type=Path, default=Path(), help="a folder for the captions' vectors, used again"
    )
    args = parser.parse_args()
    faiss.omp_set_num_threads(1)
    if args.captions:
        every = captions(args.captions, args.keep / "captions.npy")[0]
        queries, x = every[:ASKED], every[ASKED:]
    else:
        x, queries = made(args.count, args.dim, 2), made(ASKED, args.dim, 3)
    dim = x.shape[1]
    truth = true_ten(x, queries, np.arange(len(x)))
    print(
        "| kind of index | setting | p50, ms | recall@10 | bytes per vector | time to build, s |\n"
        "|---|---|---|---|---|---|"
    )
    for name in (f"PQ{dim // 4}x4fs", f"PQ{dim // 2}x4fs", *CODES, *WHOLE):
        print(lists_row(x, name, queries, truth, args.recall), flush=True)
    print(graph_row(x, queries, truth, args.recall))
    for name in ("HNSW32,RaBitQ", "HNSW32,FlatPanorama8"):
        try:
            faiss.index_factory(dim, name, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            print(f"\n{name}: {str(error).split('Error: ')[-1].splitlines()[0]}")


if __name__ == "__main__":
    main()
