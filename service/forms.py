"""Forms: a field that a route does not know is an error, not a silent nothing; so is one that comes
twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Depends, Request
from starlette.datastructures import FormData

from .faults import BadRequest

NAME_SHOWN = 100  # letters of a name that is told back
# files, and texts, of a form: more than any route takes, so that what is too much can be named
PARTS_MOST = 32


@dataclass(frozen=True)
class Fields:
    """What a form may hold: texts, and files, which may come `repeated`, or under any name where
    `any_file`.
    """

    texts: frozenset[str]
    files: frozenset[str] = frozenset()
    repeated: bool = False
    any_file: bool = False

    def check(self, form: FormData) -> None:
        """Raises BadRequest, which names the field."""
        for name, value in form.multi_items():
            is_text = isinstance(value, str)
            if name in self.texts and not is_text:
                raise BadRequest(
                    f"field {shown(name)} is a text, not a file: send it without a file name"
                )
            if name in self.files and is_text:
                raise BadRequest(f"field {shown(name)} is a file: send it with a file name")
            known = name in self.texts or name in self.files or (self.any_file and not is_text)
            if not known:
                there = ", ".join(sorted(self.texts | self.files))
                raise BadRequest(
                    f"there is no field {shown(name)} in this form; there are: {there}"
                )
        for name, times in Counter(name for name, _ in form.multi_items()).items():
            if times > 1 and not (self.repeated and name in self.files):
                raise BadRequest(f"field {shown(name)} comes {times} times; it may come once")


def shown(name: str) -> str:
    return repr(name[:NAME_SHOWN])


def only(fields: Fields) -> Any:
    """A dependency of routes whose forms FastAPI reads, and would take what it knows from."""

    async def check(request: Request) -> None:
        fields.check(await request.form())

    return Depends(check)


@asynccontextmanager
async def form_of(request: Request, fields: Fields) -> AsyncIterator[FormData]:
    """A form, read. Raises BadRequest."""
    try:
        form = await request.form(max_files=PARTS_MOST, max_fields=PARTS_MOST)
    except (LookupError, ValueError) as error:  # a charset nobody knows, bytes that are not in it
        raise BadRequest("the form cannot be read") from error
    try:
        fields.check(form)
        yield form
    finally:
        await form.close()
