"""Plans a backup: what it will have and what not, how long it keeps users waiting, and what it takes and costs.

Equal circumstances give an equal digest; predictions are not part of it, because they change with every row written.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from statistics import quantiles
from typing import Any, Final

from tenure.model.finding import Finding, Severity
from tenure.model.names import CellName, StoreName, TenantId
from tenure.plan.move import BYTES_PER_GB, SECONDS_PER_HOUR, Cost, PlannedStep
from tenure.plan.observation import CellObservation, Prices, Rate, ResidencyRule, StayingStore

STEPS: Final = (
    PlannedStep(name="preflight", does="check every store, the vaults and the rules; change nothing"),
    PlannedStep(
        name="capture",
        does="take what is there while the tenant works, hold it for the one point of all stores, take the rest",
    ),
    PlannedStep(name="verify", does="read a sample back from the vault, with the tenant's key"),
    PlannedStep(name="copy", does="copy it, sealed as it is, to the second region and verify it there"),
)
BYTES_PER_S: Final = 20_000_000.0
"""How fast a backup is taken where none was measured yet: a guess on the careful side."""
STEPS_S: Final = 1.0
ROUND_TRIPS_IN_HOLD: Final = 4
"""Fence, pin, look again, open: each a round trip to the slowest store."""


@dataclass(frozen=True, kw_only=True)
class StoreToTake:
    """One store of the tenant in the cell that serves it. `pin_s`: what fixing its point takes under the fence."""

    store: StoreName
    kind: str
    items: int
    size_bytes: int
    pin_s: float
    round_trip_ms: float
    fence_enforced: bool
    carries: tuple[StoreName, ...] = ()
    """The stores whose data it has as well."""


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """What the tenant's tier says of the backup, and where it goes."""

    tier: str
    region: str
    copy_to: str | None
    lock: str | None
    locked_until: datetime | None
    keep_days: float | None
    """None: the tier says nothing, and no prune ever takes it."""


@dataclass(frozen=True, kw_only=True)
class BackupObservation:
    """Everything that planning a backup needs to know."""

    tenant: TenantId
    cell: CellObservation
    epoch: int
    keeping: Keeping
    stores: tuple[StoreToTake, ...]
    left_out: tuple[StayingStore, ...]
    findings: tuple[Finding, ...]
    hold_budget_ms: float
    past_holds_ms: tuple[float, ...]
    taken: Rate | None
    stored_before: float | None
    """The share of its bytes that the last backups have sent to the vault."""
    linked: bool
    residency: ResidencyRule | None
    strays: str | None
    catalogue_digest: str
    prices: Prices


@dataclass(frozen=True, kw_only=True)
class BackupPrediction:
    """`basis` says what the figures are derived from."""

    hold_ms: float
    total_s: float
    items: int
    size_bytes: int
    sent_bytes: int
    cost: Cost
    basis: str


@dataclass(frozen=True, kw_only=True)
class BackupPlan:
    """An ordered, digested intention. `refusals` is empty exactly when it may be carried out."""

    tenant: TenantId
    cell: CellName
    epoch: int
    keeping: Keeping
    steps: tuple[PlannedStep, ...]
    stores: tuple[StoreToTake, ...]
    left_out: tuple[StayingStore, ...]
    findings: tuple[Finding, ...]
    prediction: BackupPrediction
    digest: str
    kind: str = "backup"

    @property
    def refusals(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity is Severity.REFUSAL)

    def as_dict(self) -> dict[str, Any]:
        """The plan as `--json` shows it and the registry keeps it."""
        keeping, seen = self.keeping, self.prediction
        return {
            "kind": self.kind,
            "tenant": self.tenant,
            "cell": self.cell,
            "epoch": self.epoch,
            "tier": keeping.tier,
            "region": keeping.region,
            "copy_to": keeping.copy_to,
            "lock": keeping.lock,
            "locked_until": keeping.locked_until.isoformat() if keeping.locked_until else None,
            "keep_days": keeping.keep_days,
            "steps": [{"name": s.name, "does": s.does} for s in self.steps],
            "stores": [
                {
                    "store": s.store,
                    "kind": s.kind,
                    "items": s.items,
                    "size_bytes": s.size_bytes,
                    "pin_ms": round(s.pin_s * 1000, 1),
                    "fence": "enforced" if s.fence_enforced else "cooperative",
                    "carries": list(s.carries),
                }
                for s in self.stores
            ],
            "left_out": [{"store": s.store, "kind": s.kind, "why": s.why} for s in self.left_out],
            "findings": [
                {
                    "severity": str(f.severity),
                    "code": f.code,
                    "where": f.where,
                    "message": f.message,
                    "fix": f.fix,
                    "command": f.command or None,
                }
                for f in self.findings
            ],
            "predicted": {
                "hold_ms": round(seen.hold_ms, 1),
                "total_s": round(seen.total_s, 2),
                "items": seen.items,
                "size_bytes": seen.size_bytes,
                "sent_bytes": seen.sent_bytes,
                "cost": seen.cost.as_dict(),
                "basis": seen.basis,
            },
            "digest": self.digest,
        }


def plan_backup(seen: BackupObservation) -> BackupPlan:
    """Plan to back the tenant up as it is placed now."""
    prediction = _predict(seen)
    findings = tuple(sorted({*seen.findings, *_rules(seen, prediction.hold_ms)}))
    steps = STEPS if seen.keeping.copy_to is not None else STEPS[:-1]
    decisive = {
        "kind": "backup",
        "tenant": seen.tenant,
        "cell": seen.cell.name,
        "epoch": seen.epoch,
        "linked": seen.linked,
        "region": seen.keeping.region,
        "copy_to": seen.keeping.copy_to,
        "lock": seen.keeping.lock,
        "keep_days": seen.keeping.keep_days,
        "catalogue": seen.catalogue_digest,
        "stores": sorted(s.store for s in seen.stores),
        "left_out": sorted(s.store for s in seen.left_out),
        "findings": sorted({(str(f.severity), f.code, f.where) for f in findings}),
    }
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]
    return BackupPlan(
        tenant=seen.tenant,
        cell=seen.cell.name,
        epoch=seen.epoch,
        keeping=seen.keeping,
        steps=steps,
        stores=seen.stores,
        left_out=seen.left_out,
        findings=findings,
        prediction=prediction,
        digest=digest,
    )


def backup_cost(
    cell: CellObservation, prices: Prices, *, seconds: float, sent_bytes: int, copied_bytes: int
) -> Cost:
    """Hours of the cell, bytes sent to the vault and to the second region, and the operator's time."""
    hours = seconds / SECONDS_PER_HOUR
    moved = sent_bytes * prices.gb_moved + copied_bytes * prices.cross_region_gb_moved
    return Cost(
        currency=prices.currency,
        cells=hours * cell.hour_price,
        bytes_moved=moved / BYTES_PER_GB,
        operator=hours * prices.operator_hour,
    )


def _predict(seen: BackupObservation) -> BackupPrediction:
    size = sum(s.size_bytes for s in seen.stores)
    slowest = max((s.round_trip_ms for s in seen.stores), default=0.0)
    estimate = ROUND_TRIPS_IN_HOLD * slowest + 1000 * max((s.pin_s for s in seen.stores), default=0.0)
    past = seen.past_holds_ms
    hold_ms = (
        quantiles(past, n=20, method="inclusive")[-1] if len(past) >= 2 else past[0] if past else estimate
    )
    rate = seen.taken.bytes_per_s if seen.taken is not None and seen.taken.bytes_per_s > 0 else BYTES_PER_S
    share = seen.stored_before if seen.stored_before is not None else 1.0
    sent = round(size * share)
    total_s = STEPS_S + size / rate
    basis = "; ".join(
        (
            f"duration: {seen.taken.basis}"
            if seen.taken is not None
            else "duration: a careful guess, none was measured yet",
            f"hold: {len(past)} measured holds of backups in {seen.cell.name}"
            if past
            else "hold: round trips measured just now",
            "bytes sent: what the last backups sent"
            if seen.stored_before is not None
            else "bytes sent: all, for there is no backup yet; before compression",
        )
    )
    copied = sent if seen.keeping.copy_to is not None else 0
    return BackupPrediction(
        hold_ms=hold_ms,
        total_s=total_s,
        items=sum(s.items for s in seen.stores),
        size_bytes=size,
        sent_bytes=sent,
        cost=backup_cost(seen.cell, seen.prices, seconds=total_s, sent_bytes=sent, copied_bytes=copied),
        basis=basis,
    )


def _rules(seen: BackupObservation, hold_ms: float) -> tuple[Finding, ...]:
    found: list[Finding] = []
    rule, keeping = seen.residency, seen.keeping
    for region in (keeping.region, keeping.copy_to):
        if rule is not None and region is not None and region not in rule.regions:
            found.append(
                Finding(
                    severity=Severity.REFUSAL,
                    code="residency",
                    where=region,
                    message=f"{seen.tenant} may lie in {', '.join(rule.regions)} only ({rule.name}: {rule.reason}), "
                    f"and the backup would lie in {region}",
                    fix="give the tenant a tier whose `copy_to` is allowed",
                )
            )
    if hold_ms > seen.hold_budget_ms:
        found.append(
            Finding(
                severity=Severity.REFUSAL,
                code="hold_over_budget",
                where=seen.tenant,
                message=f"the hold is predicted at {hold_ms:.0f} ms, over the budget of {seen.hold_budget_ms:.0f} ms",
                fix="raise hold.budget_ms in tenure.yaml, or find out why the stores answer so slowly",
            )
        )
    if seen.strays is not None:
        found.append(
            Finding(
                severity=Severity.REFUSAL,
                code="route_drifted",
                where=seen.tenant,
                message=f"its requests cannot be held: {seen.strays}",
                fix="have its route mended",
                command=f"tenure drift {seen.tenant} --repair",
            )
        )
    if keeping.keep_days is None:
        found.append(
            Finding(
                severity=Severity.WARNING,
                code="kept_for_ever",
                where=keeping.tier,
                message=f"the tier {keeping.tier} does not say how long backups are kept: nothing ever prunes this one",
                fix="give the tier a `backup` block",
            )
        )
    found.extend(
        Finding(
            severity=Severity.WARNING,
            code="fence_cooperative",
            where=store.store,
            message=f"{store.store} cannot refuse the tenant's writes itself while the point is fixed: the gate and "
            "tenure.client keep them out",
            fix="route every writer through the gateway or take tenure.client's permit before each write",
        )
        for store in seen.stores
        if not store.fence_enforced
    )
    found.extend(
        Finding(
            severity=Severity.INFO,
            code="not_backed_up",
            where=left.store,
            message=f"{left.store} is not in the backup: {left.why}",
            fix="nothing, unless you rely on it",
        )
        for left in seen.left_out
    )
    return tuple(found)
