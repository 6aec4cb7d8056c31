"""The metrics that Prometheus collects."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from .batching import BatchStats

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """One registry an app, so that several apps can live in one process."""

    def __init__(self) -> None:
        r = CollectorRegistry()
        self.registry = r
        self.requests = Counter(
            "tercet_requests_total", "Requests answered", ["route", "status"], registry=r
        )
        self.seconds = Histogram(
            "tercet_request_seconds", "Time to answer", ["route"], buckets=SECONDS, registry=r
        )
        self.errors = Counter(
            "tercet_errors_total", "Errors answered, by code", ["code"], registry=r
        )
        self.stages = Histogram(
            "tercet_stage_seconds",
            "Time of a request's stage",
            ["stage"],
            buckets=SECONDS,
            registry=r,
        )
        self.queued = Histogram(
            "tercet_queue_seconds",
            "Wait for the encoder",
            ["encoding"],
            buckets=SECONDS,
            registry=r,
        )
        self.recall = Histogram(
            "tercet_search_recall",
            "Share of a search's hits that comparing every vector finds too, by the ways that "
            "answered it",
            ["ways", "filtered"],
            buckets=(0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0),
            registry=r,
        )
        self.decoded = Counter(
            "tercet_decoded_files_total", "Files decoded, by outcome", ["outcome"], registry=r
        )
        self.converted = Counter(
            "tercet_converted_files_total",
            "Files made for players and downloads, by outcome",
            ["outcome"],
            registry=r,
        )
        self.batch_rows = Histogram(
            "tercet_batch_rows",
            "Rows in a batch",
            ["encoding"],
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=r,
        )
        self.encode_seconds = Histogram(
            "tercet_encode_seconds", "Time of a batch", ["encoding"], buckets=SECONDS, registry=r
        )
        self.waiting = Gauge(
            "tercet_waiting_tokens", "Tokens waiting for the encoder", ["encoding"], registry=r
        )

    def observe_batch(self, stats: BatchStats) -> None:
        self.batch_rows.labels(stats.encoding).observe(stats.rows)
        self.encode_seconds.labels(stats.encoding).observe(stats.seconds)
        for wait_s in stats.waits:
            self.queued.labels(stats.encoding).observe(wait_s)

    def observe_stage(self, name: str, seconds: float) -> None:
        self.stages.labels(name).observe(seconds)


class CollectionMetrics:
    """How much collections hold. A registry of one scrape: each names what its caller may see."""

    def __init__(self) -> None:
        r = CollectorRegistry()
        self.registry = r
        self.items = Gauge("tercet_items", "Items stored", ["collection"], registry=r)
        self.vectors = Gauge(
            "tercet_vectors", "Vectors stored", ["collection", "encoding"], registry=r
        )
