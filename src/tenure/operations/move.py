"""Migrate and rollback: the same switch, run from the cell that serves a tenant to the one that follows or will."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from tenure.engine.context import StepContext
from tenure.engine.spec import Done, OperationSpec, Retry, StepOutcome, StepSpec
from tenure.errors import DataDiffers, DeadlineExceeded, EvidenceStale, NotAllowed, Outpaced, StoreRefused
from tenure.model.finding import Severity
from tenure.model.names import StoreName, TenantId, cell_name
from tenure.model.operation import OperationState
from tenure.operations import evidence, steering
from tenure.operations.canary import Canary
from tenure.operations.deps import Deps
from tenure.operations.hold import Hold, Switched, finish_interrupted
from tenure.operations.observe import cost_so_far, link_name, observe, record_measurement, record_work
from tenure.operations.pace import Ladder, show
from tenure.operations.pause import back_out
from tenure.operations.planning import require_planned
from tenure.operations.schema_change import schema_changes
from tenure.operations.session import Session
from tenure.operations.teardown import erase_copy, unlink
from tenure.plan.canary import CanaryPlan
from tenure.plan.move import MIGRATE_STEPS, plan_move
from tenure.registry.links import Link
from tenure.routing.contract import HoldReport
from tenure.stores.contract import Fence

POLL_S = 0.2
CATCH_UP_TIMEOUT_S = 24 * 3600.0
SWITCH_ATTEMPTS = 5


class Move:
    """The steps of one migrate or rollback. One object serves one run in one process."""

    def __init__(self, deps: Deps, *, ladder: Ladder | None = None) -> None:
        self._deps = deps
        self._ladder = ladder or Ladder(deps)

    # -- the specifications ------------------------------------------------------------------------------------------

    def migrate(self, *, canary: bool = False) -> OperationSpec:
        """With `canary` as the operation's request asks for one."""
        measured = (StepSpec(name="canary", run=self.canary, phase="measuring"),) if canary else ()
        return OperationSpec(
            kind="migrate",
            steps=(
                StepSpec(name="preflight", run=self.preflight, phase="preflight"),
                StepSpec(name="provision", run=self.provision, phase="provisioning"),
                StepSpec(name="catch_up", run=self._naming_ddl(self.catch_up), phase="copying"),
                StepSpec(name="verify", run=self._naming_ddl(self.verify), phase="verifying"),
                *measured,
                StepSpec(name="arm", run=self.arm, phase="ready"),
                StepSpec(name="switch", run=self.switch, phase="armed", max_attempts=SWITCH_ATTEMPTS),
                StepSpec(name="settle", run=self.settle, phase="committed"),
            ),
            abort=self.abort,
            ends_in=OperationState.SOAKING,
        )

    def rollback(self) -> OperationSpec:
        return OperationSpec(
            kind="rollback",
            steps=(
                StepSpec(name="prepare", run=self.prepare, phase="catching_up"),
                StepSpec(name="arm", run=self.arm, phase="ready"),
                StepSpec(name="switch", run=self.switch, phase="armed", max_attempts=SWITCH_ATTEMPTS),
                StepSpec(name="divert", run=self.divert, phase="committed"),
                StepSpec(name="settle", run=self.settle, phase="committed"),
                StepSpec(name="confirm", run=self.confirm, phase="confirming"),
            ),
            abort=self.abort,
            ends_in=OperationState.SUCCEEDED,
        )

    # -- steps -------------------------------------------------------------------------------------------------------

    def preflight(self, ctx: StepContext) -> StepOutcome:
        """Look again, under the operation's lock on the tenant, at everything the plan was made from."""
        session = self.session(ctx)
        linked = self._deps.registry.links.active(session.tenant) is not None
        request = ctx.operation.request
        canary = CanaryPlan.of(request["canary"]) if "canary" in request else None
        seen = replace(observe(self._deps, session, linked=linked), canary=canary)
        plan = plan_move(ctx.operation.kind, MIGRATE_STEPS, seen)
        if ctx.operation.approval_identity is not None:
            require_planned(ctx.operation, plan)
        self._require_schema(
            ctx,
            {s.store: {"source": s.fingerprint_source, "target": s.fingerprint_target} for s in seen.stores},
        )
        if plan.refusals:
            named = tuple(f"{f.where}: {f.message}; {f.cure}" for f in plan.refusals)
            raise NotAllowed(
                f"the move of {session.tenant} to {session.target} is refused: {'. '.join(named)}",
                findings=named,
                hint="mend what the findings name and plan again",
            )
        ctx.remember(
            linked_before=linked,
            items={s.store: s.items for s in seen.stores},
            sizes={s.store: s.size_bytes for s in seen.stores},
            size_bytes=sum(s.size_bytes for s in seen.stores),
        )
        return Done(result={"findings": len(seen.findings)})

    def provision(self, ctx: StepContext) -> StepOutcome:
        """Write the link down first, so that whatever follows can be found and removed; then start the copies."""
        session = self.session(ctx)
        request = ctx.operation.request
        self._deps.registry.links.create(
            Link(
                tenant=session.tenant,
                name=session.link,
                cell_a=cell_name(request["from"]),
                cell_b=cell_name(request["to"]),
                source=session.source,
                created_by=ctx.operation.id,
            ),
            lease=ctx.lease,
        )
        ctx.reach("provision.linked")
        ctx.require_lease()
        session.start(self._deps.fence(session.tenant, ctx.token))
        ctx.reach("provision.started")
        ctx.event("copies_started", source=session.source, target=session.target)
        return Done(result={})

    def catch_up(self, ctx: StepContext) -> StepOutcome:
        """Wait until every copy follows and keeps pace with the writes, showing how far each one is."""
        began = time.monotonic()
        session = self.started(ctx, following=False)
        deadline = began + CATCH_UP_TIMEOUT_S
        following: set[StoreName] = set()
        while len(following) < len(session.copies):
            ctx.check()
            for name, copy in session.copies.items():
                progress = copy.progress()
                show(ctx, name, progress)
                if progress.following and name not in following:
                    following.add(name)
                    if not ctx.operation.data.get("linked_before"):
                        record_work(self._deps, ctx, "copy", name, time.monotonic() - began)
            if time.monotonic() > deadline:
                raise Outpaced("the first pass of the copies did not end", hint="try again at a quieter time")
            if len(following) < len(session.copies):
                ctx.wait(POLL_S)
        ctx.phase("catching_up")
        ctx.reach("catch_up.following")
        self._ladder.keep_up(ctx, session)
        moved = sum(copy.progress().bytes_done for copy in session.copies.values())
        ctx.remember(bytes_moved=moved)
        return Done(result={"seconds": round(time.monotonic() - began, 3)})

    def verify(self, ctx: StepContext) -> StepOutcome:
        """Compare everything; repair what differs, or re-sync in full if it is too much."""
        session = self.started(ctx)
        compared = {str(n): c.as_dict() for n, c in evidence.verify(self._deps, ctx, session).items()}
        ctx.reach("verify.equal")
        return Done(result=compared)

    def canary(self, ctx: StepContext) -> StepOutcome:
        """Let a growing share of the reads try the target, and go back at once when it does badly."""
        return Canary(
            self._deps, ctx, self.started(ctx), CanaryPlan.of(ctx.operation.request["canary"])
        ).run()

    def prepare(self, ctx: StepContext) -> StepOutcome:
        """Of a rollback: what follows is brought up to date and compared, as far as the soak has not done it."""
        session = self.started(ctx)
        self.wait_following(ctx, session)
        ctx.reach("prepare.following")
        self._ladder.keep_up(ctx, session)
        evidence.freshen(self._deps, ctx, session)
        ctx.reach("prepare.equal")
        return Done(result={})

    def arm(self, ctx: StepContext) -> StepOutcome:
        """Everything the hold must not pay for: reverse copies, the gate in the tenant's path."""
        session = self.started(ctx)
        fence = self._deps.fence(session.tenant, ctx.token)
        session.arm(fence)
        ctx.reach("arm.reverse")
        steering.steer(self._deps, ctx, session.served, epoch=fence.epoch)
        ctx.reach("arm.gated")
        ctx.event("reverse_armed")
        return Done(result={})

    def switch(self, ctx: StepContext) -> StepOutcome:
        """The hold. A repeated attempt first finds out what the last one left."""
        deps = self._deps
        placement = deps.registry.placements.get(TenantId(ctx.operation.tenant or ""))
        session = self.session(ctx)
        if placement.cell == session.target:
            report = finish_interrupted(deps, ctx, session, epoch=placement.epoch)
            self._record_hold(ctx, session, report, None)
            return Done(result={"finished": "after an interruption"})
        fence = self._deps.fence(session.tenant, ctx.token)
        if ctx.attempt > 1 or ctx.taken_over:
            back_out(deps, ctx, session.served, fence)
        session = self.started(ctx)
        session.arm(fence)
        steering.steer(deps, ctx, session.served, epoch=placement.epoch)
        session.claim(fence)
        self._look_again(ctx, session)
        self._ladder.keep_up(ctx, session)
        evidence.freshen(self._deps, ctx, session)
        hold = Hold(deps, ctx, session, epoch=placement.epoch)
        hold.rehearse()
        evidence.shrink(ctx, session, self._ladder)
        ctx.reach("switch.ready")
        try:
            switched = hold.run()
        except (DataDiffers, EvidenceStale, DeadlineExceeded) as error:
            session.verified.clear()
            return Retry(after_s=1.0, reason=error.message)
        self._record_hold(ctx, session, switched.hold, switched)
        return Done(result={"hold_ms": round(switched.hold.hold_ms, 2)})

    def settle(self, ctx: StepContext) -> StepOutcome:
        """Past the point of no return: the former source follows, everything is compared again, the soak begins."""
        deps = self._deps
        before = self.session(ctx)
        if not before.reverse:
            # Another process carries on: the objects of the reverse direction are made anew.
            deps.sessions.drop(before.link)
            session = deps.sessions.get(before.link, before.tenant, before.target, before.source)
        else:
            session = deps.sessions.turn(before)
        epoch = deps.registry.placements.get(session.tenant).epoch
        fence = Fence(tenant=session.tenant, epoch=epoch, token=ctx.token)
        session.start(fence)
        ctx.reach("settle.following")
        deps.registry.links.set_source(session.link, session.source, lease=ctx.lease)
        steering.steer(deps, ctx, session.served, epoch=epoch)
        ctx.reach("settle.routed")
        self.wait_following(ctx, session)
        compared = evidence.verify(deps, ctx, session, keep_extra=True)
        ctx.reach("settle.equal")
        until = datetime.now(UTC) + timedelta(hours=self._soak_h(session.tenant))
        deps.registry.links.set_soak(session.link, until, lease=ctx.lease)
        cost = cost_so_far(deps, ctx.operation)
        ctx.record_result(
            stores={n: c.as_dict() for n, c in compared.items()},
            soak_until=until.isoformat(),
            serves=session.source,
            follows=session.target,
        )
        ctx.record_cost(**cost.as_dict())
        ctx.phase("soaking")
        ctx.event(
            "soak_begun",
            serves=session.source,
            follows=session.target,
            until=until.isoformat(),
            cost=cost.as_dict(),
        )
        return Done(result={"serves": session.source})

    def divert(self, ctx: StepContext) -> StepOutcome:
        """Of a rollback: users come first. A gateway that is out of step is gone around before anything is compared."""
        return steering.divert(self._deps, ctx, TenantId(str(ctx.operation.tenant)))

    def confirm(self, ctx: StepContext) -> StepOutcome:
        """Of a rollback: it is done when users reach the cell, seen by a look and where need be by a person."""
        outcome = steering.confirm(self._deps, ctx, TenantId(str(ctx.operation.tenant)))
        if isinstance(outcome, Done):
            self._close_rolled_back(ctx)
        return outcome

    # -- abort -------------------------------------------------------------------------------------------------------

    def abort(self, ctx: StepContext) -> None:
        """Before the point of no return: everything as it was. What this operation created goes, nothing else."""
        deps = self._deps
        session = self.session(ctx)
        fence = self._deps.fence(session.tenant, ctx.token)
        ctx.record_cost(**cost_so_far(deps, ctx.operation).as_dict())
        back_out(deps, ctx, session.served, fence)
        ctx.reach("abort.open")
        link = deps.registry.links.active(session.tenant)
        if link is None or link.created_by != ctx.operation.id:
            ctx.event("aborted_keeping_link" if link else "aborted_before_link", serves=session.source)
            return
        session.await_overdue()
        unlink(ctx, session, fence)
        ctx.reach("abort.unlinked")
        erase_copy(deps, ctx, session, fence, session.target)
        session.each(lambda n: session.target_store(n).open(fence), session.fenced())
        ctx.reach("abort.erased")
        ctx.require_lease()
        steering.let_go(deps, ctx, session.served, epoch=fence.epoch)
        deps.registry.links.remove(session.link, lease=ctx.lease)
        deps.sessions.drop(session.link)
        ctx.event("cleaned_up", serves=session.source)

    # -- parts -------------------------------------------------------------------------------------------------------

    def session(self, ctx: StepContext) -> Session:
        request = ctx.operation.request
        tenant = TenantId(str(ctx.operation.tenant))
        source, target = cell_name(request["from"]), cell_name(request["to"])
        return self._deps.sessions.get(link_name(tenant, source, target), tenant, source, target)

    def started(self, ctx: StepContext, *, following: bool = True) -> Session:
        """The session with its copies running, and caught up; also in a process that has just taken over, and in one
        that did this before another process worked on the link. The fence refuses whoever is not the newest holder."""
        session = self.session(ctx)
        session.await_overdue()
        if session.started and session.displaced():
            self._deps.sessions.drop(session.link)
            session = self.session(ctx)
        if not session.started:
            session.start(self._deps.fence(session.tenant, ctx.token))
            if following:
                self.wait_following(ctx, session)
        return session

    def wait_following(self, ctx: StepContext, session: Session) -> None:
        while not all(copy.progress().following for copy in session.copies.values()):
            if not ctx.committed:
                ctx.check()
            ctx.wait(POLL_S)

    def _look_again(self, ctx: StepContext, session: Session) -> None:
        """Just before the hold: DDL since the plan, or anything else that preflight refuses, refuses the switch."""
        self._require_schema(ctx, self._schemas(session))
        found = [f for found in session.each(lambda n: session.copies[n].preflight()).values() for f in found]
        refusals = [f for f in found if f.severity is Severity.REFUSAL]
        if refusals:
            named = tuple(f"{f.where}: {f.message}; {f.cure}" for f in refusals)
            raise NotAllowed(
                f"the switch of {session.tenant} to {session.target} is refused: {'. '.join(named)}",
                findings=named,
                hint="mend what the findings name, then resume or start again",
            )

    def _schemas(self, session: Session) -> dict[StoreName, dict[str, Mapping[str, str]]]:
        """What must not change, on both sides, as it is now."""

        def of(name: StoreName) -> dict[str, Mapping[str, str]]:
            back = self._deps.factory.copy(session.link, name, session.tenant, session.target, session.source)
            return {"source": session.copies[name].fingerprint(), "target": back.fingerprint()}

        return session.each(of)

    def _require_schema(
        self, ctx: StepContext, now: Mapping[StoreName, Mapping[str, Mapping[str, str]]]
    ) -> None:
        """Refuse if the schema is not the one that the plan was made for, and say what has changed."""
        request = ctx.operation.request
        cells = {"source": request["from"], "target": request["to"]}
        changes = [
            f"{item} in {cells[side]}"
            for planned in ctx.operation.plan.get("stores", ())
            for side in cells
            for item in schema_changes(planned["schema"][side], now.get(planned["store"], {}).get(side, {}))
        ]
        if changes:
            raise NotAllowed(
                f"the schema has changed since the plan was made: {'; '.join(changes)}",
                findings=tuple(changes),
                hint="start the move again when the deployment is over",
            )

    def _naming_ddl(self, step: Callable[[StepContext], StepOutcome]) -> Callable[[StepContext], StepOutcome]:
        """A step that says what was changed by DDL, if that is why a store refuses to go on."""

        def run(ctx: StepContext) -> StepOutcome:
            try:
                return step(ctx)
            except StoreRefused:
                self._require_schema(ctx, self._schemas(self.session(ctx)))
                raise

        return run

    def _record_hold(
        self, ctx: StepContext, session: Session, report: HoldReport, switched: Switched | None
    ) -> None:
        # A hold that a killed process left behind, that there was none of, or that the gate ended because the target
        # could not be opened for a while, says nothing about the next.
        if switched is not None and steering.ungated(ctx) is None and not report.timed_out:
            record_measurement(self._deps, ctx, "hold", None, report.requests_held, 0, report.hold_ms / 1000)
        timing = switched.timing.as_dict() if switched is not None else {}
        by_store = switched.timing.stores_as_dict() if switched is not None else {}
        changed = {n: c.as_dict() for n, c in switched.changed.items()} if switched is not None else {}
        ctx.record_result(
            hold_ms=round(report.hold_ms, 2),
            requests_held=report.requests_held,
            longest_wait_ms=round(report.longest_wait_ms, 2),
            gate_timed_out=report.timed_out,
            gated=steering.ungated(ctx) is None,
            timing_ms=timing,
            stores_ms=by_store,
            changed=changed,
        )
        ctx.event(
            "switched",
            source=session.source,
            target=session.target,
            hold_ms=report.hold_ms,
            timing_ms=timing,
            stores_ms=by_store,
        )

    def _soak_h(self, tenant: TenantId) -> float:
        tier = self._deps.estate.tiers.get(self._deps.registry.tenants.get(tenant).tier)
        return tier.soak_h if tier is not None and tier.soak_h is not None else self._deps.estate.soak.ttl_h

    def _close_rolled_back(self, ctx: StepContext) -> None:
        """The migration that was rolled back is over; the link stays until `complete`."""
        of = ctx.operation.request.get("of")
        if of is not None and self._deps.registry.operations.get(of).state is OperationState.SOAKING:
            self._deps.registry.operations.transition(
                of, OperationState.SOAKING, OperationState.ROLLED_BACK, actor=ctx.operation.requested_by
            )
