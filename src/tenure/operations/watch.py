"""Watches what a tenant's users get from the cell it was moved to, as long as the way back is open.

There is nothing to hold and nothing to clean up: a watch only reads, so it locks nobody out and may die at any time.
Whoever runs it (a person, later a scheduler) calls `look` every few seconds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from tenure.errors import NotAllowed, StoreUnavailable
from tenure.model.names import TenantId
from tenure.model.operation import Operation, OperationState
from tenure.operations.canary import baseline_of
from tenure.operations.deps import Deps
from tenure.operations.health import Health
from tenure.plan.bounds import Bounds, State, Verdict
from tenure.registry.links import LinkState

WATCHED_AMONG = 20
PATIENCE_S = 60.0
"""For so long a gateway may be away (an Envoy that is started again) before a watch gives up."""


class Outcome(StrEnum):
    """`over`: the soak ended, or the tenant was moved on, while it was watched."""

    HEALTHY = "healthy"
    REGRESSED = "regressed"
    ROLLED_BACK = "rolled_back"
    OVER = "over"


@dataclass(frozen=True, kw_only=True)
class WatchReport:
    """How a watch ended. `rollback` is the operation that it started, however that went."""

    tenant: TenantId
    cell: str
    outcome: Outcome
    verdicts: dict[str, Verdict]
    seconds: float
    rollback: Operation | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "tenant": self.tenant,
            "cell": self.cell,
            "outcome": str(self.outcome),
            "seconds": round(self.seconds, 1),
            **{kind: verdict.as_dict() for kind, verdict in self.verdicts.items()},
            "rollback": self.rollback.id if self.rollback is not None else None,
        }


class SoakWatch:
    """The watch of one tenant's soak. Raises `NotAllowed` for a tenant that does not soak after a migrate."""

    def __init__(self, deps: Deps, tenant: TenantId) -> None:
        self._deps = deps
        found = [
            o
            for o in deps.registry.operations.list(tenant=tenant, limit=WATCHED_AMONG)
            if o.kind == "migrate" and o.state is OperationState.SOAKING
        ]
        if not found:
            raise NotAllowed(
                f"{tenant} is not in the soak of a move: there is nothing to watch",
                hint=f"`tenure tenant show {tenant}` says where it stands",
            )
        self.of = found[0]
        self.tenant = tenant
        self._placed = deps.registry.placements.get(tenant)
        self.bounds: Bounds = deps.bounds(tenant)
        self._reference = baseline_of(self.of.data)
        self._health = Health(deps.router, tenant, self._placed.cell)
        self._seen_at = time.monotonic()

    @property
    def rolls_back(self) -> bool:
        """Whether the tenant's tier wants a regression to be answered by a rollback."""
        return self._deps.tier(self.tenant).rollback_on_regression

    @property
    def seconds(self) -> float:
        return self._health.seconds

    def over(self) -> bool:
        """Whether there is nothing left to watch: no way back any more, or the tenant is somewhere else."""
        link = self._deps.registry.links.active(self.tenant)
        if link is None or link.state is LinkState.ENDING:
            return True
        ended = link.soak_until is not None and link.soak_until < datetime.now(UTC)
        return ended or self._deps.registry.placements.get(self.tenant) != self._placed

    def look(self) -> dict[str, Verdict] | None:
        """Take a reading and judge the reads and the other requests, beside the source's before the switch.

        None while a part of the gateway does not answer; after `PATIENCE_S` of that it raises `StoreUnavailable`.
        """
        try:
            self._health.look()
        except StoreUnavailable:
            if time.monotonic() - self._seen_at > PATIENCE_S:
                raise
            return None
        self._seen_at = time.monotonic()
        return self._health.verdicts(self._reference, self.bounds, others=True)

    def report(
        self, outcome: Outcome, verdicts: dict[str, Verdict], rollback: Operation | None = None
    ) -> WatchReport:
        return WatchReport(
            tenant=self.tenant,
            cell=self._placed.cell,
            outcome=outcome,
            verdicts=verdicts,
            seconds=self.seconds,
            rollback=rollback,
        )


def outside(verdicts: dict[str, Verdict]) -> bool:
    """Whether any of them is outside its bounds."""
    return any(v.state is State.OUTSIDE for v in verdicts.values())
