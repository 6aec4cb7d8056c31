"""Decodes and converts files in child processes that may do nothing else: they have little memory
and a deadline, and decoders cannot write. A child that dies or hangs costs one file, and the pool
replaces it.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Generic, NamedTuple, TypeVar

from pebble import ProcessPool
from pebble.pool import process as pebble_process

from .convert import Made, Order, convert
from .errors import BadMedia, BeyondBudget, DecoderFailed, DecodersClosed
from .films import (
    Survey,
    can_be_shared,
    decode_or_survey,
    decode_parts,
    end_parts,
    split_parts,
)
from .hardware import OFF, use_hardware
from .modality import AUDIO, VIDEO
from .windows import DecodeOptions, Media, Part

MIB = 1024 * 1024
CONVERTING_NICE = 5  # behind requests, before imports
HARDWARE_MEMORY_MB = 64 * 1024  # of address space, most of which drivers map and do not use
CORES = 2  # processor time of a file, in multiples of its deadline
M_MMAP_THRESHOLD = -3  # of mallopt(3)
# flags of unshare(2)
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000


Result = TypeVar("Result")


def start_process(memory_mb: int, nice: int, file_mb: int, hardware: str) -> None:
    """Make this process one of a pool: see `confine`, `return_freed_memory`, `use_hardware`."""
    confine(memory_mb, nice, file_mb)
    return_freed_memory()
    use_hardware(hardware)


def confine(memory_mb: int, nice: int, file_mb: int) -> None:
    """Limit this process for good: address space of `memory_mb` MiB, files that it writes of
    `file_mb` MiB (0: no writing), no core dumps, 64 open files. It gives up the network where the
    platform allows that without privileges.
    """
    os.nice(nice)
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        if libc.unshare(CLONE_NEWNET) != 0:
            libc.unshare(CLONE_NEWUSER | CLONE_NEWNET)
    for what, limit in (
        (resource.RLIMIT_AS, memory_mb * MIB),
        (resource.RLIMIT_FSIZE, file_mb * MIB),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(what, (limit, limit))


def return_freed_memory() -> None:
    """Have glibc give freed arrays back to the system at once.

    By default it raises its threshold to the largest array that was freed, up to 32 MB. Smaller
    ones then stay with the thread that had them, and there are many threads.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, MIB)


def run_confined(work: Callable[[], Result], max_s: float) -> Result | BadMedia:
    """What some work gives, or a file's fault as a value: an exception would show the server's
    paths.

    The process is killed once it has used `max_s` seconds of CORES cores.
    """
    cpu_s = math.ceil(time.process_time() + CORES * max_s)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, resource.RLIM_INFINITY))
    try:
        return work()
    except BadMedia as fault:
        return fault.with_traceback(None)
    except MemoryError:
        return DecoderFailed("it needs more memory than a decoder may use")
    except Exception as error:  # whatever a hostile file provokes is that file's fault
        return DecoderFailed(type(error).__name__)


def read_confined(path: Path, options: DecodeOptions, max_s: float) -> Media | Survey | BadMedia:
    """The decoded media, the survey of a long file if the options ask for parts, or the fault."""
    return run_confined(partial(decode_or_survey, path, options), max_s)


class OpenFilm(NamedTuple):
    """A long file that this process is decoding, and the parts that are left of it."""

    path: Path
    left: Sequence[range]
    parts: Iterator[Media]


_open_film: OpenFilm | None = None


def read_part(
    path: Path, options: DecodeOptions, survey: Survey, parts: Sequence[range], max_s: float
) -> Media | BadMedia:
    """The first of some parts of a long file, or its fault; without parts, what comes after all of
    them. It goes on where this process stopped, if it decoded the part before.
    """
    return run_confined(partial(take_part, path, options, survey, parts), max_s)


def take_part(path: Path, options: DecodeOptions, survey: Survey, parts: Sequence[range]) -> Media:
    global _open_film
    film = _open_film
    _open_film = None
    if not parts:
        return end_parts(path, options, survey)
    if film is None or (film.path, film.left) != (path, parts):
        film = OpenFilm(path, parts, decode_parts(path, options, survey, parts))
    part = next(film.parts)
    _open_film = film._replace(left=parts[1:])
    return part


def convert_confined(path: Path, out: Path, order: Order, max_s: float) -> Made | BadMedia:
    """What was made of a file, written to `out`, or its fault."""
    return run_confined(partial(convert_to, path, out, order), max_s)


def convert_to(path: Path, out: Path, order: Order) -> Made:
    """`convert` into an empty file. Raises what it raises; BeyondBudget, too, where the disk or a
    limit of this process is reached.
    """
    try:
        with out.open("r+b") as file:
            return convert(path, file, order)
    except OSError as error:
        if error.errno not in (errno.EFBIG, errno.ENOSPC):
            raise
        raise BeyondBudget(
            "bytes in what is made of it", out.stat().st_size, order.max_bytes
        ) from None


class ConfinedPool(Generic[Result]):
    """A pool of confined processes that do one kind of work. Its methods may be called from any
    thread.

    `work` takes what `begin` is given, and `max_s`. Files that it writes have at most `file_mb`
    MiB.
    """

    def __init__(
        self,
        work: Callable[..., Result | BadMedia],
        workers: int,
        memory_mb: int,
        max_s: float,
        *,
        nice: int = 0,
        file_mb: int = 0,
        hardware: str = OFF,
    ) -> None:
        self._work = work
        self._workers = workers
        self._max_s = max_s
        self._limits = memory_mb, nice, file_mb, hardware
        self._lock = threading.Lock()
        self._closed = False
        self._open: set[Future[Result | BadMedia]] = set()
        self._pool = self._new_pool()

    def _new_pool(self) -> ProcessPool:
        # Its deadlines are by the time of day. When that is set, or the machine has slept, work
        # would end that has just begun, or hang.
        pebble_process.time = SimpleNamespace(  # type: ignore[assignment,attr-defined]
            time=time.monotonic, sleep=time.sleep
        )
        context = get_context("forkserver")
        context.set_forkserver_preload(["media.films"])
        # A worker is replaced after so many files, so that nothing a decoder leaks can add up.
        return ProcessPool(
            self._workers,
            max_tasks=500,
            initializer=start_process,
            initargs=self._limits,
            context=context,
        )

    def warm(self) -> None:
        """Start the processes now, so that no file waits for them."""
        self._pool.schedule(int).result()

    def begin(self, *args: object) -> Future[Result | BadMedia]:
        """Begin some work; give the future to `finish`. Raises DecodersClosed."""
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

    def _schedule(self, args: tuple[object, ...]) -> Future[Result | BadMedia]:
        future: Future[Result | BadMedia] = self._pool.schedule(
            self._work, args=(*args, self._max_s), timeout=self._max_s
        )
        self._open.add(future)
        future.add_done_callback(self._open.discard)
        return future

    def finish(self, future: Future[Result | BadMedia]) -> Result:
        """Wait for work that was begun.

        Raises:
            BadMedia: what is wrong with the file.
            DecoderFailed: its process died or took longer than `max_s`.
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


class FilmReader:
    """Parts of a long file that one process decodes, each while the one before is used."""

    def __init__(
        self,
        process: ConfinedPool[Media],
        path: Path,
        options: DecodeOptions,
        survey: Survey,
        *,
        parts: Sequence[range],
    ) -> None:
        self._process = process
        self._left = parts
        self._begin = partial(process.begin, path, options, survey)
        self._future = self._begin(parts)

    def __iter__(self) -> Iterator[Media]:
        return self

    def __next__(self) -> Media:
        """See `read_part`. Raises what `ConfinedPool.finish` raises."""
        part = self._process.finish(self._future)
        self._left = self._left[1:]
        if self._left:
            self._future = self._begin(self._left)
        return part


def join_modalities(found: list[Media]) -> Media:
    """A part of a file whose modalities were decoded apart."""
    parts: dict[str, Part] = {}
    for media in found:
        parts |= media.parts
    return replace(found[0], parts=parts)


def only(modality: str, options: DecodeOptions) -> tuple[str, ...]:
    """A modality, if the options ask for it."""
    return tuple(name for name in options.modalities if name == modality)


class Decoders(ConfinedPool[Media | Survey]):
    """Confined processes that decode files, pictures by `hardware`, one of its CHOICES. With
    hardware they have HARDWARE_MEMORY_MB at least.
    """

    def __init__(
        self,
        workers: int = 2,
        memory_mb: int = 1024,
        max_s: float = 12.0,
        nice: int = 0,
        hardware: str = OFF,
    ) -> None:
        if hardware != OFF:
            memory_mb = max(memory_mb, HARDWARE_MEMORY_MB)
        super().__init__(read_confined, workers, memory_mb, max_s, nice=nice, hardware=hardware)
        self._new_reader = partial(
            ConfinedPool[Media], read_part, 1, memory_mb, max_s, nice=nice, hardware=hardware
        )
        self._readers: list[ConfinedPool[Media]] = []  # of long files, a process each

    def start(self, path: Path, options: DecodeOptions) -> Future[Media | Survey | BadMedia]:
        """Begin to decode; give the future to `finish`, or to `finish_or_survey` if the options ask
        for parts. Raises DecodersClosed.
        """
        return self.begin(path, options)

    def finish(self, future: Future[Media | Survey | BadMedia]) -> Media:
        """Wait for a file that is decoded as a whole. Raises what `ConfinedPool.finish` raises."""
        media = super().finish(future)
        assert isinstance(media, Media)
        return media

    def finish_or_survey(self, future: Future[Media | Survey | BadMedia]) -> Media | Survey:
        """Wait for a file, or for the survey of a long one."""
        return super().finish(future)

    def parts(
        self, path: Path, options: DecodeOptions, survey: Survey, first: int
    ) -> Iterator[Media]:
        """The parts of a long file from its window `first` on, decoded while others are used: its
        pictures by as many processes as there are decoders, if they can be shared, and its sound by
        another one, unless the survey has it. One file at a time. Raises what `finish` raises.
        """
        parts = split_parts(survey, first)
        readers = self._open_readers()
        bare = replace(survey, heard=None)
        seeing = replace(options, modalities=only(VIDEO, options))
        hearing = replace(options, modalities=only(AUDIO, options))
        seen: list[FilmReader] = []
        if survey.told is not None:
            sharing = self._workers if can_be_shared(survey, parts) else 1
            for n in range(min(sharing, len(parts))):
                share = parts[n::sharing]
                seen.append(FilmReader(readers[n], path, seeing, bare, parts=share))
        heard: Iterator[Media] | None = None
        if survey.heard is not None:
            heard = decode_parts(path, hearing, survey, parts)  # which reads nothing
        elif survey.sound is not None and parts:
            heard = iter(FilmReader(readers[-1], path, hearing, bare, parts=parts))
        for n in range(len(parts)):
            found = [next(seen[n % len(seen)])] if seen else []
            found += [next(heard)] if heard is not None else []
            yield join_modalities(found)
        yield next(FilmReader(readers[-1], path, options, bare, parts=()))

    def _open_readers(self) -> list[ConfinedPool[Media]]:
        """Processes for the pictures of a long file, and one for its sound and its words."""
        with self._lock:
            if self._closed:
                raise DecodersClosed
            if not self._readers:
                self._readers = [self._new_reader() for _ in range(self._workers + 1)]
            return self._readers

    def close(self) -> None:
        super().close()
        for reader in self._readers:
            reader.close()


class Converters(ConfinedPool[Made]):
    """Confined processes that convert files, at a lower priority than encoders."""

    def __init__(
        self, workers: int = 1, memory_mb: int = 1024, max_s: float = 120.0, file_mb: int = 256
    ) -> None:
        self.file_mb = file_mb
        super().__init__(
            convert_confined, workers, memory_mb, max_s, nice=CONVERTING_NICE, file_mb=file_mb
        )

    def start(self, path: Path, out: Path, order: Order) -> Future[Made | BadMedia]:
        """Begin to make what is ordered in `out`, an empty file; give the future to `finish`. Where
        that fails, the file may be half made. Raises DecodersClosed.
        """
        return self.begin(path, out, order)
