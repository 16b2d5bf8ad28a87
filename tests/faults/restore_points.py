"""Every named point of a restore, in the order in which they are reached: in place, into another cell with an older
schema on the way, under another name; and of what takes one back."""

from __future__ import annotations

from typing import Final

_PROTECT: Final = (
    "protect:start",
    "capture.begun",
    "capture.pinned",
    "capture.opened",
    "capture.sealed",
    "capture.committed",
    "protect.stored",
    "protect:end",
)
"""What is live is backed up as `tenure backup create` does it: all its points are in the matrix of backups."""
IN_PLACE: Final = (
    "preflight:start",
    "preflight.looked",
    "preflight:end",
    "stage:start",
    "stage:end",
    *_PROTECT,
    "compare:start",
    "compare.done",
    "compare:end",
    "arm:start",
    "arm.gated",
    "arm:end",
    "switch:start",
    "switch.ready",
    "switch.held",
    "switch.drained",
    "switch.fenced",
    "switch.still",
    "switch.compared",
    "switch.prepared",
    "switch.committing",
    "switch.committed",
    "switch.applied",
    "switch.noted",
    "switch.opened",
    "switch.released",
    "switch:end",
    "settle:start",
    "settle.routed",
    "settle.dropped",
    "settle:end",
)
OPEN: Final = IN_PLACE[IN_PLACE.index("switch.opened") :]
"""When the restored tenant may be written to again."""
ELSEWHERE: Final = (
    "stage.created",
    "stage.loaded",
    "stage.migrated",
    "stage.checked",
    "stage:end",
    "load:start",
    "load.fenced",
    "load.begun",
    "load.loaded",
    "load:end",
    "compare.loaded",
    "compare.done",
    "switch.ready",
    "switch.still",
    "switch.committing",
    "switch.committed",
    "switch.opened",
    "switch.released",
    "settle.dropped",
)
NEW: Final = (
    "load.registered",
    "load.fenced",
    "load.begun",
    "load.loaded",
    "compare.loaded",
    "switch.committing",
    "switch.committed",
    "switch.opened",
    "settle.routed",
)
ABORT: Final = ("abort:start", "abort.open", "abort.erased", "abort.dropped", "abort:end")
COMMIT: Final = "switch.committed"
"""The first point behind the point of no return."""
SELECTION: Final = frozenset({"switch.prepared", "switch.opened", "load.loaded", "abort.erased"})
"""What `make test` runs; `make faults` runs all of them."""


def committed(point: str) -> bool:
    """Whether the epoch has been raised when a restore gets to this point."""
    return any(
        point in points and points.index(point) >= points.index(COMMIT)
        for points in (IN_PLACE, ELSEWHERE, NEW)
    )
