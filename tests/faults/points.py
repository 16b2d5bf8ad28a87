"""Every named point of each operation, in the order in which they are reached."""

from __future__ import annotations

from typing import Final

MIGRATE: Final = (
    "preflight:start",
    "preflight:end",
    "provision:start",
    "provision.linked",
    "provision.started",
    "provision:end",
    "catch_up:start",
    "catch_up.following",
    "catch_up:end",
    "verify:start",
    "verify.equal",
    "verify:end",
    "arm:start",
    "arm.reverse",
    "arm.gated",
    "arm:end",
    "switch:start",
    "switch.ready",
    "switch.held",
    "switch.drained",
    "switch.fenced",
    "switch.sealed",
    "switch.closed",
    "switch.committing",
    "switch.committed",
    "switch.opened",
    "switch.released",
    "switch:end",
    "settle:start",
    "settle.following",
    "settle.routed",
    "settle.equal",
    "settle:end",
)
ROLLBACK: Final = (
    "prepare:start",
    "prepare.following",
    "prepare.equal",
    "prepare:end",
    *MIGRATE[MIGRATE.index("arm:start") : MIGRATE.index("settle:start")],
    "divert:start",
    "divert:end",
    *MIGRATE[MIGRATE.index("settle:start") :],
    "confirm:start",
    "confirm.looked",
    "confirm:end",
)
SECOND_PATH: Final = ("steer.ungated", "divert.named", "confirm.looked")
"""Of a rollback whose gateway is out of step, in their order: `tests/acceptance/test_drift.py` kills at each."""
ABORT: Final = ("abort:start", "abort.open", "abort.unlinked", "abort.erased", "abort:end")
COMPLETE: Final = (
    "check:start",
    "verify.equal",
    "check:end",
    "route:start",
    "route.direct",
    "route:end",
    "unlink:start",
    "unlink.ending",
    "unlink.done",
    "unlink:end",
    "erase:start",
    "erase.gone",
    "erase:end",
)
REHEARSE: Final = (
    "prepare:start",
    "prepare.following",
    "prepare.equal",
    "arm.reverse",
    "arm.gated",
    "prepare:end",
    "rehearse:start",
    "rehearse.measured",
    "rehearse:end",
)
EXPIRE: Final = ("expire:start", "expire.noted", "expire.stopped", "expire:end")
BACKUP: Final = (
    "preflight:start",
    "preflight:end",
    "capture:start",
    "capture.begun",
    "capture.started",
    "capture.passed",
    "capture.settled",
    "capture.gated",
    "capture.held",
    "capture.drained",
    "capture.fenced",
    "capture.pinned",
    "capture.opened",
    "capture.taken",
    "capture.sealed",
    "capture.committed",
    "capture.recorded",
    "capture:end",
    "verify:start",
    "verify.noted",
    "verify:end",
    "copy:start",
    "copy.stored",
    "copy.noted",
    "copy:end",
)
MANIFEST: Final = "capture.committed"
"""The first point at which there is a backup."""
BACKUP_ABORT: Final = ("abort:start", "abort.open", "abort.forgotten", "abort:end")
PRUNE: Final = (
    "choose:start",
    "choose.chosen",
    "choose:end",
    "delete:start",
    "delete.noted",
    "delete.deleted",
    "delete.recorded",
    "delete:end",
    "collect:start",
    "collect.collected",
    "collect:end",
)
DRILL: Final = (
    "preflight:start",
    "preflight:end",
    "restore:start",
    "restore.fenced",
    "restore.loaded",
    "restore.compared",
    "restore:end",
    "clean:start",
    "clean.left",
    "clean:end",
    "report:start",
    "report.noted",
    "report:end",
)
BACKUP_SELECTION: Final = frozenset(
    {"capture.pinned", "capture.committed", "abort.open", "delete.deleted", "restore.loaded"}
)
"""As `SELECTION`, of backups and prunes."""
COMMIT: Final = "switch.committed"
"""The first point behind the point of no return."""

SELECTION: Final = frozenset({"switch.closed", "switch.committed"})
"""What `make test` runs; `make faults` runs all of them."""


def committed(point: str) -> bool:
    """Whether the placement has changed when a migrate or a rollback gets to this point."""
    return any(
        point in points and points.index(point) >= points.index(COMMIT) for points in (MIGRATE, ROLLBACK)
    )


ERASE: Final = [
    "admit:start",
    "look:start",
    "looked.searching",
    "looked.searched",
    "close:start",
    "close.fenced",
    "close.committed",
    "close.noted",
    "close.forgotten",
    "count:start",
    "count.kept",
    "erase:start",
    "erase.blue",
    "retire.blue",
    "keys:start",
    "keys.held",
    "keys.listed",
    "keys.destroyed",
    "keys.proved",
    "keys.deleted",
    "verify:start",
    "verify.counted",
    "verified.searching",
    "verified.searched",
    "verify.judged",
    "certify:start",
    "certify.drawn",
    "certify.issued",
    "leave:start",
    "leave.forgotten",
    "leave.released",
    "leave.removed",
]
"""The points of an erasure in their order."""
ERASE_COMMITTED: Final = "close.committed"
"""From here on it only goes forward."""
ERASE_SELECTION: Final = ["close.fenced", "close.committed", "erase.blue", "keys.destroyed", "certify.issued"]
