"""Opens a backup: from whichever vault has it whole, verified before anything of it is believed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tenure.backups.contract import Source
from tenure.backups.manifest import Public
from tenure.errors import BackupUntrusted, NotAllowed, StoreUnavailable, UnknownName, VaultDamaged
from tenure.model.backup import BackupRecord, BackupState
from tenure.operations.deps import Deps
from tenure.plan.restore import BackupFacts
from tenure.stores.vault.contract import Backup


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A backup whose manifest has been verified, and its contents."""

    facts: BackupFacts
    source: Source
    public: Public
    """Its manifest."""


def known(deps: Deps, backup: str) -> BackupRecord:
    """What the control database knows of a backup that can be restored. Raises `UnknownName`, `NotAllowed`."""
    record = deps.registry.backups.get(backup)
    if record.state is not BackupState.COMPLETE or not record.there:
        raise NotAllowed(
            f"backup {backup} of {record.tenant} is {record.state}, and no vault has it",
            hint=f"`tenure backup list {record.tenant}` shows those that can be restored",
        )
    return record


@contextmanager
def opened(deps: Deps, backup: str, *, near: str) -> Iterator[Opened]:
    """Open it with the tenant's key, from the vault of region `near` if that has it, else from another one.

    Raises what is wrong with the last copy that was tried: `VaultDamaged`, `BackupUntrusted`, `KeyUnusable`.
    """
    record = known(deps, backup)
    vaults, sealing = deps.backups()
    regions = sorted((copy.region for copy in record.there), key=lambda region: (region != near, region))
    problem: VaultDamaged | BackupUntrusted | StoreUnavailable | NotAllowed | None = None
    for region in regions:
        try:
            vault = vaults.vault(region)
            reader = sealing.open(vault, _there(deps, record, region), tenant=record.tenant)
        except (VaultDamaged, BackupUntrusted, StoreUnavailable, NotAllowed) as error:
            problem = error
            continue
        try:
            yield Opened(facts=_facts(record), source=reader, public=reader.public)
        finally:
            reader.close()
        return
    assert problem is not None
    raise problem


def _there(deps: Deps, record: BackupRecord, region: str) -> Backup:
    """The backup in that vault, if it is the one that the control database knows."""
    vaults, _ = deps.backups()
    for found in vaults.vault(region).shelf(record.tenant).complete:
        if found.id == record.id:
            if found.contents != record.contents:
                raise BackupUntrusted(
                    f"backup {record.id} of {record.tenant} in the vault of {region} is not the one that was made: its "
                    "list of chunks is another one",
                    hint=f"tenure backup verify {record.id}",
                )
            return found
    raise VaultDamaged(f"the vault of {region} does not have backup {record.id} of {record.tenant} any more")


def _facts(record: BackupRecord) -> BackupFacts:
    if record.point_at is None or record.contents is None:
        raise UnknownName(f"backup {record.id} is not complete")
    return BackupFacts(
        id=record.id,
        tenant=record.tenant,
        point=record.point_at,
        cell=record.cell,
        manifest=record.contents,
        size_bytes=record.size_bytes or 0,
        items=record.items or 0,
    )
