"""Drift: what is routed against what should be, seen where users are, and how it is mended.

A look believes no file of Tenure's own: it reads what every instance of the gateway has loaded, asks the name server
that is the origin of the tenant's name, and makes a request as users do.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from tenure.errors import (
    DeadlineExceeded,
    RouteDrifted,
    StoreRefused,
    StoreUnavailable,
    TenantLocked,
    TenureError,
)
from tenure.model.names import CellName, TenantId
from tenure.model.operation import Operation, OperationState
from tenure.model.tenancy import Placement, Tenant
from tenure.operations.deps import Deps
from tenure.registry.links import LinkState
from tenure.routing.contract import RouteState, TenantAddress

BROKEN: Final = (StoreUnavailable, StoreRefused, DeadlineExceeded)
"""What a gateway or a name server raises that does not do what it is told."""
_AT_ONCE: Final = 8
_BEHIND_S: Final = 0.1
_CHANGING: Final = (
    OperationState.PLANNED,
    OperationState.RUNNING,
    OperationState.PARKED,
    OperationState.ABORTING,
)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that is not as it should be. `strays`: because of it, requests may miss the gate or their cell."""

    kind: str
    where: str
    message: str
    fix: str
    strays: bool = True

    def as_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "where": self.where, "message": self.message, "fix": self.fix}


@dataclass(frozen=True, kw_only=True)
class Look:
    """One tenant's route as it is. `reached` says whether its users get to the cell that it is placed in."""

    tenant: TenantId
    host: str
    cell: CellName
    reached: bool
    saw: tuple[str, ...]
    """What was seen, in sentences."""
    differences: tuple[Difference, ...] = ()

    @property
    def strays(self) -> str | None:
        """Why the tenant's requests cannot be held, or None."""
        return "; ".join(d.message for d in self.differences if d.strays) or None

    def as_dict(self) -> dict[str, Any]:
        return {
            "tenant": self.tenant,
            "host": self.host,
            "cell": self.cell,
            "reached": self.reached,
            "saw": list(self.saw),
            "differences": [d.as_dict() for d in self.differences],
        }


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Looks at many tenants. `moving` are those in an operation that is changing their routes now: not looked at."""

    looks: tuple[Look, ...]
    moving: Mapping[TenantId, str]


@dataclass(kw_only=True)
class _Notes:
    """What one look has found so far."""

    tenant: TenantId
    saw: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)

    def differs(
        self, kind: str, where: str, message: str, fix: str | None = None, *, strays: bool = True
    ) -> None:
        repair = fix or f"tenure drift {self.tenant} --repair"
        self.differences.append(
            Difference(kind=kind, where=where, message=message, fix=repair, strays=strays)
        )


class Drift:
    """Looks and mends. Changes nothing unless it says so."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps

    # -- looking -----------------------------------------------------------------------------------------------------

    def look(self, tenant: TenantId) -> Look:
        """Look at one tenant, whatever it is in."""
        registry = self._deps.registry
        known = registry.tenants.get(tenant)
        (look,) = self._looks([(known, registry.placements.get(tenant))])
        return look

    def survey(self, only: TenantId | None = None) -> Survey:
        """Look at one tenant, or at all, unless somebody is moving them."""
        registry = self._deps.registry
        placements = {p.tenant: p for p in registry.placements.list()}
        tenants = registry.tenants.list() if only is None else (registry.tenants.get(only),)
        moving = {
            o.tenant: f"{o.kind} {o.id}"
            for o in registry.operations.list(tenant=only, states=_CHANGING, limit=len(placements) + 1)
            if o.tenant is not None and not o.needs_resume
        }
        looks = self._looks([(t, placements[t.id]) for t in tenants if t.id not in moving])
        return Survey(looks=looks, moving=moving)

    def _looks(self, tenants: Sequence[tuple[Tenant, Placement]]) -> tuple[Look, ...]:
        linked = {link.tenant for link in self._deps.registry.links.list(state=LinkState.ACTIVE)}
        addresses = [TenantAddress(tenant=t.id, host=t.host) for t, _ in tenants]
        states: Mapping[TenantId, RouteState] = {}
        silent: StoreUnavailable | None = None
        try:
            states = self._deps.router.survey(addresses)
        except StoreUnavailable as error:
            silent = error

        def one(entry: tuple[Tenant, Placement]) -> Look:
            tenant, placement = entry
            return self._look(tenant, placement, tenant.id in linked, states.get(tenant.id), silent)

        with ThreadPoolExecutor(max_workers=_AT_ONCE, thread_name_prefix="look") as pool:
            return tuple(pool.map(one, tenants))

    def _look(
        self,
        tenant: Tenant,
        placement: Placement,
        linked: bool,
        state: RouteState | None,
        silent: StoreUnavailable | None,
    ) -> Look:
        cell, notes = placement.cell, _Notes(tenant=tenant.id)
        listen = self._deps.estate.gateway.listen
        if state is None:
            notes.differs(
                "gateway_silent",
                "gateway",
                f"the gateway cannot be asked: {silent.message if silent else 'it does not know the tenant'}",
                (silent.hint if silent else None) or "mend the gateway",
            )
            through_gateway = False
        else:
            through_gateway = self._gateway(notes, cell, linked, state)
        by_request = self._request(notes, f"the gateway at {listen}", listen, tenant.host, cell)
        ordinary = through_gateway and by_request
        return Look(
            tenant=tenant.id,
            host=tenant.host,
            cell=cell,
            reached=self._by_name(notes, tenant.host, cell, ordinary),
            saw=tuple(notes.saw),
            differences=tuple(notes.differences),
        )

    def _gateway(self, notes: _Notes, cell: CellName, linked: bool, state: RouteState) -> bool:
        """Whether every instance sends the tenant to the cell."""
        for where, words in state.parts:
            notes.saw.append(f"the gateway's instance at {where} has for it: {words}")
        if state.cell != cell:
            routed = state.cell or "no one cell: its instances differ, or have no route"
            notes.differs("route", "gateway", f"the gateway sends it to {routed}; it is placed in {cell}")
        elif state.gated and not state.gate_answers:
            notes.differs(
                "gate_silent",
                "gate",
                "its requests ask a gate that does not answer, or knows nothing of it",
                f"start the gate, then tenure drift {notes.tenant} --repair",
            )
        elif state.gated != linked:
            asked, wanted = ("ask", "has no link") if state.gated else ("do not ask", "has a link")
            notes.differs("gated", "gateway", f"its requests {asked} the gate, but it {wanted}", strays=False)
        return state.cell == cell

    def _by_name(self, notes: _Notes, host: str, cell: CellName, ordinary: bool) -> bool:
        """Whether users get to the cell by the tenant's name; `ordinary` if the gateway takes them there."""
        names, settings = self._deps.names, self._deps.estate.gateway.dns
        if names is None or settings is None or not names.manages(host):
            return ordinary
        try:
            found = names.lookup(host)
        except (StoreUnavailable, StoreRefused) as error:
            fix = error.hint or "mend the name server"
            notes.differs(
                "name_unknown", "dns", f"its name cannot be seen: {error.message}", fix, strays=False
            )
            return False
        notes.saw.append(f"{settings.server} answers for {host}: {', '.join(found) or 'nothing'}")
        if found == (settings.gateway,):
            return ordinary
        if found != (settings.target(cell),):
            wanted = f"{settings.gateway} is the gateway"
            message = f"its name {host} points to {', '.join(found) or 'nothing'}; {wanted}"
            notes.differs("name", "dns", message)
            return False
        url = settings.cells[cell]
        notes.differs(
            "diverted", "dns", f"its name {host} leads past the gateway, straight to {cell} at {url}"
        )
        try:
            addresses = names.addresses(found[0])
        except (StoreUnavailable, StoreRefused):
            addresses = ()  # the probe looks it up as users do
        return self._request(notes, f"{cell}'s own endpoint {url}", url, host, cell, addresses)

    def _request(
        self,
        notes: _Notes,
        what: str,
        url: str,
        host: str,
        cell: CellName,
        addresses: Sequence[str] = (),
    ) -> bool:
        """Whether a request of the tenant's users at the url comes out in the cell; True where there is no probe.

        That nobody answers is no sign that requests stray: a rollback away from a broken app keeps its hold.
        """
        if self._deps.probe is None:
            return True
        try:
            answered = self._deps.probe.cell_at(url, host, addresses)
            if answered != cell:  # the gateway's workers may be a moment behind with new routes
                time.sleep(_BEHIND_S)
                answered = self._deps.probe.cell_at(url, host, addresses)
        except StoreUnavailable as error:
            notes.saw.append(f"a request through {what} is not answered")
            notes.differs("no_answer", url, error.message, error.hint, strays=False)
            return False
        notes.saw.append(f"a request through {what} is answered by {answered or 'nobody who names a cell'}")
        if answered is None:
            message = (
                f"a request through {what} is answered by nobody who names a cell: is the app of {cell} up?"
            )
            notes.differs("no_answer", url, message, f"mend the app of {cell}", strays=False)
        elif answered != cell:
            notes.differs("answer", url, f"a request through {what} is answered by {answered}, not by {cell}")
        return answered == cell

    # -- mending -----------------------------------------------------------------------------------------------------

    def divert(self, tenant: TenantId, cell: CellName) -> tuple[str, ...] | None:
        """Lead the tenant's name past the gateway straight to the cell; None if the estate has no such names.

        Returns what the name pointed to before. Idempotent. Raises as `Names.point` does.
        """
        names, settings = self._deps.names, self._deps.estate.gateway.dns
        host = self._deps.registry.tenants.get(tenant).host
        if names is None or settings is None or not names.manages(host):
            return None
        return names.point(host, settings.target(cell))

    def repair(self, tenants: Iterable[TenantId], *, actor: str) -> None:
        """Route these tenants as they are placed, and lead their names to the gateway again once it does so.

        A tenant whose rollback waits for that is led straight to its cell as long as the gateway is out of
        step. Raises `TenantLocked` for a tenant that somebody is moving, and `RouteDrifted` with everything that could
        not be mended, after trying all of them.
        """
        chosen = list(tenants)
        waiting = {tenant: self._free(tenant) is not None for tenant in chosen}
        problems: list[str] = []
        broken: TenureError | None = None
        try:
            self._deps.router.renew()
        except BROKEN as error:
            broken = error
            problems.append(_said(error))
        for tenant in chosen:
            try:
                self._repair(tenant, waited_for=waiting[tenant], broken=broken)
            except BROKEN as error:
                if error is not broken:
                    problems.append(f"{tenant}: {_said(error)}")
            else:
                self._deps.registry.events.append("route_repaired", actor=actor, tenant=tenant)
        if problems:
            raise RouteDrifted(
                "not everything could be mended: " + "; ".join(problems),
                hint="tenure drift shows what is left",
            )

    def _repair(self, tenant: TenantId, *, waited_for: bool, broken: TenureError | None) -> None:
        """A gateway that is broken for all is not waited for again for each."""
        deps = self._deps
        placement = deps.registry.placements.get(tenant)
        try:
            if broken is not None:
                raise broken
            self._rewrite(tenant, placement)
        except BROKEN:
            if waited_for:
                self.divert(tenant, placement.cell)
            raise
        names, settings = deps.names, deps.estate.gateway.dns
        host = deps.registry.tenants.get(tenant).host
        if names is not None and settings is not None and names.manages(host):
            names.point(host, settings.gateway)

    def _rewrite(self, tenant: TenantId, placement: Placement) -> None:
        """With a new token, so that the gate listens: nobody is at the tenant now who has another."""
        deps, address = self._deps, self._deps.address(tenant)
        link = deps.registry.links.active(tenant)
        if link is not None and link.state is LinkState.ACTIVE:
            token = deps.registry.steps.new_token()
            deps.router.gate(address, placement.cell, token=token, epoch=placement.epoch)
        else:
            deps.router.route(address, placement.cell, epoch=placement.epoch)

    def _free(self, tenant: TenantId) -> Operation | None:
        """The operation that the tenant is in and that nobody runs, if there is one: it takes a newer token later."""
        active = self._deps.registry.operations.active_for(tenant)
        if active is None or active.state is OperationState.AWAITING:
            return active
        if not active.needs_resume:
            raise TenantLocked(
                f"{tenant} is in {active.kind} {active.id}, which changes its routes itself",
                hint=f"tenure op show {active.id}",
            )
        return active


def _said(error: TenureError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message
