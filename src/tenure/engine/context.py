"""What a step may do besides its own work: check that it may go on, keep notes, journal, and commit the placement.

Every write goes through the step's lease: once another holder has taken the step over, all of them raise
`LeaseLost`.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any, Final

from tenure.engine import observer as notices
from tenure.engine.heartbeat import Heartbeat
from tenure.engine.observer import Observer
from tenure.engine.rates import Rates, left_s
from tenure.errors import DeadlineExceeded, LeaseLost, StoreUnavailable, TenureError, UsageError
from tenure.model.names import CellName, TenantId
from tenure.model.operation import JsonObject, Lease, Operation
from tenure.model.tenancy import Placement
from tenure.registry.claims import Claim
from tenure.registry.leases import held
from tenure.registry.registry import Registry

_ASK_AGAIN_S: Final = 0.05


class CommitUndecided(StoreUnavailable):
    """The control database was lost during the commit and has not come back, or the lease was lost as well: the commit
    may have happened or not.

    Neither cell may be opened for the tenant's writes until it is known.
    """


class StepContext:
    """Given to a step's `run` for one attempt. Used by the step's own threads as well, except `uninterrupted`."""

    def __init__(
        self, registry: Registry, claim: Claim, heartbeat: Heartbeat, *, observer: Observer, actor: str
    ) -> None:
        self.registry = registry
        self.lease: Lease = claim.lease
        self.operation: Operation = claim.operation
        """As it was at the claim; `remember`, `record_result`, `record_cost` and `commit` renew it."""
        self.saved: JsonObject = claim.step.checkpoint
        """What this step kept last by `checkpoint`, in this attempt or an earlier one."""
        self.taken_over = claim.taken_over
        """An earlier attempt was cut off: some of its work may have been done."""
        self._heartbeat = heartbeat
        self._observer = observer
        self._actor = actor
        self._later: list[tuple[float, Callable[[float], object]]] = []
        self._rates = Rates()
        self._lock = threading.Lock()

    @property
    def token(self) -> int:
        """The fencing token that side effects carry."""
        return self.lease.token

    @property
    def attempt(self) -> int:
        return self.lease.attempt

    @property
    def confirmed(self) -> bool:
        """A person has confirmed what this step asked for last."""
        return "confirmed" in self.operation.data

    @property
    def committed(self) -> bool:
        """The operation is past its point of no return."""
        return self.operation.committed

    def check(self) -> None:
        """Return if the step may go on; cheap enough for any loop.

        Raises `LeaseLost` if it was taken over, `Cancelled` if that was asked for and nothing is committed yet, and
        `HandBack` if this process was asked to stop: another one goes on from what the step has kept.
        """
        self._heartbeat.check()

    def require_lease(self) -> None:
        """Return if the control database says now that nobody has taken this step over; raise `LeaseLost` otherwise.

        To be called right before an act that cannot be taken back, or that a later holder could not see: `check`
        trusts what the last heartbeat saw. One round trip or two, so not for loops or a hold. It proves nothing
        about the time after it: what can carry the token or the epoch must carry it as well. Raises
        `StoreUnavailable` or `DeadlineExceeded` if the control database does not answer.
        """
        with held(self.registry.database, self.lease):
            pass

    def wait(self, seconds: float) -> None:
        """Wait that long; raises as `check` does as soon as there is a reason."""
        self._heartbeat.wait(seconds)

    def checkpoint(self, **values: Any) -> None:
        """Keep what this step needs to carry on after a crash; replaces what it had kept."""
        self.registry.steps.checkpoint(self.lease, values)
        self.saved = values

    def remember(self, **values: Any) -> None:
        """Add small working notes to `operation.data`, for this and later steps, and for the abort."""
        self.operation = self.registry.operations.merge(self.lease, data=values)

    def record_result(self, **values: Any) -> None:
        """Add to what the operation reports when it has ended."""
        self.operation = self.registry.operations.merge(self.lease, result=values)

    def record_cost(self, **values: Any) -> None:
        """Add to what the operation has cost."""
        self.operation = self.registry.operations.merge(self.lease, cost=values)

    def event(self, action: str, **data: Any) -> None:
        """Journal something that has happened; `action` is a stable key in the past tense."""
        self._observer(notices.EventWritten(**self._at, action=action, data=data))
        self._journal(action, data)

    def later_event(self, action: str, **data: Any) -> None:
        """Journal it with the time it has now, but not before `flush` or the step's end: a hold waits for no disk.

        A crash before that loses it.
        """
        self._observer(notices.EventWritten(**self._at, action=action, data=data))
        self._put_off(lambda age_s: self._journal(action, data, age_s))

    def phase(self, name: str, *, later: bool = False) -> None:
        """Show people another word for where the operation is; `later` is for the hold, as in `later_event`."""
        self._observer(notices.PhaseChanged(**self._at, phase=name))
        operations = self.registry.operations
        if later:
            self._put_off(
                lambda age_s: operations.set_phase(self.lease, name, actor=self._actor, age_s=age_s)
            )
        else:
            operations.set_phase(self.lease, name, actor=self._actor)

    def flush(self) -> None:
        """Write what was put off, in its order. The engine does it at the step's end, however that ends."""
        while True:
            with self._lock:
                if not self._later:
                    return
                happened, write = self._later[0]
            write(time.monotonic() - happened)
            with self._lock:
                self._later.pop(0)

    def reach(self, point: str, **data: Any) -> None:
        """Tell the observers that the step has come to a named point."""
        self._observer(notices.PointReached(**self._at, point=point, data=data))

    def progress(
        self, what: str, done: int, total: int | None = None, unit: str = "items", **detail: Any
    ) -> None:
        """Tell how far `what` is; the next heartbeat also keeps it with the step, with its pace and how long it will
        take, for those who watch elsewhere."""
        self._observer(
            notices.Progressed(**self._at, what=what, done=done, total=total, unit=unit, detail=detail)
        )
        with self._lock:
            per_s = self._rates.note(what, done, at_s=time.monotonic())
        pace = {"per_s": per_s, "left_s": left_s(done, total, per_s)}
        self._heartbeat.report(what, {"done": done, "total": total, "unit": unit, **detail, **pace})

    def rehearse_commit(self, *, expected_epoch: int, to_cell: CellName) -> None:
        """Raise now what `commit` would raise now, and warm the way for it. Changes nothing."""
        tenant = self._tenant()
        self.registry.placements.rehearse(
            self.lease, tenant, expected_epoch=expected_epoch, to_cell=to_cell, actor=self._actor
        )

    def commit(self, *, expected_epoch: int, to_cell: CellName, decide_within_s: float = 60.0) -> Placement:
        """Give the tenant to `to_cell`: the point of no return, journaled when it returns.

        One round trip. From then on a cancel is refused and the operation only goes forward. Repeating it returns
        the same placement. Whatever it raises, nothing has changed and nothing will, with one exception:
        `CommitUndecided`, where the answer was lost and the control database could not be asked within
        `decide_within_s`, or no longer on behalf of this lease. Others are `LeaseLost`, `PlanStale`, `Cancelled`,
        `DeadlineExceeded`, `StoreUnavailable`.
        """
        try:
            placement = self._swap(expected_epoch, to_cell)
        except StoreUnavailable:
            happened = self._decide(decide_within_s)
            # The connection may have been broken for long and the database be there: one more try.
            placement = happened or self._swap_once_more(expected_epoch, to_cell, decide_within_s)
        self._heartbeat.committed()
        self.operation = replace(self.operation, committed_at=placement.since)
        return placement

    def _swap_once_more(self, expected_epoch: int, to_cell: CellName, decide_within_s: float) -> Placement:
        try:
            return self._swap(expected_epoch, to_cell)
        except StoreUnavailable:
            happened = self._decide(decide_within_s)
            if happened is None:
                raise
            return happened

    def _decide(self, within_s: float) -> Placement | None:
        """Find out whether a commit whose answer was lost has happened; if not, it cannot happen any more.

        Reading alone would not do: the lost commit may be on its way still. It is shut out by a new token. Nor does a
        lost lease say that nothing has happened: the step was taken over after the commit perhaps, or it was the
        answer to an exchange of the token that got lost. Who has the lease next finds out.
        """
        deadline = time.monotonic() + within_s
        while True:
            try:
                self.lease, operation = self._heartbeat.renew()
                return self.registry.placements.get(self._tenant()) if operation.committed else None
            except LeaseLost as error:
                raise self._undecided(error, "when its step is free") from error
            except (StoreUnavailable, DeadlineExceeded) as error:
                if time.monotonic() >= deadline:
                    raise self._undecided(error, "when the control database is back") from error
            threading.Event().wait(_ASK_AGAIN_S)

    def _undecided(self, error: TenureError, when: str) -> CommitUndecided:
        return CommitUndecided(
            f"it is not known whether {self.lease.operation} has changed the placement: {error.message}",
            hint=f"{when}: `tenure op resume {self.lease.operation}`",
        )

    def _swap(self, expected_epoch: int, to_cell: CellName) -> Placement:
        return self.registry.placements.compare_and_swap(
            self.lease, self._tenant(), expected_epoch=expected_epoch, to_cell=to_cell, actor=self._actor
        )

    @contextmanager
    def uninterrupted(self) -> Iterator[None]:
        """Let Ctrl-C wait until the end of the block: for a hold, which ends soon by its own deadlines."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        pressed: list[int] = []

        def note(number: int, frame: FrameType | None) -> None:
            del frame
            pressed.append(number)

        before = signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            if pressed:
                raise KeyboardInterrupt

    @property
    def _at(self) -> dict[str, Any]:
        return {"operation": self.lease.operation, "step": self.lease.step}

    def _journal(self, action: str, data: JsonObject, age_s: float = 0.0) -> None:
        self.registry.events.append(
            action, actor=self._actor, tenant=self.operation.tenant, data=data, lease=self.lease, age_s=age_s
        )

    def _put_off(self, write: Callable[[float], object]) -> None:
        with self._lock:
            self._later.append((time.monotonic(), write))

    def _tenant(self) -> TenantId:
        if self.operation.tenant is None:
            raise UsageError(
                f"{self.operation.id} is not an operation on a tenant: it has no placement to change"
            )
        return self.operation.tenant
