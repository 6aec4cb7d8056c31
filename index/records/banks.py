"""Banks of queries: one for each encoding that queries are asked in. The indexes of their targets
are tuned by them. Scores are calibrated by rare ones, which few archives match.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

PREFIX = "asks:"  # of keys in `meta`, before the name of a bank's encoding


class QueryBanks:
    """The banks of one collection's records, on their connection."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def replace(
        self,
        encoding: str,
        vectors: NDArray[np.float32],
        targets: list[str],
        *,
        rare: Iterable[NDArray[np.float32]],
        texts: str,
    ) -> None:
        """Other queries [n, dim] of an encoding, asked of `targets`, `rare` ones [m, dim], and a
        digest of the `texts` of both; within a transaction.
        """
        blobs = [to_blob(vector) for vector in vectors]
        rare_blobs = [to_blob(vector) for vector in rare]
        sha256 = hashlib.sha256(b"".join(blobs)).hexdigest()
        about = {"targets": targets, "sha256": sha256, "texts": texts, "rare": len(rare_blobs)}
        rows = [(encoding, blob) for blob in blobs + rare_blobs]
        self._db.execute("delete from bank where encoding = ?", (encoding,))
        self._db.executemany("insert into bank values (?, ?)", rows)
        self._db.execute(
            "insert or replace into meta values (?, ?)", (PREFIX + encoding, json.dumps(about))
        )

    def queries(self, encoding: str, dim: int) -> NDArray[np.float32]:
        """The queries [n, dim] of an encoding, without rare ones."""
        every = self._read(encoding, dim)
        return every[: len(every) - self._count_rare(encoding)]

    def rare(self, encoding: str, dim: int) -> NDArray[np.float32]:
        """The rare queries [n, dim] of an encoding. Banks of earlier versions have none."""
        every = self._read(encoding, dim)
        return every[len(every) - self._count_rare(encoding) :]

    def _count_rare(self, encoding: str) -> int:
        return int(self.described().get(encoding, {}).get("rare", 0))

    def _read(self, encoding: str, dim: int) -> NDArray[np.float32]:
        rows = self._db.execute(
            "select vector from bank where encoding = ? order by rowid", (encoding,)
        ).fetchall()
        return np.frombuffer(b"".join(blob for (blob,) in rows), "<f4").reshape(len(rows), dim)

    def dim(self, encoding: str) -> int:
        """How wide the queries of an encoding are; 0 where there are none."""
        row = self._db.execute(
            "select length(vector) from bank where encoding = ? limit 1", (encoding,)
        ).fetchone()
        return int(row[0]) // 4 if row else 0

    def encodings(self) -> list[str]:
        """Those that have queries."""
        return [name for (name,) in self._db.execute("select distinct encoding from bank")]

    def described(self) -> dict[str, dict[str, Any]]:
        """By encoding that has a bank: the `targets` that its queries are asked of, and their
        `sha256` without rare ones. Banks of earlier versions have no digest of `texts`, and no
        number of `rare` queries.
        """
        rows = self._db.execute("select key, value from meta where key like ?", (f"{PREFIX}%",))
        return {key.removeprefix(PREFIX): json.loads(value) for key, value in rows}

    def digest(self, target: str) -> str:
        """The hashes of the banks whose queries are asked of an encoding; empty without a bank."""
        banks = self.described().values()
        return "+".join(sorted(bank["sha256"] for bank in banks if target in bank["targets"]))

    def asked_of(self, target: str, dim: int) -> NDArray[np.float32]:
        """The queries [n, dim] of all banks that are asked of an encoding; n may be 0."""
        banks = [
            self.queries(source, dim)
            for source, bank in self.described().items()
            if target in bank["targets"]
        ]
        return np.concatenate(banks) if banks else np.empty((0, dim), np.float32)


def to_blob(vector: NDArray[np.float32]) -> bytes:
    return np.asarray(vector, "<f4").tobytes()
