"""The steps of `tenure restore`, for its three modes; and how one is taken back.

Before the point of no return, the compare-and-swap of the placement, nothing of what serves the tenant has changed, and
an abort leaves it as it is. From then on the restore only goes forward: what it had begun to write is written again by
whoever carries it on.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from tenure.engine.context import StepContext
from tenure.engine.spec import Done, OperationSpec, StepOutcome, StepSpec
from tenure.errors import DataDiffers, NotAllowed, PlanStale, StoreUnavailable
from tenure.model.names import CellName, TenantId
from tenure.model.operation import Operation, OperationState
from tenure.model.tenancy import Tenant
from tenure.operations import steering
from tenure.operations.backup.observe import captured, served
from tenure.operations.backup.taking import Taking
from tenure.operations.deps import Deps
from tenure.operations.observe import cost_so_far
from tenure.operations.pause import back_out
from tenure.operations.restore.archive import Opened, opened
from tenure.operations.restore.ground import Ground, drop_staged, refusals
from tenure.operations.restore.loading import Loading
from tenure.operations.restore.observing import observe
from tenure.operations.restore.request import Request
from tenure.operations.restore.switching import Switching
from tenure.operations.served import Crew, Served
from tenure.plan.restore import CollectionChange, RestorePlan, plan_restore
from tenure.plan.restore_steps import Mode, steps_of
from tenure.stores.backup import Preparing
from tenure.stores.contract import Fence

SWITCH_ATTEMPTS: Final = 5
SHOWN: Final = 200
"""Of the collections that differ, so many are kept with the operation."""


def plan_now(deps: Deps, request: Request) -> RestorePlan:
    """Plan that restore. Changes nothing live; what it stages in a scratch place, it removes."""
    return plan_restore(observe(deps, request, purpose=f"plan-{uuid.uuid4().hex[:12]}"))


class Restore:
    """The steps of one restore. One object serves one run in one process."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps

    def spec(self, mode: Mode, *, protected: bool, erases_former: bool = False) -> OperationSpec:
        """With `protected` as the operation's request says that what is live is backed up first."""
        steps = {
            "preflight": StepSpec(name="preflight", run=self.preflight, phase="preflight"),
            "stage": StepSpec(name="stage", run=self.stage, phase="staging", max_attempts=2),
            "protect": StepSpec(name="protect", run=self.protect, phase="backing up what is live"),
            "load": StepSpec(name="load", run=self.load, phase="loading"),
            "compare": StepSpec(name="compare", run=self.compare, phase="comparing"),
            "arm": StepSpec(name="arm", run=self.arm, phase="ready"),
            "switch": StepSpec(name="switch", run=self.switch, phase="armed", max_attempts=SWITCH_ATTEMPTS),
            "settle": StepSpec(name="settle", run=self.settle, phase="committed"),
            "clear": StepSpec(name="clear", run=self.clear, phase="clearing"),
        }
        names = [s.name for s in steps_of(mode, protected=protected, erases_former=erases_former)]
        return OperationSpec(
            kind="restore",
            steps=tuple(steps[name] for name in names),
            abort=self.abort,
            ends_in=OperationState.SUCCEEDED,
        )

    def spec_of(self, operation: Operation) -> OperationSpec:
        """The specification of an operation that was created with one."""
        request = operation.request
        return self.spec(
            Mode(request["mode"]),
            protected=bool(request["protected"]),
            erases_former=bool(request.get("erases_former", False)),
        )

    # -- steps -------------------------------------------------------------------------------------------------------

    def preflight(self, ctx: StepContext) -> StepOutcome:
        """Look again, under the operation's lock on the tenant, at everything but the items."""
        request = _request(ctx)
        plan = plan_restore(observe(self._deps, request, purpose=ctx.operation.id, compare=False))
        ctx.reach("preflight.looked")
        if plan.refusals:
            named = tuple(f"{f.where}: {f.message}; {f.cure}" for f in plan.refusals)
            raise NotAllowed(
                f"the restore of {request.backup} for {request.tenant} is refused: {'. '.join(named)}",
                findings=named,
                hint="mend what the findings name and plan again",
            )
        if plan.epoch != ctx.operation.plan["epoch"]:
            raise PlanStale(f"{request.tenant} was placed anew since the plan was made", hint="plan again")
        ctx.remember(sizes={})
        return Done(result={"findings": len(plan.findings)})

    def stage(self, ctx: StepContext) -> StepOutcome:
        """Bring the backup to the live schemas, and look at every rule there, before anything else is done."""
        with self._opened(ctx) as backup, self._ground(ctx, backup, _request(ctx).target) as ground:
            found = ground.preflight()
            paths = ground.paths(found)
            ground.stage(paths, ctx.reach)
            left = refusals(ground.preflight())
            if left:
                named = tuple(f"{f.where}: {f.message}; {f.cure}" for f in left)
                raise NotAllowed(f"the backup does not fit: {'. '.join(named)}", findings=named)
            told = [path.as_dict() for path in paths]
        ctx.event("staged", schemas=told)
        ctx.record_result(schemas=told)
        return Done(result={"schemas": told})

    def protect(self, ctx: StepContext) -> StepOutcome:
        """Back up what is live, as `tenure backup create` does."""
        vaults, sealing = self._deps.backups()
        made = Taking(self._deps, ctx, vaults.vault(str(ctx.operation.request["region"])), sealing).run()
        ctx.remember(protected_by=made.id)
        ctx.record_result(backup=_request(ctx).backup, protected_by=made.id)
        ctx.reach("protect.stored")
        return Done(result={"protected_by": made.id})

    def load(self, ctx: StepContext) -> StepOutcome:
        """Load the backup into the target cell, which refuses the tenant's writes meanwhile."""
        request = _request(ctx)
        with self._opened(ctx) as backup:
            self._register(ctx, request)
            with self._ground(ctx, backup, request.target) as ground:
                self._stage_again(ctx, ground)
                items = Loading(self._deps, ctx, ground).run()
        return Done(result={"items": items})

    def compare(self, ctx: StepContext) -> StepOutcome:
        """What was loaded must be the backup; what is live is compared with it, so that the difference is known."""
        request = _request(ctx)
        with self._opened(ctx) as backup:
            if request.mode is not Mode.IN_PLACE:
                self._require_loaded(ctx, backup, request.target)
                ctx.reach("compare.loaded")
            if request.mode is not Mode.NEW_TENANT:
                self._tell_changes(ctx, backup, request.source)
        ctx.reach("compare.done")
        return Done(result={})

    def arm(self, ctx: StepContext) -> StepOutcome:
        """Everything the hold must not pay for: the gate in the tenant's path."""
        request = _request(ctx)
        placement = self._deps.registry.placements.get(request.tenant)
        with self._opened(ctx) as backup, self._ground(ctx, backup, request.source) as ground:
            steering.steer(self._deps, ctx, ground.served, epoch=placement.epoch)
        ctx.reach("arm.gated")
        return Done(result={})

    def switch(self, ctx: StepContext) -> StepOutcome:
        """The hold. A repeated attempt first finds out what the last one left."""
        request = _request(ctx)
        with self._opened(ctx) as backup, self._ground(ctx, backup, request.target) as ground:
            if request.mode is Mode.IN_PLACE:
                self._stage_again(ctx, ground)
            return Switching(self._deps, ctx, ground).run()

    def settle(self, ctx: StepContext) -> StepOutcome:
        """Past the point of no return: straight routes, and nothing that was only needed on the way."""
        request = _request(ctx)
        placement = self._deps.registry.placements.get(request.tenant)
        if request.mode is Mode.NEW_TENANT:
            self._deps.router.route(self._deps.address(request.tenant), placement.cell, epoch=placement.epoch)
        else:
            with self._served(ctx, request.target) as there:
                steering.let_go(self._deps, ctx, there, epoch=placement.epoch)
        ctx.reach("settle.routed")
        self._drop_staged(ctx, request)
        ctx.reach("settle.dropped")
        cost = cost_so_far(self._deps, ctx.operation)
        ctx.record_cost(**cost.as_dict())
        left = {}
        if request.mode is Mode.OTHER_CELL and not request.erases_former:
            left["left_in"] = request.source
        ctx.record_result(backup=request.backup, serves=placement.cell, mode=request.mode.value, **left)
        ctx.event("restored", backup=request.backup, serves=placement.cell, cost=cost.as_dict(), **left)
        return Done(result={"serves": placement.cell})

    def clear(self, ctx: StepContext) -> StepOutcome:
        """Delete what the tenant had in its former cell, which stays closed to it, as after `tenure complete`."""
        gone = Loading.clear_former(self._deps, ctx, _request(ctx))
        ctx.record_result(erased=gone, erased_from=_request(ctx).source)
        ctx.event("former_copy_erased", cell=_request(ctx).source, items=gone)
        return Done(result={"erased": gone})

    # -- abort -------------------------------------------------------------------------------------------------------

    def abort(self, ctx: StepContext) -> None:
        """Before the point of no return: everything as it was. What this operation has loaded or staged goes."""
        deps, request = self._deps, _request(ctx)
        ctx.record_cost(**cost_so_far(deps, ctx.operation).as_dict())
        if request.mode is not Mode.NEW_TENANT:
            self._reopen(ctx, request)
        ctx.reach("abort.open")
        if request.mode is not Mode.IN_PLACE:
            Loading.take_back(deps, ctx, request)
        if request.mode is Mode.IN_PLACE or ctx.operation.data.get("loading"):
            self._forget(request, request.target)
        ctx.reach("abort.erased")
        self._drop_staged(ctx, request)
        self._unregister(ctx, request)
        ctx.reach("abort.dropped")
        ctx.event("cleaned_up", tenant=request.tenant)

    def _forget(self, request: Request, cell: CellName) -> None:
        """What a process that was killed while it wrote has left in the stores."""
        for name in captured(self._deps, cell):
            restoring = self._deps.factory.store(cell, name).restoring(request.tenant, request.tenant)
            if isinstance(restoring, Preparing):
                restoring.forget()

    def _drop_staged(self, ctx: StepContext, request: Request) -> None:
        """In both cells. That the former one is away does not keep the restore from its end: it is told."""
        drop_staged(self._deps, request.target, ctx.operation.id)
        if request.source == request.target:
            return
        try:
            drop_staged(self._deps, request.source, ctx.operation.id)
        except StoreUnavailable as error:
            ctx.event("scratch_not_dropped", cell=request.source, because=error.message)

    def _unregister(self, ctx: StepContext, request: Request) -> None:
        """A tenant that this restore has written down goes; one of that name with another host is somebody else's."""
        if request.newcomer is None or not ctx.operation.data.get("registered"):
            return
        ctx.require_lease()
        found = [t for t in self._deps.registry.tenants.list() if t.id == request.tenant]
        if found and found[0].host == request.newcomer.host:
            self._deps.registry.tenants.remove(request.tenant, actor=ctx.operation.requested_by)

    def _reopen(self, ctx: StepContext, request: Request) -> None:
        deps = self._deps
        placement = deps.registry.placements.get(request.tenant)
        fence = Fence(tenant=request.tenant, epoch=placement.epoch, token=ctx.token)
        with self._served(ctx, placement.cell) as there:
            problems, _ = back_out(deps, ctx, there, fence)
            if problems:
                raise problems[0]
            if "region" in ctx.operation.request:
                self._end_protection(ctx)
            steering.let_go(deps, ctx, there, epoch=placement.epoch)

    def _end_protection(self, ctx: StepContext) -> None:
        """A backup of the present state that stands is kept; one that was being written goes."""
        vaults, sealing = self._deps.backups()
        taking = Taking(self._deps, ctx, vaults.vault(str(ctx.operation.request["region"])), sealing)
        try:
            taking.clean_up()
            if taking.standing() is None:
                taking.forget()
                backup = ctx.operation.data.get("backup")
                if backup is not None:
                    self._deps.registry.backups.abandon(ctx.lease, backup)
        finally:
            taking.close()

    # -- parts -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _opened(self, ctx: StepContext) -> Iterator[Opened]:
        request = _request(ctx)
        with opened(self._deps, request.backup, near=self._deps.estate.cell(request.target).region) as backup:
            yield backup

    def _ground(self, ctx: StepContext, backup: Opened, cell: CellName) -> Ground:
        return Ground(self._deps, _request(ctx), backup, cell=cell, purpose=ctx.operation.id)

    @contextmanager
    def _served(self, ctx: StepContext, cell: CellName) -> Iterator[Served]:
        """The tenant's stores of a cell, without the backup: it may be what is broken."""
        crew = Crew(f"restore-{_request(ctx).tenant[:8]}", workers=8)
        try:
            yield served(self._deps, _request(ctx).tenant, cell, crew)
        finally:
            crew.close()

    def _stage_again(self, ctx: StepContext, ground: Ground) -> None:
        """What the step `stage` has staged; anew where it is gone."""
        ground.stage(ground.paths(ground.preflight()), ctx.reach)

    def _register(self, ctx: StepContext, request: Request) -> None:
        """Write a new tenant down, placed where it will be served and routed nowhere yet."""
        who, tenants = request.newcomer, self._deps.registry.tenants
        if who is None:
            return
        known = {t.id for t in tenants.list()}
        if not ctx.operation.data.get("registered"):
            if request.tenant in known:
                raise NotAllowed(
                    f"there is a tenant {request.tenant} already", hint="restore under a name that is free"
                )
            ctx.remember(registered=True)
        if request.tenant not in known:
            tenants.add(
                Tenant(id=request.tenant, tier=who.tier, host=who.host, residency=who.residency),
                request.target,
                actor=ctx.operation.requested_by,
            )
        ctx.reach("load.registered")

    def _require_loaded(self, ctx: StepContext, backup: Opened, cell: CellName) -> None:
        with self._ground(ctx, backup, cell) as ground:
            self._stage_again(ctx, ground)
            changes = ground.changes()
        if changes:
            raise DataDiffers(
                f"what was loaded into {cell} is not the backup: {_told(changes)}",
                hint="verify the backup, then start again",
            )

    def _tell_changes(self, ctx: StepContext, backup: Opened, cell: CellName) -> None:
        """Journal what is live and not in the backup, before it is discarded."""
        with self._ground(ctx, backup, cell) as ground:
            self._stage_again(ctx, ground)
            changes = ground.changes()
            if cell != _request(ctx).target:
                ground.drop()
        ctx.record_result(changes=[c.as_dict() for c in changes[:SHOWN]])
        ctx.event("compared", cell=cell, changes=[_brief(c) for c in changes[:SHOWN]])


def _request(ctx: StepContext) -> Request:
    return Request.of(TenantId(str(ctx.operation.tenant)), ctx.operation.request)


def _brief(change: CollectionChange) -> Mapping[str, Any]:
    return {k: v for k, v in change.as_dict().items() if k != "items"}


def _told(changes: Sequence[CollectionChange]) -> str:
    return "; ".join(
        f"{c.store} {c.collection}: {c.added} missing, {c.changed} mismatched, {c.removed} extra"
        for c in changes
    )
