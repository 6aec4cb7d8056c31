"""How much each key may ask for in a stretch of time."""

from __future__ import annotations

import math
import time

import limits
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from .exceptions import OverQuota
from .settings import Settings


class Quota:
    """At most so much of something for each client in a stretch of time: `rule` is as in
    "600/minute". No limit where it is empty.
    """

    def __init__(self, what: str, rule: str) -> None:
        self.rule = rule
        self._what = what
        self._limit = limits.parse(rule) if rule else None
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    def take(self, client: str, amount: int = 1) -> None:
        """Raises OverQuota, having taken nothing."""
        if self._limit is not None and not self._limiter.hit(self._limit, client, cost=amount):
            raise self._over(client, amount)

    def check(self, client: str) -> None:
        """Raises OverQuota where nothing is left."""
        if self._limit is not None and not self._limiter.test(self._limit, client):
            raise self._over(client, 1)

    def _over(self, client: str, amount: int) -> OverQuota:
        assert self._limit is not None
        left = self._limiter.get_window_stats(self._limit, client).reset_time - time.time()
        # what is more than the whole limit never fits into one window
        least = self._limit.get_expiry() if amount > self._limit.amount else 1
        return OverQuota(self._what, str(self._limit), max(least, math.ceil(left)))


class Quotas:
    """The quotas of a service. A reload that keeps a rule keeps what has been taken of it."""

    def __init__(self, settings: Settings, before: Quotas | None = None) -> None:
        self.requests = Quota("requests", settings.quota_requests)
        self.media = Quota("seconds of media", settings.quota_media)
        if before and before.requests.rule == self.requests.rule:
            self.requests = before.requests
        if before and before.media.rule == self.media.rule:
            self.media = before.media
