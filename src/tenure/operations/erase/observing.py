"""Reads everything that planning an erasure needs to know. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from tenure.certificates.evidence import PartName
from tenure.errors import StoreRefused, StoreUnavailable
from tenure.model.finding import Finding, Severity
from tenure.model.inventory import Inventory
from tenure.model.names import TenantId
from tenure.operations.deps import Deps
from tenure.operations.erase.parts import Parts
from tenure.plan.erase import ErasePlan, PartToErase, plan_erase


def plan_now(deps: Deps, tenant: TenantId) -> ErasePlan:
    """What the erasure would do now."""
    parts, now = Parts(deps), deps.registry.backups.now()
    known, placement = deps.registry.tenants.get(tenant), deps.registry.placements.get(tenant)
    tier = deps.tier(tenant)
    findings = list(_standing(deps, tenant))
    seen = parts.each(lambda part: _counted(parts, part, tenant))
    found = []
    for part, counted in seen.items():
        if isinstance(counted, Finding):
            findings.append(counted)
        else:
            found.append(_part(deps, parts, part, counted, now))
    backups, locked = _backups(deps, tenant)
    if locked is not None:
        findings.append(
            Finding(
                severity=Severity.INFO,
                code="locked_backups",
                where="the vaults",
                message=f"a lock keeps bytes of backups until {locked:%Y-%m-%d %H:%M} UTC; without keys nobody can "
                "read them, and the certificate is interim until then",
                fix="nothing",
            )
        )
    return plan_erase(
        tenant=tenant,
        cell=placement.cell,
        epoch=placement.epoch,
        tier=known.tier,
        cooling_off_h=tier.cooling_off_h,
        parts=found,
        backups=backups,
        findings=findings,
        catalogue_digest=deps.estate.catalogue.digest,
    )


def _standing(deps: Deps, tenant: TenantId) -> Iterator[Finding]:
    """What stands in the way whatever the stores hold."""
    known, link = deps.registry.tenants.get(tenant), deps.registry.links.active(tenant)
    if known.legal_hold is not None:
        yield Finding(
            severity=Severity.REFUSAL,
            code="legal_hold",
            where=tenant,
            message=f"{tenant} is on legal hold: {known.legal_hold} (Article 17(3)(e))",
            fix="erase it when the hold is lifted",
            command=f"tenure erase release {tenant}",
        )
    if link is not None:
        yield Finding(
            severity=Severity.REFUSAL,
            code="linked",
            where=f"{link.cell_a} and {link.cell_b}",
            message=f"a move of {tenant} is not completed",
            fix="complete it or take it back first",
            command=f"tenure complete {tenant}",
        )
    if deps.sealing is None or deps.vaults is None:
        yield Finding(
            severity=Severity.REFUSAL,
            code="no_signing_key",
            where="tenure.yaml",
            message="there is no key to sign a certificate with, and nothing is known of backups",
            fix="add `backups:` with `keys` and `signing`",
        )
    if deps.ledger is None:
        yield Finding(
            severity=Severity.REFUSAL,
            code="no_ledger",
            where="tenure.yaml",
            message="there is no key for the erasure ledger: a restore could bring the tenant back",
            fix="give `backups.ledger_key`",
        )


def _counted(parts: Parts, part: PartName, tenant: TenantId) -> Inventory | Finding:
    try:
        parts.store(part).ping()
        return parts.store(part).inventory(tenant)
    except (StoreUnavailable, StoreRefused) as error:
        return Finding(
            severity=Severity.REFUSAL,
            code="not_counted",
            where=str(part),
            message=error.message,
            fix=error.hint or "bring it back",
        )


def _part(deps: Deps, parts: Parts, part: PartName, counted: Inventory, now: datetime) -> PartToErase:
    can = parts.store(part).capabilities
    becomes, lapses_at = "deleted", None
    if can.lapses_after_days and counted.items:
        lapses_at = now + timedelta(days=can.lapses_after_days)
    if can.sealed:
        becomes = "keys destroyed, then deleted"
    elif can.undeletable is not None:
        becomes = f"left to expire: {can.undeletable}"
    return PartToErase(
        cell=part.cell,
        store=part.store,
        kind=str(deps.estate.catalogue.store(part.store).kind),
        items=counted.items,
        size_bytes=counted.size_bytes,
        becomes=becomes,
        lapses_at=lapses_at,
    )


def _backups(deps: Deps, tenant: TenantId) -> tuple[int, datetime | None]:
    """How many backups there are in the vaults, and until when a lock that nobody lifts keeps one."""
    if deps.vaults is None:
        return 0, None
    number, ends = 0, []
    for region in deps.vaults.regions():
        shelf = deps.vaults.vault(region).shelf(tenant)
        number += len(shelf.complete)
        ends += [b.lock.until for b in shelf.complete if b.lock is not None]
    return number, max(ends, default=None)
