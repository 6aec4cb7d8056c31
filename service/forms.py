"""Forms. A field that a route does not know is an error, and so is one that comes twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Depends, Request
from starlette.datastructures import FormData

from .exceptions import BadRequest

QUOTED_MAX = 100  # letters of a field's name in a message
# files of a form, and texts: more than any route takes, so that a superfluous one can be named
PARTS_MAX = 32


@dataclass(frozen=True)
class Fields:
    """What a form may hold: texts and files by name. A file may come several times where
    `repeated`, and under any name where `any_file`.
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
                raise BadRequest(f"field {quote(name)} is a text: send it without a file name")
            if name in self.files and is_text:
                raise BadRequest(
                    f"field {quote(name)} is a file: send it with a file name, as filename=;"
                    " filename*= has no meaning in a form (RFC 7578, 4.2)"
                )
            known = name in self.texts or name in self.files or (self.any_file and not is_text)
            if not known:
                fields = ", ".join(sorted(self.texts | self.files))
                raise BadRequest(f"unknown field {quote(name)}; this form has: {fields}")
        for name, times in Counter(name for name, _ in form.multi_items()).items():
            if times > 1 and not (self.repeated and name in self.files):
                raise BadRequest(f"field {quote(name)} comes {times} times; it may come once")


def quote(name: str) -> str:
    return repr(name[:QUOTED_MAX])


def check_fields(fields: Fields) -> Any:
    """A dependency that checks a form which FastAPI reads. FastAPI ignores unknown fields."""

    async def check(request: Request) -> None:
        fields.check(await request.form())

    return Depends(check)


@asynccontextmanager
async def read_form(request: Request, fields: Fields) -> AsyncIterator[FormData]:
    """A request's form, read and checked. Raises BadRequest."""
    try:
        form = await request.form(max_files=PARTS_MAX, max_fields=PARTS_MAX)
    except (LookupError, ValueError) as error:  # an unknown charset, or bytes outside of it
        raise BadRequest("the form cannot be read") from error
    try:
        fields.check(form)
        yield form
    finally:
        await form.close()
