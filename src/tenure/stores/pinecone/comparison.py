"""Compares one tenant's records in two indexes: ids, values to the bit, weights, metadata."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from typing import Final

from tenure.model.comparison import DifferenceKind
from tenure.model.names import TenantId
from tenure.stores.journaled import Tally
from tenure.stores.pinecone.freshness import Moments
from tenure.stores.pinecone.records import Record
from tenure.stores.pinecone.store import PineconeStore

BATCH: Final = 400
AHEAD: Final = 4
"""How many batches are fetched at the same time."""


class Comparer:
    """Implements `tenure.stores.journaled.Comparer`. Both sides are read as fresh as they were when it was asked.

    While users wait it asks for no more than was written: the source as it was when a record was last named, which the
    copy has seen already, and the target as the copy has left it.
    """

    def __init__(
        self, source: PineconeStore, target: PineconeStore, tenant: TenantId, moments: Moments
    ) -> None:
        self._moments = moments
        self._source = source
        self._target = target
        self._tenant = tenant

    def everything(self, progress: Callable[[int], None]) -> Tally:
        self._catch_up()
        tally = Tally()
        waiting: list[tuple[list[str], Future[dict[str, Record]], Future[dict[str, Record]]]] = []

        def settle() -> None:
            keys, ours, theirs = waiting.pop(0)
            _compare(keys, ours.result(), theirs.result(), tally)
            progress(len(tally.processed))

        for batch in self._keys():
            waiting.append((batch, *self._fetching(batch)))
            if len(waiting) > AHEAD:
                settle()
        while waiting:
            settle()
        return tally

    def these(self, keys: Collection[str], *, thorough: bool = True) -> Tally:
        tally = Tally()
        ordered = sorted(keys)
        if not ordered:
            return tally
        if thorough:
            self._catch_up()
        else:
            self._catch_up(ours=self._moments.named, theirs=self._moments.wrote)
        for start in range(0, len(ordered), BATCH):
            batch = ordered[start : start + BATCH]
            ours, theirs = self._fetching(batch)
            _compare(batch, ours.result(), theirs.result(), tally)
        return tally

    def _catch_up(self, *, ours: float | None = None, theirs: float | None = None) -> None:
        """Return when reads see what was written before these moments; None: before now."""
        target = self._target.pool.submit(self._target.freshness(self._tenant).catch_up, since=theirs)
        self._source.freshness(self._tenant).catch_up(since=ours)
        target.result()

    def _fetching(self, keys: list[str]) -> tuple[Future[dict[str, Record]], Future[dict[str, Record]]]:
        return (
            self._source.pool.submit(self._source.fetch, self._tenant, keys),
            self._target.pool.submit(self._target.fetch, self._tenant, keys),
        )

    def _keys(self) -> Iterator[list[str]]:
        """Every id that either side lists, in order."""
        ours, theirs = self._source.ids(self._tenant), self._target.ids(self._tenant)
        batch: list[str] = []
        for key in merged(ours, theirs):
            batch.append(key)
            if len(batch) == BATCH:
                yield batch
                batch = []
        if batch:
            yield batch


def merged(ours: Iterator[list[str]], theirs: Iterator[list[str]]) -> Iterator[str]:
    """The ids of both listings, each once, in order."""
    one, other = _flat(ours), _flat(theirs)
    mine, their = next(one, None), next(other, None)
    while mine is not None or their is not None:
        if their is None or (mine is not None and mine < their):
            assert mine is not None
            yield mine
            mine = next(one, None)
        elif mine is None or their < mine:
            yield their
            their = next(other, None)
        else:
            yield mine
            mine, their = next(one, None), next(other, None)


def _flat(pages: Iterator[list[str]]) -> Iterator[str]:
    for page in pages:
        yield from page


def _compare(keys: list[str], ours: dict[str, Record], theirs: dict[str, Record], tally: Tally) -> None:
    for key in keys:
        source, target = ours.get(key), theirs.get(key)
        if source is None and target is None:
            continue
        tally.processed.add(key)
        tally.bytes_read += sum(record.size_bytes for record in (source, target) if record is not None)
        if target is None:
            tally.differing[key] = DifferenceKind.MISSING
        elif source is None:
            tally.differing[key] = DifferenceKind.EXTRA
        elif source.canonical != target.canonical:
            tally.differing[key] = DifferenceKind.MISMATCHED
