"""Garbage in a vault: uploads of chunks that no complete backup needs, and what dead writers have left.

Backups may be begun, written and completed while this runs, several may run, and each may be stopped anywhere for any
time. An upload is first *condemned*, on a list in the vault, and deleted later:

- A writing that begins after the list was written keeps clear of what it names: it puts such chunks anew, under names
  of its own. So an upload that was condemned is never needed by a backup that began later.
- A writing that began before may rely on it. Nothing on the list is deleted before no such writing is unfinished, and a
  writing that has ended cannot be completed. Then the manifests are read, and what any of them needs stays.

So what is deleted was needed by nothing when the manifests were read, and can never be needed again. A list goes when
all that it names is gone.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from tenure.errors import VaultDamaged
from tenure.model.names import TenantId
from tenure.stores.buckets.errors import translated
from tenure.stores.buckets.listing import Version, abort_upload, delete_versions, upload_pages
from tenure.stores.vault.access import Access
from tenure.stores.vault.contract import Backup, BackupId, Collected, Contents, Shelf
from tenure.stores.vault.layout import OPEN, Layout, Record, list_owner, parse_record, parse_upload
from tenure.stores.vault.writing import clear


class Keeper(Protocol):
    """What this needs of a vault."""

    def shelf(self, tenant: TenantId) -> Shelf: ...
    def contents(self, backup: Backup) -> Contents: ...
    def end(self, tenant: TenantId, backup: BackupId, *, quiet_s: float) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class _State:
    """What is there at one time: the names that complete backups need, and who is writing."""

    needed: frozenset[str]
    complete: frozenset[tuple[str, str]]
    """Of each complete backup its id and the digest of its list."""
    writers: tuple[Record, ...]


def collect(
    vault: Keeper, access: Access, layout: Layout, tenant: TenantId, where: str, *, quiet_s: float
) -> Collected:
    """See `Vault.collect`."""
    with translated(where):
        # Uploads first, writers afterwards: whoever has put one of these is seen, or has completed, or has ended.
        uploads = _by_key(access, layout.chunks)
        lists = _by_key(access, layout.lists)
        ended = tuple(
            writer.id
            for writer in vault.shelf(tenant).unfinished
            if vault.end(tenant, writer.id, quiet_s=quiet_s)
        )
        known: dict[str, frozenset[str]] = {}
        before = _state(vault, access, layout, tenant, where, known)
        _condemn(access, layout, uploads, before)
        condemned = _condemned(access, layout)
        # After the lists were read: a writer that is not seen now has begun since, and keeps clear of them.
        after = _state(vault, access, layout, tenant, where, known)
        found = _sweep(access, layout, uploads, condemned, after)
        _tidy(access, layout, tenant, lists, after, quiet_s)
    return Collected(ended=ended, **found)


def _by_key(access: Access, prefix: str) -> dict[str, list[Version]]:
    found: dict[str, list[Version]] = {}
    for version in access.versions(prefix):
        found.setdefault(version.key.removeprefix(prefix), []).append(version)
    return found


def _state(
    vault: Keeper,
    access: Access,
    layout: Layout,
    tenant: TenantId,
    where: str,
    known: dict[str, frozenset[str]],
) -> _State:
    """What is there now. `known`: what lists of chunks name, by their digests, so that each is read once."""
    shelf = vault.shelf(tenant)
    if shelf.damaged:
        first = shelf.damaged[0]
        raise VaultDamaged(
            f"{where}: nothing is collected, for it cannot be known what backup {first.id} of {tenant} needs: "
            f"{first.reason}",
            hint="mend it, or delete that backup by its id",
        )
    for backup in shelf.complete:
        if backup.contents not in known:
            chunks = vault.contents(backup).chunks
            known[backup.contents] = frozenset(stored.name for stored in chunks.values())
    return _State(
        needed=frozenset().union(*(known[backup.contents] for backup in shelf.complete)),
        complete=frozenset((backup.id, backup.contents) for backup in shelf.complete),
        writers=tuple(_writers(access, layout, tenant, (u.id for u in shelf.unfinished))),
    )


def _writers(access: Access, layout: Layout, tenant: TenantId, ids: Iterable[BackupId]) -> Iterable[Record]:
    for backup in ids:
        found = access.read(layout.backup(backup))
        record = None if found is None else parse_record(found.body, tenant, backup)
        if record is not None and record.state == OPEN:
            yield record
        elif record is not None:
            # Completed since: it may need anything, so it counts as a writer that knows of no list.
            yield Record(
                state=OPEN, tenant=tenant, backup=backup, key=record.key, tag=record.tag, turn=record.turn
            )


def _condemn(access: Access, layout: Layout, uploads: Mapping[str, list[Version]], state: _State) -> None:
    listed = {name for names in _condemned(access, layout).values() for name in names}
    writing = {writer.tag for writer in state.writers}
    names = [
        name
        for name in sorted(uploads)
        if name not in state.needed and name not in listed and _tag(name) not in {None, *writing}
    ]
    if names:
        access.put(layout.condemned + uuid.uuid4().hex, "".join(f"{name}\n" for name in names).encode())


def _tag(name: str) -> str | None:
    """The tag of the writing that has put it; None for what is no upload of a chunk, which is left alone."""
    upload = parse_upload(name)
    return None if upload is None else upload.tag


def _condemned(access: Access, layout: Layout) -> dict[str, list[str]]:
    """The lists of condemned uploads, by their ids."""
    found = {}
    for version in access.versions(layout.condemned):
        body = access.read(version.key) if version.latest and not version.marker else None
        if body is not None:
            found[version.key.removeprefix(layout.condemned)] = body.body.decode().splitlines()
    return found


def _sweep(
    access: Access,
    layout: Layout,
    uploads: Mapping[str, list[Version]],
    condemned: Mapping[str, list[str]],
    state: _State,
) -> dict[str, int]:
    """Delete what is on lists that every writer knows of. `state` was read after the lists."""
    counts = {"uploads": 0, "size_bytes": 0, "waiting": 0, "locked": 0}
    swept: dict[str, list[str]] = {}
    for which, names in condemned.items():
        free = [name for name in names if name not in state.needed]
        if any(which not in writer.knows for writer in state.writers):
            counts["waiting"] += len(free)
            continue
        gone = [version for name in free for version in uploads.get(name, [])]
        refused = {(k.key, k.version) for k in delete_versions(access.client, access.bucket, gone)}
        left = {key.removeprefix(layout.chunks) for key, _ in refused}
        counts["locked"] += len(left)
        counts["uploads"] += sum(1 for name in free if name in uploads and name not in left)
        counts["size_bytes"] += sum(v.size for v in gone if (v.key, v.version) not in refused)
        swept[which] = names
    if swept:
        there = _by_key(access, layout.chunks)
        for which, names in swept.items():
            if not any(name in there for name in names):
                key = layout.condemned + which
                gone = [v for v in access.versions(key) if v.key == key]
                delete_versions(access.client, access.bucket, gone)
    return counts


def _tidy(
    access: Access,
    layout: Layout,
    tenant: TenantId,
    lists: Mapping[str, list[Version]],
    state: _State,
    quiet_s: float,
) -> None:
    """Lists of chunks that no manifest names, records of writings that are over, and uploads in parts, which no vault
    makes."""
    writing = {writer.backup for writer in state.writers}
    for name, versions in lists.items():
        owner = list_owner(name)
        if owner is not None and owner not in state.complete and owner[0] not in writing:
            delete_versions(access.client, access.bucket, versions)
    complete = {backup for backup, _ in state.complete}
    for backup, versions in _by_key(access, layout.backups).items():
        if len(versions) > 1 or backup not in {*complete, *writing}:
            clear(access, layout.backups + backup, tenant, backup)
    now = access.now()
    for page in upload_pages(access.client, access.bucket, layout.prefix):
        for upload in page:
            if (now - upload["Initiated"]).total_seconds() >= quiet_s:
                abort_upload(access.client, access.bucket, upload["Key"], upload["UploadId"])
