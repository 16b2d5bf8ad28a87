"""One tenant's objects kept equal in a second bucket: a first pass over both listings, then what the app's journal
names (or, without a journal, listing after listing), all through one queue."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from tenure.errors import DeadlineExceeded, EvidenceStale, LeaseLost, StoreRefused, TenureError
from tenure.model.comparison import Comparison, Difference
from tenure.model.finding import Finding
from tenure.model.names import TenantId
from tenure.stores.contract import CopyProgress, Fence, Journal, Mark, Standing, Take
from tenure.stores.copy_queue import CopyQueue
from tenure.stores.s3.comparison import Comparer, Tally, key_of
from tenure.stores.s3.errors import translated
from tenure.stores.s3.feed import Feed, JournalFeed, ListingFeed
from tenure.stores.s3.objects import Transfer
from tenure.stores.s3.ownership import Ownership
from tenure.stores.s3.preflight import findings
from tenure.stores.s3.store import S3Store
from tenure.stores.standing import reachable

WORKERS: Final = 12
BATCH: Final = 1
"""Objects that a worker takes at once: each is a request or more, so they are spread over the workers."""
POLL_S: Final = 0.05
"""How often the journal is read while following."""
RELIST_S: Final = 5.0
"""Without a journal: the pause between two listings, or twice as long as the last one took."""
OWNER_CHECK_S: Final = 1.0
"""How often a follower makes sure that the target is still fenced and still its own to write to."""
SETTLE_S: Final = 1.0
"""How long a difference may stay unexplained while the app's transaction that explains it has not committed."""


class S3Copy:
    """The live copy of one tenant between two buckets, of the link named `link`.

    `source_journal` lies in the source cell's PostgreSQL, `target_journal` in the target's. None: sealing lists both
    sides, and a change of nothing but an object's tags is only seen by `compare`.
    """

    def __init__(
        self,
        *,
        link: str,
        tenant: TenantId,
        source: S3Store,
        target: S3Store,
        source_journal: Journal | None,
        target_journal: Journal | None,
    ) -> None:
        self._link = link
        self._tenant = tenant
        self._source = source
        self._target = target
        self._journal = source_journal
        self._target_journal = target_journal
        self._me = uuid.uuid4().hex
        self._marks = itertools.count(1)
        self._state = threading.Condition()
        self._queue: CopyQueue[str] = CopyQueue(f"copy-{target.cell}", self._copy, batch=BATCH)
        self._feed: Feed = (
            ListingFeed(source, tenant, self._queue, self._note_changed)
            if source_journal is None
            else JournalFeed(source_journal, source, tenant, self._queue, self._note_changed)
        )
        self._workers = WORKERS
        self._ownership = Ownership(target, tenant, self._me)
        self._transfer = Transfer(
            source.objects,
            target.objects,
            server_side=source.same_server(target),
            allowed=self._ownership.ensure,
        )
        self._comparer = Comparer(source, target, tenant)
        self._reverse: S3Copy | None = None
        self._armed = False
        self._thread: threading.Thread | None = None
        self._detached = False
        self._passed = False
        self._error: TenureError | None = None
        self._sizes: dict[str, int] = {}
        self._changed: set[str] | None = None
        self._items_done = 0
        self._items_total = 0
        self._bytes_done = 0
        self._bytes_total = 0

    @property
    def source(self) -> S3Store:
        return self._source

    @property
    def target(self) -> S3Store:
        return self._target

    def preflight(self) -> Sequence[Finding]:
        return findings(self._tenant, self._source, self._target, journaled=self._journal is not None)

    def takes(self) -> Sequence[Take]:
        return ()

    def fingerprint(self) -> Mapping[str, str]:
        """What must be equal is the prefix and how keys are told apart; objects have no schema."""
        return {"prefix": self._source.prefix(self._tenant), "keys": ", ".join(self._source.collections)}

    # -- copying -----------------------------------------------------------------------------------------------------

    def start(self, fence: Fence) -> None:
        """An armed copy carries on with what the journal holds; any other one begins with a pass over both listings."""
        with self._state:
            if self._thread is not None:
                return
        with translated(self._target.where):
            self._target.fencing(self._tenant).join(fence, self._link, copier=self._me, fenced=True)
        with translated(self._source.where):
            self._source.fencing(self._tenant).join(fence, self._link)
        self._feed.begin(fence)
        self._queue.run(self._workers)
        with self._state:
            self._detached = False
            self._error = None
            self._passed = self._armed and self._journal is not None
            self._armed = False
            self._thread = threading.Thread(
                target=self._follow, name=f"follow-{self._target.cell}", daemon=True
            )
            self._thread.start()

    def progress(self) -> CopyProgress:
        self._raise_error()
        lag = len(self._queue)
        with self._state:
            return CopyProgress(
                items_done=self._items_done,
                items_total=max(self._items_total, self._items_done + lag),
                bytes_done=self._bytes_done,
                bytes_total=max(self._bytes_total, self._bytes_done),
                following=self._passed,
                lag_items=lag,
                applied=self._items_done,
            )

    def hurry(self, workers: int) -> int:
        """More threads copy at once."""
        self._workers = max(self._workers, workers)
        self._queue.run(self._workers)
        return self._workers

    def standing(self) -> Standing:
        """Nothing but the journal's rows is kept for a copy: whoever starts the next one lists both sides first."""
        return reachable(self._source, self._target)

    def arm_reverse(self, fence: Fence) -> S3Copy:
        """Has the target's journal record from now on. What this copy brings is never in a journal."""
        with translated(self._target.where):
            self._target.fencing(self._tenant).join(fence, self._link)
        if self._target_journal is not None:
            self._target_journal.begin(self._tenant, fence)
        if self._reverse is None or not self._reverse._armed:
            self._reverse = S3Copy(
                link=self._link,
                tenant=self._tenant,
                source=self._target,
                target=self._source,
                source_journal=self._target_journal,
                target_journal=self._journal,
            )
            self._reverse._armed = True
        return self._reverse

    def armed_reverse(self) -> Sequence[S3Copy]:
        """The reverse copy that this object has armed, if any."""
        return () if self._reverse is None else (self._reverse,)

    def mark(self) -> Mark:
        """The point itself is the fence: `seal` reads the journal (or the listings) after it."""
        return Mark(link=self._link, n=next(self._marks))

    def seal(self, mark: Mark, *, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        if mark.link != self._link:
            raise StoreRefused(f"mark of link {mark.link} given to a copy of link {self._link}")
        self._await_pass(deadline)
        self._feed.read()
        self._queue.drained(self._queue.point(), timeout_s=max(deadline - time.monotonic(), 0.001))

    def _copy(self, keys: list[str]) -> None:
        for key in keys:
            with translated(f"{self._source.where} to {self._target.cell}, {key!r}"):
                size = self._transfer.copy(key)
                with self._state:
                    self._items_done += 1
                    self._bytes_done += size or self._sizes.pop(key, 0)

    # -- following ---------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        pause_s = 0.0
        while not self._paused(pause_s):
            try:
                began = time.monotonic()
                self._ownership.ensure(OWNER_CHECK_S)
                if not self._passed:
                    self._first_pass()
                self._feed.read()
                self._feed.settle()
                pause_s = (
                    POLL_S if self._journal is not None else max(RELIST_S, 2 * (time.monotonic() - began))
                )
            except LeaseLost as error:
                self._failed(error)
                self._queue.stop()
                with self._state:
                    self._thread = None
                return
            except TenureError as error:
                self._failed(error)
                pause_s = 0.5
            else:
                self._failed(None)

    def _paused(self, seconds: float) -> bool:
        """Wait; return whether this copy was let go of."""
        with self._state:
            self._state.wait_for(lambda: self._detached, timeout=seconds)
            return self._detached

    def _failed(self, error: TenureError | None) -> None:
        with self._state:
            self._error = error
            self._state.notify_all()

    def _first_pass(self) -> None:
        point = self._pass_over()
        while not self._detached:
            with contextlib.suppress(DeadlineExceeded):
                self._queue.drained(point, timeout_s=0.5)
                break
        with self._state:
            self._passed = not self._detached
            self._state.notify_all()

    def _pass_over(self) -> int:
        """Queue what the listings show to differ; return the point of the queue at which it is copied."""
        ours, theirs = self._comparer.listed()
        self._feed.listed(ours)
        if theirs and not ours:
            raise StoreRefused(
                f"{self._source.where} holds no object of {self._tenant}, "
                f"and {self._target.where} does: nothing is deleted",
                hint="if the source is right, re-sync in full; if it lost its data, restore it first",
            )
        wanted = [key for key in theirs if key not in ours]
        for key, found in ours.items():
            there = theirs.get(key)
            # Same contents, but newer: its headers or metadata may have been replaced. Listings show whole seconds.
            if there is None or there.differs(found) or there.modified <= found.modified:
                wanted.append(key)
                self._sizes[key] = found.size
        with self._state:
            self._items_total = max(self._items_total, self._items_done + len(wanted))
            self._bytes_total = max(self._bytes_total, self._bytes_done + sum(self._sizes.values()))
        self._note_changed(wanted)
        self._transfer.expect(theirs, wanted)
        return self._queue.put(wanted)

    def _note_changed(self, keys: Iterable[str]) -> None:
        with self._state:
            if self._changed is not None:
                self._changed.update(keys)

    def _await_pass(self, deadline: float) -> None:
        with self._state:
            done = self._state.wait_for(
                lambda: self._passed or self._error is not None or self._thread is None,
                timeout=max(deadline - time.monotonic(), 0),
            )
        self._raise_error()
        if not done:
            raise DeadlineExceeded(f"{self._source.where}: the first pass over all objects is not over yet")
        if self._thread is None:
            raise StoreRefused("the copy has not been started")

    def _raise_error(self) -> None:
        with self._state:
            if self._error is not None:
                raise self._error
        self._queue.raise_error()

    # -- comparing and mending ---------------------------------------------------------------------------------------

    def compare(self, *, progress: Callable[[int], None] = lambda _items: None) -> Comparison:
        self._raise_error()
        with self._state:
            self._changed = set()
        try:
            self._note_changed(list(self._queue.outstanding()))
            tally = self._comparer.everything(progress)
            return self._explained(tally, deadline=time.monotonic() + SETTLE_S)
        except BaseException:
            # What this comparison has not come to was never compared: no later one may build on it.
            with self._state:
                self._changed = None
            raise

    def _explained(self, tally: Tally, *, deadline: float) -> Comparison:
        """The result without what changed meanwhile. A transaction of the app may have written an object and not yet
        committed the row that says so: what differs is looked at again for a while."""
        while True:
            self._feed.note_unread()
            changed = self._changed_now()
            again = self._comparer.these([key for key in tally.differing if key not in changed])
            late = time.monotonic() >= deadline or self._detached
            if late or not again.differing or not self._source.fence_state(self._tenant).writable:
                tally.differing.update(again.differing)
                self._note_changed(again.differing)
                return self._comparer.result(tally, again.differing, changed=changed)
            self._paused(0.1)

    def _changed_now(self) -> set[str]:
        with self._state:
            return set(self._changed or ())

    def compare_changed(self) -> Comparison:
        with self._state:
            if self._changed is None or self._thread is None:
                raise EvidenceStale(
                    f"{self._source.where}: it is not known what has changed since the last comparison",
                    hint="compare again in the process that copies",
                )
            changed, self._changed = self._changed, set()
        try:
            self._raise_error()
            tally = self._comparer.these(changed, thorough=False) if changed else Tally()
        except BaseException:
            self._note_changed(changed)
            raise
        self._note_changed(tally.differing)
        return self._comparer.result(tally, tally.differing, changed=frozenset())

    def repair(self, differences: Sequence[Difference], fence: Fence) -> int:
        prefix = self._source.prefix(self._tenant)
        keys = [key_of(d.key) for d in differences]
        wrong = [key for key in keys if not key.startswith(prefix)]
        if wrong:
            raise StoreRefused(f"{wrong[0]!r} is not an object of {self._tenant}")
        if self._thread is None:
            with self._ownership.mending(fence):
                try:
                    self._mend(keys)
                finally:
                    self._queue.stop()
        else:
            self._ownership.check_fence(fence)
            self._mend(keys)
        return len(keys)

    def _mend(self, keys: Sequence[str]) -> None:
        self._queue.run(self._workers)
        self._queue.drained(self._queue.put(keys), timeout_s=60.0 + 5.0 * len(keys))

    def resync(self, fence: Fence, *, workers: int) -> None:
        self.start(fence)
        self._queue.run(max(workers, self._workers))
        try:
            tally = self._comparer.everything(lambda _items: None)
            point = self._queue.put(tally.differing)
            while not self._detached:
                with contextlib.suppress(DeadlineExceeded):
                    self._queue.drained(point, timeout_s=1.0)
                    break
        finally:
            self._queue.shrink(self._workers)
        with self._state:
            self._passed = not self._detached
            self._error = None
            self._state.notify_all()

    # -- ending ------------------------------------------------------------------------------------------------------

    def detach(self) -> None:
        with self._state:
            self._detached = True
            self._armed = False
            self._passed = False
            thread, self._thread = self._thread, None
            self._state.notify_all()
        self._queue.stop()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self._feed.reset()
        self._sizes.clear()

    def stop(self, fence: Fence) -> None:
        self.detach()
        for store in (self._target, self._source):
            with translated(store.where):
                store.fencing(self._tenant).check(fence)
        self._feed.end()
        for store in (self._target, self._source):
            with translated(store.where):
                store.fencing(self._tenant).release(fence, self._link)
