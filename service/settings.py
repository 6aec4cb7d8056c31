"""Every setting, once. Flags and TERCET_* variables carry the same names."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import limits
from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

TOP_K_MAX = 100_000
HEADER = re.compile(r"[A-Za-z0-9-]+")
PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")


class Settings(BaseSettings):
    """How a service runs. Sizes and times name their unit."""

    model_config = SettingsConfigDict(
        env_prefix="TERCET_",
        cli_prog_name="python -m service",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        frozen=True,
    )

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on")
    socket: Path | None = Field(
        None, description="Unix socket to listen on, in place of an address and a port"
    )
    root_path: str = Field(
        "", description="path that a proxy serves under and takes off, as in '/tercet'"
    )
    proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        ("127.0.0.1", "::1"),
        description="addresses and networks whose X-Forwarded-For and X-Forwarded-Proto are"
        " believed, separated by commas",
    )
    data: Path = Field(Path("data"), description="folder of the collections")
    bundle: Path = Field(Path("bundles/default"), description="folder of the encoder's bundle")
    provider: Literal["cpu", "cuda", "tensorrt"] = Field(
        "cpu", description="what ONNX Runtime runs on"
    )
    precision: Literal["fp32", "fp16", "int8"] = Field("fp32", description="encoder precision")
    frames: Literal["", "exact", "keyframes"] = Field(
        "",
        description="which frames stand for a window: 'exact', those on screen then, or"
        " 'keyframes' near by, in films of more than 30 s; empty: as the bundle says",
    )
    threads: int = Field(
        0,
        ge=0,
        description="threads that encode a batch; 0: all cores. Two text batches may run at once",
    )
    api_keys: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="bearer keys that may do everything, separated by commas; `tercet keys` makes"
        " others",
    )
    hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="host names besides localhost to serve without keys, separated by commas",
    )
    model_aliases: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="other names of the model for OpenAI's clients, separated by commas",
    )
    link_s: float = Field(
        3600.0,
        gt=0,
        description="seconds that a link to an item's media is valid, beyond the item's length",
    )
    session_s: float = Field(
        43_200.0, gt=0, description="seconds that one stays signed in on the page"
    )
    identity_header: str = Field(
        "",
        description="header in which a proxy names the person who asks, as in 'X-Forwarded-User';"
        " it goes into the audit, and opens nothing",
    )
    audit: Path | None = Field(
        None, description="file that gets a line of JSON for each change; default: the log"
    )
    allow_open: bool = Field(False, description="let other machines connect without keys")
    upload_max_mb: int = Field(512, gt=0, description="largest request, in MB")
    json_max_mb: int = Field(16, gt=0, description="largest request without files, in MB")
    files_max: int = Field(64, gt=0, description="files in one request")
    texts_max: int = Field(1024, gt=0, description="texts in one request")
    overlap: float = Field(
        0.0, ge=0.0, le=0.9, description="share of a window that the next one overlaps"
    )
    media_max_s: float = Field(
        600.0, gt=0, description="longest media decoded for a request, in seconds"
    )
    decode_workers: int = Field(2, gt=0, description="decoding processes")
    decode_memory_mb: int = Field(
        1024, gt=0, description="address space of a decoding process, in MB"
    )
    hardware_decoding: Literal["off", "auto", "cuda", "vaapi", "videotoolbox"] = Field(
        "off",
        description="decode pictures in hardware; 'auto': whatever FFmpeg has. What it cannot"
        " decode is decoded in software",
    )
    decode_max_s: float = Field(10.0, gt=0, description="seconds that one file may take to decode")
    decode_waiting_max: int = Field(
        128, gt=0, description="files that decode or wait to; more are refused with 429"
    )
    converted_mb: int = Field(
        1024,
        gt=0,
        description="disk space for what items are converted to: versions that browsers play, and"
        " clips, in MB",
    )
    convert_workers: int = Field(1, gt=0, description="files that are converted at once")
    convert_max_s: float = Field(120.0, gt=0, description="seconds that one conversion may take")
    clip_max_s: float = Field(300.0, gt=0, description="longest clip of an item, in seconds")
    imports: Path | None = Field(None, description="folder that jobs may import from")
    screen_text: bool = Field(
        False, description="read text in the pictures of imported files, too (extra 'screen')"
    )
    speech: str = Field(
        "",
        description="write down what is said in imported files, by a Whisper model: a folder, or"
        " a name to fetch from the hub (extra 'speech')",
    )
    request_max_s: float = Field(
        60.0, gt=0, description="seconds that a request waits for the encoder, then 503"
    )
    upload_max_s: float = Field(
        600.0, gt=0, description="seconds that a request's body may take to arrive, then 408"
    )
    batch_max_tokens: int = Field(
        2048, gt=0, description="tokens encoded together; a window of 5 s has some 128"
    )
    queue_max_tokens: int = Field(
        262_144, gt=0, description="tokens that wait for the encoder; more are refused with 429"
    )
    quota_requests: str = Field(
        "", description="requests of each key, as in '600/minute'; beyond, 429"
    )
    quota_media: str = Field(
        "",
        description="seconds of media decoded for each key, as in '36000/hour'; beyond, 429",
    )
    stall_s: float = Field(
        30.0,
        gt=0,
        description="not ready when a stage has work but has not moved for so many seconds",
    )
    free_disk_mb: int = Field(
        64,
        ge=0,
        description="not ready, and nothing is added, with less free disk than this, in MB",
    )
    recall_sample: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of searches whose recall is measured against comparing every vector",
    )
    traces: str = Field(
        "",
        description="address that OpenTelemetry spans are sent to, OTLP over HTTP (extra 'otel')",
    )
    log_json: bool = Field(False, description="log lines as JSON")
    captions: Path | None = Field(
        None,
        description="file of sentences, a line each, that descriptions of items are chosen from;"
        " default: sentences made of the names that collections are tagged by",
    )
    index: Literal["auto", "exact", "hnsw", "ivf", "small", "gpu", "gpu-ivf"] = Field(
        "auto", description="kind of the vector indexes"
    )
    index_memory_mb: int = Field(
        0, ge=0, description="memory that one vector index may take, in MB; 0: no limit"
    )
    index_latency_ms: float = Field(
        2.0, gt=0, description="milliseconds that a search of one vector index should take"
    )
    milvus: str = Field(
        "", description="address of a Milvus server that keeps the vectors instead of FAISS"
    )
    top_k_max: int = Field(
        1000, gt=0, le=TOP_K_MAX, description="most hits that one search may ask for"
    )

    @field_validator("root_path")
    @classmethod
    def check_path(cls, value: str) -> str:
        path = value.removesuffix("/")
        if not PATH.fullmatch(path):
            raise ValueError("write a path, as in '/tercet'")
        return path

    @field_validator("proxies", mode="before")
    @classmethod
    def split_networks(cls, value: object) -> object:
        """Raises ValueError for what is neither an address nor a network."""
        names = value.split(",") if isinstance(value, str) else value
        assert isinstance(names, list | tuple)
        networks = tuple(name.strip() for name in names if name.strip())
        for network in networks:
            ipaddress.ip_network(network)
        return networks

    @field_validator("identity_header")
    @classmethod
    def check_header(cls, value: str) -> str:
        if value and not HEADER.fullmatch(value):
            raise ValueError("write the name of a header, as in 'X-Forwarded-User'")
        return value

    @field_validator("quota_requests", "quota_media")
    @classmethod
    def check_rule(cls, value: str) -> str:
        if value and len(limits.parse_many(value)) != 1:
            raise ValueError("write one rule, as in '600/minute'")
        return value

    @field_validator("hosts", "model_aliases", mode="before")
    @classmethod
    def split_names(cls, value: object, field: ValidationInfo) -> object:
        if not isinstance(value, str):
            return value
        names = value.lower() if field.field_name == "hosts" else value
        return tuple(name.strip() for name in names.split(",") if name.strip())

    @field_validator("api_keys", mode="before")
    @classmethod
    def hash_keys(cls, value: object) -> object:
        """Only the SHA-256 of each key is kept."""
        keys = value.split(",") if isinstance(value, str) else value
        assert isinstance(keys, list | tuple)
        stripped = [key.strip() for key in keys]
        return tuple(hashlib.sha256(key.encode()).hexdigest() for key in stripped if key)

    @property
    def exposed(self) -> bool:
        """Whether other machines can connect, though `allow_open` is not set: only with keys."""
        return not (self.socket or self.loopback or self.allow_open)

    @property
    def loopback(self) -> bool:
        return is_loopback(self.host)


@lru_cache(maxsize=64)
def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own. An IPv4 address may be written as one of
    IPv6, and a name may end with a dot.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.removesuffix(".")
        return name == "localhost" or name.endswith(".localhost")
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def write_default(name: str) -> str:
    """A setting's default as one would type it; empty where there is none.

    >>> write_default("proxies"), write_default("allow_open"), write_default("audit")
    ('127.0.0.1,::1', 'false', '')
    """
    value = Settings.model_fields[name].default
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
