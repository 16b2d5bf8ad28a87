"""Backups of an erased tenant: their keys are destroyed first, then it is shown that none can be opened, and then what
no lock keeps is deleted.

Which keys and backups there were is kept before the first one goes: a repeated attempt finds fewer, and must not take
that for fewer to show.
"""

from __future__ import annotations

from typing import Any

from tenure.backups.backups import Backups
from tenure.engine.context import StepContext
from tenure.errors import BackupUntrusted, KeyUnusable, StoreRefused, VaultDamaged
from tenure.model.backup import CopyState
from tenure.model.names import TenantId
from tenure.operations.deps import Deps, Vaults
from tenure.operations.erase.parts import Parts
from tenure.stores.contract import Fence
from tenure.stores.vault.contract import Backup, KeyReference

DRAIN_S = 30.0


class Sealed:
    """One attempt of the step `keys`."""

    def __init__(self, deps: Deps, ctx: StepContext, parts: Parts, fence: Fence) -> None:
        self._deps = deps
        self._ctx = ctx
        self._parts = parts
        self._fence = fence
        self._tenant: TenantId = fence.tenant

    def run(self) -> dict[str, Any]:
        ctx = self._ctx
        vaults, sealing = self._deps.backups()
        self._hold()
        keys, backups = self._known(vaults, sealing)
        ctx.reach("keys.listed")
        ctx.require_lease()
        for reference, its in keys.items():
            gone = sealing.destroy_key(KeyReference(reference))
            its.update(proof=gone.proof, leaves=gone.leaves)
        ctx.remember(keys=keys)
        ctx.event("keys_destroyed", keys=sorted(keys))
        ctx.reach("keys.destroyed")
        self._prove(vaults, sealing, backups)
        ctx.remember(backups=backups)
        ctx.reach("keys.proved")
        self._delete()
        ctx.reach("keys.deleted")
        self._note(vaults, backups)
        return {"keys": len(keys), "backups": len(backups)}

    def release(self) -> None:
        """Hold the vaults no more: the tenant is about to be nobody's. Idempotent."""
        for part in self._parts.sealed():
            self._parts.store(part).retire(self._fence)

    def _hold(self) -> None:
        for part in self._parts.sealed():
            self._parts.store(part).fence(self._fence, expires_in_s=None, drain_s=DRAIN_S)
        self._ctx.reach("keys.held")

    def _known(self, vaults: Vaults, sealing: Backups) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """All keys and backups there are, and those of an earlier attempt."""
        data = self._ctx.operation.data
        keys: dict[str, Any] = {name: dict(its) for name, its in data.get("keys", {}).items()}
        backups = [dict(one) for one in data.get("backups", ())]
        for reference in sealing.keys_of(self._tenant):
            keys.setdefault(reference, {"proof": None, "leaves": ""})
        listed = {(one["region"], one["id"]) for one in backups}
        for region in vaults.regions():
            for there in vaults.vault(region).shelf(self._tenant).complete:
                if (region, there.id) not in listed:
                    backups.append({"region": region, "id": there.id, "proof": None, "kept_until": None})
        self._ctx.remember(keys=keys, backups=backups)
        return keys, backups

    def _prove(self, vaults: Vaults, sealing: Backups, backups: list[dict[str, Any]]) -> None:
        there = {
            (region, backup.id): backup
            for region in vaults.regions()
            for backup in vaults.vault(region).shelf(self._tenant).complete
        }
        for one in backups:
            self._ctx.check()
            backup = there.get((one["region"], one["id"]))
            if backup is not None:
                one["proof"] = self._opened(vaults, sealing, one["region"], backup)
            elif one["proof"] is None:
                one["proof"] = "it is not in the vault any more"

    def _opened(self, vaults: Vaults, sealing: Backups, region: str, backup: Backup) -> str:
        """How opening it fails. Raises `KeyUnusable` if it does not."""
        try:
            sealing.open(vaults.vault(region), backup, tenant=self._tenant)
        except KeyUnusable as refusal:
            return f"opening it was tried and failed: {refusal.message}"
        except (BackupUntrusted, VaultDamaged) as refusal:
            return f"it was no backup that can be read: {refusal.message}"
        raise KeyUnusable(
            f"backup {backup.id} in {region} can be opened although its key was destroyed",
            hint="find out which key service has it; nothing is certified before",
        )

    def _delete(self) -> None:
        for part in self._parts.sealed():
            self._ctx.require_lease()
            try:
                self._parts.store(part).erase(self._fence)
            except (
                StoreRefused
            ) as kept:  # what a lock keeps is counted afterwards, and named in the certificate
                self._ctx.event("kept_by_lock", cell=part.cell, store=part.store, because=kept.message)

    def _note(self, vaults: Vaults, backups: list[dict[str, Any]]) -> None:
        """Write down what is gone, and until when the rest stays."""
        ctx, registry = self._ctx, self._deps.registry.backups
        for region in vaults.regions():
            shelf = vaults.vault(region).shelf(self._tenant)
            there = {b.id: b for b in shelf.complete}
            for one in backups:
                if one["region"] == region and one["id"] in there:
                    lock = there[one["id"]].lock
                    one["kept_until"] = None if lock is None else lock.until.isoformat()
            for record in registry.list(tenant=self._tenant, limit=100_000):
                copy = record.copy_in(region)
                if copy is None or copy.state is CopyState.DELETED or record.id in there:
                    continue
                registry.deleting(ctx.lease, record.id, region, because=f"erased by {ctx.operation.id}")
                registry.deleted(ctx.lease, record.id, region)
        ctx.remember(backups=backups)
