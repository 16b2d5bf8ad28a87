"""A small operation that notes every effect in the control database, and a process that runs it and can be stopped.

`python -m tests.integration.engine.sample_operation DSN OPERATION ACTOR [--kill-at POINT] [--stop-at POINT]` prints the
state in which the operation was left, or the code of the error.
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Callable
from dataclasses import replace

from tenure.engine.context import StepContext
from tenure.engine.engine import Engine
from tenure.engine.observer import Notice, Observer, PointReached, nobody
from tenure.engine.settings import EngineSettings
from tenure.engine.spec import Done, OperationSpec, StepOutcome, StepSpec
from tenure.errors import TenureError
from tenure.model.names import CellName
from tenure.model.operation import OperationState
from tenure.model.secret import Secret
from tenure.registry.registry import Registry

QUICK = EngineSettings(lease_ttl_s=1.0, heartbeat_s=0.2, backoff_max_s=0.2, poll_s=0.05)
"""Leases that run out while a test waits."""

POINTS = (
    "before_prepare",
    "after_prepare",
    "before_copy",
    "after_copy",
    "before_switch",
    "before_commit",
    "after_commit",
    "before_finish",
    "after_finish",
)
BEFORE_COMMIT = POINTS[: POINTS.index("before_commit") + 1]


def note(context: StepContext, effect: str) -> None:
    """Write an effect that is visible to the test; the table takes each one once, like an idempotent side effect."""
    with context.registry.database.connection() as connection:
        connection.execute(
            "insert into public.effects (operation, effect) values (%s, %s) on conflict do nothing",
            (context.lease.operation, effect),
        )


def _prepare(context: StepContext) -> StepOutcome:
    context.reach("before_prepare")
    note(context, "prepared")
    context.remember(prepared_by=context.attempt)
    context.reach("after_prepare")
    return Done(result={"prepared": True})


def _copy(context: StepContext) -> StepOutcome:
    context.reach("before_copy")
    for n in range(context.saved.get("copied", 0), 3):
        context.check()
        note(context, f"copied {n}")
        context.checkpoint(copied=n + 1)
    context.reach("after_copy")
    return Done(result={"copied": 3})


def _switch(context: StepContext) -> StepOutcome:
    context.reach("before_switch")
    epoch = int(context.operation.request["epoch"])
    context.rehearse_commit(expected_epoch=epoch, to_cell=CellName("green"))
    context.later_event("sample_held", waiting=0)
    context.phase("sealing", later=True)
    context.reach("before_commit")
    context.commit(expected_epoch=epoch, to_cell=CellName("green"))
    context.reach("after_commit")
    return Done()


def _finish(context: StepContext) -> StepOutcome:
    context.reach("before_finish")
    note(context, "finished")
    context.record_result(cell="green")
    context.reach("after_finish")
    return Done()


def _abort(context: StepContext) -> None:
    context.reach("before_abort")
    with context.registry.database.connection() as connection:
        connection.execute("delete from public.effects where operation = %s", (context.lease.operation,))
    note(context, "aborted")
    context.reach("after_abort")


SAMPLE = OperationSpec(
    kind="sample",
    steps=(
        StepSpec(name="prepare", run=_prepare, backoff_s=0.02, phase="provisioning"),
        StepSpec(name="copy", run=_copy, backoff_s=0.02, phase="copying"),
        StepSpec(name="switch", run=_switch, backoff_s=0.02, phase="holding"),
        StepSpec(name="finish", run=_finish, backoff_s=0.02),
    ),
    abort=_abort,
    abort_backoff_s=0.02,
    ends_in=OperationState.SOAKING,
)


def with_step(
    name: str, run: Callable[[StepContext], StepOutcome], *, max_attempts: int = 5
) -> OperationSpec:
    """Give the sample operation with another handler for one step."""
    steps = tuple(
        replace(s, run=run, max_attempts=max_attempts) if s.name == name else s for s in SAMPLE.steps
    )
    return replace(SAMPLE, steps=steps)


def at(point: str | None, act: Callable[[], None]) -> Observer:
    """Observe by doing something when the operation comes to a point."""

    def observe(notice: Notice) -> None:
        if isinstance(notice, PointReached) and notice.point == point:
            act()

    return nobody if point is None else observe


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dsn")
    parser.add_argument("operation")
    parser.add_argument("actor")
    parser.add_argument("--kill-at")
    parser.add_argument("--stop-at")
    given = parser.parse_args()
    registry = Registry.connect(Secret(given.dsn))
    engine = Engine(registry, actor=given.actor, settings=QUICK)

    def observe(notice: Notice) -> None:
        at(given.kill_at, lambda: os.kill(os.getpid(), signal.SIGKILL))(notice)
        at(given.stop_at, lambda: os.kill(os.getpid(), signal.SIGSTOP))(notice)

    try:
        print(engine.run(given.operation, SAMPLE, observer=observe).state)
    except TenureError as error:
        print(error.code)
    finally:
        registry.close()


if __name__ == "__main__":
    main()
