"""Other vector stores beside ours, with the same filters: LanceDB, qdrant-edge-py and Milvus Lite,
where installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.columns import Ids
from index.vectors.base import Vectors
from tests.makers import running_milvus

TEN, CHUNK = 10, 1000
Answer = Callable[[Vectors], list[int]]
# topics that are allowed, None for all, and below which rank
Among = Callable[[list[int] | None, float], Answer]
Ranks = NDArray[np.float64]


@dataclass(frozen=True)
class Store:
    """A store that holds all vectors: how it is asked, and how a topic is deleted from it."""

    among: Among
    remove: Callable[[int], None]


def lance(x: Vectors, topics: Ids, rank: Ranks, folder: Path) -> Store:
    import lancedb
    import pyarrow as pa
    from lancedb.index import HnswSq

    vectors = pa.FixedSizeListArray.from_arrays(x.ravel(), x.shape[1])
    rows = pa.table({"id": np.arange(len(x)), "vector": vectors, "topic": topics, "rank": rank})
    table = lancedb.connect(str(folder / "lance")).create_table("t", rows)
    table.create_index("vector", config=HnswSq(distance_type="dot"))

    def among(allowed: list[int] | None, below: float) -> Answer:
        said = [f"topic in ({', '.join(map(str, allowed))})"] if allowed is not None else []
        said += [f"rank < {below}"] if below < 1 else []

        def answer(query: Vectors) -> list[int]:
            asked = table.search(query).distance_type("dot").nprobes(20).refine_factor(5).limit(TEN)
            if said:
                asked = asked.where(" and ".join(said), prefilter=True)
            return [row["id"] for row in asked.select(["id", "_distance"]).to_list()]

        return answer

    return Store(among, lambda topic: table.delete(f"topic = {topic}"))


def qdrant(x: Vectors, topics: Ids, rank: Ranks, folder: Path) -> Store:
    import qdrant_edge as edge

    (folder / "edge").mkdir()
    config = edge.EdgeConfig(
        vectors=edge.EdgeVectorParams(size=x.shape[1], distance=edge.Distance.Dot)
    )
    shard = edge.EdgeShard.create(str(folder / "edge"), config)
    shard.update(edge.UpdateOperation.create_field_index("topic", edge.PayloadSchemaType.Integer))
    shard.update(edge.UpdateOperation.create_field_index("rank", edge.PayloadSchemaType.Float))
    for at in range(0, len(x), CHUNK):
        points = [
            edge.Point(n, x[n].tolist(), {"topic": int(topics[n]), "rank": float(rank[n])})
            for n in range(at, min(at + CHUNK, len(x)))
        ]
        shard.update(edge.UpdateOperation.upsert_points(points))
    shard.optimize()

    def among(allowed: list[int] | None, below: float) -> Answer:
        said = (
            [edge.FieldCondition("topic", match=edge.MatchAny(allowed))]
            if allowed is not None
            else []
        )
        said += [edge.FieldCondition("rank", range=edge.RangeFloat(lt=below))] if below < 1 else []
        chosen = edge.Filter(must=said) if said else None

        def answer(query: Vectors) -> list[int]:
            nearest = edge.Query.Nearest(query.tolist())
            return [
                found.id
                for found in shard.query(edge.QueryRequest(query=nearest, filter=chosen, limit=TEN))
            ]

        return answer

    def remove(topic: int) -> None:
        gone = np.flatnonzero(topics == topic).tolist()
        shard.update(edge.UpdateOperation.delete_points(gone))
        shard.optimize()

    return Store(among, remove)


def milvus(x: Vectors, topics: Ids, rank: Ranks, uri: str) -> Store:
    from pymilvus import DataType, MilvusClient

    client = MilvusClient(uri)
    schema = client.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=x.shape[1])
    schema.add_field("topic", DataType.INT64)
    schema.add_field("rank", DataType.DOUBLE)
    kind = client.prepare_index_params()
    kind.add_index(
        "vector", index_type="HNSW", metric_type="IP", params={"M": 32, "efConstruction": 120}
    )
    client.create_collection("bench", schema=schema, index_params=kind)
    for at in range(0, len(x), CHUNK):
        rows = [
            {"id": n, "vector": x[n].tolist(), "topic": int(topics[n]), "rank": float(rank[n])}
            for n in range(at, min(at + CHUNK, len(x)))
        ]
        client.insert("bench", rows)
    client.load_collection("bench")

    def among(allowed: list[int] | None, below: float) -> Answer:
        said = [f"topic in {allowed}"] if allowed is not None else []
        said += [f"rank < {below}"] if below < 1 else []
        chosen = " and ".join(said)

        def answer(query: Vectors) -> list[int]:
            [hits] = client.search(
                "bench",
                [query.tolist()],
                filter=chosen,
                limit=TEN,
                search_params={"params": {"ef": 128}},
            )
            return [int(hit["id"]) for hit in hits]

        return answer

    def remove(topic: int) -> None:
        client.delete("bench", filter=f"topic == {topic}")

    return Store(among, remove)


@contextmanager
def others(x: Vectors, topics: Ids, rank: Ranks, folder: Path) -> Iterator[dict[str, Store]]:
    """Each with all vectors in it, by name; what is not installed, or fails, is told of and left
    out.
    """
    found: dict[str, Store] = {}
    with ExitStack() as stack:
        for name, build in (
            ("LanceDB", lambda: lance(x, topics, rank, folder)),
            ("qdrant-edge-py", lambda: qdrant(x, topics, rank, folder)),
            (
                "Milvus Lite",
                lambda: milvus(x, topics, rank, stack.enter_context(running_milvus(folder))),
            ),
        ):
            try:
                found[name] = build()
            except ImportError as error:
                print(f"{name} is not installed ({error.name})")
            except Exception as error:  # interfaces change from version to version
                print(f"{name} could not be asked: {type(error).__name__}: {error}")
        yield found
