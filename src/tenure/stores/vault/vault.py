"""A vault in an S3 bucket, with or without versions and locks."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from botocore.exceptions import ClientError

from tenure.errors import FenceRefused, LeaseLost, StoreRefused, VaultDamaged
from tenure.model.names import TenantId
from tenure.stores.buckets.errors import code_of, translated
from tenure.stores.buckets.listing import Version
from tenure.stores.vault.access import ABSENT_NOW, Access, Found
from tenure.stores.vault.collecting import collect
from tenure.stores.vault.contract import (
    Backup,
    BackupId,
    ChunkId,
    Collected,
    Contents,
    Damaged,
    KeyReference,
    Lock,
    LockMode,
    Rules,
    Shelf,
    Unfinished,
)
from tenure.stores.vault.holder import Holding
from tenure.stores.vault.layout import (
    COMPLETE,
    ENDED,
    OPEN,
    Layout,
    Record,
    checked_backup,
    checked_key,
    digest_of,
    list_owner,
    parse_list,
    parse_record,
    parse_upload,
)
from tenure.stores.vault.writing import BucketWriting, backup_of, delete_oldest_first, end, version_id

DAYS_A_YEAR: Final = 365


class BucketVault:
    """Implements `tenure.stores.vault.contract.Vault`. `layout` gives a tenant's part of the bucket, `where` is how
    messages name the vault, `above` what all tenants' parts begin with."""

    def __init__(
        self, *, access: Access, layout: Callable[[TenantId], Layout], where: str, above: str
    ) -> None:
        self._access = access
        self._layout = layout
        self._where = where
        self._above = above

    # -- the bucket --------------------------------------------------------------------------------------------------

    def rules(self) -> Rules:
        client, bucket = self._access.client, self._access.bucket
        with translated(self._where):
            versioned = client.get_bucket_versioning(Bucket=bucket).get("Status") == "Enabled"
            locks = self._access.locks()
            expiring = tuple(self._expiring())
        default = (locks or {}).get("Rule", {}).get("DefaultRetention", {})
        days = default.get("Days") or DAYS_A_YEAR * default.get("Years", 0)
        return Rules(
            versioned=versioned,
            locks=locks is not None,
            locks_by_default=LockMode(default["Mode"]) if default.get("Mode") else None,
            default_days=days or None,
            expiring=expiring,
        )

    def _expiring(self) -> Iterator[str]:
        """The lifecycle rules that delete current objects where tenants' parts are."""
        try:
            answer = self._access.client.get_bucket_lifecycle_configuration(Bucket=self._access.bucket)
        except ClientError as error:
            if code_of(error) in ("NoSuchLifecycleConfiguration", "NotImplemented"):
                return
            raise
        for n, rule in enumerate(answer.get("Rules", [])):
            ends = rule.get("Expiration", {})
            only = rule.get("Filter", {})
            start = str(rule.get("Prefix") or only.get("Prefix") or only.get("And", {}).get("Prefix") or "")
            meets = start.startswith(self._above) or self._above.startswith(start)
            if rule.get("Status") == "Enabled" and meets and (ends.get("Days") or ends.get("Date")):
                yield str(rule.get("ID") or f"rule {n + 1}")

    # -- writing -----------------------------------------------------------------------------------------------------

    def begin(
        self, tenant: TenantId, backup: BackupId, *, key: KeyReference, lock: Lock | None = None
    ) -> BucketWriting:
        record = Record(
            state=OPEN,
            tenant=tenant,
            backup=checked_backup(backup),
            key=checked_key(key),
            tag=secrets.token_hex(6),
            turn=uuid.uuid4().hex,
            lock=lock,
        )
        layout = self._layout(tenant)
        with translated(self._where):
            if lock is not None and self._access.locks() is None:
                raise StoreRefused(
                    f"{self._where}: bucket {self._access.bucket} locks no objects",
                    hint="object lock is switched on when a bucket is made; or back up without a lock",
                )
            etag = self._access.swap(layout.backup(backup), record.encoded(), ABSENT_NOW)
        if etag is None:
            raise StoreRefused(
                f"{self._where}: there is a backup {backup} of {tenant} already",
                hint="resume it if it is unfinished; ids are never used twice",
            )
        writing = BucketWriting(self._access, layout, self._where, record, etag)
        # After the record stands: whoever comes to hold the tenant, or to condemn uploads, sees this writing.
        with translated(self._where):
            held = not Holding(self._access, tenant).state().writable
        if held:
            writing.abandon()
            raise FenceRefused(f"{self._where}: {tenant} is being erased, so no backup of it is begun")
        writing.learn()
        return writing

    def resume(self, tenant: TenantId, backup: BackupId) -> BucketWriting:
        layout, key = self._layout(tenant), self._layout(tenant).backup(checked_backup(backup))
        with translated(self._where):
            found = self._access.read(key)
        record = None if found is None else parse_record(found.body, tenant, backup)
        if found is None or record is None or record.state != OPEN:
            state = "not there" if record is None else f"{record.state} already"
            raise LeaseLost(f"{self._where}: backup {backup} of {tenant} is {state}")
        writing = BucketWriting(self._access, layout, self._where, record, found.etag)
        writing.renew()
        return writing

    # -- what there is -----------------------------------------------------------------------------------------------

    def shelf(self, tenant: TenantId) -> Shelf:
        layout = self._layout(tenant)
        with translated(self._where):
            versions: dict[str, list[Version]] = {}
            for version in self._access.versions(layout.backups):
                versions.setdefault(version.key, []).append(version)
            looked = self._access.each(
                lambda entry: self._look(tenant, entry[0].removeprefix(layout.backups), entry[1]),
                sorted(versions.items()),
            )
            seen = [one for one in looked if one is not None]
        return Shelf(
            complete=tuple(one for one in seen if isinstance(one, Backup)),
            unfinished=tuple(one for one in seen if isinstance(one, Unfinished)),
            damaged=tuple(one for one in seen if isinstance(one, Damaged)),
        )

    def _look(
        self, tenant: TenantId, backup: str, versions: Sequence[Version]
    ) -> Backup | Unfinished | Damaged | None:
        """What the versions of one key amount to: a manifest, once written, is never taken back by a later version."""
        manifests: list[tuple[Record, Found]] = []
        opened: Unfinished | None = None
        damaged: Damaged | None = None
        for version in sorted(versions, key=lambda v: (v.modified, not v.latest), reverse=True):
            # The latest as it is now: the one that was listed may have been replaced, and removed, since.
            which = None if version.latest else version_id(version.version)
            found = None if version.marker else self._access.read(version.key, which)
            if found is None:
                continue
            try:
                record = parse_record(found.body, tenant, backup)
            except VaultDamaged as error:
                damaged = damaged or Damaged(id=backup, reason=error.message)
                continue
            if record.state == COMPLETE:
                manifests.append((record, found))
            elif record.state == OPEN and version.latest:
                opened = Unfinished(id=BackupId(backup), quiet_s=(found.now - found.modified).total_seconds())
        if manifests:
            record, found = manifests[-1]
            hidden = not any(v.latest and not v.marker for v in versions)
            disputed = damaged is not None or opened is not None or len(manifests) > 1
            return backup_of(record, found, hidden=hidden, disputed=disputed)
        return damaged or opened

    def contents(self, backup: Backup) -> Contents:
        layout = self._layout(backup.tenant)
        problem = VaultDamaged(f"{self._backup(backup)}: the list of its chunks is not there")
        with translated(self._where):
            for version in self._access.versions(layout.list(f"{backup.id}.")):
                owner = list_owner(version.key.removeprefix(layout.lists))
                if version.marker or owner != (backup.id, backup.contents):
                    continue
                found = self._access.read(version.key, version_id(version.version))
                if found is None:
                    continue
                try:
                    chunks = parse_list(found.body, digest=backup.contents, where=self._backup(backup))
                except VaultDamaged as error:
                    problem = error
                    continue
                return Contents(tenant=backup.tenant, backup=backup.id, chunks=chunks, digest=backup.contents)
        raise problem

    def get(self, contents: Contents, chunk: ChunkId) -> bytes:
        stored = contents.chunks.get(chunk)
        where = f"{self._where}: chunk {chunk} of backup {contents.backup} of {contents.tenant}"
        if stored is None:
            raise StoreRefused(f"{where} is not one of its chunks")
        layout = self._layout(contents.tenant)
        with translated(where):
            found = self._access.read(layout.chunk(stored.name))
            if found is not None and _whole(found.body, stored.name):
                return found.body
            for version in self._access.versions(layout.chunk(f"{chunk}.")):
                other = (
                    None if version.marker else self._access.read(version.key, version_id(version.version))
                )
                if other is not None and _whole(other.body, version.key.removeprefix(layout.chunks)):
                    return other.body
        raise VaultDamaged(
            f"{where} is {'missing' if found is None else 'damaged'}, and there is no other upload of it",
            hint="later backups put it anew once it is distrusted; copies in other vaults may have it",
        )

    def missing(self, contents: Contents) -> frozenset[ChunkId]:
        layout = self._layout(contents.tenant)
        with translated(self._where):
            sizes = {
                (v.key.removeprefix(layout.chunks), v.size)
                for v in self._access.versions(layout.chunks)
                if not v.marker
            }
        return frozenset(chunk for chunk, s in contents.chunks.items() if (s.name, s.size) not in sizes)

    # -- keeping and letting go --------------------------------------------------------------------------------------

    def distrust(self, contents: Contents, chunks: Collection[ChunkId]) -> None:
        names = sorted(contents.chunks[chunk].name for chunk in chunks)
        if names:
            key = self._layout(contents.tenant).condemned + uuid.uuid4().hex
            with translated(self._where):
                self._access.put(key, "".join(f"{name}\n" for name in names).encode())

    def keep(self, backup: Backup, lock: Lock) -> Backup:
        layout, contents = self._layout(backup.tenant), self.contents(backup)
        with translated(self._backup(backup)):
            lists = {
                v.key
                for v in self._access.versions(layout.list(f"{backup.id}."))
                if v.latest
                and not v.marker
                and list_owner(v.key.removeprefix(layout.lists)) == (backup.id, backup.contents)
            }
            keys = [*(layout.chunk(s.name) for s in contents.chunks.values()), *sorted(lists)]
            # The manifest last: what it promises is kept by then.
            for _ in self._access.each(lambda key: self._access.extend(key, lock), keys):
                pass
            self._access.extend(layout.backup(backup.id), lock)
            now, held = self._access.lock_of(layout.backup(backup.id))
        return replace(backup, lock=now, legal_hold=held)

    def delete(self, tenant: TenantId, backup: str) -> None:
        key = self._layout(tenant).backup(checked_backup(backup))
        where = f"{self._where}: backup {backup} of {tenant}"
        with translated(where):
            versions = [v for v in self._access.versions(key) if v.key == key]
            now = self._access.now() if versions else None
            for version in versions:
                self._require_unlocked(version, where, now)
            kept = delete_oldest_first(self._access, versions)
        if kept:
            raise StoreRefused(f"{where} is kept by the server: {kept[0].code}")

    def _require_unlocked(self, version: Version, where: str, now: datetime | None) -> None:
        if version.marker:
            return
        lock, held = self._access.lock_of(version.key, version_id(version.version))
        if held:
            raise StoreRefused(f"{where} is on legal hold", hint="it can be deleted when that is lifted")
        if lock is not None and now is not None and lock.until > now:
            raise StoreRefused(
                f"{where} is locked ({lock.mode}) until {lock.until:%Y-%m-%d %H:%M} UTC",
                hint="it can be deleted when the lock has ended",
            )

    def collect(self, tenant: TenantId, *, quiet_s: float) -> Collected:
        return collect(self, self._access, self._layout(tenant), tenant, self._where, quiet_s=quiet_s)

    def end(self, tenant: TenantId, backup: BackupId, *, quiet_s: float = 0.0) -> bool:
        """Make sure that an unfinished backup is never completed; False if it has not been quiet that long, or is no
        longer unfinished."""
        key = self._layout(tenant).backup(backup)
        with translated(self._where):
            found = self._access.read(key)
        if found is None:
            return False
        record = parse_record(found.body, tenant, backup)
        if record.state != OPEN or (found.now - found.modified).total_seconds() < quiet_s:
            return False
        ended = replace(record, state=ENDED, turn=uuid.uuid4().hex)
        return end(self._access, self._where, key, ended, found.etag)

    def locked(self, tenant: TenantId) -> Sequence[tuple[str, Lock | None]]:
        with translated(self._where):
            now = self._access.now()
            versions = [v for v in self._access.versions(self._layout(tenant).prefix) if not v.marker]
            locks = self._access.each(
                lambda v: (v.key, *self._access.lock_of(v.key, version_id(v.version))), versions
            )
            return [
                (key, lock if lock is not None and lock.until > now else None)
                for key, lock, held in locks
                if held or (lock is not None and lock.until > now)
            ]

    def _backup(self, backup: Backup) -> str:
        return f"{self._where}: backup {backup.id} of {backup.tenant}"


def _whole(sealed: bytes, name: str) -> bool:
    upload = parse_upload(name)
    return upload is not None and upload.digest == digest_of(sealed)
