"""A backup in memory, for tests of stores: what seals and keeps streams is tested elsewhere."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from tenure.backups.contract import CollectionFacts, Header, Part, Stream
from tenure.errors import UsageError
from tenure.model.names import StoreName, TenantId
from tenure.stores.backup import Captured

BLOCK = 1000
"""Streams are given out in blocks of this size, which ends in the middle of whatever they hold."""


class MemoryBackup:
    """Implements `Sink` and `Source`. It is whole once `complete` was told what the stores said."""

    def __init__(self, tenant: TenantId, *, block: int = BLOCK) -> None:
        self.tenant = tenant
        self.block = block
        self.point = datetime(2025, 1, 18, tzinfo=UTC)
        self.bytes: dict[tuple[StoreName, str, Part, int], bytes] = {}
        self.headers: dict[tuple[StoreName, str, Part, int], Header] = {}
        self.items: dict[tuple[StoreName, str, Part, int], int | None] = {}
        self.open: set[tuple[StoreName, str, Part, int]] = set()
        self._facts: dict[StoreName, Mapping[str, Any]] = {}
        self._collections: list[CollectionFacts] = []
        self.lock = threading.Lock()

    # -- Sink --------------------------------------------------------------------------------------------------------

    def stream(self, store: StoreName, collection: str, part: Part, header: Header) -> Writer:
        header = json.loads(json.dumps(header))
        with self.lock:
            taken = [n for s, c, p, n in self.headers if (s, c, p) == (store, collection, part)]
            if part is Part.BASE and taken:
                raise UsageError(f"a second base stream of {collection}")
            name = (store, collection, part, len(taken))
            self.headers[name] = header
            self.open.add(name)
        return Writer(self, name)

    def forget(self, store: StoreName) -> None:
        for kept in (self.bytes, self.headers, self.items):
            for name in [n for n in kept if n[0] == store]:
                del kept[name]

    def written(self) -> int:
        return sum(map(len, self.bytes.values()))

    # -- Source ------------------------------------------------------------------------------------------------------

    def complete(self, store: StoreName, captured: Captured) -> None:
        assert not self.open, f"streams were left open: {self.open}"
        self._collections += captured.collections
        self._facts[store] = json.loads(json.dumps(captured.facts))

    def streams(self, store: StoreName | None = None, collection: str | None = None) -> Sequence[Stream]:
        assert not self.open, f"streams were left open: {self.open}"
        order = {Part.BASE: 0, Part.LATE: 1}
        return [
            Stream(
                store=s,
                collection=c,
                part=p,
                n=n,
                header=self.headers[s, c, p, n],
                size_bytes=len(self.bytes[s, c, p, n]),
                digest=hashlib.sha256(self.bytes[s, c, p, n]).hexdigest(),
                items=self.items[s, c, p, n],
            )
            for s, c, p, n in sorted(self.bytes, key=lambda name: (name[0], name[1], order[name[2]], name[3]))
            if (store is None or s == store) and (collection is None or c == collection)
        ]

    def collections(self, store: StoreName | None = None) -> Sequence[CollectionFacts]:
        return [c for c in self._collections if store is None or c.store == store]

    def facts(self, store: StoreName) -> Mapping[str, Any]:
        return self._facts.get(store, {})

    def read(self, stream: Stream, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        whole = self.bytes[stream.store, stream.collection, stream.part, stream.n]
        end = len(whole) if length is None else start + length
        for at in range(start, end, self.block):
            yield whole[at : min(at + self.block, end)]


class Writer:
    def __init__(self, backup: MemoryBackup, name: tuple[StoreName, str, Part, int]) -> None:
        self._backup = backup
        self._name = name
        self._parts: list[bytes] = []

    def write(self, data: bytes | memoryview) -> None:
        self._parts.append(bytes(data))

    def close(self, *, items: int | None = None) -> Stream:
        with self._backup.lock:
            self._backup.bytes[self._name] = b"".join(self._parts)
            self._backup.items[self._name] = items
            self._backup.open.discard(self._name)
        store, collection, part, n = self._name
        return Stream(
            store=store,
            collection=collection,
            part=part,
            n=n,
            header=self._backup.headers[self._name],
            size_bytes=len(self._backup.bytes[self._name]),
            digest="",
            items=items,
        )

    def discard(self) -> None:
        with self._backup.lock:
            if self._name in self._backup.open:
                self._backup.open.discard(self._name)
                del self._backup.headers[self._name]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._name in self._backup.open:
            self.close()
        elif kind is not None:
            self.discard()
