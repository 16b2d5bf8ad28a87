"""Moves operations on: claims step after step, records how each attempt went, and sends failures where they must go.

The journal in the control database is the truth; this process may die at any instant and any other carries
on. Before the point of no return a failure or a cancel leads to the operation's abort; after it only forward.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import assert_never

from tenure.engine import observer as notices
from tenure.engine.attempt import AttemptsExhausted, abort_step, error_document, outcome_of
from tenure.engine.context import StepContext
from tenure.engine.heartbeat import HandBack, Heartbeat, never
from tenure.engine.holder import is_gone, this_process
from tenure.engine.observer import Observer, nobody
from tenure.engine.settings import EngineSettings
from tenure.engine.spec import Ask, Done, Failed, OperationSpec, Park, Retry, StepOutcome, StepSpec
from tenure.errors import (
    Cancelled,
    ConfigurationError,
    DeadlineExceeded,
    Interrupted,
    LeaseLost,
    StillRunning,
    StoreUnavailable,
    TenureError,
)
from tenure.model.names import TenantId
from tenure.model.operation import JsonObject, Lease, Operation, OperationState, Step, StepState
from tenure.registry.claims import Claim
from tenure.registry.operations import ABORT_POSITION, ABORT_STEP
from tenure.registry.registry import Registry

_MISSES_MAX = 20


class Engine:
    """Runs operations in the calling thread. `actor` is who is named in the journal (`alice@host`, `worker-3`).

    Once `stopping` says so, the step under way is given back at its next check and nothing else is begun.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        actor: str,
        settings: EngineSettings | None = None,
        stopping: Callable[[], bool] = never,
    ) -> None:
        self._registry = registry
        self._actor = actor
        self._stopping = stopping
        self._settings = settings or EngineSettings()

    @property
    def stopping(self) -> bool:
        """This process was asked to stop: it begins nothing more."""
        return self._stopping()

    def create(
        self,
        spec: OperationSpec,
        *,
        tenant: TenantId | None,
        request: JsonObject | None = None,
        plan: JsonObject | None = None,
        plan_digest: str = "",
        requested_by: str | None = None,
    ) -> Operation:
        """Write a new operation of that spec, ready to `run`. Raises `TenantLocked` if the tenant is in another."""
        return self._registry.operations.create(
            kind=spec.kind,
            tenant=tenant,
            steps=spec.step_names(),
            request=request,
            plan=plan,
            plan_digest=plan_digest,
            requested_by=requested_by or self._actor,
        )

    def run(
        self, operation_id: str, spec: OperationSpec, *, observer: Observer = nobody, wait_s: float = math.inf
    ) -> Operation:
        """Move the operation on until it has ended, soaks, awaits a person, or is stuck (`needs_resume`); return it.

        It also returns when nothing is due within `wait_s`, and when this process is to stop (the step is given back
        first). A step of a process of this host that has died is taken over at once, one of another host when its
        lease has run out. Raises `StillRunning` if someone else runs it, `LeaseLost` if someone else took it over
        from here, `Interrupted` on Ctrl-C (the step is given back first), and `StoreUnavailable` if the control
        database cannot be reached.
        """
        with self._interruptible(operation_id):
            self._check_steps(operation_id, spec)
            return self._run(operation_id, spec, observer, wait_s)

    def resume(self, operation_id: str, spec: OperationSpec, *, observer: Observer = nobody) -> Operation:
        """`run` an operation that was left behind, with a new set of attempts for the step it stopped at."""
        self.revive(operation_id)
        return self.run(operation_id, spec, observer=observer)

    def revive(self, operation_id: str) -> Operation:
        """Give the step that an operation stopped at a new set of attempts, for whoever runs it next.

        Raises `StillRunning` if someone runs it.
        """
        with self._interruptible(operation_id):
            step = self._open_step(self._registry.operations.get(operation_id))
            if step is not None:
                self._refuse_busy(step)
            return self._registry.steps.revive(operation_id, actor=self._actor)

    def cancel(
        self, operation_id: str, spec: OperationSpec, *, observer: Observer = nobody, wait_s: float = 60.0
    ) -> Operation:
        """End the operation as if it had not been begun, and return it; `aborted` unless the abort itself got stuck.

        Whoever runs it is asked to abort it and is waited for, at most `wait_s`, then `StillRunning`; if
        nobody does, the abort runs here. Raises `NotAllowed` past the point of no return. Idempotent.
        """
        with self._interruptible(operation_id):
            operation = self._registry.operations.request_cancel(operation_id, actor=self._actor)
            if operation.needs_resume:
                self._registry.steps.revive(operation_id, actor=self._actor)
        deadline = time.monotonic() + wait_s
        while True:
            try:
                return self.run(operation_id, spec, observer=observer)
            except StillRunning:
                if time.monotonic() >= deadline:
                    raise
            with self._interruptible(operation_id):
                self._pause()

    def is_running(self, operation: Operation) -> bool:
        """Whether somebody is at it now: a step with a lease that has not run out, of a process that has not gone."""
        step = self._open_step(operation)
        return (
            step is not None
            and step.state is StepState.RUNNING
            and step.lease_left_s > 0
            and not is_gone(step.holder)
        )

    def _run(self, operation_id: str, spec: OperationSpec, observer: Observer, wait_s: float) -> Operation:
        run = _Run(operation_id, spec, observer, wait_s)
        while True:
            try:
                left = self._turn(run)
            except (StoreUnavailable, DeadlineExceeded):
                # Only the control database raises them here: what a step meets is an outcome by now.
                run.uncertain = True
                run.outage_since = run.outage_since or time.monotonic()
                if time.monotonic() - run.outage_since > self._settings.patience_s:
                    raise
                self._pause()
                continue
            run.outage_since = None
            if left is not None:
                return left

    def _turn(self, run: _Run) -> Operation | None:
        """Do the next thing there is to do; give the operation back if nothing is left to do for it here."""
        operation = self._registry.operations.get(run.operation)
        if not operation.state.active or operation.needs_resume or self._stopping():
            return operation
        step = self._open_step(operation)
        if operation.cancel_requested and not _past_cancelling(operation):
            self._start_abort(operation, run.spec, step)
        elif operation.state is OperationState.AWAITING:
            return operation
        elif step is None:
            self._conclude(operation, run.spec)
        elif step.state is StepState.PENDING and step.due_in_s > 0:
            if step.due_in_s > run.wait_s:
                return operation
            if run.waits_for != step.attempt:
                run.observer(notices.Waiting(operation=run.operation, step=step.name, due_in_s=step.due_in_s))
                run.waits_for = step.attempt
            self._pause(step.due_in_s)
            return None
        elif run.uncertain and _held_here(step):
            # Perhaps claimed by this very executor, and the answer was lost: then the lease has to run out first.
            self._pause(step.lease_left_s)
            return None
        else:
            self._refuse_busy(step)
            claim = self._claim(step, run.spec)
            if claim is not None:
                run.uncertain = False
                run.misses = 0
                self._attempt(claim, run.spec, run.observer)
                return None
        run.misses += 1
        if run.misses > _MISSES_MAX:
            raise StillRunning(f"{run.operation} is changed by someone else all the time", hint="try again")
        return None

    def _pause(self, at_most_s: float | None = None) -> None:
        threading.Event().wait(
            min(self._settings.poll_s, self._settings.poll_s if at_most_s is None else at_most_s)
        )

    def _claim(self, step: Step, spec: OperationSpec) -> Claim | None:
        return self._registry.steps.claim(
            step,
            holder=this_process(),
            holder_is_gone=is_gone(step.holder),
            ttl_s=self._settings.lease_ttl_s,
            phase=_spec_of(step, spec).phase,
            actor=self._actor,
        )

    def _attempt(self, claim: Claim, spec: OperationSpec, observer: Observer) -> None:
        step = _spec_of(claim.step, spec)
        heeds_cancel = not _past_cancelling(claim.operation)
        with Heartbeat(
            self._registry.steps,
            claim.lease,
            self._settings,
            heeds_cancel=heeds_cancel,
            stopping=self._stopping,
        ) as beats:
            context = StepContext(self._registry, claim, beats, observer=observer, actor=self._actor)
            try:
                observer(
                    notices.StepStarted(
                        operation=claim.lease.operation,
                        step=step.name,
                        attempt=claim.lease.attempt,
                        taken_over=claim.taken_over,
                    )
                )
                outcome = self._outcome(step, claim, context)
                detail = self._settle(step, context, outcome, spec)
            except (KeyboardInterrupt, HandBack) as reason:
                # If the database does not answer, the lease runs out or the next process sees that this one is gone.
                with suppress(TenureError):
                    context.flush()
                    self._registry.steps.release(context.lease, actor=self._actor)
                if isinstance(reason, KeyboardInterrupt):
                    raise
                detail = "released", {}
        observer(
            notices.StepEnded(
                operation=claim.lease.operation, step=step.name, outcome=detail[0], detail=detail[1]
            )
        )

    def _outcome(self, step: StepSpec, claim: Claim, context: StepContext) -> StepOutcome:
        used = claim.step.attempts_used
        if claim.taken_over and used > max(step.max_attempts, self._settings.takeovers_max):
            return Failed(error=AttemptsExhausted(f"the step {step.name!r} was cut off {used - 1} times"))
        outcome = outcome_of(step, context, settings=self._settings, used=used)
        if isinstance(outcome, Retry) and used >= step.max_attempts:
            return Failed(
                error=AttemptsExhausted(
                    f"the step {step.name!r} was tried {used} times; the last time: {outcome.reason}",
                    last=outcome.error,
                    hint=f"`tenure op show {claim.lease.operation}` lists the attempts",
                )
            )
        return outcome

    def _settle(
        self, step: StepSpec, context: StepContext, outcome: StepOutcome, spec: OperationSpec
    ) -> tuple[str, JsonObject]:
        """Record the outcome, and wait for a control database that is away, so that no work has to be done again."""
        outage_since: float | None = None
        while True:
            try:
                context.flush()
                return self._record(context.lease, step, outcome, spec)
            except (StoreUnavailable, DeadlineExceeded):
                outage_since = outage_since or time.monotonic()
                if time.monotonic() - outage_since > self._settings.patience_s:
                    raise
            except LeaseLost:
                if outage_since is None:
                    raise
                # Recorded, with the answer lost, or taken over meanwhile: the journal says which.
                return "unknown", {}
            self._pause()

    def _record(
        self, lease: Lease, step: StepSpec, outcome: StepOutcome, spec: OperationSpec
    ) -> tuple[str, JsonObject]:
        steps, actor = self._registry.steps, self._actor
        match outcome:
            case Done(result=result):
                steps.finish(lease, result, actor=actor)
                return "done", result
            case Retry(after_s=after_s, reason=reason):
                error = {"message": reason, "step": step.name}
                steps.retry(lease, after_s=after_s, error=error, actor=actor)
                return "retried", {"after_s": after_s, "reason": reason}
            case Park(until=until, reason=reason):
                steps.park(lease, until=until, reason=reason, actor=actor)
                return "parked", {"until": until.isoformat(), "reason": reason}
            case Ask(question=question):
                steps.ask(lease, question=question, actor=actor)
                return "asked", {"question": question}
            case Failed(error=failure):
                document = error_document(failure, step.name)
                steps.fail(
                    lease,
                    error=document,
                    abortable=spec.abort is not None,
                    cancelled=isinstance(failure, Cancelled),
                    actor=actor,
                )
                return "failed", document
            case _:
                assert_never(outcome)

    def _start_abort(self, operation: Operation, spec: OperationSpec, step: Step | None) -> None:
        error = error_document(Cancelled(f"{operation.id} was cancelled"), step.name if step else "")
        gone = frozenset({step.holder} if step and step.holder and is_gone(step.holder) else ())
        started = self._registry.steps.cut_off(
            operation.id, gone_holders=gone, error=error, abortable=spec.abort is not None, actor=self._actor
        )
        if started is None and step is not None:
            self._refuse_busy(step)

    def _conclude(self, operation: Operation, spec: OperationSpec) -> None:
        aborting = operation.state is OperationState.ABORTING
        ends_in = OperationState.ABORTED if aborting else spec.ends_in
        self._registry.steps.conclude(operation.id, ends_in, actor=self._actor)

    def _open_step(self, operation: Operation) -> Step | None:
        """Give the step that is to be done next: the abort's if the operation aborts."""
        aborting = operation.state is OperationState.ABORTING
        for step in self._registry.steps.list(operation.id):
            if step.state is not StepState.DONE and aborting == (step.position == ABORT_POSITION):
                return step
        return None

    def _refuse_busy(self, step: Step) -> None:
        if step.state is StepState.RUNNING and step.lease_left_s > 0 and not is_gone(step.holder):
            raise StillRunning(
                f"{step.operation} is being run by {step.holder} (step {step.name!r}); "
                f"its lease runs out in {step.lease_left_s:.0f} s unless it goes on",
                hint=f"`tenure op watch {step.operation}` follows it",
            )

    def _check_steps(self, operation_id: str, spec: OperationSpec) -> None:
        planned = tuple(
            step.name for step in self._registry.steps.list(operation_id) if step.position != ABORT_POSITION
        )
        if self._registry.operations.get(operation_id).kind != spec.kind or planned != spec.step_names():
            raise ConfigurationError(
                f"{operation_id} was planned with other steps than this Tenure's {spec.kind!r} has",
                hint="use the release that planned it",
            )

    @contextmanager
    def _interruptible(self, operation_id: str) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt as error:
            raise Interrupted(
                f"interrupted; {operation_id} stays as it is",
                hint=f"`tenure op resume {operation_id}` carries on",
            ) from error


@dataclass
class _Run:
    """What one call of `run` has to remember from turn to turn."""

    operation: str
    spec: OperationSpec
    observer: Observer
    wait_s: float
    misses: int = 0
    waits_for: int = -1
    outage_since: float | None = None
    uncertain: bool = False
    """The answer to a claim may have been lost."""


def _held_here(step: Step) -> bool:
    return step.state is StepState.RUNNING and step.lease_left_s > 0 and step.holder == this_process()


def _past_cancelling(operation: Operation) -> bool:
    return operation.committed or operation.state is OperationState.ABORTING


def _spec_of(step: Step, spec: OperationSpec) -> StepSpec:
    if step.position == ABORT_POSITION:
        return abort_step(spec, ABORT_STEP)
    return spec.steps[step.position - 1]
