"""What a kind of store without snapshots brings to `JournaledCapture` and `JournaledRestoring`: how one tenant's items
are listed, read, written and removed. Items have the keys by which the app notes them (`tenure.client.touch`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from tenure.backups.contract import Source
from tenure.model.finding import Finding
from tenure.model.names import CellName, StoreName, TenantId
from tenure.stores.contract import Fence, FenceState
from tenure.stores.records import Record

STAMP = "stamp"
"""The entry of an item's head by which two of its states are told apart."""

ALL = ""
"""The key that stands for every item of a collection, where the app has noted that it changes all of them."""


class Place(NamedTuple):
    """Where an item is."""

    collection: str
    key: str


@dataclass(frozen=True, kw_only=True)
class Packed:
    """An item as it goes into a backup. `head` is plain JSON, with the item's `STAMP`. The body is read once, before
    the next item is asked for. `items`, `size_bytes` and `digest` are what it adds to `Store.inventory`; a digest that
    takes the body's bytes is asked for when these were read."""

    key: str
    head: Mapping[str, Any]
    body: bytes | Iterable[bytes]
    items: int
    size_bytes: int
    digest: int | Callable[[], int]


class Changed(Exception):
    """The item became another one while its body was read. It counts as not taken, and is taken again: at the latest
    under the fence, where nothing may change any more."""


class Backed(Protocol):
    """The store itself, as far as captures and restorings need it."""

    @property
    def name(self) -> StoreName: ...
    @property
    def cell(self) -> CellName: ...
    def claim(self, fence: Fence) -> None: ...
    def fence_state(self, tenant: TenantId) -> FenceState: ...
    def require_erasable(self, fence: Fence) -> None:
        """Raise `FenceRefused` unless the tenant is fenced and no newer holder has been here, `StoreRefused` while a
        link holds the store. A restoring asks before each request that writes, for the same reasons as an erasure."""


class Items(Protocol):
    """One tenant's items in one store, for reading."""

    @property
    def form(self) -> str:
        """How keys, heads and bodies are, as streams' headers name it (`items`)."""

    def fresh(self) -> None:
        """Return when reads see everything that was acknowledged before the call."""

    def collections(self) -> Sequence[str]:
        """All that may hold items of the tenant, in order; those that the catalogue names also without any."""

    def keys(self, collection: str) -> Iterator[Sequence[str]]:
        """Every key in order, page by page, each once."""

    def stamps(self, collection: str, keys: Sequence[str]) -> Mapping[str, str]:
        """The stamps of those of these items that are there."""


class Packing(Items, Protocol):
    """For captures."""

    def named(self, key: str) -> Iterable[Place]:
        """The items that a key in the journal names (`ALL` of a collection, it may be); none where it is nothing of the
        tenant's."""

    def suspects(self) -> Iterable[Place]:
        """Items that may have changed without a word in the journal, looked at while nobody waits."""

    def pack(self, collection: str, keys: Sequence[str]) -> Iterator[Packed]:
        """Those of these items that are there, in the order of the keys, each as it is at one moment."""

    def fingerprint(self, collection: str) -> str | None:
        """Of the schema of the collection, as `CollectionFacts` has it."""

    def facts(self) -> Mapping[str, Any]:
        """What a restoring should know before it reads any stream (plain JSON)."""

    def findings(self) -> Sequence[Finding]:
        """What stands in the way of a capture or should be known."""

    def amount(self) -> tuple[int, int]:
        """About how many items and bytes there are, without reading them."""


Allowed = Callable[[], None]
"""Raises if this process may no longer write. To be asked before each request that changes something."""


class Unpacking(Items, Protocol):
    """For restorings."""

    @property
    def removes(self) -> bool:
        """Whether the store can remove single items. If not, what is only live is no difference."""

    def about(self, source: Source) -> None:
        """This backup is the one that everything after this is about."""

    def here(self, place: Place) -> Place:
        """Where an item of the backup's tenant belongs here."""

    def takes(self, place: Place) -> bool:
        """Whether the store still takes such an item. If not, it stays in the backup, and is no difference."""

    def stamp(self, record: Record) -> str:
        """The stamp that the item will have here. May read the body."""

    def write(self, records: Iterator[tuple[Place, Record]], allowed: Allowed) -> Iterator[tuple[int, int]]:
        """Write these items, whole, over what is there; give out from time to time how many, and how many bytes, that
        were. Each body is read before the next item is asked for. Idempotent."""

    def remove(self, collection: str, keys: Sequence[str], allowed: Allowed) -> None:
        """Remove these items. Idempotent."""

    def backup_findings(self, source: Source) -> Sequence[Finding]:
        """What stands in the way of restoring this backup or should be known."""
