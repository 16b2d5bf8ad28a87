"""Plans a move of a tenant between two cells, forwards (migrate) or backwards (rollback).

The plan states everything a careful person would want to see before agreeing: what will be done in which order, where
the point of no return lies, what stands in the way, and what it will take. Equal circumstances give an equal digest;
predictions are not part of it, because they change with every row the tenant writes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from statistics import quantiles
from typing import Any

from tenure.model.finding import Finding, Severity
from tenure.model.names import CellName, TenantId
from tenure.model.record import RouteKind, RouteRecord
from tenure.plan.canary import CanaryPlan
from tenure.plan.observation import CellObservation, MoveObservation, Prices, StayingStore, StoreObservation

COPY_PER_INVENTORY = 4.0
"""A copy takes about this many times as long as counting and digesting the same data (`make bench` prints it)."""
MENDED_BY_COMPARISON = frozenset({"dangling_reference"})
"""Findings about rows that the comparison before the switch finds and mends as well."""
WAITED_FOR = frozenset({"few_replication_slots", "few_wal_senders", "few_logical_replication_workers"})
"""Findings about what other moves take now: a move waits for it. One that could never have it is `over_capacity`."""
COPY_STARTUP_S = 1.5
"""Creating subscriptions and the first round of table synchronisation, whatever the size."""
STEPS_S = 1.5
"""What the steps take whatever the size: arming, waiting for a routed gateway, the journal (an empty tenant's move)."""
ROUND_TRIPS_IN_HOLD = 6
"""Fence, mark, seal, comparison, permanent fence, open: each a round trip to the slowest store."""
LEARN_FROM = 3
"""How many operations must have ended on a kind of route before their real durations correct the estimate."""
BYTES_PER_GB = 1_000_000_000
SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """One step as people see it. `after_commit`: it lies behind the point of no return."""

    name: str
    does: str
    after_commit: bool = False


MIGRATE_STEPS = (
    PlannedStep(name="preflight", does="check both cells, every store and the rules; change nothing"),
    PlannedStep(name="provision", does="fence the tenant in the target cell and start the copies"),
    PlannedStep(name="catch_up", does="copy everything, then follow what changes"),
    PlannedStep(name="verify", does="compare every row, key, object and vector; repair what differs"),
    PlannedStep(name="arm", does="arm the copies in the other direction; put the tenant behind the gate"),
    PlannedStep(
        name="switch",
        does="hold requests, drain, fence the source, seal, compare, change the placement, open the target",
    ),
    PlannedStep(
        name="settle", does="compare both sides again, keep the source following (soak)", after_commit=True
    ),
)
ROLLBACK_STEPS = (
    PlannedStep(name="prepare", does="bring the former source up to date"),
    PlannedStep(name="arm", does="arm the copies in the other direction"),
    PlannedStep(
        name="switch",
        does="hold requests, drain, fence, seal, compare, change the placement, open the former source",
    ),
    PlannedStep(
        name="divert",
        does="lead the tenant's name past the gateway, if that is out of step",
        after_commit=True,
    ),
    PlannedStep(
        name="settle", does="compare both sides again, keep the former target following", after_commit=True
    ),
    PlannedStep(
        name="confirm",
        does="see that requests reach the cell; past a gateway out of step, ask a person as well",
        after_commit=True,
    ),
)
COMPLETE_STEPS = (
    PlannedStep(name="check", does="compare both sides once more; refuse if anything differs"),
    PlannedStep(name="unlink", does="stop the copies in both directions and remove everything they needed"),
    PlannedStep(name="route", does="take the gate out of the tenant's path", after_commit=True),
    PlannedStep(
        name="erase",
        does="delete the tenant from the passive cell, then lift its fence there",
        after_commit=True,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What an operation costs, in one currency, and how that comes about."""

    currency: str
    cells: float
    bytes_moved: float
    operator: float

    @property
    def total(self) -> float:
        return self.cells + self.bytes_moved + self.operator

    def as_dict(self) -> dict[str, Any]:
        return {
            "currency": self.currency,
            "cells": round(self.cells, 2),
            "bytes_moved": round(self.bytes_moved, 2),
            "operator": round(self.operator, 2),
            "total": round(self.total, 2),
        }


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Seconds and milliseconds that the operation is expected to take; `basis` says what each is derived from.

    `rollback_ms` is what users wait in a rollback, `rollback_s` the time from its command until the other cell serves.
    `estimated_s` is the sum of the parts, `total_s` that sum corrected by what such operations really took.
    """

    copy_s: float
    verify_s: float
    canary_s: float
    hold_ms: float
    rollback_ms: float
    rollback_s: float
    estimated_s: float
    total_s: float
    cost: Cost
    basis: str
    record: RouteRecord | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An ordered, digested intention. `refusals` is empty exactly when it may be carried out."""

    kind: str
    tenant: TenantId
    source: CellName
    target: CellName
    epoch: int
    route_kind: RouteKind
    steps: tuple[PlannedStep, ...]
    stores: tuple[StoreObservation, ...]
    staying: tuple[StayingStore, ...]
    findings: tuple[Finding, ...]
    prediction: Prediction
    digest: str

    @property
    def refusals(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity is Severity.REFUSAL)

    def as_dict(self) -> dict[str, Any]:
        """The plan as `--json` shows it and the registry keeps it."""
        return {
            "kind": self.kind,
            "tenant": self.tenant,
            "from": self.source,
            "to": self.target,
            "epoch": self.epoch,
            "route_kind": str(self.route_kind),
            "steps": [{"name": s.name, "does": s.does, "after_commit": s.after_commit} for s in self.steps],
            "stores": [
                {
                    "store": s.store,
                    "kind": s.kind,
                    "items": s.items,
                    "size_bytes": s.size_bytes,
                    "fence": "enforced" if s.fence_enforced else "cooperative",
                    "rides_with": s.rides_with,
                    "fenced_with": s.fenced_with,
                    "schema": {
                        "source": dict(s.fingerprint_source),
                        "target": dict(s.fingerprint_target),
                    },
                }
                for s in self.stores
            ],
            "stay": [{"store": s.store, "kind": s.kind, "why": s.why} for s in self.staying],
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
                "copy_s": round(self.prediction.copy_s, 2),
                "verify_s": round(self.prediction.verify_s, 2),
                "canary_s": round(self.prediction.canary_s, 2),
                "hold_ms": round(self.prediction.hold_ms, 1),
                "rollback_ms": round(self.prediction.rollback_ms, 1),
                "rollback_s": round(self.prediction.rollback_s, 2),
                "estimated_s": round(self.prediction.estimated_s, 2),
                "total_s": round(self.prediction.total_s, 2),
                "cost": self.prediction.cost.as_dict(),
                "basis": self.prediction.basis,
                "record": self.prediction.record.as_dict() if self.prediction.record is not None else None,
            },
            "digest": self.digest,
        }


def cost_of(
    source: CellObservation, target: CellObservation, prices: Prices, *, seconds: float, bytes_moved: int
) -> Cost:
    """Hours of both cells, bytes moved and the operator's time, at the estate's prices."""
    hours = seconds / SECONDS_PER_HOUR
    per_gb = prices.gb_moved if source.region == target.region else prices.cross_region_gb_moved
    return Cost(
        currency=prices.currency,
        cells=hours * (source.hour_price + target.hour_price),
        bytes_moved=bytes_moved / BYTES_PER_GB * per_gb,
        operator=hours * prices.operator_hour,
    )


def _copy_s(store: StoreObservation) -> float:
    if store.rides_with is not None and store.copied is None:
        return 0.0
    if store.copied is not None and store.copied.bytes_per_s > 0 and store.copied.items_per_s > 0:
        return max(store.size_bytes / store.copied.bytes_per_s, store.items / store.copied.items_per_s)
    return COPY_STARTUP_S + COPY_PER_INVENTORY * store.inventory_s


def _verify_s(store: StoreObservation) -> float:
    if store.compared is not None and store.compared.items_per_s > 0:
        return store.items / store.compared.items_per_s
    return 2 * store.inventory_s


def _predict(seen: MoveObservation) -> Prediction:
    copy_s = 0.0 if seen.linked else max((_copy_s(s) for s in seen.stores), default=0.0)
    verify_s = max((_verify_s(s) for s in seen.stores), default=0.0)
    slowest = max((s.round_trip_ms for s in seen.stores), default=0.0)
    estimate = seen.commit_ms + ROUND_TRIPS_IN_HOLD * slowest
    past = seen.past_holds_ms
    hold_ms = (
        quantiles(past, n=20, method="inclusive")[-1] if len(past) >= 2 else past[0] if past else estimate
    )
    canary_s = seen.canary.seconds if seen.canary is not None else 0.0
    estimated_s = STEPS_S + copy_s + 2 * verify_s + canary_s + hold_ms / 1000
    record = seen.record
    stretch = record.stretch if record is not None and record.number >= LEARN_FROM else None
    total_s = canary_s + (estimated_s - canary_s) * (
        stretch or 1.0
    )  # a canary takes as long as it is told to
    back = record.rollback_s if record is not None else None
    moved = 0 if seen.linked else sum(s.size_bytes for s in seen.stores)
    measured = [s.store for s in seen.stores if s.copied is not None]
    basis = (
        (f"copy: measured moves of {', '.join(measured)}" if measured else "copy: the inventory just taken")
        + "; hold: "
        + (f"{len(past)} measured holds on this route" if past else "round trips measured just now")
        + (f"; in all: {stretch:.2f} times the sum of the parts, as on such routes before" if stretch else "")
        + ("; rollback: those on such routes before" if back is not None else "")
    )
    return Prediction(
        copy_s=copy_s,
        verify_s=verify_s,
        canary_s=canary_s,
        hold_ms=hold_ms,
        rollback_ms=hold_ms,
        rollback_s=back.p95 if back is not None else STEPS_S + verify_s + hold_ms / 1000,
        estimated_s=estimated_s,
        total_s=total_s,
        cost=cost_of(seen.source, seen.target, seen.prices, seconds=total_s, bytes_moved=moved),
        basis=basis,
        record=record,
    )


def _rules(kind: str, seen: MoveObservation, hold_ms: float) -> tuple[Finding, ...]:
    found: list[Finding] = []
    rule = seen.residency
    if rule is not None and seen.target.region not in rule.regions:
        found.append(
            Finding(
                # A rollback goes where the data still lies: it must stay possible until the move is completed.
                severity=Severity.WARNING if kind == "rollback" else Severity.REFUSAL,
                code="residency",
                where=seen.target.name,
                message=f"{seen.tenant} may lie in {', '.join(rule.regions)} only ({rule.name}: {rule.reason}), "
                f"and {seen.target.name} is in {seen.target.region}",
                fix=f"choose a cell in {', '.join(rule.regions)}",
            )
        )
    if seen.legal_hold is not None:
        found.append(
            Finding(
                severity=Severity.REFUSAL,
                code="legal_hold",
                where=seen.tenant,
                message=f"{seen.tenant} is on legal hold: {seen.legal_hold}",
                fix=f"release the hold first: tenure tenant hold {seen.tenant} --release",
            )
        )
    if seen.freeze is not None and kind == "migrate":
        found.append(
            Finding(
                severity=Severity.REFUSAL,
                code="freeze",
                where=seen.tenant,
                message=f"no tenant is moved now: {seen.freeze}",
                fix="wait until then, or change `freeze` in tenure.yaml",
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
        found.append(_drifted(kind, seen, seen.strays))
    cooperative = [s.store for s in seen.stores if not s.fence_enforced]
    found.extend(
        Finding(
            severity=Severity.WARNING,
            code="fence_cooperative",
            where=store,
            message=f"{store} cannot refuse the tenant's writes itself: the gate and tenure.client keep them out",
            fix="route every writer through the gateway or take tenure.client's permit before each write",
        )
        for store in cooperative
    )
    return tuple(found)


def _with_canary(steps: tuple[PlannedStep, ...], canary: CanaryPlan) -> tuple[PlannedStep, ...]:
    at = [s.name for s in steps].index("verify") + 1
    return (*steps[:at], PlannedStep(name="canary", does=canary.does), *steps[at:])


def _drifted(kind: str, seen: MoveObservation, problem: str) -> Finding:
    """A tenant that cannot be held is not moved. It can be taken back: that is when it is needed most."""
    if kind != "rollback":
        return Finding(
            severity=Severity.REFUSAL,
            code="route_drifted",
            where=seen.tenant,
            message=f"its requests cannot be held: {problem}",
            fix="have its route mended",
            command=f"tenure drift {seen.tenant} --repair",
        )
    then = "its name is then led past the gateway" if seen.has_names else "the gateway has to be mended then"
    return Finding(
        severity=Severity.WARNING,
        code="route_drifted",
        where=seen.tenant,
        message=f"{problem}. Unless arming mends that, nothing is held: requests that meet a fence fail, none is lost; "
        f"{then}, and the rollback waits for a confirmed look",
        fix="have its route mended, if there is time",
        command=f"tenure drift {seen.tenant} --repair",
    )


def _as_planned(finding: Finding) -> Finding:
    """What the steps before the switch compare and mend, or what a move waits for, is no reason not to begin: just
    before the hold it is one."""
    if finding.code not in MENDED_BY_COMPARISON | WAITED_FOR or finding.severity is not Severity.REFUSAL:
        return finding
    return replace(finding, severity=Severity.WARNING)


def plan_move(kind: str, steps: tuple[PlannedStep, ...], seen: MoveObservation) -> Plan:
    """Plan to change the tenant's placement from `seen.source` to `seen.target`."""
    if seen.canary is not None:
        steps = _with_canary(steps, seen.canary)
    prediction = _predict(seen)
    found = {_as_planned(f) for f in seen.findings}
    findings = tuple(sorted({*found, *_rules(kind, seen, prediction.hold_ms)}))
    decisive = {
        "kind": kind,
        "tenant": seen.tenant,
        "from": seen.source.name,
        "to": seen.target.name,
        "epoch": seen.epoch,
        "linked": seen.linked,
        "catalogue": seen.catalogue_digest,
        "schemas": {s.store: [dict(s.fingerprint_source), dict(s.fingerprint_target)] for s in seen.stores},
        "steps": [s.name for s in steps],
        "findings": sorted({(str(f.severity), f.code, f.where) for f in findings}),
        **({"canary": seen.canary.as_dict()} if seen.canary is not None else {}),
        **({"stay": sorted(s.store for s in seen.staying)} if seen.staying else {}),
    }
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]
    return Plan(
        kind=kind,
        tenant=seen.tenant,
        source=seen.source.name,
        target=seen.target.name,
        epoch=seen.epoch,
        route_kind=seen.route_kind,
        steps=steps,
        stores=seen.stores,
        staying=seen.staying,
        findings=findings,
        prediction=prediction,
        digest=digest,
    )
