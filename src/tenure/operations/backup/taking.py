"""Takes one backup: from the first byte until its manifest stands in the vault of the cell's region.

Everything here lives in one process. After a crash the next one opens the tenant, cleans up in the stores and takes the
streams anew; what the vault has already is not put again. Until the manifest stands there is no backup.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import tenure
from tenure.backups.backups import Backups
from tenure.backups.manifest import Facts
from tenure.backups.reading import verify_manifest
from tenure.backups.writing import BackupWriter
from tenure.engine.context import StepContext
from tenure.errors import DeadlineExceeded, LeaseLost, StoreRefused, TenureError, VaultDamaged
from tenure.model.backup import BackupState
from tenure.model.names import StoreName, TenantId, cell_name
from tenure.operations import steering
from tenure.operations.backup.observe import captured, served
from tenure.operations.backup.point import STEP, Point, take_point
from tenure.operations.deps import Deps
from tenure.operations.pause import back_out
from tenure.operations.served import Crew
from tenure.registry.measurements import Measurement
from tenure.stores.backup import Capture, Captured
from tenure.stores.contract import Fence, Pace
from tenure.stores.vault.contract import Backup, BackupId, Lock, LockMode, Vault

HOLDS: Final = 5
"""How often the hold is tried before the step gives up; settled again in between."""
AGAIN_AFTER_S: Final = 1.0
ROUNDS: Final = 8
FEW: Final = 200
"""When no more items than this have changed since the last round, the rest is left to the hold."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the operation was asked for."""

    tenant: TenantId
    region: str
    copy_to: str | None
    lock: Lock | None
    period: datetime | None

    @classmethod
    def of(cls, ctx: StepContext) -> Order:
        request = ctx.operation.request
        lock, until, period = request.get("lock"), request.get("locked_until"), request.get("period")
        return cls(
            tenant=TenantId(str(ctx.operation.tenant)),
            region=str(request["region"]),
            copy_to=request.get("copy_to"),
            lock=Lock(mode=LockMode(str(lock).upper()), until=datetime.fromisoformat(until))
            if lock is not None and until is not None
            else None,
            period=datetime.fromisoformat(period) if period is not None else None,
        )


class Taking:
    """One attempt to take the backup that an operation asks for."""

    def __init__(self, deps: Deps, ctx: StepContext, vault: Vault, sealing: Backups) -> None:
        self._deps = deps
        self._ctx = ctx
        self._vault = vault
        self._sealing = sealing
        self._order = Order.of(ctx)
        tenant = self._order.tenant
        self._placement = deps.registry.placements.get(tenant)
        cell = cell_name(self._placement.cell)
        self._names = captured(deps, cell)
        self._crew = Crew(f"backup-{tenant[:8]}", workers=2 * len(self._names))
        self._served = served(deps, tenant, cell, self._crew)
        self._fence = Fence(tenant=tenant, epoch=self._placement.epoch, token=ctx.token)
        self._linked = deps.registry.links.active(tenant) is not None

    # -- what the step does ------------------------------------------------------------------------------------------

    def run(self) -> Backup:
        """Take it, unless an attempt that was cut off has got past the manifest."""
        try:
            if self._ctx.attempt > 1 or self._ctx.taken_over:
                self.clean_up()
            there = self.standing()
            return there if there is not None else self._take()
        finally:
            self._crew.close()

    def standing(self) -> Backup | None:
        """The backup whose manifest an earlier attempt has written, now known to the control database as well.

        What stands in its place without the estate's signature is none of ours: raises `BackupUntrusted`.
        """
        backup = self._ctx.operation.data.get("backup")
        if backup is None:
            return None
        for there in self._vault.shelf(self._order.tenant).complete:
            if there.id == backup:
                known = verify_manifest(self._vault, there, self._sealing.trust, tenant=self._order.tenant)
                point = known.public.facts.point
                items = sum(store.items for store in known.public.stores.values())
                self._record(there, point, items, {"found_again": True})
                return there
        return None

    def clean_up(self) -> None:
        """The tenant goes on, and the stores have nothing of a capture: what an attempt that was cut off has left."""
        problems, _ = back_out(self._deps, self._ctx, self._served, self._fence)
        if problems:
            raise problems[0]
        self._close(self._captures())
        self._let_go()

    def forget(self) -> bool:
        """End what is being written in the vault; whether there was anything."""
        backup = self._ctx.operation.data.get("backup")
        if backup is None:
            return False
        try:
            self._vault.resume(self._order.tenant, BackupId(backup)).abandon()
        except LeaseLost:
            return False
        return True

    def close(self) -> None:
        self._crew.close()

    # -- taking ------------------------------------------------------------------------------------------------------

    def _take(self) -> Backup:
        ctx, began = self._ctx, time.monotonic()
        captures = self._captures()
        with self._writer() as writer:
            ctx.reach(f"{STEP}.begun")
            try:
                self._start(captures)
                self._first_pass(captures, writer)
                point = self._hold(captures, writer)
                taken = self._rest(captures, writer)
            finally:
                self._close_quietly(captures)
            self._let_go()
            backup, details = self._commit(writer, point, taken)
        items = sum(one.items for one in taken.values())
        details["seconds"] = round(time.monotonic() - began, 3)
        self._record(backup, point.at, items, details)
        self._measure(taken, point, time.monotonic() - began)
        return backup

    def _captures(self) -> dict[StoreName, Capture]:
        cell = self._served.cell
        return {n: self._deps.factory.store(cell, n).capture(self._order.tenant) for n in self._names}

    @contextmanager
    def _writer(self) -> Iterator[BackupWriter]:
        """The backup that is being written: begun, or carried on."""
        writer = self._resumed() or self._begun()
        try:
            yield writer
        finally:
            writer.close()

    def _resumed(self) -> BackupWriter | None:
        backup = self._ctx.operation.data.get("backup")
        if backup is None:
            return None
        try:
            return self._sealing.resume(self._vault, self._order.tenant, BackupId(backup))
        except LeaseLost:
            self._deps.registry.backups.abandon(self._ctx.lease, backup)
            return None

    def _begun(self) -> BackupWriter:
        """Noted here before there is anything of it in the vault, so that it can be found and ended. Ids are never used
        twice."""
        ctx, order = self._ctx, self._order
        backup = BackupId(f"{ctx.operation.id}-{ctx.token}".replace("_", "-").lower())
        ctx.remember(backup=backup)
        self._deps.registry.backups.begin(
            ctx.lease,
            backup,
            tenant=order.tenant,
            tier=self._deps.registry.tenants.get(order.tenant).tier,
            cell=self._served.cell,
            epoch=self._placement.epoch,
            period=order.period,
        )
        return self._sealing.begin(self._vault, order.tenant, backup, lock=order.lock)

    def _start(self, captures: dict[StoreName, Capture]) -> None:
        """What holds the fence and the journal goes first: the others rely on both."""
        served = self._served
        served.each_anchored(lambda n: served.store(n).claim(self._fence))
        for names in (served.draining(), served.others(), served.riders()):
            served.each(lambda n: captures[n].start(self._fence), [n for n in names if n in captures])
        self._ctx.reach(f"{STEP}.started")

    def _first_pass(self, captures: dict[StoreName, Capture], writer: BackupWriter) -> None:
        self._ctx.phase("copying")
        self._served.each(lambda n: captures[n].first_pass(writer, self._pace(n)), captures)
        self._ctx.reach(f"{STEP}.passed")
        self._settle(captures, writer)
        self._ctx.reach(f"{STEP}.settled")

    def _settle(self, captures: dict[StoreName, Capture], writer: BackupWriter) -> None:
        """Round by round until few are left, or until it gets no better: the hold has a budget of its own."""
        before: int | None = None
        for _ in range(ROUNDS):
            self._ctx.check()
            left = sum(self._served.each(lambda n: captures[n].settle(writer), captures).values())
            if left <= FEW or (before is not None and left >= before):
                return
            before = left

    def _hold(self, captures: dict[StoreName, Capture], writer: BackupWriter) -> Point:
        """The point; backed out and tried again where the hold budget was not enough."""
        ctx = self._ctx
        for n in range(HOLDS):
            steering.steer(self._deps, ctx, self._served, epoch=self._placement.epoch)
            self._crew.await_overdue()
            ctx.reach(f"{STEP}.gated")
            try:
                return take_point(self._deps, ctx, self._served, captures, writer, self._fence)
            except DeadlineExceeded as error:
                ctx.event("hold_given_up", attempt=n + 1, because=error.message)
                if n + 1 == HOLDS:
                    raise
            ctx.wait(AGAIN_AFTER_S * 2**n)
            self._settle(captures, writer)
        raise AssertionError("not reached")

    def _rest(self, captures: dict[StoreName, Capture], writer: BackupWriter) -> dict[StoreName, Captured]:
        self._ctx.phase("taking")
        taken = self._served.each(lambda n: captures[n].rest(writer, self._pace(n)), captures)
        self._ctx.reach(f"{STEP}.taken")
        return taken

    def _commit(
        self, writer: BackupWriter, point: Point, taken: dict[StoreName, Captured]
    ) -> tuple[Backup, dict[str, Any]]:
        """Sign and write the manifest: from then on there is a backup."""
        ctx, catalogue = self._ctx, self._deps.estate.catalogue
        ctx.phase("sealing")
        facts = Facts(
            point=point.at,
            cell=self._served.cell,
            region=self._order.region,
            tier=self._deps.registry.tenants.get(self._order.tenant).tier,
            epoch=self._placement.epoch,
            release=tenure.__version__,
            catalogue_version="1",
            catalogue_digest=catalogue.digest,
        )
        prepared = writer.prepare(
            facts,
            self._sealing.signer,
            [c for one in taken.values() for c in one.collections],
            {name: one.facts for name, one in taken.items()},
        )
        ctx.reach(f"{STEP}.sealed")
        ctx.require_lease()
        backup = writer.commit(prepared)
        ctx.reach(f"{STEP}.committed")
        details: dict[str, Any] = {
            "hold_ms": round(point.hold.hold_ms, 2),
            "requests_held": point.hold.requests_held,
            "longest_wait_ms": round(point.hold.longest_wait_ms, 2),
            "timing_ms": dict(point.timing_ms),
            "stores_ms": {part: dict(its) for part, its in point.stores_ms.items()},
            "left_out": ctx.operation.data.get("left_out", {}),
            "chunks": prepared.tally.chunks,
            "sent_chunks": prepared.tally.put,
            "sent_bytes": prepared.tally.put_bytes,
            "taken": {
                name: {"items": one.items, "size_bytes": one.size_bytes} for name, one in taken.items()
            },
        }
        return backup, details

    # -- writing down ------------------------------------------------------------------------------------------------

    def _record(self, backup: Backup, point_at: datetime, items: int, details: dict[str, Any]) -> None:
        registry, ctx = self._deps.registry, self._ctx
        if registry.backups.get(backup.id).state is not BackupState.COMPLETE:
            registry.backups.complete(
                ctx.lease,
                backup.id,
                point_at=point_at,
                contents=backup.contents,
                key=backup.key,
                items=items,
                size_bytes=backup.size_bytes,
                region=self._order.region,
                stored_at=backup.stored_at,
                locked_until=backup.lock.until if backup.lock is not None else None,
                details=details,
            )
        ctx.record_result(
            backup=backup.id,
            point_at=point_at.isoformat(),
            items=items,
            size_bytes=backup.size_bytes,
            **details,
        )
        ctx.event("backup_stored", backup=backup.id, region=self._order.region, size_bytes=backup.size_bytes)
        ctx.reach(f"{STEP}.recorded")

    def _measure(self, taken: dict[StoreName, Captured], point: Point, seconds: float) -> None:
        """For the next plan's predictions. A hold that the gate has ended by itself says nothing about the next."""
        measurements, cell = self._deps.registry.measurements, self._served.cell
        items = sum(one.items for one in taken.values())
        size = sum(one.size_bytes for one in taken.values())
        measurements.record(
            Measurement(kind="backup", route=cell, store="", items=items, bytes=size, seconds=seconds)
        )
        if not point.hold.timed_out:
            hold = point.hold
            measurements.record(
                Measurement(
                    kind="backup_hold",
                    route=cell,
                    store="",
                    items=hold.requests_held,
                    bytes=0,
                    seconds=hold.hold_ms / 1000,
                )
            )

    # -- parts -------------------------------------------------------------------------------------------------------

    def _let_go(self) -> None:
        """A tenant with a link stays behind the gate, as it was."""
        if not self._linked:
            steering.let_go(self._deps, self._ctx, self._served, epoch=self._placement.epoch)

    def _close(self, captures: dict[StoreName, Capture]) -> None:
        served = self._served
        for names in (served.riders(), served.others(), served.draining()):
            served.each(lambda n: captures[n].close(self._fence), [n for n in names if n in captures])

    def _close_quietly(self, captures: dict[StoreName, Capture]) -> None:
        """What cannot be removed now is removed by the next attempt, or the abort: both close everything anew."""
        with suppress(TenureError):
            self._crew.await_overdue()
            self._close(captures)

    def _pace(self, name: StoreName) -> Pace:
        """Shows how far the store is, and stops it when the operation is to end."""
        lock, done = threading.Lock(), [0, 0]

        def pace(*, items: int, size_bytes: int) -> None:
            self._ctx.check()
            with lock:
                done[0] += items
                done[1] += size_bytes
                taken = done[1]
            total = self._ctx.operation.data.get("sizes", {}).get(name)
            # An estimate that was passed is none.
            self._ctx.progress(
                f"back up {name}", taken, total if total and total >= taken else None, "bytes", items=done[0]
            )

        return pace


def collect(ctx: StepContext, vault: Vault, tenant: TenantId, *, quiet_s: float) -> dict[str, Any]:
    """Collect garbage; a vault that cannot know what is needed keeps everything, and that is told (`because`)."""
    try:
        gone = vault.collect(tenant, quiet_s=quiet_s)
    except (StoreRefused, VaultDamaged) as error:
        ctx.event("garbage_not_collected", because=error.message, fix=error.hint)
        return {"uploads": 0, "size_bytes": 0, "because": error.message}
    return {
        "uploads": gone.uploads,
        "size_bytes": gone.size_bytes,
        "waiting": gone.waiting,
        "locked": gone.locked,
    }
