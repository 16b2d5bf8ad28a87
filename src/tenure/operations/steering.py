"""Getting a tenant's requests behind the gate, and the second path of a rollback whose gateway is out of step.

A migrate that cannot hold the tenant's requests refuses. A rollback goes on without a hold, because the fences keep one
writer whatever the gateway does: requests that meet them fail meanwhile, none is lost. It then leads the tenant's name
past the gateway, and is not called done before a person has looked and confirmed, and a look has agreed.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Final

from tenure.engine.context import StepContext
from tenure.engine.spec import Ask, Done, StepOutcome
from tenure.errors import RouteDrifted, StoreUnavailable
from tenure.model.names import TenantId
from tenure.operations.deps import Deps
from tenure.operations.drift import BROKEN, Drift, Look
from tenure.operations.served import Served

_PATIENCE: Final = 3
"""Attempts after which a rollback no longer waits for a gateway or a name server that does not answer."""
_GATE_SEEN_WITHIN_S: Final = 2.0
_AGAIN_S: Final = 0.05


def ungated(ctx: StepContext) -> str | None:
    """Why this operation goes on without the gate, or None."""
    found = ctx.operation.data.get("ungated")
    return None if found is None else str(found)


def steer(deps: Deps, ctx: StepContext, served: Served, *, epoch: int) -> None:
    """Bring the tenant's requests behind the gate, towards `served.cell`, and see that they go there.

    If they do not, a migrate raises `RouteDrifted`; a rollback notes why and goes on `ungated`.
    """
    if ungated(ctx):
        return
    goes_on = ctx.operation.kind == "rollback"
    try:
        deps.router.gate(deps.address(served.tenant), served.cell, token=ctx.token, epoch=epoch)
        problem = Drift(deps).look(served.tenant).strays or _past_the_gate(deps, ctx, served.tenant)
    except BROKEN as error:
        if isinstance(error, StoreUnavailable) and (not goes_on or ctx.attempt < _PATIENCE):
            raise
        problem = error.message
    if problem is None:
        return
    if not goes_on:
        then = f"tenure op resume {ctx.operation.id}" if ctx.committed else "start again"
        raise RouteDrifted(
            f"the requests of {served.tenant} cannot be held: {problem}",
            hint=f"tenure drift {served.tenant} --repair, then {then}",
        )
    ctx.remember(ungated=problem)
    ctx.event(
        "gateway_drifted",
        problem=problem,
        effect=f"no hold: writes of {served.tenant} that meet a fence are refused until they reach its cell; "
        "what is read through this gateway may come from the cell that only follows",
    )
    ctx.reach("steer.ungated")
    if ctx.committed:
        divert(deps, ctx, served.tenant)


def _past_the_gate(deps: Deps, ctx: StepContext, tenant: TenantId) -> str | None:
    """What is wrong if a request such as users make does not come to the gate, in an instance that nobody named.

    The gateway's workers may be a moment behind with new routes, so it is made again until that is no excuse.
    """
    if deps.probe is None:
        return None
    listen, host = deps.estate.gateway.listen, deps.registry.tenants.get(tenant).host
    before = deps.router.asked(tenant)
    deadline = time.monotonic() + _GATE_SEEN_WITHIN_S
    while True:
        with suppress(StoreUnavailable):  # whoever does not answer may have been asked through the gate
            deps.probe.cell_at(listen, host)
        if deps.router.asked(tenant) != before:
            return None
        if time.monotonic() > deadline:
            return f"a request through {listen} does not come to the gate"
        ctx.wait(_AGAIN_S)


def let_go(deps: Deps, ctx: StepContext, served: Served, *, epoch: int) -> None:
    """Route the tenant straight to its cell. A gateway that does not follow is left to `tenure drift`.

    The files are right by then, and nobody waits at the gate: what the gateway makes of them changes no data.
    """
    try:
        deps.router.route(deps.address(served.tenant), served.cell, epoch=epoch)
    except BROKEN as error:
        if isinstance(error, StoreUnavailable) and ctx.attempt < _PATIENCE:
            raise
        ctx.event("gateway_drifted", problem=error.message, fix=f"tenure drift {served.tenant} --repair")


def divert(deps: Deps, ctx: StepContext, tenant: TenantId) -> StepOutcome:
    """Of a rollback that went on without the gate: lead the name to the cell, then try the gateway again."""
    problem = ungated(ctx)
    if problem is None:
        return Done(result={"gateway": "in step"})
    placement = deps.registry.placements.get(tenant)
    try:
        before = Drift(deps).divert(tenant, placement.cell)
    except BROKEN as error:
        if isinstance(error, StoreUnavailable) and ctx.attempt < _PATIENCE:
            raise
        ctx.event("name_not_changed", problem=error.message, fix=error.hint)
    else:
        if before is None:
            ctx.event("no_name_to_change", fix="mend the gateway: tenure drift --repair")
        else:
            ctx.event("name_changed", before=list(before), to=placement.cell)
    ctx.reach("divert.named")
    try:
        deps.router.gate(deps.address(tenant), placement.cell, token=ctx.token, epoch=placement.epoch)
    except BROKEN as error:
        ctx.event("gateway_still_drifted", problem=error.message)
    return Done(result={"gateway": problem})


def confirm(deps: Deps, ctx: StepContext, tenant: TenantId) -> StepOutcome:
    """See that no request strays. On the second path users must be seen to reach the cell, by a person as well."""
    look = Drift(deps).look(tenant)
    ctx.reach("confirm.looked")
    asks = ungated(ctx) is not None or ctx.confirmed
    if (ctx.confirmed and look.reached) if asks else (look.strays is None):
        ctx.event("route_seen", confirmed_by=ctx.operation.data.get("confirmed"), saw=list(look.saw))
        return Done(result={"saw": list(look.saw), "confirmed_by": ctx.operation.data.get("confirmed")})
    ctx.event("route_not_seen" if not look.reached else "look_wanted", saw=list(look.saw))
    return Ask(question=question(look, ctx.operation.id))


def question(look: Look, operation: str) -> str:
    """What a person is asked to see before confirming."""
    return (
        f"do requests of {look.tenant} ({look.host}) reach {look.cell}? "
        f"`tenure op show {operation}` says what to look at, `tenure op confirm {operation}` confirms it"
    )


def not_reached(look: Look) -> tuple[str, ...]:
    """What stands against a confirmation: everything seen that differs, each with its fix."""
    return tuple(
        f"{d.message}. Fix: {d.fix}" for d in look.differences if d.kind not in {"gated", "diverted"}
    )
