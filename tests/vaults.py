"""Backups as an operation makes them, without what the vault does not see: chunks under ids made of their contents,
each sealed anew, so that two uploads of one chunk never have the same bytes."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable, Mapping
from typing import Any

from tenure.model.names import TenantId
from tenure.stores.vault.contract import (
    Backup,
    BackupId,
    ChunkId,
    Contents,
    KeyReference,
    Lock,
    Vault,
    Writing,
)

PUBLIC: Mapping[str, Any] = {"schema": 3, "epoch": 7, "counts": {"public.documents": 2}}


def key_of(tenant: TenantId) -> KeyReference:
    """Where the tenant's data key would be."""
    return KeyReference(f"kms/tenants/{tenant}/1")


def backup_id(n: int) -> BackupId:
    return BackupId(f"b-{n:04d}")


def chunk_id(tenant: str, content: bytes) -> ChunkId:
    return ChunkId(hmac.new(f"key of {tenant}".encode(), content, hashlib.sha256).hexdigest())


def sealed(content: bytes) -> bytes:
    """Stands for encryption: another nonce each time, and a digest in the place of the cipher's tag."""
    return os.urandom(12) + bytes(b ^ 0x5A for b in content) + hashlib.sha256(content).digest()


def opened(chunk: bytes) -> bytes:
    content = bytes(b ^ 0x5A for b in chunk[12:-32])
    assert hashlib.sha256(content).digest() == chunk[-32:]
    return content


def put_all(writing: Writing, contents: Iterable[bytes]) -> list[ChunkId]:
    ids = []
    for content in contents:
        chunk = chunk_id(writing.tenant, content)
        if not writing.has(chunk):
            writing.put(chunk, sealed(content))
        ids.append(chunk)
    return ids


def backed_up(
    vault: Vault, tenant: TenantId, backup: BackupId, contents: Iterable[bytes], *, lock: Lock | None = None
) -> Backup:
    writing = vault.begin(tenant, backup, key=key_of(tenant), lock=lock)
    return finished(writing, contents)


def finished(writing: Writing, contents: Iterable[bytes]) -> Backup:
    return writing.commit(writing.contents(put_all(writing, contents)), PUBLIC)


def restored(vault: Vault, backup: Backup) -> set[bytes]:
    """Every chunk of a backup, opened."""
    contents: Contents = vault.contents(backup)
    assert not vault.missing(contents)
    return {opened(vault.get(contents, chunk)) for chunk in contents.chunks}


def shelved(vault: Vault, tenant: TenantId) -> dict[str, Backup]:
    """The complete backups by their ids; fails if anything is damaged."""
    shelf = vault.shelf(tenant)
    assert not shelf.damaged
    return {backup.id: backup for backup in shelf.complete}
