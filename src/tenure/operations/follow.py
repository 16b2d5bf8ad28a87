"""Following an operation that another process runs: everything comes from the journal, and nothing is changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from tenure.engine.observer import Observer, PhaseChanged, Progressed, StepEnded, StepStarted
from tenure.errors import DeadlineExceeded, StoreUnavailable
from tenure.model.operation import Event, JsonObject, Operation, Step, StepState
from tenure.registry.registry import Registry

POLL_S: Final = 0.3
"""Often enough for somebody who watches; two small queries each."""
PATIENCE_S: Final = 90.0
"""How long the control database may be away: the operation goes on without the one who watches."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """An operation as it is now, and what has happened since the look before."""

    operation: Operation
    steps: tuple[Step, ...]
    events: tuple[Event, ...]

    def progress(self) -> dict[str, JsonObject]:
        """How far the running step is with each thing it does: see `StepContext.progress`."""
        return {
            what: progress
            for step in self.steps
            if step.state is StepState.RUNNING
            for what, progress in step.progress.items()
        }


def looks(registry: Registry, operation_id: str, *, since: int = 0, poll_s: float = POLL_S) -> Iterator[Look]:
    """Look again and again until the operation rests; `since` is the number of the last event that is known.

    Raises `UnknownName`, and `StoreUnavailable` if the control database is away for longer than `PATIENCE_S`.
    """
    away_since: float | None = None
    while True:
        try:
            # The operation first: whatever made it rest is among the events that are read after it.
            operation = registry.operations.get(operation_id)
            events = registry.events.list(operation=operation_id, since=since)
            look = Look(operation=operation, steps=registry.steps.list(operation_id), events=events)
        except (StoreUnavailable, DeadlineExceeded):
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > PATIENCE_S:
                raise
        else:
            away_since = None
            since = events[-1].seq if events else since
            yield look
            if operation.rests:
                return
        threading.Event().wait(poll_s)


@dataclass
class Teller:
    """Tells an observer what a look shows, in the words in which a process tells of its own steps."""

    observer: Observer
    _told: dict[str, JsonObject] = field(default_factory=dict)

    def tell(self, look: Look) -> None:
        operation = look.operation.id
        for event in look.events:
            self._event(operation, event)
        for step in look.steps:
            if step.state is StepState.RUNNING:
                for what, progress in step.progress.items():
                    self._progress(operation, step.name, what, progress)

    def _event(self, operation: str, event: Event) -> None:
        step, data = str(event.data.get("step", "")), event.data
        match event.action:
            case "phase_changed":
                self.observer(PhaseChanged(operation=operation, step=step, phase=str(data["phase"])))
            case "step_started" | "step_taken_over":
                self._told.clear()
                taken_over = event.action == "step_taken_over"
                self.observer(
                    StepStarted(
                        operation=operation, step=step, attempt=data["attempt"], taken_over=taken_over
                    )
                )
            case "step_retried" | "step_failed":
                outcome = event.action.removeprefix("step_")
                self.observer(
                    StepEnded(operation=operation, step=step, outcome=outcome, detail=data.get("error", {}))
                )
            case _:
                pass

    def _progress(self, operation: str, step: str, what: str, progress: JsonObject) -> None:
        if self._told.get(what) == progress:
            return
        self._told[what] = progress
        detail = {k: v for k, v in progress.items() if k not in {"done", "total", "unit"}}
        self.observer(
            Progressed(
                operation=operation,
                step=step,
                what=what,
                done=progress["done"],
                total=progress["total"],
                unit=progress["unit"],
                detail=detail,
            )
        )
