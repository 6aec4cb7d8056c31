"""Backup and restore: a data folder's collections as plain files, checked by their checksums.

A backup can be taken while a service writes: SQLite gives a consistent copy of the records, and the
media files that they name never change. Vector indexes are not in it: they are made from the
records.

BadBackup    a folder that is no complete backup; its message names what is wrong
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.bundle import digest

from .adapters import LEARNED, VERSIONS
from .collection import (
    MEDIA,
    NAME,
    RECORDS,
    STORED,
    CollectionError,
    CollectionExists,
    RecordsLost,
    check_readable,
    has_lost_records,
    name_damage,
)
from .durable import sync
from .library import RESTORED, STAGED, complete_restore, lock_file

FORMAT = 1
MANIFEST = "backup.json"
MEDIA_PATH = re.compile(f"{MEDIA}/{STORED.pattern}")
LEARNED_PATH = re.compile(f"{LEARNED}/({VERSIONS}|[0-9a-f]{{32}}\\.npz)")
TRIES = 20  # while a writer deletes files that are being copied


class BadBackup(CollectionError):
    detail_fields = ("problem",)

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


@dataclass(frozen=True, kw_only=True)
class Saved:
    """One collection in a backup."""

    fingerprint: str
    items: int
    files: dict[str, str]  # path below the collection's folder -> sha256

    @property
    def media_files(self) -> int:
        return sum(bool(MEDIA_PATH.fullmatch(file)) for file in self.files)


@contextmanager
def stage(target: Path) -> Iterator[Path]:
    """A folder beside `target` that is renamed to it at the end. If anything fails, it is removed
    instead.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(".part", f".{target.name}-", target.parent))
    try:
        yield staging
        for path in [staging, *staging.rglob("*")]:
            sync(path)
        staging.rename(target)
        sync(target.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def backup(data: Path, out: Path) -> dict[str, Saved]:
    """Copy every collection of a data folder, in use or not, into a new folder.

    Raises:
        BadBackup: there is something at `out`, there is no data folder, or a swap or a restore was
            interrupted.
        DataUnusable: it lies on a read-only file system.
        RecordsLost: of a collection.
        OSError: a file cannot be read or written.
    """
    if out.exists():
        raise BadBackup(f"{out} exists already: name a new folder")
    if not (data / "collections").is_dir():
        raise BadBackup(f"{data} is not a data folder")
    check_readable(data)
    with stage(out) as staging:
        unfinished = sorted((data / STAGED).glob(".*.old"))
        if unfinished:
            raise BadBackup(
                f"a swap was interrupted ({unfinished[0].name}): start the service, or swap again"
            )
        if (data / RESTORED).exists():
            raise BadBackup(f"a restore was interrupted ({RESTORED}): start the service")
        saved: dict[str, Saved] = {}
        for folder in sorted((data / "collections").iterdir()):
            if folder.name.startswith("."):
                continue
            with name_damage(folder.name):
                if has_lost_records(folder):
                    raise RecordsLost(folder.name)
                if (folder / RECORDS).is_file():
                    copy = copy_collection(folder, staging)
                    if copy is not None:
                        saved[folder.name] = copy
        manifest = {
            "format": FORMAT,
            "collections": {name: vars(one) for name, one in saved.items()},
        }
        (staging / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return saved


def copy_collection(folder: Path, staging: Path) -> Saved | None:
    """Copy a collection's records as they are at one moment, and the media that they name. None
    where it is being created at this moment.
    """
    target = staging / folder.name
    (target / MEDIA).mkdir(parents=True)
    for _ in range(TRIES):
        (target / RECORDS).unlink(missing_ok=True)
        with (
            closing(sqlite3.connect(folder / RECORDS, timeout=60)) as live,
            closing(sqlite3.connect(target / RECORDS)) as copy,
        ):
            live.backup(copy)
            copy.execute("pragma journal_mode = delete")
            rows = copy.execute("select media from items where media is not null")
            named = sorted({row[0] for row in rows})
            items = int(copy.execute("select count(*) from items").fetchone()[0])
            made = copy.execute("select value from meta where key = 'fingerprint'").fetchone()
        if made is None:
            shutil.rmtree(target)
            return None
        learned = copy_learned(folder, target)
        copied = all(copy_media(folder / MEDIA / name, target / MEDIA / name) for name in named)
        if copied and learned is not None:
            for path in (target / MEDIA).iterdir():
                if path.name not in named:  # of a try before
                    path.unlink()
            files = {RECORDS: digest(target / RECORDS)}
            for file in [*(f"{MEDIA}/{name}" for name in named), *learned]:
                files[file] = digest(target / file)
            return Saved(fingerprint=str(made[0]), items=items, files=files)
    raise BadBackup(f"{folder.name} is being changed too fast: try again later")


def copy_media(source: Path, target: Path) -> bool:
    """Copy a media file that is not copied yet; False if it has been deleted meanwhile."""
    try:
        if not target.exists():
            shutil.copyfile(source, target)
    except FileNotFoundError:
        return False
    return True


def copy_learned(folder: Path, target: Path) -> list[str] | None:
    """Copy what a collection has learned; its files below the collection's folder, or None where it
    has changed meanwhile.
    """
    shutil.rmtree(target / LEARNED, ignore_errors=True)
    if not (folder / LEARNED / VERSIONS).is_file():
        return []
    (target / LEARNED).mkdir()
    versions = (folder / LEARNED / VERSIONS).read_bytes()
    (target / LEARNED / VERSIONS).write_bytes(versions)
    try:
        names = [str(one["file"]) for one in json.loads(versions)["versions"]]
    except (ValueError, KeyError, TypeError) as error:
        raise BadBackup(
            f"{LEARNED}/{VERSIONS} of {folder.name} is damaged: put it back, or remove the folder"
            f" {LEARNED}, and `tercet learn` learns anew"
        ) from error
    if not all(copy_media(folder / LEARNED / name, target / LEARNED / name) for name in names):
        return None
    return [f"{LEARNED}/{name}" for name in (VERSIONS, *names)]


def verify(folder: Path) -> dict[str, Saved]:
    """Read what a backup holds, and compare every file with its checksum.

    Raises:
        BadBackup: something is wrong with it.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise BadBackup(
                f"the backup has format {manifest['format']!r}, this program reads {FORMAT}"
            )
        saved = {name: parse_saved(one) for name, one in dict(manifest["collections"]).items()}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadBackup(f"{folder} is not a backup ({type(error).__name__})") from error
    for name, one in saved.items():
        if not NAME.fullmatch(name):
            raise BadBackup(f"{name!a} is not a name of a collection")
        for file, expected in one.files.items():
            path = folder / name / file
            named = MEDIA_PATH.fullmatch(file) or LEARNED_PATH.fullmatch(file)
            if file != RECORDS and not named:
                raise BadBackup(f"{name}/{file!a} does not belong into a backup")
            if path.is_symlink() or not path.is_file():
                raise BadBackup(f"{name}/{file} is missing from the backup")
            if digest(path) != expected:
                raise BadBackup(f"{name}/{file} has changed since the backup: its checksum differs")
        if RECORDS not in one.files:
            raise BadBackup(f"{name}/{RECORDS} is not named in {MANIFEST}")
    return saved


def parse_saved(value: Any) -> Saved:
    """Raises ValueError, KeyError, TypeError."""
    return Saved(**(value | {"files": dict(value["files"])}))


def restore(folder: Path, data: Path) -> dict[str, Saved]:
    """Put the collections of a backup into a data folder that no process has open and that has none
    of their names: all of them or none, after a kill, too, see `complete_restore`.

    Raises:
        BadBackup: see `verify`.
        CollectionExists: the data folder has a collection of one of the names.
        DataInUse: another process, a service say, has the data folder open.
    """
    saved = verify(folder)
    root = data / "collections"
    root.mkdir(parents=True, exist_ok=True)
    with closing(lock_file(data / "lock")):
        complete_restore(data)
        for name in saved:
            if (root / name).exists():
                raise CollectionExists(name)
        with stage(data / RESTORED) as staging:
            for name, one in saved.items():
                restore_collection(folder / name, one, staging / name)
        complete_restore(data)
    return saved


def restore_collection(source: Path, saved: Saved, target: Path) -> None:
    """Copy a collection of a backup."""
    (target / MEDIA).mkdir(parents=True)
    if any(LEARNED_PATH.fullmatch(file) for file in saved.files):
        (target / LEARNED).mkdir()
    for file in saved.files:
        shutil.copyfile(source / file, target / file)
    # a vector store outside the folder keeps the original's vectors by its id
    with closing(sqlite3.connect(target / RECORDS)) as records:
        new_id = uuid.uuid4().hex
        records.execute("update meta set value = ? where key = 'id'", (new_id,))
        records.commit()
