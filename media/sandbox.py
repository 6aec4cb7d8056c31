"""Decodes files in child processes that may do nothing else: they have little memory, cannot write,
and have a deadline. A child that dies or hangs costs one file, and the pool replaces it.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import threading
import time
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

from pebble import ProcessPool

from .errors import BadMedia, DecoderFailed, DecodersClosed
from .said import decode_with_words
from .windows import DecodeOptions, Media

MIB = 1024 * 1024
CORES = 2  # processor time of a file, in multiples of its deadline
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000  # of unshare(2)


def confine(memory_mb: int, nice: int) -> None:
    """Limit this process for good: address space of `memory_mb` MiB, no writing, no core dumps, 64
    open files. It gives up the network where the platform allows that without privileges.
    """
    os.nice(nice)
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        if libc.unshare(CLONE_NEWNET) != 0:
            libc.unshare(CLONE_NEWUSER | CLONE_NEWNET)
    for what, limit in (
        (resource.RLIMIT_AS, memory_mb * MIB),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(what, (limit, limit))


def read_confined(path: Path, options: DecodeOptions, max_s: float) -> Media | BadMedia:
    """The decoded media, or its fault as a value: an exception would show the server's paths.

    The process is killed once it has used `max_s` seconds of CORES cores.
    """
    cpu_s = math.ceil(time.process_time() + CORES * max_s)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, resource.RLIM_INFINITY))
    try:
        return decode_with_words(path, options)
    except BadMedia as fault:
        return fault.with_traceback(None)
    except MemoryError:
        return DecoderFailed("it needs more memory than a decoder may use")
    except Exception as error:  # whatever a hostile file provokes is that file's fault
        return DecoderFailed(type(error).__name__)


class Decoders:
    """A pool of confined decoders. `read` may be called from any thread."""

    def __init__(
        self, workers: int = 2, memory_mb: int = 1024, max_s: float = 12.0, nice: int = 0
    ) -> None:
        self._workers, self._memory_mb, self._max_s, self._nice = workers, memory_mb, max_s, nice
        self._lock, self._closed = threading.Lock(), False
        self._open: set[Future[Media | BadMedia]] = set()
        self._pool = self._new_pool()

    def _new_pool(self) -> ProcessPool:
        context = get_context("forkserver")
        context.set_forkserver_preload(["media.said"])
        # A worker is replaced after so many files, so that nothing a decoder leaks can add up.
        return ProcessPool(
            self._workers,
            max_tasks=500,
            initializer=confine,
            initargs=(self._memory_mb, self._nice),
            context=context,
        )

    def warm(self) -> None:
        """Start the processes now, so that no file waits for them."""
        self._pool.schedule(int).result()

    def start(self, path: Path, options: DecodeOptions) -> Future[Media | BadMedia]:
        """Begin to decode; give the future to `finish`. Raises DecodersClosed."""
        args = (path, options, self._max_s)
        with self._lock:
            if self._closed:
                raise DecodersClosed
            try:
                return self._schedule(args)
            # a pool whose idle workers were all killed from outside is broken for good
            except RuntimeError:
                self._stop()
                self._pool = self._new_pool()
                return self._schedule(args)

    def _schedule(self, args: tuple[object, ...]) -> Future[Media | BadMedia]:
        future: Future[Media | BadMedia] = self._pool.schedule(
            read_confined, args=args, timeout=self._max_s
        )
        self._open.add(future)
        future.add_done_callback(self._open.discard)
        return future

    def finish(self, future: Future[Media | BadMedia]) -> Media:
        """Wait for a started file.

        Raises:
            BadMedia: what is wrong with it.
            DecoderFailed: its decoder died or took longer than `max_s`.
            DecodersClosed: the pool was closed.
        """
        try:
            outcome = future.result()
        except TimeoutError as error:
            raise DecoderFailed(f"decoding took longer than {self._max_s:g} s") from error
        except (CancelledError, RuntimeError, OSError, MemoryError) as error:
            raise DecoderFailed("its decoder died") from error
        if isinstance(outcome, BadMedia):
            raise outcome
        return outcome

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._stop()

    def _stop(self) -> None:
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()
        for future in list(self._open):  # which a stopped pool leaves as they are
            with suppress(InvalidStateError):
                future.set_exception(DecodersClosed())
