"""How much each key may ask for."""

from __future__ import annotations

import math
import time

import limits
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from .faults import OverQuota
from .settings import Settings


class Quota:
    """At most so much of something, by each key, in any stretch of time; as much as one likes where
    `rule` is empty.
    """

    def __init__(self, what: str, rule: str) -> None:
        self.rule, self._what = rule, what
        self._limit = limits.parse(rule) if rule else None
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    def take(self, who: str, amount: int = 1) -> None:
        """Raises OverQuota, having taken nothing."""
        if self._limit is not None and not self._limiter.hit(self._limit, who, cost=amount):
            raise self._over(who, amount)

    def check(self, who: str) -> None:
        """Raises OverQuota: there is nothing left."""
        if self._limit is not None and not self._limiter.test(self._limit, who):
            raise self._over(who, 1)

    def _over(self, who: str, amount: int) -> OverQuota:
        assert self._limit is not None
        left = self._limiter.get_window_stats(self._limit, who).reset_time - time.time()
        # never, within one window
        least = self._limit.get_expiry() if amount > self._limit.amount else 1
        return OverQuota(self._what, str(self._limit), max(least, math.ceil(left)))


class Quotas:
    """Those of a service; what has been taken of a rule that
    stays is still taken after a reload.
    """

    def __init__(self, settings: Settings, before: Quotas | None = None) -> None:
        self.requests = Quota("requests", settings.quota_requests)
        self.media = Quota("seconds of media", settings.quota_media)
        if before and before.requests.rule == self.requests.rule:
            self.requests = before.requests
        if before and before.media.rule == self.media.rule:
            self.media = before.media
