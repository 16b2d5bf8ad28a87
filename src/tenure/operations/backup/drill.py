"""A drill: a backup is restored into a cell that has nothing of the tenant, compared with what its manifest says, and
removed again. It measures what a recovery takes, and fails loudly where one would.

The scratch place is never served from: it is fenced for the tenant from before the first item is loaded until the last
one is gone, and nothing routes there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from tenure.backups.reading import BackupReader
from tenure.engine.context import StepContext
from tenure.engine.spec import Done, Failed, OperationSpec, StepOutcome, StepSpec
from tenure.errors import DataDiffers, NotAllowed, StoreUnavailable, UsageError, VaultDamaged
from tenure.model.backup import BackupRecord, DrillRecord
from tenure.model.finding import Severity
from tenure.model.names import CellName, StoreName, TenantId, cell_name
from tenure.model.operation import OperationState
from tenure.operations.backup.observe import captured, served
from tenure.operations.deps import Deps
from tenure.operations.served import Crew, Served
from tenure.stores.backup import Restoring
from tenure.stores.contract import Fence, Pace

NAMED: Final = 20
"""So many of the items that differ are named."""
DRAIN_S: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class _Ground:
    """The scratch cell of one drill, in one process."""

    tenant: TenantId
    record: BackupRecord
    region: str
    cell: CellName
    served: Served
    fence: Fence
    stores: tuple[StoreName, ...]


def scratch_cells(deps: Deps, tenant: TenantId) -> list[CellName]:
    """The cells that a drill of the tenant may use, those of its own region first: not the one that serves it, none
    that a link reaches, none where its data may not lie."""
    placement, known = deps.registry.placements.get(tenant), deps.registry.tenants.get(tenant)
    link = deps.registry.links.active(tenant)
    taken = {placement.cell, *((link.cell_a, link.cell_b) if link is not None else ())}
    allowed = None if known.residency is None else set(deps.estate.residency[known.residency].regions)
    home = deps.estate.cell(placement.cell).region
    found = [
        (cell.region != home, name)
        for name, cell in deps.estate.cells.items()
        if name not in taken and (allowed is None or cell.region in allowed)
    ]
    return [name for _, name in sorted(found)]


class Drill:
    """The steps of `tenure backup drill`."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps

    def spec(self) -> OperationSpec:
        return OperationSpec(
            kind="drill",
            steps=(
                StepSpec(name="preflight", run=self.preflight, phase="preflight"),
                StepSpec(name="restore", run=self.restore, phase="restoring"),
                StepSpec(name="clean", run=self.clean, phase="cleaning"),
                StepSpec(name="report", run=self.report, phase="reporting", max_attempts=1),
            ),
            abort=self.abort,
            ends_in=OperationState.SUCCEEDED,
        )

    def preflight(self, ctx: StepContext) -> StepOutcome:
        """The place is empty and may be used, and every store could take the backup. Changes nothing."""
        with self._ground(ctx) as ground, closing(self._open(ground)) as source:
            self._still_scratch(ctx, ground)
            held = {n: i for n, i in ground.served.each(lambda n: self._items(ground, n)).items() if i}
            if held:
                raise NotAllowed(
                    f"{ground.cell} has something of {ground.tenant}: {held}",
                    hint="choose another cell with --in, or find out whose it is",
                )
            found = ground.served.each(lambda n: self._restoring(ground, n).preflight(source), ground.stores)
            refusals = [f for its in found.values() for f in its if f.severity is Severity.REFUSAL]
            if refusals:
                named = tuple(f"{f.where}: {f.message}; {f.cure}" for f in refusals)
                raise NotAllowed(
                    f"{ground.cell} cannot take backup {ground.record.id}: {'. '.join(named)}",
                    findings=named,
                    hint="choose another cell with --in",
                )
            states = ground.served.each(self._writable(ground), ground.served.fenced())
            ctx.remember(was_open=[name for name, writable in states.items() if writable])
        return Done()

    def restore(self, ctx: StepContext) -> StepOutcome:
        """Load everything and compare it with the manifest; timed. A repeated attempt begins with nothing."""
        with self._ground(ctx) as ground, closing(self._open(ground)) as source:
            self._still_scratch(ctx, ground)
            self._fence(ground)
            ctx.reach("restore.fenced")
            self._erase(ctx, ground)
            began = time.monotonic()
            loading = {n: self._restoring(ground, n) for n in ground.stores}
            loaded = ground.served.each(
                lambda n: loading[n].load(source, ground.fence, progress=self._pace(ctx, n)).items,
                ground.stores,
            )
            load_s = time.monotonic() - began
            ctx.reach("restore.loaded")
            problems = self._compare(ground, source, loading)
            recovery_s = time.monotonic() - began
            ctx.reach("restore.compared")
        told: dict[str, Any] = {
            "recovery_s": round(recovery_s, 3),
            "load_s": round(load_s, 3),
            "items": dict(loaded),
            "problems": problems[:NAMED],
        }
        ctx.remember(**told)
        return Done(result=told)

    def clean(self, ctx: StepContext) -> StepOutcome:
        """Remove it again, and see that it is gone."""
        with self._ground(ctx) as ground:
            self._leave(ctx, ground)
        return Done()

    def report(self, ctx: StepContext) -> StepOutcome:
        """Write down how it went. Fails where what was restored is not what was backed up."""
        data = ctx.operation.data
        problems = [str(p) for p in data["problems"]]
        self._note(ctx, recovery_s=float(data["recovery_s"]), problems=problems)
        ctx.reach("report.noted")
        if problems:
            return Failed(
                error=DataDiffers(
                    f"backup {ctx.operation.request['backup']} does not restore to what it was: {problems[0]}",
                    hint="tenure backup verify BACKUP --full; take a new backup, and find out what is wrong with this",
                )
            )
        return Done()

    def abort(self, ctx: StepContext) -> None:
        """Nothing stays in the scratch place; that the drill has failed is noted, unless somebody has ended it."""
        with self._ground(ctx) as ground:
            if ctx.operation.data.get("was_open") is not None:
                self._leave(ctx, ground)
        ctx.reach("abort.left")
        if not ctx.operation.cancel_requested:
            why = (ctx.operation.error or {}).get("message", "it did not come to its end")
            self._note(ctx, recovery_s=0.0, problems=[str(why)])

    # -- parts -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _ground(self, ctx: StepContext) -> Iterator[_Ground]:
        request = ctx.operation.request
        tenant, cell = TenantId(str(ctx.operation.tenant)), cell_name(request["to"])
        names = captured(self._deps, cell)
        crew = Crew(f"drill-{tenant[:8]}", workers=2 * len(names))
        try:
            yield _Ground(
                tenant=tenant,
                record=self._deps.registry.backups.get(request["backup"]),
                region=request["region"],
                cell=cell,
                served=served(self._deps, tenant, cell, crew),
                fence=self._deps.fence(tenant, ctx.token),
                stores=names,
            )
        finally:
            crew.close()

    def _open(self, ground: _Ground) -> BackupReader:
        vaults, sealing = self._deps.backups()
        vault = vaults.vault(ground.region)
        for there in vault.shelf(ground.tenant).complete:
            if there.id == ground.record.id:
                return sealing.open(vault, there, tenant=ground.tenant)
        raise VaultDamaged(f"the vault of {ground.region} does not have backup {ground.record.id}")

    def _restoring(self, ground: _Ground, name: StoreName) -> Restoring:
        return ground.served.store(name).restoring(ground.tenant, ground.tenant)

    def _items(self, ground: _Ground, name: StoreName) -> int:
        return ground.served.store(name).inventory(ground.tenant).items

    def _writable(self, ground: _Ground) -> Callable[[StoreName], bool]:
        return lambda n: ground.served.store(n).fence_state(ground.tenant).writable

    def _still_scratch(self, ctx: StepContext, ground: _Ground) -> None:
        """Asks, and not the clock: what is removed here must not be what a tenant is served from."""
        ctx.require_lease()
        if ground.cell not in scratch_cells(self._deps, ground.tenant):
            raise NotAllowed(
                f"{ground.cell} is no place for a drill of {ground.tenant}: it serves it, is linked to the cell that "
                "does, or lies in a region that is not allowed",
                hint=f"choose one of {', '.join(scratch_cells(self._deps, ground.tenant)) or 'no cell'}",
            )

    def _fence(self, ground: _Ground) -> None:
        ground.served.each_anchored(
            lambda n: ground.served.store(n).fence(ground.fence, expires_in_s=None, drain_s=DRAIN_S)
        )

    def _erase(self, ctx: StepContext, ground: _Ground) -> None:
        ctx.require_lease()
        ground.served.each(lambda n: ground.served.store(n).erase(ground.fence))

    def _leave(self, ctx: StepContext, ground: _Ground) -> None:
        """Everything as it was: nothing of the tenant, and open or closed to it as before."""
        self._still_scratch(ctx, ground)
        self._fence(ground)
        self._erase(ctx, ground)
        left = {n: i for n, i in ground.served.each(lambda n: self._items(ground, n)).items() if i}
        if left:
            raise DataDiffers(
                f"{ground.cell} still holds items of {ground.tenant} after the drill: {left}",
                hint="resume it; something writes there past the fence",
            )
        was_open = set(ctx.operation.data.get("was_open") or ())
        opening = [n for n in ground.served.draining() + ground.served.others() if n in was_open]
        closing_ = [n for n in ground.served.fenced() if n not in was_open]
        ground.served.each(lambda n: ground.served.store(n).open(ground.fence), opening)
        ground.served.each(lambda n: ground.served.store(n).retire(ground.fence), closing_)
        ctx.reach("clean.left")

    def _compare(
        self, ground: _Ground, source: BackupReader, loading: dict[StoreName, Restoring]
    ) -> list[str]:
        """What is not as it was at the backup's point: by the stores' own digests, and where one differs, by item."""
        inventories = ground.served.each(
            lambda n: ground.served.store(n).inventory(ground.tenant).collections
        )
        differing: set[StoreName] = set()
        for fact in source.collections():
            seen = inventories.get(fact.store, {}).get(fact.collection)
            same = fact.items == 0 if seen is None else (seen.items, seen.digest) == (fact.items, fact.digest)
            if not same:
                differing.add(ground.served.store(fact.store).capabilities.rides_with or fact.store)
        found: list[str] = []
        for name in sorted(differing):
            # A digest also differs by what has run out since: items that expire are no difference.
            found += [
                f"{name}, {d.collection}: {d.key} is {d.kind}" for d in loading[name].differences(source)
            ]
        return found

    def _pace(self, ctx: StepContext, name: StoreName) -> Pace:
        done = [0]

        def pace(*, items: int, size_bytes: int) -> None:
            ctx.check()
            done[0] += size_bytes
            ctx.progress(f"load {name}", done[0], None, "bytes", items=items)

        return pace

    def _note(self, ctx: StepContext, *, recovery_s: float, problems: Sequence[str]) -> None:
        backups = self._deps.registry.backups
        record, now = backups.get(ctx.operation.request["backup"]), backups.now()
        newest = backups.latest().get(record.tenant)
        point = newest.point_at if newest is not None and newest.point_at is not None else record.point_at
        assert point is not None
        drill = DrillRecord(
            operation=ctx.operation.id,
            backup=record.id,
            tenant=record.tenant,
            tier=self._deps.registry.tenants.get(record.tenant).tier,
            region=str(ctx.operation.request["region"]),
            at=now,
            equal=not problems,
            recovery_s=recovery_s,
            recovery_point_s=(now - point).total_seconds(),
            details={
                "in": ctx.operation.request["to"],
                "load_s": ctx.operation.data.get("load_s"),
                "items": ctx.operation.data.get("items", {}),
                "problems": list(problems),
            },
        )
        backups.drilled(ctx.lease, drill)
        ctx.record_result(
            recovery_s=drill.recovery_s,
            recovery_point_s=drill.recovery_point_s,
            equal=drill.equal,
            problems=list(problems),
        )
        ctx.event(
            "drill_succeeded" if drill.equal else "drill_failed",
            backup=record.id,
            tier=drill.tier,
            recovery_s=drill.recovery_s,
            recovery_point_s=drill.recovery_point_s,
            problems=list(problems),
        )


def drill_request(
    deps: Deps, record: BackupRecord, *, cell: str | None, region: str | None
) -> dict[str, Any]:
    """What a drill of that backup is asked for: in that cell, or the first that is empty; from that region's vault.

    Raises `NotAllowed` where there is no such place, `UsageError` where no vault has the backup.
    """
    places = scratch_cells(deps, record.tenant)
    if cell is not None:
        deps.estate.cell(cell)
        places = [place for place in places if place == cell]
    chosen = next((place for place in places if _usable(deps, record.tenant, place)), None)
    if chosen is None:
        raise NotAllowed(
            f"there is no place for a drill of {record.tenant}"
            + (f" in {cell}" if cell is not None else "")
            + ": it takes a cell that has nothing of it, is not linked to its own, and where its data may lie",
            hint="tenure tenant show says where its data is; --in CELL chooses",
        )
    good = [copy.region for copy in record.there if region is None or copy.region == region]
    if not good:
        raise UsageError(
            f"backup {record.id} is in no vault{f' of {region}' if region else ''}",
            hint=f"tenure backup show {record.id}",
        )
    serves = deps.registry.placements.get(record.tenant).cell
    return {"from": serves, "to": chosen, "backup": record.id, "region": good[0]}


def _usable(deps: Deps, tenant: TenantId, cell: CellName) -> bool:
    """Whether that cell is up and has nothing of the tenant."""
    names = captured(deps, cell)
    try:
        return not any(deps.factory.store(cell, n).inventory(tenant).items for n in names)
    except StoreUnavailable:
        return False
