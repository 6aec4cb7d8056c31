"""tercet doctor: what this machine has for serving, what is missing, and what to do about it."""

from __future__ import annotations

import argparse
import fcntl
import importlib
import importlib.util
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from media.commands import epilog, pip_command

from .address import check_address
from .keys import FILE, BadKeyFile, KeyFile, is_unguarded
from .settings import Settings

LEAST_PYTHON = (3, 11)
LEAST_MEMORY_MB = 2048  # a service with the default bundle, and a file that is decoded
# What is read of people's files, and what is written for their browsers, by FFmpeg's names.
DECODERS = ("h264", "hevc", "av1", "vp9", "mpeg4", "prores", "aac", "mp3", "opus", "flac")
ENCODERS = ("libvpx-vp9", "libopus", "flac", "mjpeg")
INSTRUCTIONS = ("avx", "avx2", "avx512f", "avx512_vnni", "amx_int8", "asimd", "sve")
# An extra, a module that it installs, and what it is for.
EXTRAS = (
    ("client", "httpx", "the Python client"),
    ("mcp", "mcp", "assistants"),
    ("screen", "rapidocr", "text in pictures"),
    ("speech", "faster_whisper", "what is said"),
    ("heic", "pi_heif", "HEIC photos"),
    ("milvus", "pymilvus", "vectors in Milvus"),
    ("ray", "ray", "building on many machines"),
    ("otel", "opentelemetry.exporter.otlp.proto.http", "traces"),
    ("train", "torch", "training"),
)
State = Literal["ok", "optional", "missing"]


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, what was found, and what to do where it is not as it should be.
    "missing": serving will not work.
    """

    name: str
    state: State
    found: str
    todo: str = ""


def arguments(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Say what this machine has for serving, what is missing, and what to do."
        " Ends with status 1 where serving would not work.",
        epilog=epilog("--data mine", "--data mine --port 8080 --json"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data", type=Path, help="the data folder to serve; default: TERCET_DATA, else data"
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        help="the bundle's folder; default: TERCET_BUNDLE, else bundles/default",
    )
    parser.add_argument("--host", help="address to listen on; default: TERCET_HOST, else 127.0.0.1")
    parser.add_argument(
        "--port", type=int, help="port to listen on; default: TERCET_PORT, else 8000"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def main(argv: Sequence[str], prog: str) -> int:
    """Returns the exit status."""
    args = arguments(prog).parse_args(argv)
    given = {name: getattr(args, name) for name in ("data", "bundle", "host", "port")}
    chosen = {name: value for name, value in given.items() if value is not None}
    found = list(look(chosen))
    ready = all(check.state != "missing" for check in found)
    if args.json:
        print(json.dumps({"ready": ready, "checks": [asdict(one) for one in found]}, indent=1))
    else:
        print_checks(found, ready)
    return 0 if ready else 1


def print_checks(found: list[Check], ready: bool) -> None:
    for check in found:
        print(f"{check.state:8s}  {check.name:14s}  {check.found}")
        if check.todo:
            print(f"{'':26s}{check.todo}")
    print("Serving will work." if ready else "Serving will not work: see what is missing.")


def look(chosen: dict[str, Any]) -> Iterator[Check]:
    """Every check. What needs the settings is left out where these are not valid."""
    yield check_python()
    yield check_processor()
    yield check_memory()
    yield check_runtime()
    yield check_faiss()
    yield check_codecs("decoders", DECODERS, "r")
    yield check_codecs("encoders", ENCODERS, "w")
    for extra, module, purpose in EXTRAS:
        yield check_extra(extra, module, purpose)
    try:
        settings = Settings(_env_file=os.environ.get("TERCET_ENV_FILE"), **chosen)
    except ValidationError as error:
        problems = "; ".join(f"{problem['loc'][0]}: {problem['msg']}" for problem in error.errors())
        yield Check("settings", "missing", problems, "correct this flag or TERCET_ variable")
        return
    yield check_bundle(settings)
    yield check_data(settings)
    yield check_disk(settings)
    yield check_keys(settings)
    yield check_port(settings)


# ---------------------------------------------------------------- the machine


def check_python() -> Check:
    found = f"{platform.python_version()} in {sys.prefix}"
    if sys.version_info < LEAST_PYTHON:
        return Check("Python", "missing", found, "install Python 3.11 or later")
    return Check("Python", "ok", found)


def check_processor() -> Check:
    """Never missing: a slow processor serves, too."""
    text = read_text(Path("/proc/cpuinfo"))
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    has = set(flags[1].split()) if flags else set()
    known = [name for name in INSTRUCTIONS if name in has]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = model[1].strip() if model else platform.machine()
    listed = f", {' '.join(known)}" if known else ""
    found = f"{name}, {cores} cores{listed}"
    if has and not {"avx2", "asimd"} & has:
        return Check(
            "processor", "optional", found, "without AVX2, encoding is several times slower"
        )
    return Check("processor", "ok", found)


def check_memory() -> Check:
    sizes = dict(re.findall(r"^(\w+):\s+(\d+) kB$", read_text(Path("/proc/meminfo")), re.MULTILINE))
    if "MemTotal" not in sizes:
        return Check("memory", "ok", "not known on this system")
    total, free = (int(sizes.get(name, 0)) // 1000 for name in ("MemTotal", "MemAvailable"))
    found = f"{free} of {total} MB available"
    if free < LEAST_MEMORY_MB:
        todo = f"end other programs: a service and its decoders take some {LEAST_MEMORY_MB} MB"
        return Check("memory", "optional", found, todo)
    return Check("memory", "ok", found)


def read_text(file: Path) -> str:
    try:
        return file.read_text("utf-8", "replace")
    except OSError:
        return ""


# ---------------------------------------------------------------- packages


def check_runtime() -> Check:
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        return not_installed("ONNX Runtime", error)
    names = [name.removesuffix("ExecutionProvider") for name in runtime.get_available_providers()]
    return Check("ONNX Runtime", "ok", f"{runtime.__version__}: {', '.join(names)}")


def check_faiss() -> Check:
    try:
        faiss = importlib.import_module("faiss")
    except ImportError as error:
        return not_installed("FAISS", error)
    gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    kind = f"for GPUs, {gpus} found" if hasattr(faiss, "StandardGpuResources") else "for CPUs"
    options = faiss.get_compile_options().split()
    return Check("FAISS", "ok", f"{faiss.__version__} {kind}: {' '.join(options)}")


def not_installed(name: str, error: ImportError) -> Check:
    found = "not installed" if isinstance(error, ModuleNotFoundError) else f"not usable: {error}"
    todo = f"{pip_command('cpu')}, or with 'tercet[gpu]'; never both"
    return Check(name, "missing", found, todo)


def check_codecs(name: str, wanted: Sequence[str], mode: Literal["r", "w"]) -> Check:
    """Whether PyAV's FFmpeg has these codecs. Files of others are refused one by one."""
    try:
        av = importlib.import_module("av")
    except ImportError as error:
        return Check(
            name, "missing", f"PyAV: {error}", "python -m pip install --force-reinstall av"
        )
    absent = []
    for codec in wanted:
        try:
            av.Codec(codec, mode)
        except ValueError:
            absent.append(codec)
    library = ".".join(map(str, av.library_versions["libavcodec"]))
    about = f"PyAV {av.__version__}, libavcodec {library}"
    if absent:
        todo = "use PyAV's own wheel: python -m pip install --force-reinstall av"
        return Check(name, "optional", f"{about}, without {' '.join(absent)}", todo)
    return Check(name, "ok", f"{about}: {' '.join(wanted)}")


def check_extra(extra: str, module: str, purpose: str) -> Check:
    name = f"extra {extra}"
    try:
        installed = importlib.util.find_spec(module) is not None
    except ImportError:
        installed = False
    if not installed:
        return Check(name, "optional", f"not installed ({purpose})", pip_command(extra))
    return Check(name, "ok", f"installed ({purpose})")


# ---------------------------------------------------------------- what is served


def check_bundle(settings: Settings) -> Check:
    """Whether there is one, its files are those that it was made of, and it gives its vectors."""
    from export.bundle import BadBundle, find_bundle, open_bundle

    folder = find_bundle(settings.bundle)
    try:
        manifest = open_bundle(folder, settings.frames).manifest
    except BadBundle as error:
        todo = "name a bundle by --bundle, or get the default one: see docs/encoder.md"
        return Check("bundle", "missing", str(error), todo)
    found = f"{manifest.name} in {folder.absolute()}, fingerprint {manifest.fingerprint[:12]}"
    try:
        from export.encoder import EncoderError, OnnxEncoder
    except ImportError:
        return Check("bundle", "ok", f"{found}; not run: there is no ONNX Runtime")
    try:
        OnnxEncoder.open(
            folder,
            settings.provider,
            settings.threads,
            settings.precision,
            frames=settings.frames,
        )
    except (BadBundle, EncoderError) as error:
        todo = "run `tercet verify` on it, or choose another --provider or --precision"
        return Check("bundle", "missing", f"{found}: {error}", todo)
    return Check("bundle", "ok", f"{found}, gives its vectors by {settings.provider}")


def check_data(settings: Settings) -> Check:
    folder = settings.data
    place = folder.absolute()
    if folder.exists() and not folder.is_dir():
        return Check("data folder", "missing", f"{place} is a file", "name a folder by --data")
    parent = nearest_folder(folder)
    if not os.access(parent, os.W_OK | os.X_OK):
        todo = f"let this account write into {parent}, or name another folder by --data"
        return Check("data folder", "missing", f"{place} may not be written", todo)
    if not folder.exists():
        return Check("data folder", "ok", f"{place} will be made")
    if is_locked(folder / "lock"):
        todo = "stop the service or the command that has it open, or name another by --data"
        return Check("data folder", "missing", f"{place} is open in another process", todo)
    names = [one.name for one in folder.glob("collections/[!.]*") if one.is_dir()]
    return Check("data folder", "ok", f"{place}, collections: {len(names)}")


def nearest_folder(folder: Path) -> Path:
    """The folder itself, or the first above it that exists."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return place


def is_locked(file: Path) -> bool:
    if not file.exists():
        return False
    with file.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def check_disk(settings: Settings) -> Check:
    free_mb = shutil.disk_usage(nearest_folder(settings.data)).free // 1_000_000
    found = f"{free_mb} MB free at the data folder"
    if free_mb < settings.free_disk_mb:
        todo = f"make room: nothing is added below {settings.free_disk_mb} MB"
        return Check("disk", "missing", found, todo)
    return Check("disk", "ok", found)


def check_keys(settings: Settings) -> Check:
    try:
        stored = KeyFile(settings.data).read()
    except BadKeyFile as error:
        todo = f"give {settings.data / FILE} to this account, or delete it and make new keys"
        return Check("keys", "missing", str(error), todo)
    make = "tercet keys make NAME --role admin"
    if is_unguarded(settings):
        found = f"none, and other machines can connect to {settings.host}"
        return Check("keys", "missing", found, f"{make}, or --allow-open to serve without")
    if stored is None and not settings.api_keys:
        return Check("keys", "ok", "none: this machine alone is answered", f"for others: {make}")
    roles = [key.role for key in stored or ()] + ["admin"] * len(settings.api_keys)
    if not roles:
        return Check("keys", "optional", "all were revoked: nobody is let in", make)
    counts = ", ".join(f"{roles.count(role)} {role}" for role in dict.fromkeys(roles))
    return Check("keys", "ok", counts)


def check_port(settings: Settings) -> Check:
    at = str(settings.socket or f"{settings.host}, port {settings.port}")
    try:
        check_address(settings)
    except OSError as error:
        return Check("address", "missing", str(error), "choose another by --host or --port")
    return Check("address", "ok", f"{at} is free")
