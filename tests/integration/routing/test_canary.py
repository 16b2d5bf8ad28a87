"""Canary reads on a real gateway: who goes where, who ends it, and what is counted of it."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tenure.errors import FenceRefused
from tenure.model.names import CellName
from tenure.model.traffic import Traffic
from tenure.operations.health import Health, Kinds
from tenure.plan.bounds import Bounds, State, Verdict
from tenure.routing.envoy import EnvoyOptions
from tests.integration.routing.gateway import BLUE, GREEN, Gateway, User, tenant

ACME = tenant("tenant_001_acme.corp")
GLOBEX = tenant("tenant_002_globex")
OPTIONS = EnvoyOptions(
    hold_max_s=5.0, io_timeout_s=3.0, read_paths=("/search", "/v1/ask"), session_header="x-session"
)


def cells(user: User, count: int, path: str = "/", method: str = "GET", **headers: str) -> Counter[str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answers = [user.ask(ACME.host, path, method=method, headers=named) for _ in range(count)]
    assert {answer.status for answer in answers} == {200}
    return Counter(answer.json["cell"] for answer in answers)


def test_exactly_the_share_of_the_reads_goes_to_the_other_cell_and_nothing_else(gateway: Gateway) -> None:
    router = gateway.router(options=OPTIONS)
    router.route(GLOBEX, BLUE, epoch=1)
    router.gate(ACME, BLUE, token=1, epoch=1)
    with gateway.user() as user:
        for share, expected in ((0.1, 2), (0.25, 5), (0.75, 15), (1.0, 20)):
            router.canary(ACME.tenant, token=1, cell=GREEN, share=share, ttl_s=20)
            assert abs(cells(user, 20)[GREEN] - expected) <= 1
        assert cells(user, 3, "/documents?q=1", "OPTIONS") == {GREEN: 3}
        assert cells(user, 3, "/search", "POST") == cells(user, 3, "/v1/ask/this?x=1", "POST") == {GREEN: 3}
        for method, path in (("POST", "/documents"), ("PUT", "/"), ("DELETE", "/"), ("POST", "/searching")):
            assert cells(user, 3, path, method) == {BLUE: 3}
        assert user.ask(GLOBEX.host).json["cell"] == BLUE
        # Users cannot choose: what they say about the cell is removed before the gate is asked.
        assert user.ask(ACME.host, method="POST", headers={"x-tenure-cell": GREEN}).json["cell"] == BLUE
        seen = router.observed(ACME)
        assert (seen.cell, seen.canary, seen.canary_share) == (BLUE, GREEN, 1.0)
        router.canary(ACME.tenant, token=1, cell=GREEN, share=0, ttl_s=20)
        assert cells(user, 10) == {BLUE: 10}
        assert router.observed(ACME).canary is None


def test_a_session_sees_one_cell_and_stays_there_while_the_share_grows(gateway: Gateway) -> None:
    router = gateway.router(options=OPTIONS)
    router.gate(ACME, BLUE, token=1, epoch=1)
    there: set[str] = set()
    with gateway.user() as user:
        for share in (0.1, 0.5, 1.0):
            router.canary(ACME.tenant, token=1, cell=GREEN, share=share, ttl_s=20)
            found = {f"s{n}": cells(user, 2, x_session=f"s{n}") for n in range(40)}
            assert all(len(seen) == 1 for seen in found.values())
            now = {session for session, seen in found.items() if GREEN in seen}
            assert there <= now
            assert abs(len(now) - 40 * share) <= 40 * 0.2
            there = now
        router.canary(ACME.tenant, token=1, cell=GREEN, share=0.5, ttl_s=20)
        assert cells(user, 20) == cells(user, 20, authorization="one for all") == {BLUE: 10, GREEN: 10}


def test_a_canary_ends_by_itself_also_in_a_gate_that_was_killed(gateway: Gateway) -> None:
    router = gateway.router(options=OPTIONS)
    router.gate(ACME, BLUE, token=1, epoch=1)
    with gateway.user() as user:
        router.canary(ACME.tenant, token=1, cell=GREEN, share=1, ttl_s=600)
        gateway.kill_gate()
        assert cells(user, 3) == {BLUE: 3}  # Envoy's own way, without a gate
        gateway.start_gate()
        assert cells(user, 3) == {GREEN: 3}
        begun = time.monotonic()
        router.canary(ACME.tenant, token=1, cell=GREEN, share=1, ttl_s=1)
        gateway.until(lambda: cells(user, 1) == {BLUE: 1}, what="the canary has ended")
        assert time.monotonic() - begun >= 1
        router.canary(ACME.tenant, token=1, cell=GREEN, share=1, ttl_s=0.1)
        gateway.kill_gate()
        gateway.start_gate()
        assert cells(user, 5) == {BLUE: 5}


def test_whoever_holds_or_opens_the_gate_ends_the_canary_and_old_tokens_begin_none(gateway: Gateway) -> None:
    router = gateway.router(options=OPTIONS)
    router.gate(ACME, BLUE, token=1, epoch=1)
    ends = (
        lambda: router.release(ACME.tenant, token=2, cell=BLUE),
        lambda: router.gate(ACME, BLUE, token=2, epoch=1),
        lambda: router.hold(ACME.tenant, token=2, budget_s=0.2, fallback=BLUE),
    )
    with gateway.user() as user:
        for end in ends:
            router.canary(ACME.tenant, token=2, cell=GREEN, share=1, ttl_s=60)
            assert cells(user, 1) == {GREEN: 1}
            end()
            assert cells(user, 3) == {BLUE: 3}
        with pytest.raises(FenceRefused):
            router.canary(ACME.tenant, token=1, cell=GREEN, share=1, ttl_s=60)
        assert cells(user, 3) == {BLUE: 3}


def test_a_read_that_the_other_cell_refuses_is_answered_by_the_one_that_serves(gateway: Gateway) -> None:
    """Some reads write: a fenced cell sends them back, and they must not come to the same cell again."""
    router = gateway.router(options=OPTIONS)
    router.gate(ACME, BLUE, token=1, epoch=1)
    router.canary(ACME.tenant, token=1, cell=GREEN, share=1, ttl_s=20)
    gateway.cells[GREEN].fenced = True
    with gateway.user() as user:
        assert cells(user, 5) == {BLUE: 5}
    assert gateway.cells[GREEN].refused == 5


def test_requests_are_counted_per_tenant_cell_and_kind_over_all_envoys(gateway: Gateway) -> None:
    with gateway.second_envoy() as (listen, admin):
        router = gateway.router(options=OPTIONS, admin=(f"http://127.0.0.1:{gateway.admin}", admin))
        router.gate(GLOBEX, BLUE, token=1, epoch=1)
        router.gate(ACME, BLUE, token=1, epoch=1)
        router.canary(ACME.tenant, token=1, cell=GREEN, share=1, ttl_s=60)
        first = {cell: router.traffic(ACME.tenant, cell) for cell in (BLUE, GREEN)}
        with gateway.user() as user:
            other = User(listen)
            for each in (user, other):
                assert cells(each, 4) == {GREEN: 4}
                assert cells(each, 2, method="POST") == {BLUE: 2}
            other.close()
            shared = user.ask("127.0.0.1", headers={"x-tenant-id": ACME.tenant})
            assert shared.json["cell"] == GREEN
            user.ask(GLOBEX.host)

        def came(cell: CellName) -> tuple[Traffic, Traffic]:
            return router.traffic(ACME.tenant, cell).since(first[cell])

        gateway.until(lambda: came(GREEN)[0].timed == 9, what="latencies are counted too")
        reads, others = came(GREEN)
        assert (reads.begun, reads.answered, reads.failed, others.answered) == (9, 9, 0, 0)
        reads, others = came(BLUE)
        assert (reads.answered, others.answered, others.failed) == (0, 4, 0)
        # A cell that is not there fails requests that it never saw, and they count.
        gateway.stop_cells()
        assert gateway.ask(ACME.host).status == 503
        assert came(GREEN)[0].failed == 1


def test_a_cell_that_hangs_is_found_before_any_of_its_requests_has_an_answer(gateway: Gateway) -> None:
    router = gateway.router(options=OPTIONS)
    router.gate(ACME, BLUE, token=1, epoch=1)
    router.canary(ACME.tenant, token=1, cell=GREEN, share=1, ttl_s=60)
    health = Health(router, ACME.tenant, GREEN)
    bounds = Bounds(error_rate=0, latency_ratio=2, latency_margin_ms=0, latency_ms=300, min_requests=50)
    nothing = Kinds(reads=Traffic(), others=Traffic())

    def verdict() -> Verdict:
        health.look()
        return health.verdicts(nothing, bounds, others=False)["reads"]

    with ThreadPoolExecutor(max_workers=5) as pool:
        asked = [pool.submit(gateway.ask, ACME.host, "/slow") for _ in range(5)]
        gateway.until(lambda: gateway.cells[GREEN].under_way == 5, what="all hang")
        gateway.until(lambda: verdict().state is State.OUTSIDE, what="it is noticed")
        seen = verdict()
        assert (seen.overdue, seen.seen.answered) == (5, 0)
        gateway.finish_slow(GREEN)
        assert {one.result(20).status for one in asked} == {200}
    assert verdict().overdue == 0
