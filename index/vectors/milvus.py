"""Vectors kept in Milvus, for more than one machine holds. The records stay the truth: what Milvus
has is rebuilt from them.

Only what Milvus and milvus-lite have in common is used: upsert, delete, query, and search with a
filter on ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..columns import Allowed, Ids
from ..records.database import Records
from .base import NOTHING, Found, Vectors, is_few
from .rebuild import replay
from .store import HoldRecords, VectorStoreFailed

# Ids in a page of a scan.
PAGE = 16_384
# Rows in one message, which has 64 MB at most.
ROWS = 1000
# Hits that Milvus gives, at most.
MOST = 16_384
# Ids that a filter names, at most.
FILTERED = 10_000


class MilvusIndex:
    """See VectorIndex. One Milvus collection; its `AUTOINDEX` chooses the kind of index, so a
    search may miss.
    """

    kind = "milvus"

    def __init__(self, uri: str, name: str, dim: int) -> None:
        self.name = re.sub(r"\W", "_", f"tercet_{name}")
        self.dim = dim
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
        """The highest id there is; 0 where there is none. Found by doubling, then by halves: Milvus
        cannot sort.
        """
        low = 0
        high = 1
        while self._has_beyond(high):
            low = high
            high *= 2
        while low < high:
            middle = (low + high) // 2
            if self._has_beyond(middle):
                low = middle + 1
            else:
                high = middle
        return low

    def _has_beyond(self, id: int) -> bool:
        """Whether there is a higher id."""
        with failing():
            rows = self._client.query(self.name, filter=f"id > {id}", output_fields=["id"], limit=1)
        return len(rows) > 0

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
                rows = self._client.get(self.name, ids=part, output_fields=["id"])
                there = [row["id"] for row in rows]
                if there:
                    self._client.delete(self.name, ids=there)
            self._count -= len(there)

    def search(
        self,
        query: Vectors,
        k: int,
        *,
        allowed: Allowed | None = None,
        exact: bool = False,
        for_reranking: bool = False,
    ) -> Found:
        if k <= 0 or len(self) == 0 or (allowed is not None and len(allowed) == 0):
            return NOTHING
        few = allowed is not None and is_few(len(allowed), len(self))
        if exact or few or k > MOST:
            return self._scan(query, k, allowed)
        if allowed is None:
            ids, scores = self._ask(query, min(k, len(self)))
            return Found(ids, scores, "milvus", len(self), False)
        if len(allowed) <= FILTERED:
            ids, scores = self._ask(
                query, min(k, len(self)), filter=f"id in {allowed.ids.tolist()}"
            )
            return Found(ids, scores, "milvus", len(allowed), False)
        # Too many to name: of the best there are, those that are allowed.
        ids, scores = self._ask(query, min(MOST, len(self)))
        fitting = np.flatnonzero(np.isin(ids, allowed.ids))[:k]
        if len(fitting) < min(k, len(allowed)):
            return self._scan(query, k, allowed)
        return Found(ids[fitting], scores[fitting], "milvus", len(allowed), False)

    def _ask(self, query: Vectors, limit: int, **filtered: str) -> tuple[Ids, Vectors]:
        """Ids and scores of Milvus's own search, best first."""
        with failing():
            (hits,) = self._client.search(
                self.name,
                data=[query.tolist()],
                limit=limit,
                search_params={"metric_type": "IP"},
                **filtered,
            )
        ids = np.array([hit["id"] for hit in hits], np.int64)
        scores = np.array([hit["distance"] for hit in hits], np.float32)
        return ids, scores

    bytes_per_vector: int | None = None

    @property
    def stores_original_vectors(self) -> bool:
        return False

    def _scan(self, query: Vectors, k: int, allowed: Allowed | None) -> Found:
        """Fetch every allowed vector, a page at a time, and compare."""
        kept = NOTHING.ids
        kept_scores = NOTHING.scores
        for page, vectors in self._pages(allowed):
            ids = np.concatenate([kept, page])
            scores = np.concatenate([kept_scores, vectors @ query])
            best = best_of(scores, k)
            kept = ids[best]
            kept_scores = scores[best]
        return Found(kept, kept_scores, "scan", len(self) if allowed is None else len(allowed))

    def _pages(self, allowed: Allowed | None) -> Iterator[tuple[Ids, Vectors]]:
        """Ids [n], ascending, and their vectors [n, dim]: the allowed ones, or all."""
        if allowed is not None:
            for start in range(0, len(allowed), ROWS):
                yield self._fetch(allowed.ids[start : start + ROWS])
            return
        at = 0
        while self._has_beyond(at):
            with failing():
                rows = self._client.query(
                    self.name,
                    filter=f"id > {at} and id <= {at + PAGE}",
                    output_fields=["id", "vector"],
                )
            if rows:
                yield stack(rows, self.dim)
            at += PAGE

    def _fetch(self, ids: Ids) -> tuple[Ids, Vectors]:
        with failing():
            rows = self._client.get(self.name, ids=ids.tolist(), output_fields=["id", "vector"])
            return stack(rows, self.dim)

    def vectors(self, ids: Ids) -> Vectors:
        fetched, vectors = self._fetch(ids)
        return vectors[np.searchsorted(fetched, ids)]

    def drop(self) -> None:
        with failing():
            self._client.drop_collection(self.name)

    def close(self) -> None:
        self._client.close()


class MilvusStore:
    """See Store: the indexes of the collection with this id, in one Milvus."""

    def __init__(self, uri: str, id: str, dims: Mapping[str, int]) -> None:
        self._uri = uri
        self._id = id
        self._dims = dims
        self.stale = False
        self._indexes: dict[str, MilvusIndex] = {}

    def _connect(self, encoding: str) -> MilvusIndex:
        return MilvusIndex(self._uri, f"{self._id}_{encoding}", self._dims[encoding])

    def open(self, records: Records) -> None:
        """Add what came after the last vector there, and remove what was removed. If that does not
        add up, fill it anew.
        """
        indexes = {}
        for encoding in records.encodings():
            index = self._connect(encoding)
            self._update(records, encoding, index)
            indexes[encoding] = index
        self.release()
        self._indexes = indexes
        self.stale = False

    def _update(self, records: Records, encoding: str, index: MilvusIndex) -> None:
        last = index.last()
        ahead = last > records.head()[0]  # it has another history
        if not ahead:
            replay(records, encoding, index, last)
            index.remove(records.tombstones_after(encoding, 0))
        if ahead or len(index) != records.counts().vectors[encoding]:
            index.clear()
            replay(records, encoding, index, 0)

    def index(self, encoding: str) -> MilvusIndex | None:
        return self._indexes.get(encoding)

    def add(self, encoding: str, ids: Ids, vectors: Vectors) -> None:
        if encoding not in self._indexes:
            self._indexes[encoding] = self._connect(encoding)
        self._indexes[encoding].add(ids, vectors)

    def remove(self, encoding: str, ids: Ids) -> None:
        if encoding in self._indexes:
            self._indexes[encoding].remove(ids)

    def run_maintenance(self, records: Records) -> None:
        """Milvus does its own."""

    def save_snapshot(self, hold: HoldRecords) -> None:
        with hold() as records:
            if not self.stale:
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


def stack(rows: list[dict[str, Any]], dim: int) -> tuple[Ids, Vectors]:
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
