"""The items that a restore changes: counted by collection, the first of them named, and kept in a file without a name
for the act itself, so that memory stays bounded whatever differs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Final, Self

from tenure.backups.contract import Source
from tenure.model.comparison import Difference, DifferenceKind
from tenure.model.names import StoreName
from tenure.plan.restore import NAMED, CollectionChange
from tenure.stores.backup import EVERYTHING, Selection

KEYS_AT_HAND: Final = 50_000
"""Up to that many changed items are looked at again one by one; with more, their whole collections are."""
_WORDS: Final = {
    DifferenceKind.MISSING: "added",
    DifferenceKind.MISMATCHED: "changed",
    DifferenceKind.EXTRA: "removed",
}


class Spool:
    """The differences of one store. For one thread at a time."""

    def __init__(self, store: StoreName) -> None:
        self.store: Final = store
        self._file = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  (closed by `close`)
        self._counts: dict[str, dict[DifferenceKind, int]] = {}
        self._named: dict[str, dict[DifferenceKind, list[str]]] = {}
        self.items = 0

    def fill(self, differences: Iterable[Difference]) -> Spool:
        """Take these in, in their order."""
        for difference in differences:
            self._file.write(
                json.dumps([difference.collection, difference.key, difference.kind.value]) + "\n"
            )
            counts = self._counts.setdefault(difference.collection, dict.fromkeys(DifferenceKind, 0))
            counts[difference.kind] += 1
            named = self._named.setdefault(difference.collection, {kind: [] for kind in DifferenceKind})
            if len(named[difference.kind]) < NAMED:
                named[difference.kind].append(difference.key)
            self.items += 1
        return self

    def __iter__(self) -> Iterator[Difference]:
        self._file.seek(0)
        for line in self._file:
            collection, key, kind = json.loads(line)
            yield Difference(collection=collection, key=key, kind=DifferenceKind(kind))

    def changes(self, source: Source, owners: Mapping[str, StoreName]) -> list[CollectionChange]:
        """What is different, by collection; `owners` are the stores that ride with this one, by their collections."""
        held = {f.collection: f.items for f in source.collections()}
        return [
            CollectionChange(
                store=owners.get(name, self.store),
                collection=name,
                in_backup=held.get(name, 0),
                added=counts[DifferenceKind.MISSING],
                changed=counts[DifferenceKind.MISMATCHED],
                removed=counts[DifferenceKind.EXTRA],
                named={_WORDS[kind]: tuple(keys) for kind, keys in self._named[name].items()},
            )
            for name, counts in sorted(self._counts.items())
        ]

    def again(self) -> Selection:
        """What to look at to see whether it was done: the items, or their collections where they are many."""
        if self.items > KEYS_AT_HAND:
            return Selection(items=dict.fromkeys(self._counts))
        keys: dict[str, list[str]] = {}
        for difference in self:
            keys.setdefault(difference.collection, []).append(difference.key)
        return Selection(items=keys) if keys else EVERYTHING

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
