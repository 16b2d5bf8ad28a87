"""Taking a link apart: its copies in both directions, and the copy of the tenant in a cell that does not serve it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from tenure.engine.context import StepContext
from tenure.errors import NotAllowed
from tenure.model.names import CellName, StoreName
from tenure.operations.deps import Deps
from tenure.operations.session import Session
from tenure.stores.contract import Fence


def unlink(ctx: StepContext, session: Session, fence: Fence) -> None:
    """Stop the copies of both directions and remove what they created. Riders go before what carries them, and what
    remembers tokens for good before the others."""
    ctx.require_lease()
    back: dict[StoreName, Any] = {
        n: session.factory.copy(session.link, n, session.tenant, session.target, session.source)
        for n in session.copies
    }
    for names in (session.riders(), session.draining(), session.others()):
        stop: Callable[[StoreName], None] = lambda n: session.copies[n].stop(fence)  # noqa: E731
        session.each(stop, names)
        session.each(lambda n: back[n].stop(fence), names)
    ctx.event("copies_stopped")


def erase_copy(deps: Deps, ctx: StepContext, session: Session, fence: Fence, cell: CellName) -> int:
    """Delete the tenant's data from a cell that does not serve it, which stays fenced.

    Asks first, and not the clock, whether this step is still ours and the tenant is still served elsewhere: a process
    that was stopped meanwhile must not erase what somebody else has moved here.
    """
    _still_passive(deps, ctx, session, cell)
    stores = session.stores(cell)
    session.each_anchored(lambda n: stores[n].fence(fence, expires_in_s=None, drain_s=5.0))
    _still_passive(deps, ctx, session, cell)
    lock = threading.Lock()

    def one(name: StoreName) -> int:
        def shown(items: int) -> None:
            with lock:
                ctx.progress(f"erase {name}", items)

        return stores[name].erase(fence, progress=shown)

    gone = session.each(one)
    ctx.event("copy_erased", cell=cell, items=dict(gone))
    return sum(gone.values())


def _still_passive(deps: Deps, ctx: StepContext, session: Session, cell: CellName) -> None:
    ctx.require_lease()
    if deps.registry.placements.get(session.tenant).cell == cell:
        raise NotAllowed(
            f"{session.tenant} is served by {cell}: nothing of it is erased there",
            hint=f"tenure tenant show {session.tenant}",
        )
