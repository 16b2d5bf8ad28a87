"""Loads a backup into a cell that does not serve the tenant, and takes what was loaded back again.

Nothing is erased there that this restore has not loaded: that there was nothing of the tenant is seen, under the fence,
before the first item comes, and noted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from tenure.engine.context import StepContext
from tenure.errors import DataDiffers, NotAllowed
from tenure.model.names import CellName, StoreName, TenantId
from tenure.operations.backup.observe import served
from tenure.operations.deps import Deps
from tenure.operations.observe import record_measurement
from tenure.operations.restore.ground import Ground
from tenure.operations.restore.request import Request
from tenure.operations.served import Crew, Served
from tenure.plan.restore_steps import Mode
from tenure.stores.contract import Fence, Pace

DRAIN_S = 5.0
LOAD = "restore_load"


class Loading:
    """The work of the step `load`."""

    def __init__(self, deps: Deps, ctx: StepContext, ground: Ground) -> None:
        self._deps = deps
        self._ctx = ctx
        self._ground = ground
        self._fence = deps.fence(ground.tenant, ctx.token)

    def run(self) -> int:
        """Load everything; how many items that were. What an attempt before has loaded is erased first."""
        ctx, ground = self._ctx, self._ground
        require_passive(self._deps, ctx, ground.tenant, ground.cell, ground.request.mode)
        close(ground.served, self._fence)
        ctx.reach("load.fenced")
        if ctx.operation.data.get("loading"):
            erase(ctx, ground.served, self._fence)
        self._require_empty()
        ctx.remember(loading=True)
        ctx.reach("load.begun")
        began = time.monotonic()
        items = 0
        served = ground.served
        # What holds the fence and the journal goes first; the stores that are fenced with it come last.
        for names in (served.draining(), served.others(), served.riders()):
            chosen = [n for n in names if n in ground.stores]
            items += sum(served.each(self._load, chosen).values()) if chosen else 0
        ctx.reach("load.loaded")
        seconds = time.monotonic() - began
        size_bytes = sum(s.size_bytes for s in ground.source.streams())
        record_measurement(self._deps, ctx, LOAD, None, items, size_bytes, seconds)
        ctx.remember(bytes_moved=size_bytes)
        ctx.event("loaded", cell=ground.cell, items=items, size_bytes=size_bytes, seconds=round(seconds, 3))
        return items

    def _load(self, name: StoreName) -> int:
        selection = self._ground.request.selection(name)
        assert selection is not None
        pace = self._pace(name)
        return self._ground.restoring(name).load(self._ground.source, self._fence, selection, pace).items

    def _require_empty(self) -> None:
        ground = self._ground
        held = ground.crew.each(lambda n: ground.store(n).inventory(ground.tenant).items, ground.stores)
        full = {name: items for name, items in held.items() if items}
        if full:
            raise NotAllowed(
                f"{ground.cell} holds items of {ground.tenant} already: {full}",
                hint="restore into a cell that has nothing of it, or under another name",
            )

    def _pace(self, name: StoreName) -> Pace:
        lock, done = threading.Lock(), [0, 0]
        total = sum(s.size_bytes for s in self._ground.source.streams(name))

        def pace(*, items: int, size_bytes: int) -> None:
            self._ctx.check()
            with lock:
                done[0] += items
                done[1] += size_bytes
                loaded = done[1]
            self._ctx.progress(
                f"restore {name}", loaded, total if total >= loaded else None, "bytes", items=done[0]
            )

        return pace

    @staticmethod
    def take_back(deps: Deps, ctx: StepContext, request: Request) -> None:
        """Erase what was loaded, and open the cell as it was before. A no-op where nothing was begun."""
        if not ctx.operation.data.get("loading"):
            _open_if_ours(deps, ctx, request)
            return
        require_passive(deps, ctx, request.tenant, request.target, request.mode)
        crew = Crew(f"restore-{request.tenant[:8]}", workers=8)
        try:
            there = served(deps, request.tenant, request.target, crew)
            fence = deps.fence(request.tenant, ctx.token)
            close(there, fence)
            require_passive(deps, ctx, request.tenant, request.target, request.mode)
            erase(ctx, there, fence)
            there.each(lambda n: there.store(n).open(fence), there.fenced())
        finally:
            crew.close()

    @staticmethod
    def clear_former(deps: Deps, ctx: StepContext, request: Request) -> int:
        """Delete the tenant from the cell that served it before. Raises `DataDiffers` if anything is left.

        Asks right before, and not the clock, whether this step is still ours and the tenant is served elsewhere.
        """
        crew = Crew(f"restore-{request.tenant[:8]}", workers=8)
        try:
            there = served(deps, request.tenant, request.source, crew)
            fence = deps.fence(request.tenant, ctx.token)
            for _ in range(2):
                ctx.require_lease()
                known = deps.registry.tenants.get(request.tenant)
                if (
                    known.legal_hold is not None
                    or deps.registry.placements.get(request.tenant).cell == there.cell
                ):
                    raise NotAllowed(
                        f"nothing of {request.tenant} is deleted from {there.cell}: "
                        f"{known.legal_hold or 'it is served there'}",
                        hint=f"tenure tenant show {request.tenant}",
                    )
                close(there, fence)
            gone = erase(ctx, there, fence)
            ctx.reach("clear.erased")
            left = there.each(lambda n: there.store(n).inventory(request.tenant).items)
            if any(left.values()):
                raise DataDiffers(
                    f"{there.cell} still holds items of {request.tenant}: {dict(left)}",
                    hint=f"tenure op resume {ctx.operation.id}; something writes there past the fence",
                )
            for names in (there.riders(), there.draining(), there.others()):
                there.each(lambda n: there.store(n).retire(fence), names)
            return gone
        finally:
            crew.close()


def close(there: Served, fence: Fence) -> None:
    """Fence the tenant in a cell that does not serve it, for good."""
    there.each_anchored(lambda n: there.store(n).fence(fence, expires_in_s=None, drain_s=DRAIN_S))


def erase(ctx: StepContext, there: Served, fence: Fence) -> int:
    """Delete all of the tenant there; stores that are fenced with others go before these."""
    gone: dict[StoreName, int] = {}
    groups: Sequence[Sequence[StoreName]] = (there.riders(), there.others(), there.draining())
    for names in groups:
        gone |= there.each(lambda n: there.store(n).erase(fence), names) if names else {}
    ctx.event("copy_erased", cell=there.cell, items=dict(gone))
    return sum(gone.values())


def require_passive(deps: Deps, ctx: StepContext, tenant: TenantId, cell: CellName, mode: Mode) -> None:
    """Nothing is loaded over, or erased of, what serves a tenant. Before the switch nothing serves a new one."""
    ctx.require_lease()
    if ctx.committed or (mode is Mode.OTHER_CELL and deps.registry.placements.get(tenant).cell == cell):
        raise NotAllowed(
            f"{tenant} is served by {cell}: nothing is loaded or erased there",
            hint=f"tenure tenant show {tenant}",
        )


def _open_if_ours(deps: Deps, ctx: StepContext, request: Request) -> None:
    """The fence may be down without anything having been loaded."""
    if request.mode is Mode.NEW_TENANT and not ctx.operation.data.get("registered"):
        return
    if (
        deps.registry.placements.get(request.tenant).cell == request.target
        and request.mode is Mode.OTHER_CELL
    ):
        return
    crew = Crew(f"restore-{request.tenant[:8]}", workers=8)
    try:
        there = served(deps, request.tenant, request.target, crew)
        fence = deps.fence(request.tenant, ctx.token)
        there.each_anchored(lambda n: there.store(n).open(fence))
    finally:
        crew.close()
