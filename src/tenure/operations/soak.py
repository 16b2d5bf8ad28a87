"""The end of a soak: what both directions of a link are like now, and ending a link that is over or keeps too much WAL.

Ending destroys no data and changes nothing about where the tenant is served. It takes the way back away, so it is an
operation of its own, with its reason in the link, in the journal and in the tenant's status.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tenure.engine.context import StepContext
from tenure.engine.spec import Done, OperationSpec, StepOutcome, StepSpec
from tenure.errors import StoreUnavailable
from tenure.model.names import CellName, StoreName
from tenure.model.operation import OperationState
from tenure.operations.deps import Deps
from tenure.operations.move import Move
from tenure.operations.session import Session
from tenure.registry.links import Link, LinkState
from tenure.stores.contract import Fence, Standing


@dataclass(frozen=True, kw_only=True)
class SoakState:
    """One link as its stores show it now. `forward` leads from the cell that serves to the one that follows."""

    link: Link
    serves: CellName
    follows: CellName
    forward: Mapping[StoreName, Standing]
    back: Mapping[StoreName, Standing]
    over: str | None
    """Why the link has to end now; None where it may stay."""

    @property
    def problems(self) -> tuple[str, ...]:
        """What keeps either direction from following, each named once."""
        found = [s.problem for s in (*self.forward.values(), *self.back.values()) if s.problem is not None]
        return tuple(dict.fromkeys(found))

    @property
    def retained_bytes(self) -> int:
        """The most that one direction makes one server keep."""
        return max((s.retained_bytes for s in (*self.forward.values(), *self.back.values())), default=0)

    @property
    def lag_bytes(self) -> int:
        """What the cell that follows still lacks, as far as its stores know."""
        return sum(s.lag_bytes or 0 for s in self.forward.values())


def look(deps: Deps, link: Link) -> SoakState:
    """Ask the stores of both cells. Reads only; what cannot be reached is among the problems."""
    serves = deps.registry.placements.get(link.tenant).cell
    follows = link.cell_b if serves == link.cell_a else link.cell_a
    forward, back = (
        {n: deps.factory.copy(link.name, n, link.tenant, a, b).standing() for n in deps.factory.moving()}
        for a, b in ((serves, follows), (follows, serves))
    )
    return SoakState(
        link=link,
        serves=serves,
        follows=follows,
        forward=forward,
        back=back,
        over=_over(deps, link, {serves: forward, follows: back}),
    )


def _over(deps: Deps, link: Link, by_source: Mapping[CellName, Mapping[StoreName, Standing]]) -> str | None:
    soak = deps.estate.soak
    if link.state is LinkState.EXPIRED:
        kept = any(s.retained_bytes for standings in by_source.values() for s in standings.values())
        return f"{link.expired_because}; a server still keeps WAL for it" if kept else None
    for cell, standings in by_source.items():
        for name, standing in standings.items():
            if standing.retained_bytes > soak.most_wal_bytes:
                return (
                    f"{name} in {cell} kept {standing.retained_bytes:,} bytes of WAL for it, over the bound of "
                    f"{soak.most_wal_bytes:,}"
                )
            if standing.lost:
                return standing.problem
    if link.soak_until is not None and link.soak_until + timedelta(hours=soak.grace_h) < datetime.now(UTC):
        return f"the soak ended on {link.soak_until:%Y-%m-%d %H:%M} UTC and nobody completed the move"
    return None


class Expiry:
    """The step that ends a soak."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self._move = Move(deps)

    def spec(self) -> OperationSpec:
        return OperationSpec(
            kind="expire",
            steps=(StepSpec(name="expire", run=self.expire, phase="ending the soak"),),
            abort=None,
            ends_in=OperationState.SUCCEEDED,
        )

    def expire(self, ctx: StepContext) -> StepOutcome:
        """Write it down first, so that nobody counts on the way back any more; then stop both directions.

        Works on every server that can be reached. What one that is away still holds is named in the result, and removed
        by the next `tenure soak check` that finds it, or by `complete`.
        """
        session = self._move.session(ctx)
        because = str(ctx.operation.request["because"])
        self._deps.registry.links.expire(session.link, because, lease=ctx.lease)
        ctx.reach("expire.noted")
        left = _stop_all(ctx, session, self._deps.fence(session.tenant, ctx.token))
        ctx.reach("expire.stopped")
        self._deps.sessions.drop(session.link)
        told: dict[str, Any] = {"serves": session.source, "followed": session.target, "because": because}
        ctx.event("soak_expired", **told, left=left)
        ctx.record_result(**told, left=left)
        return Done(result={"left": left})


def _stop_all(ctx: StepContext, session: Session, fence: Fence) -> list[str]:
    """Stop the copies of both directions wherever that is possible now; say where it is not."""
    ctx.require_lease()
    back = {
        n: session.factory.copy(session.link, n, session.tenant, session.target, session.source)
        for n in session.copies
    }
    left: list[str] = []
    for names in (session.riders(), session.draining(), session.others()):
        for copy in (copies[n] for copies in (session.copies, back) for n in names):
            try:
                copy.stop(fence)
            except StoreUnavailable as error:
                left.append(error.message)
    return list(dict.fromkeys(left))
