"""The use cases of erasures: a request becomes a plan, an operation, a certificate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

from tenure.certificates.envelope import unseal
from tenure.engine.engine import Engine
from tenure.engine.observer import Observer
from tenure.engine.spec import OperationSpec
from tenure.errors import NotAllowed, PlanStale, UnknownName, UsageError
from tenure.model.names import TenantId, tenant_id
from tenure.model.operation import Operation, OperationState
from tenure.model.tenancy import Tenant
from tenure.operations.deps import Deps
from tenure.operations.erase.erase import Erase
from tenure.operations.erase.observing import plan_now
from tenure.operations.erase.recheck import Recheck
from tenure.operations.erase.request import Order, months_after
from tenure.operations.fleet import Fleet
from tenure.operations.free import require_free
from tenure.operations.planning import demand
from tenure.plan.erase import ErasePlan
from tenure.registry.certificates import Issued

BOARD: Final = 10_000
GIVEN_UP: Final = frozenset({OperationState.ABORTED, OperationState.FAILED})


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What somebody asks for. Without `due`: a month after `received`; without that: today."""

    request: str
    tenant: str
    role: str
    ground: str
    received: date | None = None
    due: date | None = None


@dataclass(frozen=True, kw_only=True)
class RequestStatus:
    """One line of the deadline board."""

    order: Order
    operation: Operation
    certificate: Issued | None
    days_left: int

    @property
    def open(self) -> bool:
        return self.operation.state.unfinished

    @property
    def waits_for(self) -> str:
        """What it waits for, in words; empty for one that is over or under way."""
        if self.operation.state is OperationState.AWAITING:
            return str(self.operation.data.get("question", "somebody"))
        if self.operation.needs_resume:
            return str((self.operation.error or {}).get("message", "somebody to resume it"))
        return ""

    @property
    def sentence(self) -> str:
        """Where the request stands."""
        operation = self.operation
        told = f"{self.order.id}: {self.order.tenant} is {operation.state}"
        if operation.state.active:
            told = f"{self.order.id}: {self.order.tenant} is at {operation.phase or operation.state}"
        if self.certificate is not None:
            kind = (
                "final" if self.certificate.final else f"interim until {self.certificate.lapses_at:%Y-%m-%d}"
            )
            revoked = f", revoked: {self.certificate.revoked}" if self.certificate.revoked else ""
            told += f"; certificate {self.certificate.id} ({kind}{revoked})"
        if self.open:
            late = f"{-self.days_left} day(s) LATE" if self.days_left < 0 else f"{self.days_left} day(s) left"
            told += f"; due {self.order.due}, {late}"
        return told + (f"; waits for: {self.waits_for}" if self.waits_for else "")

    def as_dict(self) -> dict[str, Any]:
        return {
            **self.order.as_dict(),
            "tenant": self.order.tenant,
            "operation": self.operation.id,
            "state": str(self.operation.state),
            "phase": self.operation.phase,
            "days_left": self.days_left,
            "waits_for": self.waits_for,
            "certificate": None if self.certificate is None else self.certificate.id,
            "final": None if self.certificate is None else self.certificate.final,
            "revoked": None if self.certificate is None else self.certificate.revoked,
            "sentence": self.sentence,
        }


class Erasing:
    """What the entry points call for `tenure erase` and `tenure certificate`."""

    def __init__(self, deps: Deps, engine: Engine, fleet: Fleet, *, actor: str) -> None:
        self._deps = deps
        self._engine = engine
        self._fleet = fleet
        self._actor = actor

    def plan(self, tenant: str) -> ErasePlan:
        """What would become of the tenant. Changes nothing; reads everything it has, to count it."""
        return plan_now(self._deps, self._known(tenant))

    def erase(self, wish: Wish, *, apply: str | None, observer: Observer, here: bool = True) -> Operation:
        """Erase it. With a cooling-off period it only waits, and a worker begins it, or whoever resumes it then.

        Raises `NotAllowed` with every finding that refuses it, `TenantLocked`, `PlanStale`, and `UsageError` for a
        request that is no request, or was carried out already.
        """
        tenant = self._known(wish.tenant)
        plan = plan_now(self._deps, tenant)
        order = self._order(wish, tenant, plan)
        self._first(order)
        require_free(self._deps, tenant)
        if apply is not None and apply != plan.digest:
            raise PlanStale(
                f"the plan has changed: {apply} was agreed to, {plan.digest} is what would be done now",
                hint="look at the new plan with --plan",
            )
        if plan.refusals:
            raise NotAllowed(
                f"the erasure of {tenant} is refused by {len(plan.refusals)} finding(s)",
                findings=tuple(f"{f.where}: {f.message}. Fix: {f.cure}" for f in plan.refusals),
                hint="mend what the findings name, then plan again",
            )
        operation = self._engine.create(
            Erase(self._deps).spec(),
            tenant=tenant,
            request={"from": plan.cell, **order.as_dict()},
            plan=plan.as_dict(),
            plan_digest=plan.digest,
            requested_by=self._actor,
            approval=demand(self._deps, "erase", tenant),
        )
        if order.cooling_off_h:
            return self._engine.run(operation.id, Erase(self._deps).spec(), observer=observer, wait_s=0)
        return self._fleet.run(operation, observer, here=here)

    def recheck(self, request: str, *, observer: Observer) -> Operation:
        """Search for a tenant that was erased once more; deletes nothing. What is found revokes its certificate, and if
        nothing is, one that was revoked or was interim gets its successor. Raises `UsageError` before it is erased."""
        for status in self.board(request):
            if status.certificate is not None:
                break
        else:
            raise UsageError(
                f"nothing was certified for {request} yet", hint=f"tenure erase status {request}"
            )
        operation = self._engine.create(
            Recheck(self._deps).spec(),
            tenant=None,
            request={
                "of": status.operation.id,
                "tenant": status.order.tenant,
                "certificate": status.certificate.id,
            },
            requested_by=self._actor,
        )
        return self._fleet.run(operation, observer, here=True)

    def specs(self, operation: Operation) -> Mapping[str, Callable[[], OperationSpec]]:
        """How these operations are carried out."""
        del operation
        return {"erase": Erase(self._deps).spec, "recheck": Recheck(self._deps).spec}

    # -- the board ---------------------------------------------------------------------------------------------------

    def board(self, request: str | None = None) -> tuple[RequestStatus, ...]:
        """Every request, or those of one reference: open ones first, by when they are due. Raises `UnknownName`."""
        today = self._deps.registry.backups.now().date()
        found = [
            self._status(operation, today)
            for operation in self._deps.registry.operations.list(kind="erase", limit=BOARD)
            if request is None or operation.request["id"] == request
        ]
        if request is not None and not found:
            raise UnknownName(f"there is no request {request!r:.80}", hint="`tenure erase status` lists them")
        return tuple(sorted(found, key=lambda s: (not s.open, s.order.due, s.operation.created_at)))

    def open_request(self, request: str) -> RequestStatus:
        """The request of that reference that is not over. Raises `UnknownName`, `UsageError`."""
        for status in self.board(request):
            if status.open:
                return status
        raise UsageError(f"the request {request} is over", hint=f"tenure erase status {request}")

    def hold(self, tenant: str, because: str | None) -> Tenant:
        """Put the tenant on legal hold, or lift the hold: while it stands nothing of it is erased. An erasure that has
        begun to delete goes on; one that waits goes on by itself when the hold is lifted."""
        known = self._known(tenant)
        active = self._deps.registry.operations.active_for(known)
        if because is not None and active is not None and active.kind == "erase" and active.committed:
            raise NotAllowed(
                f"{known} is being erased already: {active.id} is past its point of no return",
                hint=f"tenure op show {active.id}",
            )
        return self._deps.registry.tenants.set_legal_hold(known, because, actor=self._actor)

    # -- certificates ------------------------------------------------------------------------------------------------

    def certificate(self, id: str) -> tuple[Issued, dict[str, Any]]:
        """A certificate, or the newest one of a request, and what it says; its signature is looked at."""
        issued = self._deps.registry.certificates.get(id)
        _, sealing = self._deps.backups()
        return issued, unseal(issued.envelope, sealing.trust)

    def revoke(self, id: str, because: str) -> Issued:
        if not because.strip():
            raise UsageError("a revocation needs a reason", hint="--because TEXT")
        return self._deps.registry.certificates.revoke(id, because=because.strip(), actor=self._actor)

    def public_key(self) -> tuple[str, bytes]:
        """The name and the bytes of the key with which certificates, and backups, are signed."""
        _, sealing = self._deps.backups()
        return sealing.signer.name, sealing.signer.public

    # -- parts -------------------------------------------------------------------------------------------------------

    def _order(self, wish: Wish, tenant: TenantId, plan: ErasePlan) -> Order:
        today = self._deps.registry.backups.now().date()
        received = wish.received or today
        if received > today:
            raise UsageError(f"received on {received}, which is to come", hint="give the day it was received")
        return Order(
            id=wish.request,
            tenant=tenant,
            role=wish.role,
            ground=wish.ground,
            received=received,
            due=wish.due or months_after(received, 1),
            cooling_off_h=plan.cooling_off_h,
        )

    def _first(self, order: Order) -> None:
        """A reference stands for one erasure; one that was cancelled may be asked for again."""
        for operation in self._deps.registry.operations.list(kind="erase", limit=BOARD):
            if operation.request["id"] == order.id and operation.state not in GIVEN_UP:
                raise UsageError(
                    f"the request {order.id} is {operation.id} already",
                    hint=f"tenure erase status {order.id}",
                )

    def _status(self, operation: Operation, today: date) -> RequestStatus:
        order = Order.of(TenantId(str(operation.tenant)), operation.request)
        return RequestStatus(
            order=order,
            operation=operation,
            certificate=self._certificate(operation, order),
            days_left=(order.due - today).days,
        )

    def _certificate(self, operation: Operation, order: Order) -> Issued | None:
        """The newest of the request; of one that was given up there is none."""
        if operation.state in GIVEN_UP:
            return None
        found = self._deps.registry.certificates.list(request=order.id)
        return found[-1] if found else None

    def _known(self, text: str) -> TenantId:
        return self._deps.registry.tenants.get(tenant_id(text)).id


def erased_at(deps: Deps, tenant: TenantId) -> datetime | None:
    """When a tenant of that id was erased, as far as the ledger's key is here."""
    if deps.ledger is None:
        return None
    began = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
    found = deps.registry.erasures.of(deps.ledger.tenant(tenant), after=began)
    return max((e.erased_at for e in found if e.person is None), default=None)
