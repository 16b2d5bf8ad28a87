"""Prune: backups that may go, by the tiers' rules, go; and after them the chunks that nobody needs any more.

A backup is deleted only after the control database knows that it is being deleted, and only if the rules still say so
at that moment, by the vault's clock and the control database's own. Chunks go by `Vault.collect`, which keeps whatever
a good manifest needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from tenure.engine.context import StepContext
from tenure.engine.spec import Done, OperationSpec, StepOutcome, StepSpec
from tenure.errors import StoreRefused
from tenure.model.backup import BackupCopy, BackupRecord, BackupState, CopyState
from tenure.model.names import TenantId
from tenure.model.operation import OperationState
from tenure.operations.backup.backup import QUIET_S
from tenure.operations.backup.taking import collect
from tenure.operations.deps import Deps
from tenure.plan.prune import PrunePlan, plan_prune
from tenure.plan.retention import Decision, Fate, Held, Policy, decide
from tenure.stores.vault.contract import Backup, Damaged


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What the rules say about a tenant's backups in one region."""

    region: str
    decisions: Sequence[Decision]


def policy_of(deps: Deps, tiers: Sequence[str]) -> Policy | None:
    """Of these tiers the one that keeps longest: a tenant that was given another tier loses nothing by it."""
    found = []
    for name in tiers:
        tier = deps.estate.tiers.get(name)
        if tier is not None and tier.backup is not None:
            found.append(
                Policy(
                    keep=timedelta(days=tier.backup.keep_days),
                    keep_at_least=tier.backup.keep_at_least,
                    period=timedelta(days=tier.backup.period_days),
                )
            )
        else:
            return None
    return max(found, key=lambda policy: (policy.keep, policy.keep_at_least), default=None)


def look(deps: Deps, tenant: TenantId) -> tuple[Kept, ...]:
    """Decide about every backup of the tenant, region by region. Reads only."""
    vaults, _ = deps.backups()
    known = deps.registry.tenants.get(tenant)
    records = {
        record.id: record
        for record in deps.registry.backups.list(tenant=tenant, states=(BackupState.COMPLETE,), limit=100_000)
    }
    now = deps.registry.backups.now()
    found = []
    for region in vaults.regions():
        shelf = vaults.vault(region).shelf(tenant)
        there: dict[str, Backup | Damaged] = {one.id: one for one in shelf.damaged}
        there |= {one.id: one for one in shelf.complete}
        noted = {
            record.id: copy
            for record in records.values()
            if (copy := record.copy_in(region)) is not None and copy.state is not CopyState.DELETED
        }
        held = [
            _held(deps, known.tier, name, records.get(name), noted.get(name), there.get(name))
            for name in {*there, *noted}
        ]
        found.append(Kept(region=region, decisions=decide(held, now=now, tenant_hold=known.legal_hold)))
    return tuple(found)


def _held(
    deps: Deps,
    tier: str,
    name: str,
    record: BackupRecord | None,
    copy: BackupCopy | None,
    there: Backup | Damaged | None,
) -> Held:
    """What is known of it, and what lies in its place."""
    known = Held(
        id=name,
        vault_stored_at=None,
        recorded_stored_at=copy.stored_at if copy is not None else None,
        policy=policy_of(deps, (record.tier, tier)) if record is not None else None,
        deleting=copy is not None and copy.state is CopyState.DELETING,
        same=False,
    )
    if there is None:
        return known
    if isinstance(there, Damaged):
        return replace(known, vault_stored_at=known.recorded_stored_at)
    said = (there.contents, there.key, there.tenant)
    return replace(
        known,
        vault_stored_at=there.stored_at,
        good=copy is not None and copy.good,
        same=record is not None and copy is not None and (copy.contents, record.key, record.tenant) == said,
        disputed=there.disputed or there.hidden,
        locked_until=there.lock.until if there.lock is not None else None,
        object_hold=there.legal_hold,
        size_bytes=there.size_bytes,
    )


def plan_now(deps: Deps, tenant: TenantId) -> PrunePlan:
    """What a prune of the tenant would delete now, and why everything else stays."""
    placement = deps.registry.placements.get(tenant)
    return plan_prune(
        tenant,
        deps.registry.tenants.get(tenant).tier,
        placement.cell,
        {kept.region: kept.decisions for kept in look(deps, tenant)},
    )


class Prune:
    """The steps of `tenure backup prune`."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps

    def spec(self) -> OperationSpec:
        return OperationSpec(
            kind="prune",
            steps=(
                StepSpec(name="choose", run=self.choose, phase="choosing"),
                StepSpec(name="delete", run=self.delete, phase="deleting"),
                StepSpec(name="collect", run=self.collect, phase="collecting"),
            ),
            abort=self.abort,
            ends_in=OperationState.SUCCEEDED,
        )

    def choose(self, ctx: StepContext) -> StepOutcome:
        """Write down what is to go: what was agreed to, or else what the rules say now."""
        plan = plan_now(self._deps, TenantId(str(ctx.operation.tenant)))
        agreed = ctx.operation.plan.get("deletes")
        chosen = plan.deletes if agreed is None else [(d["region"], d["backup"]) for d in agreed]
        ctx.remember(chosen=[[region, backup] for region, backup in chosen])
        ctx.reach("choose.chosen")
        return Done(result={"chosen": len(chosen), "lost": len(plan.lost), "foreign": len(plan.foreign)})

    def delete(self, ctx: StepContext) -> StepOutcome:
        """Delete what was chosen, one by one, where the rules still say so right before."""
        tenant = TenantId(str(ctx.operation.tenant))
        gone: list[list[str]] = []
        kept: list[dict[str, str]] = []
        for region, backup in self._chosen(ctx):
            ctx.check()
            why = self._stays(tenant, region, backup)
            if why is None:
                why = self._delete(ctx, tenant, region, backup)
            if why is None:
                gone.append([region, backup])
            else:
                self._keep(ctx, region, backup)
                kept.append({"region": region, "backup": backup, "because": why})
        ctx.record_result(deleted=gone, kept=kept)
        ctx.event("backups_pruned", deleted=gone, kept=kept)
        return Done(result={"deleted": len(gone), "kept": len(kept)})

    def collect(self, ctx: StepContext) -> StepOutcome:
        """What no complete backup needs any more."""
        tenant = TenantId(str(ctx.operation.tenant))
        vaults, _ = self._deps.backups()
        found: dict[str, Mapping[str, Any]] = {}
        for region in vaults.regions():
            ctx.check()
            found[region] = collect(ctx, vaults.vault(region), tenant, quiet_s=QUIET_S)
            ctx.reach("collect.collected")
        ctx.record_result(collected=found)
        return Done(result=found)

    def abort(self, ctx: StepContext) -> None:
        """What is deleted is deleted, and noted; what is still there is kept, and counted on again."""
        tenant = TenantId(str(ctx.operation.tenant))
        vaults, _ = self._deps.backups()
        for region, backup in self._chosen(ctx):
            record = self._deps.registry.backups.get(backup)
            copy = record.copy_in(region)
            if copy is None or copy.state is not CopyState.DELETING:
                continue
            shelf = vaults.vault(region).shelf(tenant)
            if backup in {*(one.id for one in shelf.complete), *(one.id for one in shelf.damaged)}:
                self._keep(ctx, region, backup)
            else:
                self._deps.registry.backups.deleted(ctx.lease, backup, region)
        ctx.reach("abort.noted")

    # -- parts -------------------------------------------------------------------------------------------------------

    def _chosen(self, ctx: StepContext) -> list[tuple[str, str]]:
        return [(str(region), str(backup)) for region, backup in ctx.operation.data.get("chosen", ())]

    def _stays(self, tenant: TenantId, region: str, backup: str) -> str | None:
        """Why it is not deleted after all; None if it is to go, or has gone."""
        copy = self._deps.registry.backups.get(backup).copy_in(region)
        if copy is not None and copy.state is CopyState.DELETED:
            return None
        for kept in look(self._deps, tenant):
            for decision in kept.decisions:
                if (kept.region, decision.backup) == (region, backup):
                    return None if decision.fate is Fate.DELETE else decision.because
        return "it is not there, and was not when this began"

    def _delete(self, ctx: StepContext, tenant: TenantId, region: str, backup: str) -> str | None:
        """Delete it; why not, if the vault's server refuses."""
        vaults, _ = self._deps.backups()
        backups = self._deps.registry.backups
        copy = backups.get(backup).copy_in(region)
        if copy is not None and copy.state is CopyState.DELETED:
            return None
        backups.deleting(ctx.lease, backup, region, because=f"pruned by {ctx.operation.id}")
        ctx.reach("delete.noted")
        ctx.require_lease()
        try:
            vaults.vault(region).delete(tenant, backup)
        except StoreRefused as error:
            return error.message
        ctx.reach("delete.deleted")
        backups.deleted(ctx.lease, backup, region)
        ctx.reach("delete.recorded")
        ctx.event("backup_deleted", backup=backup, region=region)
        return None

    def _keep(self, ctx: StepContext, region: str, backup: str) -> None:
        self._deps.registry.backups.keep_after_all(ctx.lease, backup, region)
