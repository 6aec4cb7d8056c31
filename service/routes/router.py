"""What the routes of a subject are registered with."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from python_multipart.multipart import parse_options_header
from starlette.formparsers import MultiPartException

from media.manifest import DuplicateKey, read_json

from .. import schemas
from ..access import GuardedRoute
from ..error_responses import BodyProblem
from ..exceptions import BadRequest

Handler = TypeVar("Handler", bound=Callable[..., Any])

NOT_JSON = "the body is not JSON: it is not in UTF-8, or nested too deeply"
FORM_TAIL = 1024  # bytes at the end of a form, in which its last line is looked for
ERROR_STATUSES = (400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 503)


class CheckedRequest(Request):
    """A request whose form has an end, and whose JSON has no key twice in one object."""

    async def stream(self) -> AsyncGenerator[bytes, None]:
        content_type = self.headers.get("content-type", "")
        if not content_type.lower().lstrip().startswith("multipart/"):
            async for chunk in super().stream():
                yield chunk
            return
        kind, options = parse_options_header(content_type)
        last = b"--%s--" % options.get(b"boundary", b"")
        tail = b""
        async for chunk in super().stream():
            tail = (tail + chunk)[-FORM_TAIL:]
            yield chunk
        # the parser gives what it has read until then, as if there were no more
        if kind == b"multipart/form-data" and last not in tail:
            raise MultiPartException(
                "The form is cut short: its last line, the boundary between two '--', is missing."
            )

    async def json(self) -> Any:
        try:
            return read_json(await self.body())
        except DuplicateKey as error:
            raise BodyProblem(error) from None
        except (UnicodeDecodeError, RecursionError):
            raise BodyProblem(BadRequest(NOT_JSON)) from None


class CheckedRoute(GuardedRoute):
    """A route that refuses a field of its body that stands in the address, where nothing would read
    it, and a field of the address that comes twice. What is nobody's field is ignored there, such
    as the `api-version` of some clients. Its JSON has no key twice in one object.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()
        read = {param.alias for param in self.dependant.query_params}
        has_body = (self.methods or set()) & {"POST", "PATCH"}
        unread = schemas.FIELDS - read if has_body else ()

        async def checked(request: Request) -> Response:
            if request.scope["query_string"]:
                check_address(request, read, unread)
            return await answer(CheckedRequest(request.scope, request.receive))

        return checked


def check_address(request: Request, read: Collection[str], unread: Collection[str]) -> None:
    """Raises BadRequest where a field stands in the address that its route does not read there, or
    where one that it reads comes more than once.
    """
    if str(request.path_params.get("id", "")).endswith(schemas.RESERVED_ENDINGS):
        return  # a part of an item, which refuses this method
    for name, times in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name in unread:
            raise BadRequest(f"field {name!r} goes into the body of the request, not its address")
        if name in read and times > 1:
            raise BadRequest(f"field {name!r} comes {times} times; it may come once")


class Router(APIRouter):
    """Routes whose errors are in the API document."""

    def __init__(self) -> None:
        super().__init__(
            route_class=CheckedRoute,
            responses={status: {"model": schemas.ErrorResponse} for status in ERROR_STATUSES},
        )
        self.uploads: list[APIRoute] = []

    def post_files(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        """A POST route whose form may hold files, and so be as large as `upload_max_mb`."""

        def register(handler: Handler) -> Handler:
            self.post(path, **options)(handler)
            route = self.routes[-1]
            assert isinstance(route, APIRoute)
            self.uploads.append(route)
            return handler

        return register

    def get_and_head(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        """A route that answers HEAD as it does GET, without the body."""

        def register(handler: Handler) -> Handler:
            self.head(path, **options)(handler)
            return self.get(path, **options)(handler)

        return register
