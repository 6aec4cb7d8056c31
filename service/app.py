"""The application: routes and what every request passes through, over a state that an owner opens
and closes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import copy
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi_swagger import patch_fastapi

from export.encoder import Encoder
from index.library import Collections

from . import error_responses
from .access import KEYED
from .middleware import RequestMiddleware
from .owner import Owner, Start
from .reload import ReloadConfig
from .routes import ROUTES
from .settings import Settings


def create_app(
    settings: Settings,
    encoder: Encoder,
    collections: Collections | None = None,
    reload_config: ReloadConfig | None = None,
) -> FastAPI:
    """The service over an encoder. The data folder is opened when the app starts, if no collections
    are given. `reload_config` reads the settings and opens the encoder anew, for a reload.
    """
    owner = Owner(Start(settings, encoder, collections), reload_config)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await owner.open()
        try:
            yield
        finally:
            await owner.close()

    app = Service(
        title="Tercet",
        version="1",
        description="Find moments of video and sound by words, by a sound or by an example.",
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        lifespan=lifespan,
        # `RequestMiddleware` has its own
        telemetry={"tracing": False, "metrics": False, "logs": False},
        routes=ROUTES,  # not included: a router within a router looks for its routes twice as long
    )
    app.state.owner = owner
    error_responses.install_handlers(app)
    patch_fastapi(app, docs_url="/docs")
    answer_head(app)
    app.add_middleware(RequestMiddleware, owner=owner)
    return app


def answer_head(app: FastAPI) -> None:
    """Let what answers GET answer HEAD, too (RFC 9110, 9.1). The server leaves the body out."""
    for route in list(app.routes):
        if isinstance(route, APIRoute) and route.methods == {"GET"}:
            head = copy(route)
            head.methods = {"HEAD"}
            head.include_in_schema = False
            app.routes.append(head)


class Service(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """The API's document. It adds that the forms that FastAPI describes take no other fields,
        and how a key is sent where the service asks for one.
        """
        document = super().openapi()
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        keyed = [asked for path, asked in document["paths"].items() if path.startswith(KEYED)]
        for operations in keyed:
            for operation in operations.values():
                operation["security"] = [{}, {"key": []}]  # a service without keys asks for none
        for name, schema in document["components"]["schemas"].items():
            if name.startswith("Body_"):
                schema["additionalProperties"] = False
        return document
