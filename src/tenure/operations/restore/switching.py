"""The switch of a restore: from the first request that waits until the restored state is served.

Invariants kept here: nothing of what serves the tenant changes before the placement's compare-and-swap, which raises
the epoch; everything that could be refused was tried before it, under the fence, so that after it the restore only goes
forward; the tenant's stores open only when every item that differed is as in the backup, and when that is written down,
so that nobody ever writes them again over what users have written since. Whatever goes wrong before the swap, the
tenant goes on as it was; whatever goes wrong after it, the next holder of the step carries it to its end.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from typing import Final

from tenure.engine.context import CommitUndecided, StepContext
from tenure.engine.spec import Done, Retry, StepOutcome
from tenure.errors import DataDiffers, DeadlineExceeded, NotAllowed, PlanStale, StoreUnavailable, TenureError
from tenure.model.names import CellName, StoreName
from tenure.operations import steering
from tenure.operations.backup.observe import served as served_in
from tenure.operations.deps import Deps
from tenure.operations.observe import record_measurement
from tenure.operations.pause import Pause, back_out
from tenure.operations.restore.erased import erasures_of
from tenure.operations.restore.ground import Ground
from tenure.operations.restore.loading import close
from tenure.operations.restore.spool import Spool
from tenure.operations.served import Served
from tenure.plan.restore import CollectionChange
from tenure.plan.restore_steps import Mode
from tenure.routing.contract import HoldReport
from tenure.stores.backup import Preparing
from tenure.stores.contract import Fence

APPLY: Final = "restore_apply"
SHOWN: Final = 200
"""Of the collections that changed, so many are kept with the operation."""


class Switching:
    """One attempt of the step `switch`."""

    def __init__(self, deps: Deps, ctx: StepContext, ground: Ground) -> None:
        self._deps = deps
        self._ctx = ctx
        self._ground = ground
        self._mode = ground.request.mode
        self._placement = deps.registry.placements.get(ground.tenant)
        self._serving: Served = (
            ground.served
            if self._mode is not Mode.OTHER_CELL
            else served_in(deps, ground.tenant, ground.request.source, ground.crew)
        )
        self._timing: dict[str, float] = {}
        self._applied: tuple[CollectionChange, ...] = ()

    def run(self) -> StepOutcome:
        """Switch, or leave the tenant as it was. Past the point of no return, finish what was begun."""
        ctx = self._ctx
        if ctx.committed:
            self._finish()
            return Done(result={"finished": "after an interruption"})
        if self._mode is Mode.NEW_TENANT:
            return self._open_new()
        fence = self._fence(self._placement.epoch)
        if self._placement.cell != self._serving.cell:
            raise PlanStale(f"{self._ground.tenant} is served by {self._placement.cell} now")
        if ctx.attempt > 1 or ctx.taken_over:
            problems, _ = back_out(self._deps, ctx, self._serving, fence)
            if problems:
                raise problems[0]
        steering.steer(self._deps, ctx, self._serving, epoch=self._placement.epoch)
        self._serving.each_anchored(lambda n: self._serving.store(n).claim(fence))
        ctx.rehearse_commit(expected_epoch=self._placement.epoch, to_cell=self._ground.cell)
        too_long = self._warm()
        if too_long is not None:
            return Retry(after_s=5.0, reason=too_long.message, error=too_long)
        ctx.reach("switch.ready")
        try:
            report = self._hold(fence)
        except (DeadlineExceeded, DataDiffers) as error:
            if ctx.committed:
                raise
            return Retry(after_s=1.0, reason=error.message, error=error)
        self._tell_applied()
        self._record(report)
        return Done(result={"hold_ms": round(report.hold_ms, 2)})

    def _warm(self) -> DeadlineExceeded | None:
        """Compare before anybody waits: what is read then is at hand in the hold, and nobody is held in vain."""
        if self._mode is not Mode.IN_PLACE:
            return None
        budget_s, began = self._deps.estate.hold.budget_s, time.monotonic()
        self._ground.changes()
        took_s = time.monotonic() - began
        if took_s < budget_s:
            return None
        return DeadlineExceeded(
            f"comparing the backup with what is live takes {took_s:.1f} s, and users may wait {budget_s:g} s",
            hint="restore into another cell, restore less, or raise hold.budget_ms in tenure.yaml",
        )

    # -- the hold ----------------------------------------------------------------------------------------------------

    def _hold(self, fence: Fence) -> HoldReport:
        ctx = self._ctx
        pause = Pause(self._deps, ctx, self._serving, fence, step="switch")
        with ctx.uninterrupted(), ExitStack() as spools:
            with ExitStack() as prepared:
                try:
                    found = self._still(pause, spools)
                    self._prepare(found, fence, prepared, pause)
                    ctx.reach("switch.committing")
                except BaseException:
                    # What is prepared holds the fence: it is let go of before the fence can be lifted.
                    self._undo(prepared)
                    pause.reopen()
                    raise
                self._commit(prepared, pause)
                ctx.reach("switch.committed")
                pause.clock.lap("commit")
            # The end of that block has made so what was prepared.
            self._apply({n: s for n, s in found.items() if not self._prepares(n)})
            pause.clock.lap("apply")
            self._require_equal(found)
            self._note_applied()
            pause.clock.lap("look")
            report = self._open()
            pause.clock.lap("open")
        self._timing = pause.clock.timing().as_dict()
        self._measure(sum(spool.items for spool in found.values()))
        return report

    def _still(self, pause: Pause, spools: ExitStack) -> dict[StoreName, Spool]:
        """The tenant stands still, and it is known what differs. Nothing of it has changed."""
        ctx, ground, crew = self._ctx, self._ground, self._ground.crew
        ctx.phase("holding", later=True)
        pause.begin()
        clock = pause.clock
        asked = crew.begin(ctx.require_lease)

        def lower(name: StoreName) -> None:
            crew.outcome(asked, clock.left_s(), "the control database")
            pause.fence_last(name)

        others = self._serving.others()
        if others:
            self._serving.each(lower, others)
        crew.outcome(asked, clock.left_s(), "the control database")
        ctx.reach("switch.still")
        found: dict[StoreName, Spool] = {}
        if self._mode is Mode.IN_PLACE:
            compared = crew.begin(ground.differences)
            try:
                found = crew.outcome(compared, clock.left_s(), "comparing the backup with what is live")
            except DeadlineExceeded:
                compared.add_done_callback(_close_spools)
                raise
            for spool in found.values():
                spools.enter_context(spool)
        ctx.reach("switch.compared")
        clock.lap("compare")
        return found

    def _prepare(
        self, found: Mapping[StoreName, Spool], fence: Fence, prepared: ExitStack, pause: Pause
    ) -> None:
        """Fences that stay down, and everything that a store with transactions can refuse, refused now."""
        pause.keep_closed()
        source = self._ground.source
        for name, spool in found.items():
            restoring = self._ground.restoring(name)
            if isinstance(restoring, Preparing) and spool.items:
                prepared.enter_context(restoring.prepared(source, spool, fence))
        self._ctx.reach("switch.prepared")
        pause.clock.lap("prepare")
        pause.require_time("the placement could change")

    def _prepares(self, name: StoreName) -> bool:
        return isinstance(self._ground.restoring(name), Preparing)

    def _undo(self, prepared: ExitStack) -> None:
        """Leave what is prepared as if by an exception, so that it is undone."""
        with suppress(_Undone), prepared:
            raise _Undone

    def _commit(self, prepared: ExitStack, pause: Pause) -> None:
        """Raise the epoch. If it has certainly not changed, the tenant goes on as it was; if nobody can know yet, all
        stays closed and the next holder of the step decides."""
        try:
            self._require_not_erased()
            self._ctx.commit(expected_epoch=self._placement.epoch, to_cell=self._ground.cell)
        except CommitUndecided:
            self._undo(prepared)
            raise
        except TenureError:
            self._undo(prepared)
            pause.reopen()
            raise

    def _require_not_erased(self) -> None:
        """The ledger once more, as late as can be: hours may have passed since the plan. Raises `NotAllowed`."""
        ground = self._ground
        erased = erasures_of(
            self._deps.registry.erasures, self._deps.ledger, ground.tenant, ground.backup.facts
        )
        if erased:
            named = tuple(f"{f.where}: {f.message}; {f.cure}" for f in erased)
            raise NotAllowed(f"nothing of the backup is opened: {'. '.join(named)}", findings=named)

    # -- after the point of no return --------------------------------------------------------------------------------

    def _apply(self, found: Mapping[StoreName, Spool]) -> None:
        """Under the epoch that serves from now on. Repeats harmlessly."""
        fence, ground = (
            self._fence(self._deps.registry.placements.get(self._ground.tenant).epoch),
            self._ground,
        )
        names = [name for name, spool in found.items() if spool.items]
        if names:
            ground.crew.each(lambda n: ground.restoring(n).apply(ground.source, found[n], fence), names)
        self._ctx.reach("switch.applied")

    def _note_applied(self) -> None:
        """From now on the tenant may be opened, and is never written over again."""
        self._ctx.remember(applied=True)
        self._ctx.reach("switch.noted")

    def _measure(self, items: int) -> None:
        """For the next plan's prediction: what writing took under the fence."""
        seconds = (self._timing.get("prepare", 0.0) + self._timing.get("apply", 0.0)) / 1000
        if items and seconds > 0:
            record_measurement(self._deps, self._ctx, APPLY, None, items, 0, seconds)

    def _require_equal(self, found: Mapping[StoreName, Spool]) -> None:
        """Every item that differed is looked at again, while nobody can write."""
        ground = self._ground

        def left(name: StoreName) -> int:
            spool = found[name]
            return sum(1 for _ in ground.restoring(name).differences(ground.source, spool.again()))

        names = [name for name, spool in found.items() if spool.items]
        wrong = {n: count for n, count in ground.crew.each(left, names).items() if count} if names else {}
        if wrong:
            raise DataDiffers(
                f"{ground.cell} is not as the backup of {ground.origin} after all: {wrong}",
                hint=f"tenure op resume {self._ctx.operation.id} writes it again",
            )
        self._applied = ground.counted(list(found.values()))

    def _open(self) -> HoldReport:
        """The cell that serves from now on opens, and the requests that wait go there."""
        ground, deps, ctx = self._ground, self._deps, self._ctx
        fence = self._fence(deps.registry.placements.get(ground.tenant).epoch)
        ground.served.each(lambda n: ground.store(n).open(fence), ground.served.fenced())
        ctx.reach("switch.opened")
        if self._mode is Mode.NEW_TENANT:
            return HoldReport(
                hold_ms=0.0, requests_held=0, longest_wait_ms=0.0, released_to=ground.cell, timed_out=False
            )
        report = deps.router.release(ground.tenant, token=ctx.token, cell=ground.cell)
        ctx.reach("switch.released")
        return report

    def _finish(self) -> None:
        """A holder that is gone had raised the epoch: close what may be open, write everything again, open."""
        ground, ctx, deps = self._ground, self._ctx, self._deps
        epoch = deps.registry.placements.get(ground.tenant).epoch
        fence = self._fence(epoch)
        close(self._serving, fence)
        held = self._mode is not Mode.NEW_TENANT and self._held(ground.cell)
        if self._mode is Mode.IN_PLACE and not ctx.operation.data.get("applied"):
            close(ground.served, fence)
            with ExitStack() as spools:
                found = {n: spools.enter_context(s) for n, s in ground.differences().items()}
                self._apply(found)
                self._require_equal(found)
                self._note_applied()
        report = self._open()
        self._tell_applied()
        if held:
            self._record(report)

    def _held(self, cell: CellName) -> bool:
        """Have users wait rather than meet a fence, where the gateway is there."""
        try:
            self._deps.router.hold(
                self._ground.tenant,
                token=self._ctx.token,
                budget_s=self._deps.estate.hold.budget_s,
                fallback=cell,
            )
        except StoreUnavailable:
            return False
        return True

    # -- a new tenant ------------------------------------------------------------------------------------------------

    def _open_new(self) -> StepOutcome:
        """Nobody waits and nobody is served yet: the epoch, then the cell."""
        ctx = self._ctx
        ctx.reach("switch.committing")
        self._require_not_erased()
        ctx.commit(expected_epoch=self._placement.epoch, to_cell=self._ground.cell)
        ctx.reach("switch.committed")
        self._open()
        return Done(result={})

    # -- parts -------------------------------------------------------------------------------------------------------

    def _fence(self, epoch: int) -> Fence:
        return Fence(tenant=self._ground.tenant, epoch=epoch, token=self._ctx.token)

    def _tell_applied(self) -> None:
        """What was written over, in the end: also what came after the step `compare` had looked."""
        if self._applied:
            changes = [c.as_dict() for c in self._applied[:SHOWN]]
            self._ctx.record_result(changes=changes)
            self._ctx.event("applied", changes=changes)

    def _record(self, report: HoldReport) -> None:
        self._ctx.record_result(
            hold_ms=round(report.hold_ms, 2),
            requests_held=report.requests_held,
            longest_wait_ms=round(report.longest_wait_ms, 2),
            gate_timed_out=report.timed_out,
            timing_ms=self._timing,
        )
        self._ctx.event(
            "switched", source=self._serving.cell, target=self._ground.cell, hold_ms=report.hold_ms
        )


def _close_spools(compared: Future[dict[StoreName, Spool]]) -> None:
    """Of a comparison that came too late."""
    if compared.exception() is None:
        for spool in compared.result().values():
            spool.close()


class _Undone(Exception):
    """Leaves a block of what is prepared."""
