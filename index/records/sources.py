"""Where batch building found what it made items of, and what it could not read."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from .item import Failure, KnownSource, Origin, decode_path, encode_path

# Paths may hold bytes that are not UTF-8. They are stored as they are, and so read as blobs.
PATH = "cast(? as text)"


class Sources:
    """The sources of one collection's records, on their connection."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def known(self) -> dict[str, KnownSource]:
        """What the items that batch building made were made from, by id."""
        rows = self._db.execute(
            "select id, cast(source as blob), stamp, digest, filename, cast(root as blob),"
            " cast(mount as blob), origin, case when partial then"
            " (select count(*) from windows w where w.item = items.n) end"
            " from items where origin <> 'upload' order by n"
        )
        return {
            id: KnownSource(
                decode_path(source),
                stamp,
                digest,
                filename,
                decode_path(root),
                decode_path(mount),
                Origin(origin),
                partial,
            )
            for id, source, stamp, digest, filename, root, mount, origin, partial in rows
        }

    def have_other_names(self, places: Mapping[str, KnownSource]) -> bool:
        """Whether a file of these, by id, has another name than is known of its item."""
        return any(
            self._db.execute(
                "select 1 from items where id = ? and filename is not ?", (id, place.filename)
            ).fetchone()
            for id, place in places.items()
        )

    def relocate(self, places: Mapping[str, KnownSource]) -> None:
        """See `Records.relocate`; within a transaction."""
        rows = [
            (
                encode_path(place.source),
                place.stamp,
                place.digest,
                place.filename,
                encode_path(place.root),
                encode_path(place.mount),
                id,
            )
            for id, place in places.items()
        ]
        self._db.executemany(
            f"update items set source = {PATH}, stamp = ?, digest = ?, filename = ?,"
            f" root = {PATH}, mount = {PATH} where id = ? and origin <> 'upload'",
            rows,
        )

    def failures(self) -> dict[str, Failure]:
        """The sources that could not be indexed, by id."""
        rows = self._db.execute(
            "select id, stamp, reason, name, cast(source as blob), digest from failures order by id"
        )
        return {
            id: Failure(stamp, reason, name, decode_path(source), digest)
            for id, stamp, reason, name, source, digest in rows
        }

    def note_failure(self, id: str, failure: Failure) -> None:
        """Within a transaction."""
        self._db.execute(
            f"insert or replace into failures values (?, ?, ?, ?, {PATH}, ?)",
            (id, *failure._replace(source=encode_path(failure.source))),  # type: ignore[arg-type]
        )

    def forget_failures(self, ids: list[str]) -> None:
        """Within a transaction."""
        self._db.executemany("delete from failures where id = ?", [(id,) for id in ids])
