"""Captures one tenant's items of a store without snapshots: a first pass over all of them, then, again and again, those
that the app's journal names (or, without a journal, that a listing shows to have changed), the last under the fence."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from tenure.backups.contract import CollectionFacts, Part, Sink, StreamWriter
from tenure.errors import FenceRefused, StoreUnavailable, UsageError
from tenure.model.finding import Finding, Severity
from tenure.model.names import TenantId
from tenure.stores.backup import Captured, Estimate
from tenure.stores.contract import Fence, Journal, Pace, unhurried
from tenure.stores.journaled.backup_ports import ALL, Backed, Changed, Packed, Packing, Place
from tenure.stores.journaled.ledger import Ledger
from tenure.stores.records import FORMAT, RecordWriter

READER: Final = "backup"
"""By which the journal knows a capture."""
BATCH: Final = 500
"""Items that are packed at once."""
ROWS: Final = 10_000
"""Rows of the journal that are read at once."""
PIN_S: Final = 0.5
"""How long `pin` is taken to last before anything was measured."""
LISTED_PER_S: Final = 2_000
"""How many items a listing is taken to get through before one was measured, where there is no journal."""


class JournaledCapture:
    """Implements `tenure.stores.backup.Capture` with what a kind of store brings. Without a `journal`, `pin` lists
    everything and compares it with what was taken: `estimate` says how long that keeps the tenant."""

    def __init__(self, *, store: Backed, tenant: TenantId, journal: Journal | None, packing: Packing) -> None:
        self._store: Final = store
        self._tenant: Final = tenant
        self._journal: Final = journal
        self._packing: Final = packing
        self._ledger = Ledger()
        self._late: Final[dict[str, RecordWriter]] = {}
        self._torn: Final[dict[Place, None]] = {}
        """Items that changed while they were read, and are not taken since."""
        self._open: Final[list[StreamWriter]] = []
        self._started = False
        self._looked_s: float | None = None

    @property
    def journaled(self) -> bool:
        """Whether a journal says what changes."""
        return self._journal is not None

    def preflight(self) -> Sequence[Finding]:
        return [*self._packing.findings(), *(() if self.journaled else (self._lists_in_hold(),))]

    def _lists_in_hold(self) -> Finding:
        return Finding(
            severity=Severity.WARNING,
            code="backup_lists_in_hold",
            where=f"{self._store.name} of {self._store.cell}",
            message="nothing says what changes in it, so everything is listed while the tenant is held"
            f" (about {self.estimate().pin_s:.1f} s)",
            fix="have the app note what it changes (tenure.client.touch), and name the journal in the catalogue",
        )

    def estimate(self) -> Estimate:
        """`pin_s` is what the last look at changes took, where there was one."""
        items, size_bytes = self._packing.amount()
        pin_s = PIN_S if self.journaled else max(PIN_S, items / LISTED_PER_S)
        return Estimate(
            items=items, size_bytes=size_bytes, pin_s=pin_s if self._looked_s is None else self._looked_s
        )

    # -- taking ------------------------------------------------------------------------------------------------------

    def start(self, fence: Fence) -> None:
        if self._started:
            return
        if self._journal is not None:
            self._journal.subscribe(self._tenant, self._store.name, READER, fence)
        self._ledger = Ledger()
        self._started = True

    def first_pass(self, sink: Sink, progress: Pace = unhurried) -> None:
        if not self._started:
            raise UsageError("a capture that was not started would miss what changes")
        self._packing.fresh()
        for collection in self._packing.collections():
            self._ledger.know(collection)
            writer = self._begin(sink, collection, Part.BASE)
            for keys in _sized(self._packing.keys(collection), BATCH):
                items = size = 0
                for packed in self._packing.pack(collection, keys):
                    self._write(writer, collection, packed)
                    items += packed.items
                    size += packed.size_bytes
                progress(items=items, size_bytes=size)
            writer.close(items=self._ledger.totals[collection].items)

    def settle(self, sink: Sink) -> int:
        """Also takes what may have changed without a word in the journal: nobody waits."""
        suspects = self._changed_of(self._packing.suspects()) if self.journaled else ()
        return self._catch_up(sink) + self._take_late(sink, suspects)

    def pin(self, sink: Sink, fence: Fence) -> None:
        """Also raises `FenceRefused` where the fence has lapsed before everything was taken."""
        self._require_fenced(fence)
        self._catch_up(sink)
        self._require_fenced(fence)
        for place in self._torn:
            raise StoreUnavailable(
                f"{self._store.name} of {self._store.cell}: {place.key} of {place.collection} changes while"
                f" {self._tenant} is fenced, so there is no point at which all is taken",
                hint="look for what writes there without a permit of tenure.client, and try again",
            )

    def _require_fenced(self, fence: Fence) -> None:
        self._store.claim(fence)
        state = self._store.fence_state(self._tenant)
        if state.writable or state.token > fence.token:
            raise FenceRefused(
                f"{self._store.name} of {self._store.cell} accepts writes of {self._tenant},"
                " so there is no point to pin",
                hint="the hold is over: try again in the next one",
            )

    def _catch_up(self, sink: Sink) -> int:
        began = time.monotonic()
        taken = (
            self._from_journal(sink, self._journal) if self._journal is not None else self._from_listing(sink)
        )
        taken += self._take_late(sink, list(self._torn))
        self._looked_s = time.monotonic() - began
        return taken

    def _from_journal(self, sink: Sink, journal: Journal) -> int:
        """Take what the journal names. Its rows go when their items are in the stream."""
        taken = 0
        while rows := journal.unread(self._tenant, self._store.name, READER, most=ROWS):
            named = {place: None for _, key in rows for place in self._packing.named(key)}
            # A row is seen when its transaction is over, so its change was acknowledged before this.
            self._packing.fresh()
            taken += self._take_late(sink, self._each(named))
            journal.settle(self._tenant, [row for row, _ in rows])
            if len(rows) < ROWS:
                break
        return taken

    def _each(self, places: Iterable[Place]) -> Iterator[Place]:
        """For a place that stands for a whole collection, every item that there is or was."""
        for place in places:
            if place.key != ALL:
                yield place
                continue
            there = (key for page in self._packing.keys(place.collection) for key in page)
            for key in dict.fromkeys((*there, *self._ledger.keys(place.collection))):
                yield Place(place.collection, key)

    def _from_listing(self, sink: Sink) -> int:
        self._packing.fresh()
        collections = dict.fromkeys((*self._packing.collections(), *self._ledger.totals))
        return sum(self._take_late(sink, self._listed_changes(collection)) for collection in collections)

    def _listed_changes(self, collection: str) -> Iterator[Place]:
        """What is new, different or gone."""
        for keys in _sized(self._packing.keys(collection), BATCH):
            yield from self._changed_of(Place(collection, key) for key in keys)
        for batch in _sized(([key] for key in self._ledger.keys(collection)), BATCH):
            there = self._packing.stamps(collection, batch)
            yield from (Place(collection, key) for key in batch if key not in there)

    def _changed_of(self, places: Iterable[Place]) -> Iterator[Place]:
        """Those of these that are not as they were taken."""
        for collection, keys in _by_collection(places):
            now, then = self._packing.stamps(collection, keys), self._ledger.stamps(collection, keys)
            yield from (Place(collection, key) for key in keys if now.get(key) != then.get(key))

    def _take_late(self, sink: Sink, places: Iterable[Place]) -> int:
        """Take these again as they are now; those that have gone, as gone."""
        count = 0
        for collection, keys in _by_collection(places):
            if collection not in self._late:
                self._ledger.know(collection)
                self._late[collection] = self._begin(sink, collection, Part.LATE)
            writer = self._late[collection]
            there = set[str]()
            for packed in self._packing.pack(collection, keys):
                self._write(writer, collection, packed)
                there.add(packed.key)
            for key in keys:
                if key not in there:
                    self._ledger.forget(Place(collection, key))
                    self._torn.pop(Place(collection, key), None)
                    writer.gone(key.encode())
            count += len(keys)
        return count

    # -- streams -----------------------------------------------------------------------------------------------------

    def _begin(self, sink: Sink, collection: str, part: Part) -> RecordWriter:
        header = {"format": FORMAT, "items": self._packing.form}
        stream = sink.stream(self._store.name, collection, part, header)
        self._open.append(stream)
        return RecordWriter(stream)

    def _write(self, writer: RecordWriter, collection: str, packed: Packed) -> None:
        key = packed.key.encode()
        if isinstance(packed.body, bytes):
            writer.item(key, packed.head, packed.body)
        else:
            try:
                writer.long(key, packed.head, packed.body)
            except Changed:
                self._ledger.forget(Place(collection, packed.key))
                self._torn[Place(collection, packed.key)] = None
                return
        self._torn.pop(Place(collection, packed.key), None)
        self._ledger.put(collection, packed)

    def rest(self, sink: Sink, progress: Pace = unhurried) -> Captured:  # noqa: ARG002
        """Everything was taken by `pin`: closes the streams."""
        for writer in self._late.values():
            writer.close()
        self._late.clear()
        return Captured(
            collections=tuple(
                CollectionFacts(
                    store=self._store.name,
                    collection=collection,
                    items=totals.items,
                    size_bytes=totals.size_bytes,
                    digest=totals.digest,
                    fingerprint=self._packing.fingerprint(collection),
                )
                for collection, totals in sorted(self._ledger.totals.items())
            ),
            facts=self._packing.facts(),
        )

    def close(self, fence: Fence) -> None:
        """Forgets the reader in the journal, which is all that a capture keeps. It can be started anew."""
        for stream in self._open:
            stream.discard()
        self._open.clear()
        self._late.clear()
        self._torn.clear()
        self._ledger.close()
        self._started = False
        if self._journal is not None:
            self._journal.unsubscribe(self._tenant, self._store.name, READER, fence)


def _sized(pages: Iterable[Sequence[str]], size: int) -> Iterator[list[str]]:
    """The keys of all pages, so many at once."""
    keys = (key for page in pages for key in page)
    while batch := list(islice(keys, size)):
        yield batch


def _by_collection(places: Iterable[Place]) -> Iterator[tuple[str, list[str]]]:
    """The places in batches, each of one collection and with its keys in order."""
    waiting = iter(places)
    while some := list(islice(waiting, BATCH)):
        collections: dict[str, dict[str, None]] = {}
        for place in some:
            collections.setdefault(place.collection, {})[place.key] = None
        for collection, keys in collections.items():
            yield collection, sorted(keys)
