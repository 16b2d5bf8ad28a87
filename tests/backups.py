"""Backups in memory: what a capture gives a `Sink`, and what a `Source` gives back. No chunk, no key, no vault."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from types import TracebackType
from typing import Any, Self

from tenure.backups.contract import CollectionFacts, Header, Part, Stream
from tenure.errors import UsageError
from tenure.model.names import StoreName, TenantId
from tenure.stores.backup import Capture, Captured
from tenure.stores.contract import Fence, Store

BLOCK = 64 * 1024


@dataclass
class MemoryBackup:
    """A `Sink` while it is written and a `Source` afterwards."""

    tenant: TenantId
    point: datetime = field(default_factory=lambda: datetime.now(UTC))
    _streams: list[tuple[Stream, bytes]] = field(default_factory=list)
    _collections: list[CollectionFacts] = field(default_factory=list)
    _facts: dict[StoreName, Mapping[str, Any]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    # -- as a sink -----------------------------------------------------------------------------------------------------

    def stream(self, store: StoreName, collection: str, part: Part, header: Header) -> _Writer:
        known = self.streams(store, collection)
        if part is Part.BASE and any(s.part is Part.BASE for s in known):
            raise UsageError(f"{collection} has a base stream already")
        n = sum(s.part is part for s in known)
        return _Writer(self, store, collection, part, n, json.loads(json.dumps(header)))

    def forget(self, store: StoreName) -> None:
        with self._lock:
            self._streams = [kept for kept in self._streams if kept[0].store != store]

    def written(self) -> int:
        return sum(len(body) for _, body in self._streams)

    def keep(self, stream: Stream, body: bytes) -> None:
        with self._lock:
            self._streams.append((stream, body))

    def note(self, store: StoreName, captured: Captured) -> None:
        self._collections.extend(captured.collections)
        self._facts[store] = json.loads(json.dumps(dict(captured.facts)))

    # -- as a source ---------------------------------------------------------------------------------------------------

    def streams(self, store: StoreName | None = None, collection: str | None = None) -> Sequence[Stream]:
        with self._lock:
            found = [s for s, _ in self._streams]
        chosen = [s for s in found if store in {None, s.store} and collection in {None, s.collection}]
        return sorted(chosen, key=lambda s: (s.store, s.collection, s.part is Part.LATE, s.n))

    def collections(self, store: StoreName | None = None) -> Sequence[CollectionFacts]:
        return [f for f in self._collections if store in {None, f.store}]

    def facts(self, store: StoreName) -> Mapping[str, Any]:
        return self._facts.get(store, {})

    def read(self, stream: Stream, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        body = next(b for s, b in self._streams if s == stream)
        end = len(body) if length is None else min(len(body), start + length)
        for at in range(start, end, BLOCK):
            yield body[at : min(end, at + BLOCK)]

    # -- for tests -----------------------------------------------------------------------------------------------------

    def altered(self, collection: str, old: bytes, new: bytes) -> MemoryBackup:
        """Another backup, in which a stream has other bytes than its digests say."""
        streams = [(s, b.replace(old, new) if s.collection == collection else b) for s, b in self._streams]
        return replace(self, _streams=streams, _lock=threading.Lock())

    def saying(self, store: StoreName, **facts: Any) -> MemoryBackup:
        """Another backup, of which that store says something else."""
        return replace(self, _facts={**self._facts, store: facts}, _lock=threading.Lock())


class _Writer:
    def __init__(
        self, backup: MemoryBackup, store: StoreName, collection: str, part: Part, n: int, header: Header
    ) -> None:
        self._backup, self._store, self._collection = backup, store, collection
        self._part, self._n, self._header = part, n, header
        self._body = bytearray()
        self._open = True

    def write(self, data: bytes | memoryview) -> None:
        self._body += data

    def close(self, *, items: int | None = None) -> Stream:
        stream = Stream(
            store=self._store,
            collection=self._collection,
            part=self._part,
            n=self._n,
            header=self._header,
            size_bytes=len(self._body),
            digest=sha256(self._body).hexdigest(),
            items=items,
        )
        if self._open:
            self._backup.keep(stream, bytes(self._body))
        self._open = False
        return stream

    def discard(self) -> None:
        self._open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.discard()
        elif self._open:
            self.close()


def captured(stores: Iterable[tuple[Store, Capture]], tenant: TenantId, *, token: int = 1) -> MemoryBackup:
    """A backup of these stores at one point, with everything fenced while it is taken."""
    backup, fence = MemoryBackup(tenant), Fence(tenant=tenant, epoch=1, token=token)
    pairs = list(stores)
    for store, _ in pairs:
        store.fence(fence, expires_in_s=None, drain_s=5)
    for store, capture in pairs:
        capture.start(fence)
        capture.first_pass(backup)
        capture.pin(backup, fence)
        backup.note(store.name, capture.rest(backup))
        capture.close(fence)
    backup.point = datetime.now(UTC)
    for store, _ in pairs:
        store.open(fence)
    return backup
