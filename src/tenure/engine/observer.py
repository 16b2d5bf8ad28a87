"""What an operation tells those who watch it from the same process, while it happens.

Observers are called synchronously, in the thread of the step; they return soon and do not raise. Nothing
depends on them: what must survive is in the journal.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tenure.model.operation import JsonObject


@dataclass(frozen=True, kw_only=True)
class _Notice:
    operation: str
    step: str
    at_ns: int = field(default_factory=time.monotonic_ns)
    """`time.monotonic_ns()` of this process, to measure with."""


@dataclass(frozen=True, kw_only=True)
class StepStarted(_Notice):
    """An attempt of a step begins."""

    attempt: int
    taken_over: bool


@dataclass(frozen=True, kw_only=True)
class StepEnded(_Notice):
    """An attempt of a step has ended and is recorded. `outcome` is done, retried, parked, asked, failed or released."""

    outcome: str
    detail: JsonObject


@dataclass(frozen=True, kw_only=True)
class PhaseChanged(_Notice):
    """The word shown to people has changed."""

    phase: str


@dataclass(frozen=True, kw_only=True)
class PointReached(_Notice):
    """The step has come to a named point: timelines are made of them, and tests interrupt there."""

    point: str
    data: JsonObject


@dataclass(frozen=True, kw_only=True)
class Progressed(_Notice):
    """How far the step is with one thing it does. `total` is None where it is not known."""

    what: str
    done: int
    total: int | None
    unit: str
    detail: JsonObject


@dataclass(frozen=True, kw_only=True)
class EventWritten(_Notice):
    """The step has written, or has put off writing, an event of its own."""

    action: str
    data: JsonObject


@dataclass(frozen=True, kw_only=True)
class Waiting(_Notice):
    """Nothing is due yet; the executor waits."""

    due_in_s: float


@dataclass(frozen=True, kw_only=True)
class HandedOver(_Notice):
    """The operation is the fleet's now: `workers` living ones serve its queue. `problem` is why none could be told."""

    queue: str
    workers: int
    problem: str | None = None


Notice = (
    StepStarted | StepEnded | PhaseChanged | PointReached | Progressed | EventWritten | Waiting | HandedOver
)
Observer = Callable[[Notice], None]


def nobody(notice: Notice) -> None:
    """Watch nothing."""


def compose(*observers: Observer) -> Observer:
    """Make one observer that passes every notice to all of them, in their order."""

    def tell(notice: Notice) -> None:
        for observer in observers:
            observer(notice)

    return tell
