"""A lock per tenant in a real Valkey: who gets it, who takes it over, and that nobody needs it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from tenure.errors import ConfigurationError
from tenure.estate.local import RunningEstate
from tenure.locks import RedisTenantLocks
from tenure.model.names import TenantId
from tenure.model.secret import Secret

ACME, OTHER = TenantId("acme"), TenantId("other")
BIG = 2**62
"""Beyond what Lua's numbers can tell apart."""


def locks(url: str, holder: str, *, gone: frozenset[str] = frozenset()) -> RedisTenantLocks:
    return RedisTenantLocks(Secret(url), holder=lambda: holder, is_gone=lambda name: name in gone)


def always() -> bool:
    return True


def holder_in(url: str) -> str | None:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        value: Any = client.get(f"tenure:lock:{ACME}")
        left_ms: Any = client.pttl(f"tenure:lock:{ACME}")
    assert value is None or 0 < left_ms <= 10_000
    return str(value) if value is not None else None


def test_of_two_contenders_the_greater_token_has_it_and_only_its_owner_gives_it_back(
    fresh_redis: Callable[..., str],
) -> None:
    url = fresh_redis()
    one, other, third = locks(url, "one"), locks(url, "other"), locks(url, "third")
    with one.hold(ACME, BIG, renewed_while=always):
        assert holder_in(url) == f"{BIG} one"
        assert other.held(ACME)
        assert not other.held(OTHER)
        with third.hold(
            ACME, BIG - 1, renewed_while=always
        ):  # a holder that was overtaken takes nothing and is not kept waiting
            assert holder_in(url) == f"{BIG} one"
        assert holder_in(url) == f"{BIG} one"
        with other.hold(ACME, BIG + 1, renewed_while=always):
            assert holder_in(url) == f"{BIG + 1} other"
            with third.hold(ACME, 7, renewed_while=always):
                assert holder_in(url) == f"{BIG + 1} other"
        assert holder_in(url) is None
    assert not other.held(ACME)
    with one.hold(ACME, 9, renewed_while=always), other.hold(ACME, 10, renewed_while=always):
        assert holder_in(url) == "10 other", "longer tokens are greater"
    for each in (one, other, third):
        each.close()


def test_a_holder_that_has_certainly_ended_does_not_count(fresh_redis: Callable[..., str]) -> None:
    url = fresh_redis()
    with locks(url, "dead").hold(ACME, 5, renewed_while=always):
        assert locks(url, "a").held(ACME)
        assert not locks(url, "a", gone=frozenset({"dead"})).held(ACME)


def test_what_redis_has_forgotten_is_taken_again_and_an_absent_redis_costs_nothing_but_one_line(
    fresh_redis: Callable[..., str],
    servers: RunningEstate,
    wait_until: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tenure.locks.RENEW_S", 0.05)
    monkeypatch.setattr("tenure.locks.AWAY_S", 0.1)
    caplog.set_level(logging.INFO, logger="tenure.locks")
    url = fresh_redis()
    mine = locks(url, "one")
    with mine.hold(ACME, 5, renewed_while=always):
        with redis.Redis.from_url(url) as client:
            client.flushall()
        wait_until(lambda: holder_in(url) == "5 one", "it is taken again")
        servers.stop("valkey-a")
        try:
            wait_until(lambda: caplog.records, "it is seen")
            assert not mine.held(ACME)
            with locks(url, "two").hold(OTHER, 6, renewed_while=always):
                pass
        finally:
            servers.start("valkey-a")
        wait_until(
            lambda: caplog.records[-1].message == "tenant_locks_back" and holder_in(url) == "5 one",
            "it is taken again by itself",
            deadline_s=30,
        )
    said = [r.message.partition(":")[0] for r in caplog.records]
    assert said.count("tenant_locks_back") == 1
    assert said.count("tenant_locks_away") == 2, "once by each that asked"


def test_a_holder_that_the_journal_does_not_confirm_any_more_keeps_nobody_out(
    fresh_redis: Callable[..., str], wait_until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenure.locks.RENEW_S", 0.05)
    monkeypatch.setattr("tenure.locks.TTL_S", 1.0)
    url, confirmed = fresh_redis(), threading.Event()
    confirmed.set()
    with locks(url, "cut off").hold(ACME, 5, renewed_while=confirmed.is_set):
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            assert holder_in(url) == "5 cut off"
        confirmed.clear()
        wait_until(lambda: not locks(url, "another").held(ACME), "it runs out")


def test_a_url_that_is_none_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigurationError, match=r"fleet\.locks|is none") as error:
        locks("amqp://u:hunter2@x", "one")
    assert "hunter2" not in f"{error.value}{error.value.hint}{error.value.__cause__}"
