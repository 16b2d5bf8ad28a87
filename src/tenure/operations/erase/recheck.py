"""The steps of `tenure erase recheck`: an erased tenant is searched for once more, some time later.

Nothing is deleted. What is found revokes the certificate, and names the place; if nothing is found, a certificate that
was revoked, or was interim and has nothing left to lapse, gets a successor.
"""

from __future__ import annotations

from tenure.engine.context import StepContext
from tenure.engine.spec import Done, Failed, OperationSpec, StepOutcome, StepSpec
from tenure.errors import DataDiffers
from tenure.model.names import TenantId
from tenure.model.operation import Operation, OperationState
from tenure.operations.deps import Deps
from tenure.operations.erase.certifying import certify_again
from tenure.operations.erase.parts import Parts, kept
from tenure.operations.erase.request import Order
from tenure.operations.erase.searching import Searching, residue

NAMED = 5


class Recheck:
    """The operation is nobody's: the tenant it looks for is gone."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps

    def spec(self) -> OperationSpec:
        return OperationSpec(
            kind="recheck",
            steps=(
                StepSpec(name="search", run=self.search, phase="searching"),
                StepSpec(name="certify", run=self.certify, phase="certifying"),
            ),
            ends_in=OperationState.SUCCEEDED,
        )

    def search(self, ctx: StepContext) -> StepOutcome:
        """Count and search every store of every cell."""
        order, parts = self._order(ctx), Parts(self._deps)
        ctx.remember(after=kept(parts.count(order.tenant)))
        scan = Searching(self._deps, ctx, order.tenant).run("verified", parts.all)
        found = list(residue(scan, sealed=parts.sealed(), undeletable=parts.undeletable()))
        if not found:
            ctx.event("still_erased", tenant=order.tenant, request=order.id, scan=scan.id)
            return Done(result={"scan": scan.id})
        places = [one.as_dict() for one in found]
        ctx.event("residue_found", tenant=order.tenant, request=order.id, scan=scan.id, places=places)
        ctx.record_result(residue=places)
        named = "; ".join(map(str, found[:NAMED])) + (
            f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        )
        ctx.require_lease()
        self._deps.registry.certificates.revoke(
            str(ctx.operation.request["certificate"]),
            because=f"residue was found: {named}",
            actor=ctx.operation.requested_by,
        )
        ctx.reach("recheck.revoked")
        return Failed(
            error=DataDiffers(
                f"data of {order.tenant}, who was erased, is in {named}: its certificate is revoked",
                hint=f"remove what is there, then tenure erase recheck {order.id} gives a corrected one",
            )
        )

    def certify(self, ctx: StepContext) -> StepOutcome:
        """A successor where there is cause for one."""
        former = self._deps.registry.certificates.get(str(ctx.operation.request["certificate"]))
        issued = certify_again(
            self._deps, ctx, Parts(self._deps), self._order(ctx), former, self._erasure(ctx)
        )
        counts = former if issued is None else issued
        ctx.record_result(certificate=counts.id, certificate_final=counts.final, corrected=issued is not None)
        return Done(result={"certificate": counts.id})

    def _erasure(self, ctx: StepContext) -> Operation:
        return self._deps.registry.operations.get(str(ctx.operation.request["of"]))

    def _order(self, ctx: StepContext) -> Order:
        erasure = self._erasure(ctx)
        return Order.of(TenantId(str(erasure.tenant)), erasure.request)
