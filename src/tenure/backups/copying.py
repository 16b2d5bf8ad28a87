"""A backup copied into another vault as it is: sealed, under the same id, with the manifest that was signed. Takes no
key, so that a copy in another region can be made and checked by somebody who can read nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Final

from tenure.backups.manifest import digest_of
from tenure.backups.reading import Verified, require_signed, verify_manifest
from tenure.backups.signing import Trust
from tenure.backups.verifying import Progress, quiet
from tenure.errors import BackupUntrusted, VaultDamaged
from tenure.model.names import TenantId
from tenure.stores.vault.contract import Backup, BackupId, ChunkId, Lock, Vault, Writing

THREADS: Final = 6
RENEW_EVERY: Final = 200
"""Chunks after which the writing says that it lives."""


@dataclass(frozen=True, kw_only=True)
class Copied:
    """A backup in the second vault. `put`: chunks that it did not have before."""

    backup: Backup
    chunks: int
    put: int
    put_bytes: int


def copy_backup(
    source: Vault,
    backup: Backup,
    target: Vault,
    trust: Trust,
    *,
    tenant: TenantId,
    lock: Lock | None = None,
    progress: Progress = quiet,
) -> Copied:
    """Copy it. Nothing is listed in the second vault before all of it is there. After a crash it carries on; a copy
    that is complete is given back, its lock lengthened if need be.

    Raises what `verify_manifest` raises; `VaultDamaged` that names the chunks which the first vault has lost.
    """
    known = verify_manifest(source, backup, trust, tenant=tenant)
    there = next((one for one in target.shelf(tenant).complete if one.id == backup.id), None)
    if there is not None:
        return _kept(target, there, known, trust, lock)
    writing = _writing(target, tenant, backup, lock)
    put, put_bytes = _put_all(source, known, writing, progress)
    contents = writing.contents(known.contents.chunks)
    if digest_of(contents) != known.public.contents:
        raise VaultDamaged(
            f"backup {backup.id} of {tenant}: the second vault has other uploads of some of its chunks, "
            "so that the signature would not fit",
            hint="copy a newer backup instead; every chunk that is put anew has the right form",
        )
    made = writing.commit(contents, backup.public)
    return Copied(backup=made, chunks=len(contents.chunks), put=put, put_bytes=put_bytes)


def _kept(target: Vault, there: Backup, known: Verified, trust: Trust, lock: Lock | None) -> Copied:
    tenant = known.backup.tenant
    theirs = verify_manifest(target, there, trust, tenant=tenant)
    if theirs.public != known.public:
        raise BackupUntrusted(f"the second vault has another backup {there.id} of {tenant}")
    kept = target.keep(there, lock) if lock is not None else there
    return Copied(backup=kept, chunks=len(theirs.contents.chunks), put=0, put_bytes=0)


def _writing(target: Vault, tenant: TenantId, backup: Backup, lock: Lock | None) -> Writing:
    begun = {one.id for one in target.shelf(tenant).unfinished}
    if backup.id in begun:
        return target.resume(tenant, BackupId(backup.id))
    return target.begin(tenant, BackupId(backup.id), key=backup.key, lock=lock)


def _put_all(source: Vault, known: Verified, writing: Writing, progress: Progress) -> tuple[int, int]:
    put = put_bytes = 0

    def carry(chunk: ChunkId) -> int:
        if writing.has(chunk):
            return 0
        sealed = source.get(known.contents, chunk)
        require_signed(known.contents, chunk, sealed)
        return len(sealed) if writing.put(chunk, sealed) else 0

    with ThreadPoolExecutor(THREADS, thread_name_prefix="tenure-copy") as pool:
        for n, size in enumerate(_in_order(pool, carry, iter(sorted(known.contents.chunks)))):
            put, put_bytes = put + bool(size), put_bytes + size
            progress(1, size)
            if n % RENEW_EVERY == RENEW_EVERY - 1:
                writing.renew()
    return put, put_bytes


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[ChunkId], int], chunks: Iterator[ChunkId]
) -> Iterator[int]:
    under_way = [pool.submit(work, chunk) for chunk in islice(chunks, 2 * THREADS)]
    while under_way:
        size = under_way.pop(0).result()
        under_way += [pool.submit(work, chunk) for chunk in islice(chunks, 1)]
        yield size
