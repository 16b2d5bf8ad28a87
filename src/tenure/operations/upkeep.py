"""What soaking links need from time to time, found without being asked: the operations that a schedule inserts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tenure.operations.deps import Deps
from tenure.operations.soak import Expiry, SoakState, look
from tenure.operations.verify import Verify
from tenure.registry.fires import Wanted
from tenure.registry.links import LinkState

COMPARES: Final = frozenset({"migrate", "rollback", "verify", "rehearse"})
"""The kinds of operations that have compared everything on both sides when they end well."""
TRIED_AGAIN: Final = 0.1
"""A comparison that did not end well is tried again after this share of the time that a good one counts for."""


def soaks_over(deps: Deps) -> Iterator[Wanted]:
    """For each link that is over, or keeps too much WAL, the operation that ends it. Asks the stores, link by link."""
    links = deps.registry.links
    for link in (*links.list(state=LinkState.ACTIVE), *links.list(state=LinkState.EXPIRED)):
        if deps.registry.operations.active_for(link.tenant) is None:
            state = look(deps, link)
            if state.over is not None:
                yield expiry(deps, state)


def expiry(deps: Deps, state: SoakState) -> Wanted:
    """The operation that ends a soak that is over."""
    return Wanted(
        kind="expire",
        tenant=state.link.tenant,
        steps=Expiry(deps).spec().step_names(),
        request={"from": state.serves, "to": state.follows, "because": state.over},
    )


def comparisons_due(deps: Deps, *, max_age_s: float) -> Iterator[Wanted]:
    """For each soaking link whose last full comparison is older than that, one that also mends the side that follows.

    Redis and objects are followed only while an operation runs. So this bounds what a rollback has to catch up with,
    and how long a difference stays unseen.
    """
    steps = Verify(deps).spec().step_names()
    for link, serves in deps.registry.links.uncompared(
        COMPARES, well_within_s=max_age_s, tried_within_s=max_age_s * TRIED_AGAIN
    ):
        follows = link.cell_b if serves == link.cell_a else link.cell_a
        request = {"from": serves, "to": follows, "repair": True}
        yield Wanted(kind="verify", tenant=link.tenant, steps=steps, request=request)
