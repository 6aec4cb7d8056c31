"""What Prometheus sees."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """One registry an app, so that several apps can live in one process."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self.requests = Counter("tercet_requests_total", "Requests answered", ["route", "status"], registry=r)
        self.seconds = Histogram("tercet_request_seconds", "Time to answer", ["route"], buckets=SECONDS, registry=r)
        self.decoded = Counter("tercet_decoded_files_total", "Files decoded, by outcome", ["outcome"], registry=r)
        self.batch_rows = Histogram(
            "tercet_batch_rows", "Rows in a batch", ["lane"], buckets=(1, 2, 4, 8, 16, 32, 64), registry=r
        )
        self.encode_seconds = Histogram(
            "tercet_encode_seconds", "Time of a batch", ["lane"], buckets=SECONDS, registry=r
        )
        self.waiting = Gauge("tercet_waiting_rows", "Rows waiting for the encoder", ["lane"], registry=r)
        self.items = Gauge("tercet_items", "Items stored", ["collection"], registry=r)
        self.vectors = Gauge("tercet_vectors", "Vectors stored", ["collection", "encoding"], registry=r)

    def batch(self, lane: str, rows: int, seconds: float) -> None:
        self.batch_rows.labels(lane).observe(rows)
        self.encode_seconds.labels(lane).observe(seconds)
