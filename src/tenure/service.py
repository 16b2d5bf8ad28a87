"""The use cases: the only thing that the entry points (command line, HTTP, workers) call.

Every call checks what it was given before anything changes, and raises a `TenureError` that says what to do.
"""

from __future__ import annotations

import getpass
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any, Final

from tenure.engine.engine import Engine
from tenure.engine.observer import Observer, Progressed, nobody
from tenure.engine.spec import OperationSpec
from tenure.errors import (
    NotAllowed,
    PlanStale,
    TenantLocked,
    UnknownName,
    UsageError,
)
from tenure.model.approval import Approval
from tenure.model.capacity import CapacityRequest
from tenure.model.names import CellName, TenantId, cell_name, tenant_id
from tenure.model.operation import Event, Operation, OperationState, Step
from tenure.model.record import OperationRecord, RouteRecord
from tenure.model.tenancy import Placement, Tenant, TenantState
from tenure.operations import follow, upkeep
from tenure.operations.backing_up import BackingUp
from tenure.operations.capacity import Capacity, CapacityReport
from tenure.operations.cataloguing import Cataloguing
from tenure.operations.complete import SOAKING_AMONG, Complete
from tenure.operations.deps import Deps, Dispatcher
from tenure.operations.drift import Drift, Look, Survey
from tenure.operations.erasing import Erasing, erased_at
from tenure.operations.fleet import Fleet
from tenure.operations.free import require_free
from tenure.operations.move import Move
from tenure.operations.planning import Approved, demand, plan_now, plan_to_approve
from tenure.operations.rehearse import Rehearsal
from tenure.operations.restoring import Restoring
from tenure.operations.soak import Expiry, SoakState
from tenure.operations.soak import look as look_at_soak
from tenure.operations.status import TenantStatus, look_at, look_at_proposal, other_cell
from tenure.operations.steering import not_reached
from tenure.operations.verify import Verify
from tenure.operations.watch import Outcome as WatchOutcome
from tenure.operations.watch import SoakWatch, WatchReport, outside
from tenure.plan.bounds import Verdict
from tenure.plan.move import Plan
from tenure.plan.targets import Judgement, Targets, judge
from tenure.registry.admissions import Admission
from tenure.registry.fires import Wanted
from tenure.registry.links import Link, LinkState
from tenure.routing.contract import RouteState

WATCH_LOOK_S = 2.0
MAKES_WAY: Final = "verify"
"""The kind of operation that a rollback ends instead of waiting for it: it changes nothing about who serves."""
MAKES_WAY_WITHIN_S: Final = 5.0
"""Seconds in which whoever runs it notices (a heartbeat and a look), before the step is taken from him."""


@dataclass(frozen=True, kw_only=True)
class SoakReport:
    """What `check_soaks` found about one link. `ended` is the operation that ended it, `busy` one that kept it away."""

    state: SoakState
    ended: Operation | None = None
    busy: Operation | None = None


def event_dict(event: Event) -> dict[str, Any]:
    """An event of the journal as people and programs get it."""
    return {
        "seq": event.seq,
        "at": event.at.astimezone(UTC).isoformat(),
        "actor": event.actor,
        "action": event.action,
        "data": dict(event.data),
    }


@dataclass(frozen=True, kw_only=True)
class RouteStats:
    """How operations went on one kind of route, and how that compares with the targets."""

    record: RouteRecord
    judged: Mapping[str, Judgement]


class Service:
    """One per process. Thread-safe as far as different tenants are concerned."""

    def __init__(self, deps: Deps, engine: Engine) -> None:
        self._deps = deps
        self._engine = engine
        self._fleet = Fleet(deps, engine, self._spec)
        self._actor = f"{getpass.getuser()}@{socket.gethostname()}"
        self._capacity = Capacity(deps, actor=self._actor)
        self.catalogue = Cataloguing(deps, actor=self._actor)
        """The data map against what is there."""
        self.backups = BackingUp(deps, engine, self._fleet, actor=self._actor)
        """Backups: taken, listed, verified, pruned."""
        self.restores = Restoring(deps, engine, self._fleet, actor=self._actor)
        """Restores of backups."""
        self.erasures = Erasing(deps, engine, self._fleet, actor=self._actor)
        """Erasures, and the certificates of them."""
        self.audit = deps.registry.audit
        """Whether the journal is what was written."""

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
        erased = erased_at(self._deps, tenant)
        if erased is not None:
            raise NotAllowed(
                f"{tenant} was erased on {erased:%Y-%m-%d}: nothing is registered under that id again",
                hint="give the new tenant another id; `tenure erase status` has the request",
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
        return look_at(self._deps, self._known(text), is_running=self._engine.is_running)

    # -- what is routed against what should be ------------------------------------------------------------------------

    def drift(self, text: str | None) -> Survey:
        """Look at one tenant, or at all, unless somebody is moving them."""
        return Drift(self._deps).survey(self._known(text) if text is not None else None)

    def repair(self, tenants: Sequence[TenantId]) -> None:
        """Route these tenants as they are placed. Raises `RouteDrifted` with what could not be mended."""
        Drift(self._deps).repair(tenants, actor=self._actor)

    def look(self, operation: Operation) -> Look | None:
        """What a person is to look at before confirming: where requests go. None for one that waits for nobody,
        and for an erasure, which looks by itself at what its question names."""
        if operation.state is not OperationState.AWAITING or operation.tenant is None:
            return None
        if operation.kind == "erase":
            return None
        return Drift(self._deps).look(operation.tenant)

    def observed_route(self, text: str) -> RouteState:
        """What the gateway really does with the tenant's requests."""
        return self._deps.router.observed(self._deps.address(self._known(text)))

    # -- plans -------------------------------------------------------------------------------------------------------

    def plan_migrate(self, text: str, to: str, *, canary: bool | None = None) -> Plan:
        """Plan a move to the cell `to`. Reads only. Raises for names that cannot be right.

        `canary` says whether reads try the target first; None leaves it to the tenant's tier.
        """
        tenant, target = self._known(text), cell_name(to)
        self._deps.estate.cell(target)
        require_free(self._deps, tenant)
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
        self._not_over(link)
        wanted = self._deps.canary(tenant, canary)
        return plan_now(
            self._deps, "migrate", tenant, placement.cell, target, linked=link is not None, canary=wanted
        )

    def plan_rollback(self, text: str) -> Plan:
        """Plan to go back to the cell that the tenant came from and that still follows."""
        tenant = self._known(text)
        require_free(self._deps, tenant, but=MAKES_WAY)
        link = self._link(tenant, "roll back")
        self._not_over(link)
        placement = self._deps.registry.placements.get(tenant)
        return plan_now(
            self._deps, "rollback", tenant, placement.cell, other_cell(link, placement.cell), linked=True
        )

    def plan_complete(self, text: str) -> Plan:
        """Plan to end the link and destroy the copy in the cell that does not serve the tenant."""
        tenant = self._known(text)
        require_free(self._deps, tenant)
        link = self._link(tenant, "complete")
        placement = self._deps.registry.placements.get(tenant)
        return plan_now(
            self._deps, "complete", tenant, placement.cell, other_cell(link, placement.cell), linked=True
        )

    # -- soaks -------------------------------------------------------------------------------------------------------

    def check_soaks(
        self, text: str | None, *, end: bool, observer: Observer = nobody
    ) -> tuple[SoakReport, ...]:
        """Look at the link of one tenant, or at all, and with `end` end those that are over or keep too much WAL.

        Ending one takes the way back away and destroys no data. A link whose tenant is in an operation is left alone.
        """
        links = self._deps.registry.links
        if text is not None:
            found: tuple[Link, ...] = (self._link(self._known(text), "check"),)
        else:
            found = (*links.list(state=LinkState.ACTIVE), *links.list(state=LinkState.EXPIRED))
        return tuple(self._check_soak(link, end, observer) for link in found)

    def _check_soak(self, link: Link, end: bool, observer: Observer) -> SoakReport:
        state = look_at_soak(self._deps, link)
        busy = self._deps.registry.operations.active_for(link.tenant)
        if state.over is None or not end or busy is not None or link.state is LinkState.ENDING:
            return SoakReport(state=state, busy=busy)
        spec, wanted = Expiry(self._deps).spec(), upkeep.expiry(self._deps, state)
        operation = self._engine.create(
            spec, tenant=link.tenant, request=wanted.request, requested_by=self._actor
        )
        ended = self._engine.run(operation.id, spec, observer=observer)
        again = look_at_soak(self._deps, self._deps.registry.links.get(link.name))
        return SoakReport(state=again, ended=ended)

    # -- what schedules ask for --------------------------------------------------------------------------------------

    def soaks_over(self) -> Iterator[Wanted]:
        """The operations that end the soaks which are over or keep too much WAL."""
        return upkeep.soaks_over(self._deps)

    def comparisons_due(self, *, max_age_s: float) -> Iterator[Wanted]:
        """The operations that compare and mend the soaking tenants which were not compared for that long."""
        return upkeep.comparisons_due(self._deps, max_age_s=max_age_s)

    @property
    def dispatcher(self) -> Dispatcher | None:
        """Who has workers look at operations; None without a fleet."""
        return self._deps.dispatcher

    # -- capacity ----------------------------------------------------------------------------------------------------

    def capacity(self) -> CapacityReport:
        """Everything that is limited, who takes it, and who waits, in the order of their turns. Reads only."""
        return self._capacity.survey()

    def admit_waiting(self) -> tuple[str, ...]:
        """Let everything begin whose turn it is, in that order; for a scheduler, right before it looks for what is due
        (`registry.operations.due` lists nothing that waits for capacity)."""
        return self._capacity.admit_waiting()

    def admission(self, operation_id: str) -> Admission | None:
        """What the operation needs and whether it waits for it; None for one that has not to be admitted."""
        return self._deps.registry.admissions.get(operation_id)

    # -- operations --------------------------------------------------------------------------------------------------

    # With `here` an operation runs in this process, otherwise in a worker if one that lives serves its queue; it is
    # followed to its end in either case, and Ctrl-C then only ends the following (`Interrupted`).

    def migrate(
        self,
        text: str,
        to: str,
        *,
        apply: str | None,
        observer: Observer,
        canary: bool | None = None,
        here: bool = True,
    ) -> Operation:
        plan = self.plan_migrate(text, to, canary=canary)
        wanted = self._deps.canary(plan.tenant, canary)
        extra = {"canary": wanted.as_dict()} if wanted is not None else {}
        spec = Move(self._deps).migrate(canary=wanted is not None)
        return self._carry_out(plan, spec, extra, apply, observer, here=here)

    def rollback(
        self, text: str, *, apply: str | None, observer: Observer, because: Sequence[str] = ()
    ) -> Operation:
        """`because` is kept with the operation: why somebody, or a watch, wanted it.

        It always runs here and at once: a way back must not wait for a fleet.
        A comparison of the tenant that is under way makes way.
        """
        plan = self.plan_rollback(text)
        self._have_way_made(plan.tenant, observer)
        extra = {**self._soaking(plan.tenant), **({"because": list(because)} if because else {})}
        return self._carry_out(plan, Move(self._deps).rollback(), extra, apply, observer)

    def rehearse_rollback(self, text: str, *, observer: Observer) -> Operation:
        """Everything of a rollback but the switch, with what the hold would take; leaves everything as it was."""
        return self._carry_out(self.plan_rollback(text), Rehearsal(self._deps).spec(), {}, None, observer)

    def complete(self, text: str, *, apply: str | None, observer: Observer, here: bool = True) -> Operation:
        plan = self.plan_complete(text)
        extra = self._soaking(plan.tenant)
        return self._carry_out(plan, Complete(self._deps).spec(), extra, apply, observer, here=here)

    def verify(self, text: str, *, repair: bool, observer: Observer, here: bool = True) -> Operation:
        """Compare both sides of the tenant's link. With `repair`, make the passive side equal."""
        tenant = self._known(text)
        require_free(self._deps, tenant)
        link = self._link(tenant, "verify")
        self._not_over(link)
        source = self._deps.registry.placements.get(tenant).cell
        request = {"from": source, "to": other_cell(link, source), "repair": repair}
        spec = Verify(self._deps).spec()
        operation = self._engine.create(
            spec,
            tenant=tenant,
            request=request,
            requested_by=self._actor,
            capacity=self._wants(spec.kind, tenant, source, other_cell(link, source)),
        )
        return self._fleet.run(operation, observer, here=here)

    def look_at(self, operation_id: str, *, wait_s: float, observer: Observer = nobody) -> Operation:
        """Move an operation on as far as it goes now: what a worker does when it is woken. See `Fleet.look_at`."""
        return self._fleet.look_at(operation_id, observer, wait_s=wait_s)

    def follow(
        self, operation_id: str, *, since: int = 0, poll_s: float = follow.POLL_S
    ) -> Iterator[follow.Look]:
        """Look at an operation again and again until it rests; with its events after number `since`."""
        return follow.looks(self._deps.registry, operation_id, since=since, poll_s=poll_s)

    def watch(
        self, text: str, *, for_s: float | None = None, observer: Observer, look_s: float = WATCH_LOOK_S
    ) -> WatchReport:
        """Watch a soaking tenant's cell for that long, or until the soak ends; return as soon as it leaves its bounds.

        Where the tenant's tier asks for it, the tenant has been rolled back then. A watch only reads and locks
        nobody out: it may be run again, or beside other commands. Raises `NotAllowed` without a soak.
        """
        tenant = self._known(text)
        watch = SoakWatch(self._deps, tenant)
        while True:
            threading.Event().wait(look_s)
            verdicts = watch.look()
            if verdicts is None:
                continue
            for kind, verdict in verdicts.items():
                observer(
                    Progressed(
                        operation=watch.of.id,
                        step="watch",
                        what=f"watch {kind}",
                        done=verdict.seen.answered,
                        total=None,
                        unit="requests",
                        detail=verdict.as_dict(),
                    )
                )
            if watch.over():
                return watch.report(WatchOutcome.OVER, verdicts)
            if outside(verdicts):
                try:
                    return self._answer_regression(watch, verdicts, observer)
                except TenantLocked:
                    pass  # by another operation: when that is over, this comes again or has gone
            if for_s is not None and watch.seconds >= for_s:
                ended = WatchOutcome.REGRESSED if outside(verdicts) else WatchOutcome.HEALTHY
                return watch.report(ended, verdicts)

    def operation(self, operation_id: str) -> tuple[Operation, tuple[Step, ...]]:
        return self._deps.registry.operations.get(operation_id), self._deps.registry.steps.list(operation_id)

    def operations(self, *, tenant: str | None, limit: int) -> tuple[Operation, ...]:
        known = self._known(tenant) if tenant is not None else None
        return self._deps.registry.operations.list(tenant=known, limit=limit)

    def record(self, operation: Operation) -> OperationRecord | None:
        """How long the operation took, in how many attempts, and how it ended; None if it has not begun."""
        return None if operation.started_at is None else self._deps.registry.records.of(operation.id)

    def stats(self, kind: str, *, last: int) -> tuple[RouteStats, ...]:
        """How the last operations of a kind went on each kind of route, beside the estate's targets."""
        prices, wanted = self._deps.estate.prices, self._deps.estate.targets
        targets = Targets(
            migration_s=wanted.migration_h * 3600,
            rollback_s=wanted.rollback_s,
            success_rate=wanted.success_rate,
            cost=wanted.cost,
            currency=wanted.currency,
        )
        records = self._deps.registry.records.routes(
            kind, last=last, initial=wanted.initial, currency=prices.currency if prices else None
        )
        return tuple(RouteStats(record=record, judged=judge(record, targets)) for record in records)

    def audit_log(
        self, text: str | None, *, operation: str | None, since: int, limit: int
    ) -> tuple[Event, ...]:
        """What anybody has done: to a tenant (which may have left), in an operation, or at all."""
        tenant = tenant_id(text) if text is not None else None
        if operation is not None:
            self._deps.registry.operations.get(operation)
        return self._deps.registry.events.list(operation=operation, tenant=tenant, since=since, limit=limit)

    def events(self, operation_id: str, *, since: int = 0) -> tuple[Mapping[str, Any], ...]:
        self._deps.registry.operations.get(operation_id)
        found = self._deps.registry.events.list(operation=operation_id, since=since, limit=10_000)
        return tuple(event_dict(event) for event in found)

    def resume(self, operation_id: str, observer: Observer, *, here: bool = True) -> Operation:
        """Carry an interrupted operation on, with a new set of attempts. A rollback goes on in this process."""
        return self._fleet.run(self._engine.revive(operation_id), observer, here=here)

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

    def plan_to_approve(self, operation_id: str) -> Approved:
        """What a proposed operation would do, made anew. Raises `PlanStale` if that is not what was asked for."""
        return plan_to_approve(self._deps, self._deps.registry.operations.get(operation_id))

    def approve(self, operation_id: str, looked_at: Approved, *, digest: str) -> Approval:
        """Approve the plan of that digest, if it is the one that was looked at. Nothing begins by that.

        Raises `PlanStale` for another digest, and `NotAllowed` for who has asked for the operation himself.
        """
        if digest != looked_at.digest:
            raise PlanStale(
                f"the plan of {operation_id} is {looked_at.digest}, not {digest}",
                hint=f"tenure op approve {operation_id} shows it",
            )
        return self._deps.registry.approvals.give(operation_id, plan_digest=digest, approver=self._actor)

    def proposal(self, operation: Operation) -> tuple[str, tuple[str, ...]]:
        """What a proposed operation waits for, in one sentence, and the commands that come next."""
        told, steps = look_at_proposal(self._deps, operation)
        return told, tuple(steps)

    def approvals(self, operation_id: str) -> tuple[Approval, ...]:
        """The approvals of an operation, the one that expires last at the end."""
        return self._deps.registry.approvals.list(operation_id)

    def cancel(self, operation_id: str, observer: Observer) -> Operation:
        """End an operation before its point of no return; everything is as before."""
        operation = self._deps.registry.operations.get(operation_id)
        return self._engine.cancel(operation_id, self._spec(operation), observer=observer)

    def close(self) -> None:
        if self._deps.dispatcher is not None:
            self._deps.dispatcher.close()
        if self._deps.locks is not None:
            self._deps.locks.close()
        self._deps.sessions.close()
        self._deps.factory.close()
        self._deps.router.close()
        self._deps.registry.close()

    # -- parts -------------------------------------------------------------------------------------------------------

    def _known(self, text: str) -> TenantId:
        return self._deps.registry.tenants.get(tenant_id(text)).id

    def _have_way_made(self, tenant: TenantId, observer: Observer) -> None:
        active = self._deps.registry.operations.active_for(tenant)
        if active is not None and active.kind == MAKES_WAY:
            self._engine.displace(active.id, self._spec(active), observer=observer, wait_s=MAKES_WAY_WITHIN_S)

    def _link(self, tenant: TenantId, verb: str) -> Link:
        link = self._deps.registry.links.active(tenant)
        if link is None:
            raise NotAllowed(
                f"{tenant} is in one cell only: there is nothing to {verb}",
                hint=f"tenure migrate {tenant} --to CELL --plan",
            )
        return link

    @staticmethod
    def _not_over(link: Link | None) -> None:
        """A link that nothing follows over any more can only be completed."""
        if link is not None and link.state is LinkState.ENDING:
            raise NotAllowed(
                f"the move of {link.tenant} is being completed: nothing follows any more",
                hint=f"finish it: tenure complete {link.tenant}",
            )
        if link is not None and link.state is LinkState.EXPIRED:
            raise NotAllowed(
                f"the soak of {link.tenant} is over and nothing follows any more: {link.expired_because}",
                hint=f"there is no way back; remove the outdated copy: tenure complete {link.tenant}",
            )

    def _answer_regression(
        self, watch: SoakWatch, verdicts: dict[str, Verdict], observer: Observer
    ) -> WatchReport:
        """Journal what was seen, and roll back where the tier asks for it. Raises `TenantLocked` if nobody may now."""
        require_free(self._deps, watch.tenant)
        self._deps.registry.events.append(
            "regression_seen",
            actor=self._actor,
            operation=watch.of.id,
            tenant=watch.tenant,
            data={
                "rolls_back": watch.rolls_back,
                **{kind: verdict.as_dict() for kind, verdict in verdicts.items()},
            },
        )
        if not watch.rolls_back:
            return watch.report(WatchOutcome.REGRESSED, verdicts)
        because = [reason for verdict in verdicts.values() for reason in verdict.reasons]
        back = self.rollback(watch.tenant, apply=None, observer=observer, because=because)
        done = back.state is OperationState.SUCCEEDED
        return watch.report(WatchOutcome.ROLLED_BACK if done else WatchOutcome.REGRESSED, verdicts, back)

    def _soaking(self, tenant: TenantId) -> dict[str, Any]:
        """The soaking migration that a rollback or a completion ends."""
        for operation in self._deps.registry.operations.list(tenant=tenant, limit=SOAKING_AMONG):
            if operation.kind == "migrate" and operation.state is OperationState.SOAKING:
                return {"of": operation.id}
        return {}

    def _carry_out(
        self,
        plan: Plan,
        spec: OperationSpec,
        extra: Mapping[str, Any],
        apply: str | None,
        observer: Observer,
        *,
        here: bool = True,
    ) -> Operation:
        if apply is not None and apply != plan.digest:
            raise PlanStale(
                f"the plan has changed: {apply} was agreed to, {plan.digest} is what would be done now",
                hint="look at the new plan with --plan",
            )
        if plan.refusals:
            raise NotAllowed(
                f"{plan.kind} of {plan.tenant} to {plan.target} is refused by {len(plan.refusals)} finding(s)",
                findings=tuple(f"{f.where}: {f.message}. Fix: {f.cure}" for f in plan.refusals),
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
            approval=demand(self._deps, spec.kind, plan.tenant),
            capacity=self._wants(spec.kind, plan.tenant, plan.source, plan.target),
        )
        return self._fleet.run(operation, observer, here=here)

    def _wants(
        self, kind: str, tenant: TenantId, source: CellName, target: CellName
    ) -> CapacityRequest | None:
        linked = self._deps.registry.links.active(tenant) is not None
        return self._capacity.request(kind, tenant, source, target, linked=linked)

    def _spec(self, operation: Operation) -> OperationSpec:
        specs: dict[str, Callable[[], OperationSpec]] = {
            "migrate": lambda: Move(self._deps).migrate(canary="canary" in operation.request),
            "rollback": Move(self._deps).rollback,
            "complete": Complete(self._deps).spec,
            "verify": Verify(self._deps).spec,
            "rehearse": Rehearsal(self._deps).spec,
            "expire": Expiry(self._deps).spec,
            **self.backups.specs(operation),
            **self.restores.specs(operation),
            **self.erasures.specs(operation),
        }
        if operation.kind not in specs:
            raise UnknownName(f"operations of kind {operation.kind!r} are not known to this version")
        return specs[operation.kind]()
