"""python -m service: serve a data folder over HTTP."""

from __future__ import annotations

import sqlite3
import sys

import uvicorn
from pydantic import ValidationError

from export.bundle import BadBundle
from export.encoder import EncoderError, OnnxEncoder
from index.collection import CollectionError
from index.records import UnknownSchema
from index.store import VectorStoreFailed

from .app import create_app, open_data
from .settings import Settings


def main() -> int:
    try:
        settings = Settings(_cli_parse_args=True)
    except ValidationError as error:
        for problem in error.errors():
            print(f"--{'.'.join(str(p) for p in problem['loc'])}: {problem['msg']}", file=sys.stderr)
        return 2
    if not settings.loopback and not settings.api_keys and not settings.allow_open:
        print("without keys (--api-keys) only this machine may connect; --allow-open says otherwise", file=sys.stderr)
        return 2
    try:
        encoder = OnnxEncoder.open(settings.bundle, settings.provider, settings.threads, settings.precision)
        app = create_app(settings, encoder, open_data(settings, encoder))
        config = uvicorn.Config(app, settings.host, settings.port, timeout_graceful_shutdown=10, server_header=False)
        uvicorn.Server(config).run()
    except KeyboardInterrupt:
        pass  # uvicorn hands the interrupt on once it has shut down cleanly
    except (
        BadBundle,
        CollectionError,
        EncoderError,
        OSError,
        UnknownSchema,
        VectorStoreFailed,
        sqlite3.Error,
    ) as error:
        print(f"service: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
