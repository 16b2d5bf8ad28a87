"""Tenants, links, measurements and the mutex."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tenure.errors import DeadlineExceeded, LeaseLost, TenantLocked, UnknownName, UsageError
from tenure.model.names import CellName, TenantId
from tenure.model.tenancy import Placement, Tenant, TenantState
from tenure.registry.links import Link, LinkState
from tenure.registry.locks import AdvisoryMutex
from tenure.registry.measurements import Measurement
from tenure.registry.registry import Registry
from tenure.stores.contract import Mutex

ACME = TenantId("acme")
LINK = Link(
    tenant=ACME,
    name="acme-1",
    cell_a=CellName("blue"),
    cell_b=CellName("green"),
    source=CellName("blue"),
    created_by="op_1",
)


def test_a_tenant_is_kept_as_it_was_added_and_its_changes_are_journaled(registry: Registry) -> None:
    acme = Tenant(id=ACME, tier="gold", host="acme.localhost", residency="eu-only")
    registry.tenants.add(acme, CellName("blue"), actor="alice")
    assert registry.tenants.get(ACME) == acme
    assert registry.tenants.set_tier(ACME, "platinum", actor="alice").tier == "platinum"
    assert registry.tenants.set_state(ACME, TenantState.SUSPENDED, actor="bob").state is TenantState.SUSPENDED
    assert registry.tenants.set_legal_hold(ACME, "case 7", actor="bob").legal_hold == "case 7"
    assert registry.tenants.set_legal_hold(ACME, None, actor="bob").legal_hold is None
    assert registry.tenants.set_residency(ACME, None, actor="bob").residency is None
    assert registry.tenants.list() == (
        replace(acme, tier="platinum", state=TenantState.SUSPENDED, residency=None),
    )
    assert [(e.action, e.actor) for e in registry.events.list(tenant=ACME)] == [
        ("tenant_added", "alice"),
        ("tenant_tier_changed", "alice"),
        ("tenant_suspended", "bob"),
        ("legal_hold_placed", "bob"),
        ("legal_hold_lifted", "bob"),
        ("tenant_residency_changed", "bob"),
    ]


def test_a_taken_id_or_host_is_refused_and_an_unknown_tenant_is_named(
    registry: Registry, add: Callable[[str], Placement]
) -> None:
    add("acme")
    with pytest.raises(UsageError, match="there is a tenant acme already"):
        add("acme")
    with pytest.raises(UsageError, match=r"acme\.localhost is another tenant's"):
        registry.tenants.add(
            Tenant(id=TenantId("globex"), tier="gold", host="acme.localhost"), CellName("blue"), actor="a"
        )
    with pytest.raises(UnknownName):
        registry.placements.get(TenantId("globex"))
    with pytest.raises(UnknownName, match="globex"):
        registry.tenants.set_tier(TenantId("globex"), "gold", actor="a")


def test_a_link_is_created_once_turned_and_removed(registry: Registry) -> None:
    assert registry.links.active(ACME) is None
    assert registry.links.create(LINK) == LINK
    turned = registry.links.set_source("acme-1", CellName("green"))
    assert turned.source == "green"
    assert turned.target == "blue"
    assert registry.links.create(LINK) == turned, "creating it again leaves it as it is"
    with pytest.raises(TenantLocked, match="linked to another cell"):
        registry.links.create(replace(LINK, name="acme-2", cell_b=CellName("red")))
    until = datetime(2030, 1, 1, tzinfo=UTC)
    assert registry.links.set_soak("acme-1", until).soak_until == until
    assert registry.links.active(ACME) == registry.links.list()[0]
    expired = registry.links.expire("acme-1", "too much WAL")
    assert (expired.state, expired.expired_because) == (LinkState.EXPIRED, "too much WAL")
    assert registry.links.expire("acme-1", "something later") == expired == registry.links.active(ACME)
    assert registry.links.list() == ()
    assert registry.links.end("acme-1").state is LinkState.ENDING
    assert registry.links.expire("acme-1", "too late").state is LinkState.ENDING
    assert registry.links.remove("acme-1").state is LinkState.REMOVED
    assert registry.links.remove("acme-1").state is LinkState.REMOVED
    assert registry.links.active(ACME) is None
    assert registry.links.list() == ()
    assert len(registry.links.list(state=None)) == 1
    registry.links.create(replace(LINK, name="acme-2", cell_b=CellName("red")))
    with pytest.raises(UnknownName, match="nothing"):
        registry.links.get("nothing")


def test_recent_measurements_come_back_newest_first(registry: Registry) -> None:
    for seconds in (1.0, 2.0, 4.0):
        registry.measurements.record(
            Measurement(
                kind="copy", route="blue->green", store="postgres", items=100, bytes=4_000, seconds=seconds
            )
        )
    found = registry.measurements.recent(kind="copy", route="blue->green", store="postgres", limit=2)
    assert [m.seconds for m in found] == [4.0, 2.0]
    assert found[0].items_per_s == 25
    assert found[0].bytes_per_s == 1_000
    assert registry.measurements.recent(kind="copy", route="green->blue") == ()
    assert replace(found[0], seconds=0).items_per_s is None


def test_the_mutex_lets_one_thread_in_at_a_time(registry: Registry) -> None:
    mutex: Mutex = registry.mutex
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(10):
            with mutex("shared"):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(most) == 40
    assert set(most) == {1}


def test_the_mutex_gives_up_in_time_and_other_names_are_free(registry: Registry) -> None:
    impatient = AdvisoryMutex(registry.database, wait_s=0.2)
    with registry.mutex("shared"):
        with pytest.raises(DeadlineExceeded, match="'shared'"), impatient("shared"):
            pytest.fail("got in")
        with impatient("other"):
            pass
    with impatient("shared"):
        pass


@pytest.mark.faults
def test_the_mutex_of_a_killed_process_is_free_at_once(registry: Registry, control_dsn: str) -> None:
    code = """
import sys
from tenure.model.secret import Secret
from tenure.registry.registry import Registry
with Registry.connect(Secret(sys.argv[1])).mutex("shared"):
    print("held", flush=True)
    sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, control_dsn], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "held"
    with pytest.raises(DeadlineExceeded), AdvisoryMutex(registry.database, wait_s=0.2)("shared"):
        pytest.fail("got in")
    process.kill()
    process.communicate(timeout=10)
    with registry.mutex("shared"):
        pass


@pytest.mark.faults
def test_the_mutex_of_a_stopped_process_is_free_soon_and_it_learns_that(
    registry: Registry, control_dsn: str
) -> None:
    code = """
import sys
from tenure.errors import LeaseLost
from tenure.model.secret import Secret
from tenure.registry.locks import AdvisoryMutex
from tenure.registry.registry import Registry
mutex = AdvisoryMutex(Registry.connect(Secret(sys.argv[1])).database, stall_s=1.0)
with mutex("shared") as still_held:
    still_held()
    print("held", flush=True)
    sys.stdin.readline()
    try:
        still_held()
    except LeaseLost:
        print("lost", flush=True)
with mutex("shared") as still_held:
    still_held()
    print("held again", flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, control_dsn], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "held"
            process.send_signal(signal.SIGSTOP)
            with AdvisoryMutex(registry.database, wait_s=10.0)("shared") as still_held:
                still_held()
            process.send_signal(signal.SIGCONT)
            said, _ = process.communicate("go on\n", timeout=20)
            assert said.splitlines() == ["lost", "held again"]
        finally:
            process.kill()


def test_a_connection_that_held_the_mutex_may_be_idle_again(registry: Registry) -> None:
    shown = "select current_setting('idle_session_timeout')"
    with registry.database.connection() as connection:
        before = connection.execute(shown).fetchone()
    with registry.mutex("shared"):
        pass
    with registry.database.connection() as connection:
        assert connection.execute(shown).fetchone() == before


def test_the_mutex_is_lost_with_its_session(registry: Registry) -> None:
    end = "select pg_terminate_backend(pid, 5000) from pg_locks where locktype = 'advisory' and granted"
    with registry.mutex("shared") as still_held:
        still_held()
        with registry.database.connection() as connection:
            connection.execute(end)
        with pytest.raises(LeaseLost):
            still_held()
