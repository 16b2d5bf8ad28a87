"""Complete: the confirmed act that ends a link and destroys the copy in the cell that does not serve the tenant.

What is destroyed is named by the operation, and only after a fresh comparison found both sides equal.
"""

from __future__ import annotations

from collections.abc import Callable

from tenure.engine.context import StepContext
from tenure.engine.spec import Done, OperationSpec, StepOutcome, StepSpec
from tenure.errors import DataDiffers, NotAllowed
from tenure.model.names import StoreName, TenantId
from tenure.model.operation import OperationState
from tenure.operations.deps import Deps
from tenure.operations.move import Move
from tenure.operations.observe import cost_so_far
from tenure.operations.planning import require_approved_plan
from tenure.operations.teardown import erase_copy, unlink
from tenure.registry.links import Link, LinkState

SOAKING_AMONG = 1000
"""How many of the tenant's latest operations are looked through for migrations that soak."""


class Complete:
    """The steps of `tenure complete`."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self._move = Move(deps)

    def spec(self) -> OperationSpec:
        return OperationSpec(
            kind="complete",
            steps=(
                StepSpec(name="check", run=self.check, phase="verifying"),
                StepSpec(name="route", run=self.route, phase="routing"),
                StepSpec(name="unlink", run=self.unlink, phase="unlinking"),
                StepSpec(name="erase", run=self.erase, phase="erasing"),
            ),
            abort=None,
            ends_in=OperationState.SUCCEEDED,
        )

    def check(self, ctx: StepContext) -> StepOutcome:
        """Compare both sides once more, unless an earlier attempt has got past that and taken the link apart."""
        link = self._deps.registry.links.active(TenantId(str(ctx.operation.tenant)))
        if link is not None and link.state is not LinkState.ENDING:
            require_approved_plan(self._deps, ctx.operation)
        if link is None or link.state is LinkState.ENDING:
            return Done(result={"compared": "by the attempt before"})
        if link.state is LinkState.EXPIRED:
            return self._check_outdated(ctx, link)
        return self._move.verify(ctx)

    def _check_outdated(self, ctx: StepContext, link: Link) -> StepOutcome:
        """A copy that has not followed for some time cannot be compared. What serves must hold data wherever it does:
        a cell that has lost everything is not made the only one."""
        session = self._move.session(ctx)
        kept = session.each(lambda n: session.source_store(n).inventory(session.tenant).items)
        goes = session.each(lambda n: session.target_store(n).inventory(session.tenant).items)
        empty = [name for name, items in goes.items() if items and not kept[name]]
        if empty:
            raise DataDiffers(
                f"{session.source} holds nothing of {session.tenant} in {', '.join(empty)}, and the outdated copy in "
                f"{session.target} does: it may be all there is",
                hint=f"find out what happened to {session.source} before the copy is destroyed",
            )
        told = {"compared": f"not possible: {link.expired_because}", "kept": dict(kept), "goes": dict(goes)}
        ctx.event("outdated_copy_looked_at", **told)
        return Done(result=told)

    def route(self, ctx: StepContext) -> StepOutcome:
        session = self._move.session(ctx)
        epoch = self._deps.registry.placements.get(session.tenant).epoch
        ctx.require_lease()
        self._deps.router.route(self._deps.address(session.tenant), session.source, epoch=epoch)
        ctx.reach("route.direct")
        return Done(result={"serves": session.source})

    def unlink(self, ctx: StepContext) -> StepOutcome:
        """From here on the link can only be finished: nothing follows any more."""
        session = self._move.session(ctx)
        self._refuse_hold(session.tenant)
        self._deps.registry.links.end(session.link, lease=ctx.lease)
        ctx.reach("unlink.ending")
        unlink(ctx, session, self._deps.fence(session.tenant, ctx.token))
        ctx.reach("unlink.done")
        return Done(result={})

    def erase(self, ctx: StepContext) -> StepOutcome:
        """Delete the passive copy, see that it is gone, and leave the cell closed to the tenant where that costs nobody
        anything (`Store.retire`)."""
        deps = self._deps
        session = self._move.session(ctx)
        self._refuse_hold(session.tenant)
        fence = deps.fence(session.tenant, ctx.token)
        gone = erase_copy(deps, ctx, session, fence, session.target)
        ctx.reach("erase.gone")
        left = {n: session.target_store(n).inventory(session.tenant).items for n in session.copies}
        if any(left.values()):
            raise DataDiffers(
                f"{session.target} still holds items of {session.tenant}: {left}",
                hint=f"tenure complete {session.tenant} again; something writes there past the fence",
            )
        retire: Callable[[StoreName], None] = lambda n: session.target_store(n).retire(fence)  # noqa: E731
        session.each(retire, session.riders())
        session.each_anchored(retire)
        deps.registry.links.remove(session.link, lease=ctx.lease)
        deps.sessions.drop(session.link)
        self._close_migrations(ctx, session.tenant)
        cost = cost_so_far(deps, ctx.operation)
        ctx.record_cost(**cost.as_dict())
        ctx.record_result(erased=gone, serves=session.source, erased_from=session.target)
        ctx.event(
            "completed", serves=session.source, erased_from=session.target, items=gone, cost=cost.as_dict()
        )
        return Done(result={"erased": gone})

    def _refuse_hold(self, tenant: TenantId) -> None:
        """A legal hold may have been set while the operation was interrupted."""
        reason = self._deps.registry.tenants.get(tenant).legal_hold
        if reason is not None:
            raise NotAllowed(
                f"{tenant} is on legal hold: {reason}",
                hint=f"tenure tenant hold {tenant} --release, then tenure complete {tenant} again",
            )

    def _close_migrations(self, ctx: StepContext, tenant: TenantId) -> None:
        """Whatever migration was soaking over this link is completed."""
        for operation in self._deps.registry.operations.list(tenant=tenant, limit=SOAKING_AMONG):
            if operation.state is OperationState.SOAKING:
                self._deps.registry.operations.transition(
                    operation.id,
                    OperationState.SOAKING,
                    OperationState.COMPLETED,
                    actor=ctx.operation.requested_by,
                )
