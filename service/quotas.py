"""How much each key may ask for in a stretch of time."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable

import limits

from .exceptions import OverQuota
from .settings import Settings


class Quota:
    """At most so much of something for each client in a stretch of time: `rule` is as in
    "600/minute". No limit where it is empty. `clock` returns seconds.

    What counts is this period's amount, and of the last period's the share of it that a window of
    one period, which ends now, still covers (a sliding window counter).
    """

    def __init__(self, what: str, rule: str, clock: Callable[[], float] = time.time) -> None:
        self.rule = rule
        self._what = what
        self._clock = clock
        self._limit = limits.parse(rule) if rule else None
        self._period = 0  # the number of this one
        self._taken: Counter[str] = Counter()  # in this period, by client
        self._taken_before: Counter[str] = Counter()  # in the period before

    def take(self, client: str, amount: int = 1) -> None:
        """Raises OverQuota, having taken nothing."""
        if self._limit is None:
            return
        if math.floor(self._count(client)) + amount > self._limit.amount:
            raise self._over(client, amount)
        self._taken[client] += amount

    def check(self, client: str) -> None:
        """Raises OverQuota where nothing is left."""
        if self._limit is not None and self._count(client) >= self._limit.amount:
            raise self._over(client, 1)

    def _count(self, client: str) -> float:
        """What counts of a client now."""
        assert self._limit is not None
        period_s = self._limit.get_expiry()
        period = int(self._clock() // period_s)
        if period != self._period:
            self._taken_before = self._taken if period == self._period + 1 else Counter()
            self._taken = Counter()
            self._period = period
        share_left = self._left_s() / period_s
        return self._taken_before[client] * share_left + self._taken[client]

    def _left_s(self) -> float:
        """Seconds until this period ends."""
        assert self._limit is not None
        period_s = self._limit.get_expiry()
        return period_s - self._clock() % period_s

    def _over(self, client: str, amount: int) -> OverQuota:
        """Ask again when this period ends, or as soon as one more of the last has left the
        window. What is more than the whole limit never fits into one.
        """
        assert self._limit is not None
        period_s = self._limit.get_expiry()
        wait_s = self._left_s()
        before = self._taken_before[client]
        if before:
            wait_s %= period_s / before
        least_s = period_s if amount > self._limit.amount else 1
        return OverQuota(self._what, str(self._limit), max(least_s, math.ceil(wait_s)))


class Quotas:
    """The quotas of a service. A reload that keeps a rule keeps what has been taken of it."""

    def __init__(self, settings: Settings, before: Quotas | None = None) -> None:
        self.requests = Quota("requests", settings.quota_requests)
        self.media = Quota("seconds of media", settings.quota_media)
        if before and before.requests.rule == self.requests.rule:
            self.requests = before.requests
        if before and before.media.rule == self.media.rule:
            self.media = before.media
