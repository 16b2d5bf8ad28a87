"""The step between `verify` and `arm`: a growing share of the reads goes to the target, and back when it does badly.

Everything that is not a read stays with the source, so the one writer is not touched. The target trails the source by
the replication lag: whoever reads there may not see yet what he has just written. The gate ends a share by itself
`TTL_S` after this process last renewed it, so that nobody is left with a bad target by a process that has died.
"""

from __future__ import annotations

import time
from typing import Any

from tenure.engine.context import StepContext
from tenure.engine.spec import Done, StepOutcome
from tenure.errors import TargetUnfit, TenureError
from tenure.model.traffic import Traffic
from tenure.operations.deps import Deps
from tenure.operations.health import Health, Kinds, add
from tenure.operations.session import Session
from tenure.plan.bounds import State, Verdict
from tenure.plan.canary import CanaryPlan

CANARY = "canary "
"""How the phase begins in which people see the share."""
LOOK_S = 1.0
TTL_S = 5.0
NOTHING = Kinds(reads=Traffic(), others=Traffic())


class Canary:
    """One attempt of the step. What an earlier attempt held through is not repeated."""

    def __init__(self, deps: Deps, ctx: StepContext, session: Session, plan: CanaryPlan) -> None:
        self._deps = deps
        self._ctx = ctx
        self._session = session
        self._plan = plan
        self._held: list[dict[str, Any]] = list(ctx.saved.get("held", ()))
        self._baseline = baseline_of(ctx.saved)

    def run(self) -> StepOutcome:
        """Measure the source, then hold every share. Whatever happens, all reads end up at the source.

        Raises `TargetUnfit` as soon as the target leaves its bounds: nothing was lost, and the move is aborted.
        """
        deps, ctx, session = self._deps, self._ctx, self._session
        address, epoch = deps.address(session.tenant), deps.fence(session.tenant, ctx.token).epoch
        deps.router.gate(address, session.source, token=ctx.token, epoch=epoch)
        ctx.reach("canary.gated")
        try:
            for number, share in enumerate((0.0, *self._plan.shares)):
                if number >= len(self._held):
                    self._hold(share)
        finally:
            self._back()
        ctx.remember(baseline=baseline_document(self._baseline))
        ctx.event("canary_ended", serves=session.source)
        return Done(result={"held": self._held})

    def _hold(self, share: float) -> None:
        """One share, watched for as long as was agreed."""
        ctx, session, plan = self._ctx, self._session, self._plan
        router, tenant = self._deps.router, session.tenant
        ctx.phase(f"{CANARY}{share:g} %" if share else "measuring")
        source, target = (Health(router, tenant, cell) for cell in (session.source, session.target))
        self._give(share)
        ctx.event("canary_share_begun", share=share, soak_s=plan.soak_s)
        ctx.reach(f"canary.{share:g}")
        until = time.monotonic() + plan.soak_s
        while (left_s := until - time.monotonic()) > 0:
            ctx.wait(min(LOOK_S, left_s))
            self._give(share)
            source.look()
            target.look()
            verdict = self._verdict(source, target)
            if verdict.state is State.OUTSIDE and share:
                self._leave(share, verdict, target)
            ctx.progress(
                f"canary {share:g} %",
                round(plan.soak_s - max(0.0, left_s - LOOK_S)),
                round(plan.soak_s),
                "s",
                **verdict.as_dict(),
            )
        self._baseline = add(self._baseline, source.seen())
        self._held.append({"share": share, **self._verdict(source, target).as_dict()})
        ctx.event("canary_share_held", source=source.seen().reads.as_dict(), **self._held[-1])
        ctx.checkpoint(held=self._held, baseline=baseline_document(self._baseline))

    def _verdict(self, source: Health, target: Health) -> Verdict:
        """The target's reads beside the source's of the same time, or beside all before if that are too few now."""
        beside = source.seen()
        if beside.reads.answered < self._plan.bounds.min_requests:
            beside = add(self._baseline, beside)
        return target.verdicts(beside, self._plan.bounds, others=False)["reads"]

    def _give(self, share: float) -> None:
        self._deps.router.canary(
            self._session.tenant,
            token=self._ctx.token,
            cell=self._session.target,
            share=share / 100,
            ttl_s=TTL_S,
        )

    def _back(self) -> None:
        """All reads to the source. A gate that cannot be told does it by itself, and a newer holder has done it."""
        try:
            self._give(0.0)
        except TenureError as error:
            self._ctx.later_event("canary_left_to_its_deadline", ttl_s=TTL_S, problem=error.message)

    def _leave(self, share: float, verdict: Verdict, target: Health) -> None:
        self._give(0.0)
        session = self._session
        self._ctx.event(
            "canary_left",
            share=share,
            after_s=round(target.seconds, 1),
            serves=session.source,
            **verdict.as_dict(),
        )
        raise TargetUnfit(
            f"{session.target} does not serve {session.tenant} well enough with {share:g} % of its reads: "
            f"{'; '.join(verdict.reasons)}",
            hint=f"all reads are back in {session.source}; look at {session.target}'s app, then migrate again",
        )


def baseline_document(kinds: Kinds) -> dict[str, Any]:
    """What was measured of the source, as an operation keeps it."""
    return {
        name: {
            "begun": seen.begun,
            "answered": seen.answered,
            "failed": seen.failed,
            "latencies": {str(edge): count for edge, count in seen.latencies.items()},
        }
        for name, seen in (("reads", kinds.reads), ("others", kinds.others))
    }


def baseline_of(document: Any) -> Kinds:
    """The measurement kept under `baseline`; one without requests if there is none."""
    kept = document.get("baseline")
    if kept is None:
        return NOTHING

    def seen(name: str) -> Traffic:
        one = kept[name]
        latencies = {float(edge): int(count) for edge, count in one["latencies"].items()}
        return Traffic(
            begun=one["begun"], answered=one["answered"], failed=one["failed"], latencies=latencies
        )

    return Kinds(reads=seen("reads"), others=seen("others"))
