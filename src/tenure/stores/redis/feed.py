"""The change feed of one tenant's keys: what the server announces, or every master of a cluster.

When a cluster has been rearranged (a failover, slots that moved) the feed begins anew on its masters of now; what was
changed meanwhile is a gap, and said so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tenure.errors import DeadlineExceeded, StoreUnavailable, TenureError
from tenure.stores.redis.keyspace import Keyspace
from tenure.stores.redis.node_feed import NodeFeed
from tenure.stores.redis.nodes import Topology

if TYPE_CHECKING:
    from tenure.stores.redis.store import RedisStore

LOOK_S: Final = 1.0
"""How often a cluster is asked who its masters are. A mark asks as well, so that no seal depends on it."""


@dataclass(frozen=True, kw_only=True)
class Marks:
    """A mark on every master, in their order, of the feed's n-th `generation`."""

    generation: int
    numbers: tuple[int, ...]

    @property
    def n(self) -> int:
        """What tells it from every other mark of the tenant in this store."""
        return self.numbers[0]


class ChangeFeed:
    """Calls `on_change(keys)` for every change, and `on_gap()` once it listens again after a gap, from its threads."""

    def __init__(
        self,
        store: RedisStore,
        keyspace: Keyspace,
        *,
        on_change: Callable[[list[bytes]], None],
        on_gap: Callable[[], None],
    ) -> None:
        self._store = store
        self._keys = keyspace
        self._on_change = on_change
        self._on_gap = on_gap
        self._state = threading.Condition()
        self._topology: Topology | None = None
        self._feeds: tuple[NodeFeed, ...] = ()
        self._generation = 0
        self._past_gaps = 0
        self._error: TenureError | None = None
        self._closed = True
        self._rearranged = False
        self._watch: threading.Thread | None = None

    @property
    def gaps(self) -> int:
        """How often it cannot be known what changed. Grows as soon as a gap is noticed."""
        with self._state:
            return self._past_gaps + sum(feed.gaps for feed in self._feeds)

    def open(self) -> None:
        """Listen from now on: everything after this returns is announced. Idempotent."""
        with self._state:
            if not self._closed:
                return
        with self._store.translated():
            topology = self._store.nodes.agreed()
        feeds = self._listen(topology)
        with self._state:
            self._closed = self._rearranged = False
            self._topology, self._feeds, self._error = topology, feeds, None
            self._generation += 1
            if topology.clustered:
                self._watch = threading.Thread(
                    target=self._watch_cluster, name=f"topology-{self._store.cell}", daemon=True
                )
                self._watch.start()

    def close(self) -> None:
        """End the threads and the connections. Idempotent."""
        with self._state:
            self._closed = True
            self._past_gaps += sum(feed.gaps for feed in self._feeds)
            feeds, self._feeds = self._feeds, ()
            watch, self._watch = self._watch, None
            self._state.notify_all()
        for feed in feeds:
            feed.close()
        if watch is not None and watch is not threading.current_thread():
            watch.join()

    def raise_error(self) -> None:
        """Raise why changes go unseen now, if they do."""
        with self._state:
            feeds, error = self._feeds, self._error
        if error is not None:
            raise error
        for feed in feeds:
            feed.raise_error()

    def mark(self) -> Marks:
        """Write the next mark of this tenant on every master. Raises `StoreUnavailable` if these are others by now."""
        with self._state:
            topology, feeds, generation = self._topology, self._feeds, self._generation
        if topology is None or not feeds:
            with self._store.translated():
                topology = self._store.nodes.agreed()
            feeds, generation = self._made(topology), 0
        else:
            self._verify(topology)
        by_node = dict(zip(topology.masters, feeds, strict=True))
        numbers = self._store.nodes.on_each(topology.masters, lambda node: by_node[node].mark())
        return Marks(generation=generation, numbers=tuple(numbers))

    def hears(self, marks: Marks) -> bool:
        """Whether these marks can still come by."""
        with self._state:
            return marks.generation == self._generation and bool(self._feeds)

    def wait(self, marks: Marks, *, timeout_s: float) -> None:
        """Return when these marks have come by: every change before them has been announced."""
        deadline = time.monotonic() + timeout_s
        with self._state:
            topology, feeds, generation = self._topology, self._feeds, self._generation
        if topology is None or not feeds:
            raise StoreUnavailable(f"{self._store.where}: the change feed was closed")
        if marks.generation != generation:
            raise DeadlineExceeded(
                f"{self._store.where}: the cluster has been rearranged since the mark", hint="mark again"
            )
        for feed, n in zip(feeds, marks.numbers, strict=True):
            feed.wait(n, timeout_s=max(deadline - time.monotonic(), 0.001))
        self._verify(topology)

    def barrier(self, *, timeout_s: float) -> None:
        """Return when every change made before this call has been announced."""
        self.wait(self.mark(), timeout_s=timeout_s)

    # -- clusters ----------------------------------------------------------------------------------------------------

    def _verify(self, topology: Topology) -> None:
        """Raise `StoreUnavailable`, and begin anew, if the cluster has been rearranged."""
        try:
            with self._store.translated():
                self._store.nodes.verify(topology)
        except StoreUnavailable:
            with self._state:
                self._rearranged = True
                self._state.notify_all()
            raise

    def _made(self, topology: Topology) -> tuple[NodeFeed, ...]:
        return tuple(
            NodeFeed(self._store, node, self._keys, on_change=self._on_change, on_gap=self._on_gap)
            for node in topology.masters
        )

    def _listen(self, topology: Topology) -> tuple[NodeFeed, ...]:
        feeds = self._made(topology)
        try:
            for feed in feeds:
                feed.open()
        except TenureError:
            for feed in feeds:
                feed.close()
            raise
        return feeds

    def _watch_cluster(self) -> None:
        me = threading.current_thread()
        while True:
            with self._state:
                self._state.wait_for(lambda: self._watch is not me or self._rearranged, timeout=LOOK_S)
                if self._watch is not me:
                    return
                known = self._topology
            try:
                with self._store.translated():
                    seen = self._store.nodes.agreed()
                if known is None or seen.shape != known.shape:
                    self._begin_anew(seen)
            except TenureError as error:
                with self._state:
                    self._error = error
                    self._state.wait_for(lambda: self._watch is not me, timeout=LOOK_S)
            else:
                with self._state:
                    self._error = None
                    self._rearranged = False

    def _begin_anew(self, topology: Topology) -> None:
        with self._state:
            self._past_gaps += 1
        feeds = self._listen(topology)
        with self._state:
            closed = self._closed
            old = feeds if closed else self._feeds
            if not closed:
                self._past_gaps += 1 + sum(feed.gaps for feed in old)
                self._topology, self._feeds = topology, feeds
                self._generation += 1
        for feed in old:
            feed.close()
        if not closed:
            self._on_gap()
