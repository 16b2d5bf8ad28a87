"""Plans the restore of a backup: in place, into another cell, or under another name.

The plan states what would be different afterwards, store by store and collection by collection, how the backup's schema
gets to the live one, how long users wait, and what it takes and costs. Equal circumstances give an equal digest;
counts and predictions are not part of it, because they change with every row the tenant writes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from tenure.model.finding import Finding, Severity
from tenure.model.names import CellName, StoreName, TenantId
from tenure.plan.move import Cost, PlannedStep, cost_of
from tenure.plan.observation import CellObservation, Prices, Rate, ResidencyRule
from tenure.plan.restore_steps import Mode, steps_of
from tenure.plan.schema_path import SchemaPath, Way

NAMED: Final = 20
"""Of the items that differ in a collection, so many are named; all are counted."""
LOAD_BYTES_PER_S: Final = 5_000_000.0
"""How fast a restore reads, opens and loads where none was measured yet: a guess on the careful side."""
APPLY_ITEMS_PER_S: Final = 2_000.0
"""How fast single items are written under the fence where no restore was measured yet."""
STEPS_S: Final = 1.5
STAGING_S: Final = 3.0
"""A scratch database and the start of the app's migrations, whatever the size."""
ROUND_TRIPS_IN_HOLD: Final = 6


@dataclass(frozen=True, kw_only=True)
class CollectionChange:
    """What a restore changes in one collection. `added`, `changed` and `removed` are counts of items; `named` the keys
    of the first of each."""

    store: StoreName
    collection: str
    in_backup: int
    added: int = 0
    changed: int = 0
    removed: int = 0
    named: Mapping[str, tuple[str, ...]] | None = None

    @property
    def items(self) -> int:
        return self.added + self.changed + self.removed

    def as_dict(self) -> dict[str, Any]:
        return {
            "store": self.store,
            "collection": self.collection,
            "in_backup": self.in_backup,
            "added": self.added,
            "changed": self.changed,
            "removed": self.removed,
            "items": {kind: list(keys) for kind, keys in (self.named or {}).items() if keys},
        }


@dataclass(frozen=True, kw_only=True)
class BackupFacts:
    """The backup as it says of itself, verified."""

    id: str
    tenant: TenantId
    point: datetime
    cell: CellName
    manifest: str
    """Its digest."""
    size_bytes: int
    items: int


@dataclass(frozen=True, kw_only=True)
class RestoreObservation:
    """Everything that planning a restore needs to know."""

    mode: Mode
    backup: BackupFacts
    tenant: TenantId
    source: CellObservation
    """The cell that serves the tenant; for a new tenant the one that will."""
    target: CellObservation
    epoch: int
    selection: Mapping[str, Any] | None
    changes: tuple[CollectionChange, ...]
    schemas: tuple[SchemaPath, ...]
    findings: tuple[Finding, ...]
    residency: ResidencyRule | None
    legal_hold: str | None
    erasures: tuple[str, ...]
    """What the erasure ledger says of the tenant since the backup's point; each refuses or is applied again."""
    protected: bool
    """A backup of the present state is made first."""
    catalogue_digest: str
    hold_budget_ms: float
    round_trip_ms: float
    compare_s: float
    """How long comparing the backup with what is live took just now."""
    prices: Prices
    loaded: Rate | None = None
    applied: Rate | None = None
    erases_former: bool = False
    """Into another cell: the former copy is deleted in the end."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    stage_s: float
    load_s: float
    compare_s: float
    hold_ms: float
    total_s: float
    bytes_moved: int
    cost: Cost
    basis: str


@dataclass(frozen=True, kw_only=True)
class RestorePlan:
    """An ordered, digested intention. `refusals` is empty exactly when it may be carried out."""

    kind: str
    mode: Mode
    tenant: TenantId
    backup: BackupFacts
    source: CellName
    target: CellName
    epoch: int
    selection: Mapping[str, Any] | None
    steps: tuple[PlannedStep, ...]
    changes: tuple[CollectionChange, ...]
    schemas: tuple[SchemaPath, ...]
    erasures: tuple[str, ...]
    findings: tuple[Finding, ...]
    prediction: Prediction
    digest: str

    @property
    def refusals(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity is Severity.REFUSAL)

    def as_dict(self) -> dict[str, Any]:
        """The plan as `--json` shows it and the registry keeps it."""
        p = self.prediction
        return {
            "kind": self.kind,
            "mode": self.mode.value,
            "tenant": self.tenant,
            "backup": {
                "id": self.backup.id,
                "tenant": self.backup.tenant,
                "point": self.backup.point.isoformat(),
                "cell": self.backup.cell,
                "size_bytes": self.backup.size_bytes,
                "items": self.backup.items,
            },
            "from": self.source,
            "to": self.target,
            "epoch": self.epoch,
            "selection": dict(self.selection) if self.selection is not None else None,
            "steps": [{"name": s.name, "does": s.does, "after_commit": s.after_commit} for s in self.steps],
            "changes": [c.as_dict() for c in self.changes],
            "schemas": [s.as_dict() for s in self.schemas],
            "erasures": list(self.erasures),
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
                "stage_s": round(p.stage_s, 2),
                "load_s": round(p.load_s, 2),
                "compare_s": round(p.compare_s, 2),
                "hold_ms": round(p.hold_ms, 1),
                "total_s": round(p.total_s, 2),
                "bytes_moved": p.bytes_moved,
                "cost": p.cost.as_dict(),
                "basis": p.basis,
            },
            "digest": self.digest,
        }


def plan_restore(seen: RestoreObservation) -> RestorePlan:
    """Plan to restore `seen.backup` for `seen.tenant`."""
    prediction = _predict(seen)
    findings = tuple(sorted({*seen.findings, *_rules(seen, prediction)}))
    steps = steps_of(seen.mode, protected=seen.protected, erases_former=seen.erases_former)
    decisive = {
        "kind": "restore",
        "mode": seen.mode.value,
        "backup": [seen.backup.id, seen.backup.manifest],
        "tenant": seen.tenant,
        "from": seen.source.name,
        "to": seen.target.name,
        "epoch": seen.epoch,
        "selection": seen.selection,
        "catalogue": seen.catalogue_digest,
        "schemas": [s.as_dict() for s in seen.schemas],
        "erasures": sorted(seen.erasures),
        "steps": [s.name for s in steps],
        "findings": sorted({(str(f.severity), f.code, f.where) for f in findings}),
    }
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]
    return RestorePlan(
        kind="restore",
        mode=seen.mode,
        tenant=seen.tenant,
        backup=seen.backup,
        source=seen.source.name,
        target=seen.target.name,
        epoch=seen.epoch,
        selection=seen.selection,
        steps=steps,
        changes=seen.changes,
        schemas=seen.schemas,
        erasures=seen.erasures,
        findings=findings,
        prediction=prediction,
        digest=digest,
    )


def _predict(seen: RestoreObservation) -> Prediction:
    per_s = (
        seen.loaded.bytes_per_s
        if seen.loaded is not None and seen.loaded.bytes_per_s > 0
        else LOAD_BYTES_PER_S
    )
    items_per_s = (
        seen.applied.items_per_s
        if seen.applied is not None and seen.applied.items_per_s > 0
        else APPLY_ITEMS_PER_S
    )
    moved = seen.backup.size_bytes
    reading_s = moved / per_s
    migrated = any(s.way is Way.MIGRATED for s in seen.schemas)
    stage_s = STAGING_S + reading_s if migrated else 0.0
    load_s = 0.0 if seen.mode is Mode.IN_PLACE else reading_s
    trips_ms = ROUND_TRIPS_IN_HOLD * seen.round_trip_ms
    items = sum(c.items for c in seen.changes)
    in_place = seen.mode is Mode.IN_PLACE
    hold_ms = trips_ms + (seen.compare_s + items / items_per_s) * 1000 if in_place else trips_ms
    if seen.mode is Mode.NEW_TENANT:
        hold_ms = 0.0
    total_s = (
        STEPS_S + stage_s + load_s + seen.compare_s + hold_ms / 1000 + (reading_s if seen.protected else 0.0)
    )
    bytes_moved = moved if not in_place else min(moved, _share(seen, moved))
    basis = (
        (
            "load: measured restores"
            if seen.loaded is not None
            else "load: a guess, since no restore was measured yet"
        )
        + ("; hold: the comparison just made, and " if in_place else "; hold: round trips measured just now")
        + (
            ("measured restores" if seen.applied is not None else "a guess for what is written")
            if in_place
            else ""
        )
    )
    return Prediction(
        stage_s=stage_s,
        load_s=load_s,
        compare_s=seen.compare_s,
        hold_ms=hold_ms,
        total_s=total_s,
        bytes_moved=bytes_moved,
        cost=cost_of(seen.source, seen.target, seen.prices, seconds=total_s, bytes_moved=bytes_moved),
        basis=basis,
    )


def _share(seen: RestoreObservation, size_bytes: int) -> int:
    """About how many of the backup's bytes are written again: the share of its items that are."""
    written = sum(c.added + c.changed for c in seen.changes)
    return int(size_bytes * min(1.0, written / max(1, seen.backup.items)))


def _rules(seen: RestoreObservation, prediction: Prediction) -> tuple[Finding, ...]:
    found = [
        Finding(
            severity=Severity.REFUSAL,
            code="schema_incompatible",
            where=path.store,
            message=path.reason,
            fix=path.cure,
        )
        for path in seen.schemas
        if path.way is Way.NONE
    ]
    rule = seen.residency
    if rule is not None and seen.target.region not in rule.regions:
        found.append(
            Finding(
                severity=Severity.REFUSAL,
                code="residency",
                where=seen.target.name,
                message=f"{seen.tenant} may lie in {', '.join(rule.regions)} only ({rule.name}: {rule.reason}), "
                f"and {seen.target.name} is in {seen.target.region}",
                fix=f"choose a cell in {', '.join(rule.regions)}",
            )
        )
    if seen.legal_hold is not None and (seen.mode is Mode.IN_PLACE or seen.erases_former):
        found.append(
            Finding(
                severity=Severity.REFUSAL,
                code="legal_hold",
                where=seen.tenant,
                message=f"{seen.tenant} is on legal hold ({seen.legal_hold}), and this would destroy what is live",
                fix="restore under another name (`--as`), or release the hold first",
                command=f"tenure tenant hold {seen.tenant} --release",
            )
        )
    if prediction.hold_ms > seen.hold_budget_ms:
        found.append(
            Finding(
                severity=Severity.REFUSAL,
                code="hold_over_budget",
                where=seen.tenant,
                message=f"users would wait about {prediction.hold_ms:.0f} ms, and the budget is "
                f"{seen.hold_budget_ms:.0f} ms",
                fix="restore into another cell (`--to`), where they wait for a switch only; restore less; or raise "
                "`hold.budget_ms` in tenure.yaml",
            )
        )
    if seen.mode is not Mode.NEW_TENANT and not seen.protected:
        found.append(
            Finding(
                severity=Severity.WARNING,
                code="not_protected",
                where=seen.tenant,
                message="what is live now is not backed up first, so what the plan names as changed or removed is gone "
                "for good",
                fix="back it up before, or restore under another name (`--as`) and compare",
            )
        )
    return tuple(found)
