"""The hold: from the first request that waits until the gate opens on the other side, or on this one again.

Invariants kept here: at every instant at most one cell accepts the tenant's writes, because the source is fenced for
good before the placement changes and the target opens only after; nothing acknowledged is lost, because the target
opens only when everything up to a mark that was written under the fence has arrived; whatever goes wrong before the
placement changes, the source opens again (here, by the fence's own deadline, by the gate's budget, or by the next
holder of the step), and after it the target does.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from typing import Any

from tenure.engine.context import CommitUndecided, StepContext
from tenure.errors import DataDiffers, FenceRefused, PlanStale, StoreUnavailable, TenureError
from tenure.model.comparison import Comparison, total
from tenure.model.names import CellName, StoreName, TenantId
from tenure.operations.deps import Deps
from tenure.operations.pause import Clock, Pause, Timing
from tenure.operations.session import Session
from tenure.operations.steering import ungated
from tenure.routing.contract import HoldReport
from tenure.stores.contract import Fence


@dataclass(frozen=True, kw_only=True)
class Switched:
    hold: HoldReport
    timing: Timing
    changed: dict[StoreName, Comparison]


class Hold:
    """One attempt to switch a tenant from `session.source` to `session.target`.

    Where the gateway is out of step (`ungated`) nobody is held: the fences alone keep one writer.
    """

    def __init__(self, deps: Deps, ctx: StepContext, session: Session, *, epoch: int) -> None:
        self._deps = deps
        self._ctx = ctx
        self._session = session
        self._epoch = epoch
        self._fence = Fence(tenant=session.tenant, epoch=epoch, token=ctx.token)
        self._pause = Pause(deps, ctx, session.served, self._fence, step="switch", gated=ungated(ctx) is None)

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
                self._pause.reopen()
                raise
            self._commit()
            ctx.reach("switch.committed")
            self._pause.clock.lap("commit")
            report = go_forward(self._deps, ctx, session, self._epoch + 1, self._pause.clock)
            self._pause.clock.lap("open")
        # The gate had opened by itself, or there was none: users waited for the target until now.
        if report.timed_out or ungated(ctx):
            report = replace(report, hold_ms=self._pause.clock.total_ms())
        return Switched(hold=report, timing=self._pause.clock.timing(), changed=changed)

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
        ctx, session, pause = self._ctx, self._session, self._pause
        ctx.phase("holding", later=True)
        pause.begin()
        clock = pause.clock
        ctx.phase("sealing", later=True)
        others = set(session.others())

        # Asked while users wait, because from the next fences on only this process can open the source again, and
        # because a placement that cannot be changed now would leave both cells closed.
        asked = session.begin(ctx.require_lease)

        def seal(name: StoreName) -> None:
            if name in others:
                session.outcome(asked, clock.left_s(), "the control database")
                pause.fence_last(name)
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
        pause.keep_closed()
        ctx.reach("switch.closed")
        clock.lap("close")
        pause.require_time("the placement could change")
        return changed

    def _seal_and_compare(
        self,
        asked: Future[None],
        seal: Callable[[StoreName], None],
        compare: Callable[[StoreName], Comparison],
    ) -> dict[StoreName, Comparison]:
        """Each store is compared as soon as it is sealed, and one that another's copy carries, as soon as that is.
        Nothing of it is under way any more when this raises."""
        ctx, session, clock = self._ctx, self._session, self._pause.clock
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
            self._pause.reopen()
            raise


def describe(changed: dict[StoreName, Comparison]) -> str:
    """Which stores differ and by how much, in a sentence."""
    parts = [
        f"{name}: {c.mismatched} mismatched, {c.missing} missing, {c.extra} extra"
        for name, c in changed.items()
        if not c.equal
    ]
    return "source and target differ (" + "; ".join(parts) + ")"


def go_forward(
    deps: Deps, ctx: StepContext, session: Session, epoch: int, clock: Clock | None = None
) -> HoldReport:
    """After the point of no return: the target opens, the waiting requests go there. Repeats harmlessly."""
    placement = deps.registry.placements.get(session.tenant) if ctx.taken_over else None
    if placement is not None and placement.cell != session.target:
        raise PlanStale(f"{session.tenant} is served by {placement.cell}, not by {session.target}")
    fence = Fence(tenant=session.tenant, epoch=epoch, token=ctx.token)
    opening = (clock or Clock(0.0)).timed("open", lambda n: session.target_store(n).open(fence))
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
