"""Where a tenant stands: in one sentence where its reads and writes go now, what is going on, and what to do next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from tenure.errors import StoreUnavailable
from tenure.model.approval import Identity
from tenure.model.names import CellName, TenantId
from tenure.model.operation import Operation, OperationState
from tenure.model.tenancy import Placement, Tenant
from tenure.operations.canary import CANARY
from tenure.operations.deps import Deps
from tenure.operations.rehearse import Outlook, outlook
from tenure.operations.soak import SoakState
from tenure.operations.soak import look as look_at_soak
from tenure.registry.admissions import Admission
from tenure.registry.links import Link, LinkState


@dataclass(frozen=True, kw_only=True)
class TenantStatus:
    """Where a tenant stands. `sentence` says where reads and writes go now."""

    tenant: Tenant
    placement: Placement
    link: Link | None
    active: Operation | None
    sentence: str
    next_steps: tuple[str, ...]
    proposed: Operation | None = None
    """What waits for the approval of a second person, or has it and has not begun; it keeps nothing else away."""
    outlook: Outlook | None = None
    """What rolling back now would be like, while that is possible and nothing else is going on."""
    waits_for: str | None = None
    """What the operation that the tenant is in has to wait for before it begins."""


def look_at(deps: Deps, tenant_id: TenantId, *, is_running: Callable[[Operation], bool]) -> TenantStatus:
    """The status now. `is_running` says whether somebody is at an operation."""
    registry = deps.registry
    tenant = registry.tenants.get(tenant_id)
    placement = registry.placements.get(tenant.id)
    link = registry.links.active(tenant.id)
    active = registry.operations.active_for(tenant.id)
    served = f"Reads and writes of {tenant.id} go to {placement.cell} (epoch {placement.epoch})."
    if active is not None and active.kind == "erase" and active.committed:
        served = f"{tenant.id} is closed for good: nothing reads or writes it any more."
    after: Outlook | None = None
    waits_for: str | None = None
    if active is not None:
        admission = registry.admissions.get(active.id)
        waits_for = None if admission is None else admission.waits_for
    if active is not None and admission is not None and waits_for is not None:
        told, steps = _queued(active, admission, waits_for)
    elif active is not None:
        told, steps = _busy(deps, active, placement, running=is_running(active))
    elif link is not None:
        told, steps, after = _linked(deps, link, placement)
    else:
        told, steps = "", []
    proposed = registry.operations.proposed_for(tenant.id)
    if proposed is not None:
        waits, first = look_at_proposal(deps, proposed)
        told, steps = f"{told} {waits}".lstrip(), [*first, *steps]
    return TenantStatus(
        tenant=tenant,
        placement=placement,
        link=link,
        active=active,
        sentence=f"{served} {told}".rstrip(),
        next_steps=tuple(steps),
        proposed=proposed,
        outlook=after,
        waits_for=waits_for,
    )


def look_at_proposal(deps: Deps, proposed: Operation) -> tuple[str, list[str]]:
    """What a proposed operation waits for, in one sentence, and the commands that come next."""
    given = deps.registry.approvals.list(proposed.id)
    what = f"{proposed.kind} {proposed.id}"
    withdraw = f"tenure op cancel {proposed.id}"
    standing = next((a for a in reversed(given) if a.stands), None)
    if standing is not None:
        until = f"{standing.expires_at:%Y-%m-%d %H:%M} UTC"
        return f"{what} is approved by {standing.approver} and may begin until {until}.", [
            f"tenure op resume {proposed.id}",
            withdraw,
        ]
    who = proposed.requested_as if proposed.approval_identity is Identity.DATABASE else proposed.requested_by
    expired = f"; the last approval expired at {given[-1].expires_at:%Y-%m-%d %H:%M} UTC" if given else ""
    return (
        f"{what} waits until its plan {proposed.plan_digest} is approved by somebody else than {who}{expired}.",
        [f"tenure op approve {proposed.id} --digest {proposed.plan_digest}", withdraw],
    )


def other_cell(link: Link, cell: CellName) -> CellName:
    """The cell at the other end of a link."""
    return link.cell_b if cell == link.cell_a else link.cell_a


def _busy(deps: Deps, active: Operation, placement: Placement, *, running: bool) -> tuple[str, list[str]]:
    told = f"{active.kind} {active.id} is at {active.phase or active.state}."
    if active.phase.startswith(CANARY):
        told += f" As long as it is run, that share of the reads goes to {active.request['to']}."
    closed = _closed(deps, placement)
    if closed:
        told += f" {placement.cell} refuses its writes in {', '.join(closed)} until that goes on."
    steps = [f"tenure op show {active.id}"]
    if active.state is OperationState.AWAITING:
        told += f" It waits for somebody: {active.data['question']}."
        steps += [f"tenure drift {active.tenant} --repair", f"tenure op confirm {active.id}"]
    elif not running:
        steps += [f"tenure op resume {active.id}", f"tenure op cancel {active.id}"]
    return told, steps


def _queued(active: Operation, admission: Admission, waits_for: str) -> tuple[str, list[str]]:
    """What is to be said of an operation that has not begun because others go first."""
    steps = ["tenure capacity", f"tenure op show {active.id}", f"tenure op cancel {active.id}"]
    if not admission.wanted:
        steps.insert(0, f"tenure op resume {active.id}")
    left = "" if admission.wanted else " Nobody waits for it now."
    return f"{active.kind} {active.id} {waits_for}.{left}", steps


def _closed(deps: Deps, placement: Placement) -> list[str]:
    """The stores of the serving cell that refuse the tenant's writes now, as far as they can be asked."""
    found = []
    for name in deps.factory.moving():
        try:
            if not deps.factory.store(placement.cell, name).fence_state(placement.tenant).writable:
                found.append(str(name))
        except StoreUnavailable:
            found.append(f"{name} (cannot be reached)")
    return found


def _linked(deps: Deps, link: Link, placement: Placement) -> tuple[str, list[str], Outlook | None]:
    """What is to be said of a tenant that no operation is at, and whose former cell still has its data."""
    other = other_cell(link, placement.cell)
    if link.state is LinkState.ENDING:
        return f"What {other} still holds of it is being removed.", [f"tenure complete {link.tenant}"], None
    if link.state is LinkState.EXPIRED:
        return _expired_sentence(link, other), [f"tenure complete {link.tenant} --plan"], None
    seen = look_at_soak(deps, link)
    after = outlook(deps, seen, placement)
    steps = [f"tenure rollback {link.tenant} --plan", f"tenure complete {link.tenant} --plan"]
    if after.hold_ms is None:
        steps.insert(0, f"tenure rollback {link.tenant} --rehearse")
    return f"{_soak_sentence(link, seen)} {after.sentence}", steps, after


def _soak_sentence(link: Link, seen: SoakState) -> str:
    other = seen.follows
    if seen.over is not None:
        return f"{other} is about to be let go of, because {seen.over}: complete the move or roll it back."
    if seen.problems:
        return f"{other} does not follow now."
    if link.soak_until is None:
        return f"{other} follows: rolling back loses nothing."
    when = f"{link.soak_until:%Y-%m-%d %H:%M} UTC"
    if link.soak_until < datetime.now(UTC):
        return f"{other} still follows, but the soak ended on {when}: complete the move."
    return f"{other} follows until {when}: rolling back loses nothing."


def _expired_sentence(link: Link, other: CellName) -> str:
    return (
        f"The soak is over: {other} has not followed since {link.expired_at:%Y-%m-%d %H:%M} UTC, because "
        f"{link.expired_because}. There is no way back; complete the move."
    )
