"""Operations run in one process: outcomes, retries, cancels, and what the journal says of them."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tenure.engine.context import StepContext
from tenure.engine.engine import Engine
from tenure.engine.observer import Notice, PhaseChanged, Progressed, StepEnded, StepStarted, Waiting, compose
from tenure.engine.spec import Ask, Done, Failed, OperationSpec, Park, Retry, StepOutcome, StepSpec
from tenure.errors import (
    Cancelled,
    ConfigurationError,
    Interrupted,
    NotAllowed,
    StoreRefused,
    StoreUnavailable,
)
from tenure.model.names import CellName
from tenure.model.operation import Operation, OperationState, StepState
from tenure.registry.registry import Registry
from tests.integration.engine.conftest import ACME
from tests.integration.engine.sample_operation import QUICK, SAMPLE, at, with_step

Effects = Callable[[], set[str]]


def test_an_operation_runs_all_its_steps_in_order_and_records_them(
    engine: Engine, registry: Registry, operation: Operation, effects: Effects
) -> None:
    seen: list[Notice] = []
    ended = engine.run(operation.id, SAMPLE, observer=compose(seen.append))
    assert ended.state is OperationState.SOAKING
    assert ended.committed
    assert ended.result == {"cell": "green"}
    assert ended.data == {"prepared_by": 1}
    assert ended.error is None
    assert effects() == {"prepared", "copied 0", "copied 1", "copied 2", "finished"}
    assert [s.state for s in registry.steps.list(operation.id)] == [StepState.DONE] * 4
    assert registry.placements.get(ACME).cell == "green"
    assert registry.placements.get(ACME).epoch == 2
    assert [n.step for n in seen if isinstance(n, StepStarted)] == ["prepare", "copy", "switch", "finish"]
    actions = [e.action for e in registry.events.list(operation=operation.id)]
    assert actions[0] == "operation_created"
    assert actions[-1] == "operation_soaking"
    assert actions.index("placement_changed") < actions.index("sample_held")
    assert actions.count("step_done") == 4


def test_events_put_off_are_written_after_the_commit_with_the_time_they_happened(
    engine: Engine, registry: Registry, operation: Operation
) -> None:
    engine.run(operation.id, SAMPLE, observer=at("before_commit", lambda: time.sleep(0.2)))
    events = {e.action: e for e in registry.events.list(operation=operation.id)}
    assert events["sample_held"].seq > events["placement_changed"].seq
    assert events["sample_held"].at < events["placement_changed"].at
    assert registry.operations.get(operation.id).phase == "soaking"


def test_running_an_operation_that_has_ended_changes_nothing(
    engine: Engine, registry: Registry, operation: Operation
) -> None:
    first = engine.run(operation.id, SAMPLE)
    last = registry.events.last()
    assert engine.run(operation.id, SAMPLE) == first
    assert engine.resume(operation.id, SAMPLE) == first
    assert registry.events.last() == last


def test_a_retryable_error_is_tried_again_until_it_works(
    engine: Engine, registry: Registry, operation: Operation
) -> None:
    tries: list[int] = []

    def flaky(context: StepContext) -> StepOutcome:
        tries.append(context.attempt)
        if len(tries) < 3:
            raise StoreUnavailable("the store is away")
        return Done()

    assert engine.run(operation.id, with_step("copy", flaky)).state is OperationState.SOAKING
    assert tries == [1, 2, 3]
    retried = [e for e in registry.events.list(operation=operation.id) if e.action == "step_retried"]
    assert [e.data["error"]["message"] for e in retried] == ["the store is away"] * 2


def test_attempts_are_capped_and_then_the_operation_aborts(
    engine: Engine, operation: Operation, effects: Effects
) -> None:
    tries: list[int] = []

    def never(context: StepContext) -> StepOutcome:
        tries.append(context.attempt)
        return Retry(after_s=0.01, reason="not yet")

    ended = engine.run(operation.id, with_step("copy", never, max_attempts=3))
    assert tries == [1, 2, 3]
    assert ended.state is OperationState.ABORTED
    assert ended.error is not None
    assert ended.error["step"] == "copy"
    assert "tried 3 times" in ended.error["message"]
    assert "not yet" in ended.error["message"]
    assert effects() == {"aborted"}


def test_attempts_used_up_are_reported_as_the_last_error(engine: Engine, operation: Operation) -> None:
    def away(context: StepContext) -> StepOutcome:
        raise StoreUnavailable("the store is away", hint="start it")

    ended = engine.run(operation.id, with_step("copy", away, max_attempts=2))
    assert ended.state is OperationState.ABORTED
    assert ended.error == {
        "code": "unavailable",
        "message": "the step 'copy' was tried 2 times; the last time: the store is away",
        "hint": "start it",
        "step": "copy",
        "type": "StoreUnavailable",
    }


def test_a_resume_while_the_step_waits_its_turn_goes_on_at_once_or_waits(
    engine: Engine, registry: Registry, operation: Operation
) -> None:
    waited: list[float] = []

    def later(context: StepContext) -> StepOutcome:
        return Done() if context.attempt > 1 else Retry(after_s=0.3, reason="not yet")

    def watch(notice: Notice) -> None:
        if isinstance(notice, Waiting):
            waited.append(notice.due_in_s)

    spec = with_step("copy", later)
    assert engine.run(operation.id, spec, wait_s=0).state is OperationState.RUNNING
    assert engine.resume(operation.id, spec, observer=watch).state is OperationState.SOAKING
    assert len(waited) == 1
    assert 0 < waited[0] <= 0.3


def test_an_operation_planned_with_other_steps_is_refused(engine: Engine, operation: Operation) -> None:
    other = OperationSpec(kind="sample", steps=SAMPLE.steps[:2])
    with pytest.raises(ConfigurationError, match="planned with other steps"):
        engine.run(operation.id, other)


def test_parking_gives_a_step_new_attempts_and_the_worker_its_time_back(
    engine: Engine, registry: Registry, operation: Operation
) -> None:
    rounds: list[int] = []

    def parks(context: StepContext) -> StepOutcome:
        rounds.append(context.attempt)
        if len(rounds) < 6:
            return Park(until=datetime.now(UTC) + timedelta(seconds=0.05), reason="still copying")
        return Done() if len(rounds) > 6 else Retry(after_s=0.01, reason="once")

    spec = with_step("copy", parks, max_attempts=2)
    left = engine.run(operation.id, spec, wait_s=0)
    assert left.state is OperationState.PARKED
    assert len(rounds) == 1
    assert engine.run(operation.id, spec).state is OperationState.SOAKING
    assert len(rounds) == 7


def test_a_step_that_asks_waits_for_a_confirmation_in_any_process_and_may_ask_again(
    engine: Engine, registry: Registry, operation: Operation
) -> None:
    confirmed: list[bool] = []

    def asks(context: StepContext) -> StepOutcome:
        confirmed.append(context.confirmed)
        return Done() if len(confirmed) == 3 else Ask(question=f"is it {len(confirmed)}?")

    spec = with_step("finish", asks, max_attempts=1)
    with pytest.raises(NotAllowed, match="waits for nobody's confirmation"):
        registry.steps.confirm(operation.id, actor="alice")
    for round_ in (1, 2):
        waiting = engine.run(operation.id, spec)
        assert (waiting.state, waiting.phase) == (OperationState.AWAITING, "awaiting_confirmation")
        assert waiting.data["question"] == f"is it {round_}?"
        assert operation.id not in registry.operations.due()
        assert engine.resume(operation.id, spec).state is OperationState.AWAITING
        assert len(confirmed) == round_
        registry.steps.confirm(operation.id, actor="alice")
        registry.steps.confirm(operation.id, actor="bob")  # the second one comes too late to change anything
        assert operation.id in registry.operations.due()
    ended = engine.run(operation.id, spec)
    assert ended.state is OperationState.SOAKING
    assert confirmed == [False, True, True]
    assert ended.data["confirmed"] == "alice"
    actions = [e.action for e in registry.events.list(operation=operation.id)]
    assert (actions.count("confirmation_asked"), actions.count("confirmed")) == (2, 2)


def test_an_operation_that_waits_for_a_person_can_be_cancelled_before_its_commit(
    engine: Engine, registry: Registry, operation: Operation, effects: Effects
) -> None:
    spec = with_step("copy", lambda context: Ask(question="shall I?"))
    assert engine.run(operation.id, spec).state is OperationState.AWAITING
    assert engine.cancel(operation.id, spec).state is OperationState.ABORTED
    assert effects() == {"aborted"}


def test_an_unknown_exception_is_not_retried_and_runs_the_abort(
    engine: Engine, registry: Registry, operation: Operation, effects: Effects
) -> None:
    tries: list[int] = []

    def breaks(context: StepContext) -> StepOutcome:
        tries.append(context.attempt)
        raise ZeroDivisionError("boom")

    ended = engine.run(operation.id, with_step("copy", breaks))
    assert tries == [1]
    assert ended.state is OperationState.ABORTED
    assert ended.error is not None
    assert ended.error["type"] == "ZeroDivisionError"
    assert ended.error["code"] == "failed"
    assert "boom" in ended.error["message"]
    assert effects() == {"aborted"}
    assert registry.operations.active_for(ACME) is None


def test_after_the_commit_a_failure_waits_for_a_resume_and_only_goes_forward(
    engine: Engine, registry: Registry, operation: Operation, effects: Effects
) -> None:
    def breaks(context: StepContext) -> StepOutcome:
        raise ZeroDivisionError("boom")

    stuck = engine.run(operation.id, with_step("finish", breaks))
    assert stuck.state is OperationState.RUNNING
    assert stuck.needs_resume
    assert stuck.error is not None
    assert stuck.error["step"] == "finish"
    assert "aborted" not in effects()
    assert operation.id not in registry.operations.due()
    assert engine.run(operation.id, SAMPLE).needs_resume
    with pytest.raises(NotAllowed) as refused:
        engine.cancel(operation.id, SAMPLE)
    assert f"tenure op resume {operation.id}" in (refused.value.hint or "")
    assert "tenure rollback acme" in (refused.value.hint or "")
    ended = engine.resume(operation.id, SAMPLE)
    assert ended.state is OperationState.SOAKING
    assert ended.error is None
    assert "finished" in effects()


def test_a_failure_right_after_the_commit_in_the_same_step_does_not_abort(
    engine: Engine, registry: Registry, operation: Operation, effects: Effects
) -> None:
    def switch(context: StepContext) -> StepOutcome:
        context.commit(expected_epoch=1, to_cell=CellName("green"))
        return Failed(error=StoreRefused("the target does not open"))

    stuck = engine.run(operation.id, with_step("switch", switch))
    assert stuck.needs_resume
    assert stuck.committed
    assert "aborted" not in effects()
    assert engine.resume(operation.id, SAMPLE).state is OperationState.SOAKING
    assert [c.epoch for c in registry.placements.history(ACME)] == [1, 2]


def test_an_operation_without_an_abort_ends_in_failed(engine: Engine, registry: Registry) -> None:
    def fails(context: StepContext) -> StepOutcome:
        return Failed(error=StoreRefused("no"))

    spec = OperationSpec(kind="check", steps=(StepSpec(name="look", run=fails),))
    ended = engine.run(engine.create(spec, tenant=ACME).id, spec)
    assert ended.state is OperationState.FAILED
    assert ended.error is not None
    assert ended.error["code"] == "store_refused"
    assert registry.operations.active_for(ACME) is None


def test_an_abort_that_fails_gets_stuck_and_a_resume_finishes_it(
    engine: Engine, registry: Registry, operation: Operation, effects: Effects
) -> None:
    def breaks(context: StepContext) -> StepOutcome:
        raise ZeroDivisionError("boom")

    def abort_breaks(context: StepContext) -> None:
        raise KeyError("gone")

    spec = with_step("copy", breaks)
    broken = OperationSpec(kind="sample", steps=spec.steps, abort=abort_breaks)
    stuck = engine.run(operation.id, broken)
    assert stuck.state is OperationState.ABORTING
    assert stuck.needs_resume
    assert stuck.error is not None
    assert stuck.error["type"] == "ZeroDivisionError", "the reason of the abort stays, not what the abort hit"
    assert registry.steps.list(operation.id)[-1].error is not None
    ended = engine.resume(operation.id, spec)
    assert ended.state is OperationState.ABORTED
    assert effects() == {"aborted"}


def test_a_cancel_before_the_first_step_leaves_nothing_behind(
    engine: Engine, registry: Registry, operation: Operation, effects: Effects
) -> None:
    assert engine.cancel(operation.id, SAMPLE).state is OperationState.ABORTED
    assert effects() == set()
    assert engine.cancel(operation.id, SAMPLE).state is OperationState.ABORTED


def test_a_cancel_while_a_step_runs_is_heeded_by_check_and_runs_the_abort(
    engine: Engine, registry: Registry, operation: Operation, effects: Effects
) -> None:
    inside = threading.Event()
    raised: list[BaseException] = []

    def waits(context: StepContext) -> StepOutcome:
        inside.set()
        try:
            context.wait(30)
        except Cancelled as error:
            raised.append(error)
            raise
        return Done()

    spec = with_step("copy", waits)
    runner = threading.Thread(target=engine.run, args=(operation.id, spec))
    runner.start()
    assert inside.wait(10)
    ended = engine.cancel(operation.id, spec, wait_s=20)
    runner.join(20)
    assert not runner.is_alive()
    assert raised
    assert ended.state is OperationState.ABORTED
    assert ended.error is not None
    assert ended.error["code"] == "cancelled"
    assert effects() == {"aborted"}
    assert [s.state for s in registry.steps.list(operation.id)] == [
        StepState.DONE,
        StepState.ABANDONED,
        StepState.PENDING,
        StepState.PENDING,
        StepState.DONE,
    ]


def test_a_cancel_between_steps_stops_the_next_step(
    engine: Engine, operation: Operation, effects: Effects
) -> None:
    def asks(notice: Notice) -> None:
        if isinstance(notice, StepEnded) and notice.step == "copy":
            engine._registry.operations.request_cancel(operation.id, actor="someone")

    assert engine.run(operation.id, SAMPLE, observer=asks).state is OperationState.ABORTED
    assert effects() == {"aborted"}


def test_a_cancel_that_comes_first_stops_the_commit(
    engine: Engine, registry: Registry, operation: Operation
) -> None:
    cancel = at("before_commit", lambda: _cancel(registry, operation))
    ended = engine.run(operation.id, SAMPLE, observer=cancel)
    assert ended.state is OperationState.ABORTED
    assert not ended.committed
    assert registry.placements.get(ACME).epoch == 1
    assert len(registry.placements.history(ACME)) == 1


def _cancel(registry: Registry, operation: Operation) -> None:
    registry.operations.request_cancel(operation.id, actor="someone")


def test_a_cancel_after_the_commit_is_refused_and_the_operation_ends_well(
    engine: Engine, registry: Registry, operation: Operation
) -> None:
    refused: list[str] = []

    def too_late() -> None:
        with pytest.raises(NotAllowed) as error:
            _cancel(registry, operation)
        refused.append(error.value.message)

    ended = engine.run(operation.id, SAMPLE, observer=at("after_commit", too_late))
    assert len(refused) == 1
    assert ended.state is OperationState.SOAKING
    with pytest.raises(NotAllowed) as error:
        engine.cancel(operation.id, SAMPLE)
    assert error.value.hint == "`tenure rollback acme`"


@pytest.fixture
def ctrl_c_works() -> Iterator[None]:
    """Also where the tests were started in the background, with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_works")
def test_ctrl_c_gives_the_step_back_and_does_not_cancel(
    engine: Engine, registry: Registry, operation: Operation, effects: Effects
) -> None:
    with pytest.raises(Interrupted):
        engine.run(
            operation.id, SAMPLE, observer=at("after_copy", lambda: signal.raise_signal(signal.SIGINT))
        )
    step = registry.steps.list(operation.id)[1]
    assert step.state is StepState.PENDING
    assert step.attempts_used == 0
    assert registry.operations.get(operation.id).state is OperationState.RUNNING
    assert engine.resume(operation.id, SAMPLE).state is OperationState.SOAKING
    assert "aborted" not in effects()


@pytest.mark.usefixtures("ctrl_c_works")
def test_ctrl_c_inside_an_uninterrupted_block_waits_for_its_end(
    engine: Engine, registry: Registry, operation: Operation
) -> None:
    done: list[str] = []

    def switch(context: StepContext) -> StepOutcome:
        if not context.committed:
            with context.uninterrupted():
                signal.raise_signal(signal.SIGINT)
                done.append("went on")
                context.commit(expected_epoch=1, to_cell=CellName("green"))
        return Done()

    spec = with_step("switch", switch)
    with pytest.raises(Interrupted):
        engine.run(operation.id, spec)
    assert done == ["went on"]
    assert registry.operations.get(operation.id).committed
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert engine.resume(operation.id, spec).state is OperationState.SOAKING


def test_progress_is_kept_with_the_step_for_those_who_watch_from_elsewhere(
    engine: Engine, registry: Registry, operation: Operation, wait_until: Callable[..., None]
) -> None:
    told: list[Notice] = []

    def copies(context: StepContext) -> StepOutcome:
        context.progress("postgres", 5, 10, "rows", lag=1)
        wait_until(lambda: registry.steps.list(operation.id)[1].progress, "the heartbeat writes the progress")
        context.phase("catching_up")
        return Done()

    engine.run(operation.id, with_step("copy", copies), observer=told.append)
    progress = registry.steps.list(operation.id)[1].progress
    pace = {"per_s": None, "left_s": None}
    assert progress == {"postgres": {"done": 5, "total": 10, "unit": "rows", "lag": 1, **pace}}
    assert [(n.done, n.total) for n in told if isinstance(n, Progressed)] == [(5, 10)]
    assert "catching_up" in [n.phase for n in told if isinstance(n, PhaseChanged)]


def test_a_process_that_is_told_to_stop_gives_its_step_back_and_another_one_goes_on(
    registry: Registry, operation: Operation, effects: Callable[[], set[str]]
) -> None:
    """At a check, not as an attempt; what the step has kept stays. Nothing else is begun by the one that stops."""
    asked = False
    outcomes: list[str] = []

    def copy(context: StepContext) -> StepOutcome:
        nonlocal asked
        context.checkpoint(copied=1)
        asked = True
        try:
            context.wait(60)
        except Exception:  # noqa: BLE001  (what a step does with its errors must not keep the process from stopping)
            return Done()
        return Done()

    def watch(notice: Notice) -> None:
        if isinstance(notice, StepEnded):
            outcomes.append(notice.outcome)

    stopping = Engine(registry, actor="old", settings=QUICK, stopping=lambda: asked)
    left = stopping.run(operation.id, with_step("copy", copy), observer=watch)
    assert left.state is OperationState.RUNNING
    assert outcomes == ["done", "released"]
    assert stopping.run(operation.id, SAMPLE).state is OperationState.RUNNING
    step = registry.steps.list(operation.id)[1]
    assert (step.state, step.attempts_used, step.checkpoint) == (StepState.PENDING, 0, {"copied": 1})
    assert operation.id in registry.operations.due()
    ended = Engine(registry, actor="new", settings=QUICK).run(operation.id, SAMPLE)
    assert ended.state is OperationState.SOAKING
    assert effects() == {"prepared", "copied 1", "copied 2", "finished"}


def test_progress_is_kept_with_its_pace_for_those_who_watch_elsewhere(
    engine: Engine, registry: Registry, operation: Operation
) -> None:
    def copy(context: StepContext) -> StepOutcome:
        for done in (10, 20):
            context.progress("copy store", done, 100, "rows", bytes_done=done * 8, lag_bytes=0)
            context.wait(0.5)
        seen = registry.steps.list(operation.id)[1].progress["copy store"]
        assert (seen["done"], seen["total"], seen["unit"], seen["bytes_done"]) == (20, 100, "rows", 160)
        assert 0 < seen["per_s"] <= 20.1
        assert seen["left_s"] == pytest.approx(80 / seen["per_s"])
        return Done()

    assert engine.run(operation.id, with_step("copy", copy)).state is OperationState.SOAKING
