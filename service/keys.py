"""The keys that open the service: those of the settings, and those in the data folder's file.

Only the SHA-256 of a key is kept. A key of ours is random and long, so its hash needs no salt. The
file is read anew when it has changed: a running service knows a new key, or a revoked one, at its
next request.

KeyProblem
├── KeyExists      there is a key of that name
├── UnknownKey     there is none
├── BadKeyName     no name for a key
└── BadKeyFile     the file cannot be read
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from index.durable import write_durably
from index.reserve import RESERVE, Reserve, is_full

from .settings import Settings

FILE = "keys.json"  # in the data folder
FORMAT = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
SETTING = "TERCET_API_KEYS"
START = "tercet_"  # so that scanners of repositories know a key
OWNER_ONLY = 0o600

Role = Literal["read", "add", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)  # each may do what those before it may
READ, ADD, ADMIN = ROLES


class KeyProblem(Exception):
    """What is wrong with the keys of a data folder, or with what is asked of them."""


class KeyExists(KeyProblem):
    detail_fields = ("name",)

    def __init__(self, name: str) -> None:
        super().__init__(f"There is a key {name!r} already. Choose another name, or revoke it.")
        self.name = name


class UnknownKey(KeyProblem):
    detail_fields = ("name",)

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no key {name!r}. `tercet keys list` has the names.")
        self.name = name


class BadKeyName(KeyProblem):
    detail_fields = ("name",)

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name!r} is no name for a key. Use letters, digits, '.', '_', '@' and '-', at most"
            " 63 of them."
        )
        self.name = name


class BadKeyFile(KeyProblem):
    def __init__(self) -> None:
        super().__init__(
            f"The file {FILE} of the data folder cannot be read. Nobody is let in until it is"
            " mended or replaced."
        )


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key, without its secret. Times are seconds since 1970. `collections` are those that it may
    see; None: all. `digest` is the SHA-256 of the secret.
    """

    name: str
    role: Role
    digest: str
    collections: tuple[str, ...] | None = None
    created: float = 0.0
    expires: float | None = None

    @property
    def client(self) -> str:
        """What a key goes by in quotas and queues."""
        return self.digest[:12]

    def holds(self, now: float) -> bool:
        """Whether it has not expired."""
        return self.expires is None or now < self.expires

    def described(self) -> dict[str, Any]:
        """All that may be shown of it."""
        fields = asdict(self)
        del fields["digest"]
        return fields


def digest_of(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


def may(role: Role | None, needed: Role) -> bool:
    """Whether a role is enough; None is nobody's."""
    return role is not None and ROLES.index(role) >= ROLES.index(needed)


@lru_cache(maxsize=8)
def keys_of_setting(digests: tuple[str, ...]) -> tuple[Key, ...]:
    """The keys that the settings name: each may do everything."""
    return tuple(
        Key(name=f"{SETTING}:{place}", role=ADMIN, digest=digest)
        for place, digest in enumerate(digests, start=1)
    )


class KeyFile:
    """The keys of a data folder. `clock` returns seconds since 1970."""

    def __init__(self, data: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = data / FILE
        self._clock = clock
        self._seen: tuple[int, int, int] | None = None
        self._keys: tuple[Key, ...] = ()

    @property
    def exists(self) -> bool:
        """Whether keys are asked for. They are when the last one has been revoked, too."""
        return self.path.exists()

    def read(self) -> tuple[Key, ...] | None:
        """The keys, None where there is no file. Raises BadKeyFile."""
        try:
            stat = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise BadKeyFile from error
        seen = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if seen != self._seen:
            self._keys = parse_keys(self.path)
            self._seen = seen
        return self._keys

    def make(
        self,
        name: str,
        role: Role,
        collections: tuple[str, ...] | None = None,
        expires: float | None = None,
    ) -> tuple[Key, str]:
        """A new key and its secret, which is kept nowhere. In the file when this returns.

        Raises:
            BadKeyName, KeyExists, BadKeyFile.
            OSError: the file cannot be written.
        """
        if not NAME.fullmatch(name):
            raise BadKeyName(name)
        secret = START + secrets.token_urlsafe(32)
        key = Key(
            name=name,
            role=role,
            digest=digest_of(secret.encode()),
            collections=collections,
            created=self._clock(),
            expires=expires,
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._changing() as keys:
            if any(other.name == name for other in keys):
                raise KeyExists(name)
            keys.append(key)
        return key, secret

    def revoke(self, name: str) -> Key:
        """Take a key out of the file, also where the disk is full: the room that the service keeps
        for deletes is used then. Raises UnknownKey, BadKeyFile, OSError.
        """
        if not self.exists:
            raise UnknownKey(name)
        reserve = self.path.parent / RESERVE
        try:
            return self._remove(name)
        except OSError as error:
            if not is_full(error) or not reserve.exists():
                raise
        with Reserve(reserve).release():
            return self._remove(name)

    def _remove(self, name: str) -> Key:
        with self._changing() as keys:
            for key in keys:
                if key.name == name:
                    keys.remove(key)
                    return key
            raise UnknownKey(name)

    @contextmanager
    def _changing(self) -> Iterator[list[Key]]:
        """The keys, to be changed. They are written at the end, unless something is raised. Other
        commands wait.
        """
        with (self.path.with_suffix(".lock")).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = list(self.read() or ())
            yield keys
            document = {"format": FORMAT, "keys": [asdict(key) for key in keys]}
            data = json.dumps(document, indent=1).encode()
            write_durably(self.path, data, OWNER_ONLY, owner_of(self.path.parent))


def owner_of(folder: Path) -> tuple[int, int] | None:
    """Whose a file in a folder should be. Where root writes into somebody's data folder, a service
    of that account reads it.
    """
    if os.geteuid() != 0:
        return None
    stat = folder.stat()
    return stat.st_uid, stat.st_gid


def parse_keys(path: Path) -> tuple[Key, ...]:
    """Raises BadKeyFile."""
    try:
        document = json.loads(path.read_bytes())
        if document["format"] != FORMAT:
            raise ValueError(document["format"])
        return tuple(parse_key(row) for row in document["keys"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadKeyFile from error


def parse_key(row: dict[str, Any]) -> Key:
    """A row of the file. Raises ValueError, TypeError."""
    key = Key(**row)
    if key.role not in ROLES or not isinstance(key.digest, str):
        raise ValueError(key.name)
    return key if key.collections is None else replace(key, collections=tuple(key.collections))


def is_unguarded(settings: Settings) -> bool:
    """Whether other machines could connect, and there are no keys."""
    return settings.exposed and not settings.api_keys and not KeyFile(settings.data).exists


class Keys:
    """Every key that opens a service now: those of its settings and those of its data folder."""

    def __init__(self, data: Path, clock: Callable[[], float] = time.time) -> None:
        self._file = KeyFile(data, clock)
        self._clock = clock

    def current(self, of_setting: tuple[str, ...]) -> tuple[Key, ...] | None:
        """Those that have not expired. None where no keys are asked for. Raises BadKeyFile."""
        stored = self._file.read()
        if stored is None and not of_setting:
            return None
        now = self._clock()
        held = tuple(key for key in stored or () if key.holds(now))
        return keys_of_setting(of_setting) + held


def find_key(keys: tuple[Key, ...], digest: str) -> Key | None:
    """The key of a digest. Every one is compared, in constant time."""
    same = [key for key in keys if hmac.compare_digest(digest, key.digest)]
    return same[0] if same else None
