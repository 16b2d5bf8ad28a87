"""A rollback rehearsed: everything but the switch, on the live tenant, with what each part of the hold would take.

Nobody waits, no fence moves and the placement stays: what a hold does to the stores, the gate and the control database
is done in forms that change nothing, and timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles

from tenure.engine.context import StepContext
from tenure.engine.spec import Done, OperationSpec, StepOutcome, StepSpec
from tenure.model.names import TenantId
from tenure.model.operation import OperationState
from tenure.model.tenancy import Placement
from tenure.operations import evidence
from tenure.operations.deps import Deps
from tenure.operations.hold import Hold
from tenure.operations.move import Move
from tenure.operations.observe import cost_so_far, route
from tenure.operations.pace import Ladder
from tenure.operations.soak import SoakState

TIMES = 3
"""Each part is timed that often and the median counts: the first one opens connections."""
PAST_HOLDS = 20
REHEARSED_AMONG = 100


class Rehearsal:
    """The steps of `tenure rollback --rehearse`."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self._ladder = Ladder(deps, may_throttle=False)
        self._move = Move(deps, ladder=self._ladder)

    def spec(self) -> OperationSpec:
        return OperationSpec(
            kind="rehearse",
            steps=(
                StepSpec(name="prepare", run=self.prepare, phase="catching_up"),
                StepSpec(name="rehearse", run=self.rehearse, phase="rehearsing"),
            ),
            abort=None,
            ends_in=OperationState.SUCCEEDED,
        )

    def prepare(self, ctx: StepContext) -> StepOutcome:
        """What a rollback does before its hold, timed: catch up, compare, arm the way back, gate the tenant."""
        began = time.perf_counter()
        self._move.prepare(ctx)
        self._move.arm(ctx)
        seconds = round(time.perf_counter() - began, 3)
        ctx.remember(prepare_s=seconds)
        return Done(result={"seconds": seconds})

    def rehearse(self, ctx: StepContext) -> StepOutcome:
        """Time each part of a hold. Another process that has taken over prepares again first."""
        deps = self._deps
        session = self._move.session(ctx)
        if not session.started:
            self.prepare(ctx)
        placement = deps.registry.placements.get(session.tenant)
        fence = deps.fence(session.tenant, ctx.token)
        hold = Hold(deps, ctx, session, epoch=placement.epoch)
        hold.rehearse()
        last = evidence.shrink(ctx, session, self._ladder)
        gate_ms = _median_ms(
            lambda: deps.router.release(session.tenant, token=ctx.token, cell=session.source)
        )
        # A claim is a write of the fence's own record: what a fence costs where nobody has to be waited for.
        claim = lambda n: session.source_store(n).claim(fence)  # noqa: E731
        fence_ms = _median_ms(lambda: session.each(claim, session.draining()))
        others_ms = _median_ms(lambda: session.each(claim, session.others()))
        open_ms = _median_ms(
            lambda: session.each(lambda n: session.target_store(n).claim(fence), session.fenced())
        )
        parts = {
            "hold": gate_ms,
            "drain": _median_ms(deps.router.ping),
            "fence": fence_ms,
            "seal": others_ms + last.seal_s * 1000,
            "compare": last.compare_s * 1000,
            "close": fence_ms,
            "commit": _median_ms(hold.rehearse_commit),
            "open": open_ms + gate_ms,
        }
        ctx.reach("rehearse.measured")
        predicted_ms = sum(parts.values())
        told = {
            "predicted_hold_ms": round(predicted_ms, 2),
            "parts_ms": {name: round(ms, 2) for name, ms in parts.items()},
            "prepare_s": ctx.operation.data["prepare_s"],
            "changed_in_last_round": last.left,
        }
        compared = {str(n): v.full.as_dict() for n, v in session.verified.items()}
        ctx.record_result(**told, stores=compared, serves=session.source, follows=session.target)
        ctx.record_cost(**cost_so_far(deps, ctx.operation).as_dict())
        ctx.event("rollback_rehearsed", **told)
        return Done(result=told)


def _median_ms(act: Callable[[], object]) -> float:
    took = []
    for _ in range(TIMES):
        began = time.perf_counter()
        act()
        took.append((time.perf_counter() - began) * 1000)
    return median(took)


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What rolling back now would be like. `hold_ms` is None until something was measured; `basis` says what was.

    `problems` are what keeps the two cells from following each other: as long as there is none, nothing is lost.
    """

    hold_ms: float | None
    prepare_s: float | None
    lag_bytes: int
    basis: str
    problems: tuple[str, ...]

    @property
    def loses_nothing(self) -> bool:
        return not self.problems

    @property
    def sentence(self) -> str:
        if self.problems:
            return f"Rolling back now would have to wait: {'; '.join(self.problems)}."
        if self.hold_ms is None:
            return "Rollback now: loses 0; how long it takes has not been measured."
        prepare = f" after {self.prepare_s:.1f} s of preparation" if self.prepare_s is not None else ""
        return f"Rollback now: about {self.hold_ms:.0f} ms of waiting{prepare}, loses 0 ({self.basis})."


def outlook(deps: Deps, seen: SoakState, placement: Placement) -> Outlook:
    """From this tenant's last rehearsal since it came to its cell, or else from the holds on this route."""
    hold_ms, prepare_s, basis = _measured(deps, seen, placement)
    return Outlook(
        hold_ms=hold_ms, prepare_s=prepare_s, lag_bytes=seen.lag_bytes, basis=basis, problems=seen.problems
    )


def _measured(deps: Deps, seen: SoakState, placement: Placement) -> tuple[float | None, float | None, str]:
    tenant: TenantId = seen.link.tenant
    for operation in deps.registry.operations.list(tenant=tenant, limit=REHEARSED_AMONG):
        rehearsed = operation.kind == "rehearse" and operation.state is OperationState.SUCCEEDED
        if rehearsed and operation.created_at >= placement.since and operation.finished_at is not None:
            result = operation.result
            when = f"{operation.finished_at:%Y-%m-%d %H:%M} UTC"
            return float(result["predicted_hold_ms"]), float(result["prepare_s"]), f"rehearsed on {when}"
    for source, target in ((seen.serves, seen.follows), (seen.follows, seen.serves)):
        past = deps.registry.measurements.recent(kind="hold", route=route(source, target), limit=PAST_HOLDS)
        if past:
            ms = [m.seconds * 1000 for m in past]
            slow = quantiles(ms, n=20, method="inclusive")[-1] if len(ms) > 1 else ms[0]
            return slow, None, f"the 95th percentile of {len(ms)} holds from {source} to {target}"
    return None, None, "nothing measured yet"
