"""What stores do for backups: `Capture` takes one tenant's data of one store at one point while the tenant works, and
`Restoring` makes a tenant's data in a store equal to such a backup. Between them are the streams of
`backups.contract`: how these are sealed and kept is nothing that stores know.

A store gives, per collection (a table, its keys, its objects, a namespace), one stream `base`, in the order of its keys
where the store has one, so that a mostly unchanged tenant gives mostly the same bytes; and, where it has no snapshots,
streams `late` with what was taken again, and with what had gone by then. The `format` in a header is a name and a
version, such as `copy-text/1`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, runtime_checkable

from tenure.backups.contract import CollectionFacts, Sink, Source
from tenure.errors import StoreRefused
from tenure.model.comparison import Difference
from tenure.model.finding import Finding
from tenure.model.names import CellName, StoreName
from tenure.stores.contract import Fence, Pace, unhurried


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What of a store to restore. `items` names whole collections (None) or single items of them, by the keys that
    `Difference.key` has; without it, everything."""

    items: Mapping[str, Collection[str] | None] | None = None

    def has_collection(self, collection: str) -> bool:
        return self.items is None or collection in self.items

    def keys(self, collection: str) -> frozenset[str] | None:
        """The single items chosen of a collection; None for all of them."""
        chosen = None if self.items is None else self.items.get(collection, ())
        return None if chosen is None else frozenset(chosen)


EVERYTHING: Final = Selection()


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Roughly how much a capture will give, and for how long `pin` will keep the tenant, once few changes are left."""

    items: int
    size_bytes: int
    pin_s: float


@dataclass(frozen=True, kw_only=True)
class Captured:
    """What a capture gave: each collection as it was at the point, one without any item as well. Its digest is that of
    `Store.inventory` there and then. `facts` are plain JSON that the store wants to find in `Source.facts`."""

    collections: Sequence[CollectionFacts]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def items(self) -> int:
        return sum(c.items for c in self.collections)

    @property
    def size_bytes(self) -> int:
        return sum(c.size_bytes for c in self.collections)


class Capture(Protocol):
    """One tenant's data of one store, taken at one point while the tenant works; with what rides with the store, under
    the name of the store that rides.

    Called in the order of its methods by one thread at a time. A capture lives in one process: after a crash another
    begins anew, with `close` and `Sink.forget`. It holds bounded memory, whatever the tenant has. Everything raises
    `StoreUnavailable` where the server is gone, and what the sink or `progress` raises goes through.
    """

    def preflight(self) -> Sequence[Finding]:
        """Everything that stands in the way or should be known, all at once, each with its fix. Changes nothing."""

    def estimate(self) -> Estimate:
        """Without reading the data. Changes nothing."""

    def start(self, fence: Fence) -> None:
        """Begin to note what changes. Does not fence: `fence` says who we are. Idempotent."""

    def first_pass(self, sink: Sink, progress: Pace = unhurried) -> None:
        """Take everything as it is now, torn in time; nothing where the store has snapshots. `progress` is told, from
        several threads, what was taken since it was last told."""

    def settle(self, sink: Sink) -> int:
        """Take again what changed since it was taken; how many items that was. Called again until it is few: about as
        many are left for `pin`. Always 0 where the store has snapshots."""

    def pin(self, sink: Sink, fence: Fence) -> None:
        """Fix the point: the store's state now, while its fence is down for the tenant. Everything that was
        acknowledged before is in, nothing that comes later. Raises `FenceRefused` where the fence is not down.

        When a hold was given up, called again in the next one: the last point counts.
        """

    def rest(self, sink: Sink, progress: Pace = unhurried) -> Captured:
        """Take what the point still lacks, with the fence lifted and the tenant writing, and close the streams."""

    def close(self, fence: Fence) -> None:
        """Leave nothing in the store of what a capture of this tenant needs, be it this one or one that has crashed.
        Never touches the tenant's data, or a link's. Idempotent."""


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What was loaded, by collection: how many items. `left_out`: how many the store takes no more (log events of weeks
    ago), which stay in the backup; `Restoring.preflight` has said so."""

    collections: Mapping[str, int]
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def items(self) -> int:
        return sum(self.collections.values())


class Restoring(Protocol):
    """Makes a tenant's data in one store equal to a backup of it, with what rides with the store.

    Writes nothing but the tenant's data, and only under its fence: raises `FenceRefused` while the store accepts the
    tenant's writes or if the fence is a newer holder's. Reads the source with bounded memory, as often as it needs.
    Where the backup is another tenant's, its name becomes this tenant's wherever the catalogue says that it stands:
    in tenant columns, prefixes, namespaces. Raises `StoreRefused` for streams that it cannot read, before it writes.
    """

    def preflight(self, source: Source) -> Sequence[Finding]:
        """Everything that stands in the way or should be known, all at once, each with its fix: formats, versions,
        schemas that differ, keys that others have. Changes nothing."""

    def differences(self, source: Source, selection: Selection = EVERYTHING) -> Iterator[Difference]:
        """The backup against what is live, by item: `missing` is only in the backup, `extra` only live. What the tenant
        writes meanwhile may or may not be seen."""

    def load(
        self, source: Source, fence: Fence, selection: Selection = EVERYTHING, progress: Pace = unhurried
    ) -> Restored:
        """Load into a place that has nothing of the tenant in the selected collections, by the engine's fastest way.

        Raises `StoreRefused` where it has something, and where what was loaded breaks a constraint: it names the items,
        and nothing stays. An interruption may leave a part, which `Store.erase` removes.
        """

    def apply(self, source: Source, differences: Iterable[Difference], fence: Fence) -> int:
        """Make exactly these items as they are in the backup; `extra` ones go. Gives how many were written or removed.

        Safe to repeat: an item that is already so is written again or left. Raises `StoreRefused`, with the items
        named and nothing changed, where a constraint of the store is broken by it.
        """


@runtime_checkable
class Preparing(Protocol):
    """A `Restoring` of a store with transactions: it can do everything that `apply` does but the last act."""

    def prepared(
        self, source: Source, differences: Iterable[Difference], fence: Fence
    ) -> AbstractContextManager[int]:
        """As `apply`, with everything written and checked when the block begins. The end of the block makes it so; an
        exception from it leaves everything as it was. Raises as `apply` does, before the block begins."""

    def forget(self) -> None:
        """Remove what a process that was killed amid `prepared`, `apply` or `load` has left beside the tenant's data.
        Idempotent; not while another one is at it."""


def refused(store: StoreName, cell: CellName, reason: str) -> StoreRefused:
    """What `Store.capture` and `Store.restoring` raise where a store is not in backups by itself."""
    return StoreRefused(f"{store} of {cell} is not backed up by itself: {reason}")
