"""Verify: compare a tenant's two copies while a link exists, and repair the one that does not serve if asked."""

from __future__ import annotations

from tenure.engine.context import StepContext
from tenure.engine.spec import Done, OperationSpec, StepOutcome, StepSpec
from tenure.errors import DataDiffers
from tenure.model.comparison import total
from tenure.model.names import StoreName
from tenure.model.operation import OperationState
from tenure.operations import evidence
from tenure.operations.deps import Deps
from tenure.operations.hold import describe
from tenure.operations.move import Move
from tenure.operations.observe import cost_so_far


class Verify:
    """The step of `tenure verify`."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self._move = Move(deps)

    def spec(self) -> OperationSpec:
        return OperationSpec(
            kind="verify",
            steps=(StepSpec(name="compare", run=self.compare, phase="verifying", max_attempts=1),),
            abort=None,
            ends_in=OperationState.SUCCEEDED,
        )

    def compare(self, ctx: StepContext) -> StepOutcome:
        """Compare every item on both sides as they are now; with `repair` in the request, make the passive side equal.

        Without it nothing is copied, so that what differs is seen: Redis and objects are followed only while an
        operation runs, and what was written to them since then may show as different as well.
        """

        def shown(name: StoreName, items: int) -> None:
            ctx.check()
            ctx.progress(f"verify {name}", items)

        session = self._move.session(ctx)
        if ctx.operation.request.get("repair"):
            session = self._move.started(ctx)
            ctx.reach("compare.started")
            seen = evidence.verify(self._deps, ctx, session)
        else:
            found = session.compare(shown)
            seen = {n: v.full for n, v in found.items()}
        ctx.record_cost(**cost_so_far(self._deps, ctx.operation).as_dict())
        ctx.record_result(
            stores={n: c.as_dict() for n, c in seen.items()},
            differences=[
                {"store": n, "collection": d.collection, "key": d.key, "kind": str(d.kind)}
                for n, c in seen.items()
                for d in c.differences
            ],
        )
        if total(seen.values()):
            raise DataDiffers(
                describe(seen), hint="tenure verify TENANT --repair makes the passive side equal"
            )
        return Done(result={n: c.as_dict() for n, c in seen.items()})
