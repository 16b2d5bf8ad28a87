"""The use cases: the only thing that the entry points (command line, HTTP, workers) call.

Every call checks what it was given before anything changes, and raises a `TenureError` that says what to do.
"""

from __future__ import annotations

import getpass
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from tenure.engine.engine import Engine
from tenure.engine.observer import Observer
from tenure.engine.spec import OperationSpec
from tenure.errors import NotAllowed, PlanStale, StoreUnavailable, TenantLocked, UnknownName, UsageError
from tenure.model.names import CellName, TenantId, cell_name, tenant_id
from tenure.model.operation import Operation, OperationState, Step
from tenure.model.tenancy import Placement, Tenant, TenantState
from tenure.operations.complete import SOAKING_AMONG, Complete
from tenure.operations.deps import Deps
from tenure.operations.drift import Drift, Look, Survey
from tenure.operations.move import Move
from tenure.operations.observe import link_name, observe
from tenure.operations.steering import not_reached
from tenure.operations.verify import Verify
from tenure.plan.move import COMPLETE_STEPS, MIGRATE_STEPS, ROLLBACK_STEPS, Plan, plan_move
from tenure.registry.links import Link, LinkState
from tenure.routing.contract import RouteState


@dataclass(frozen=True, kw_only=True)
class TenantStatus:
    """Where a tenant stands. `sentence` says where reads and writes go now."""

    tenant: Tenant
    placement: Placement
    link: Link | None
    active: Operation | None
    sentence: str
    next_steps: tuple[str, ...]


class Service:
    """One per process. Thread-safe as far as different tenants are concerned."""

    def __init__(self, deps: Deps, engine: Engine) -> None:
        self._deps = deps
        self._engine = engine
        self._actor = f"{getpass.getuser()}@{socket.gethostname()}"

    # -- tenants -----------------------------------------------------------------------------------------------------

    def add_tenant(
        self, text: str, *, cell: str, tier: str, host: str | None, residency: str | None
    ) -> Placement:
        """Register a tenant that is served by `cell` and route it there. Its data is not touched."""
        tenant = tenant_id(text)
        estate = self._deps.estate
        where = cell_name(cell)
        region = estate.cell(where).region
        if tier not in estate.tiers:
            raise UsageError(f"no tier {tier!r}", hint=f"tenure.yaml has {', '.join(sorted(estate.tiers))}")
        if residency is not None and residency not in estate.residency:
            raise UsageError(
                f"no residency rule {residency!r}",
                hint=f"tenure.yaml has {', '.join(sorted(estate.residency)) or 'none'}",
            )
        name = host or estate.gateway.host_for(tenant)
        added = self._deps.registry.tenants.add(
            Tenant(id=tenant, tier=tier, host=name, residency=residency), where, actor=self._actor
        )
        if residency is not None and region not in estate.residency[residency].regions:
            self._deps.registry.events.append(
                "placed_outside_residency",
                actor=self._actor,
                tenant=tenant,
                data={"cell": where, "rule": residency},
            )
        self._deps.router.route(self._deps.address(tenant), where, epoch=added.epoch)
        return added

    def tenants(self) -> tuple[tuple[Tenant, Placement], ...]:
        placements = {p.tenant: p for p in self._deps.registry.placements.list()}
        return tuple((t, placements[t.id]) for t in self._deps.registry.tenants.list())

    def set_tier(self, text: str, tier: str) -> Tenant:
        if tier not in self._deps.estate.tiers:
            raise UsageError(
                f"no tier {tier!r}", hint=f"tenure.yaml has {', '.join(sorted(self._deps.estate.tiers))}"
            )
        return self._deps.registry.tenants.set_tier(self._known(text), tier, actor=self._actor)

    def set_state(self, text: str, state: TenantState) -> Tenant:
        return self._deps.registry.tenants.set_state(self._known(text), state, actor=self._actor)

    def set_legal_hold(self, text: str, reason: str | None) -> Tenant:
        return self._deps.registry.tenants.set_legal_hold(self._known(text), reason, actor=self._actor)

    def status(self, text: str) -> TenantStatus:
        """Where the tenant is served, what is going on, and what can be done next."""
        tenant = self._deps.registry.tenants.get(self._known(text))
        registry = self._deps.registry
        placement = registry.placements.get(tenant.id)
        link = registry.links.active(tenant.id)
        active = registry.operations.active_for(tenant.id)
        sentence = f"Reads and writes of {tenant.id} go to {placement.cell} (epoch {placement.epoch})."
        steps: list[str] = []
        if active is not None:
            sentence += f" {active.kind} {active.id} is at {active.phase or active.state}."
            closed = self._closed(tenant.id, placement.cell)
            if closed:
                sentence += f" {placement.cell} refuses its writes in {', '.join(closed)} until that goes on."
            steps.append(f"tenure op show {active.id}")
            if active.state is OperationState.AWAITING:
                sentence += f" It waits for somebody: {active.data['question']}."
                steps += [f"tenure drift {tenant.id} --repair", f"tenure op confirm {active.id}"]
            elif not self._engine.is_running(active):
                steps += [f"tenure op resume {active.id}", f"tenure op cancel {active.id}"]
        elif link is not None and link.state is LinkState.ENDING:
            sentence += f" What {self._other(link, placement.cell)} still holds of it is being removed."
            steps.append(f"tenure complete {tenant.id}")
        elif link is not None:
            sentence += " " + self._soak_sentence(link, self._other(link, placement.cell))
            steps += [f"tenure rollback {tenant.id} --plan", f"tenure complete {tenant.id} --plan"]
        return TenantStatus(
            tenant=tenant,
            placement=placement,
            link=link,
            active=active,
            sentence=sentence,
            next_steps=tuple(steps),
        )

    def _closed(self, tenant: TenantId, cell: CellName) -> list[str]:
        """The stores of the serving cell that refuse the tenant's writes now, as far as they can be asked."""
        found = []
        for name in self._deps.factory.names():
            try:
                if not self._deps.factory.store(cell, name).fence_state(tenant).writable:
                    found.append(str(name))
            except StoreUnavailable:
                found.append(f"{name} (cannot be reached)")
        return found

    @staticmethod
    def _soak_sentence(link: Link, other: CellName) -> str:
        if link.soak_until is None:
            return f"{other} follows: rolling back loses nothing."
        when = f"{link.soak_until:%Y-%m-%d %H:%M} UTC"
        if link.soak_until < datetime.now(UTC):
            return f"{other} still follows, but the soak ended on {when}: complete the move."
        return f"{other} follows until {when}: rolling back loses nothing."

    # -- what is routed against what should be ------------------------------------------------------------------------

    def drift(self, text: str | None) -> Survey:
        """Look at one tenant, or at all, unless somebody is moving them."""
        return Drift(self._deps).survey(self._known(text) if text is not None else None)

    def repair(self, tenants: Sequence[TenantId]) -> None:
        """Route these tenants as they are placed. Raises `RouteDrifted` with what could not be mended."""
        Drift(self._deps).repair(tenants, actor=self._actor)

    def look(self, operation: Operation) -> Look | None:
        """What a person is to look at before confirming; None for an operation that waits for nobody."""
        if operation.state is not OperationState.AWAITING or operation.tenant is None:
            return None
        return Drift(self._deps).look(operation.tenant)

    def observed_route(self, text: str) -> RouteState:
        """What the gateway really does with the tenant's requests."""
        return self._deps.router.observed(self._deps.address(self._known(text)))

    # -- plans -------------------------------------------------------------------------------------------------------

    def plan_migrate(self, text: str, to: str) -> Plan:
        """Plan a move to the cell `to`. Reads only. Raises for names that cannot be right."""
        tenant, target = self._known(text), cell_name(to)
        self._deps.estate.cell(target)
        self._free(tenant)
        placement = self._deps.registry.placements.get(tenant)
        if placement.cell == target:
            raise UsageError(
                f"{tenant} is served by {target} already",
                hint=f"`tenure tenant show {tenant}` says where it is and what follows",
            )
        link = self._deps.registry.links.active(tenant)
        if link is not None and target not in (link.cell_a, link.cell_b):
            raise NotAllowed(
                f"{tenant} still has a link between {link.cell_a} and {link.cell_b}",
                hint=f"end it first: tenure complete {tenant}",
            )
        self._not_ending(link)
        return self._plan("migrate", tenant, placement.cell, target, linked=link is not None)

    def plan_rollback(self, text: str) -> Plan:
        """Plan to go back to the cell that the tenant came from and that still follows."""
        tenant = self._known(text)
        self._free(tenant)
        link = self._link(tenant, "roll back")
        self._not_ending(link)
        placement = self._deps.registry.placements.get(tenant)
        return self._plan("rollback", tenant, placement.cell, self._other(link, placement.cell), linked=True)

    def plan_complete(self, text: str) -> Plan:
        """Plan to end the link and destroy the copy in the cell that does not serve the tenant."""
        tenant = self._known(text)
        self._free(tenant)
        link = self._link(tenant, "complete")
        placement = self._deps.registry.placements.get(tenant)
        return self._plan("complete", tenant, placement.cell, self._other(link, placement.cell), linked=True)

    # -- operations --------------------------------------------------------------------------------------------------

    def migrate(self, text: str, to: str, *, apply: str | None, observer: Observer) -> Operation:
        return self._carry_out(self.plan_migrate(text, to), Move(self._deps).migrate(), {}, apply, observer)

    def rollback(self, text: str, *, apply: str | None, observer: Observer) -> Operation:
        plan = self.plan_rollback(text)
        return self._carry_out(plan, Move(self._deps).rollback(), self._soaking(plan.tenant), apply, observer)

    def complete(self, text: str, *, apply: str | None, observer: Observer) -> Operation:
        plan = self.plan_complete(text)
        return self._carry_out(plan, Complete(self._deps).spec(), self._soaking(plan.tenant), apply, observer)

    def verify(self, text: str, *, repair: bool, observer: Observer) -> Operation:
        """Compare both sides of the tenant's link. With `repair`, make the passive side equal."""
        tenant = self._known(text)
        self._free(tenant)
        link = self._link(tenant, "verify")
        self._not_ending(link)
        source = self._deps.registry.placements.get(tenant).cell
        request = {"from": source, "to": self._other(link, source), "repair": repair}
        spec = Verify(self._deps).spec()
        operation = self._engine.create(spec, tenant=tenant, request=request, requested_by=self._actor)
        return self._engine.run(operation.id, spec, observer=observer)

    def operation(self, operation_id: str) -> tuple[Operation, tuple[Step, ...]]:
        return self._deps.registry.operations.get(operation_id), self._deps.registry.steps.list(operation_id)

    def operations(self, *, tenant: str | None, limit: int) -> tuple[Operation, ...]:
        known = self._known(tenant) if tenant is not None else None
        return self._deps.registry.operations.list(tenant=known, limit=limit)

    def events(self, operation_id: str, *, since: int = 0) -> tuple[Mapping[str, Any], ...]:
        self._deps.registry.operations.get(operation_id)
        return tuple(
            {
                "seq": e.seq,
                "at": e.at.astimezone(UTC).isoformat(),
                "actor": e.actor,
                "action": e.action,
                "data": dict(e.data),
            }
            for e in self._deps.registry.events.list(operation=operation_id, since=since, limit=10_000)
        )

    def resume(self, operation_id: str, observer: Observer) -> Operation:
        """Carry an interrupted operation on, here and now."""
        operation = self._deps.registry.operations.get(operation_id)
        return self._engine.resume(operation_id, self._spec(operation), observer=observer)

    def confirm(self, operation_id: str, observer: Observer) -> Operation:
        """Note that a person has looked, look again, and carry the operation on.

        Raises `NotAllowed` with everything seen if users do not get where they should: then it goes on waiting.
        """
        operation = self._deps.registry.operations.get(operation_id)
        look = self.look(operation)
        if look is not None and not look.reached:
            raise NotAllowed(
                f"requests of {look.tenant} do not reach {look.cell} yet: {operation_id} goes on waiting",
                findings=(*look.saw, *not_reached(look)),
                hint=f"mend what differs, then tenure op confirm {operation_id}",
            )
        self._deps.registry.steps.confirm(operation_id, actor=self._actor)
        return self._engine.run(operation_id, self._spec(operation), observer=observer)

    def cancel(self, operation_id: str, observer: Observer) -> Operation:
        """End an operation before its point of no return; everything is as before."""
        operation = self._deps.registry.operations.get(operation_id)
        return self._engine.cancel(operation_id, self._spec(operation), observer=observer)

    def close(self) -> None:
        self._deps.sessions.close()
        self._deps.router.close()
        self._deps.registry.close()

    # -- parts -------------------------------------------------------------------------------------------------------

    def _known(self, text: str) -> TenantId:
        return self._deps.registry.tenants.get(tenant_id(text)).id

    def _free(self, tenant: TenantId) -> None:
        active = self._deps.registry.operations.active_for(tenant)
        if active is not None:
            raise TenantLocked(
                f"{tenant} is in {active.kind} {active.id} ({active.phase or active.state})",
                hint=f"tenure op show {active.id}; if its process is gone: tenure op resume {active.id}, "
                f"or tenure op cancel {active.id}",
            )

    def _link(self, tenant: TenantId, verb: str) -> Link:
        link = self._deps.registry.links.active(tenant)
        if link is None:
            raise NotAllowed(
                f"{tenant} is in one cell only: there is nothing to {verb}",
                hint=f"tenure migrate {tenant} --to CELL --plan",
            )
        return link

    @staticmethod
    def _not_ending(link: Link | None) -> None:
        if link is not None and link.state is LinkState.ENDING:
            raise NotAllowed(
                f"the move of {link.tenant} is being completed: nothing follows any more",
                hint=f"finish it: tenure complete {link.tenant}",
            )

    @staticmethod
    def _other(link: Link, cell: CellName) -> CellName:
        return link.cell_b if cell == link.cell_a else link.cell_a

    def _plan(self, kind: str, tenant: TenantId, source: CellName, target: CellName, *, linked: bool) -> Plan:
        steps = {"migrate": MIGRATE_STEPS, "rollback": ROLLBACK_STEPS, "complete": COMPLETE_STEPS}[kind]
        session = self._deps.sessions.get(link_name(tenant, source, target), tenant, source, target)
        seen = observe(self._deps, session, linked=linked)
        if kind == "complete":  # nothing moves: what would refuse a move does not matter
            seen = replace(seen, findings=(), residency=None, strays=None)
        return plan_move(kind, steps, seen)

    def _soaking(self, tenant: TenantId) -> dict[str, Any]:
        """The soaking migration that a rollback or a completion ends."""
        for operation in self._deps.registry.operations.list(tenant=tenant, limit=SOAKING_AMONG):
            if operation.kind == "migrate" and operation.state is OperationState.SOAKING:
                return {"of": operation.id}
        return {}

    def _carry_out(
        self, plan: Plan, spec: OperationSpec, extra: Mapping[str, Any], apply: str | None, observer: Observer
    ) -> Operation:
        if apply is not None and apply != plan.digest:
            raise PlanStale(
                f"the plan has changed: {apply} was agreed to, {plan.digest} is what would be done now",
                hint="look at the new plan with --plan",
            )
        if plan.refusals:
            raise NotAllowed(
                f"{plan.kind} of {plan.tenant} to {plan.target} is refused by {len(plan.refusals)} finding(s)",
                findings=tuple(f"{f.where}: {f.message}. Fix: {f.fix}" for f in plan.refusals),
                hint="mend what the findings name, then plan again",
            )
        request = {"from": plan.source, "to": plan.target, **extra}
        operation = self._engine.create(
            spec,
            tenant=plan.tenant,
            request=request,
            plan=plan.as_dict(),
            plan_digest=plan.digest,
            requested_by=self._actor,
        )
        return self._engine.run(operation.id, spec, observer=observer)

    def _spec(self, operation: Operation) -> OperationSpec:
        specs: dict[str, Callable[[], OperationSpec]] = {
            "migrate": Move(self._deps).migrate,
            "rollback": Move(self._deps).rollback,
            "complete": Complete(self._deps).spec,
            "verify": Verify(self._deps).spec,
        }
        if operation.kind not in specs:
            raise UnknownName(f"operations of kind {operation.kind!r} are not known to this version")
        return specs[operation.kind]()
