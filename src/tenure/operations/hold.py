"""The hold: from the first request that waits until the gate opens on the other side, or on this one again.

Invariants kept here: at every instant at most one cell accepts the tenant's writes, because the source is fenced for
good before the placement changes and the target opens only after; nothing acknowledged is lost, because the target
opens only when everything up to a mark that was written under the fence has arrived; whatever goes wrong before the
placement changes, the source opens again (here, by the fence's own deadline, by the gate's budget, or by the next
holder of the step), and after it the target does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from tenure.engine.context import CommitUndecided, StepContext
from tenure.errors import (
    DataDiffers,
    DeadlineExceeded,
    FenceRefused,
    PlanStale,
    StoreUnavailable,
    TenureError,
)
from tenure.model.comparison import Comparison, total
from tenure.model.names import CellName, StoreName, TenantId
from tenure.operations.deps import Deps
from tenure.operations.session import Session
from tenure.operations.steering import ungated
from tenure.routing.contract import HoldReport
from tenure.stores.contract import Fence

FENCE_MARGIN_S = 0.1
"""The fence lifts itself this long before the gate does, so that released requests find the source open."""
REOPEN_ATTEMPTS = 5


R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Milliseconds of the parts of one hold, in order, and of what each store took of a part: stores work at the same
    time, so a part takes as long as the slowest of them."""

    parts: tuple[tuple[str, float], ...]
    stores: Mapping[str, Mapping[StoreName, float]]

    def as_dict(self) -> dict[str, float]:
        return {name: round(ms, 2) for name, ms in self.parts}

    def stores_as_dict(self) -> dict[str, dict[str, float]]:
        return {part: {n: round(ms, 2) for n, ms in its.items()} for part, its in self.stores.items()}


@dataclass(frozen=True, kw_only=True)
class Switched:
    hold: HoldReport
    timing: Timing
    changed: dict[StoreName, Comparison]


class _Clock:
    def __init__(self, budget_s: float) -> None:
        self.began = self._last = time.perf_counter()
        self._deadline = self.began + budget_s
        self._parts: list[tuple[str, float]] = []
        self._stores: dict[str, dict[StoreName, float]] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._parts.append((name, (now - self._last) * 1000))
        self._last = now

    def left_s(self) -> float:
        """Seconds left before the fence lifts itself; at least a millisecond, so that waits fail rather than hang."""
        return max(0.001, self._deadline - time.perf_counter())

    def total_ms(self) -> float:
        return (time.perf_counter() - self.began) * 1000

    def over(self) -> bool:
        return time.perf_counter() > self._deadline

    def timed(self, part: str, work: Callable[[StoreName], R]) -> Callable[[StoreName], R]:
        """`work` that notes how long each store takes for it."""
        noted = self._stores.setdefault(part, {})

        def run(name: StoreName) -> R:
            began = time.perf_counter()
            try:
                return work(name)
            finally:
                noted[name] = (time.perf_counter() - began) * 1000

        return run

    def timing(self) -> Timing:
        return Timing(parts=tuple(self._parts), stores=self._stores)


class Hold:
    """One attempt to switch a tenant from `session.source` to `session.target`.

    Where the gateway is out of step (`ungated`) nobody is held: the fences alone keep one writer.
    """

    def __init__(self, deps: Deps, ctx: StepContext, session: Session, *, epoch: int) -> None:
        self._deps = deps
        self._ctx = ctx
        self._session = session
        self._epoch = epoch
        self._clock = _Clock(0.0)  # started when the gate closes
        self._fence = Fence(tenant=session.tenant, epoch=epoch, token=ctx.token)

    def rehearse(self) -> None:
        """What can be found out before anybody waits: the target is closed, the placement can be changed."""
        self._check_target_closed()
        self.rehearse_commit()

    def rehearse_commit(self) -> None:
        """Change the placement and take it back, in one transaction that nobody sees."""
        self._ctx.rehearse_commit(expected_epoch=self._epoch, to_cell=self._session.target)

    def run(self) -> Switched:
        """Switch, or raise with the source open again. Ctrl-C waits until it is over."""
        ctx, session = self._ctx, self._session
        with ctx.uninterrupted():
            try:
                changed = self._close_source()
                ctx.reach("switch.committing")
            except BaseException:
                back_out(self._deps, ctx, session, self._fence)
                raise
            self._commit()
            ctx.reach("switch.committed")
            self._clock.lap("commit")
            report = go_forward(self._deps, ctx, session, self._epoch + 1, self._clock)
            self._clock.lap("open")
        # The gate had opened by itself, or there was none: users waited for the target until now.
        if report.timed_out or ungated(ctx):
            report = replace(report, hold_ms=self._clock.total_ms())
        return Switched(hold=report, timing=self._clock.timing(), changed=changed)

    # -- before the point of no return -------------------------------------------------------------------------------

    def _check_target_closed(self) -> None:
        """A server that restarted may have forgotten its fence: never start a hold on a target that accepts writes."""
        session = self._session

        def closed(name: StoreName) -> bool:
            store = session.target_store(name)
            return not store.capabilities.fence_enforced or not store.fence_state(session.tenant).writable

        opened = [name for name, ok in session.each(closed).items() if not ok]
        if opened:
            raise FenceRefused(
                f"{session.target} accepts writes of {session.tenant} in {', '.join(opened)} already",
                hint="something else lifted its fence; find out what before you try again",
            )

    def _close_source(self) -> dict[StoreName, Comparison]:
        deps, ctx, session, fence = self._deps, self._ctx, self._session, self._fence
        ctx.phase("holding", later=True)
        clock = self._clock = _Clock(deps.estate.hold.budget_s - FENCE_MARGIN_S)
        gated = ungated(ctx) is None
        if gated:
            deps.router.hold(
                session.tenant, token=ctx.token, budget_s=deps.estate.hold.budget_s, fallback=session.source
            )
        ctx.reach("switch.held")
        clock.lap("hold")
        drain_s = min(deps.estate.hold.drain_s, clock.left_s())
        if gated:
            deps.router.drain(session.tenant, session.source, timeout_s=drain_s)
        ctx.reach("switch.drained")
        clock.lap("drain")
        draining = session.draining()
        session.each(
            clock.timed(
                "fence",
                lambda n: session.source_store(n).fence(
                    fence, expires_in_s=clock.left_s(), drain_s=min(drain_s, clock.left_s())
                ),
            ),
            draining,
        )
        ctx.reach("switch.fenced")
        clock.lap("fence")
        ctx.phase("sealing", later=True)
        others = set(session.others())

        # Asked while users wait, because from the next fences on only this process can open the source again, and
        # because a placement that cannot be changed now would leave both cells closed.
        asked = session.begin(ctx.require_lease)

        def seal(name: StoreName) -> None:
            if name in others:
                session.outcome(asked, clock.left_s(), "the control database")
                session.source_store(name).fence(fence, expires_in_s=clock.left_s(), drain_s=drain_s)
            copy = session.copies[name]
            mark = copy.mark()
            sealed = session.begin(lambda: copy.seal(mark, timeout_s=clock.left_s()))
            session.outcome(sealed, clock.left_s(), f"sealing {name} of {session.target}")

        def compare(name: StoreName) -> Comparison:
            compared = session.begin(session.copies[name].compare_changed)
            return session.outcome(compared, clock.left_s(), f"comparing {name} of {session.target}")

        session.require_evidence()
        changed = self._seal_and_compare(asked, clock.timed("seal", seal), clock.timed("compare", compare))
        if total(changed.values()):
            raise DataDiffers(
                describe(changed), hint="the switch compares again and repairs before its next attempt"
            )
        clock.lap("compare")
        session.each(
            clock.timed(
                "close",
                lambda n: session.source_store(n).fence(fence, expires_in_s=None, drain_s=clock.left_s()),
            ),
            draining,
        )
        ctx.reach("switch.closed")
        clock.lap("close")
        if clock.over():
            raise DeadlineExceeded(
                f"the hold budget of {deps.estate.hold.budget_s:g} s was used up before the placement could change",
                hint="the switch is tried again; if that does not help, look at the parts of the hold in its events",
            )
        return changed

    def _seal_and_compare(
        self,
        asked: Future[None],
        seal: Callable[[StoreName], None],
        compare: Callable[[StoreName], Comparison],
    ) -> dict[StoreName, Comparison]:
        """Each store is compared as soon as it is sealed, and one that another's copy carries, as soon as that is.
        Nothing of it is under way any more when this raises."""
        ctx, session, clock = self._ctx, self._session, self._clock
        sealed: dict[StoreName, Future[None]] = {name: Future() for name in session.copies}

        def work(name: StoreName) -> Comparison:
            try:
                seal(name)
            except BaseException as error:
                sealed[name].set_exception(error)
                raise
            sealed[name].set_result(None)
            carrier = session.source_store(name).capabilities.rides_with
            if carrier is not None:
                session.outcome(sealed[carrier], clock.left_s(), f"sealing {carrier} of {session.target}")
            return compare(name)

        working = session.begin(lambda: session.each(work))
        try:
            pending: set[Future[Any]] = set(sealed.values())
            while pending and not working.done():
                pending = wait({working, *pending}, return_when=FIRST_COMPLETED).not_done - {working}
            clock.lap("seal")
            if all(each.done() and each.exception() is None for each in sealed.values()):
                session.outcome(asked, clock.left_s(), "the control database")
                ctx.reach("switch.sealed")
        finally:
            wait([working])
        return working.result()

    def _commit(self) -> None:
        """Change the placement. If it has certainly not changed, the source opens again; if nobody can know yet
        (`CommitUndecided`), both cells stay closed and the next holder of the step decides."""
        ctx, session = self._ctx, self._session
        try:
            ctx.commit(expected_epoch=self._epoch, to_cell=session.target)
        except CommitUndecided:
            raise
        except TenureError:
            back_out(self._deps, ctx, session, self._fence)
            raise


def describe(changed: dict[StoreName, Comparison]) -> str:
    """Which stores differ and by how much, in a sentence."""
    parts = [
        f"{name}: {c.mismatched} mismatched, {c.missing} missing, {c.extra} extra"
        for name, c in changed.items()
        if not c.equal
    ]
    return "source and target differ (" + "; ".join(parts) + ")"


def back_out(deps: Deps, ctx: StepContext, session: Session, fence: Fence) -> None:
    """Open the source again and let waiting requests go there. Tries every part even if another fails.

    A store in which a newer holder has spoken refuses, and stays as it is. The others are tried all the same: what only
    this holder has fenced nobody else would open. What cannot be reached opens by itself (the fence's deadline, the
    gate's budget) or with the next attempt.
    """

    def reopen(name: StoreName) -> TenureError | None:
        for _ in range(REOPEN_ATTEMPTS):
            try:
                session.source_store(name).open(fence)
            except StoreUnavailable as error:
                problem: TenureError = error
            except TenureError as error:
                return error
            else:
                return None
        return problem

    problems = [p for p in session.each_anchored(reopen).values() if p is not None]
    if any(isinstance(p, FenceRefused) for p in problems):
        ctx.later_event("hold_left_to_newer_holder")
        return
    try:
        deps.router.release(session.tenant, token=ctx.token, cell=session.source)
    except TenureError as error:
        problems.append(error)
    ctx.later_event("hold_backed_out", serves=session.source, problems=[p.message for p in problems])


def go_forward(
    deps: Deps, ctx: StepContext, session: Session, epoch: int, clock: _Clock | None = None
) -> HoldReport:
    """After the point of no return: the target opens, the waiting requests go there. Repeats harmlessly."""
    placement = deps.registry.placements.get(session.tenant) if ctx.taken_over else None
    if placement is not None and placement.cell != session.target:
        raise PlanStale(f"{session.tenant} is served by {placement.cell}, not by {session.target}")
    fence = Fence(tenant=session.tenant, epoch=epoch, token=ctx.token)
    opening = (clock or _Clock(0.0)).timed("open", lambda n: session.target_store(n).open(fence))
    session.each(opening, session.fenced())
    ctx.reach("switch.opened")
    report = _release(deps, ctx, session)
    ctx.reach("switch.released")
    return report


def _release(deps: Deps, ctx: StepContext, session: Session) -> HoldReport:
    """Without the gate it is told nevertheless: an instance of the gateway may still ask it."""
    try:
        return deps.router.release(session.tenant, token=ctx.token, cell=session.target)
    except StoreUnavailable:
        if not ungated(ctx):
            raise
        return HoldReport(
            hold_ms=0.0, requests_held=0, longest_wait_ms=0.0, released_to=session.target, timed_out=False
        )


def finish_interrupted(deps: Deps, ctx: StepContext, session: Session, *, epoch: int) -> HoldReport:
    """A killed holder had changed the placement: close the source for good, open the target."""
    fence = Fence(tenant=session.tenant, epoch=epoch, token=ctx.token)
    session.each_anchored(lambda n: session.source_store(n).fence(fence, expires_in_s=None, drain_s=5.0))
    return go_forward(deps, ctx, session, epoch)


def serving(deps: Deps, tenant: TenantId) -> tuple[CellName, int]:
    """The cell that serves the tenant and its epoch, from the registry."""
    placement = deps.registry.placements.get(tenant)
    return placement.cell, placement.epoch
