"""Compares how operations went with what the estate expects of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tenure.model.record import RouteRecord, Spread


class Verdict(StrEnum):
    MET = "met"
    MISSED = "missed"
    TOO_EARLY = "too early"
    """Nothing was measured yet, or only what does not count."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What is expected: times and cost at the 95th percentile, the rate without the initial operations."""

    migration_s: float
    rollback_s: float
    success_rate: float
    cost: float
    currency: str


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One figure beside its target."""

    target: float
    actual: float | None
    verdict: Verdict

    def as_dict(self) -> dict[str, Any]:
        actual = None if self.actual is None else round(self.actual, 4)
        return {"target": self.target, "actual": actual, "verdict": str(self.verdict)}


def judge(record: RouteRecord, targets: Targets) -> dict[str, Judgement]:
    """Judge what there are targets for: migrations, and the rollbacks on the same kind of route."""
    judged = {"rollback_s": _at_most(record.rollback_s, targets.rollback_s)}
    if record.kind != "migrate":
        return judged if record.kind == "rollback" else {}
    judged["duration_s"] = _at_most(record.duration_s, targets.migration_s)
    if record.currency == targets.currency:
        judged["cost"] = _at_most(record.cost, targets.cost)
    rate = record.judged_rate
    verdict = Verdict.TOO_EARLY if rate is None else _verdict(good=rate >= targets.success_rate)
    judged["success_rate"] = Judgement(target=targets.success_rate, actual=rate, verdict=verdict)
    return judged


def _at_most(spread: Spread | None, target: float) -> Judgement:
    if spread is None:
        return Judgement(target=target, actual=None, verdict=Verdict.TOO_EARLY)
    return Judgement(target=target, actual=spread.p95, verdict=_verdict(good=spread.p95 <= target))


def _verdict(*, good: bool) -> Verdict:
    return Verdict.MET if good else Verdict.MISSED
