"""Makes plans from what is there now: for a command, for who is to approve one, and for an approved one that begins."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from dataclasses import replace
from typing import Final

from tenure.errors import NotAllowed, PlanStale
from tenure.estate.config import Estate
from tenure.model.approval import EVERY_TIER, Demand, Identity, Rule
from tenure.model.names import CellName, TenantId, cell_name
from tenure.model.operation import Operation, OperationState
from tenure.operations.capacity import Capacity
from tenure.operations.deps import Deps
from tenure.operations.erase import observing as erasure
from tenure.operations.observe import PAST_MEASUREMENTS, link_name, observe
from tenure.plan.canary import CanaryPlan
from tenure.plan.erase import ErasePlan
from tenure.plan.move import COMPLETE_STEPS, MIGRATE_STEPS, ROLLBACK_STEPS, Plan, plan_move

PLANNER = "planner"
"""Who plans admits nobody."""
LOOKS_AT_ONCE: Final = 2
"""How many moves one process looks at for their plans at the same time. A look measures how quickly the stores answer:
many at once would measure each other, and plans would be refused for holds that are predicted too long."""
_looking = threading.BoundedSemaphore(LOOKS_AT_ONCE)
STEPS = {"migrate": MIGRATE_STEPS, "rollback": ROLLBACK_STEPS, "complete": COMPLETE_STEPS}


def plan_now(
    deps: Deps,
    kind: str,
    tenant: TenantId,
    source: CellName,
    target: CellName,
    *,
    linked: bool,
    canary: CanaryPlan | None = None,
) -> Plan:
    """Plan that operation. Reads only; raises `PlanStale` if `source` does not serve the tenant.

    Of many migrations that are planned at once in this process, some wait for others; a way back waits for nobody.
    """
    session = deps.sessions.get(link_name(tenant, source, target), tenant, source, target)
    with _looking if kind == "migrate" else nullcontext():
        seen = replace(observe(deps, session, linked=linked), canary=canary)
    if kind == "migrate":
        capacity = Capacity(deps, actor=PLANNER)
        request = capacity.request(kind, tenant, source, target, linked=linked)
        seen = replace(seen, findings=(*seen.findings, *capacity.out_of_reach(request, (source, target))))
    if kind == "complete":  # nothing moves: what would refuse a move does not matter
        seen = replace(seen, findings=(), residency=None, strays=None)
    (record,) = deps.registry.records.routes(
        kind, last=PAST_MEASUREMENTS, currency=seen.prices.currency, route_kinds=(seen.route_kind,)
    )
    return plan_move(kind, STEPS[kind], replace(seen, record=record))


Approved = Plan | ErasePlan
"""The plans that a second person can approve."""


def plan_again(deps: Deps, operation: Operation) -> Approved:
    """Plan what that operation would do if it began now. Raises as `plan_now` does, or `PlanStale` without its link."""
    tenant, request = TenantId(str(operation.tenant)), operation.request
    if operation.kind == "erase":
        return erasure.plan_now(deps, tenant)
    linked = deps.registry.links.active(tenant) is not None
    if operation.kind == "complete" and not linked:
        raise PlanStale(
            f"{tenant} is in one cell only: there is nothing to complete", hint=_withdraw(operation)
        )
    canary = CanaryPlan.of(request["canary"]) if "canary" in request else None
    return plan_now(
        deps,
        operation.kind,
        tenant,
        cell_name(request["from"]),
        cell_name(request["to"]),
        linked=linked,
        canary=canary,
    )


def require_planned(operation: Operation, plan: Approved) -> None:
    """Refuse an operation that would not do now what its plan says: raises `PlanStale`."""
    if plan.digest != operation.plan_digest:
        raise PlanStale(
            f"the plan of {operation.id} has changed: {operation.plan_digest} is what was asked for, {plan.digest} is "
            "what would be done now",
            hint=_withdraw(operation),
        )


def require_approved_plan(deps: Deps, operation: Operation) -> None:
    """Of an operation that was approved: refuse to begin with anything else than what was approved, or `PlanStale`."""
    if operation.approval_identity is not None:
        require_planned(operation, plan_again(deps, operation))


def plan_to_approve(deps: Deps, operation: Operation) -> Approved:
    """The plan that an approver is to look at, made anew: he does not have to believe what the proposal contains.

    Raises `PlanStale` if it is not the one that was asked for, `NotAllowed` if there is nothing to approve.
    """
    if operation.state is not OperationState.PROPOSED:
        raise NotAllowed(
            f"{operation.id} waits for no approval: it is {operation.state}",
            hint=f"tenure op show {operation.id}",
        )
    plan = plan_again(deps, operation)
    require_planned(operation, plan)
    if plan.refusals:
        raise NotAllowed(
            f"{plan.kind} of {plan.tenant} is refused by {len(plan.refusals)} finding(s)",
            findings=tuple(f"{f.where}: {f.message}. Fix: {f.cure}" for f in plan.refusals),
            hint=_withdraw(operation),
        )
    return plan


def demand(deps: Deps, kind: str, tenant: TenantId) -> Demand | None:
    """What this estate's file demands; the control database may demand more."""
    estate = deps.estate
    tier = estate.tiers.get(deps.registry.tenants.get(tenant).tier)
    asked = {*estate.approval.kinds, *(tier.approval if tier is not None else ())}
    return _demand(estate) if kind in asked else None


def rules_of(estate: Estate) -> frozenset[Rule]:
    """What the control database is to demand, whoever asks."""
    asked = [(EVERY_TIER, kind) for kind in estate.approval.kinds]
    asked += [(name, kind) for name, tier in estate.tiers.items() for kind in tier.approval]
    return frozenset(Rule(tier=tier, kind=kind, demand=_demand(estate)) for tier, kind in asked)


def _demand(estate: Estate) -> Demand:
    return Demand(identity=Identity(estate.approval.identity), ttl_s=estate.approval.expires_h * 3600)


def _withdraw(operation: Operation) -> str:
    verb = "erase tenant" if operation.kind == "erase" else operation.kind
    again = f"{verb} {operation.tenant}"
    return f"ask again: tenure op cancel {operation.id}, then tenure {again} once more"
