"""What a planner is told about the world: read once, by the operations, before anything is planned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tenure.model.finding import Finding
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.record import RouteKind, RouteRecord, route_kind
from tenure.plan.canary import CanaryPlan


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How fast something went on this estate, and where the figure comes from."""

    items_per_s: float
    bytes_per_s: float
    basis: str


@dataclass(frozen=True, kw_only=True)
class StoreObservation:
    """One store of the tenant in the source cell.

    `inventory_s` is how long it took to count and digest the tenant's data just now: the floor of any comparison, and
    the yardstick for a copy as long as no move was measured (`copied` is None).
    """

    store: StoreName
    kind: str
    items: int
    size_bytes: int
    inventory_s: float
    round_trip_ms: float
    fence_enforced: bool
    rides_with: StoreName | None
    fenced_with: StoreName | None
    fingerprint_source: Mapping[str, str]
    fingerprint_target: Mapping[str, str]
    """What must not change on each side during the move, item by item."""
    copied: Rate | None = None
    compared: Rate | None = None


@dataclass(frozen=True, kw_only=True)
class StayingStore:
    """A store that a move leaves as it is in both cells, and why."""

    store: StoreName
    kind: str
    why: str


@dataclass(frozen=True, kw_only=True)
class CellObservation:
    name: CellName
    region: str
    infrastructure: str
    hour_price: float


@dataclass(frozen=True, kw_only=True)
class ResidencyRule:
    """Regions in which a tenant's data may lie."""

    name: str
    regions: tuple[str, ...]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Prices in one currency: per GB moved (10^9 bytes) inside a region and across, and per hour of the operator who
    attends to an operation while it runs (not while it soaks)."""

    currency: str
    gb_moved: float
    cross_region_gb_moved: float
    operator_hour: float


@dataclass(frozen=True, kw_only=True)
class MoveObservation:
    """Everything that planning a move of one tenant from `source` to `target` needs to know."""

    tenant: TenantId
    tier: str
    residency: ResidencyRule | None
    legal_hold: str | None
    freeze: str | None
    """The window of no moves that it is now, in words: its name, its reason and its end."""
    epoch: int
    source: CellObservation
    target: CellObservation
    stores: tuple[StoreObservation, ...]
    findings: tuple[Finding, ...]
    linked: bool
    """A link between the two cells exists already: the target follows and nothing needs copying."""
    catalogue_digest: str
    hold_budget_ms: float
    commit_ms: float
    """A committed write in the control database, measured now."""
    past_holds_ms: tuple[float, ...]
    """Holds measured on this route, newest first."""
    prices: Prices
    staying: tuple[StayingStore, ...] = ()
    """The tenant's stores that take no part."""
    record: RouteRecord | None = None
    """How the last operations of the same kind went on this kind of route."""
    canary: CanaryPlan | None = None
    """What the switch is to be preceded by."""
    strays: str | None = None
    """Why the tenant's requests cannot be held now, if so: the gateway or its name in DNS is out of step."""
    has_names: bool = False
    """The tenant's name in DNS can be led past the gateway."""

    @property
    def route_kind(self) -> RouteKind:
        return route_kind(
            regions=(self.source.region, self.target.region),
            infrastructures=(self.source.infrastructure, self.target.infrastructure),
        )
