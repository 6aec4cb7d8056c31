"""What the routes of a subject are registered with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi.routing import APIRoute

from .. import schemas
from ..access import GuardedRoute
from ..exceptions import BadRequest

Handler = TypeVar("Handler", bound=Callable[..., Any])

ERROR_STATUSES = (400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 503)


async def check_address(request: Request) -> None:
    """Refuse a field of a body that stands in the address, where nothing would read it. What is
    nobody's field is ignored there, such as the `api-version` of some clients.

    Raises BadRequest.
    """
    route = request.scope["route"]
    if request.method not in ("POST", "PATCH") or not isinstance(route, APIRoute):
        return
    if str(request.path_params.get("id", "")).endswith(schemas.RESERVED_ENDINGS):
        return  # a part of an item, which refuses this method
    read = {param.alias for param in route.dependant.query_params}
    for name in request.query_params:
        if name in schemas.FIELDS and name not in read:
            raise BadRequest(f"field {name!r} goes into the body of the request, not its address")


class Router(APIRouter):
    """Routes whose errors are in the API document."""

    def __init__(self) -> None:
        super().__init__(
            route_class=GuardedRoute,
            dependencies=[Depends(check_address)],
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
