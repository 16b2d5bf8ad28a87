"""A tenant's keys for a backup: all of them as they are, then, again and again, those that have changed as the server
says, the last of them under the fence. What the server says is the change feed of the live copy."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from tenure.backups.contract import CollectionFacts, Part, Sink
from tenure.errors import FenceRefused, StoreRefused
from tenure.model.finding import Finding, Severity
from tenure.model.names import TenantId
from tenure.stores.backup import Captured, Estimate
from tenure.stores.contract import Fence, Pace, unhurried
from tenure.stores.records import FORMAT, RecordWriter
from tenure.stores.redis import backup_values
from tenure.stores.redis.backup_index import Keys, Taken
from tenure.stores.redis.backup_values import FORM, Kept
from tenure.stores.redis.canonical import TYPES, types, unordered
from tenure.stores.redis.feed import ChangeFeed
from tenure.stores.redis.keyspace import OTHER, Keyspace
from tenure.stores.redis.transfer import portions

if TYPE_CHECKING:
    from tenure.stores.redis.store import RedisStore

BATCH: Final = 256
HEARD_S: Final = 10.0
"""How long to wait for the server to announce what it has done."""
PIN_S: Final = 0.02
KEY_BYTES: Final = 200
"""What a key is taken to hold before any was read."""


class RedisCapture:
    """Implements `tenure.stores.backup.Capture`. At most `transfer.PORTION_BYTES` of values, or one larger value, are
    in memory at once."""

    def __init__(self, store: RedisStore, tenant: TenantId) -> None:
        self._store: Final = store
        self._keys: Final[Keyspace] = store.keyspace(tenant)
        self._tenant: Final = tenant
        self._changed: Final = Keys()
        self._taken: Final = Taken()
        self._gap: Final = threading.Event()
        self._late: Final[dict[str, RecordWriter]] = {}
        self._sizes: Final[dict[str, int]] = {}
        self._rdb = 0
        self._point_ms: int | None = None
        self._feed: Final = ChangeFeed(store, self._keys, on_change=self._note, on_gap=self._gap.set)
        self._gaps = 0

    def preflight(self) -> Sequence[Finding]:
        with self._store.translated():
            unknown = sorted(
                {
                    f"{kind} ({self._keys.text(key)})"
                    for keys in self._keys.scan(self._store.nodes)
                    for key, kind in zip(keys, self._store.nodes.gather(types, keys), strict=True)
                    if kind not in TYPES
                }
            )
        if not unknown:
            return ()
        return (
            Finding(
                severity=Severity.WARNING,
                code="module_type",
                where=self._store.where,
                message=f"values of a module's type are kept as the server serialises them: {', '.join(unknown[:3])}",
                fix="restore them to a server with the same module, in the same version or a later one",
            ),
        )

    def estimate(self) -> Estimate:
        """Counts the keys, which takes a scan of the server."""
        with self._store.translated():
            items = sum(len(keys) for keys in self._keys.scan(self._store.nodes))
        return Estimate(items=items, size_bytes=items * KEY_BYTES, pin_s=PIN_S)

    # -- what changes ------------------------------------------------------------------------------------------------

    def _note(self, keys: list[bytes]) -> None:
        """Called by the feed's threads."""
        self._changed.add((self._keys.collection(k), k) for k in keys if self._keys.owns(k))

    def start(self, fence: Fence) -> None:
        self._store.claim(fence)
        self._feed.open()

    def first_pass(self, sink: Sink, progress: Pace = unhurried) -> None:
        self._gaps = self._feed.gaps
        waiting = Keys()
        try:
            with self._store.translated():
                for keys in self._keys.scan(self._store.nodes):
                    waiting.add((self._keys.collection(key), key) for key in keys)
            for name in dict.fromkeys((*self._keys.collections, OTHER)):
                self._sizes[name] = 0
            self._take_all(sink, waiting, progress)
        finally:
            waiting.close()

    def _take_all(self, sink: Sink, waiting: Keys, progress: Pace) -> None:
        """By collection and key. A collection without keys has an empty stream."""
        writers = {name: self._begin(sink, name, Part.BASE) for name in self._sizes}
        while keys := waiting.take(BATCH):
            name = self._keys.collection(keys[0])
            before = writers[name].size_bytes
            count = 0
            for key, found in self._read(keys):
                if found is not None:
                    self._write(writers[name], name, key, found)
                    count += 1
            progress(items=count, size_bytes=writers[name].size_bytes - before)
        for name, writer in writers.items():
            writer.close()
            self._sizes[name] += writer.size_bytes

    def _begin(self, sink: Sink, name: str, part: Part) -> RecordWriter:
        header = {
            "format": FORMAT,
            "items": FORM,
            "tenant": self._tenant,
            "prefix": self._keys.prefix.decode(),
        }
        return RecordWriter(sink.stream(self._store.name, name, part, header))

    def _read(self, keys: Sequence[bytes]) -> Iterator[tuple[bytes, Kept | None]]:
        with self._store.translated():
            for portion in portions(self._store.nodes, keys):
                yield from zip(portion, self._store.nodes.gather(backup_values.kept, portion), strict=True)

    def _write(self, writer: RecordWriter, name: str, key: bytes, found: Kept) -> None:
        writer.item(key[len(self._keys.prefix) :], found.head, found.body)
        self._taken.put(name, key, found.digest, found.expires_at)
        self._rdb = max(self._rdb, int(found.head.get("rdb", 0)))

    def settle(self, sink: Sink) -> int:
        """After a gap in what the server announces, every key is looked at again."""
        self._feed.raise_error()
        self._feed.barrier(timeout_s=HEARD_S)
        return self._take_changed(sink)

    def _take_changed(self, sink: Sink) -> int:
        gaps = self._feed.gaps
        if gaps != self._gaps:
            self._look_at_all()
            self._gaps = gaps
        count = 0
        while keys := self._changed.take(BATCH):
            name = self._keys.collection(keys[0])
            for key, found in self._read(keys):
                count += self._take_again(sink, name, key, found)
        return count

    def _look_at_all(self) -> None:
        with self._store.translated():
            for keys in self._keys.scan(self._store.nodes):
                self._changed.add((self._keys.collection(key), key) for key in keys)
        for taken in self._taken.keys(10 * BATCH):
            self._changed.add(taken)

    def _take_again(self, sink: Sink, name: str, key: bytes, found: Kept | None) -> bool:
        """Whether the key is not what it was."""
        before = self._taken.state(name, key)
        now = None if found is None else (found.digest, found.expires_at)
        if before == now:
            return False
        if name not in self._late:
            self._late[name] = self._begin(sink, name, Part.LATE)
        if found is None:
            self._late[name].gone(key[len(self._keys.prefix) :])
            self._taken.forget(name, key)
        else:
            self._write(self._late[name], name, key, found)
        return True

    # -- the point ---------------------------------------------------------------------------------------------------

    def pin(self, sink: Sink, fence: Fence) -> None:
        """Every server has announced what it did before it wrote a mark, and the marks are awaited."""
        self._require_fenced(fence)
        while True:
            self._feed.raise_error()
            self._feed.barrier(timeout_s=HEARD_S)
            self._take_changed(sink)
            if self._feed.gaps == self._gaps:
                break
        self._require_fenced(fence)
        with self._store.translated():
            seconds, micros = self._store.nodes.seed.time()
        self._point_ms = int(seconds) * 1000 + int(micros) // 1000

    def _require_fenced(self, fence: Fence) -> None:
        with self._store.translated():
            held = self._store.fencing(self._tenant).read()
        if held.writable:
            raise FenceRefused(
                f"{self._store.where} accepts writes of {self._tenant}, so this is no point of a backup",
                hint="fence it first",
            )
        if held.record.token > fence.token:
            raise FenceRefused(f"the fence of {self._tenant} in {self._store.where} is a newer holder's")

    def rest(self, sink: Sink, progress: Pace = unhurried) -> Captured:  # noqa: ARG002
        if self._point_ms is None:
            raise StoreRefused(f"{self._store.where}: the point of this capture was never fixed")
        self._feed.close()
        for name, writer in self._late.items():
            writer.close()
            self._sizes[name] = self._sizes.get(name, 0) + writer.size_bytes
        totals = self._taken.totals(self._point_ms)
        nothing = 0, unordered(()).hex()
        names = dict.fromkeys(chain(self._keys.collections or (OTHER,), totals))
        facts: dict[str, Any] = {"rdb_version": self._rdb} if self._rdb else {}
        return Captured(
            collections=[
                CollectionFacts(
                    store=self._store.name,
                    collection=name,
                    items=totals.get(name, nothing)[0],
                    size_bytes=self._sizes.get(name, 0),
                    digest=totals.get(name, nothing)[1],
                )
                for name in names
            ],
            facts=facts,
        )

    def close(self, fence: Fence) -> None:  # noqa: ARG002
        """The feed is a connection, and what is noted a file without a name; what stays in the server are marks, and
        what counts them: a link needs these as well."""
        self._feed.close()
        with self._store.translated():
            if not self._store.fencing(self._tenant).read().record.link:
                self._keys.forget_marks(self._store.nodes, counters=True)
