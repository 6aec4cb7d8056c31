"""python -m service: serve a data folder over HTTP; python -m service mcp: let an assistant ask a
service.
"""

from __future__ import annotations

import argparse
import gc
import os
import sqlite3
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_origin

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError
from pydantic_settings import CliSettingsSource

from export.bundle import BadBundle
from export.encoder import EncoderError, OnnxEncoder
from index.collection import CollectionError
from index.records.schema import UnknownSchema
from index.vectors.store import VectorStoreFailed
from media.commands import epilog, report_missing_package

from .address import check_address
from .app import create_app
from .audit import check_writable
from .keys import is_unguarded
from .protocol import Protocol
from .settings import Settings, write_default
from .state import open_data
from .trace import log_config, send_spans

# New objects before a garbage collection. Python's default of 700 is reached by a few requests.
GC_THRESHOLD = 20_000
# Clients close idle connections sooner, so that none sends into one that is being closed.
KEEP_ALIVE_S = 75
# A tenth of Python's default, so that encoder threads resume quickly after a batch.
GIL_SWITCH_S = 0.0005


def read_settings(argv: Sequence[str], prog: str) -> Settings:
    """Settings from flags, else the environment, else the file that TERCET_ENV_FILE names."""
    file = os.environ.get("TERCET_ENV_FILE")
    if file and not Path(file).is_file():
        raise FileNotFoundError(2, "The file that TERCET_ENV_FILE names does not exist.")
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Serve a data folder over HTTP. Each flag can also be an environment variable:"
        " --data is TERCET_DATA.",
        epilog=epilog("--data mine", "--data mine --port 8080 --precision int8"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    flags = CliSettingsSource[argparse.ArgumentParser](Settings, root_parser=parser)
    describe_flags(parser)
    return Settings(_cli_settings_source=flags(args=list(argv)), _env_file=file)


def describe_flags(parser: argparse.ArgumentParser) -> None:
    """Show the settings' flags as other commands show theirs: a value by a name in capitals, a
    default as it is typed.
    """
    for action in parser._actions:
        name = action.option_strings[0].removeprefix("--").replace("-", "_")
        if name not in Settings.model_fields:
            continue
        field = Settings.model_fields[name]
        if action.metavar is not None and get_origin(field.annotation) is not Literal:
            action.metavar = name.upper()
        default = write_default(name)
        shown = f" (default: {default})" if default else ""
        action.help = f"{field.description}{shown}".replace("%", "%%")


def open_encoder(settings: Settings) -> OnnxEncoder:
    return OnnxEncoder.open(
        settings.bundle,
        settings.provider,
        settings.threads,
        settings.precision,
        shared=True,
        frames=settings.frames,
    )


def reload_config(argv: Sequence[str], prog: str) -> tuple[Settings, OnnxEncoder]:
    settings = read_settings(argv, prog)
    return settings, open_encoder(settings)


def main() -> int:
    argv = sys.argv[1:]
    if argv[:1] == ["mcp"]:
        return mcp_command(argv[1:], "python -m service mcp")
    return serve(argv, "python -m service")


def mcp_command(argv: Sequence[str], prog: str) -> int:
    try:
        from . import mcp
    except ModuleNotFoundError as error:
        return report_missing_package("mcp", error, "mcp")
    return mcp.main(argv, prog)


def server_config(app: FastAPI, settings: Settings, logs: dict[str, Any] | None) -> uvicorn.Config:
    """How uvicorn serves. `logs` is for `logging.config`, None for what is set already."""
    return uvicorn.Config(
        app,
        settings.host,
        settings.port,
        uds=None if settings.socket is None else str(settings.socket),
        root_path=settings.root_path,
        # a Unix socket tells no address: who may open it is the proxy
        forwarded_allow_ips="*" if settings.socket else list(settings.proxies),
        timeout_graceful_shutdown=10,
        timeout_keep_alive=KEEP_ALIVE_S,
        server_header=False,
        http=Protocol,
        access_log=False,
        log_config=logs,
    )


def name_as_given(setting: str, argv: Sequence[str]) -> str:
    """A setting's flag if that was typed, else its variable.

    >>> name_as_given("upload_max_mb", ["--upload-max-mb=1"])
    '--upload-max-mb'
    >>> name_as_given("upload_max_mb", ["--port", "1"])
    'TERCET_UPLOAD_MAX_MB'
    """
    flag = f"--{setting.replace('_', '-')}"
    typed = any(word.partition("=")[0] == flag for word in argv)
    return flag if typed else f"TERCET_{setting.upper()}"


def serve(argv: Sequence[str], prog: str) -> int:
    """Serve until interrupted, as the flags say. Returns the exit status."""
    try:
        settings = read_settings(argv, prog)
    except ValidationError as error:
        for problem in error.errors():
            name = name_as_given(str(problem["loc"][0]), argv)
            print(f"{name}: {problem['msg'].removeprefix('Value error, ')}", file=sys.stderr)
        return 2
    except FileNotFoundError as error:
        print(error.strerror, file=sys.stderr)
        return 2
    if is_unguarded(settings):
        print(
            "Other machines may connect only with keys: make one with `tercet keys make`, set"
            " --api-keys, or --allow-open to serve without.",
            file=sys.stderr,
        )
        return 2
    if settings.traces:
        try:
            send_spans(settings.traces)
        except ImportError:
            print("--traces: OpenTelemetry is not installed (extra 'otel')", file=sys.stderr)
            return 2
    try:
        check_address(settings)
        if settings.audit is not None:
            check_writable(settings.audit)
        encoder = open_encoder(settings)
        app = create_app(
            settings, encoder, open_data(settings, encoder), partial(reload_config, argv, prog)
        )
        del encoder  # else it could not be freed after a reload
        config = server_config(app, settings, log_config(settings.log_json))
        sys.setswitchinterval(GIL_SWITCH_S)
        gc.collect()
        gc.freeze()  # what has been imported stays: collections skip it
        gc.set_threshold(GC_THRESHOLD)
        uvicorn.Server(config).run()
    except KeyboardInterrupt:
        pass  # uvicorn raises it again after a clean shutdown
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
