"""Which state of an operation may follow which: the table, its promises, and every path through it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest

from tenure.model.operation import (
    ACTIVE,
    TRANSITIONS,
    Operation,
    OperationState,
    may_become,
    new_operation_id,
)

S = OperationState


def _paths(
    state: OperationState, *, committed: bool, seen: tuple[OperationState, ...] = ()
) -> Iterator[tuple[S, ...]]:
    following = [new for new in S if may_become(state, new, committed=committed) and new not in seen]
    yield (*seen, state)
    for new in following:
        yield from _paths(new, committed=committed, seen=(*seen, state))


def test_every_state_has_its_line_in_the_table() -> None:
    assert set(TRANSITIONS) == set(S)
    assert all(new in TRANSITIONS for followers in TRANSITIONS.values() for new in followers)


def test_every_state_can_be_reached_and_every_active_one_can_end() -> None:
    begun = {state for path in _paths(S.PLANNED, committed=False) for state in path}
    assert begun == set(S) - {S.PROPOSED}
    assert {state for path in _paths(S.PROPOSED, committed=False) for state in path} == set(S) - {S.PLANNED}
    for state in ACTIVE:
        assert any(path[-1].final or path[-1] is S.SOAKING for path in _paths(state, committed=False))


def test_final_states_are_final_and_not_active() -> None:
    assert {s for s in S if s.final} == {S.COMPLETED, S.ROLLED_BACK, S.SUCCEEDED, S.ABORTED, S.FAILED}
    assert not any(s.final for s in ACTIVE)
    assert not S.SOAKING.active
    assert not S.SOAKING.final
    assert not S.PROPOSED.active, "what waits for an approval keeps no rollback away"
    assert not S.PROPOSED.final
    assert {s for s in S if s.unfinished} == {*ACTIVE, S.PROPOSED}


@pytest.mark.parametrize("state", [S.RUNNING, S.PARKED])
def test_past_the_point_of_no_return_no_path_leads_to_an_abort(state: OperationState) -> None:
    reached = {s for path in _paths(state, committed=True) for s in path}
    assert not reached & {S.ABORTING, S.ABORTED, S.FAILED}
    assert reached >= {S.SOAKING, S.SUCCEEDED, S.ROLLED_BACK, S.COMPLETED}


def test_an_abort_leads_nowhere_but_to_aborted() -> None:
    assert {s for path in _paths(S.ABORTING, committed=False) for s in path} == {S.ABORTING, S.ABORTED}


def test_operation_ids_sort_by_time_in_utc_and_differ() -> None:
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    ids = [new_operation_id(now) for _ in range(200)]
    assert len(set(ids)) == 200
    assert all(
        i.startswith("op_20260101T120000_") and len(i) == len("op_20260101T120000_k3f9ab") for i in ids
    )
    later = new_operation_id(datetime(2026, 1, 1, 13, 0, 1, tzinfo=timezone(timedelta(hours=1))))
    assert later > max(ids)


def test_an_operation_needs_a_resume_only_while_it_is_active_and_stuck() -> None:
    operation = Operation(
        id="op_1",
        kind="migrate",
        tenant=None,
        state=S.RUNNING,
        phase="copying",
        request={},
        plan={},
        plan_digest="",
        requested_by="a",
        created_at=datetime.now(UTC),
        error={"code": "failed"},
    )
    assert not operation.needs_resume
    assert not operation.committed
