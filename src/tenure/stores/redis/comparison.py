"""Compares one tenant's keys on two servers: as serialised first, which is cheap, and by what they mean where that
differs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from tenure.model.comparison import Comparison, Difference, DifferenceKind
from tenure.stores.redis import canonical
from tenure.stores.redis.keyspace import Keyspace
from tenure.stores.redis.store import RedisStore
from tenure.stores.redis.transfer import Dumped, dump, portions

BATCH: Final = 256


@dataclass(kw_only=True)
class Tally:
    """What was seen so far. `differing` are candidates: expiry and changes under way can still explain them."""

    processed: set[bytes] = field(default_factory=set)
    differing: dict[bytes, DifferenceKind] = field(default_factory=dict)
    bytes_read: int = 0


class Comparer:
    """Compares keys of `source` and `target`; both are read at the same time."""

    def __init__(self, source: RedisStore, target: RedisStore, keyspace: Keyspace) -> None:
        self._source = source
        self._target = target
        self._keys = keyspace
        self._other_side = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"compare-{target.cell}")

    def close(self) -> None:
        self._other_side.shutdown(wait=False)

    def everything(self, progress: Callable[[int], None]) -> Tally:
        """Compare every key that either side has."""
        tally = Tally()
        for store in (self._source, self._target):
            with store.translated():
                for keys in self._keys.scan(store.nodes):
                    self._compare([k for k in keys if k not in tally.processed], tally)
                    progress(len(tally.processed))
        return tally

    def these(self, keys: Collection[bytes]) -> Tally:
        tally = Tally()
        ordered = sorted(keys)
        for start in range(0, len(ordered), BATCH):
            self._compare(ordered[start : start + BATCH], tally)
        return tally

    def result(self, tally: Tally, *, changed: Collection[bytes] = frozenset()) -> Comparison:
        """The comparison without what `changed` while it ran; what still differs is looked at once more."""
        suspects = [key for key in tally.differing if key not in changed]
        again = self.these(suspects) if suspects else Tally()
        differences = tuple(
            Difference(collection=self._keys.collection(key), key=self._keys.text(key), kind=kind)
            for key, kind in sorted(again.differing.items())
        )
        return Comparison(
            store=self._source.name,
            processed=len(tally.processed),
            matching=len(tally.processed) - len(differences),
            differences=differences,
            bytes_read=tally.bytes_read,
            changed_meanwhile=len(tally.processed.intersection(changed)),
        )

    def _compare(self, keys: Sequence[bytes], tally: Tally) -> None:
        with self._source.translated():
            for portion in portions(self._source.nodes, keys):
                self._compare_portion(portion, tally)

    def _compare_portion(self, keys: Sequence[bytes], tally: Tally) -> None:
        if not keys:
            return
        theirs = self._other_side.submit(self._dump_target, keys)
        try:
            ours = self._source.nodes.gather(dump, keys)
        finally:
            other = theirs.result()
        unequal: list[bytes] = []
        for source, target in zip(ours, other, strict=True):
            tally.bytes_read += len(source.payload or b"") + len(target.payload or b"")
            if source.payload is None and target.payload is None:
                continue
            tally.processed.add(source.key)
            if source.same(target):
                continue
            if source.payload is None:
                tally.differing[source.key] = DifferenceKind.EXTRA
            elif target.payload is None:
                tally.differing[source.key] = DifferenceKind.MISSING
            elif source.expires_at != target.expires_at:
                tally.differing[source.key] = DifferenceKind.MISMATCHED
            else:
                unequal.append(source.key)
        tally.differing.update(self._by_meaning(unequal))

    def _dump_target(self, keys: Sequence[bytes]) -> list[Dumped]:
        with self._target.translated():
            return self._target.nodes.gather(dump, keys)

    def _by_meaning(self, keys: Sequence[bytes]) -> Iterable[tuple[bytes, DifferenceKind]]:
        """Those of these keys whose values differ, however they are encoded."""
        if not keys:
            return
        ours = self._source.nodes.gather(canonical.values, keys)
        with self._target.translated():
            theirs = self._target.nodes.gather(canonical.values, keys)
        for key, source, target in zip(keys, ours, theirs, strict=True):
            if source is None and target is not None:
                yield key, DifferenceKind.EXTRA
            elif target is None and source is not None:
                yield key, DifferenceKind.MISSING
            elif source is not None and target is not None and source.digest != target.digest:
                yield key, DifferenceKind.MISMATCHED
