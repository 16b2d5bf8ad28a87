"""Reads everything a planner needs to know before a move. Changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from tenure.catalogue import StoreKind
from tenure.engine.context import StepContext
from tenure.errors import PlanStale, StoreRefused
from tenure.model.finding import Finding, Severity
from tenure.model.inventory import Inventory
from tenure.model.names import CellName, StoreName, TenantId, cell_name
from tenure.model.operation import Operation
from tenure.operations.deps import Deps
from tenure.operations.drift import Drift
from tenure.operations.session import Session
from tenure.plan.move import Cost, cost_of
from tenure.plan.observation import (
    CellObservation,
    MoveObservation,
    Prices,
    Rate,
    ResidencyRule,
    StayingStore,
    StoreObservation,
)
from tenure.registry.measurements import Measurement
from tenure.stores.contract import Store

PAST_MEASUREMENTS = 20
ROUND_TRIPS = 3


def route(source: CellName, target: CellName) -> str:
    """The name under which measurements of moves between two cells are kept."""
    return f"{source}->{target}"


def link_name(tenant: TenantId, one: CellName, other: CellName) -> str:
    """The name of the link of a tenant between two cells, the same in both directions."""
    first, second = sorted((one, other))
    return f"{tenant}:{first}:{second}"


def cell_observation(deps: Deps, name: CellName) -> CellObservation:
    cell = deps.estate.cell(name)
    price = deps.estate.prices.cell_hour[name] if deps.estate.prices is not None else 0.0
    return CellObservation(
        name=name, region=cell.region, infrastructure=cell.infrastructure, hour_price=price
    )


def prices_of(deps: Deps) -> Prices:
    """The estate's price list; all zero where it has none."""
    prices = deps.estate.prices
    if prices is None:
        return Prices(currency="INR", gb_moved=0.0, cross_region_gb_moved=0.0, operator_hour=0.0)
    return Prices(
        currency=prices.currency,
        gb_moved=prices.gb_moved,
        cross_region_gb_moved=prices.cross_region_gb_moved,
        operator_hour=prices.operator_hour,
    )


def cost_so_far(deps: Deps, operation: Operation) -> Cost:
    """What an operation between two cells has cost since it started."""
    began = operation.started_at or operation.created_at
    source, target = cell_name(operation.request["from"]), cell_name(operation.request["to"])
    return cost_of(
        cell_observation(deps, source),
        cell_observation(deps, target),
        prices_of(deps),
        seconds=(datetime.now(UTC) - began).total_seconds(),
        bytes_moved=int(operation.data.get("bytes_moved", 0)),
    )


def record_measurement(
    deps: Deps,
    ctx: StepContext,
    kind: str,
    store: StoreName | None,
    items: int,
    size_bytes: int,
    seconds: float,
) -> None:
    """Keep what something took on the route of this operation, for the next plan's predictions."""
    request = ctx.operation.request
    deps.registry.measurements.record(
        Measurement(
            kind=kind,
            route=route(cell_name(request["from"]), cell_name(request["to"])),
            store=store or "",
            items=items,
            bytes=size_bytes,
            seconds=seconds,
        )
    )


def record_work(deps: Deps, ctx: StepContext, kind: str, store: StoreName, seconds: float) -> None:
    """Keep what copying or comparing all of a store took, in the units of its inventory, as plans know it: what a copy
    counts may be others (partitions for rows, hours for events). Nothing where the operation took no inventory."""
    items = ctx.operation.data.get("items", {}).get(store)
    if items is not None:
        size_bytes = ctx.operation.data.get("sizes", {}).get(store, 0)
        record_measurement(deps, ctx, kind, store, int(items), int(size_bytes), seconds)


def _freeze(deps: Deps) -> str | None:
    """The freeze window of the estate that it is now."""
    now = datetime.now(UTC)
    for name, window in deps.estate.freeze.items():
        if window.begins <= now < window.ends:
            return f"{name} ({window.reason}) until {window.ends.isoformat()}"
    return None


def _rate(deps: Deps, kind: str, store: StoreName, source: CellName, target: CellName) -> Rate | None:
    past = deps.registry.measurements.recent(
        kind=kind, route=route(source, target), store=store, limit=PAST_MEASUREMENTS
    )
    seconds = sum(m.seconds for m in past)
    if seconds <= 0:
        return None
    return Rate(
        items_per_s=sum(m.items for m in past) / seconds,
        bytes_per_s=sum(m.bytes for m in past) / seconds,
        basis=f"{len(past)} copies",
    )


def _quickest_ms(ask: Callable[[], object]) -> float:
    """The best of a few round trips: the first one opens the connection."""
    took = []
    for _ in range(ROUND_TRIPS):
        began = time.perf_counter()
        ask()
        took.append((time.perf_counter() - began) * 1000)
    return min(took)


def _inventory(store: Store, tenant: TenantId, *, refused: bool) -> Inventory:
    """What the store holds of the tenant; nothing where it cannot be said and preflight has found out why."""
    try:
        return store.inventory(tenant)
    except StoreRefused:
        if not refused:
            raise
        return Inventory(store=store.name, tenant=tenant, collections={})


def _store(deps: Deps, session: Session, name: StoreName, found: Sequence[Finding]) -> StoreObservation:
    store = session.source_store(name)
    store.ping()
    round_trip_ms = _quickest_ms(lambda: store.fence_state(session.tenant))
    began = time.perf_counter()
    refused = any(f.severity is Severity.REFUSAL for f in found)
    inventory = _inventory(store, session.tenant, refused=refused)
    inventory_s = time.perf_counter() - began
    kind: StoreKind = deps.estate.catalogue.store(name).kind
    return StoreObservation(
        store=name,
        kind=str(kind),
        items=inventory.items,
        size_bytes=inventory.size_bytes,
        inventory_s=inventory_s,
        round_trip_ms=round_trip_ms,
        fence_enforced=store.capabilities.fence_enforced,
        rides_with=store.capabilities.rides_with,
        fenced_with=store.capabilities.fenced_with,
        fingerprint_source=session.copies[name].fingerprint(),
        fingerprint_target=deps.factory.copy(
            session.link, name, session.tenant, session.target, session.source
        ).fingerprint(),
        copied=_rate(deps, "copy", name, session.source, session.target),
        compared=_rate(deps, "verify", name, session.source, session.target),
    )


def _staying(deps: Deps, cell: CellName) -> tuple[StayingStore, ...]:
    """The stores that no move takes part of the tenant from, with their reasons."""
    found = []
    for name in deps.factory.names():
        why = deps.factory.store(cell, name).capabilities.stays
        if why is not None:
            kind: StoreKind = deps.estate.catalogue.store(name).kind
            found.append(StayingStore(store=name, kind=str(kind), why=why))
    return tuple(found)


def observe(deps: Deps, session: Session, *, linked: bool) -> MoveObservation:
    """Look at both cells, all stores and the rules for a move of `session.tenant`."""
    tenant = deps.registry.tenants.get(session.tenant)
    placement = deps.registry.placements.get(session.tenant)
    if placement.cell != session.source:
        raise PlanStale(
            f"{session.tenant} is served by {placement.cell}, not by {session.source}",
            hint="make a new plan with `--plan` from what is there now",
        )
    session.each(lambda n: session.target_store(n).ping())
    found = session.each(lambda n: session.copies[n].preflight())
    findings: list[Finding] = [finding for of_store in found.values() for finding in of_store]
    stores = session.each(lambda n: _store(deps, session, n, findings))
    for name, of_store in found.items():
        if any(finding.code == "fence_cooperates" for finding in of_store):
            stores[name] = replace(stores[name], fence_enforced=False)
    commit_ms = _quickest_ms(deps.registry.database.ping)
    holds = deps.registry.measurements.recent(
        kind="hold", route=route(session.source, session.target), limit=PAST_MEASUREMENTS
    )
    rule = deps.estate.residency[tenant.residency] if tenant.residency is not None else None
    return MoveObservation(
        tenant=session.tenant,
        tier=tenant.tier,
        residency=None
        if rule is None or tenant.residency is None
        else ResidencyRule(name=tenant.residency, regions=rule.regions, reason=rule.reason),
        legal_hold=tenant.legal_hold,
        freeze=_freeze(deps),
        epoch=placement.epoch,
        source=cell_observation(deps, session.source),
        target=cell_observation(deps, session.target),
        stores=tuple(stores.values()),
        staying=_staying(deps, session.source),
        findings=tuple(findings),
        linked=linked,
        catalogue_digest=deps.estate.catalogue.digest,
        hold_budget_ms=deps.estate.hold.budget_ms,
        commit_ms=commit_ms,
        past_holds_ms=tuple(m.seconds * 1000 for m in holds),
        strays=Drift(deps).look(session.tenant).strays,
        has_names=deps.names is not None and deps.names.manages(tenant.host),
        prices=prices_of(deps),
    )
