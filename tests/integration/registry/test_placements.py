"""The placement changes only by compare-and-swap under the step's token, and its epoch only grows."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg
import pytest

from tenure.errors import (
    Cancelled,
    DeadlineExceeded,
    LeaseLost,
    NotAllowed,
    PlanStale,
    StoreRefused,
    UnknownName,
)
from tenure.model.names import CellName, TenantId
from tenure.model.operation import Lease, OperationState
from tenure.model.tenancy import Placement
from tenure.registry.registry import Registry

ACME = TenantId("acme")
GREEN = CellName("green")

Add = Callable[[str], Placement]


def _lease(registry: Registry, tenant: TenantId = ACME) -> Lease:
    operation = registry.operations.create(
        kind="migrate", tenant=tenant, steps=["switch"], requested_by="test"
    )
    claim = registry.steps.claim(
        registry.steps.list(operation.id)[0],
        holder="elsewhere:1:1",
        holder_is_gone=False,
        ttl_s=60,
        phase=None,
        actor="test",
    )
    assert claim is not None
    return claim.lease


def _snapshot(registry: Registry, lease: Lease) -> object:
    return (
        registry.placements.get(ACME),
        registry.placements.history(ACME),
        registry.events.list(),
        registry.operations.get(lease.operation),
    )


def test_the_swap_changes_placement_history_journal_and_operation_together(
    registry: Registry, add: Add
) -> None:
    assert add("acme").epoch == 1
    lease = _lease(registry)
    placement = registry.placements.compare_and_swap(
        lease, ACME, expected_epoch=1, to_cell=GREEN, actor="alice"
    )
    assert (placement.cell, placement.epoch) == ("green", 2)
    assert registry.placements.get(ACME) == placement
    assert registry.placements.list() == (placement,)
    assert registry.operations.get(lease.operation).committed_at == placement.since
    last = registry.placements.history(ACME)[-1]
    assert (last.cell, last.epoch, last.operation, last.token) == ("green", 2, lease.operation, lease.token)
    event = registry.events.list()[-1]
    assert (event.action, event.actor, event.tenant) == ("placement_changed", "alice", "acme")
    assert event.data == {"cell": "green", "epoch": 2, "token": lease.token}


def test_repeating_a_swap_that_happened_gives_the_same_placement_and_changes_nothing(
    registry: Registry, add: Add
) -> None:
    add("acme")
    lease = _lease(registry)
    first = registry.placements.compare_and_swap(lease, ACME, expected_epoch=1, to_cell=GREEN, actor="a")
    before = _snapshot(registry, lease)
    assert (
        registry.placements.compare_and_swap(lease, ACME, expected_epoch=1, to_cell=GREEN, actor="a") == first
    )
    assert _snapshot(registry, lease) == before
    with pytest.raises(PlanStale):
        registry.placements.compare_and_swap(
            lease, ACME, expected_epoch=2, to_cell=CellName("blue"), actor="a"
        )
    assert _snapshot(registry, lease) == before


@pytest.mark.parametrize("epoch", [0, 2, 7])
def test_a_swap_from_another_epoch_is_refused_and_changes_nothing(
    registry: Registry, add: Add, epoch: int
) -> None:
    add("acme")
    lease = _lease(registry)
    before = _snapshot(registry, lease)
    with pytest.raises(PlanStale, match=f"has epoch 1, not {epoch}"):
        registry.placements.compare_and_swap(lease, ACME, expected_epoch=epoch, to_cell=GREEN, actor="a")
    assert _snapshot(registry, lease) == before


def test_a_swap_for_another_tenant_than_the_operations_is_refused(registry: Registry, add: Add) -> None:
    add("acme")
    add("globex")
    lease = _lease(registry, TenantId("globex"))
    before = _snapshot(registry, lease)
    with pytest.raises(PlanStale, match="is not an operation on acme"):
        registry.placements.compare_and_swap(lease, ACME, expected_epoch=1, to_cell=GREEN, actor="a")
    assert _snapshot(registry, lease) == before


def test_a_swap_after_a_cancel_was_asked_for_is_refused(registry: Registry, add: Add) -> None:
    add("acme")
    lease = _lease(registry)
    registry.operations.request_cancel(lease.operation, actor="bob")
    before = _snapshot(registry, lease)
    with pytest.raises(Cancelled):
        registry.placements.compare_and_swap(lease, ACME, expected_epoch=1, to_cell=GREEN, actor="a")
    assert _snapshot(registry, lease) == before


def test_a_swap_by_a_step_that_is_over_is_refused(registry: Registry, add: Add) -> None:
    add("acme")
    lease = _lease(registry)
    registry.steps.finish(lease, {}, actor="a")
    with pytest.raises(LeaseLost):
        registry.placements.compare_and_swap(lease, ACME, expected_epoch=1, to_cell=GREEN, actor="a")
    assert registry.placements.get(ACME).epoch == 1


def test_a_rehearsal_raises_what_the_swap_would_and_changes_nothing(registry: Registry, add: Add) -> None:
    add("acme")
    lease = _lease(registry)
    before = _snapshot(registry, lease)
    registry.placements.rehearse(lease, ACME, expected_epoch=1, to_cell=GREEN, actor="a")
    with pytest.raises(PlanStale):
        registry.placements.rehearse(lease, ACME, expected_epoch=5, to_cell=GREEN, actor="a")
    assert _snapshot(registry, lease) == before


def test_a_swap_does_not_wait_long_for_another_transaction(registry: Registry, add: Add) -> None:
    add("acme")
    lease = _lease(registry)
    before = _snapshot(registry, lease)
    with registry.database.transaction() as other:
        other.execute("insert into registry.events (actor, action) values ('a', 'slow')")
        with pytest.raises(DeadlineExceeded):
            registry.placements.compare_and_swap(lease, ACME, expected_epoch=1, to_cell=GREEN, actor="a")
        assert _snapshot(registry, lease) == before
    assert (
        registry.placements.compare_and_swap(lease, ACME, expected_epoch=1, to_cell=GREEN, actor="a").epoch
        == 2
    )


@pytest.mark.parametrize("round_", range(5))
def test_a_cancel_and_a_swap_at_the_same_time_never_both_win(
    registry: Registry, add: Add, round_: int
) -> None:
    add("acme")
    lease = _lease(registry)
    start = threading.Barrier(2)
    won: list[str] = []

    def swap() -> None:
        start.wait(10)
        try:
            registry.placements.compare_and_swap(lease, ACME, expected_epoch=1, to_cell=GREEN, actor="a")
            won.append("swap")
        except Cancelled:
            pass

    def cancel() -> None:
        start.wait(10)
        try:
            registry.operations.request_cancel(lease.operation, actor="bob")
            won.append("cancel")
        except NotAllowed:
            pass

    threads = [threading.Thread(target=swap), threading.Thread(target=cancel)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    operation = registry.operations.get(lease.operation)
    assert len(won) == 1
    assert operation.committed == (won == ["swap"])
    assert operation.cancel_requested == (won == ["cancel"])


@pytest.mark.parametrize(
    "statement",
    [
        "update registry.placements set epoch = 1 where tenant = 'acme'",
        "update registry.placements set epoch = epoch where tenant = 'acme'",
        "update registry.placements set cell = 'blue' where tenant = 'acme'",
        "update registry.placements set epoch = epoch + 2 where tenant = 'acme'",
        "update registry.placements set tenant = 'other', epoch = epoch + 1 where tenant = 'acme'",
        "insert into registry.placements (tenant, cell, epoch) values ('new', 'blue', 3)",
        "truncate registry.placements",
        "update registry.placement_history set epoch = 1",
        "delete from registry.placement_history",
        "truncate registry.placement_history",
        "update registry.events set action = 'nothing_happened'",
        "delete from registry.events where seq = 1",
        "truncate registry.events",
        "update registry.operations set state = 'aborted' where committed_at is not null",
    ],
)
def test_direct_sql_cannot_turn_back_an_epoch_or_rewrite_the_journal(
    registry: Registry, add: Add, control_dsn: str, statement: str
) -> None:
    add("acme")
    lease = _lease(registry)
    registry.placements.compare_and_swap(lease, ACME, expected_epoch=1, to_cell=GREEN, actor="a")
    before = _snapshot(registry, lease)
    with psycopg.connect(control_dsn) as connection, pytest.raises(psycopg.Error):
        connection.execute(statement.encode())
    assert _snapshot(registry, lease) == before


def test_a_tenant_that_comes_back_gets_an_epoch_above_all_it_ever_had(
    registry: Registry, add: Add, control_dsn: str
) -> None:
    add("acme")
    lease = _lease(registry)
    registry.placements.compare_and_swap(lease, ACME, expected_epoch=1, to_cell=GREEN, actor="a")
    registry.steps.finish(lease, {}, actor="a")
    registry.steps.conclude(lease.operation, OperationState.SUCCEEDED, actor="a")
    registry.tenants.remove(ACME, actor="a")
    registry.tenants.remove(ACME, actor="a")
    with pytest.raises(UnknownName):
        registry.placements.get(ACME)
    with psycopg.connect(control_dsn) as connection, pytest.raises(psycopg.Error):
        connection.execute("insert into registry.placements (tenant, cell, epoch) values ('acme', 'blue', 1)")
    assert add("acme").epoch == 3
    assert [c.epoch for c in registry.placements.history(ACME)] == [1, 2, 3]


def test_a_refused_change_of_the_journal_names_the_journal(registry: Registry, add: Add) -> None:
    add("acme")
    with (
        pytest.raises(StoreRefused, match="events is append-only"),
        registry.database.connection() as connection,
    ):
        connection.execute("delete from registry.events")
