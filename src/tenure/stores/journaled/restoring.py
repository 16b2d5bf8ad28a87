"""Makes one tenant's items in a store equal to a backup of it: by loading, or by writing what differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from typing import Final

from tenure.backups.contract import Source
from tenure.errors import StoreRefused
from tenure.model.comparison import Difference, DifferenceKind
from tenure.model.finding import Finding
from tenure.model.names import TenantId
from tenure.stores.backup import EVERYTHING, Restored, Selection
from tenure.stores.contract import Fence, Pace, unhurried
from tenure.stores.journaled.backup_ports import Backed, Place, Unpacking
from tenure.stores.journaled.ledger import Places
from tenure.stores.journaled.verification import key_of, key_text
from tenure.stores.records import Record, latest

BATCH: Final = 400
"""Items that are compared or removed at once."""
_WRITE: Final = "write"
_REMOVE: Final = "remove"

Chosen = Callable[[Place], bool]


class JournaledRestoring:
    """Implements `tenure.stores.backup.Restoring` with what a kind of store brings. The names of collections and the
    keys of selections and differences are those of the tenant here, also where the backup is another's."""

    def __init__(self, *, store: Backed, tenant: TenantId, origin: TenantId, unpacking: Unpacking) -> None:
        self._store: Final = store
        self._tenant: Final = tenant
        self._origin: Final = origin
        self._unpacking: Final = unpacking

    def preflight(self, source: Source) -> Sequence[Finding]:
        self._unpacking.about(source)
        return sorted(self._unpacking.backup_findings(source))

    # -- comparing ---------------------------------------------------------------------------------------------------

    def differences(self, source: Source, selection: Selection = EVERYTHING) -> Iterator[Difference]:
        self._unpacking.fresh()
        with Places() as seen:
            for collection in self._collections(source, selection.has_collection):
                yield from self._against_live(source, collection, selection, seen)
            if self._unpacking.removes:
                yield from self._only_live(selection, seen)

    def _against_live(
        self, source: Source, collection: str, selection: Selection, seen: Places
    ) -> Iterator[Difference]:
        wanted = (
            (place, self._unpacking.stamp(record) if self._unpacking.takes(place) else None)
            for place, record in self._items(source, collection, _chosen(selection))
        )
        while batch := list(islice(wanted, BATCH)):
            seen.add(place for place, _ in batch)
            for here in dict.fromkeys(place.collection for place, _ in batch):
                stamps = {p.key: stamp for p, stamp in batch if p.collection == here and stamp is not None}
                live = self._unpacking.stamps(here, list(stamps)) if stamps else {}
                for key, stamp in stamps.items():
                    if key not in live:
                        yield _difference(Place(here, key), DifferenceKind.MISSING)
                    elif live[key] != stamp:
                        yield _difference(Place(here, key), DifferenceKind.MISMATCHED)

    def _only_live(self, selection: Selection, seen: Places) -> Iterator[Difference]:
        chosen = _chosen(selection)
        for collection in self._unpacking.collections():
            if selection.has_collection(collection):
                for keys in self._unpacking.keys(collection):
                    for place in (Place(collection, key) for key in keys):
                        if chosen(place) and seen.word(place) is None:
                            yield _difference(place, DifferenceKind.EXTRA)

    # -- writing -----------------------------------------------------------------------------------------------------

    def load(
        self, source: Source, fence: Fence, selection: Selection = EVERYTHING, progress: Pace = unhurried
    ) -> Restored:
        """Whole items; an interruption leaves some of them, and another `load` is refused until they are erased."""
        self._store.require_erasable(fence)
        collections = self._collections(source, selection.has_collection)
        self._unpacking.fresh()
        self._require_empty(selection)
        loaded: Counter[str] = Counter()
        left_out: Counter[str] = Counter()

        def counted(collection: str) -> Iterator[tuple[Place, Record]]:
            for place, record in self._items(source, collection, _chosen(selection)):
                if self._unpacking.takes(place):
                    loaded[place.collection] += 1
                    yield place, record
                else:
                    left_out[place.collection] += 1

        for collection in collections:
            loaded[self._named_here(collection)] += 0
            self._write(counted(collection), fence, progress)
        self._unpacking.fresh()
        return Restored(collections=dict(loaded), left_out=dict(left_out))

    def apply(self, source: Source, differences: Iterable[Difference], fence: Fence) -> int:
        self._store.require_erasable(fence)
        with Places() as wanted:
            for d in differences:
                word = _REMOVE if d.kind is DifferenceKind.EXTRA else _WRITE
                wanted.add([Place(d.collection, key_of(d.key))], word)
            written = wanted.count(word=_WRITE)
            removed = wanted.count(word=_REMOVE)
            if removed and not self._unpacking.removes:
                raise StoreRefused(f"{self._store.name} of {self._store.cell} cannot remove single items")
            collections = self._collections(source, wanted.collections(word=_WRITE).__contains__)
            self._require_in_backup(source, collections, wanted, written)
            for collection in collections:
                found = self._items(source, collection, lambda place: wanted.word(place) == _WRITE)
                self._write(found, fence, unhurried)
            for collection, keys in wanted.batches(word=_REMOVE, size=BATCH):
                self._unpacking.remove(collection, keys, lambda: self._store.require_erasable(fence))
        self._unpacking.fresh()
        return written + removed

    def _require_in_backup(
        self, source: Source, collections: Sequence[str], wanted: Places, count: int
    ) -> None:
        """Raise before anything is written if one of the items is not in the backup."""
        there = sum(
            1
            for collection in collections
            for _ in self._items(source, collection, lambda place: wanted.word(place) == _WRITE)
        )
        if there != count:
            raise StoreRefused(
                f"{count - there} of {count} items of {self._store.name} are not in the backup, so nothing was changed",
                hint="compare the backup with what is live again",
            )

    def _write(self, records: Iterator[tuple[Place, Record]], fence: Fence, progress: Pace) -> None:
        allowed = lambda: self._store.require_erasable(fence)  # noqa: E731
        for items, size in self._unpacking.write(records, allowed):
            progress(items=items, size_bytes=size)

    def _require_empty(self, selection: Selection) -> None:
        for collection in self._unpacking.collections():
            if selection.has_collection(collection):
                for keys in self._unpacking.keys(collection):
                    if keys:
                        raise StoreRefused(
                            f"{collection} of {self._store.name} of {self._store.cell} holds items of"
                            f" {self._tenant}, the first one {keys[0]}",
                            hint="compare and apply, or erase the tenant there first",
                        )

    # -- reading the backup ------------------------------------------------------------------------------------------

    def _collections(self, source: Source, wanted: Callable[[str], bool]) -> list[str]:
        """The backup's collections that are wanted, which is asked by their names here."""
        if source.tenant != self._origin:
            raise StoreRefused(f"this is a backup of {source.tenant}, not of {self._origin}")
        self._unpacking.about(source)
        found = dict.fromkeys(stream.collection for stream in source.streams(self._store.name))
        return [collection for collection in found if wanted(self._named_here(collection))]

    def _named_here(self, collection: str) -> str:
        if self._origin == self._tenant:
            return collection
        return self._unpacking.here(Place(collection, "")).collection

    def _items(self, source: Source, collection: str, chosen: Chosen) -> Iterator[tuple[Place, Record]]:
        """The backup's items of a collection, where they belong here."""
        where = f"{self._store.name} of {self._store.cell}"
        for record in latest(source, self._store.name, collection, self._unpacking.form, where):
            place = self._unpacking.here(Place(collection, record.key.decode()))
            if chosen(place):
                yield place, record


def _chosen(selection: Selection) -> Chosen:
    keys_of = cache(selection.keys)

    def chosen(place: Place) -> bool:
        if not selection.has_collection(place.collection):
            return False
        keys = keys_of(place.collection)
        return keys is None or key_text(place.key) in keys

    return chosen


def _difference(place: Place, kind: DifferenceKind) -> Difference:
    return Difference(collection=place.collection, key=key_text(place.key), kind=kind)
