"""Whether the service can listen where it should, asked before anything is opened."""

from __future__ import annotations

import errno
import socket

from .settings import Settings

Address = tuple[object, ...]  # what `socket.getaddrinfo` gives and `bind` takes


def check_address(settings: Settings) -> None:
    """Raises OSError, with a sentence that says why it cannot."""
    if settings.socket is not None:
        folder = settings.socket.parent
        if not folder.is_dir():
            raise OSError(f"--socket: the folder {folder} does not exist")
        return
    host = settings.host
    port = settings.port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(f"--host: {host} is no address or name of this machine") from error
    for family, kind, protocol, _, address in found:
        try:
            try_to_bind(family, kind, protocol, address)
        except OSError as error:
            raise OSError(explain(error, host, port)) from error


def try_to_bind(family: int, kind: int, protocol: int, address: Address) -> None:
    try:
        trial = socket.socket(family, kind, protocol)
    except OSError:  # a machine without IPv6, say: it is left out
        return
    with trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        trial.bind(address)


def explain(error: OSError, host: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"port {port} of {host} is in use by another program: stop that one, or choose"
                " another port with --port"
            )
        case errno.EACCES:
            return (
                f"port {port} of {host} is for administrators only: choose one from 1024 on with"
                " --port"
            )
        case errno.EADDRNOTAVAIL:
            return f"--host: {host} is no address of this machine"
        case _:
            return f"port {port} of {host} cannot be opened: {error.strerror}"
