"""What there is to index in folders, files, manifests and tar shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from media.manifest import Row, read_manifest, read_shard

from ..records.item import real_path
from .names import make_id, make_printable
from .source import Source
from .walk import OTHER, TEXT, find_mount, walk


@dataclass
class Discovery:
    """What there is to index, and what was met beside it. `folders` are those that were walked."""

    sources: list[Source] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    _mounts: dict[Path, str] = field(default_factory=dict, init=False)  # by folder

    @property
    def ignored(self) -> int:
        """How many files are not media."""
        return sum(n for kind, n in self.left_out.items() if kind.startswith((OTHER, TEXT)))

    def add_folder(self, path: Path, within: Path | None, only: frozenset[Path] | None) -> None:
        """Add the files of a folder and of those below it."""
        walked = walk(path, within, only)
        root = path.resolve()
        base = within or root.parent
        self.folders.append(root)
        self.failed |= walked.failed
        self.left_out += walked.left_out
        for file in walked.files:
            source = Source(
                id=make_id(file.path.relative_to(base).as_posix()),
                path=file.real,
                root=str(root),
                mount=self._mount_of(file.real.parent),
            )
            self.sources.append(source)

    def add_manifest(self, path: Path) -> None:
        """Add the lines of a manifest."""
        for row in read_manifest(path):
            file = row.path and real_path(row.path)
            source = Source(
                id=row.id,
                path=file,
                metadata=row.metadata,
                texts=list_captions(row),
                named=row.path is None or row.path != path.parent / row.id,
                told=True,
                root=str(path.resolve().parent),
                mount=None if file is None else self._mount_of(file.parent),
            )
            self.sources.append(source)

    def add_shard(self, path: Path) -> None:
        """Add the members of a tar shard."""
        real = path.resolve()
        for row, member in read_shard(path):
            source = Source(
                id=row.id,
                path=real,
                metadata=row.metadata,
                texts=list_captions(row),
                member=member,
                named=True,
                told=True,
                root=str(real.parent),
                mount=self._mount_of(real.parent),
            )
            self.sources.append(source)

    def add_file(self, path: Path, within: Path | None) -> None:
        """Add a file that was given by itself."""
        real = path.resolve()
        shown = path.parent.resolve() / path.name
        source = Source(
            id=make_id(shown.relative_to(within or shown.parent).as_posix()),
            path=real,
            root=str(shown.parent),
            mount=self._mount_of(real.parent),
        )
        self.sources.append(source)

    def _mount_of(self, folder: Path) -> str:
        if folder not in self._mounts:
            self._mounts[folder] = find_mount(folder)
        return self._mounts[folder]


def find_sources(
    paths: Iterable[Path], within: Path | None = None, only: frozenset[Path] | None = None
) -> Discovery:
    """Everything to index in the given folders, files, manifests and tar shards. A file's id is its
    path from the parent of the given path, or from the folder `within`. See `BuildOptions.only`.

    Raises:
        FileNotFoundError: a path that does not exist.
        BadManifest: see `read_manifest` and `read_shard`.
    """
    discovery = Discovery()
    for path in paths:
        if path.is_dir():
            discovery.add_folder(path, within, only)
        elif not path.exists():
            raise FileNotFoundError(f"{make_printable(str(path))} does not exist")
        elif path.suffix == ".jsonl":
            discovery.add_manifest(path)
        elif path.suffix == ".tar":
            discovery.add_shard(path)
        else:
            discovery.add_file(path, within)
    return discovery


def list_captions(row: Row) -> tuple[str, ...]:
    """A row's captions, each as one line: people are shown an item's texts a line each."""
    lines = (" ".join(caption.text.splitlines()).strip() for caption in row.captions)
    return tuple(line for line in lines if line)
