"""How operations went, per kind of route: what plans learn from and `tenure op stats` shows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

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
    ever: int
    """How many have ended since the first one, at most as many as count as initial, and one."""
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
    """The median of real by predicted duration, of those that succeeded."""

    @property
    def rate(self) -> float | None:
        """The share that succeeded, and was not rolled back; None if there is none."""
        return self.succeeded / self.number if self.number else None

    @property
    def judged_rate(self) -> float | None:
        """The same without the initial ones."""
        return self.judged_succeeded / self.judged if self.judged else None
