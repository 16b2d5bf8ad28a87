"""Reads everything that planning a backup needs to know. Changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from tenure.catalogue import StoreKind
from tenure.estate.settings_retention import TierBackup
from tenure.model.finding import Finding, Severity
from tenure.model.names import CellName, StoreName, TenantId
from tenure.operations.deps import Deps, Vaults
from tenure.operations.drift import Drift
from tenure.operations.observe import PAST_MEASUREMENTS, ROUND_TRIPS, cell_observation, prices_of
from tenure.operations.served import Crew, Served
from tenure.plan.backup import BackupObservation, Keeping, StoreToTake
from tenure.plan.observation import Rate, ResidencyRule, StayingStore
from tenure.stores.backup import Capture
from tenure.stores.vault.contract import Lock, LockMode, Rules

LOCK_SLACK: Final = timedelta(hours=1)
"""A lock begins when the backup does and is to last for `keep_days` after it was stored."""


def backed_up(deps: Deps, cell: CellName) -> tuple[StoreName, ...]:
    """The stores of a cell whose data is in backups; those that ride with another one as well."""
    return tuple(
        name
        for name in deps.factory.names()
        if deps.factory.store(cell, name).capabilities.not_backed_up is None
    )


def captured(deps: Deps, cell: CellName) -> tuple[StoreName, ...]:
    """The stores that have captures of their own."""
    return tuple(
        name
        for name in backed_up(deps, cell)
        if deps.factory.store(cell, name).capabilities.rides_with is None
    )


def served(deps: Deps, tenant: TenantId, cell: CellName, crew: Crew) -> Served:
    """The stores that are fenced together for a backup's point."""
    return Served(tenant=tenant, cell=cell, names=backed_up(deps, cell), factory=deps.factory, crew=crew)


def tier_backup(deps: Deps, tenant: TenantId) -> tuple[str, TierBackup | None]:
    """The tenant's tier, and what that says of backups."""
    tier = deps.registry.tenants.get(tenant).tier
    found = deps.estate.tiers.get(tier)
    return tier, None if found is None else found.backup


def lock_of(keeping: Keeping) -> Lock | None:
    """What the vault is told, if anything."""
    if keeping.lock is None or keeping.locked_until is None:
        return None
    return Lock(mode=LockMode(keeping.lock.upper()), until=keeping.locked_until)


def observe(deps: Deps, tenant: TenantId) -> BackupObservation:
    """Look at the serving cell, its stores, the vaults and the rules."""
    vaults, _ = deps.backups()
    known, placement = deps.registry.tenants.get(tenant), deps.registry.placements.get(tenant)
    tier, settings = tier_backup(deps, tenant)
    region = deps.estate.cell(placement.cell).region
    names = captured(deps, placement.cell)
    crew = Crew(f"look-{tenant[:8]}", workers=len(names))
    try:
        captures = {n: deps.factory.store(placement.cell, n).capture(tenant) for n in names}
        found = crew.each(lambda n: captures[n].preflight(), names)
        stores = crew.each(lambda n: _store(deps, placement.cell, n, tenant, captures[n]), names)
    finally:
        crew.close()
    keeping = _keeping(tier, settings, region)
    rule = deps.estate.residency[known.residency] if known.residency is not None else None
    holds = deps.registry.measurements.recent(
        kind="backup_hold", route=placement.cell, limit=PAST_MEASUREMENTS
    )
    return BackupObservation(
        tenant=tenant,
        cell=cell_observation(deps, placement.cell),
        epoch=placement.epoch,
        keeping=keeping,
        stores=tuple(stores.values()),
        left_out=_left_out(deps, placement.cell),
        findings=(*(f for of_store in found.values() for f in of_store), *_vault_findings(vaults, keeping)),
        hold_budget_ms=deps.estate.hold.budget_ms,
        past_holds_ms=tuple(m.seconds * 1000 for m in holds),
        taken=_taken(deps, placement.cell),
        stored_before=_stored_before(deps, tenant),
        linked=deps.registry.links.active(tenant) is not None,
        residency=None
        if rule is None or known.residency is None
        else ResidencyRule(name=known.residency, regions=rule.regions, reason=rule.reason),
        strays=Drift(deps).look(tenant).strays,
        catalogue_digest=deps.estate.catalogue.digest,
        prices=prices_of(deps),
    )


def _keeping(tier: str, settings: TierBackup | None, region: str) -> Keeping:
    if settings is None:
        return Keeping(tier=tier, region=region, copy_to=None, lock=None, locked_until=None, keep_days=None)
    until = datetime.now(UTC) + timedelta(days=settings.keep_days) + LOCK_SLACK
    return Keeping(
        tier=tier,
        region=region,
        copy_to=settings.copy_to if settings.copy_to != region else None,
        lock=settings.lock,
        locked_until=None if settings.lock is None else until,
        keep_days=settings.keep_days,
    )


def _store(deps: Deps, cell: CellName, name: StoreName, tenant: TenantId, capture: Capture) -> StoreToTake:
    store = deps.factory.store(cell, name)
    round_trip_ms = _quickest_ms(lambda: store.fence_state(tenant))
    estimate = capture.estimate()
    kind: StoreKind = deps.estate.catalogue.store(name).kind
    return StoreToTake(
        store=name,
        kind=str(kind),
        items=estimate.items,
        size_bytes=estimate.size_bytes,
        pin_s=estimate.pin_s,
        round_trip_ms=round_trip_ms,
        fence_enforced=store.capabilities.fence_enforced,
        carries=tuple(
            other
            for other in backed_up(deps, cell)
            if deps.factory.store(cell, other).capabilities.rides_with == name
        ),
    )


def _quickest_ms(ask: Callable[[], object]) -> float:
    """The best of a few round trips: the first one opens the connection."""
    took = []
    for _ in range(ROUND_TRIPS):
        began = time.perf_counter()
        ask()
        took.append((time.perf_counter() - began) * 1000)
    return min(took)


def _left_out(deps: Deps, cell: CellName) -> tuple[StayingStore, ...]:
    found = []
    for name in deps.factory.names():
        why = deps.factory.store(cell, name).capabilities.not_backed_up
        if why is not None:
            kind: StoreKind = deps.estate.catalogue.store(name).kind
            found.append(StayingStore(store=name, kind=str(kind), why=why))
    return tuple(found)


def _vault_findings(vaults: Vaults, keeping: Keeping) -> Sequence[Finding]:
    found: list[Finding] = []
    for region in (keeping.region, keeping.copy_to):
        if region is None:
            continue
        if region not in vaults.regions():
            found.append(
                Finding(
                    severity=Severity.REFUSAL,
                    code="no_vault",
                    where=region,
                    message=f"no cell of {region} has a vault",
                    fix="give a cell of that region a store of kind `vault`",
                )
            )
            continue
        found += _rules(vaults.vault(region).rules(), region, keeping.lock)
    return found


def _rules(rules: Rules, region: str, lock: str | None) -> list[Finding]:
    """What a bucket does by itself that a backup should not meet."""
    where = f"the vault of {region}"
    found = []
    if rules.expiring:
        found.append(
            Finding(
                severity=Severity.REFUSAL,
                code="vault_expires",
                where=where,
                message=f"lifecycle rules of its bucket delete what lies there: {', '.join(rules.expiring)}",
                fix="remove these rules: prunes keep what good backups need, and they do not",
            )
        )
    if lock is not None and not rules.locks:
        found.append(
            Finding(
                severity=Severity.REFUSAL,
                code="vault_without_locks",
                where=where,
                message="the tier locks its backups, and the bucket has no object lock",
                fix="make the bucket anew with object lock, or take `lock` from the tier",
            )
        )
    if not rules.versioned:
        found.append(
            Finding(
                severity=Severity.WARNING,
                code="vault_without_versions",
                where=where,
                message="its bucket keeps no versions: a manifest that is written over or deleted is gone",
                fix="switch versions on",
            )
        )
    return found


def _taken(deps: Deps, cell: CellName) -> Rate | None:
    past = deps.registry.measurements.recent(kind="backup", route=cell, store="", limit=PAST_MEASUREMENTS)
    seconds = sum(m.seconds for m in past)
    if seconds <= 0:
        return None
    return Rate(
        items_per_s=sum(m.items for m in past) / seconds,
        bytes_per_s=sum(m.bytes for m in past) / seconds,
        basis=f"{len(past)} measured backups in {cell}",
    )


def _stored_before(deps: Deps, tenant: TenantId) -> float | None:
    """The share of its bytes that the tenant's last backup has sent."""
    for backup in deps.registry.backups.list(tenant=tenant, limit=1):
        sent = backup.details.get("sent_bytes")
        if sent is not None and backup.size_bytes:
            return min(1.0, float(sent) / backup.size_bytes)
    return None
