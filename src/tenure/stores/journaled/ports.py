"""What a kind of store without a change feed brings to `JournaledCopy`: how one tenant's items are listed, copied and
compared, and where it is written down who copies."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from tenure.model.comparison import DifferenceKind
from tenure.stores.contract import Copier, Fence

V = TypeVar("V", bound=Hashable)
"""What a kind of store tells two states of an item apart by."""
Allowed = Callable[[float], None]
"""Raises `LeaseLost` if this process may no longer write to the target. The answer may be so many seconds old; 0: look
now. Whoever cannot write under a condition (that the target's item still is what it was) looks before each request, so
that all that a displaced copier can still do is what is on its way already (`JournaledCopy`, `handover_s`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item(Generic[V]):
    """One item as a listing shows it. As long as `version` is equal, the item is unchanged on that side.

    `size` is in bytes, 0 where a listing does not say; it is for showing progress.
    """

    version: V
    size: int = 0


class Listing(Protocol[V]):
    """Everything that the tenant has on either side, by keys that are the app's own (`tenure.client.touch`)."""

    def source(self) -> Mapping[str, Item[V]]: ...
    def target(self) -> Mapping[str, Item[V]]: ...

    def current(self, source: Item[V], target: Item[V]) -> bool:
        """Whether the target's item is as the source's for certain; False where listings cannot tell."""

    def mine(self, key: str) -> bool:
        """Whether the key names an item of the tenant: what a journal says about others is passed over.

        Asked about each key that a journal names, or that is to be mended, before it is copied."""

    def collection(self, key: str) -> str:
        """The part of the catalogue that the key belongs to."""


class Transfer(Protocol[V]):
    """Copies items to the target; before each request that changes something there it asks `Allowed`."""

    def expect(self, target: Mapping[str, Item[V]], keys: Iterable[str]) -> None:
        """The target's listing as it was just now, before these keys are copied: for whoever can use it."""

    def copy(self, keys: Sequence[str]) -> int:
        """Make the target's items equal to the source's, removing those that the source has not; return the bytes
        copied, 0 where they did not pass here. Called from several threads, never with a key that another one has."""


@dataclass(kw_only=True)
class Tally:
    """What a comparison has seen so far. `differing` are candidates: changes under way can still explain them."""

    processed: set[str] = field(default_factory=set)
    differing: dict[str, DifferenceKind] = field(default_factory=dict)
    bytes_read: int = 0


class Comparer(Protocol):
    """Compares items of both sides, contents included."""

    def everything(self, progress: Callable[[int], None]) -> Tally:
        """Compare every item that either side has; `progress` is told how many were looked at."""

    def these(self, keys: Collection[str], *, thorough: bool = True) -> Tally:
        """Compare these items. Not `thorough` while users wait: what could only have changed by itself is left out."""


class LinkRecord(Protocol):
    """What one store remembers of the link that holds it for the tenant. Raises as a `Store` does.

    Whatever takes a `Fence` raises `FenceRefused` if a newer holder has been there.
    """

    def read(self) -> Copier:
        """What holds it now."""

    def check(self, fence: Fence) -> None:
        """Return if no newer holder has been there."""

    def join(self, fence: Fence, link: str, *, copier: str | None = None, fenced: bool = False) -> None:
        """The link holds it from now on; with `copier`, that process copies into it ('': nobody does).

        With `fenced`, raises `FenceRefused` if the store accepts the tenant's writes.
        """

    def note(self, link: str, *, copier: str, passed: str) -> None:
        """How far the first pass of that process has come, if it is still the one that copies. A store whose listings
        tell whether an item is current need not know."""

    def release(self, fence: Fence, link: str) -> None:
        """The link holds it no longer. A fence stays down; no trace is left where the store is open."""
