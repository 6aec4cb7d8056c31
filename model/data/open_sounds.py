"""Freely licensed sounds of Debian's packages, as a folder with a manifest: fetched by name, read
and never installed.

A package's machine-readable copyright file names the licences by paths of its source. They are
matched with the paths of its files as far as these agree.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from media.modality import AUDIO

SUFFIXES = {".ogg", ".oga", ".opus", ".wav", ".flac", ".mp3", ".aif", ".aiff", ".au"}
ARCHIVES = {".zip", ".wz"}
COPYRIGHT = "copyright"
LEAST_BYTES = 400
PERMISSIVE = re.compile(
    r"(cc0|cc[- ]by(?![- ](sa|nc|nd))|mit\b|expat|bsd|isc\b|zlib|apache|public[- ]domain|pd\b)",
    re.IGNORECASE,
)
# packages with sounds in Debian 12, and the licence of those whose copyright file names it in prose
PACKAGES: dict[str, str | None] = dict.fromkeys(
    (
        "0ad-data",
        "ardentryst",
        "asc-music",
        "asterisk-core-sounds-en-wav",
        "boswars-data",
        "brainparty-data",
        "btanks-data",
        "bzflag-data",
        "chromium-bsu-data",
        "colobot-common-sounds",
        "cube2-data",
        "endless-sky-data",
        "etw-data",
        "extremetuxracer-data",
        "flightgear-data-base",
        "freecol",
        "freedroidrpg-data",
        "hedgewars-data",
        "heroes-sound-effects",
        "holotz-castle-data",
        "hydrogen-drumkits",
        "kanagram",
        "khangman",
        "lincity-ng-data",
        "lmms-common",
        "lugaru-data",
        "megaglest-data",
        "minetest-data",
        "naev-data",
        "opencity-data",
        "oxygen-sounds",
        "pinball-table-gnu-data",
        "planetblupi-common",
        "redeclipse-data",
        "ri-li-data",
        "scorched3d-data",
        "scratch",
        "solarwolf",
        "sonic-pi-samples",
        "sound-theme-freedesktop",
        "starfighter-data",
        "supertux-data",
        "supertuxkart-data",
        "torcs-data",
        "tuxmath-data",
        "tuxpaint-data",
        "tuxpaint-stamps-default",
        "unknown-horizons",
        "warzone2100-data",
        "widelands-data",
        "xmoto-data",
    )
) | {
    "fillets-ng-data": "GPL-2+",
    "pingus-data": "GPL-2+",
    "tuxtype-data": "GPL-2+",
    "warmux-data": "GPL-2+",
    "wesnoth-1.16-data": "GPL-2+",
    "wesnoth-1.16-music": "GPL-2+",
}


class CannotFetchPackage(Exception):
    """A Debian package could not be downloaded, and none of that name is in the cache."""

    def __init__(self, package: str, problem: str) -> None:
        super().__init__(f"{package}: {problem}")
        self.package = package


@dataclass(frozen=True)
class Licence:
    """Of the files that match `patterns`, which are paths in a package's source."""

    patterns: list[str]
    name: str
    author: str

    def agreement(self, path: str) -> int:
        """That of the pattern which agrees best with an installed path."""
        return max((agreement(path, pattern) for pattern in self.patterns), default=0)


@dataclass
class Contents:
    """What was read of a package: sounds by their paths, and its copyright file."""

    sounds: dict[str, bytes] = field(default_factory=dict)
    copyright: str = ""


def prepare_open_sounds(
    folder: Path, permissive: bool = False, packages: Sequence[str] = tuple(PACKAGES)
) -> tuple[int, int]:
    """Write FOLDER/manifest.jsonl and the sounds beside it; returns how many rows it has and how
    many sounds were left out for their licence. Packages stay in FOLDER/packages, so that it runs
    again without the network.

    Raises:
        CannotFetchPackage: one is neither there nor to be had; nothing is written.
    """
    files = [fetch_package(name, folder / "packages") for name in packages]
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    left_out = 0
    for name, file in zip(packages, files, strict=True):
        contents = read_package(file)
        licences = read_licences(contents.copyright)
        for path, content in contents.sounds.items():
            digest = hashlib.sha256(content).hexdigest()
            licence = find_licence(path, licences) or Licence([], PACKAGES.get(name) or "", "")
            if digest in seen:
                continue
            seen.add(digest)
            if not licence.name or (permissive and not is_permissive(licence.name)):
                left_out += 1
                continue
            rows.append(write_sound(folder, name, path, content, licence))
        print(f"{name}: {len(contents.sounds)} sounds", file=sys.stderr, flush=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "manifest.jsonl").write_text(lines, encoding="utf-8")
    return len(rows), left_out


def write_sound(
    folder: Path, package: str, path: str, content: bytes, licence: Licence
) -> dict[str, Any]:
    """Write one sound below FOLDER/sounds; returns its row."""
    digest = hashlib.sha256(content).hexdigest()
    place = Path("sounds") / package / f"{digest[:16]}{PurePosixPath(path).suffix.lower()}"
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    if not (folder / place).exists():
        (folder / place).write_bytes(content)
    words = re.sub(r"[^a-z]+", " ", PurePosixPath(path).stem.lower()).strip()
    row = {
        "id": f"{package}_{digest[:12]}",
        "path": place.as_posix(),
        "modality": AUDIO,
        "set": f"debian/{package}",
        "text": words,
        "text_from": "name",
        "labels": [words] if words else [],
        "licence": licence.name,
        "licence_class": "permissive" if is_permissive(licence.name) else "share-alike",
        "source": f"debian:{package}:{path}",
        "sha": digest[:20],
    }
    return row | ({"author": licence.author} if licence.author else {})


def is_permissive(licence: str) -> bool:
    """Whether a licence, or each of those joined by "and", asks for attribution at most.

    >>> is_permissive("CC BY 3.0 and CC0-1.0"), is_permissive("MIT and GPL-2")
    (True, False)
    >>> is_permissive("CC-BY-SA-3.0")
    False
    """
    return all(PERMISSIVE.match(part) for part in licence.split(" and "))


def fetch_package(name: str, cache: Path) -> Path:
    """The file of a Debian package below `cache`, downloaded where it is not there yet.

    Raises:
        CannotFetchPackage: it cannot be had.
    """
    cache.mkdir(parents=True, exist_ok=True)
    found = sorted(cache.glob(f"{name}_*.deb"))
    if found:
        return found[-1]
    try:
        done = subprocess.run(
            ["apt-get", "download", name], cwd=cache, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise CannotFetchPackage(name, "apt-get is needed to download it") from error
    found = sorted(cache.glob(f"{name}_*.deb"))
    if done.returncode or not found:
        lines = done.stderr.strip().splitlines()
        raise CannotFetchPackage(name, lines[-1] if lines else "apt-get wrote no such file")
    return found[-1]


def read_package(file: Path) -> Contents:
    """The sounds of a Debian package, also of archives inside it, and its copyright file."""
    contents = Contents()
    for path, content in read_files(file):
        name = PurePosixPath(path)
        if name.suffix.lower() in ARCHIVES:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                for member in archive.namelist():
                    if PurePosixPath(member).suffix.lower() in SUFFIXES:
                        contents.sounds[f"{path}/{member}"] = archive.read(member)
        elif name.name == COPYRIGHT:
            contents.copyright = content.decode("utf-8", "replace")
        else:
            contents.sounds[path] = content
    contents.sounds = {
        path: content
        for path, content in sorted(contents.sounds.items())
        if len(content) >= LEAST_BYTES
    }
    return contents


def read_files(file: Path) -> Iterator[tuple[str, bytes]]:
    """Path and content of each sound, archive and copyright file in a Debian package."""
    wanted = SUFFIXES | ARCHIVES
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(file)], stdout=subprocess.PIPE) as tar:
        assert tar.stdout is not None
        with tarfile.open(fileobj=tar.stdout, mode="r|") as members:
            for member in members:
                path = PurePosixPath(member.name)
                if member.isfile() and (
                    path.suffix.lower() in wanted
                    or (path.name == COPYRIGHT and path.parts[-3:-2] == ("doc",))
                ):
                    opened = members.extractfile(member)
                    assert opened is not None
                    yield str(path), opened.read()


def read_licences(text: str) -> list[Licence]:
    """The paragraphs on files of a machine-readable copyright file (DEP 5); of prose, none."""
    from debian_inspector.copyright import CopyrightFilesParagraph, DebianCopyright

    licences = []
    for paragraph in DebianCopyright.from_text(text).paragraphs:
        if isinstance(paragraph, CopyrightFilesParagraph):
            holders = ", ".join(part.holder for part in paragraph.copyright.statements)
            name = paragraph.license.name or ""
            licences.append(Licence(paragraph.files.values, name, holders[:200]))
    return licences


def find_licence(path: str, licences: list[Licence]) -> Licence | None:
    """The licence of an installed file: of the pattern that agrees with it best, and of those the
    last one, as DEP 5 has it, unless one of them is not permissive.

    >>> by = Licence(["*"], "GPL-2+", "Ann"), Licence(["data/horn.ogg"], "CC0", "Bo")
    >>> find_licence("usr/share/game/horn.ogg", list(by)).name
    'CC0'
    """
    graded = [(licence.agreement(path), licence) for licence in licences]
    best = max((grade for grade, _ in graded), default=0)
    if best == 0:
        return None
    chosen = [licence for grade, licence in graded if grade == best]
    strict = [licence for licence in chosen if not is_permissive(licence.name)]
    return (strict or chosen)[-1]


def agreement(path: str, pattern: str) -> int:
    """How many parts of an installed path a pattern of source paths names, counted from the end; a
    pattern for everything counts 1, and one for other files 0.

    >>> agreement("usr/share/game/sounds/horn.ogg", "data/sounds/*.ogg")
    3
    >>> agreement("usr/share/game/music/horn.ogg", "data/sounds/*"), agreement("a/b.ogg", "*")
    (0, 1)
    """
    if pattern == "*":
        return 1
    parts = PurePosixPath(path).parts
    wanted = PurePosixPath(pattern).parts
    if PurePosixPath(wanted[-1]).stem in parts[:-1]:  # an archive that was unpacked
        return 2
    if wanted[-1] != "*":
        matched = 0
        for part, want in zip(reversed(parts), reversed(wanted), strict=False):
            if not fnmatchcase(part, want):
                break
            matched += 1
        return matched + 1 if matched else 0
    folders = [part for part in wanted[:-1] if part != "*"]
    inside = parts[:-1]
    if not folders or folders[-1] not in inside:
        return 0
    return 2
