"""What a folder has to index, and what it holds beside that, by these rules:

* Hidden files and folders, bins, and the folders of file systems and network storage are left out.
* So are data folders: what was uploaded there is indexed already.
* A folder that cannot be read is a failure; the others are read.
* Other file systems that are mounted below the folder are entered.
* Links are followed once everything else is known. One that leads to a file or folder that was
  reached already, to nothing, or to a folder above, is left out. So no folder is read twice.
* A file's suffix decides. Where that leaves a doubt its first bytes do.
* Subtitles and lyrics that belong to a file are read with it, and count as neither.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from media.containers import MEDIA
from media.mediatypes import is_recording
from media.subtitles import SIDECARS, Sidecars

from .names import make_printable

HIDDEN = "hidden"
BINS = "bins and system folders"
SPECIAL = "pipes, sockets and devices"
DANGLING = "links to nothing"
DATA = "data folders"
SEEN = "links to what is reached without them"
UPWARD = "links to a folder above"
OTHER = "other files"
TEXT = "text files"
# Lower case; what begins with a full stop is hidden anyway.
SYSTEM_FOLDERS = frozenset(
    (
        "@eadir", "@recycle", "@recently-snapshot", "@sharebin", "@tmp", "#recycle", "#snapshot",
        "$recycle.bin", "recycler", "recycled", "lost+found", "found.000",
        "system volume information", "network trash folder", "temporary items",
    )
)  # fmt: skip
IN_DOUBT = frozenset((".ts", ".mts"))  # MPEG transport streams, and TypeScript
# Suffixes of files that are not opened to see whether they are media.
KNOWN_OTHERS = frozenset(
    (
        ".bmp", ".tif", ".tiff", ".svg", ".ico", ".psd", ".raw", ".cr2", ".nef", ".arw", ".dng",
        ".xmp", ".thm",
        ".txt", ".md", ".rst", ".log", ".nfo", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ppt",
        ".pptx", ".odt", ".ods", ".epub", ".rtf", ".csv", ".tsv", ".json", ".jsonl", ".xml",
        ".yml", ".yaml", ".toml", ".ini", ".cfg", ".conf", ".html", ".htm", ".css", ".js", ".mjs",
        ".tsx", ".jsx", ".py", ".pyc", ".c", ".h", ".cpp", ".rs", ".go", ".java", ".sh", ".bat",
        ".srt", ".vtt", ".ass", ".ssa", ".sub", ".idx", ".lrc", ".cue", ".m3u", ".m3u8", ".pls",
        ".zip", ".rar", ".7z", ".tar", ".gz", ".bz2", ".xz", ".zst", ".par2", ".sfv", ".md5",
        ".exe", ".dll", ".so", ".iso", ".img", ".dmg", ".apk", ".deb", ".rpm", ".db", ".sqlite",
        ".torrent", ".url", ".lnk", ".desktop", ".ttf", ".otf", ".woff", ".woff2", ".npy", ".npz",
        ".onnx", ".pt", ".safetensors", ".parquet", ".part", ".crdownload", ".tmp", ".bak",
    )
)  # fmt: skip
HEAD_BYTES = 4096


@dataclass(frozen=True)
class FoundFile:
    """A file to index: its path as the folder shows it, which may lead over links, and where it
    lies.
    """

    path: Path
    real: Path


@dataclass
class Walked:
    """What was found. `failed` says of folders why they could not be read, `left_out` counts what
    is not indexed, by kind.
    """

    files: list[FoundFile] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)


def walk(root: Path, within: Path | None = None, only: frozenset[Path] | None = None) -> Walked:
    """Everything to index below a folder, in the order of its names. With `within`, links that lead
    out of that folder are failures. With `only`, no more than is needed to find these files, and
    what lies below these folders.
    """
    walker = Walker(root.resolve(), within, only)
    walker.enter(walker.root, walker.root)
    walker.follow_links()
    walker.leave_out_subtitles()
    walker.walked.files.sort(key=lambda file: file.path)
    return walker.walked


class Walker:
    def __init__(self, root: Path, within: Path | None, only: frozenset[Path] | None) -> None:
        self.root = root
        self.within = within
        self.only = only
        self._above = {parent for path in only or () for parent in path.parents}
        self.walked = Walked()
        self._folders: set[tuple[int, int]] = set()
        self._files: set[Path] = set()
        self._links: list[Path] = []
        self._subtitles: list[Path] = []  # and lyrics, where they lie

    def enter(self, shown: Path, real: Path) -> None:
        """Read a folder and those below it, and note its links."""
        pending = [(shown, real)]
        while pending:
            shown, real = pending.pop()
            below = self._read_folder(shown, real)
            pending += reversed(below)

    def _read_folder(self, shown: Path, real: Path) -> list[tuple[Path, Path]]:
        """Note the files and links of one folder; returns the folders that it has."""
        try:
            status = real.stat()
            # some network file systems number nothing
            if status.st_ino and (status.st_dev, status.st_ino) in self._folders:
                self.walked.left_out[SEEN] += 1
                return []
            self._folders.add((status.st_dev, status.st_ino))
            with os.scandir(real) as found:
                entries = sorted(found, key=lambda entry: entry.name)
            if entries and not os.access(real, os.X_OK):
                raise PermissionError(None, "Permission denied: it may be listed, but not entered")
            if is_data_folder(entries):
                self.walked.left_out[DATA] += 1
                return []
            below = []
            for entry in entries:
                path = shown / entry.name
                if not self._is_wanted(path):
                    continue
                if entry.name.startswith("."):
                    self.walked.left_out[HIDDEN] += 1
                elif entry.is_symlink():
                    self._links.append(path)
                elif entry.is_dir():
                    if entry.name.lower() in SYSTEM_FOLDERS:
                        self.walked.left_out[BINS] += 1
                    else:
                        below.append((path, real / entry.name))
                elif entry.is_file():
                    self._take(path, real / entry.name)
                else:
                    self.walked.left_out[SPECIAL] += 1
        except OSError as error:
            self.walked.failed[shown] = describe(error)
            return []
        return below

    def _is_wanted(self, path: Path) -> bool:
        if self.only is None:
            return True
        if path in self._above or path in self.only:
            return True
        return any(parent in self.only for parent in path.parents)

    def _take(self, shown: Path, real: Path) -> None:
        """Note a file if it is media."""
        kind = SEEN if real in self._files else left_out_as(shown if shown.suffix else real)
        if kind is None:
            self._files.add(real)
            self.walked.files.append(FoundFile(shown, real))
        elif real.suffix.lower() in SIDECARS:
            self._subtitles.append(real)
        else:
            self.walked.left_out[kind] += 1

    def follow_links(self) -> None:
        while self._links:
            links = sorted(self._links)
            self._links = []
            for link in links:
                self._follow(link)

    def _follow(self, link: Path) -> None:
        try:
            real = link.resolve(strict=True)
            status = real.stat()
        except PermissionError as error:
            self.walked.failed[link] = describe(error)
            return
        except (OSError, RuntimeError):  # RuntimeError: links that lead to one another
            self.walked.left_out[DANGLING] += 1
            return
        if stat.S_ISDIR(status.st_mode):
            self._follow_to_folder(link, real, status)
        elif not stat.S_ISREG(status.st_mode):
            self.walked.left_out[SPECIAL] += 1
        elif real in self._files:
            self.walked.left_out[SEEN] += 1
        else:
            self._take(link, real)

    def _follow_to_folder(self, link: Path, real: Path, status: os.stat_result) -> None:
        if (status.st_dev, status.st_ino) in self._folders:
            self.walked.left_out[SEEN] += 1
        elif self.root.is_relative_to(real):
            self.walked.left_out[UPWARD] += 1
        elif self.within is not None and not real.is_relative_to(self.within):
            self.walked.failed[link] = "it is outside the folder"
        elif real.name.lower() in SYSTEM_FOLDERS or link.name.lower() in SYSTEM_FOLDERS:
            self.walked.left_out[BINS] += 1
        else:
            self.enter(link, real)

    def leave_out_subtitles(self) -> None:
        """Count the subtitles and lyrics that belong to no file that was found."""
        if not self._subtitles:
            return
        sidecars = Sidecars()
        read = {path for file in self.walked.files for path in sidecars.beside(file.real)}
        for path in self._subtitles:
            if path not in read:
                self.walked.left_out[describe_other(path)] += 1


def is_data_folder(entries: list[os.DirEntry[str]]) -> bool:
    """Whether a folder is one in which Tercet keeps collections."""
    kinds = {entry.name: entry for entry in entries if entry.name in ("collections", "lock")}
    return (
        len(kinds) == 2
        and kinds["collections"].is_dir()
        and kinds["lock"].is_file()
        and kinds["lock"].stat().st_size == 0
    )


def describe(error: OSError) -> str:
    return error.strerror or type(error).__name__


def left_out_as(path: Path) -> str | None:
    """The kind as which a file is left out; None of media."""
    suffix = path.suffix.lower()
    if suffix in MEDIA:
        return f"{TEXT} named {suffix}" if suffix in IN_DOUBT and is_text(path) else None
    if suffix not in KNOWN_OTHERS:
        try:
            if is_recording(path):
                return None
        except OSError:
            pass
    return describe_other(path)


def describe_other(path: Path) -> str:
    """The kind of a file that is no media."""
    suffix = path.suffix.lower()
    return f"{OTHER} ({make_printable(suffix)})" if suffix else f"{OTHER} without a suffix"


def is_text(path: Path) -> bool:
    """Whether a file begins as text does; False where it is empty or cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False
    if not head or b"\0" in head:
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4  # a character that the end cuts
    return True


def find_mount(folder: Path) -> str:
    """Where the file system of a folder is mounted."""
    while not os.path.ismount(folder) and folder != folder.parent:
        folder = folder.parent
    return str(folder)
