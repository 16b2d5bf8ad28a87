"""Operations in the control database: one per tenant, states by compare-and-set, what workers may pick up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from tenure.errors import NotAllowed, PlanStale, TenantLocked, UnknownName
from tenure.model.names import TenantId
from tenure.model.operation import Operation, OperationState, Step
from tenure.model.secret import Secret
from tenure.registry.claims import Claim
from tenure.registry.registry import Registry

ACME = TenantId("acme")


def _create(registry: Registry, tenant: TenantId | None = ACME) -> Operation:
    return registry.operations.create(
        kind="migrate",
        tenant=tenant,
        steps=["copy", "switch"],
        requested_by="alice@host",
        request={"to": "green", "at": datetime(2026, 1, 1, tzinfo=UTC)},
        plan={"steps": ["copy", "switch"]},
        plan_digest="abc",
    )


def _claim(registry: Registry, operation: Operation, position: int = 1, ttl_s: float = 60) -> Claim | None:
    step: Step = registry.steps.list(operation.id)[position - 1]
    return registry.steps.claim(
        step, holder="there:12:34", holder_is_gone=False, ttl_s=ttl_s, phase="copying", actor="worker-1"
    )


def test_an_operation_is_kept_as_it_was_asked_for(registry: Registry) -> None:
    created = _create(registry)
    assert registry.operations.get(created.id) == created
    assert created.id.startswith("op_20")
    assert created.state is OperationState.PLANNED
    assert created.request == {"to": "green", "at": "2026-01-01T00:00:00+00:00"}
    assert created.plan_digest == "abc"
    assert created.created_at.tzinfo is not None
    assert [(s.position, s.name) for s in registry.steps.list(created.id)] == [(1, "copy"), (2, "switch")]
    assert registry.operations.active_for(ACME) == created
    with pytest.raises(UnknownName, match="op_nothing"):
        registry.operations.get("op_nothing")


def test_a_secret_cannot_get_into_the_journal(registry: Registry) -> None:
    with pytest.raises(TypeError, match="Secret"):
        registry.events.append("shown", actor="a", data={"password": Secret("hunter2")})


def test_a_second_operation_on_a_tenant_is_refused_naming_the_first_and_its_holder(
    registry: Registry,
) -> None:
    first = _create(registry)
    assert _claim(registry, first) is not None
    with pytest.raises(TenantLocked) as refused:
        _create(registry)
    for part in (first.id, "migrate", "running", "alice@host", "there:12:34"):
        assert part in refused.value.message
    assert refused.value.hint == f"`tenure op resume {first.id}` or `tenure op cancel {first.id}`"
    assert len(registry.operations.list()) == 1
    _create(registry, TenantId("globex"))
    _create(registry, None)
    _create(registry, None)


def test_of_operations_created_at_the_same_time_one_wins(registry: Registry) -> None:
    start = threading.Barrier(4)
    results: list[str] = []

    def create() -> None:
        start.wait(10)
        try:
            results.append(_create(registry).id)
        except TenantLocked:
            results.append("locked")

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(results) == 4
    assert results.count("locked") == 3


def test_a_soaking_operation_lets_the_next_one_in_and_is_ended_by_it(registry: Registry) -> None:
    first = _create(registry)
    for position in (1, 2):
        claim = _claim(registry, first, position)
        assert claim is not None
        registry.steps.finish(claim.lease, {}, actor="w")
    soaking = registry.steps.conclude(first.id, OperationState.SOAKING, actor="w")
    assert soaking.state is OperationState.SOAKING
    assert registry.operations.active_for(ACME) is None
    _create(registry)
    done = registry.operations.transition(
        first.id, OperationState.SOAKING, OperationState.ROLLED_BACK, actor="bob", data={"by": "op_2"}
    )
    assert done.state is OperationState.ROLLED_BACK
    last = registry.events.list(operation=first.id)[-1]
    assert (last.action, last.actor, last.data) == ("operation_rolled_back", "bob", {"by": "op_2"})
    again = registry.operations.transition(
        first.id, OperationState.SOAKING, OperationState.ROLLED_BACK, actor="bob"
    )
    assert again == done
    with pytest.raises(PlanStale, match="is rolled_back, not soaking"):
        registry.operations.transition(
            first.id, OperationState.SOAKING, OperationState.COMPLETED, actor="bob"
        )


def test_a_transition_that_no_operation_makes_is_refused(registry: Registry) -> None:
    operation = _create(registry)
    with pytest.raises(NotAllowed):
        registry.operations.transition(
            operation.id, OperationState.PLANNED, OperationState.SUCCEEDED, actor="bob"
        )
    assert registry.operations.get(operation.id).state is OperationState.PLANNED


def test_an_operation_cannot_conclude_while_a_step_is_open(registry: Registry) -> None:
    operation = _create(registry)
    claim = _claim(registry, operation)
    assert claim is not None
    registry.steps.finish(claim.lease, {}, actor="w")
    assert (
        registry.steps.conclude(operation.id, OperationState.SUCCEEDED, actor="w").state
        is OperationState.RUNNING
    )


def test_cancelling_twice_asks_once_and_an_ended_operation_refuses(registry: Registry) -> None:
    operation = _create(registry)
    assert registry.operations.request_cancel(operation.id, actor="bob").cancel_requested
    registry.operations.request_cancel(operation.id, actor="bob")
    actions = [e.action for e in registry.events.list(operation=operation.id)]
    assert actions.count("cancel_requested") == 1
    assert _claim(registry, operation) is None, "nothing is begun after that"
    ended = registry.steps.cut_off(
        operation.id, gone_holders=frozenset(), error={"code": "cancelled"}, abortable=True, actor="bob"
    )
    assert ended is not None
    assert ended.state is OperationState.ABORTED
    assert registry.operations.request_cancel(operation.id, actor="bob").state is OperationState.ABORTED


def test_workers_find_what_is_due_and_nothing_else(
    registry: Registry, wait_until: Callable[..., None]
) -> None:
    fresh, running, late, parked = (_create(registry, TenantId(name)) for name in ("a", "b", "c", "d"))
    assert set(registry.operations.due()) == {fresh.id, running.id, late.id, parked.id}
    assert _claim(registry, running) is not None
    assert _claim(registry, late, ttl_s=0.05) is not None
    claim = _claim(registry, parked)
    assert claim is not None
    until = datetime.now(UTC) + timedelta(hours=1)
    registry.steps.park(claim.lease, until=until, reason="soak", actor="w")
    assert registry.operations.get(parked.id).state is OperationState.PARKED
    wait_until(lambda: set(registry.operations.due()) == {fresh.id, late.id}, "the short lease runs out")
    assert registry.operations.due(limit=1) == (fresh.id,)
    assert registry.steps.list(parked.id)[0].due_in_s > 3500


def test_operations_are_listed_newest_first_by_tenant_kind_and_state(registry: Registry) -> None:
    a, b = _create(registry, TenantId("a")), _create(registry, TenantId("b"))
    assert [o.id for o in registry.operations.list()] == [b.id, a.id]
    assert [o.id for o in registry.operations.list(tenant=TenantId("a"))] == [a.id]
    assert registry.operations.list(kind="erase") == ()
    assert len(registry.operations.list(states=[OperationState.PLANNED])) == 2
    assert registry.operations.list(states=[OperationState.RUNNING]) == ()
