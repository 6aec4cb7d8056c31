"""Vectors kept in Milvus: the same protocol, past one machine. The records stay the truth; what is
here is rebuilt.

Only what Milvus and milvus-lite have in common is used: upsert, delete, query, and search with a
filter on ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..columns import Ids
from ..records.database import Records
from .faiss_index import NOTHING, Found, Vectors, few
from .store import Held, VectorStoreFailed, replay

CHUNK = 16_384  # ids looked through at a time
ROWS = 1000  # in one message, which has 64 MB at most
MOST = 16_384  # hits that Milvus gives, at most
FILTERED = 10_000  # ids that a filter names, at most


class MilvusIndex:
    """See VectorIndex: one Milvus collection, whose search may miss (`AUTOINDEX` chooses how)."""

    kind, needs_compaction = "milvus", False

    def __init__(self, uri: str, name: str, dim: int) -> None:
        self.name, self.dim = re.sub(r"\W", "_", f"tercet_{name}"), dim
        with failing():
            from pymilvus import DataType, MilvusClient

            self._client = MilvusClient(uri=uri)
            if not self._client.has_collection(self.name):
                schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
                schema.add_field("id", DataType.INT64, is_primary=True)
                schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
                by = self._client.prepare_index_params()
                by.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
                self._client.create_collection(
                    self.name, schema=schema, index_params=by, consistency_level="Strong"
                )
            self._client.load_collection(self.name)
            counted = self._client.query(self.name, filter="id > 0", output_fields=["count(*)"])
            self._count = int(counted[0]["count(*)"])

    def __len__(self) -> int:
        return self._count

    def clear(self) -> None:
        with failing():
            self._client.delete(self.name, filter="id > 0")
        self._count = 0

    def last(self) -> int:
        """The highest id there is; 0 where there is none. Ids ascend, so what is missing is behind
        it.
        """
        low, high = 0, 1
        while self._beyond(high):
            low, high = high, 2 * high
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self._beyond(middle) else (low, middle)
        return low

    def _beyond(self, id: int) -> bool:
        with failing():
            return (
                len(
                    self._client.query(
                        self.name, filter=f"id > {id}", output_fields=["id"], limit=1
                    )
                )
                > 0
            )

    def add(self, ids: Ids, vectors: Vectors) -> None:
        for at in range(0, len(ids), ROWS):
            part = zip(ids[at : at + ROWS].tolist(), vectors[at : at + ROWS].tolist(), strict=True)
            with failing():
                self._client.upsert(
                    self.name, [{"id": id, "vector": vector} for id, vector in part]
                )
        self._count += len(ids)

    def remove(self, ids: Ids) -> None:
        for at in range(0, len(ids), ROWS):
            part = ids[at : at + ROWS].tolist()
            with failing():
                there = [
                    row["id"] for row in self._client.get(self.name, ids=part, output_fields=["id"])
                ]
                if there:
                    self._client.delete(self.name, ids=there)
            self._count -= len(there)

    def search(
        self,
        query: Vectors,
        k: int,
        allowed: Ids | None = None,
        exact: bool = False,
        rough: bool = False,
    ) -> Found:
        if k <= 0 or len(self) == 0 or (allowed is not None and len(allowed) == 0):
            return NOTHING
        if exact or few(allowed, len(self)) or k > MOST:
            return self._scan(query, k, allowed)
        many = allowed is not None and len(allowed) > FILTERED
        only = {} if allowed is None or many else {"filter": f"id in {allowed.tolist()}"}
        limit = min(MOST if many else k, len(self))
        with failing():
            (hits,) = self._client.search(
                self.name,
                data=[query.tolist()],
                limit=limit,
                search_params={"metric_type": "IP"},
                **only,
            )
        ids = np.array([hit["id"] for hit in hits], np.int64)
        scores = np.array([hit["distance"] for hit in hits], np.float32)
        # too many to name: take what is allowed from the best there are
        if allowed is not None and many:
            fitting = np.isin(ids, allowed)
            ids, scores = ids[fitting][:k], scores[fitting][:k]
            if len(ids) < min(k, len(allowed)):
                return self._scan(query, k, allowed)
        return Found(ids, scores, "milvus", len(self) if allowed is None else len(allowed), False)

    @property
    def stores_original_vectors(self) -> bool:
        return False

    def _scan(self, query: Vectors, k: int, allowed: Ids | None) -> Found:
        """Fetch every allowed vector, a page at a time, and compare."""
        kept, kept_scores = np.empty(0, np.int64), np.empty(0, np.float32)
        for ids, vectors in self._pages(allowed):
            ids, scores = (
                np.concatenate([kept, ids]),
                np.concatenate([kept_scores, vectors @ query]),
            )
            best = best_of(scores, k)
            kept, kept_scores = ids[best], scores[best]
        return Found(kept, kept_scores, "scan", len(self) if allowed is None else len(allowed))

    def _pages(self, allowed: Ids | None) -> Iterator[tuple[Ids, Vectors]]:
        at = 0
        while allowed is None:
            with failing():
                rows = self._client.query(
                    self.name,
                    filter=f"id > {at} and id <= {at + CHUNK}",
                    output_fields=["id", "vector"],
                )
            if rows:
                yield stacked(rows, self.dim)
            at += CHUNK
            if not self._beyond(at):
                return
        for start in range(0, len(allowed), ROWS):
            yield self._fetched(allowed[start : start + ROWS])

    def _fetched(self, ids: Ids) -> tuple[Ids, Vectors]:
        with failing():
            return stacked(
                self._client.get(self.name, ids=ids.tolist(), output_fields=["id", "vector"]),
                self.dim,
            )

    def vectors(self, ids: Ids) -> Vectors:
        found, vectors = self._fetched(ids)
        return vectors[np.searchsorted(found, ids)]

    def drop(self) -> None:
        with failing():
            self._client.drop_collection(self.name)

    def close(self) -> None:
        self._client.close()


class MilvusStore:
    """See Store: the indexes of the collection with this id, in one Milvus."""

    def __init__(self, uri: str, id: str, dims: Mapping[str, int]) -> None:
        self._uri, self._id, self._dims = uri, id, dims
        self.behind = False
        self._indexes: dict[str, MilvusIndex] = {}

    def _made(self, encoding: str) -> MilvusIndex:
        return MilvusIndex(self._uri, f"{self._id}_{encoding}", self._dims[encoding])

    def open(self, records: Records) -> None:
        """Add what came after the last vector there, remove what was removed; if that does not add
        up, begin anew.
        """
        counts, head, found = records.counts().vectors, records.head()[0], {}
        for encoding in records.encodings():
            index = self._made(encoding)
            last = index.last()
            if last <= head:
                replay(records, encoding, index, last)
                index.remove(records.tombstones_after(encoding, 0))
            if last > head or len(index) != counts[encoding]:  # of another history
                index.clear()
                replay(records, encoding, index, 0)
            found[encoding] = index
        old, self._indexes = self._indexes, found
        for index in old.values():
            index.close()
        self.behind = False

    def index(self, encoding: str) -> MilvusIndex | None:
        return self._indexes.get(encoding)

    def add(self, encoding: str, ids: Ids, vectors: Vectors) -> None:
        if encoding not in self._indexes:
            self._indexes[encoding] = self._made(encoding)
        self._indexes[encoding].add(ids, vectors)

    def remove(self, encoding: str, ids: Ids) -> None:
        if encoding in self._indexes:
            self._indexes[encoding].remove(ids)

    def tend(self, records: Records) -> None:
        """Milvus tends itself."""

    def keep(self, held: Held) -> None:
        with held() as records:
            if not self.behind:
                records.forget_tombstones(records.head()[1])

    @property
    def busy(self) -> bool:
        return False

    def stop(self) -> None:
        """Nothing runs in the background."""

    def drop(self) -> None:
        for index in self._indexes.values():
            index.drop()

    def release(self) -> None:
        for index in self._indexes.values():
            index.close()
        self._indexes = {}


def stacked(rows: list[dict[str, Any]], dim: int) -> tuple[Ids, Vectors]:
    """Rows as ids [n], ascending, and vectors [n, dim]."""
    rows = sorted(rows, key=lambda row: int(row["id"]))
    return (
        np.array([row["id"] for row in rows], np.int64),
        np.array([row["vector"] for row in rows], np.float32).reshape(len(rows), dim),
    )


def best_of(scores: Vectors, k: int) -> Ids:
    """Where the k highest scores are, the highest first."""
    best = np.arange(len(scores))
    if k < len(scores):
        best = np.sort(np.argpartition(-scores, k)[:k])
    return np.asarray(best[np.argsort(-scores[best], kind="stable")], np.int64)


@contextmanager
def failing() -> Iterator[None]:
    """Raises VectorStoreFailed for whatever Milvus or its client raises."""
    try:
        from grpc import FutureTimeoutError, RpcError
        from pymilvus.exceptions import MilvusException
    except ImportError as error:
        raise VectorStoreFailed("Milvus needs the package pymilvus (extra 'milvus')") from error
    try:
        yield
    except MilvusException as error:
        raise VectorStoreFailed(f"Milvus: {error.message}") from error
    except (RpcError, FutureTimeoutError) as error:
        raise VectorStoreFailed(f"Milvus cannot be reached: {type(error).__name__}") from error
