"""A backup that is being written into a bucket. Its record and its manifest stand at one key, and the second replaces
the first in one conditional request: whoever ends a writing changes the record, and no manifest can follow."""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from tenure.errors import LeaseLost, UsageError, VaultDamaged
from tenure.model.names import TenantId
from tenure.stores.buckets.errors import translated
from tenure.stores.buckets.listing import Kept, Version, delete_versions, object_pages
from tenure.stores.vault.access import ABSENT_NOW, Access, Found
from tenure.stores.vault.contract import (
    MOST_PUBLIC_BYTES,
    Backup,
    BackupId,
    ChunkId,
    Contents,
    KeyReference,
    Stored,
)
from tenure.stores.vault.layout import (
    COMPLETE,
    ENDED,
    OPEN,
    Layout,
    Record,
    canonical,
    checked_chunk,
    list_name,
    list_text,
    packed,
    parse_record,
    parse_upload,
    upload_name,
)

SHOWN: Final = 3


class BucketWriting:
    """Implements `tenure.stores.vault.contract.Writing`. `record` stands at the backup's key, with this ETag."""

    def __init__(self, access: Access, layout: Layout, where: str, record: Record, etag: str) -> None:
        self._access = access
        self._layout = layout
        self._where = where
        self._record = record
        self._etag = etag
        self._lock = threading.RLock()
        self._known: dict[ChunkId, Stored] | None = None

    @property
    def tenant(self) -> TenantId:
        return self._record.tenant

    @property
    def backup(self) -> BackupId:
        return self._record.backup

    @property
    def key(self) -> KeyReference:
        return self._record.key

    # -- chunks ------------------------------------------------------------------------------------------------------

    def has(self, chunk: ChunkId) -> bool:
        return chunk in self._there()

    def put(self, chunk: ChunkId, sealed: bytes) -> bool:
        checked_chunk(chunk, sealed)
        if self.has(chunk):
            return False
        name = upload_name(chunk, self._record.tag, sealed)
        with translated(f"{self._where}, chunk {chunk}"):
            # What stands there already are the same bytes: the name ends with their digest.
            self._access.put(self._layout.chunk(name), sealed, ABSENT_NOW, lock=self._record.lock)
        with self._lock:
            self._there().setdefault(chunk, Stored(name=name, size=len(sealed)))
        return True

    def _there(self) -> dict[ChunkId, Stored]:
        """The chunks that need not be put: what is there, but for uploads that were condemned before this began."""
        with self._lock:
            if self._known is None:
                condemned = self._condemned()
                self._known = {
                    chunk: stored
                    for chunk, uploads in self._uploads().items()
                    for stored in uploads
                    if stored.name not in condemned
                }
            return self._known

    def _uploads(self) -> dict[ChunkId, list[Stored]]:
        found: dict[ChunkId, list[Stored]] = {}
        start = self._layout.chunks
        with translated(self._where):
            for page in object_pages(self._access.client, self._access.bucket, start):
                for entry in page:
                    name = entry["Key"].removeprefix(start)
                    upload = parse_upload(name)
                    if upload is not None:
                        found.setdefault(upload.chunk, []).append(Stored(name=name, size=entry["Size"]))
        return found

    def _condemned(self) -> set[str]:
        with translated(self._where):
            lists = [
                v.key for v in self._access.versions(self._layout.condemned) if v.latest and not v.marker
            ]
            found = [self._access.read(key) for key in lists]
        return {name for each in found if each is not None for name in each.body.decode().splitlines()}

    # -- the end -----------------------------------------------------------------------------------------------------

    def renew(self) -> None:
        with self._lock:
            self._replace(replace(self._record, turn=uuid.uuid4().hex))

    def learn(self) -> None:
        """Note which lists of condemned uploads there are, having begun: this writing keeps clear of them."""
        with translated(self._where):
            lists = [
                v.key for v in self._access.versions(self._layout.condemned) if v.latest and not v.marker
            ]
        knows = tuple(sorted(key.removeprefix(self._layout.condemned) for key in lists))
        if knows:
            with self._lock:
                self._replace(replace(self._record, turn=uuid.uuid4().hex, knows=knows))

    def contents(self, chunks: Collection[ChunkId]) -> Contents:
        known, uploads = self._there(), self._uploads()
        chosen = {chunk: known[chunk] for chunk in chunks if known.get(chunk) in uploads.get(chunk, [])}
        lost = sorted(set(chunks) - chosen.keys())
        if lost:
            raise VaultDamaged(
                f"{self._where}: backup {self.backup} needs {len(lost)} chunks that are not there, "
                f"such as {', '.join(lost[:SHOWN])}",
                hint="put them; what was there a moment ago was deleted by somebody else",
            )
        text = list_text(chosen.values())
        digest = hashlib.sha256(text).hexdigest()
        with translated(self._where):
            self._lock_others(chosen.values())
            name = list_name(self.backup, self._record.tag, digest)
            self._access.put(self._layout.list(name), packed(text), ABSENT_NOW, lock=self._record.lock)
        return Contents(tenant=self.tenant, backup=self.backup, chunks=chosen, digest=digest)

    def _lock_others(self, chosen: Collection[Stored]) -> None:
        """What this writing has put is locked since; what others have put may be locked for less."""
        lock = self._record.lock
        if lock is None:
            return
        mine = f".{self._record.tag}."
        others = [self._layout.chunk(s.name) for s in chosen if mine not in s.name]
        for _ in self._access.each(lambda key: self._access.extend(key, lock), others):
            pass

    def commit(self, contents: Contents, public: Mapping[str, Any]) -> Backup:
        if (contents.tenant, contents.backup) != (self.tenant, self.backup):
            raise UsageError(f"these are the contents of backup {contents.backup} of {contents.tenant}")
        plain = as_json(public)
        with self._lock:
            manifest = replace(
                self._record,
                state=COMPLETE,
                turn=uuid.uuid4().hex,
                chunks=len(contents.chunks),
                size_bytes=contents.size_bytes,
                contents=contents.digest,
                public=plain,
            )
            before = self._etag
            with translated(f"{self._where}, manifest of {self.backup}"):
                self._access.swap(self._key, manifest.encoded(), {"IfMatch": before}, lock=self._record.lock)
                found = self._access.read(self._key)
            there = self._parsed(found)
            if found is None or there is None or not _same(there, manifest):
                raise self._lost()
            self._forget(before)
            return backup_of(there, found)

    def abandon(self) -> None:
        with self._lock:
            ended = replace(self._record, state=ENDED, turn=uuid.uuid4().hex)
            end(self._access, self._where, self._key, ended, self._etag)

    @property
    def _key(self) -> str:
        return self._layout.backup(self.backup)

    def _replace(self, record: Record) -> None:
        with translated(self._where):
            etag = self._access.swap(self._key, record.encoded(), {"IfMatch": self._etag})
        if etag is None:
            raise self._lost()
        before, self._record, self._etag = self._etag, record, etag
        self._forget(before)

    def _forget(self, etag: str) -> None:
        """Delete the record that was replaced, where the bucket keeps versions; a locked one stays until that ends."""
        with translated(self._where):
            old = [
                v
                for v in self._access.versions(self._key)
                if v.key == self._key and not v.latest and not v.marker and v.etag == etag.strip('"')
            ]
            if old:
                delete_versions(self._access.client, self._access.bucket, old)

    def _parsed(self, found: Found | None) -> Record | None:
        try:
            return None if found is None else parse_record(found.body, self.tenant, self.backup)
        except VaultDamaged:
            return None

    def _lost(self) -> LeaseLost:
        return LeaseLost(
            f"{self._where}: the writing of backup {self.backup} was ended, or is carried on by another process",
            hint="what it has put is there for the next backup",
        )


def _same(there: Record | None, manifest: Record) -> bool:
    """Whether that is this manifest, whoever wrote it."""
    return there is not None and replace(there, turn="") == replace(manifest, turn="")


def backup_of(record: Record, found: Found, *, hidden: bool = False, disputed: bool = False) -> Backup:
    return Backup(
        tenant=record.tenant,
        id=record.backup,
        key=record.key,
        public=record.public or {},
        chunks=record.chunks,
        size_bytes=record.size_bytes,
        contents=record.contents,
        stored_at=found.modified,
        lock=found.lock,
        legal_hold=found.legal_hold,
        hidden=hidden,
        disputed=disputed,
    )


def end(access: Access, where: str, key: str, ended: Record, etag: str) -> bool:
    """Make sure that no manifest can follow the record of that ETag, and remove it; False if it has changed."""
    assert ended.state == ENDED
    with translated(where):
        if access.swap(key, ended.encoded(), {"IfMatch": etag}) is None:
            return False
        clear(access, key, ended.tenant, ended.backup)
    return True


def clear(access: Access, key: str, tenant: TenantId, backup: str) -> None:
    """Delete what is left at a backup's key of a writing that is over: the records beneath a manifest, and all of them
    where the last one says that it has ended. What is locked stays until that ends."""
    versions = [v for v in access.versions(key) if v.key == key]
    states = {v.version: _state(access, v, tenant, backup) for v in versions}
    over = next((states[v.version] for v in versions if v.latest), None)
    gone = [v for v in versions if states[v.version] in (OPEN, ENDED) and (not v.latest or over == ENDED)]
    if over in (COMPLETE, ENDED):
        delete_oldest_first(access, gone)


def _state(access: Access, version: Version, tenant: TenantId, backup: str) -> str | None:
    found = None if version.marker else access.read(version.key, version_id(version.version))
    try:
        return None if found is None else parse_record(found.body, tenant, backup).state
    except VaultDamaged:
        return None


def delete_oldest_first(access: Access, versions: Sequence[Version]) -> list[Kept]:
    """Delete versions of one key: the current one last, and only if no older one stays that would come to light."""
    older = [v for v in versions if not v.latest]
    kept = delete_versions(access.client, access.bucket, older)
    if not kept:
        kept = delete_versions(access.client, access.bucket, [v for v in versions if v.latest])
    return kept


def as_json(public: Mapping[str, Any]) -> dict[str, Any]:
    """The public part as it will be read again. Raises `UsageError` if it is too long, or not JSON."""
    try:
        text = canonical(public)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the public part of a manifest has to be JSON: {error}") from error
    if len(text) > MOST_PUBLIC_BYTES:
        raise UsageError(
            f"the public part of a manifest has at most {MOST_PUBLIC_BYTES} bytes, not {len(text)}"
        )
    plain: dict[str, Any] = json.loads(text)
    return plain


def version_id(version: str) -> str | None:
    """What a request names; nothing where the bucket keeps no versions."""
    return None if version == "null" else version
