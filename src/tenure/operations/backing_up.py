"""The use cases of backups: plan and take, list, verify, prune; and which are due."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tenure.backups.verifying import Verification
from tenure.engine.engine import Engine
from tenure.engine.observer import Observer, Progressed, nobody
from tenure.engine.spec import OperationSpec
from tenure.errors import NotAllowed, PlanStale, UnknownName, UsageError
from tenure.model.backup import BackupRecord, BackupState, Depth, DrillRecord
from tenure.model.names import TenantId, tenant_id
from tenure.model.operation import Operation
from tenure.operations.backup.backup import SAMPLE, TenantBackup
from tenure.operations.backup.drill import Drill, drill_request
from tenure.operations.backup.observe import observe
from tenure.operations.backup.prune import Prune, plan_now
from tenure.operations.deps import Deps
from tenure.operations.fleet import Fleet
from tenure.operations.free import require_free
from tenure.operations.restore.archive import opened
from tenure.operations.restore.erased import erasures_of
from tenure.plan.backup import BackupPlan, plan_backup
from tenure.plan.backup_schedule import Past, Timetable, due
from tenure.plan.prune import PrunePlan
from tenure.registry.fires import Wanted
from tenure.stores.vault.contract import Backup

if TYPE_CHECKING:
    from tenure.backups.export import Export

PeriodOf = Callable[[str, datetime], datetime]
"""When the period of a schedule began in which that instant lies; the schedule as `tenure.yaml` has it."""
MOST: Final = 100_000


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a verification in one region has found. `verification` is None where the vault does not have the backup."""

    region: str
    verification: Verification | None
    problems: tuple[str, ...]


class BackingUp:
    """What the entry points call for `tenure backup`."""

    def __init__(self, deps: Deps, engine: Engine, fleet: Fleet, *, actor: str) -> None:
        self._deps = deps
        self._engine = engine
        self._fleet = fleet
        self._actor = actor

    # -- backups -----------------------------------------------------------------------------------------------------

    def plan(self, text: str) -> BackupPlan:
        """What a backup of the tenant would be. Reads only."""
        tenant = self._known(text)
        require_free(self._deps, tenant)
        return plan_backup(observe(self._deps, tenant))

    def create(self, text: str, *, apply: str | None, observer: Observer, here: bool = True) -> Operation:
        """Take a backup. Raises `NotAllowed` with every finding that refuses it, `TenantLocked`, `PlanStale`."""
        plan = self.plan(text)
        self._agreed(plan.digest, apply)
        if plan.refusals:
            raise NotAllowed(
                f"the backup of {plan.tenant} is refused by {len(plan.refusals)} finding(s)",
                findings=tuple(f"{f.where}: {f.message}. Fix: {f.cure}" for f in plan.refusals),
                hint="mend what the findings name, then plan again",
            )
        request = _request(plan)
        operation = self._engine.create(
            TenantBackup(self._deps).spec(copies=plan.keeping.copy_to is not None),
            tenant=plan.tenant,
            request=request,
            plan=plan.as_dict(),
            plan_digest=plan.digest,
            requested_by=self._actor,
        )
        return self._fleet.run(operation, observer, here=here)

    def list(self, text: str | None, *, every: bool = False, limit: int = 1000) -> tuple[BackupRecord, ...]:
        """The backups of one tenant or all, the newest first; with `every` also those that were begun and are not
        there, and those that were pruned."""
        tenant = None if text is None else tenant_id(text)
        states = tuple(BackupState) if every else (BackupState.COMPLETE,)
        found = self._deps.registry.backups.list(tenant=tenant, states=states, limit=limit)
        return found if every else tuple(one for one in found if one.there)

    def get(self, backup: str) -> BackupRecord:
        """The backup of that id, or the newest one of that tenant. Raises `UnknownName`."""
        try:
            return self._deps.registry.backups.get(backup)
        except UnknownName:
            newest = next((one for one in self._of_tenant(backup) if one.there), None)
            if newest is None:
                raise
            return newest

    def verify(
        self,
        backup: str,
        *,
        region: str | None = None,
        full: bool = False,
        with_key: bool = True,
        observer: Observer = nobody,
    ) -> tuple[BackupRecord, tuple[Checked, ...]]:
        """Look whether a backup could be restored, in each region that has it or in one: a sample of its chunks, or
        every byte. Needs neither the tenant's cell nor, without `with_key`, its key. What was found is noted."""
        vaults, sealing = self._deps.backups()
        record = self.get(backup)
        regions = [copy.region for copy in record.there if region is None or copy.region == region]
        if not regions:
            raise UsageError(
                f"backup {record.id} is in no vault{f' of {region}' if region else ''}",
                hint=f"tenure backup show {record.id}",
            )
        depth = Depth.FULL if full else Depth.SAMPLE
        found = []
        for where in regions:
            there = self._in_vault(record, where)
            if there is None:
                checked = Checked(
                    region=where, verification=None, problems=(f"the vault of {where} does not have it",)
                )
            else:
                verification = sealing.verify(
                    vaults.vault(where),
                    there,
                    tenant=record.tenant,
                    share=None if full else SAMPLE,
                    with_key=with_key,
                    progress=_shown(observer, where, there.size_bytes),
                )
                checked = Checked(
                    region=where,
                    verification=verification,
                    problems=tuple(p.message for p in verification.problems),
                )
            if with_key or checked.problems:
                # Without the key nobody can say that it is whole; that it is not can be said.
                self._deps.registry.backups.verified(
                    None, record.id, where, depth=depth, problems=checked.problems
                )
            found.append(checked)
        return record, tuple(found)

    # -- exports -----------------------------------------------------------------------------------------------------

    def export(
        self, backup: str, folder: Path, *, region: str | None = None, observer: Observer = nobody
    ) -> tuple[BackupRecord, Export]:
        """Write a backup (a tenant's newest one) into a new folder as files that anybody reads. Who did it is noted
        before the first byte. Raises `NotAllowed` for what was erased since."""
        # Parquet takes long to load, and no other command needs it.
        from tenure.backups.export import export

        record = self.get(backup)
        near = region or next((copy.region for copy in record.there), "")
        if region is not None and region not in {copy.region for copy in record.there}:
            raise UsageError(
                f"backup {record.id} is in no vault of {region}", hint=f"tenure backup show {record.id}"
            )
        with opened(self._deps, record.id, near=near) as found:
            erased = erasures_of(self._deps.registry.erasures, self._deps.ledger, record.tenant, found.facts)
            if erased:
                raise NotAllowed(
                    f"backup {record.id} is not exported",
                    findings=tuple(f"{f.where}: {f.message}. Fix: {f.cure}" for f in erased),
                )
            self._note("backup_export_begun", record)
            done = export(
                found.source,
                found.public,
                self._deps.exporters(),
                folder,
                progress=_counted(observer, found.facts.items),
            )
        self._note(
            "backup_exported",
            record,
            rows=sum(one.rows for one in done.collections),
            left_out=[one.collection for one in done.left_out],
        )
        return record, done

    def _note(self, action: str, record: BackupRecord, **data: Any) -> None:
        self._deps.registry.events.append(
            action, actor=self._actor, tenant=record.tenant, data={"backup": record.id, **data}
        )

    # -- drills ------------------------------------------------------------------------------------------------------

    def drill(
        self,
        backup: str,
        *,
        cell: str | None = None,
        region: str | None = None,
        observer: Observer,
        here: bool = True,
    ) -> Operation:
        """Restore a backup (a tenant's newest one) into a cell that has nothing of the tenant, compare, and remove it
        again. Raises `NotAllowed` where there is no such cell."""
        record = self.get(backup)
        self._known(record.tenant)
        require_free(self._deps, record.tenant)
        request = drill_request(self._deps, record, cell=cell, region=region)
        operation = self._engine.create(
            Drill(self._deps).spec(), tenant=record.tenant, request=request, requested_by=self._actor
        )
        return self._fleet.run(operation, observer, here=here)

    def drills(self, tier: str | None = None) -> tuple[DrillRecord, ...]:
        """The drills, the newest first."""
        return self._deps.registry.backups.drills(tier=tier)

    # -- prunes ------------------------------------------------------------------------------------------------------

    def plan_prune(self, text: str) -> PrunePlan:
        """What a prune would delete, and why everything else stays. Reads only."""
        tenant = self._known(text)
        require_free(self._deps, tenant)
        return plan_now(self._deps, tenant)

    def prune(self, text: str, *, apply: str | None, observer: Observer, here: bool = True) -> Operation:
        """Delete the backups of a tenant that may go, and what nobody needs any more."""
        plan = self.plan_prune(text)
        self._agreed(plan.digest, apply)
        operation = self._engine.create(
            Prune(self._deps).spec(),
            tenant=plan.tenant,
            request={"from": plan.cell, "to": plan.cell},
            plan=plan.as_dict(),
            plan_digest=plan.digest,
            requested_by=self._actor,
        )
        return self._fleet.run(operation, observer, here=here)

    # -- what schedules ask for --------------------------------------------------------------------------------------

    def due(self, period_of: PeriodOf) -> Iterator[Wanted]:
        """The backups that the tiers' schedules ask for now, the highest tier first. Nothing in an estate that makes
        none."""
        if self._deps.sealing is None:
            return
        registry, now = self._deps.registry, self._deps.registry.backups.now()
        tables = {
            name: Timetable(
                rank=tier.rank,
                period=period_of(tier.backup.every, now),
                window=timedelta(hours=tier.backup.window_h),
                copy_to=tier.backup.copy_to,
            )
            for name, tier in self._deps.estate.tiers.items()
            if tier.backup is not None and tier.backup.every is not None
        }
        past = {
            tenant: Past(point_at=seen.point_at, regions=seen.regions, tried_at=seen.tried_at)
            for tenant, seen in registry.backups.latest().items()
        }
        tenants = [(tenant.id, tenant.tier) for tenant in registry.tenants.list()]
        for one in due(tenants, tables, past, now=now):
            if registry.operations.active_for(one.tenant) is None:
                yield self._wanted(one.tenant, one.period)

    def prunes_due(self) -> Iterator[Wanted]:
        """Prunes of the tenants some backup of which is past the days that its tier keeps it. Asks no vault: a prune
        looks for itself."""
        if self._deps.sealing is None:
            return
        registry, now = self._deps.registry, self._deps.registry.backups.now()
        tiers = self._deps.estate.tiers
        seen: set[TenantId] = set()
        tenants = {tenant.id: tenant for tenant in registry.tenants.list()}
        for record in registry.backups.list(limit=MOST):
            tier = tiers.get(record.tier)
            tenant = tenants.get(record.tenant)
            if tenant is None or record.tenant in seen or tier is None or tier.backup is None:
                continue
            keep = timedelta(days=tier.backup.keep_days)
            old = any(copy.stored_at + keep <= now for copy in record.there)
            if old and tenant.legal_hold is None and registry.operations.active_for(record.tenant) is None:
                seen.add(record.tenant)
                cell = registry.placements.get(record.tenant).cell
                yield Wanted(
                    kind="prune",
                    tenant=record.tenant,
                    steps=Prune(self._deps).spec().step_names(),
                    request={"from": cell, "to": cell},
                )

    def drills_due(self, period_of: PeriodOf) -> Iterator[Wanted]:
        """For each tier that asks for drills and had none in this period, of the tenant whose last one is oldest."""
        if self._deps.sealing is None:
            return
        registry, now = self._deps.registry, self._deps.registry.backups.now()
        for name, tier in self._deps.estate.tiers.items():
            if tier.backup is None or tier.backup.drill is None:
                continue
            past = registry.backups.drills(tier=name, limit=MOST)
            if any(drill.at >= period_of(tier.backup.drill, now) for drill in past):
                continue
            last = {drill.tenant: drill.at for drill in reversed(past)}
            tenants = [tenant.id for tenant in registry.tenants.list() if tenant.tier == name]
            for tenant in sorted(tenants, key=lambda t: (t in last, last.get(t, now), t)):
                wanted = self._drill_wanted(tenant)
                if wanted is not None:
                    yield wanted
                    break

    # -- specifications ----------------------------------------------------------------------------------------------

    def specs(self, operation: Operation) -> Mapping[str, Callable[[], OperationSpec]]:
        """How each kind of these operations is carried out."""
        return {
            "backup": lambda: TenantBackup(self._deps).spec(
                copies=operation.request.get("copy_to") is not None
            ),
            "prune": Prune(self._deps).spec,
            "drill": Drill(self._deps).spec,
        }

    # -- parts -------------------------------------------------------------------------------------------------------

    def _wanted(self, tenant: TenantId, period: datetime) -> Wanted:
        """As `create`, but what refuses it is found by its preflight: a schedule has nobody to tell."""
        cell = self._deps.registry.placements.get(tenant).cell
        region = self._deps.estate.cell(cell).region
        tier = self._deps.tier(tenant)
        assert tier.backup is not None
        copy_to = tier.backup.copy_to if tier.backup.copy_to != region else None
        until = self._deps.registry.backups.now() + timedelta(days=tier.backup.keep_days, hours=1)
        return Wanted(
            kind="backup",
            tenant=tenant,
            steps=TenantBackup(self._deps).spec(copies=copy_to is not None).step_names(),
            request={
                "from": cell,
                "to": cell,
                "region": region,
                "copy_to": copy_to,
                "lock": tier.backup.lock,
                "locked_until": until.isoformat() if tier.backup.lock is not None else None,
                "period": period.isoformat(),
            },
        )

    def _drill_wanted(self, tenant: TenantId) -> Wanted | None:
        """A drill of the tenant's newest good backup, if it has one and a place for it."""
        if self._deps.registry.operations.active_for(tenant) is not None:
            return None
        for record in self._deps.registry.backups.list(tenant=tenant, limit=50):
            if any(copy.good for copy in record.copies):
                try:
                    request = drill_request(self._deps, record, cell=None, region=None)
                except NotAllowed:
                    return None
                steps = Drill(self._deps).spec().step_names()
                return Wanted(kind="drill", tenant=tenant, steps=steps, request=request)
        return None

    def _in_vault(self, record: BackupRecord, region: str) -> Backup | None:
        vaults, _ = self._deps.backups()
        shelf = vaults.vault(region).shelf(record.tenant)
        return next((one for one in shelf.complete if one.id == record.id), None)

    def _of_tenant(self, text: str) -> Sequence[BackupRecord]:
        try:
            return self._deps.registry.backups.list(tenant=tenant_id(text), limit=50)
        except UsageError:
            return ()

    def _known(self, text: str) -> TenantId:
        return self._deps.registry.tenants.get(tenant_id(text)).id

    @staticmethod
    def _agreed(digest: str, apply: str | None) -> None:
        if apply is not None and apply != digest:
            raise PlanStale(
                f"the plan has changed: {apply} was agreed to, {digest} is what would be done now",
                hint="look at the new plan with --plan",
            )


def _request(plan: BackupPlan) -> dict[str, Any]:
    keeping = plan.keeping
    return {
        "from": plan.cell,
        "to": plan.cell,
        "region": keeping.region,
        "copy_to": keeping.copy_to,
        "lock": keeping.lock,
        "locked_until": keeping.locked_until.isoformat() if keeping.locked_until is not None else None,
    }


def _counted(observer: Observer, total: int) -> Callable[[int], None]:
    done = [0]

    def progress(rows: int) -> None:
        done[0] += rows
        observer(
            Progressed(
                operation="",
                step="export",
                what="export",
                done=done[0],
                total=max(total, done[0]),
                unit="items",
                detail={},
            )
        )

    return progress


def _shown(observer: Observer, region: str, total: int) -> Callable[[int, int], None]:
    done = [0]

    def progress(chunks: int, size_bytes: int) -> None:
        del chunks
        done[0] += size_bytes
        observer(
            Progressed(
                operation="",
                step="verify",
                what=f"verify in {region}",
                done=done[0],
                total=max(total, done[0]),
                unit="bytes",
                detail={},
            )
        )

    return progress
