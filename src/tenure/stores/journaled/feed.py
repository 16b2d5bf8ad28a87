"""What has changed among one tenant's items: from the app's journal, or, without one, from listing after listing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, Protocol

from tenure.model.names import StoreName, TenantId
from tenure.stores.contract import Fence, Journal
from tenure.stores.copy_queue import CopyQueue
from tenure.stores.journaled.ports import Item, Listing, V

OnChange = Callable[[Iterable[str]], None]


class Feed(Protocol[V]):
    """Queues what has changed, and tells `on_change` about it."""

    def begin(self, fence: Fence) -> None:
        """Miss nothing from now on."""

    def listed(self, source: Mapping[str, Item[V]]) -> None:
        """A pass over everything has seen these items on the source."""

    def read(self) -> None:
        """Queue every change that is visible now."""

    def settle(self) -> None:
        """Forget the changes that are copied."""

    def note_unread(self) -> None:
        """Tell `on_change` about what is visible now, whoever copies it."""

    def reset(self) -> None:
        """Forget what this process knows."""

    def end(self) -> None:
        """Forget every change, copied or not."""


class JournalFeed(Generic[V]):
    """Reads the rows of a journal; they go when their items are copied, so that a crash loses none."""

    def __init__(
        self,
        journal: Journal,
        store: StoreName,
        tenant: TenantId,
        listing: Listing[V],
        queue: CopyQueue[str],
        on_change: OnChange,
    ) -> None:
        self._journal = journal
        self._store = store
        self._tenant = tenant
        self._listing = listing
        self._queue = queue
        self._on_change = on_change
        self._lock = threading.Lock()
        self._taken: dict[int, int] = {}
        """Rows that are queued, and the point of the queue at which they are copied."""

    def begin(self, fence: Fence) -> None:
        self._journal.begin(self._tenant, fence)

    def listed(self, source: Mapping[str, Item[V]]) -> None:
        """The journal needs no listing."""

    def read(self) -> None:
        with self._lock:
            rows = [(row, key) for row, key in self._pending() if row not in self._taken]
            if rows:
                keys = [key for _, key in rows if self._listing.mine(key)]
                self._on_change(keys)
                point = self._queue.put(keys)
                self._taken.update({row: point for row, _ in rows})

    def settle(self) -> None:
        with self._lock:
            done = [row for row, point in self._taken.items() if self._queue.copied(point)]
        if done:
            self._journal.settle(self._tenant, done)
            with self._lock:
                for row in done:
                    self._taken.pop(row, None)

    def note_unread(self) -> None:
        self._on_change(key for _, key in self._pending())

    def reset(self) -> None:
        with self._lock:
            self._taken.clear()

    def end(self) -> None:
        self._journal.settle(self._tenant, [row for row, _ in self._pending()])

    def _pending(self) -> Iterable[tuple[int, str]]:
        return self._journal.pending(self._tenant, self._store)


class ListingFeed(Generic[V]):
    """Lists the source and compares with its last listing. Sees what a listing shows, and nothing else."""

    def __init__(self, listing: Listing[V], queue: CopyQueue[str], on_change: OnChange) -> None:
        self._listing = listing
        self._queue = queue
        self._on_change = on_change
        self._lock = threading.Lock()
        self._last: dict[str, V] | None = None

    def begin(self, fence: Fence) -> None:
        """The pass over everything that follows is the beginning."""

    def listed(self, source: Mapping[str, Item[V]]) -> None:
        with self._lock:
            self._last = _versions(source)

    def read(self) -> None:
        with self._lock:
            if self._last is None:
                return
            now = _versions(self._listing.source())
            moved = [key for key in now.keys() | self._last.keys() if now.get(key) != self._last.get(key)]
            self._on_change(moved)
            self._queue.put(moved)
            self._last = now

    def settle(self) -> None:
        """Nothing is kept."""

    def note_unread(self) -> None:
        self.read()

    def reset(self) -> None:
        with self._lock:
            self._last = None

    def end(self) -> None:
        self.reset()


def _versions(listed: Mapping[str, Item[V]]) -> dict[str, V]:
    return {key: item.version for key, item in listed.items()}
