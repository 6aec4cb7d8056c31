"""Backup and restore: a data folder's collections as plain files, checked by their sums.

A backup can be taken while a service writes: SQLite gives a consistent copy of the records, and the
media files that they name never change. Vector indexes are not in it; they are made from the
records.

BadBackup    a folder that is no whole backup, naming what is wrong
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.bundle import digest

from .collection import (
    MEDIA,
    NAME,
    STORED,
    CollectionError,
    CollectionExists,
    RecordsLost,
    has_lost_records,
)
from .library import STAGED, hold
from .vectors.snapshot import sync

FORMAT, MANIFEST, RECORDS = 1, "backup.json", "records.sqlite"
COPIED = re.compile(f"{MEDIA}/{STORED.pattern}")
TRIES = 20  # while a writer deletes what is being copied


class BadBackup(CollectionError):
    detail_fields = ("problem",)

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


@dataclass(frozen=True)
class Saved:
    """One collection in a backup."""

    fingerprint: str
    items: int
    files: dict[str, str]  # path below the collection's folder -> sha256


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A folder beside `target` that becomes it when all has gone well, and is gone otherwise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    half = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield half
        for path in [half, *half.rglob("*")]:
            sync(path)
        half.rename(target)
        sync(target.parent)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def backup(data: Path, out: Path) -> dict[str, Saved]:
    """Copy every collection of a data folder, in use or not, into a new folder.

    Raises:
        BadBackup: there is something at `out`, or no data folder. RecordsLost: of a collection.
            OSError: as the disk
        says.
    """
    if out.exists():
        raise BadBackup(f"{out} is there already")
    if not (data / "collections").is_dir():
        raise BadBackup(f"{data} is no data folder")
    with beside(out) as half:
        saved = {}
        if unfinished := sorted((data / STAGED).glob(".*.old")):
            raise BadBackup(
                f"a swap was cut short ({unfinished[0].name}): start the service, or swap again"
            )
        for folder in sorted((data / "collections").iterdir()):
            if not folder.name.startswith(".") and has_lost_records(folder):
                raise RecordsLost(folder.name)
            if (
                not folder.name.startswith(".")
                and (folder / RECORDS).is_file()
                and (one := copied(folder, half))
            ):
                saved[folder.name] = one
        manifest = {
            "format": FORMAT,
            "collections": {name: vars(one) for name, one in saved.items()},
        }
        (half / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return saved


def copied(folder: Path, half: Path) -> Saved | None:
    """A collection's records as they are at one moment, and the media that they name; None of one
    just being made.
    """
    target = half / folder.name
    (target / "media").mkdir(parents=True)
    for _ in range(TRIES):
        (target / RECORDS).unlink(missing_ok=True)
        with (
            closing(sqlite3.connect(folder / RECORDS, timeout=60)) as live,
            closing(sqlite3.connect(target / RECORDS)) as copy,
        ):
            live.backup(copy)
            copy.execute("pragma journal_mode = delete")
            named = {
                row[0] for row in copy.execute("select media from items where media is not null")
            }
            items = int(copy.execute("select count(*) from items").fetchone()[0])
            made = copy.execute("select value from meta where key = 'fingerprint'").fetchone()
        if made is None:
            shutil.rmtree(target)
            return None
        if all(
            copy_file(folder / "media" / name, target / "media" / name) for name in sorted(named)
        ):
            for path in (target / "media").iterdir():
                if path.name not in named:
                    path.unlink()
            files = {RECORDS: digest(target / RECORDS)}
            return Saved(
                str(made[0]),
                items,
                files | {f"media/{n}": digest(target / "media" / n) for n in sorted(named)},
            )
    raise BadBackup(f"{folder.name} is being changed too fast")


def copy_file(source: Path, target: Path) -> bool:
    """Copy a media file that is not copied yet; False where it has been deleted meanwhile."""
    try:
        if not target.exists():
            shutil.copyfile(source, target)
    except FileNotFoundError:
        return False
    return True


def checked(folder: Path) -> dict[str, Saved]:
    """What a backup holds, every file compared with its sum.

    Raises:
        BadBackup: what is wrong with it.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise BadBackup(f"format {manifest['format']!r}, this version reads {FORMAT}")
        saved = {name: Saved(**one) for name, one in manifest["collections"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadBackup(f"{folder} is no backup ({type(error).__name__})") from error
    for name, one in saved.items():
        if not NAME.fullmatch(name):
            raise BadBackup(f"{name!a} is no collection's name")
        for file, expected in one.files.items():
            path = folder / name / file
            if file != RECORDS and not COPIED.fullmatch(file):
                raise BadBackup(f"{name}/{file!a} does not belong into a backup")
            if path.is_symlink() or not path.is_file():
                raise BadBackup(f"{name}/{file} is missing from the backup")
            if digest(path) != expected:
                raise BadBackup(
                    f"{name}/{file} is not the file that was backed up: its checksum differs"
                )
    return saved


def restore(folder: Path, data: Path) -> dict[str, Saved]:
    """Put the collections of a backup into a data folder that nobody has open and that has none of
    their names.

    Raises:
        BadBackup: nothing was written. CollectionExists: nothing was written. DataInUse: a service
            is running.
    """
    saved, root = checked(folder), data / "collections"
    root.mkdir(parents=True, exist_ok=True)
    with closing(hold(data / "lock")):
        if taken := [name for name in saved if (root / name).exists()]:
            raise CollectionExists(taken[0])
        with ExitStack() as all_of_them:  # each is put in its place when all are there
            for name, one in saved.items():
                half = all_of_them.enter_context(beside(root / name))
                (half / "media").mkdir()
                for file in one.files:
                    shutil.copyfile(folder / name / file, half / file)
                # what is kept elsewhere is the original's
                with closing(sqlite3.connect(half / RECORDS)) as records:
                    records.execute(
                        "update meta set value = ? where key = 'id'", (uuid.uuid4().hex,)
                    )
                    records.commit()
    return saved
