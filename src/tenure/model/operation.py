"""Operations, their steps and their events as plain values, and which state may follow which.

The database enforces the same states by compare-and-set; this module is the only place that says what is allowed.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from tenure.model.names import TenantId

JsonObject = Mapping[str, Any]
"""A JSON object as it is kept in the control database: the keys are texts, the values anything JSON knows."""

_ID_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_ID_RANDOM: Final = 6


class OperationState(StrEnum):
    """Where an operation is.

    A tenant has at most one operation in an *active* state. A *final* state never changes again. `soaking` is
    neither: the work is done, and a later operation (`rollback`, `complete`) says how it ended. `awaiting` goes on only
    when a person has confirmed what the operation asks for.
    """

    PLANNED = "planned"
    RUNNING = "running"
    PARKED = "parked"
    AWAITING = "awaiting"
    ABORTING = "aborting"
    SOAKING = "soaking"
    COMPLETED = "completed"
    ROLLED_BACK = "rolled_back"
    SUCCEEDED = "succeeded"
    ABORTED = "aborted"
    FAILED = "failed"

    @property
    def active(self) -> bool:
        return self in ACTIVE

    @property
    def final(self) -> bool:
        return not TRANSITIONS[self]


_STATE = OperationState

TRANSITIONS: Final[Mapping[OperationState, frozenset[OperationState]]] = {
    _STATE.PLANNED: frozenset({_STATE.RUNNING, _STATE.ABORTED}),
    _STATE.RUNNING: frozenset(
        {
            _STATE.PARKED,
            _STATE.AWAITING,
            _STATE.SOAKING,
            _STATE.SUCCEEDED,
            _STATE.ABORTING,
            _STATE.ABORTED,
            _STATE.FAILED,
        }
    ),
    _STATE.PARKED: frozenset({_STATE.RUNNING, _STATE.ABORTING, _STATE.ABORTED}),
    _STATE.AWAITING: frozenset({_STATE.RUNNING, _STATE.ABORTING, _STATE.ABORTED}),
    _STATE.ABORTING: frozenset({_STATE.ABORTED}),
    _STATE.SOAKING: frozenset({_STATE.COMPLETED, _STATE.ROLLED_BACK}),
    _STATE.COMPLETED: frozenset(),
    _STATE.ROLLED_BACK: frozenset(),
    _STATE.SUCCEEDED: frozenset(),
    _STATE.ABORTED: frozenset(),
    _STATE.FAILED: frozenset(),
}

ACTIVE: Final = frozenset({_STATE.PLANNED, _STATE.RUNNING, _STATE.PARKED, _STATE.AWAITING, _STATE.ABORTING})
AFTER_COMMIT: Final = frozenset(
    {_STATE.RUNNING, _STATE.PARKED, _STATE.AWAITING, _STATE.SOAKING, _STATE.SUCCEEDED}
)
"""What an operation whose placement change is committed may still become before it ends: never anything aborted."""


def may_become(old: OperationState, new: OperationState, *, committed: bool = False) -> bool:
    """Say whether an operation in `old` may go to `new`; one past the point of no return only forward."""
    if new not in TRANSITIONS[old]:
        return False
    return not (committed and old in ACTIVE and new not in AFTER_COMMIT)


class StepState(StrEnum):
    """Where a step is. There is no state for "skipped": a step that did not do its work failed or was abandoned.

    `abandoned` is a step that was cut off because its operation is being aborted.
    """

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    ABANDONED = "abandoned"


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One run of migrate, backup, erase, ...: what was asked, what was planned, and how far it is.

    `phase` is the word shown to people. `error` says why it is being (or was) aborted, or what keeps it from
    going on: `{"code", "message", "hint", "step", "type"}`. `data` are small working notes of the steps.
    """

    id: str
    kind: str
    tenant: TenantId | None
    state: OperationState
    phase: str
    request: JsonObject
    plan: JsonObject
    plan_digest: str
    requested_by: str
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    committed_at: datetime | None = None
    cancel_requested: bool = False
    stuck: bool = False
    result: JsonObject = field(default_factory=dict)
    error: JsonObject | None = None
    cost: JsonObject = field(default_factory=dict)
    data: JsonObject = field(default_factory=dict)

    @property
    def committed(self) -> bool:
        """The point of no return is behind it: it can only go forward."""
        return self.committed_at is not None

    @property
    def needs_resume(self) -> bool:
        """It stopped with an error before its end and goes on only when someone resumes it."""
        return self.state.active and self.stuck

    @property
    def rests(self) -> bool:
        """Nothing happens any more by itself: it has ended or soaks, awaits a person, or is stuck."""
        return not self.state.active or self.state is OperationState.AWAITING or self.needs_resume


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of an operation as the journal has it.

    `attempt` only grows; `attempts_used` counts those since the step last got somewhere, and is what is
    capped. `token` is the fencing token of the last claim, 0 before the first.
    """

    operation: str
    position: int
    name: str
    state: StepState
    attempt: int = 0
    attempts_used: int = 0
    token: int = 0
    lease_until: datetime | None = None
    lease_left_s: float = 0.0
    holder: str | None = None
    due_at: datetime | None = None
    due_in_s: float = 0.0
    checkpoint: JsonObject = field(default_factory=dict)
    progress: JsonObject = field(default_factory=dict)
    result: JsonObject | None = None
    error: JsonObject | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to run one attempt of a step. Whoever has a greater `token` has taken the step over."""

    operation: str
    position: int
    step: str
    attempt: int
    token: int
    holder: str


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of the journal. `action` is a stable key in the past tense."""

    seq: int
    at: datetime
    action: str
    actor: str
    operation: str | None = None
    tenant: TenantId | None = None
    data: JsonObject = field(default_factory=dict)


def new_operation_id(now: datetime | None = None) -> str:
    """Make an id such as `op_20260101T120000_k3f9ab`: sorts by time, unique by 30 random bits."""
    stamp = (now or datetime.now(UTC)).astimezone(UTC)
    suffix = "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_RANDOM))
    return f"op_{stamp:%Y%m%dT%H%M%S}_{suffix}"
