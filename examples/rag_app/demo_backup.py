"""The demo's act about backups: one is taken under load, a faulty job damages the tenant, the backup is restored in
place under load, and another cell shows in a drill that it can be restored there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from rag_app.damage import contents, spoil
from rag_app.history import History, Op
from rag_app.load import DEFAULT_MIX
from rag_app.reader import CellReader
from rag_app.settings import CellSettings
from rag_app.verify import LostWrites
from tenure.engine.observer import Observer
from tenure.model.operation import Operation, OperationState
from tenure.operations.restoring import Wish
from tenure.service import Service

CREATING: Final[Mapping[str, float]] = {Op.CREATE: 3.0, Op.SEARCH: 3.0, Op.GET_COUNTER: 3.0}
"""What a restore discards is whole then: documents that came since the backup."""

Loaded = Callable[[Callable[[], Operation], Mapping[str, float]], tuple[History, Operation]]
"""Runs an operation under the load of the tenant and of its neighbours; that mix of requests."""


@dataclass(frozen=True, kw_only=True)
class BackupEvidence:
    """What the backup, the restore and the drill did to the tenant and to everyone else."""

    tenant: str
    backup: str
    items: int
    size_bytes: int
    backup_hold_ms: float
    requests: int
    requests_failed: int
    acked_writes: int
    acked_writes_lost: int
    """By the backup: those that the cell does not show after it."""
    damage: Mapping[str, int]
    damaged: int
    """Items that were gone or different before the restore, what hung on them included; read from the servers."""
    still_damaged: int
    restore_hold_ms: float
    restore_s: float
    discarded: int
    """Documents that users wrote between the backup and the restore, as the restore's result names them."""
    unaccounted: int
    """Of the documents acknowledged while the restore ran: neither there afterwards nor told as discarded."""
    neighbours_changed: int
    drill_cell: str
    drill_equal: bool
    recovery_s: float
    recovery_point_s: float

    def promises_broken(self) -> list[str]:
        """Every promise that was not kept, in words."""
        broken = []
        if self.requests == 0 or self.acked_writes == 0:
            broken.append("there was no load")
        if self.requests_failed:
            broken.append(f"{self.requests_failed} requests failed")
        if self.acked_writes_lost:
            broken.append(f"{self.acked_writes_lost} acknowledged writes were lost by the backup")
        if self.damaged == 0:
            broken.append("nothing was damaged")
        if self.still_damaged:
            broken.append(f"{self.still_damaged} items are not as they were")
        if self.unaccounted:
            broken.append(f"{self.unaccounted} documents are gone and nobody was told")
        if self.neighbours_changed:
            broken.append(f"{self.neighbours_changed} digests of neighbours changed")
        if not self.drill_equal:
            broken.append("the drill found differences")
        return broken

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class BackupAct:
    """`cell` is the one that serves the tenant, `settings` that cell as the service's deployment sees it."""

    tenant: str
    settings: CellSettings
    service: Service
    observer: Observer
    loaded: Loaded
    verified: Callable[[History], LostWrites]
    quiet: Callable[[], Mapping[Any, str]]
    """The digests of the neighbours that stand still."""
    say: Callable[[str], None]

    def run(self) -> BackupEvidence:
        quiet = self.quiet()
        history, taken = self.loaded(self._back_up, DEFAULT_MIX)
        lost = self.verified(history)
        self._tell_lost(lost)
        again = _succeeded(self._back_up())
        before = contents(self.settings, self.tenant)
        first, second = dict(taken.result or {}), dict(again.result or {})
        self.say(f"backup {second['backup']}: {second['items']:,} items, {second['size_bytes']:,} bytes")
        damage = spoil(self.settings, self.tenant)
        damaged = _differing(before, contents(self.settings, self.tenant))
        self.say(f"a faulty job has damaged {damaged:,} items of {self.tenant}")
        began = time.monotonic()
        created, restored = self.loaded(lambda: self._restore(str(second["backup"])), CREATING)
        result = dict(restored.result or {})
        finished, started = restored.finished_at, restored.started_at
        assert finished is not None
        assert started is not None
        now = contents(self.settings, self.tenant)
        still = _differing(before, now)
        for item in sorted(item for item, digest in before.items() if now.get(item) != digest)[:5]:
            self.say(f"BROKEN not as it was: {' '.join(item)}")
        discarded = sum(c["removed"] for c in result["changes"] if c["collection"] == "public.documents")
        drilled = _succeeded(self.service.backups.drill(str(second["backup"]), observer=self.observer))
        drill = dict(drilled.result or {})
        self.say(
            f"drill in {drilled.request['to']}: equal after {drill['recovery_s']:.1f} s; the newest backup was "
            f"{drill['recovery_point_s']:.0f} s old; {time.monotonic() - began:.0f} s since the damage"
        )
        after = self.quiet()
        counts = [history.counts(), created.counts()]
        return BackupEvidence(
            tenant=self.tenant,
            backup=str(second["backup"]),
            items=int(second["items"]),
            size_bytes=int(second["size_bytes"]),
            backup_hold_ms=float(first["hold_ms"]),
            requests=sum(c.requests for c in counts),
            requests_failed=sum(c.failed for c in counts),
            acked_writes=sum(c.writes_acked for c in counts),
            acked_writes_lost=len(lost.lost),
            damage=asdict(damage),
            damaged=damaged,
            still_damaged=still,
            restore_hold_ms=float(result["hold_ms"]),
            restore_s=(finished - started).total_seconds(),
            discarded=discarded,
            unaccounted=self._unaccounted(created, discarded),
            neighbours_changed=sum(quiet[key] != after.get(key) for key in quiet)
            + len(after.keys() - quiet.keys()),
            drill_cell=str(drilled.request["to"]),
            drill_equal=bool(drill["equal"]),
            recovery_s=float(drill["recovery_s"]),
            recovery_point_s=float(drill["recovery_point_s"]),
        )

    def _back_up(self) -> Operation:
        return self.service.backups.create(self.tenant, apply=None, observer=self.observer)

    def _restore(self, backup: str) -> Operation:
        wish = Wish(backup=backup)
        plan = self.service.restores.plan(wish)
        self.say(
            f"plan {plan.digest}: {sum(c.added for c in plan.changes):,} items come back, "
            f"{sum(c.changed for c in plan.changes):,} change, {sum(c.removed for c in plan.changes):,} go; hold "
            f"{plan.prediction.hold_ms:.0f} ms"
        )
        return self.service.restores.restore(wish, apply=plan.digest, observer=self.observer)

    def _unaccounted(self, history: History, discarded: int) -> int:
        """Acknowledged documents that are gone, beyond those that were told as discarded."""
        numbers = [
            int(r.key.removeprefix("document:"))
            for r in history.requests
            if r.tenant == self.tenant and r.op is Op.CREATE and r.status < 300
        ]
        with CellReader(self.settings) as reader:
            gone = len(numbers) - len(reader.documents(self.tenant, numbers))
        return abs(gone - discarded)

    def _tell_lost(self, report: LostWrites) -> None:
        for finding in (*report.lost, *report.stale, *report.unexplained):
            self.say(f"BROKEN {finding}")


def _succeeded(operation: Operation) -> Operation:
    if operation.state is not OperationState.SUCCEEDED:
        raise SystemExit(f"{operation.kind} {operation.id} ended {operation.state}: {operation.error}")
    return operation


def _differing(before: Mapping[tuple[str, str], str], now: Mapping[tuple[str, str], str]) -> int:
    return sum(now.get(item) != digest for item, digest in before.items())
