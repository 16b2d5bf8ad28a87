"""The point of a backup: the hold in which every store fixes what it has, and the end of it.

Invariant: when the point is taken, every store of the tenant has been fenced since before its capture was pinned and is
fenced still. So all captures show one and the same instant, in which nothing acknowledged is missing and nothing later
is in. The placement does not change: whatever happens, the same cell opens again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from tenure.backups.contract import Sink
from tenure.engine.context import StepContext
from tenure.errors import DeadlineExceeded, StoreUnavailable
from tenure.model.names import StoreName
from tenure.operations.deps import Deps
from tenure.operations.pause import Pause, messages
from tenure.operations.served import Served
from tenure.routing.contract import HoldReport
from tenure.stores.backup import Capture
from tenure.stores.contract import Fence

STEP: Final = "capture"


@dataclass(frozen=True, kw_only=True)
class Point:
    """`at` is the control database's clock while every fence was down."""

    at: datetime
    hold: HoldReport
    timing_ms: Mapping[str, float]
    stores_ms: Mapping[str, Mapping[str, float]]


def take_point(
    deps: Deps,
    ctx: StepContext,
    served: Served,
    captures: Mapping[StoreName, Capture],
    sink: Sink,
    fence: Fence,
) -> Point:
    """Hold the tenant, fix the point in every store, let the tenant go on.

    Raises `DeadlineExceeded` where the budget was not enough, with the tenant going on as before: it may be tried
    again. Raises `StoreUnavailable` where a store could not be opened again: the next attempt begins with that.
    """
    pause = Pause(deps, ctx, served, fence, step=STEP)
    with ctx.uninterrupted():
        try:
            at = _closed(deps, ctx, served, pause, captures, sink, fence)
        except BaseException:
            pause.reopen()
            raise
        problems, report = pause.reopen("hold_ended")
        pause.clock.lap("open")
    ctx.reach(f"{STEP}.opened")
    if problems or report is None:
        raise StoreUnavailable(
            f"{served.cell} could not be opened again for {served.tenant}: {'; '.join(messages(problems))}",
            hint="the next attempt opens it first",
        )
    timing = pause.clock.timing()
    return Point(at=at, hold=report, timing_ms=timing.as_dict(), stores_ms=timing.stores_as_dict())


def _closed(
    deps: Deps,
    ctx: StepContext,
    served: Served,
    pause: Pause,
    captures: Mapping[StoreName, Capture],
    sink: Sink,
    fence: Fence,
) -> datetime:
    ctx.phase("holding", later=True)
    pause.begin()
    clock, crew = pause.clock, served.crew
    others = served.others()

    # From the last fences on only this process can open the tenant again: not without the lease.
    asked = crew.begin(ctx.require_lease)

    def lower(name: StoreName) -> None:
        crew.outcome(asked, clock.left_s(), "the control database")
        pause.fence_last(name)

    def pin(name: StoreName) -> None:
        pinned = crew.begin(lambda: captures[name].pin(sink, fence))
        crew.outcome(pinned, clock.left_s(), f"fixing the point of {name}")

    # Stores with snapshots are pinned while the others are being fenced: what is fenced does not change any more.
    draining = [name for name in captures if name in set(served.draining())]
    rest = [name for name in captures if name not in set(draining)]
    pinning = clock.timed("pin", pin)
    first = crew.begin(lambda: served.each(pinning, draining))
    try:
        served.each(clock.timed("fence", lower), others)
        crew.outcome(asked, clock.left_s(), "the control database")
        served.each(pinning, rest)
    finally:
        crew.leave(first)
    first.result()
    ctx.reach(f"{STEP}.pinned")
    clock.lap("pin")
    at = crew.begin(deps.registry.backups.now)
    lapsed = [
        name
        for name, writable in served.each(
            lambda n: served.store(n).fence_state(served.tenant).writable, served.draining()
        ).items()
        if writable
    ]
    if lapsed:
        raise DeadlineExceeded(
            f"the fence of {', '.join(lapsed)} had lifted itself before the point was fixed",
            hint="the hold is tried again",
        )
    instant = crew.outcome(at, clock.left_s(), "the control database")
    pause.require_time("the point was fixed")
    clock.lap("look")
    return instant
