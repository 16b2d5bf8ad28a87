"""That both sides are equal: comparing, mending what differs, and keeping the evidence fresh until the hold."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass

from tenure.engine.context import StepContext
from tenure.errors import DataDiffers
from tenure.model.comparison import Comparison, Difference, DifferenceKind
from tenure.model.names import StoreName
from tenure.operations.deps import Deps
from tenure.operations.hold import describe
from tenure.operations.observe import record_work
from tenure.operations.pace import Ladder
from tenure.operations.session import Session

RESYNC_WORKERS = 4
REPAIR_ROUNDS = 3
NAMED_IN_EVENT = 100
SEAL_WHILE_OPEN_S = 60.0
SHRINK_ROUNDS = 8
SMALL_ENOUGH = 4
"""Changed items that may be left to compare inside the hold."""


def verify(
    deps: Deps, ctx: StepContext, session: Session, *, keep_extra: bool = False
) -> dict[StoreName, Comparison]:
    """Compare everything and mend what differs, a few times if need be; return the last comparison of each store.

    Raises `DataDiffers` if mending does not help. With `keep_extra`, what only the target has is reported and left
    alone: it is never destroyed by an operation that does not name it.
    """
    lock = threading.Lock()

    def shown(name: StoreName, items: int) -> None:
        ctx.check()  # a full comparison may take long: who cancels or stops this process does not wait for its end
        with lock:
            ctx.progress(f"verify {name}", items)

    last: dict[StoreName, Comparison] = {}
    names: list[StoreName] = list(session.copies)
    for round_ in range(REPAIR_ROUNDS + 1):
        for name, seen in session.compare(shown, names).items():
            last[name] = seen.full
            if round_ == 0:
                record_work(deps, ctx, "verify", name, seen.seconds)
        differing = {n: _to_mend(last[n], keep_extra=keep_extra) for n in names}
        names = [n for n, found in differing.items() if found]
        if not names:
            return last
        if round_ < REPAIR_ROUNDS:
            for name in names:
                _mend(deps, ctx, session, name, last[name], differing[name])
    raise DataDiffers(
        describe({n: last[n] for n in names}), hint="see the operation's events for the items that differ"
    )


def _to_mend(seen: Comparison, *, keep_extra: bool) -> tuple[Difference, ...]:
    return tuple(d for d in seen.differences if not (keep_extra and d.kind is DifferenceKind.EXTRA))


def _mend(
    deps: Deps,
    ctx: StepContext,
    session: Session,
    name: StoreName,
    seen: Comparison,
    wanted: tuple[Difference, ...],
) -> None:
    """Repair just what differs; more than `verify.resync_above` of everything is re-synced in full, with workers."""
    ctx.event(
        "differences_found",
        store=name,
        **seen.as_dict(),
        first=[
            {"collection": d.collection, "key": d.key, "kind": str(d.kind)}
            for d in seen.differences[:NAMED_IN_EVENT]
        ],
    )
    fence = deps.fence(session.tenant, ctx.token)
    everything = len(wanted) == len(seen.differences)
    if everything and len(wanted) > deps.estate.verify.resync_above * max(seen.processed, 1):
        session.copies[name].resync(fence, workers=RESYNC_WORKERS)
        ctx.event("resynced", store=name, workers=RESYNC_WORKERS)
    else:
        repaired = session.copies[name].repair(wanted, fence)
        ctx.event("repaired", store=name, items=repaired)


def freshen(deps: Deps, ctx: StepContext, session: Session) -> None:
    """Evidence that is missing or too old is taken again.

    A rollback does not wait for a full comparison if the one that began the soak is unbroken.
    """
    goes_back = ctx.operation.kind in ("rollback", "rehearse")
    ttl_s = float("inf") if goes_back else deps.estate.verify.evidence_ttl_s
    if session.oldest_evidence_s() >= ttl_s:
        verify(deps, ctx, session)


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one round of sealing and comparing took while the tenant went on writing."""

    seal_s: float
    compare_s: float
    left: int
    """How many items had changed since the round before."""


def shrink(ctx: StepContext, session: Session, ladder: Ladder) -> Round:
    """Last rounds outside the hold, so that little is left inside it: seal, and compare what changed so far.

    What differs here may be on its way; it stays remembered and is compared again under the fence. Returns the last
    round. Raises `Outpaced` if the copies cannot be brought up to date.
    """
    before = math.inf
    for _ in range(SHRINK_ROUNDS):
        ladder.keep_up(ctx, session)
        began = time.perf_counter()
        session.each(lambda n: session.copies[n].seal(session.copies[n].mark(), timeout_s=SEAL_WHILE_OPEN_S))
        sealed = time.perf_counter()
        left = sum(c.processed for c in session.compare_changed().values())
        done = Round(seal_s=sealed - began, compare_s=time.perf_counter() - sealed, left=left)
        if left <= SMALL_ENOUGH or left >= before:
            break
        before = left
    return done
