"""Quotas: what a key may ask for in a stretch of time, by a clock that is set."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.app import create_app
from service.exceptions import OverQuota
from service.quotas import Quota
from service.settings import Settings

from .makers import Clock, FakeEncoder, make_wav
from .test_service import Client, refused, upload


def refused_for(quota: Quota, amount: int) -> int:
    """Takes too much. When to ask again, in seconds."""
    with pytest.raises(OverQuota) as raised:
        quota.take("a", amount)
    return raised.value.retry_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What the library of limits takes for the time of day."""
    clock = Clock(600.0)
    monkeypatch.setattr("time.time", clock)
    return clock


def test_a_quota_is_of_the_minute_that_ends_now(clock: Clock) -> None:
    """Of ten a minute four are taken. 40 seconds into the next minute a third of them counts, five
    seconds later a quarter.
    """
    quota = Quota("requests", "10/minute")
    quota.take("a", 4)
    clock.now_s = 700.0
    quota.take("a", 9)
    assert refused_for(quota, 1) == 5
    with pytest.raises(OverQuota):
        quota.check("a")
    quota.check("b")
    clock.now_s = 705.1
    quota.take("a", 1)
    # the first four count no more, of the ten since 9.7
    clock.now_s = 722.0
    quota.take("a", 1)
    with pytest.raises(OverQuota):
        quota.check("a")
    clock.now_s = 840.0
    quota.take("a", 10)


def test_what_is_more_than_a_quota_never_fits(clock: Clock) -> None:
    quota = Quota("requests", "10/minute")
    assert refused_for(quota, 11) == 60
    quota.take("a", 10)  # nothing was taken by what was refused


def test_without_a_rule_there_is_no_quota() -> None:
    quota = Quota("requests", "")
    quota.take("a", 10**9)
    quota.check("a")


def test_quotas_are_of_each_key(tmp_path: Path) -> None:
    limits = {"quota_requests": "3/hour", "quota_media": "5/hour"}
    tone = make_wav(tmp_path / "tone.wav", 3.0)
    with Client(
        create_app(Settings(data=tmp_path / "data", api_keys="a,b", **limits), FakeEncoder())
    ) as client:
        ask = lambda key: client.get("/v1/models", headers={"Authorization": f"Bearer {key}"})  # noqa: E731
        assert [ask("a").status_code for _ in range(4)] == [200, 200, 200, 429]
        assert ask("b").status_code == 200 and int(ask("a").headers["retry-after"]) >= 1
        refused(ask("a"), 429, "over_quota")
        assert client.get("/healthz").status_code == 200
        hear = lambda: client.post(  # noqa: E731
            "/v1/embed/audio", files=upload(tone), headers={"Authorization": "Bearer b"}
        )
        assert hear().status_code == 200
        refused(hear(), 429, "over_quota")  # six seconds of five
