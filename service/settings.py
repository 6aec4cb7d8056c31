"""Every setting, once. Flags and TERCET_* variables carry the same names."""

from __future__ import annotations

import hashlib
import ipaddress
from pathlib import Path
from typing import Annotated, Literal

import limits
from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

TOP_K_MAX = 100_000


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
    data: Path = Field(Path("data"), description="folder of the collections")
    bundle: Path = Field(Path("bundles/default"), description="folder of the encoder's bundle")
    provider: Literal["cpu", "cuda", "tensorrt"] = Field(
        "cpu", description="what ONNX Runtime runs on"
    )
    precision: Literal["fp32", "fp16", "int8"] = Field(
        "fp32", description="of the encoder's numbers"
    )
    threads: int = Field(
        0,
        ge=0,
        description="cores that a batch is encoded on, of texts two batches at once; 0: all",
    )
    api_keys: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="bearer keys, separated by commas"
    )
    hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="names besides localhost that a service without keys goes by, separated by commas",
    )
    link_s: float = Field(
        3600.0, gt=0, description="how long a link opens an item's media, beyond its length"
    )
    allow_open: bool = Field(False, description="listen beyond this machine without keys")
    upload_max_mb: int = Field(512, gt=0, description="largest request")
    json_max_mb: int = Field(16, gt=0, description="largest request that is not a form with files")
    files_max: int = Field(64, gt=0, description="files in one request")
    texts_max: int = Field(1024, gt=0, description="texts in one request")
    overlap: float = Field(
        0.0, ge=0.0, le=0.9, description="share of an item's window that the next one lies on"
    )
    media_max_s: float = Field(600.0, gt=0, description="longest media decoded for a request")
    decode_workers: int = Field(2, gt=0, description="decoding processes")
    decode_memory_mb: int = Field(1024, gt=0, description="address space of a decoding process")
    decode_max_s: float = Field(10.0, gt=0, description="time one file may take to decode")
    decode_waiting_max: int = Field(
        128, gt=0, description="files decoding or waiting to; beyond, 429"
    )
    imports: Path | None = Field(None, description="folder below which jobs may import")
    request_max_s: float = Field(60.0, gt=0, description="wait for the encoder; beyond, 503")
    upload_max_s: float = Field(
        600.0, gt=0, description="time a request's body may take to arrive; beyond, 408"
    )
    batch_max_tokens: int = Field(
        2048, gt=0, description="tokens encoded together: a window of 5 s has some 128"
    )
    queue_max_tokens: int = Field(
        262_144, gt=0, description="tokens waiting for the encoder; beyond, 429"
    )
    quota_requests: str = Field("", description="of each key, '600/minute' say; beyond, 429")
    quota_media: str = Field(
        "", description="seconds of media decoded for each key, '36000/hour' say; beyond, 429"
    )
    stall_s: float = Field(
        30.0, gt=0, description="a stage that has not moved for longer while work waits: not ready"
    )
    free_disk_mb: int = Field(
        64, ge=0, description="less free than this: not ready, and nothing is added"
    )
    recall_sample: float = Field(
        0.0, ge=0, le=1, description="share of searches measured against comparing every vector"
    )
    traces: str = Field(
        "",
        description="address that OpenTelemetry spans are sent to, OTLP over HTTP (extra 'otel')",
    )
    log_json: bool = Field(False, description="log lines as JSON")
    index: Literal["auto", "exact", "hnsw", "ivf", "small", "gpu", "gpu-ivf"] = Field(
        "auto", description="kind of the vector indexes"
    )
    index_memory_mb: int = Field(
        0, ge=0, description="memory that one vector index may take; 0: no limit"
    )
    index_latency_ms: float = Field(
        2.0, gt=0, description="time that one vector index may take for a search, about"
    )
    milvus: str = Field(
        "", description="address of a Milvus that keeps the vectors instead of FAISS"
    )
    top_k_max: int = Field(1000, gt=0, le=TOP_K_MAX, description="most hits one search may ask for")

    @field_validator("quota_requests", "quota_media")
    @classmethod
    def countable(cls, value: str) -> str:
        if value and len(limits.parse_many(value)) != 1:
            raise ValueError("one rule, '600/minute' say")
        return value

    @field_validator("hosts", mode="before")
    @classmethod
    def names(cls, value: object) -> object:
        return (
            tuple(name.strip().lower() for name in value.split(",") if name.strip())
            if isinstance(value, str)
            else value
        )

    @field_validator("api_keys", mode="before")
    @classmethod
    def split(cls, value: object) -> object:
        """Keys are kept as their SHA-256 only."""
        keys = value.split(",") if isinstance(value, str) else value
        assert isinstance(keys, list | tuple)
        return tuple(hashlib.sha256(k.strip().encode()).hexdigest() for k in keys if k.strip())

    @property
    def unguarded(self) -> bool:
        """Whether others than this machine may connect, without a key, and nobody said that they
        may.
        """
        return not (self.loopback or self.api_keys or self.allow_open)

    @property
    def loopback(self) -> bool:
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
