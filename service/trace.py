"""The current request: its id, and how long each stage of it took. Shown in logs, in the header
Server-Timing, in metrics, and as OpenTelemetry spans where these are sent somewhere.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

TRACER: Any = None  # OpenTelemetry's, where spans are sent
ACCESS = logging.getLogger("tercet.requests")


@dataclass
class Trace:
    id: str
    observe: Callable[[str, float], None] = lambda stage, seconds: None
    stages: dict[str, float] = field(default_factory=dict)

    def add(self, stage: str, seconds: float) -> None:
        self.stages[stage] = self.stages.get(stage, 0.0) + seconds
        self.observe(stage, seconds)

    @property
    def server_timing(self) -> str:
        """The value of the header Server-Timing: the stages so far, in milliseconds."""
        return ", ".join(
            f"{stage};dur={1000 * seconds:.1f}" for stage, seconds in self.stages.items()
        )


CURRENT: ContextVar[Trace | None] = ContextVar("trace", default=None)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Time a stage of the current request, as a span of its own."""
    trace = CURRENT.get()
    began = time.perf_counter()
    try:
        with span(name):
            yield
    finally:
        if trace is not None:
            trace.add(name, time.perf_counter() - began)


def span(name: str, headers: Mapping[bytes, bytes] | None = None) -> AbstractContextManager[Any]:
    """An OpenTelemetry span, as a child of the one that the request's headers name. Does nothing
    where spans are sent nowhere.
    """
    if TRACER is None:
        return nullcontext()
    from opentelemetry import propagate

    context = None
    if headers:
        carrier = {k.decode("latin-1"): v.decode("latin-1") for k, v in headers.items()}
        context = propagate.extract(carrier)
    started: AbstractContextManager[Any] = TRACER.start_as_current_span(name, context)
    return started


def send_spans(address: str) -> None:
    """Send spans to a collector. Raises ImportError without the extra 'otel'."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "tercet"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(address)))
    global TRACER
    TRACER = provider.get_tracer("tercet")


class JsonLines(logging.Formatter):
    """A log record as one line of JSON, with the id of the request it belongs to."""

    def format(self, record: logging.LogRecord) -> str:
        trace = CURRENT.get()
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        row: dict[str, Any] = {
            "time": f"{second}.{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if trace is not None:
            row["request_id"] = trace.id
        row |= getattr(record, "fields", {})
        if record.exc_info:
            row["exception"] = self.formatException(record.exc_info)
        return json.dumps(row)


def log_config(as_json: bool) -> dict[str, Any]:
    """uvicorn's `log_config`: lines on standard error."""
    plain = {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": {"()": JsonLines} if as_json else plain},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "lines"}},
        "root": {"handlers": ["stderr"], "level": "INFO"},
    }
