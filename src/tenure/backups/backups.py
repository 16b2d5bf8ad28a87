"""Backups with the estate's keys: begun, carried on, opened, verified and copied, in whichever vault."""

from __future__ import annotations

from collections.abc import Sequence

from tenure.backups.copying import Copied, copy_backup
from tenure.backups.keys import Described, Destruction, KeyService, current
from tenure.backups.putting import PATIENCE_S
from tenure.backups.reading import BackupReader, require_key, verify_manifest
from tenure.backups.sealing import Sealer
from tenure.backups.signing import Signer, Trust
from tenure.backups.verifying import Progress, Verification, quiet, verify
from tenure.backups.writing import BackupWriter
from tenure.errors import KeyUnusable
from tenure.model.names import TenantId
from tenure.stores.vault.contract import Backup, BackupId, KeyReference, Lock, Vault


class Backups:
    """Implements what operations need of backups, over a key service and the estate's signature. Thread-safe."""

    def __init__(self, keys: KeyService, signer: Signer, trust: Trust) -> None:
        self._keys = keys
        self.signer = signer
        self.trust = trust

    # -- making ------------------------------------------------------------------------------------------------------

    def begin(
        self,
        vault: Vault,
        tenant: TenantId,
        backup: BackupId,
        *,
        lock: Lock | None = None,
        patience_s: float = PATIENCE_S,
    ) -> BackupWriter:
        """A new backup, sealed with the tenant's newest key, or its first. A vault that cannot be reached is asked
        again for `patience_s`. Raises as `Vault.begin` does."""
        sealer = self._sealer(current(self._keys, tenant), tenant)
        return BackupWriter(
            vault.begin(tenant, backup, key=sealer.reference, lock=lock), sealer, patience_s=patience_s
        )

    def resume(
        self, vault: Vault, tenant: TenantId, backup: BackupId, *, patience_s: float = PATIENCE_S
    ) -> BackupWriter:
        """Carry on what another process began, with the key that it used: what it has put is not put again, but its
        streams have to be written anew. Raises `LeaseLost` if the backup is no longer unfinished."""
        writing = vault.resume(tenant, backup)
        return BackupWriter(writing, self._sealer(writing.key, tenant), patience_s=patience_s)

    def copy(
        self,
        source: Vault,
        backup: Backup,
        target: Vault,
        *,
        tenant: TenantId,
        lock: Lock | None = None,
        progress: Progress = quiet,
    ) -> Copied:
        """See `copying.copy_backup`. Opens no key."""
        return copy_backup(source, backup, target, self.trust, tenant=tenant, lock=lock, progress=progress)

    # -- reading -----------------------------------------------------------------------------------------------------

    def open(self, vault: Vault, backup: Backup, *, tenant: TenantId) -> BackupReader:
        """The contents of a backup of that tenant.

        Raises `BackupUntrusted` or `BackupTooNew` for its manifest, `KeyUnusable` for its key, `VaultDamaged`.
        """
        known = verify_manifest(vault, backup, self.trust, tenant=tenant)
        sealer = self._sealer(known.public.key, tenant)
        require_key(known.public, sealer)
        return BackupReader(vault, known, sealer)

    def verify(
        self,
        vault: Vault,
        backup: Backup,
        *,
        tenant: TenantId,
        share: float | None = None,
        with_key: bool = True,
        progress: Progress = quiet,
    ) -> Verification:
        """See `verifying.verify`. A key that cannot be used is a finding: nothing could be restored."""
        refusal: KeyUnusable | None = None
        sealer = None
        if with_key:
            try:
                sealer = self._sealer(backup.key, tenant)
            except KeyUnusable as error:
                refusal = error
        return verify(
            vault,
            backup,
            self.trust,
            tenant=tenant,
            sealer=sealer,
            share=share,
            refusal=refusal,
            progress=progress,
        )

    # -- keys --------------------------------------------------------------------------------------------------------

    def rotate(self, tenant: TenantId) -> KeyReference:
        """A new data key for the backups to come; older ones stay readable with theirs. The next backup puts everything
        anew: under another key, equal contents have other ids."""
        return self._keys.create(tenant)

    def keys_of(self, tenant: TenantId) -> Sequence[KeyReference]:
        return self._keys.references(tenant)

    def destroy_keys(self, tenant: TenantId) -> Sequence[Destruction]:
        """Destroy every key of the tenant: none of its backups, in whatever vault or copy, can be read from then on.
        Idempotent; after an interruption, call it again."""
        return tuple(self._keys.destroy(reference) for reference in self._keys.references(tenant))

    def destroy_key(self, reference: KeyReference) -> Destruction:
        """Destroy one key, and show that it is gone. Idempotent."""
        return self._keys.destroy(reference)

    def describe_keys(self) -> Described:
        return self._keys.describe()

    def _sealer(self, reference: KeyReference, tenant: TenantId) -> Sealer:
        key = self._keys.open(reference)
        if key.tenant != tenant:
            raise KeyUnusable(f"the key {reference} is not {tenant}'s")
        return Sealer(key)
