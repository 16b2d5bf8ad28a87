"""The steps of `tenure erase tenant`; and how one is taken back.

Before the point of no return, the placement's compare-and-swap under the fence, nothing has changed, and an abort
leaves the tenant as it is. From then on the erasure only goes forward. It is certified only from what every step has
kept: a repeated attempt that deletes nothing more adds nothing to that, and takes nothing away.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from tenure.certificates.evidence import Looked, PartName
from tenure.engine.context import CommitUndecided, StepContext
from tenure.engine.spec import Ask, Done, OperationSpec, Park, StepOutcome, StepSpec
from tenure.errors import NotAllowed, TenureError
from tenure.model.inventory import Inventory
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.operation import OperationState
from tenure.operations.deps import Deps
from tenure.operations.erase.certifying import certify
from tenure.operations.erase.observing import plan_now
from tenure.operations.erase.parts import Parts, digest_of, kept
from tenure.operations.erase.request import Order
from tenure.operations.erase.sealed import Sealed
from tenure.operations.erase.searching import Residue, Searching, looked, residue
from tenure.operations.pause import back_out
from tenure.operations.planning import require_approved_plan
from tenure.operations.served import Served

HOLD_LOOK_S: Final = 10.0
"""How often a postponed erasure looks whether the hold was lifted."""
DRAIN_S: Final = 30.0
UNDECIDED_S: Final = 60.0
"""A fence that a process has left behind before the point of no return lifts itself after that time."""
SETTLE_S: Final = 60.0
"""So long may stores take to show what was deleted as deleted."""
SETTLE_LOOK_S: Final = 2.0
NAMED: Final = 5
TOLD: Final = 1000
"""So many places with residue are journaled."""


class Erase:
    """The steps of one erasure."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps

    def spec(self) -> OperationSpec:
        return OperationSpec(
            kind="erase",
            steps=(
                StepSpec(name="admit", run=self.admit, phase="waiting"),
                StepSpec(name="look", run=self.look, phase="searching"),
                StepSpec(name="close", run=self.close, phase="closing"),
                StepSpec(name="count", run=self.count, phase="counting"),
                StepSpec(name="erase", run=self.erase, phase="erasing"),
                StepSpec(name="keys", run=self.keys, phase="destroying keys"),
                StepSpec(name="verify", run=self.verify, phase="verifying"),
                StepSpec(name="certify", run=self.certify, phase="certifying"),
                StepSpec(name="leave", run=self.leave, phase="leaving"),
            ),
            abort=self.abort,
            ends_in=OperationState.SUCCEEDED,
        )

    # -- before the point of no return -------------------------------------------------------------------------------

    def admit(self, ctx: StepContext) -> StepOutcome:
        """Wait until nothing postpones it any more, then look again at everything the plan was made from."""
        order, now = _order(ctx), self._deps.registry.backups.now()
        until = ctx.operation.created_at + timedelta(hours=order.cooling_off_h)
        if now < until:
            return Park(
                until=until, reason=f"cooling off until {until:%Y-%m-%d %H:%M} UTC: it can be cancelled"
            )
        hold = self._deps.registry.tenants.get(order.tenant).legal_hold
        if hold is not None:
            return Park(
                until=now + timedelta(seconds=HOLD_LOOK_S), reason=f"postponed by a legal hold: {hold}"
            )
        require_approved_plan(self._deps, ctx.operation)
        plan = plan_now(self._deps, order.tenant)
        if plan.refusals:
            named = tuple(f"{f.where}: {f.message}; {f.cure}" for f in plan.refusals)
            raise NotAllowed(
                f"the erasure of {order.tenant} is refused: {'. '.join(named)}",
                findings=named,
                hint="mend what the findings name and ask again",
            )
        return Done(result={"items": plan.items, "findings": len(plan.findings)})

    def look(self, ctx: StepContext) -> StepOutcome:
        """Search for the tenant while it is there: a search that does not see it now would prove nothing later, so
        nothing is begun. Residue that nobody documents is told as early as it can be."""
        order, parts = _order(ctx), Parts(self._deps)
        counted = parts.count(order.tenant)
        scan = Searching(self._deps, ctx, order.tenant).run("looked", parts.all)
        self._require_seen(parts, counted, looked(scan))
        every = residue(scan, undeletable=parts.undeletable())
        foreseen = [one for one in every if not one.documented]
        if foreseen:
            ctx.event(
                "residue_foreseen", places=[one.as_dict() for one in foreseen[:NAMED]], of=len(foreseen)
            )
        return Done(result={"scan": scan.id, "undocumented": len(foreseen)})

    def close(self, ctx: StepContext) -> StepOutcome:
        """Nothing of the tenant is accepted any more. The point of no return."""
        order, parts = _order(ctx), Parts(self._deps)
        placement = self._deps.registry.placements.get(order.tenant)
        if not ctx.committed:
            self._require_free(order.tenant)
            ctx.remember(closing=placement.cell)
            with parts.served(order.tenant, placement.cell) as there:
                self._fence(ctx, there, expires_in_s=UNDECIDED_S)
                ctx.reach("close.fenced")
                self._commit(ctx, there, epoch=placement.epoch)
        ctx.reach("close.committed")
        self._note(ctx, order)
        ctx.reach("close.noted")
        self._deps.router.forget(order.tenant)
        ctx.reach("close.forgotten")
        for cell in parts.cells():
            with parts.served(order.tenant, cell) as there:
                self._fence(ctx, there)
        if "closed_at" not in ctx.operation.data:
            ctx.remember(closed_at=self._deps.registry.backups.now().isoformat())
        ctx.event("tenant_closed", cells=list(parts.cells()))
        return Done()

    # -- after it ----------------------------------------------------------------------------------------------------

    def count(self, ctx: StepContext) -> StepOutcome:
        """What there is, as the stores count it, now that nobody writes. Nothing has been deleted yet."""
        order, parts = _order(ctx), Parts(self._deps)
        inventory = kept(parts.count(order.tenant))
        self._keep_inventory(ctx, inventory)
        ctx.reach("count.kept")
        return Done(result={"items": _items(inventory)})

    def erase(self, ctx: StepContext) -> StepOutcome:
        """Every store of every cell deletes what the catalogue places in it. Those of a cell work at the same time."""
        gone = self._erase(ctx, Parts(self._deps), _order(ctx).tenant)
        return Done(result={"deleted_now": gone})

    def keys(self, ctx: StepContext) -> StepOutcome:
        """The backups: unreadable first, then gone as far as locks allow."""
        order, parts = _order(ctx), Parts(self._deps)
        return Done(result=Sealed(self._deps, ctx, parts, self._deps.fence(order.tenant, ctx.token)).run())

    def verify(self, ctx: StepContext) -> StepOutcome:
        """Count and search again, every store of every cell. What is found is erased again where the catalogue knows
        the place, for as long as stores may need to settle; after that, and elsewhere at once, a person is asked."""
        order, parts = _order(ctx), Parts(self._deps)
        deadline = time.monotonic() + SETTLE_S
        again = bool(ctx.operation.data.get("residue"))
        while True:
            if again:
                self._erase_again(ctx, parts, order.tenant)
            found = self._look_again(ctx, parts, order.tenant)
            if not found:
                return Done(result={"scan": ctx.operation.data["verified"]})
            again = True
            if time.monotonic() > deadline or not all(one.documented for one in found):
                return Ask(question=_question(found, ctx.operation.id))
            ctx.wait(SETTLE_LOOK_S)

    def certify(self, ctx: StepContext) -> StepOutcome:
        """Sign what was shown. Raises `CertificateWithheld` if anything is missing."""
        issued = certify(self._deps, ctx, Parts(self._deps), _order(ctx))
        ctx.reach("certify.issued")
        ctx.record_result(
            certificate=issued.id, certificate_sha256=issued.sha256, certificate_final=issued.final
        )
        return Done(result={"certificate": issued.id})

    def leave(self, ctx: StepContext) -> StepOutcome:
        """The registry and the gateway forget the tenant; the journal, the ledger and the certificate stay."""
        tenant = _order(ctx).tenant
        ctx.require_lease()
        self._deps.router.forget(tenant)
        ctx.reach("leave.forgotten")
        if tenant in {known.id for known in self._deps.registry.tenants.list()}:
            Sealed(self._deps, ctx, Parts(self._deps), self._deps.fence(tenant, ctx.token)).release()
        ctx.reach("leave.released")
        self._deps.registry.tenants.remove(tenant, actor=ctx.operation.requested_by)
        ctx.reach("leave.removed")
        return Done()

    # -- abort -------------------------------------------------------------------------------------------------------

    def abort(self, ctx: StepContext) -> None:
        """Only before the point of no return: the tenant goes on as it was."""
        cell = ctx.operation.data.get("closing")
        if cell is not None:
            tenant, parts = _order(ctx).tenant, Parts(self._deps)
            with parts.served(tenant, CellName(cell)) as there:
                problems, _ = back_out(self._deps, ctx, there, self._deps.fence(tenant, ctx.token))
            if problems:
                raise problems[0]
        ctx.reach("abort.open")
        ctx.event("cleaned_up")

    # -- parts -------------------------------------------------------------------------------------------------------

    def _require_seen(
        self, parts: Parts, counted: Mapping[PartName, Inventory], seen: Mapping[PartName, Looked]
    ) -> None:
        """Raise `NotAllowed` for stores that count items of the tenant of which the search has seen nothing."""
        blind = []
        for part, inventory in counted.items():
            carrier = parts.store(part).capabilities.rides_with
            if inventory.items and not seen[part if carrier is None else part._replace(store=carrier)].own:
                blind.append(f"{part} counts {inventory.items} items, and the search sees none of them")
        if blind:
            raise NotAllowed(
                f"what would be erased could not be shown to be gone: {'; '.join(blind)}",
                findings=tuple(blind),
                hint="give Tenure's login the right to read them, and ask again; nothing was changed",
            )

    def _require_free(self, tenant: TenantId) -> None:
        """A hold or a move may have come while this waited."""
        hold = self._deps.registry.tenants.get(tenant).legal_hold
        if hold is not None:
            raise NotAllowed(
                f"{tenant} is on legal hold: {hold}", hint=f"tenure erase release {tenant}, then ask again"
            )
        if self._deps.registry.links.active(tenant) is not None:
            raise NotAllowed(f"a move of {tenant} is not completed", hint=f"tenure complete {tenant}")

    def _fence(self, ctx: StepContext, there: Served, *, expires_in_s: float | None = None) -> None:
        fence = self._deps.fence(there.tenant, ctx.token)
        there.each_anchored(lambda n: there.store(n).fence(fence, expires_in_s=expires_in_s, drain_s=DRAIN_S))

    def _commit(self, ctx: StepContext, there: Served, *, epoch: int) -> None:
        try:
            ctx.commit(expected_epoch=epoch, to_cell=there.cell)
        except CommitUndecided:
            raise
        except TenureError:
            back_out(self._deps, ctx, there, self._deps.fence(there.tenant, ctx.token))
            raise

    def _note(self, ctx: StepContext, order: Order) -> None:
        """Before the first item is deleted: no restore brings anything back from here on."""
        names = self._deps.ledger
        if names is None:
            raise NotAllowed(
                "the erasure ledger has no key here",
                hint="give `backups.ledger_key` in tenure.yaml, then resume",
            )
        self._deps.registry.erasures.note(
            ctx.lease, request=order.id, key_id=names.key_id, tenant=names.tenant(order.tenant)
        )

    def _keep_inventory(self, ctx: StepContext, inventory: Mapping[str, Any]) -> None:
        """With its digest in the audit log, so that nobody changes the one without the other."""
        ctx.remember(inventory=inventory)
        ctx.event("inventoried", sha256=digest_of(inventory), items=_items(inventory))

    def _erase(self, ctx: StepContext, parts: Parts, tenant: TenantId) -> int:
        gone = sum(self._erase_cell(ctx, parts, tenant, cell) for cell in parts.cells())
        ctx.event("erased", items=gone)
        return gone

    def _erase_cell(self, ctx: StepContext, parts: Parts, tenant: TenantId, cell: CellName) -> int:
        fence, lock = self._deps.fence(tenant, ctx.token), threading.Lock()
        with parts.served(tenant, cell) as there:
            ctx.require_lease()
            self._fence(ctx, there)

            def one(name: StoreName) -> int:
                def shown(items: int) -> None:
                    ctx.check()
                    with lock:
                        ctx.progress(f"erase {name} of {cell}", items)

                items = there.store(name).erase(fence, progress=shown)
                with lock:
                    self._mark_erased(ctx, PartName(cell, name))
                return items

            gone = there.each(one)
            ctx.reach(f"erase.{cell}")
            retire: Callable[[StoreName], None] = lambda n: there.store(n).retire(fence)  # noqa: E731
            there.each(retire, there.riders())
            there.each_anchored(retire)
            ctx.reach(f"retire.{cell}")
        return sum(gone.values())

    def _mark_erased(self, ctx: StepContext, part: PartName) -> None:
        done = {cell: list(stores) for cell, stores in ctx.operation.data.get("erased", {}).items()}
        if part.store not in done.setdefault(part.cell, []):
            done[part.cell].append(part.store)
        ctx.remember(erased=done)

    def _erase_again(self, ctx: StepContext, parts: Parts, tenant: TenantId) -> None:
        """Also of places that the catalogue has learnt of since; what they hold joins the inventory."""
        with_new = kept(parts.count(tenant), ctx.operation.data.get("inventory"))
        self._keep_inventory(ctx, with_new)
        self._erase(ctx, parts, tenant)
        Sealed(self._deps, ctx, parts, self._deps.fence(tenant, ctx.token)).run()
        ctx.remember(verified=None, residue=[])

    def _look_again(self, ctx: StepContext, parts: Parts, tenant: TenantId) -> list[Residue]:
        counted = parts.count(tenant)
        ctx.remember(after=kept(counted))
        ctx.reach("verify.counted")
        scan = Searching(self._deps, ctx, tenant).run("verified", parts.all)
        found = list(residue(scan, sealed=parts.sealed(), undeletable=parts.undeletable()))
        ctx.remember(residue=[one.as_dict() for one in found])
        if found:
            ctx.event(
                "residue_found", scan=scan.id, places=[one.as_dict() for one in found[:TOLD]], of=len(found)
            )
            ctx.remember(verified=None)
        ctx.reach("verify.judged")
        return found


def _order(ctx: StepContext) -> Order:
    return Order.of(TenantId(str(ctx.operation.tenant)), ctx.operation.request)


def _items(inventory: Mapping[str, Any]) -> int:
    return sum(its[0] for stores in inventory.values() for one in stores.values() for its in one.values())


def _question(found: list[Residue], operation: str) -> str:
    more = f" and {len(found) - NAMED} more places" if len(found) > NAMED else ""
    places = "; ".join(map(str, found[:NAMED]))
    return (
        f"data of the tenant is still in {places}{more}: name the places in the catalogue, or remove what is there; "
        f"`tenure op confirm {operation}` erases and searches again"
    )
