"""What an operation is made of: its steps in order, how each is retried, and how it is aborted.

Running a step gives one of five frozen outcomes. A step may also raise: see `StepSpec.run`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from tenure.errors import TenureError
from tenure.model.operation import JsonObject, OperationState
from tenure.registry.operations import ABORT_POSITION, ABORT_STEP

if TYPE_CHECKING:
    from tenure.engine.context import StepContext


@dataclass(frozen=True, kw_only=True)
class Done:
    """The step did its work."""

    result: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Retry:
    """The step could not do its work now; try again after that time. Counts as an attempt.

    `error` is what the operation reports if this was the last attempt.
    """

    after_s: float
    reason: str
    error: TenureError | None = None


@dataclass(frozen=True, kw_only=True)
class Park:
    """The step has got somewhere and has nothing to do until then. Its attempts count anew."""

    until: datetime
    reason: str

    def __post_init__(self) -> None:
        if self.until.tzinfo is None:
            raise ValueError("Park.until needs a time zone")


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The step cannot do its work, and trying again would not help."""

    error: TenureError


@dataclass(frozen=True, kw_only=True)
class Ask:
    """The step goes on only when a person has confirmed `question`: what to look at, in one sentence.

    The operation is `awaiting` until then, whatever happens to the process. The step runs again after the confirmation
    and finds it in `StepContext.confirmed`; it may ask again, and its attempts count anew.
    """

    question: str


StepOutcome = Done | Retry | Park | Ask | Failed


@dataclass(frozen=True, kw_only=True)
class StepSpec:
    """One step. `run` may be called again after any interruption, by another process, and must then carry on.

    What `run` raises becomes an outcome: a retryable `TenureError` is `Retry` (after `backoff_s`, doubled
    with every attempt), any other `TenureError` is `Failed`, and an unknown exception fails the step with its
    type, unretried. Of `max_attempts` those count that the step needed since it last parked.
    """

    name: str
    run: Callable[[StepContext], StepOutcome]
    max_attempts: int = 5
    backoff_s: float = 1.0
    phase: str | None = None
    """The word shown to people from the start of this step on; None leaves it."""


@dataclass(frozen=True, kw_only=True)
class OperationSpec:
    """The steps of one kind of operation, and what takes them back.

    `abort` cleans up everything the steps may have created, whatever has or has not been done; it runs as a
    step of its own, leased, recorded, retried and resumed like the others. Without it a failed step ends the
    operation in `failed`. `ends_in` is the state after the last step.
    """

    kind: str
    steps: tuple[StepSpec, ...]
    abort: Callable[[StepContext], None] | None = None
    abort_attempts: int = 10
    abort_backoff_s: float = 1.0
    ends_in: OperationState = OperationState.SUCCEEDED

    def __post_init__(self) -> None:
        names = [step.name for step in self.steps]
        if len(set(names)) != len(names) or ABORT_STEP in names:
            raise ValueError(f"the steps of {self.kind} need different names, and none may be {ABORT_STEP!r}")
        if len(names) >= ABORT_POSITION:
            raise ValueError(f"{self.kind} has too many steps")
        if self.ends_in not in {OperationState.SUCCEEDED, OperationState.SOAKING}:
            raise ValueError(f"{self.kind} cannot end in {self.ends_in}")

    def step_names(self) -> tuple[str, ...]:
        """Name the steps in their order."""
        return tuple(step.name for step in self.steps)
