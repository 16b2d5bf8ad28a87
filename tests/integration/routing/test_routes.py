"""Routes on a real Envoy: who is sent where, and what users can and cannot say about it."""

from __future__ import annotations

import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from tenure.errors import (
    DeadlineExceeded,
    FenceRefused,
    StoreRefused,
    StoreUnavailable,
    UnknownName,
    UsageError,
)
from tenure.model.names import CellName, TenantId
from tenure.routing.contract import Router, RouteState, TenantAddress
from tenure.routing.envoy import EnvoyOptions
from tenure.routing.envoy.files import locked
from tenure.routing.envoy.gate_client import GateClient
from tenure.routing.envoy.table import TABLE_FILE
from tests.integration.routing.gateway import BLUE, GREEN, Gateway, tenant

ACME = tenant("tenant_001_acme_corp")
GLOBEX = tenant("tenant_002_globex")


def test_the_host_picks_the_tenant_in_any_case_and_with_any_port(gateway: Gateway) -> None:
    router: Router = gateway.router()
    router.ping()
    router.route(ACME, BLUE, epoch=1)
    router.route(GLOBEX, GREEN, epoch=1)
    assert gateway.ask(ACME.host).json["cell"] == BLUE
    assert gateway.ask(f"{ACME.host.upper()}:{gateway.listen}").json["cell"] == BLUE
    assert gateway.ask(GLOBEX.host).json == {
        "cell": GREEN,
        "tenant": GLOBEX.tenant,
        "told_cell": None,
        "path": "/",
        "method": "GET",
        "body": "",
    }


def test_on_the_shared_host_the_header_picks_the_tenant(gateway: Gateway) -> None:
    router = gateway.router()
    router.route(ACME, BLUE, epoch=1)
    router.gate(GLOBEX, GREEN, token=1, epoch=1)
    for address, cell in ((ACME, BLUE), (GLOBEX, GREEN)):
        answer = gateway.ask("app.rag.localhost", headers={"x-tenant-id": address.tenant})
        assert (answer.json["cell"], answer.json["tenant"]) == (cell, address.tenant)


def test_an_unknown_tenant_gets_a_clear_404(gateway: Gateway) -> None:
    def refused() -> None:
        for headers in ({}, {"x-tenant-id": "nobody"}, {"x-tenant-id": ACME.tenant + ","}):
            answer = gateway.ask("app.rag.localhost", headers=headers)
            assert answer.status == 404
            assert answer.headers["content-type"] == "application/json"
            assert answer.json["error"]["code"] == "unknown_tenant"

    refused()
    router = gateway.router()
    router.route(ACME, BLUE, epoch=1)
    refused()
    router.forget(ACME.tenant)
    assert gateway.ask(ACME.host).status == 404
    assert router.observed(ACME) == RouteState(cell=None, gated=False, held=False)


def test_a_client_cannot_choose_the_cell_or_pose_as_another_tenant(gateway: Gateway) -> None:
    router = gateway.router()
    router.route(ACME, BLUE, epoch=1)
    lies = {"x-tenure-cell": GREEN, "x-tenant-id": GLOBEX.tenant}
    router.gate(GLOBEX, BLUE, token=1, epoch=1)
    for address in (ACME, GLOBEX):
        answer = gateway.ask(address.host, headers=lies)
        assert (answer.json["cell"], answer.json["tenant"]) == (BLUE, address.tenant)
        assert answer.json["told_cell"] is None
    gateway.kill_gate()
    assert gateway.ask(GLOBEX.host, headers=lies).json["cell"] == BLUE


def test_route_and_gate_have_happened_when_they_return(gateway: Gateway) -> None:
    router = gateway.router()
    with gateway.user() as user:
        for turn in range(10):
            cell = (BLUE, GREEN)[turn % 2]
            router.route(ACME, cell, epoch=1)
            assert user.ask(ACME.host).json["cell"] == cell
            assert router.observed(ACME) == RouteState(cell=cell, gated=False, held=False)
            router.gate(ACME, cell, token=turn, epoch=1)
            assert user.ask(ACME.host).json["cell"] == cell
            assert router.observed(ACME) == RouteState(cell=cell, gated=True, held=False)


def test_leaving_the_gate_leaves_no_cluster_behind_and_cuts_no_request_off(gateway: Gateway) -> None:
    router = gateway.router()
    router.gate(ACME, BLUE, token=1, epoch=1)
    assert gateway.stats("acme.*upstream_rq_active")
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(gateway.ask, ACME.host, "/slow", method="POST", body=b"x" * 1000)
        gateway.until(lambda: gateway.cells[BLUE].under_way == 1, what="the slow request is under way")
        router.route(ACME, BLUE, epoch=1)
        gateway.until(lambda: gateway.ask(ACME.host).status == 200, what="the direct route answers")
        gateway.finish_slow(BLUE)
        assert slow.result(20).json["body"] == "x" * 1000
    clusters = gateway.ask_admin("/clusters?format=json").json["cluster_statuses"]
    assert {cluster["name"] for cluster in clusters} == {BLUE, GREEN}
    table = json.loads((gateway.config_dir / TABLE_FILE).read_text())
    assert table["clustered"] == []


def test_a_request_that_asks_the_gate_while_its_tenant_leaves_it_is_served(gateway: Gateway) -> None:
    """Envoy goes on with the routes that it had when the request came: their clusters must still be there."""
    with gateway.relay(gateway.check) as relay:
        router = gateway.router(check=relay.port)
        router.gate(ACME, BLUE, token=1, epoch=1)
        assert gateway.ask(ACME.host).status == 200
        relay.pause()
        with ThreadPoolExecutor() as pool:
            asking = pool.submit(gateway.ask, ACME.host)
            gateway.until(
                lambda: gateway.stats(f"~gate~{ACME.tenant}.upstream_rq_active$").popitem()[1] == "1",
                what="it asks",
            )
            routed = pool.submit(router.route, ACME, GREEN, epoch=1)
            gateway.until(lambda: not router.observed(ACME).gated, what="the direct route is loaded")
            assert gateway.ask(ACME.host).json["cell"] == GREEN
            with pytest.raises(TimeoutError):
                routed.result(0.3)
            relay.resume()
            assert asking.result(5).json["cell"] == BLUE
            routed.result(5)
    assert not gateway.stats("acme.*upstream_rq_active")


def test_a_change_that_was_killed_half_way_is_finished_by_the_next_one(gateway: Gateway) -> None:
    """Killed after the table said `direct` and before Envoy heard of it: its clusters must outlive its routes."""
    router = gateway.router()
    router.gate(ACME, BLUE, token=1, epoch=1)
    path = gateway.config_dir / TABLE_FILE
    table = json.loads(path.read_text())
    table["tenants"][ACME.tenant] = {"host": ACME.host, "cell": GREEN, "gated": False, "epoch": 2}
    assert table["clustered"] == [ACME.tenant]
    path.write_text(json.dumps(table))
    assert gateway.ask(ACME.host).json["cell"] == BLUE
    router.route(GLOBEX, BLUE, epoch=1)
    assert router.observed(ACME) == RouteState(cell=GREEN, gated=False, held=False)
    assert gateway.ask(ACME.host).json["cell"] == GREEN
    assert not gateway.stats("acme.*upstream_rq_active")
    assert json.loads(path.read_text())["clustered"] == []


def test_several_processes_change_routes_at_once_without_losing_any(gateway: Gateway) -> None:
    addresses = [tenant(f"tenant_{n:03}") for n in range(12)]
    routers = [gateway.router() for _ in range(4)]

    def work(n: int) -> None:
        for address in addresses[n::4]:
            routers[n].route(address, (BLUE, GREEN)[n % 2], epoch=1)

    with ThreadPoolExecutor() as pool:
        list(pool.map(work, range(4)))
    for n, address in enumerate(addresses):
        assert gateway.ask(address.host).json["cell"] == (BLUE, GREEN)[n % 4 % 2]


def test_a_smaller_epoch_is_refused_and_changes_nothing(gateway: Gateway) -> None:
    """Who was frozen while others moved the tenant must not send it back to the cell that lost the placement."""
    late, router = gateway.router(), gateway.router()
    late.route(ACME, BLUE, epoch=1)
    router.gate(ACME, GREEN, token=3, epoch=2)
    for gated in (True, False):
        if not gated:
            router.route(ACME, GREEN, epoch=2)
        before = _written(gateway)
        with pytest.raises(FenceRefused, match="placement 1 is outdated"):
            late.route(ACME, BLUE, epoch=1)
        with pytest.raises(FenceRefused, match="placement 1 is outdated"):
            late.gate(ACME, BLUE, token=99, epoch=1)
        assert _written(gateway) == before
        assert router.observed(ACME) == RouteState(cell=GREEN, gated=gated, held=False)
        assert gateway.ask(ACME.host).json["cell"] == GREEN
    router.gate(ACME, GREEN, token=3, epoch=2)
    with pytest.raises(FenceRefused, match="token 3"):
        late.gate(ACME, BLUE, token=2, epoch=3)
    router.route(ACME, BLUE, epoch=3)
    assert gateway.ask(ACME.host).json["cell"] == BLUE


def test_another_tenants_epoch_does_not_matter_and_a_forgotten_one_leaves_none(gateway: Gateway) -> None:
    router = gateway.router()
    router.route(ACME, GREEN, epoch=7)
    router.route(GLOBEX, BLUE, epoch=1)
    router.forget(ACME.tenant)
    router.route(ACME, BLUE, epoch=1)
    assert (gateway.ask(ACME.host).json["cell"], gateway.ask(GLOBEX.host).json["cell"]) == (BLUE, BLUE)


def test_the_epoch_is_looked_at_when_it_is_ones_turn_to_change_routes(gateway: Gateway) -> None:
    router = gateway.router()
    router.route(ACME, BLUE, epoch=1)
    path = gateway.config_dir / TABLE_FILE
    with ThreadPoolExecutor() as pool:
        with locked(gateway.config_dir / "routes.lock", timeout_s=1):
            late = [
                pool.submit(router.route, ACME, BLUE, epoch=1),
                pool.submit(gateway.router().gate, ACME, BLUE, token=9, epoch=1),
            ]
            for one in late:
                with pytest.raises(TimeoutError):
                    one.result(0.2)
            table = json.loads(path.read_text())
            table["tenants"][ACME.tenant] |= {"cell": GREEN, "epoch": 2}
            path.write_text(json.dumps(table))
            before = _written(gateway)
        for one in late:
            with pytest.raises(FenceRefused):
                one.result(5)
    assert _written(gateway) == before


def test_who_is_late_to_leave_the_gate_does_not_take_out_who_has_been_gated_since(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, router = gateway.router(), gateway.router()
    leaving, go_on, leave = threading.Event(), threading.Event(), GateClient.remove

    def leave_late(client: GateClient, tenant: TenantId, *, forget: bool = False) -> None:
        leaving.set()
        assert go_on.wait(10)
        leave(client, tenant, forget=forget)

    late.gate(ACME, BLUE, token=1, epoch=1)
    monkeypatch.setattr(GateClient, "remove", leave_late)
    with ThreadPoolExecutor() as pool:
        routed = pool.submit(late.route, ACME, BLUE, epoch=1)
        assert leaving.wait(5)
        gated = pool.submit(router.gate, ACME, BLUE, token=2, epoch=1)
        with suppress(TimeoutError):
            gated.result(0.5)
        go_on.set()
        routed.result(5)
        gated.result(5)
    router.hold(ACME.tenant, token=2, budget_s=5, fallback=BLUE)
    assert router.observed(ACME).held


def _written(gateway: Gateway) -> list[str]:
    """All that a route, or the gate, could have changed."""
    files = [gateway.config_dir / name for name in (TABLE_FILE, "rds.json", "cds.json")]
    states = [path for path in (gateway.folder / "gate.json",) if path.exists()]
    return [path.read_text() for path in (*files, *states)]


def test_an_envoy_that_watches_another_folder_is_told_apart_from_a_slow_one(gateway: Gateway) -> None:
    elsewhere = gateway.folder / "elsewhere"
    elsewhere.mkdir()
    router = gateway.router(config_dir=elsewhere, options=EnvoyOptions(apply_timeout_s=0.3))
    with pytest.raises(DeadlineExceeded) as caught:
        router.route(ACME, BLUE, epoch=1)
    assert caught.value.hint is not None
    assert "folder" in caught.value.hint


def test_an_envoy_that_is_down_is_named_and_does_not_keep_the_change_from_the_others(
    gateway: Gateway,
) -> None:
    dead = "http://127.0.0.1:9"
    router = gateway.router(admin=(dead, f"http://127.0.0.1:{gateway.admin}"))
    with pytest.raises(StoreUnavailable, match=dead):
        router.route(ACME, BLUE, epoch=1)
    assert gateway.ask(ACME.host).json["cell"] == BLUE
    with pytest.raises(StoreUnavailable, match=dead):
        router.ping()


def test_a_document_that_envoy_rejects_is_reported_with_its_reason_and_taken_back(gateway: Gateway) -> None:
    gateway.router().route(ACME, BLUE, epoch=1)
    broken = gateway.router(options=EnvoyOptions(tenant_header=":path"))
    with pytest.raises(StoreRefused, match=r"Envoy at http.* rejects rds.json: .*may not be modified"):
        broken.route(GLOBEX, GREEN, epoch=1)
    assert gateway.ask(GLOBEX.host).status == 404
    assert GLOBEX.tenant not in (gateway.config_dir / TABLE_FILE).read_text()
    gateway.router().route(GLOBEX, GREEN, epoch=1)
    assert (gateway.ask(ACME.host).json["cell"], gateway.ask(GLOBEX.host).json["cell"]) == (BLUE, GREEN)


def test_envoy_comes_back_with_the_routes_it_had(gateway: Gateway) -> None:
    router = gateway.router()
    router.route(ACME, BLUE, epoch=1)
    router.gate(GLOBEX, GREEN, token=1, epoch=1)
    gateway.stop_envoy()
    with pytest.raises(StoreUnavailable):
        router.observed(ACME)
    gateway.start_envoy()
    assert (gateway.ask(ACME.host).json["cell"], gateway.ask(GLOBEX.host).json["cell"]) == (BLUE, GREEN)
    router.route(GLOBEX, BLUE, epoch=1)
    assert gateway.ask(GLOBEX.host).json["cell"] == BLUE


def test_observed_shows_what_somebody_else_did_to_envoy(gateway: Gateway) -> None:
    """Configuration drift: the table says one thing, Envoy does another."""
    router = gateway.router()
    router.route(ACME, BLUE, epoch=1)
    document = json.loads((gateway.config_dir / "rds.json").read_text())
    [host] = [one for one in document["resources"][0]["virtual_hosts"] if one["name"] == ACME.tenant]
    host["routes"][0]["route"]["cluster"] = GREEN
    (gateway.config_dir / "by-hand").write_text(json.dumps(document))
    (gateway.config_dir / "by-hand").rename(gateway.config_dir / "rds.json")
    gateway.until(lambda: router.observed(ACME).cell == GREEN, what="the drift shows")
    router.route(ACME, BLUE, epoch=1)
    assert router.observed(ACME).cell == BLUE


def test_an_envoy_out_of_step_with_the_others_and_a_dead_gate_are_seen(gateway: Gateway) -> None:
    """The second Envoy watches a folder that somebody else replaced: it routes by what it has loaded before."""
    router = gateway.router()
    router.route(ACME, BLUE, epoch=1)
    with gateway.second_envoy() as (_, admin):
        first = f"http://127.0.0.1:{gateway.admin}"
        both = gateway.router(admin=(first, admin), options=EnvoyOptions(apply_timeout_s=0.5))
        assert both.observed(ACME).cell == BLUE
        watched = gateway.folder / "replaced"
        gateway.config_dir.rename(watched)
        shutil.copytree(watched, gateway.config_dir)
        gateway.stop_envoy()
        gateway.start_envoy()
        with pytest.raises(DeadlineExceeded, match=admin):
            both.route(ACME, GREEN, epoch=2)
        seen = both.observed(ACME)
        assert seen.cell is None
        assert dict(seen.parts) == {first: "green, directly", admin: "blue, directly"}
        with pytest.raises(DeadlineExceeded, match=admin):
            both.renew()
    router.gate(ACME, GREEN, token=1, epoch=2)
    assert router.observed(ACME).gate_answers
    gateway.kill_gate()
    assert not router.observed(ACME).gate_answers


def test_renewing_has_envoy_load_what_it_should_have_already(gateway: Gateway) -> None:
    """The file is right and Envoy is not: somebody wrote into the file that Envoy had loaded, which it does not see."""
    router = gateway.router()
    router.route(ACME, BLUE, epoch=1)
    right = (gateway.config_dir / "rds.json").read_text()
    other = json.loads(right.replace(f'"cluster":"{BLUE}"', f'"cluster":"{GREEN}"'))
    (gateway.config_dir / "by-hand").write_text(json.dumps(other))
    (gateway.config_dir / "by-hand").rename(gateway.config_dir / "rds.json")
    gateway.until(lambda: router.observed(ACME).cell == GREEN, what="the drift shows")
    (gateway.config_dir / "rds.json").write_text(right)
    router.route(ACME, BLUE, epoch=1)
    assert router.observed(ACME).cell == GREEN
    router.renew()
    assert router.survey((ACME, GLOBEX))[ACME.tenant].cell == BLUE
    assert router.observed(GLOBEX).cell is None


def test_what_cannot_be_routed_is_refused_before_envoy_sees_it(gateway: Gateway) -> None:
    router = gateway.router()
    router.route(ACME, BLUE, epoch=1)
    with pytest.raises(UnknownName):
        router.route(GLOBEX, CellName("red"), epoch=1)
    with pytest.raises(StoreRefused, match=ACME.tenant):
        router.route(TenantAddress(tenant=GLOBEX.tenant, host=ACME.host.upper()), BLUE, epoch=1)
    with pytest.raises(UsageError):
        router.route(TenantAddress(tenant=GLOBEX.tenant, host="*"), BLUE, epoch=1)


def test_gating_one_tenant_is_not_felt_by_another_under_load(gateway: Gateway) -> None:
    router = gateway.router()
    router.route(ACME, BLUE, epoch=1)
    router.route(GLOBEX, BLUE, epoch=1)
    stop = threading.Event()
    statuses: list[int] = []

    def load() -> None:
        with gateway.user() as user:
            while not stop.is_set():
                statuses.append(user.ask(GLOBEX.host).status)
                time.sleep(0.002)

    with ThreadPoolExecutor() as pool:
        running = [pool.submit(load) for _ in range(2)]
        try:
            for token in range(10):
                router.gate(ACME, BLUE, token=token, epoch=1)
                router.route(ACME, GREEN, epoch=1)
        finally:
            stop.set()
        for one in running:
            one.result(20)
    assert statuses
    assert set(statuses) == {200}
