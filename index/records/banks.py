"""Banks of queries: one for each encoding that queries are asked in. Scores are calibrated by them,
and the indexes of their targets are tuned by them.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from typing import Any

import numpy as np
from numpy.typing import NDArray

PREFIX = "asks:"  # of keys in `meta`, before the name of a bank's encoding


class QueryBanks:
    """The banks of one collection's records, on their connection."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def replace(self, encoding: str, vectors: NDArray[np.float32], targets: list[str]) -> None:
        """Other queries [n, dim] of an encoding, asked of `targets`; within a transaction."""
        blobs = [np.asarray(vector, "<f4").tobytes() for vector in vectors]
        about = {"targets": targets, "sha256": hashlib.sha256(b"".join(blobs)).hexdigest()}
        self._db.execute("delete from bank where encoding = ?", (encoding,))
        self._db.executemany("insert into bank values (?, ?)", [(encoding, blob) for blob in blobs])
        self._db.execute(
            "insert or replace into meta values (?, ?)", (PREFIX + encoding, json.dumps(about))
        )

    def queries(self, encoding: str, dim: int) -> NDArray[np.float32]:
        """The queries [n, dim] of an encoding."""
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
        """By encoding that has a bank: the `targets` that its queries are asked of, and the
        `sha256` of the queries.
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
