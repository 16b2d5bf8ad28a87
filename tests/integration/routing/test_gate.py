"""The gate on a real Envoy: holding, draining, releasing, running out of budget, dying and coming back."""

from __future__ import annotations

import http.client
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from tenure.errors import DeadlineExceeded, FenceRefused, StoreRefused, StoreUnavailable, UsageError
from tenure.model.names import CellName
from tenure.routing.contract import HoldReport, RouteState
from tenure.routing.envoy import EnvoyOptions
from tests.integration.routing.gateway import BLUE, GREEN, Answer, Gateway, User, tenant

ACME = tenant("tenant_001_acme_corp")
GLOBEX = tenant("tenant_002_globex")


@contextmanager
def users(gateway: Gateway, count: int) -> Iterator[list[Future[Answer]]]:
    """That many users at once, each posting a body of its own."""
    with ThreadPoolExecutor(max_workers=count) as pool:
        yield [
            pool.submit(gateway.ask, ACME.host, f"/{n}?q=%20{n}", method="POST", body=body(n))
            for n in range(count)
        ]


def body(n: int) -> bytes:
    return f"{n}:".encode() * (n % 50 + 1)


def test_200_held_requests_come_out_on_the_new_cell_with_their_bodies(gateway: Gateway) -> None:
    router = gateway.router()
    router.route(GLOBEX, BLUE, epoch=1)
    router.gate(ACME, BLUE, token=1, epoch=1)
    with gateway.user() as neighbour:
        neighbour.ask(GLOBEX.host)
        router.hold(ACME.tenant, token=1, budget_s=5, fallback=BLUE)
        with users(gateway, 200) as waiting:
            gateway.until(lambda: router.observed(ACME).waiting == 200, what="all wait")
            assert router.observed(ACME) == RouteState(cell=BLUE, gated=True, held=True, waiting=200)
            assert neighbour.ask(GLOBEX.host).json["cell"] == BLUE
            router.drain(ACME.tenant, BLUE, timeout_s=1)
            assert not any(one.done() for one in waiting)
            report = router.release(ACME.tenant, token=1, cell=GREEN)
            answers = [one.result(20) for one in waiting]
    assert {answer.status for answer in answers} == {200}
    assert {answer.json["cell"] for answer in answers} == {GREEN}
    assert [answer.json["body"].encode() for answer in answers] == [body(n) for n in range(200)]
    assert [answer.json["path"] for answer in answers] == [f"/{n}?q=%20{n}" for n in range(200)]
    assert (report.requests_held, report.released_to, report.timed_out) == (200, GREEN, False)
    assert 0 < report.longest_wait_ms <= report.hold_ms < 5000
    assert gateway.cells[BLUE].served == 2  # the neighbour's, and nobody else's
    assert router.release(ACME.tenant, token=1, cell=GREEN) == report


def test_a_throttled_tenants_writes_are_delayed_none_fails_and_a_hold_takes_over(gateway: Gateway) -> None:
    router = gateway.router()
    router.gate(ACME, BLUE, token=2, epoch=1)
    with pytest.raises(FenceRefused):
        router.throttle(ACME.tenant, token=1, writes_per_s=1, longest_delay_s=1, for_s=60)
    with pytest.raises(StoreRefused):
        router.throttle(GLOBEX.tenant, token=2, writes_per_s=1, longest_delay_s=1, for_s=60)
    router.throttle(ACME.tenant, token=2, writes_per_s=20, longest_delay_s=5, for_s=60)
    began = time.monotonic()
    with users(gateway, 10) as writing:
        assert {one.result(20).status for one in writing} == {200}
    assert time.monotonic() - began >= 9 / 20
    router.throttle(ACME.tenant, token=2, writes_per_s=0.1, longest_delay_s=10, for_s=60)
    gateway.ask(ACME.host, "/0", method="POST", body=b"the first one has its turn at once")
    assert gateway.ask(ACME.host, "/read").status == 200
    with users(gateway, 5) as delayed:
        gateway.until(lambda: asked(gateway) >= 5, what="all are delayed")
        assert not any(one.done() for one in delayed)
        router.hold(ACME.tenant, token=2, budget_s=5, fallback=BLUE)
        gateway.until(lambda: router.observed(ACME).waiting == 5, what="who was delayed is held")
        router.drain(ACME.tenant, BLUE, timeout_s=5)
        report = router.release(ACME.tenant, token=2, cell=GREEN)
        answers = [one.result(20) for one in delayed]
    assert report.requests_held == 5
    assert {(answer.status, answer.json["cell"]) for answer in answers} == {(200, GREEN)}


def asked(gateway: Gateway) -> int:
    """How many questions Envoy has open at the gate."""
    found = gateway.stats(r"cluster\..*gate.*upstream_rq_active$")
    return sum(int(value) for value in found.values())


def test_every_hold_of_a_tenant_under_load_passes_without_a_failed_request(gateway: Gateway) -> None:
    router = gateway.router()
    router.gate(ACME, BLUE, token=0, epoch=1)
    stop = threading.Event()
    answers: list[Answer] = []

    def load() -> None:
        with gateway.user() as user:
            n = 0
            while not stop.is_set():
                n += 1
                answers.append(user.ask(ACME.host, f"/{n}", method="POST", body=body(n)))

    with ThreadPoolExecutor() as pool:
        running = [pool.submit(load) for _ in range(4)]
        try:
            for cycle in range(20):
                old, new = ((BLUE, GREEN), (GREEN, BLUE))[cycle % 2]
                router.hold(ACME.tenant, token=cycle, budget_s=5, fallback=old)
                router.drain(ACME.tenant, old, timeout_s=2)
                gateway.cells[old].fenced = True
                gateway.cells[new].fenced = False
                assert not router.release(ACME.tenant, token=cycle, cell=new).timed_out
        finally:
            stop.set()
        for one in running:
            one.result(20)
    assert {answer.status for answer in answers} == {200}
    assert {answer.json["cell"] for answer in answers} == {BLUE, GREEN}
    # Drained means drained: no request reached a cell after it had been left.
    assert gateway.cells[BLUE].refused + gateway.cells[GREEN].refused == 0


def test_pipelined_requests_survive_a_hold(gateway: Gateway) -> None:
    router = gateway.router()
    router.gate(ACME, BLUE, token=1, epoch=1)
    request = f"GET /%s HTTP/1.1\r\nHost: {ACME.host}\r\n\r\n"
    raw = socket.create_connection(("127.0.0.1", gateway.listen), timeout=20)
    with raw, raw.makefile("rb") as answers:
        router.hold(ACME.tenant, token=1, budget_s=5, fallback=BLUE)
        raw.sendall("".join(request % n for n in range(10)).encode())
        gateway.until(lambda: router.observed(ACME).waiting == 1, what="the first waits")
        router.release(ACME.tenant, token=1, cell=GREEN)
        for n in range(10):
            assert b"200" in answers.readline()
            headers = http.client.parse_headers(answers)
            content = answers.read(int(headers["content-length"])).decode()
            assert f'"/{n}"' in content
            assert '"green"' in content


@pytest.mark.parametrize("size", [0, 1024, 1024 * 1024, 5 * 1024 * 1024])
def test_a_fenced_cell_sends_a_request_back_through_the_gate_with_its_body(
    gateway: Gateway, size: int
) -> None:
    router = gateway.router()
    router.gate(ACME, GREEN, token=1, epoch=1)
    router.release(ACME.tenant, token=1, cell=BLUE)
    blue = gateway.cells[BLUE]
    blue.fenced = True
    content = bytes(n % 251 for n in range(4096)) * (size // 4096) if size >= 4096 else b"x" * size
    with ThreadPoolExecutor() as pool:
        sent = pool.submit(gateway.ask, ACME.host, "/a%20b?c=d%2F", method="POST", body=content)
        gateway.until(lambda: sent.done() or blue.refused >= 1, what="the cell refuses")
        answer = sent.result(20)
        # Not held: it came back to the same cell as often as allowed, and then the user is told to try again
        # himself.
        assert (answer.status, blue.refused) == (307, gateway.options.max_reentries + 1)

        router.hold(ACME.tenant, token=2, budget_s=5, fallback=BLUE)
        sent = pool.submit(gateway.ask, ACME.host, "/a%20b?c=d%2F", method="POST", body=content)
        gateway.until(lambda: router.observed(ACME).waiting == 1, what="it waits")
        router.release(ACME.tenant, token=2, cell=GREEN)
        assert sent.result(20).json["cell"] == GREEN


def test_a_body_over_the_limit_is_sent_again_by_the_client_and_not_by_envoy(gateway: Gateway) -> None:
    router = gateway.router(options=EnvoyOptions(hold_max_s=5.0, body_limit_bytes=256 * 1024))
    router.gate(ACME, BLUE, token=1, epoch=1)
    gateway.cells[BLUE].fenced = True
    answer = gateway.ask(ACME.host, "/big", method="POST", body=b"x" * 3 * 1024 * 1024)
    assert (answer.status, answer.headers["location"]) == (307, f"http://{ACME.host}/big")
    assert gateway.cells[BLUE].refused == 1


@pytest.mark.parametrize("size", [1024, 1024 * 1024, 5 * 1024 * 1024])
def test_a_request_refused_by_the_fence_waits_out_the_hold_and_is_served_elsewhere(
    gateway: Gateway, size: int
) -> None:
    """The fence went down while the request was on its way: it comes back, finds the gate closed, and
    waits."""
    router = gateway.router()
    router.gate(ACME, BLUE, token=1, epoch=1)
    blue = gateway.cells[BLUE]
    content = (b"0123456789abcdef" * (size // 16))[:size]
    with ThreadPoolExecutor() as pool:
        blue.before_answer = threading.Event()
        sent = pool.submit(gateway.ask, ACME.host, "/a%20b?c=d%2F", method="PUT", body=content)
        gateway.until(lambda: blue.arrived == 1, what="the request is in the cell")
        router.hold(ACME.tenant, token=1, budget_s=5, fallback=BLUE)
        blue.fenced = True
        blue.before_answer.set()
        gateway.until(lambda: router.observed(ACME).waiting == 1, what="it is back at the gate")
        router.drain(ACME.tenant, BLUE, timeout_s=1)
        router.release(ACME.tenant, token=1, cell=GREEN)
        answer = sent.result(20)
    assert (answer.status, blue.refused, blue.served) == (200, 1, 0)
    assert answer.json["body"].encode() == content
    assert (answer.json["path"], answer.json["method"]) == ("/a%20b?c=d%2F", "PUT")


def test_a_redirect_to_another_tenant_is_left_to_the_client(gateway: Gateway) -> None:
    router = gateway.router()
    router.gate(ACME, BLUE, token=1, epoch=1)
    router.route(GLOBEX, GREEN, epoch=1)
    answer = gateway.ask(ACME.host, "/elsewhere", headers={"x-test-location": f"http://{GLOBEX.host}/secret"})
    assert (answer.status, answer.headers["location"]) == (307, f"http://{GLOBEX.host}/secret")
    assert gateway.cells[GREEN].arrived == 0


def test_the_gate_opens_by_itself_when_the_budget_is_used_up(gateway: Gateway) -> None:
    router = gateway.router()
    router.gate(ACME, GREEN, token=1, epoch=1)
    router.hold(ACME.tenant, token=1, budget_s=0.3, fallback=BLUE)
    begun = time.monotonic()
    answer = gateway.ask(ACME.host, method="POST", body=b"x")
    assert answer.json["cell"] == BLUE
    assert time.monotonic() - begun < 3
    assert router.observed(ACME) == RouteState(cell=BLUE, gated=True, held=False)
    with pytest.raises(DeadlineExceeded, match="budget"):
        router.drain(ACME.tenant, BLUE, timeout_s=1)
    report = router.release(ACME.tenant, token=1, cell=GREEN)
    assert (report.timed_out, report.released_to, report.requests_held) == (True, BLUE, 1)
    assert 250 < report.hold_ms < 3000
    assert gateway.ask(ACME.host).json["cell"] == GREEN
    router.hold(ACME.tenant, token=1, budget_s=5, fallback=BLUE)
    assert not router.release(ACME.tenant, token=1, cell=GREEN).timed_out


def test_without_its_gate_the_tenant_goes_to_the_cell_given_to_gate_and_back_to_its_state_afterwards(
    gateway: Gateway,
) -> None:
    router = gateway.router()
    router.gate(ACME, BLUE, token=1, epoch=1)
    router.release(ACME.tenant, token=1, cell=GREEN)
    assert gateway.ask(ACME.host).json["cell"] == GREEN
    gateway.kill_gate()
    assert gateway.ask(ACME.host, method="POST", body=b"x").json["cell"] == BLUE
    assert router.observed(ACME) == RouteState(cell=BLUE, gated=True, held=False, gate_answers=False)
    with pytest.raises(StoreUnavailable):
        router.hold(ACME.tenant, token=1, budget_s=1, fallback=BLUE)
    with pytest.raises(StoreUnavailable):
        router.ping()
    gateway.start_gate()
    assert gateway.ask(ACME.host).json["cell"] == GREEN
    assert router.observed(ACME) == RouteState(cell=GREEN, gated=True, held=False)


def test_a_gate_killed_during_a_hold_goes_on_holding_when_it_is_back(gateway: Gateway) -> None:
    router = gateway.router()
    router.gate(ACME, BLUE, token=7, epoch=1)
    router.hold(ACME.tenant, token=7, budget_s=5, fallback=BLUE)
    with users(gateway, 5) as waiting:
        gateway.until(lambda: router.observed(ACME).waiting == 5, what="all wait")
        gateway.kill_gate()
        assert {one.result(20).json["cell"] for one in waiting} == {BLUE}
    gateway.start_gate()
    with users(gateway, 5) as waiting:
        gateway.until(lambda: router.observed(ACME).waiting == 5, what="all wait again")
        with pytest.raises(FenceRefused):
            router.release(ACME.tenant, token=6, cell=GREEN)
        report = router.release(ACME.tenant, token=7, cell=GREEN)
        assert {one.result(20).json["cell"] for one in waiting} == {GREEN}
    assert (report.requests_held, report.timed_out) == (5, False)


def test_a_gate_killed_during_a_hold_still_ends_it_when_the_budget_is_used_up(gateway: Gateway) -> None:
    router = gateway.router()
    router.gate(ACME, GREEN, token=1, epoch=1)
    router.hold(ACME.tenant, token=1, budget_s=1.5, fallback=BLUE)
    gateway.kill_gate()
    gateway.start_gate()
    assert gateway.ask(ACME.host).json["cell"] == BLUE
    assert router.release(ACME.tenant, token=1, cell=BLUE).timed_out


def test_the_way_out_of_a_dead_gate_is_route(gateway: Gateway) -> None:
    router = gateway.router()
    router.gate(ACME, BLUE, token=1, epoch=1)
    router.hold(ACME.tenant, token=1, budget_s=5, fallback=BLUE)
    with pytest.raises(FenceRefused):
        router.route(ACME, GREEN, epoch=1)
    gateway.kill_gate()
    router.route(ACME, GREEN, epoch=1)
    assert gateway.ask(ACME.host).json["cell"] == GREEN
    gateway.start_gate()
    assert gateway.ask(ACME.host).json["cell"] == GREEN
    router.gate(ACME, GREEN, token=2, epoch=1)
    assert (
        gateway.router().observed(ACME).held
    )  # the hold that the dead gate had left behind, until its budget ends
    router.release(ACME.tenant, token=2, cell=GREEN)


def test_a_smaller_token_is_refused_everywhere(gateway: Gateway) -> None:
    router = gateway.router()
    router.gate(ACME, BLUE, token=5, epoch=1)
    with pytest.raises(FenceRefused):
        router.gate(ACME, GREEN, token=4, epoch=1)
    with pytest.raises(FenceRefused):
        router.hold(ACME.tenant, token=4, budget_s=1, fallback=GREEN)
    router.hold(ACME.tenant, token=6, budget_s=5, fallback=BLUE)
    with pytest.raises(FenceRefused):
        router.release(ACME.tenant, token=5, cell=GREEN)
    assert router.observed(ACME).held
    assert router.release(ACME.tenant, token=7, cell=BLUE).released_to == BLUE
    router.route(ACME, BLUE, epoch=1)
    with pytest.raises(FenceRefused):
        router.gate(ACME, GREEN, token=6, epoch=1)
    assert gateway.ask(ACME.host).json["cell"] == BLUE


def test_releasing_a_tenant_that_is_not_gated_does_nothing(gateway: Gateway) -> None:
    """An abort releases without knowing how far it had come."""
    router = gateway.router()
    nothing = HoldReport(
        hold_ms=0.0, requests_held=0, longest_wait_ms=0.0, released_to=GREEN, timed_out=False
    )
    assert router.release(ACME.tenant, token=1, cell=GREEN) == nothing
    router.route(ACME, BLUE, epoch=1)
    assert router.release(ACME.tenant, token=1, cell=GREEN) == nothing
    router.gate(ACME, BLUE, token=1, epoch=1)
    router.hold(ACME.tenant, token=1, budget_s=5, fallback=BLUE)
    router.release(ACME.tenant, token=1, cell=BLUE)
    router.route(ACME, BLUE, epoch=1)
    assert router.release(ACME.tenant, token=1, cell=GREEN) == nothing
    assert router.observed(ACME) == RouteState(cell=BLUE, gated=False, held=False)
    assert gateway.ask(ACME.host).json["cell"] == BLUE
    with pytest.raises(UsageError):
        router.release(ACME.tenant, token=1, cell=CellName("red"))


def test_drain_waits_for_the_request_under_way_and_gives_up_in_time(gateway: Gateway) -> None:
    router = gateway.router()
    router.gate(ACME, BLUE, token=1, epoch=1)
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(gateway.ask, ACME.host, "/slow")
        gateway.until(lambda: gateway.cells[BLUE].under_way == 1, what="the slow request is under way")
        router.hold(ACME.tenant, token=1, budget_s=5, fallback=BLUE)
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="1 requests"):
            router.drain(ACME.tenant, BLUE, timeout_s=0.3)
        assert 0.3 <= time.monotonic() - begun < 1.5
        drained = pool.submit(router.drain, ACME.tenant, BLUE, timeout_s=4)
        with pytest.raises(TimeoutError):
            drained.result(0.2)
        gateway.finish_slow(BLUE)
        drained.result(5)
        assert slow.result(5).json["cell"] == BLUE
        router.release(ACME.tenant, token=1, cell=GREEN)


def test_drain_sees_the_request_that_the_gate_let_go_and_envoy_has_not_sent_on_yet(gateway: Gateway) -> None:
    """The gate's answer is on its way to Envoy when the next hold begins, and its drain."""
    with gateway.relay(gateway.check) as relay:
        router = gateway.router(check=relay.port)
        router.gate(ACME, BLUE, token=1, epoch=1)
        router.hold(ACME.tenant, token=1, budget_s=5, fallback=BLUE)
        with ThreadPoolExecutor() as pool:
            slow = pool.submit(gateway.ask, ACME.host, "/slow")
            gateway.until(lambda: router.observed(ACME).waiting == 1, what="it waits")
            relay.pause()
            router.release(ACME.tenant, token=1, cell=BLUE)
            router.hold(ACME.tenant, token=1, budget_s=5, fallback=BLUE)
            drained = pool.submit(router.drain, ACME.tenant, BLUE, timeout_s=4)
            with pytest.raises(TimeoutError):
                drained.result(0.05)
            relay.resume()
            gateway.until(lambda: gateway.cells[BLUE].under_way == 1, what="it is in the cell")
            with pytest.raises(TimeoutError):
                drained.result(0.2)
            gateway.finish_slow(BLUE)
            drained.result(5)
            assert slow.result(5).status == 200
            router.release(ACME.tenant, token=1, cell=BLUE)


def test_drain_counts_only_the_tenants_own_requests_in_that_cell(gateway: Gateway) -> None:
    router = gateway.router()
    router.gate(ACME, BLUE, token=1, epoch=1)
    router.gate(GLOBEX, BLUE, token=1, epoch=1)
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(gateway.ask, GLOBEX.host, "/slow")
        gateway.until(lambda: gateway.cells[BLUE].under_way == 1, what="the neighbour's request is under way")
        router.hold(ACME.tenant, token=1, budget_s=5, fallback=BLUE)
        router.drain(ACME.tenant, BLUE, timeout_s=1)
        gateway.finish_slow(BLUE)
        slow.result(5)


def test_users_who_hang_up_while_they_wait_are_forgotten(gateway: Gateway) -> None:
    router = gateway.router()
    router.gate(ACME, BLUE, token=1, epoch=1)
    router.hold(ACME.tenant, token=1, budget_s=5, fallback=BLUE)
    gone = [http.client.HTTPConnection("127.0.0.1", gateway.listen, timeout=5) for _ in range(20)]
    for one in gone:
        one.request("POST", "/", body=b"x", headers={"Host": ACME.host})
    gateway.until(lambda: router.observed(ACME).waiting == 20, what="all wait")
    for one in gone:
        one.close()
    gateway.until(lambda: router.observed(ACME).waiting == 0, what="none waits any more")
    router.drain(ACME.tenant, BLUE, timeout_s=1)
    assert router.release(ACME.tenant, token=1, cell=GREEN).requests_held == 20
    assert gateway.cells[BLUE].served + gateway.cells[GREEN].served == 0


def test_more_waiting_requests_than_allowed_are_told_to_come_back(gateway: Gateway) -> None:
    gateway.kill_gate()
    gateway.max_waiting = 3
    gateway.start_gate()
    router = gateway.router()
    router.gate(ACME, BLUE, token=1, epoch=1)
    router.hold(ACME.tenant, token=1, budget_s=5, fallback=BLUE)
    with users(gateway, 3) as waiting:
        gateway.until(lambda: router.observed(ACME).waiting == 3, what="three wait")
        answer = gateway.ask(ACME.host)
        assert (answer.status, answer.headers["retry-after"]) == (429, "1")
        assert answer.json["error"]["code"] == "too_many_waiting"
        router.release(ACME.tenant, token=1, cell=GREEN)
        assert {one.result(20).status for one in waiting} == {200}


def test_a_hold_that_is_extended_lets_no_request_slip_through_when_envoy_loses_patience(
    gateway: Gateway,
) -> None:
    router = gateway.router(options=EnvoyOptions(hold_max_s=0.5))
    router.gate(ACME, BLUE, token=1, epoch=1)
    router.hold(ACME.tenant, token=1, budget_s=0.5, fallback=BLUE)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(gateway.ask, ACME.host)
        for _ in range(9):
            with suppress(TimeoutError):
                waiting.result(0.2)
            router.hold(ACME.tenant, token=1, budget_s=0.5, fallback=BLUE)
        answer = waiting.result(5)
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")
    assert answer.json["error"]["code"] == "waited_too_long"
    assert gateway.cells[BLUE].arrived == 0
    assert not router.release(ACME.tenant, token=1, cell=GREEN).timed_out


def test_the_gate_wants_its_token(gateway: Gateway) -> None:
    stranger = gateway.router(token="guessed")
    with pytest.raises(StoreUnavailable, match="token"):
        stranger.ping()
    with pytest.raises(StoreUnavailable, match="token"):
        stranger.gate(ACME, BLUE, token=1, epoch=1)
    assert gateway.ask(ACME.host).status == 404


def test_what_makes_no_sense_is_refused(gateway: Gateway) -> None:
    router = gateway.router()
    with pytest.raises(StoreRefused):
        router.hold(ACME.tenant, token=1, budget_s=1, fallback=BLUE)
    router.gate(ACME, BLUE, token=1, epoch=1)
    with pytest.raises(StoreRefused):
        router.drain(ACME.tenant, BLUE, timeout_s=1)
    for budget_s in (0, gateway.options.hold_max_s + 1):
        with pytest.raises(UsageError):
            router.hold(ACME.tenant, token=1, budget_s=budget_s, fallback=BLUE)
    with pytest.raises(UsageError):
        router.hold(ACME.tenant, token=1, budget_s=1, fallback=CellName("red"))


def test_forgetting_a_held_tenant_lets_nobody_wait(gateway: Gateway) -> None:
    router = gateway.router()
    router.gate(ACME, BLUE, token=9, epoch=1)
    router.hold(ACME.tenant, token=9, budget_s=5, fallback=BLUE)
    with users(gateway, 3) as waiting:
        gateway.until(lambda: router.observed(ACME).waiting == 3, what="three wait")
        router.forget(ACME.tenant)
        for one in waiting:
            one.result(3)
    assert gateway.ask(ACME.host).status == 404
    router.gate(ACME, GREEN, token=1, epoch=1)
    assert gateway.ask(ACME.host).json["cell"] == GREEN


def test_two_envoys_are_drained_and_changed_as_one(gateway: Gateway) -> None:
    with gateway.second_envoy() as (listen, admin):
        router = gateway.router(admin=(f"http://127.0.0.1:{gateway.admin}", admin))
        router.ping()
        router.gate(ACME, BLUE, token=1, epoch=1)
        second = User(listen)
        assert second.ask(ACME.host).json["cell"] == BLUE
        with ThreadPoolExecutor() as pool:
            slow = pool.submit(second.ask, ACME.host, "/slow")
            gateway.until(
                lambda: gateway.cells[BLUE].under_way == 1, what="a slow request through the second"
            )
            router.hold(ACME.tenant, token=1, budget_s=5, fallback=BLUE)
            with pytest.raises(DeadlineExceeded):
                router.drain(ACME.tenant, BLUE, timeout_s=0.2)
            gateway.finish_slow(BLUE)
            slow.result(5)
            router.drain(ACME.tenant, BLUE, timeout_s=1)
            waiting = [pool.submit(gateway.ask, ACME.host), pool.submit(second.ask, ACME.host)]
            gateway.until(lambda: router.observed(ACME).waiting == 2, what="both wait")
            router.drain(ACME.tenant, BLUE, timeout_s=1)
            router.release(ACME.tenant, token=1, cell=GREEN)
            assert {one.result(5).json["cell"] for one in waiting} == {GREEN}
        router.route(ACME, GREEN, epoch=1)
        assert second.ask(ACME.host).json["cell"] == gateway.ask(ACME.host).json["cell"] == GREEN
        second.close()


def test_changing_the_tenants_own_route_under_load_fails_no_request(gateway: Gateway) -> None:
    router = gateway.router()
    router.route(ACME, BLUE, epoch=1)
    stop = threading.Event()
    answers: list[Answer] = []

    def load() -> None:
        with gateway.user() as user:
            while not stop.is_set():
                answers.append(user.ask(ACME.host, method="POST", body=b"x" * 2000))

    with ThreadPoolExecutor() as pool:
        running = [pool.submit(load) for _ in range(4)]
        try:
            for token in range(15):
                router.gate(ACME, (BLUE, GREEN)[token % 2], token=token, epoch=1)
                router.route(ACME, (GREEN, BLUE)[token % 2], epoch=1)
        finally:
            stop.set()
        for one in running:
            one.result(20)
    assert {answer.status for answer in answers} == {200}
    assert len(answers) > 100


def test_a_gate_that_cannot_read_its_state_says_so_and_does_not_start(gateway: Gateway) -> None:
    gateway.kill_gate()
    for text in ("{", "[]", '{"version": 2, "tenants": {}}', '{"version": 1, "tenants": {"a": {}}}'):
        (gateway.folder / "gate.json").write_text(text)
        ended = subprocess.run(gateway.gate_command(), capture_output=True, timeout=20, check=False)
        assert (ended.returncode, ended.stdout) == (2, b"")
        assert b"gate_not_started" in ended.stderr


def test_a_gate_stops_when_asked_even_while_requests_wait(gateway: Gateway) -> None:
    router = gateway.router()
    router.gate(ACME, BLUE, token=1, epoch=1)
    router.hold(ACME.tenant, token=1, budget_s=5, fallback=BLUE)
    with users(gateway, 3) as waiting:
        gateway.until(lambda: router.observed(ACME).waiting == 3, what="three wait")
        assert gateway.gate is not None
        gateway.gate.terminate()
        assert gateway.gate.wait(3) == 0
        assert {one.result(5).status for one in waiting} == {200}
