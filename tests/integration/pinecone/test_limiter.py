"""Processes that share a Redis keep to one rate together; without it each keeps to its share, and says so."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from tenure.estate.local import PineconeEndpoint
from tenure.model.names import TenantId
from tenure.model.secret import Secret
from tenure.stores.pinecone import Limiter, Rates, RedisBuckets
from tests.contract.rigs.pinecone import PineconeRig
from tests.contract.rigs.protocol import Side
from tests.pinecone_stand_in import StandIn

ACME = TenantId("acme")
NOWHERE = Secret("redis://127.0.0.1:1/0")
REQUESTS = 24
A_FEW = REQUESTS // 6
FETCHES_PER_S = 10.0
"""What the stand-in allows: a tenth of the documented 100, which two processes exceed on a busy machine too."""

PROCESS = """
import json, sys
from tenure.model.secret import Secret
from tenure.stores.pinecone import Limiter, Rates, RedisBuckets
from tenure.stores.pinecone.client import IndexClient

given = json.loads(sys.argv[1])
shared = RedisBuckets(Secret(given["redis"])) if given["redis"] else None
limiter = Limiter(Rates(per_second={"fetch": given["rate"]}), shared=shared, alone=1.0)
client = IndexClient(host=given["host"], api_key=Secret(given["key"]), where="test", limiter=limiter)
client.shape()
print("ready", flush=True)
sys.stdin.readline()
for n in range(given["requests"]):
    client.fetch("shared", ["a"])
client.close()
"""


def run_two(rig: PineconeRig, redis_url: str | None) -> None:
    """Two processes fetch as fast as their limiters let them; return when both have ended."""
    given = {
        "redis": redis_url,
        "rate": 0.9 * FETCHES_PER_S,
        "host": rig.hosts[Side.BLUE],
        "key": rig.endpoint.api_key.reveal(),
        "requests": REQUESTS,
    }
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    rig.stand_in.change(limits=FETCHES_PER_S / 100)
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in running:
        process.communicate(timeout=60)
        assert process.returncode == 0


def test_two_processes_share_one_rate_and_are_hardly_ever_throttled(
    rig: PineconeRig, fresh_redis: Callable[..., str]
) -> None:
    url = fresh_redis()
    run_two(rig, url)
    # A busy machine may hold a few requests up on their way, and let them arrive together.
    throttled = rig.stand_in.seen()["throttled"]
    assert throttled <= A_FEW
    assert rig.stand_in.count("fetch") == 2 * REQUESTS + throttled


def test_two_processes_that_do_not_know_of_each_other_are_throttled(rig: PineconeRig) -> None:
    """So the test above can fail."""
    run_two(rig, None)
    assert rig.stand_in.seen()["throttled"] > A_FEW


def test_a_pause_that_the_service_asks_for_is_kept_by_everybody(fresh_redis: Callable[..., str]) -> None:
    url = Secret(fresh_redis())
    rates = Rates(per_second={"fetch": 1000.0})
    mine, theirs = (Limiter(rates, shared=RedisBuckets(url), alone=1.0) for _ in range(2))
    mine.wait("fetch", "an-index")
    mine.penalise("fetch", "an-index", 0.5)
    began = time.monotonic()
    theirs.wait("fetch", "another-index")
    assert time.monotonic() - began < 0.4
    theirs.wait("fetch", "an-index")
    assert time.monotonic() - began > 0.2
    mine.close()
    theirs.close()


def test_without_redis_a_process_keeps_to_its_share_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    limiter = Limiter(Rates(per_second={"fetch": 40.0}), shared=RedisBuckets(NOWHERE), alone=0.5)
    before = limiter.alone
    with caplog.at_level(logging.WARNING, logger="tenure.pinecone"):
        began = time.monotonic()
        for _ in range(15):
            limiter.wait("fetch", "an-index")
    assert (before, limiter.alone) == (False, True)
    assert [record.getMessage() for record in caplog.records] == ["pinecone_limiter_alone"]
    # Of 15, a quarter of a second's worth (5) is there at once; the others come at 20 a second.
    assert time.monotonic() - began > 0.4
    limiter.close()


def test_a_limiter_finds_its_redis_again(
    fresh_redis: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenure.stores.pinecone.limiter.RETRY_REDIS_S", 0.0)
    buckets = RedisBuckets(Secret(fresh_redis()))
    limiter = Limiter(Rates(per_second={"fetch": 1000.0}), shared=buckets, alone=0.1)
    there = buckets._script
    buckets._script = RedisBuckets(NOWHERE)._script
    limiter.wait("fetch", "an-index")
    lost = limiter.alone
    buckets._script = there
    limiter.wait("fetch", "an-index")
    assert (lost, limiter.alone) == (True, False)
    limiter.close()


def test_what_is_not_limited_never_waits(endpoint: PineconeEndpoint, stand_in: StandIn) -> None:
    limiter = Limiter(Rates(per_second={}), shared=None, alone=0.001)
    began = time.monotonic()
    for _ in range(1000):
        limiter.wait("fetch", "an-index")
    assert time.monotonic() - began < 5


def test_a_preflight_says_whether_processes_know_of_each_other(
    rig: PineconeRig, fresh_redis: Callable[..., str]
) -> None:
    shared = Limiter(Rates(per_second={}), shared=RedisBuckets(Secret(fresh_redis())), alone=1.0)
    alone = Limiter(Rates(per_second={}), shared=None, alone=1.0)
    said = {
        limiter.alone: [f.code for f in rig.copy(ACME, Side.BLUE, Side.GREEN, limiter=limiter).preflight()]
        for limiter in (shared, alone)
    }
    assert said[True].count("limiter_alone") == 2
    assert "limiter_alone" not in said[False]


@pytest.mark.parametrize("shared", [True, False])
def test_pauses_that_are_asked_for_at_once_are_one_pause(
    fresh_redis: Callable[..., str], shared: bool
) -> None:
    """Several requests in flight are refused together, each with the same `Retry-After`."""
    buckets = RedisBuckets(Secret(fresh_redis())) if shared else None
    limiter = Limiter(Rates(per_second={"fetch": 100.0}), shared=buckets, alone=1.0)
    try:
        for _ in range(8):
            limiter.penalise("fetch", "refused-together", 0.5)
        began = time.monotonic()
        limiter.wait("fetch", "refused-together")
        assert 0.3 < time.monotonic() - began < 1.0
    finally:
        limiter.close()
