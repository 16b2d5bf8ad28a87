"""How operations went, per kind of route: what plans learn from and `tenure op stats` shows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from tenure.model.names import TenantId


class RouteKind(StrEnum):
    """What kind of way leads from one cell to another; the same in both directions."""

    BLUE_GREEN = "blue_green"
    """Within a region and a version of the infrastructure."""
    MAJOR_UPGRADE = "major_upgrade"
    """Within a region, between two versions of the infrastructure."""
    CROSS_REGION = "cross_region"
    """Between regions, whatever the versions."""


def route_kind(*, regions: tuple[str, str], infrastructures: tuple[str, str]) -> RouteKind:
    """Say of which kind the route between two cells is, from the region and the infrastructure of both."""
    if regions[0] != regions[1]:
        return RouteKind.CROSS_REGION
    return RouteKind.BLUE_GREEN if infrastructures[0] == infrastructures[1] else RouteKind.MAJOR_UPGRADE


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The median and the 95th percentile of some measured figures."""

    p50: float
    p95: float

    def as_dict(self) -> dict[str, float]:
        return {"p50": round(self.p50, 3), "p95": round(self.p95, 3)}


@dataclass(frozen=True, kw_only=True)
class OperationRecord:
    """How one operation went. `outcome` is None while it goes on; `attempts` counts those of all its steps."""

    id: str
    kind: str
    tenant: TenantId | None
    outcome: str | None
    finished_at: datetime | None
    duration_s: float | None
    hold_ms: float | None
    cost: float | None
    currency: str | None
    attempts: int | None


@dataclass(frozen=True, kw_only=True)
class RouteRecord:
    """How the last operations of one kind went on one kind of route. Spreads are None where nothing was measured.

    `number` is the sum of the outcomes: `succeeded`, `rolled_back` (a move that was taken back later), `aborted` (ended
    before its point of no return, nothing changed), `failed`, and `stuck` (waits for a person past an error).
    """

    kind: str
    route_kind: RouteKind
    number: int
    succeeded: int
    rolled_back: int
    aborted: int
    failed: int
    stuck: int
    judged: int
    judged_succeeded: int
    """Those of `number` and `succeeded` that do not count as initial."""
    attempts: Spread | None
    duration_s: Spread | None
    hold_ms: Spread | None
    rollback_s: Spread | None
    """Of rollbacks on this kind of route: from the command until the other cell serves."""
    cost: Spread | None
    currency: str | None
    stretch: float | None
    """The median of real by estimated duration, of those that did not end early."""

    @property
    def rate(self) -> float | None:
        """The share that succeeded, and was not rolled back; None if there is none."""
        return self.succeeded / self.number if self.number else None

    @property
    def judged_rate(self) -> float | None:
        """The same without the initial ones."""
        return self.judged_succeeded / self.judged if self.judged else None

    @property
    def chance(self) -> float | None:
        """How likely the next one is to succeed, by Laplace's rule of succession: a short record promises little."""
        return (self.succeeded + 1) / (self.number + 2) if self.number else None

    @property
    def sentence(self) -> str:
        """The record in words."""
        where = f"{self.kind} operations on {self.route_kind.replace('_', '-')} routes"
        if self.chance is None:
            return f"no {self.kind} operation on a {self.route_kind.replace('_', '-')} route has ended yet"
        others = {name: getattr(self, name) for name in ("rolled_back", "aborted", "failed", "stuck")}
        rest = "".join(f", {n} {name.replace('_', ' ')}" for name, n in others.items() if n)
        return f"{self.succeeded} of the last {self.number} {where} succeeded{rest}"

    def as_dict(self) -> dict[str, Any]:
        spreads = {
            name: spread.as_dict() if spread is not None else None
            for name, spread in (
                ("attempts", self.attempts),
                ("duration_s", self.duration_s),
                ("hold_ms", self.hold_ms),
                ("rollback_s", self.rollback_s),
                ("cost", self.cost),
            )
        }
        return {
            "route_kind": str(self.route_kind),
            "number": self.number,
            "succeeded": self.succeeded,
            "rolled_back": self.rolled_back,
            "aborted": self.aborted,
            "failed": self.failed,
            "stuck": self.stuck,
            "rate": _rounded(self.rate),
            "judged": self.judged,
            "judged_rate": _rounded(self.judged_rate),
            "chance": _rounded(self.chance),
            **spreads,
            "currency": self.currency,
            "stretch": _rounded(self.stretch),
            "sentence": self.sentence,
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
