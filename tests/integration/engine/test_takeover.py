"""Processes that die, freeze and race: another one carries on, and what comes too late changes nothing."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tenure.engine.context import StepContext
from tenure.engine.engine import Engine
from tenure.engine.heartbeat import Heartbeat
from tenure.engine.holder import this_process
from tenure.engine.observer import nobody
from tenure.engine.settings import EngineSettings
from tenure.engine.spec import Done, StepOutcome
from tenure.errors import Interrupted, LeaseLost, NotAllowed, StillRunning, StoreUnavailable
from tenure.estate.local import RunningEstate
from tenure.model.names import CellName
from tenure.model.operation import Lease, Operation, OperationState, Step, StepState
from tenure.registry.claims import Claim
from tenure.registry.registry import Registry
from tests.integration.engine.conftest import ACME
from tests.integration.engine.sample_operation import BEFORE_COMMIT, POINTS, QUICK, SAMPLE, at, with_step

Start = Callable[..., "subprocess.Popen[str]"]
Effects = Callable[[], set[str]]
WaitUntil = Callable[..., None]

ALL = {"prepared", "copied 0", "copied 1", "copied 2", "finished"}


@pytest.mark.faults
@pytest.mark.parametrize("point", POINTS)
def test_a_process_killed_at_any_point_is_carried_on_from_at_once(
    point: str, start: Start, engine: Engine, registry: Registry, operation: Operation, effects: Effects
) -> None:
    """The dead holder is on this host: its lease is not waited for."""
    assert start("first", kill_at=point).wait(30) == -signal.SIGKILL
    step = next(s for s in registry.steps.list(operation.id) if s.state is not StepState.DONE)
    assert step.state is StepState.RUNNING
    ended = engine.run(operation.id, SAMPLE)
    assert ended.state is OperationState.SOAKING
    assert effects() == ALL
    assert [(c.cell, c.epoch) for c in registry.placements.history(ACME)] == [("blue", 1), ("green", 2)]
    assert "step_taken_over" in [e.action for e in registry.events.list(operation=operation.id)]


@pytest.mark.faults
@pytest.mark.parametrize("point", POINTS)
def test_cancelling_what_a_killed_process_left_aborts_before_the_commit_and_is_refused_after(
    point: str, start: Start, engine: Engine, registry: Registry, operation: Operation, effects: Effects
) -> None:
    assert start("first", kill_at=point).wait(30) == -signal.SIGKILL
    if point in BEFORE_COMMIT:
        assert engine.cancel(operation.id, SAMPLE).state is OperationState.ABORTED
        assert effects() == {"aborted"}
        assert registry.placements.get(ACME).epoch == 1
    else:
        with pytest.raises(NotAllowed, match="point of no return"):
            engine.cancel(operation.id, SAMPLE)
        assert engine.resume(operation.id, SAMPLE).state is OperationState.SOAKING
        assert effects() == ALL


@pytest.mark.faults
@pytest.mark.parametrize("point", ["before_abort", "after_abort"])
def test_an_abort_cut_off_by_a_kill_is_finished_by_a_resume(
    point: str, start: Start, engine: Engine, registry: Registry, operation: Operation, effects: Effects
) -> None:
    with pytest.raises(Interrupted):
        engine.run(operation.id, SAMPLE, observer=at("after_copy", _interrupt))
    registry.operations.request_cancel(operation.id, actor="someone")
    assert start("first", kill_at=point).wait(30) == -signal.SIGKILL
    assert registry.operations.get(operation.id).state is OperationState.ABORTING
    assert registry.operations.active_for(ACME) is not None, "the tenant stays locked until the abort is over"
    assert engine.resume(operation.id, SAMPLE).state is OperationState.ABORTED
    assert effects() == {"aborted"}


def _interrupt() -> None:
    raise KeyboardInterrupt


def test_of_processes_that_race_one_runs_each_step(
    start: Start, engine: Engine, registry: Registry, operation: Operation, effects: Effects
) -> None:
    racers = [start(f"racer-{n}") for n in range(3)]
    said = sorted((p.communicate(timeout=60)[0] or "").strip() for p in racers)
    assert "soaking" in said
    assert set(said) <= {"soaking", "still_running"}
    assert effects() == ALL
    started = [
        e.data["step"] for e in registry.events.list(operation=operation.id) if e.action == "step_started"
    ]
    assert started == ["prepare", "copy", "switch", "finish"]


def test_a_second_claim_of_the_same_attempt_is_refused(registry: Registry, operation: Operation) -> None:
    seen = registry.steps.list(operation.id)[0]
    claims = [_claim(registry, operation, seen_index=0, step=seen) for _ in range(2)]
    assert claims[0] is not None
    assert claims[1] is None


def test_a_running_step_is_claimed_only_after_its_lease_or_its_holder_and_only_once(
    registry: Registry, operation: Operation
) -> None:
    assert _claim(registry, operation, seen_index=0) is not None
    running = registry.steps.list(operation.id)[0]
    assert _claim(registry, operation, seen_index=0, step=running) is None, "the lease lasts"
    assert _claim(registry, operation, seen_index=0, step=running, gone=True) is not None
    assert _claim(registry, operation, seen_index=0, step=running, gone=True) is None, (
        "seen before the takeover"
    )


def test_a_later_step_cannot_be_claimed_before_the_earlier_ones_are_done(
    registry: Registry, operation: Operation
) -> None:
    assert _claim(registry, operation, seen_index=1) is None


def test_a_live_holder_is_not_disturbed(
    start: Start, engine: Engine, registry: Registry, operation: Operation, wait_until: WaitUntil
) -> None:
    """A stopped process is alive: only the end of its lease frees the step."""
    process = start("first", stop_at="after_copy")
    wait_until(lambda: _stopped(process.pid), "the process stops")
    with pytest.raises(StillRunning) as refused:
        engine.resume(operation.id, SAMPLE)
    assert f":{process.pid}:" in refused.value.message
    assert "'copy'" in refused.value.message
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=30)[0].strip() == "soaking"


@pytest.mark.faults
@pytest.mark.parametrize("point", ["after_copy", "before_commit", "after_commit", "after_finish"])
def test_a_frozen_process_that_wakes_after_its_lease_changes_nothing(
    point: str,
    start: Start,
    engine: Engine,
    registry: Registry,
    operation: Operation,
    effects: Effects,
    wait_until: WaitUntil,
) -> None:
    process = start("frozen", stop_at=point)
    wait_until(lambda: _stopped(process.pid), "the process stops")
    wait_until(lambda: _lease_left(registry, operation) <= 0, "the lease runs out")
    ended = engine.run(operation.id, SAMPLE)
    assert ended.state is OperationState.SOAKING
    before = (registry.events.list(), registry.placements.history(ACME), registry.steps.list(operation.id))
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=30)[0].strip() == "lease_lost"
    assert (
        registry.events.list(),
        registry.placements.history(ACME),
        registry.steps.list(operation.id),
    ) == before
    assert registry.operations.get(operation.id) == ended
    assert effects() == ALL


def test_a_frozen_process_loses_its_step_to_a_cancel_once_its_lease_is_over(
    start: Start,
    engine: Engine,
    registry: Registry,
    operation: Operation,
    effects: Effects,
    wait_until: WaitUntil,
) -> None:
    process = start("frozen", stop_at="before_commit")
    wait_until(lambda: _stopped(process.pid), "the process stops")
    assert engine.cancel(operation.id, SAMPLE, wait_s=20).state is OperationState.ABORTED
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=30)[0].strip() == "lease_lost"
    assert registry.placements.get(ACME).epoch == 1
    assert effects() == {"aborted"}


def test_a_lease_that_ran_out_but_was_not_taken_over_is_taken_up_again(
    start: Start, registry: Registry, operation: Operation, wait_until: WaitUntil
) -> None:
    process = start("slow", stop_at="after_copy")
    wait_until(lambda: _stopped(process.pid), "the process stops")
    wait_until(lambda: _lease_left(registry, operation) <= 0, "the lease runs out")
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=30)[0].strip() == "soaking"
    assert [s.attempt for s in registry.steps.list(operation.id)] == [1, 1, 1, 1]


def test_a_step_that_outlasts_its_lease_is_kept_by_its_heartbeat(
    engine: Engine, registry: Registry, operation: Operation
) -> None:
    def slow(context: StepContext) -> StepOutcome:
        context.wait(2.5)
        assert registry.steps.list(operation.id)[1].lease_left_s > 0
        return Done()

    assert engine.run(operation.id, with_step("copy", slow)).state is OperationState.SOAKING
    assert registry.steps.list(operation.id)[1].attempt == 1


def test_every_write_of_an_outdated_token_is_refused(registry: Registry, operation: Operation) -> None:
    old = _claimed(registry, operation)
    new = _claimed(registry, operation, gone=True)
    assert new.token > old.token
    steps, operations = registry.steps, registry.operations
    writes: list[Callable[[], object]] = [
        lambda: steps.heartbeat(old, ttl_s=1),
        lambda: steps.checkpoint(old, {"a": 1}),
        lambda: steps.finish(old, {}, actor="late"),
        lambda: steps.retry(old, after_s=0, error={}, actor="late"),
        lambda: steps.park(old, until=datetime.now(UTC), reason="late", actor="late"),
        lambda: steps.release(old, actor="late"),
        lambda: steps.fail(old, error={}, abortable=True, actor="late"),
        lambda: operations.merge(old, data={"late": True}),
        lambda: operations.set_phase(old, "late", actor="late"),
        lambda: registry.events.append("late", actor="late", lease=old),
        lambda: registry.links.set_source("link", CellName("green"), lease=old),
        lambda: registry.placements.rehearse(
            old, ACME, expected_epoch=1, to_cell=CellName("green"), actor="late"
        ),
        lambda: registry.placements.compare_and_swap(
            old, ACME, expected_epoch=1, to_cell=CellName("green"), actor="late"
        ),
    ]
    before = (registry.events.list(), steps.list(operation.id)[0].state, operations.get(operation.id))
    for write in writes:
        with pytest.raises(LeaseLost):
            write()
    assert (registry.events.list(), steps.list(operation.id)[0].state, operations.get(operation.id)) == before
    registry.steps.checkpoint(new, {"mine": True})
    assert steps.list(operation.id)[0].checkpoint == {"mine": True}


def test_a_required_lease_is_asked_for_at_the_control_database(
    registry: Registry, operation: Operation
) -> None:
    """The heartbeat has seen nothing yet, and the lease has not run out by the clock: `check` lets it go on."""
    context = _context(registry, _must_claim(registry, operation))
    context.require_lease()
    _run_out(registry, operation)
    context.require_lease()
    new = _context(registry, _must_claim(registry, operation, gone=True))
    context.check()
    with pytest.raises(LeaseLost, match="taken over"):
        context.require_lease()
    new.require_lease()
    registry.steps.finish(new.lease, {}, actor="test")
    with pytest.raises(LeaseLost):
        new.require_lease()


def test_a_lease_that_may_have_run_out_while_the_machine_slept_is_asked_for(
    registry: Registry, operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept_s, clock_gettime = 0.0, time.clock_gettime
    counted = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    monkeypatch.setattr(
        time, "clock_gettime", lambda clock: clock_gettime(clock) + (slept_s if clock == counted else 0.0)
    )
    old = _context(registry, _must_claim(registry, operation))
    new = _context(registry, _must_claim(registry, operation, gone=True))
    old.check()
    slept_s = 2 * EngineSettings().lease_ttl_s
    with pytest.raises(LeaseLost):
        old.check()
    new.check()


def test_a_step_that_keeps_killing_its_process_fails_in_the_end(
    engine: Engine, registry: Registry, operation: Operation, effects: Effects
) -> None:
    """Workers, unlike a person who resumes, do not start the count of its attempts anew."""
    for _ in range(10):
        _claimed(registry, operation, gone=True)
    _run_out(registry, operation)
    assert operation.id in registry.operations.due()
    ended = engine.run(operation.id, SAMPLE)
    assert ended.state is OperationState.ABORTED
    assert ended.error is not None
    assert "cut off 10 times" in ended.error["message"]
    assert effects() == {"aborted"}


@pytest.mark.parametrize(
    "point", ["before_copy", "after_copy", "before_commit", "after_commit", "after_finish"]
)
def test_connections_cut_at_any_point_are_opened_again_and_nothing_is_lost(
    point: str, engine: Engine, registry: Registry, operation: Operation, effects: Effects
) -> None:
    cuts: list[str] = []

    def cut() -> None:
        if not cuts:
            cuts.append(point)
            _cut_connections(registry)

    assert engine.run(operation.id, SAMPLE, observer=at(point, cut)).state is OperationState.SOAKING
    assert cuts == [point]
    assert effects() == ALL
    assert [c.epoch for c in registry.placements.history(ACME)] == [1, 2]


@pytest.mark.faults
def test_what_a_step_has_done_is_recorded_when_the_control_database_is_back(
    engine: Engine, registry: Registry, operation: Operation, servers: RunningEstate
) -> None:
    runs: list[int] = []

    def copies(context: StepContext) -> StepOutcome:
        runs.append(context.attempt)
        servers.stop("control")
        back.start()
        return Done(result={"copied": 3})

    back = threading.Timer(1.5, servers.start, args=["control"])
    ended = engine.run(operation.id, with_step("copy", copies))
    back.join()
    assert ended.state is OperationState.SOAKING
    assert runs == [1]


def test_a_control_database_that_stays_away_is_reported(
    registry: Registry, operation: Operation, servers: RunningEstate
) -> None:
    engine = Engine(registry, actor="test", settings=replace(QUICK, patience_s=0.3))
    servers.stop("control")
    try:
        with pytest.raises(StoreUnavailable) as error:
            engine.run(operation.id, SAMPLE)
    finally:
        servers.start("control")
    assert "control database" in error.value.message
    assert engine.run(operation.id, SAMPLE).state is OperationState.SOAKING


def _cut_connections(registry: Registry) -> None:
    with registry.database.dedicated() as connection:
        connection.execute(
            """
            select pg_terminate_backend(pid, 5000) from pg_stat_activity
            where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'
            """
        )


def _lease_left(registry: Registry, operation: Operation) -> float:
    return max(s.lease_left_s for s in registry.steps.list(operation.id))


def _stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _claim(
    registry: Registry, operation: Operation, *, seen_index: int, gone: bool = False, step: Step | None = None
) -> Claim | None:
    return registry.steps.claim(
        step or registry.steps.list(operation.id)[seen_index],
        holder=this_process(),
        holder_is_gone=gone,
        ttl_s=30,
        phase=None,
        actor="test",
    )


def _must_claim(registry: Registry, operation: Operation, *, gone: bool = False) -> Claim:
    claim = _claim(registry, operation, seen_index=0, gone=gone)
    assert claim is not None
    return claim


def _claimed(registry: Registry, operation: Operation, *, gone: bool = False) -> Lease:
    return _must_claim(registry, operation, gone=gone).lease


def _context(registry: Registry, claim: Claim) -> StepContext:
    """What a step is given, with a heartbeat that does not beat by itself."""
    heartbeat = Heartbeat(registry.steps, claim.lease, EngineSettings(), heeds_cancel=True)
    return StepContext(registry, claim, heartbeat, observer=nobody, actor="test")


def _run_out(registry: Registry, operation: Operation) -> None:
    with registry.database.connection() as connection:
        connection.execute(
            "update registry.steps set lease_until = clock_timestamp() where operation = %s", (operation.id,)
        )


def test_a_lease_is_heard_of_while_it_beats_and_soon_not_when_it_does_not(
    registry: Registry, operation: Operation, wait_until: Callable[..., None]
) -> None:
    settings = EngineSettings(lease_ttl_s=60.0, heartbeat_s=0.5)
    heartbeat = Heartbeat(registry.steps, _claimed(registry, operation), settings, heeds_cancel=True)
    with heartbeat:
        until = time.monotonic() + 2.0
        while time.monotonic() < until:
            assert heartbeat.heard
            time.sleep(0.05)
    wait_until(lambda: not heartbeat.heard, "most of the lease is left, and nobody has confirmed it lately")
