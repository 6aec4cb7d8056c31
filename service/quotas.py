"""How much each key may ask for."""

from __future__ import annotations

import math
import time

import limits
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from .errors import OverQuota


class Quota:
    """At most so much of something, by each key, in any stretch of time; as much as one likes where `rule` is empty."""

    def __init__(self, what: str, rule: str) -> None:
        self._what, self._rule = what, limits.parse(rule) if rule else None
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    def take(self, who: str, amount: int = 1) -> None:
        """Raises OverQuota, having taken nothing."""
        if self._rule is not None and not self._limiter.hit(self._rule, who, cost=amount):
            left = self._limiter.get_window_stats(self._rule, who).reset_time - time.time()
            raise OverQuota(self._what, str(self._rule), max(1, math.ceil(left)))
