"""One tenant's items kept equal in a second store: a first pass over both listings, then what the app's journal names
(or, without a journal, listing after listing), all through one queue."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, Generic, Self, TypeVar

from tenure.errors import DeadlineExceeded, LeaseLost, StoreRefused, StoreUnavailable, TenureError
from tenure.model.comparison import Comparison, Difference
from tenure.model.finding import Finding
from tenure.model.names import TenantId
from tenure.stores.contract import CopyProgress, Fence, Journal, Mark, Standing, Store, Take
from tenure.stores.copy_queue import CopyQueue
from tenure.stores.journaled.checkpoint import EVERYTHING, Checkpoint, slices
from tenure.stores.journaled.feed import Feed, JournalFeed, ListingFeed
from tenure.stores.journaled.ownership import Ownership
from tenure.stores.journaled.ports import Allowed, Comparer, Item, LinkRecord, Listing, Transfer, V
from tenure.stores.journaled.progress import Progress
from tenure.stores.journaled.verification import Verification, key_of
from tenure.stores.standing import reachable

S = TypeVar("S", bound=Store)

WORKERS: Final = 12
POLL_S: Final = 0.05
"""How often the journal is read while following."""
RELIST_S: Final = 5.0
"""Without a journal: the pause between two listings, or twice as long as the last one took."""
OWNER_CHECK_S: Final = 1.0
"""How often a follower makes sure that the target is still fenced and still its own to write to."""
RETRY_S: Final = 0.5


class JournaledCopy(ABC, Generic[S, V]):
    """The live copy of one tenant between two stores of one kind without a change feed, of the link named `link`.

    A kind of store says how its items are listed, copied (`batch` of them at once, by `workers` threads) and compared,
    and which records say who copies. `source_journal` lies in the source cell's PostgreSQL, `target_journal` in the
    target's. None: sealing lists both sides, and what a listing does not show is only seen by `compare`. A request of a
    copier that was displaced may be on its way for `handover_s` (`ANSWER_S` and its timeout): who displaces one begins
    that much later.
    """

    def __init__(
        self,
        *,
        link: str,
        tenant: TenantId,
        source: S,
        target: S,
        source_journal: Journal | None,
        target_journal: Journal | None,
        source_record: LinkRecord,
        target_record: LinkRecord,
        listing: Listing[V],
        comparer: Comparer,
        transfer: Callable[[Allowed], Transfer[V]],
        batch: int = 1,
        workers: int = WORKERS,
        handover_s: float = 0.0,
    ) -> None:
        self._link = link
        self._tenant = tenant
        self._source = source
        self._target = target
        self._journal = source_journal
        self._target_journal = target_journal
        self._source_record = source_record
        self._target_record = target_record
        self._listing = listing
        self._comparer = comparer
        self._me = uuid.uuid4().hex
        self._marks = itertools.count(1)
        self._state = threading.Condition()
        self._verification = Verification(source, tenant, listing, comparer, self._paused)
        self._queue: CopyQueue[str] = CopyQueue(f"copy-{target.cell}", self._copy, batch=batch)
        changed = self._verification.note_changed
        self._feed: Feed[V] = (
            ListingFeed(listing, self._queue, changed)
            if source_journal is None
            else JournalFeed(source_journal, source.name, tenant, listing, self._queue, changed)
        )
        self._workers = workers
        self._handover_s = handover_s
        self._ownership = Ownership(target_record, self._me, _where(target))
        self._transfer = transfer(self._ownership.ensure)
        self._reverse: Self | None = None
        self._armed = False
        self._thread: threading.Thread | None = None
        self._detached = False
        self._passed = False
        self._error: TenureError | None = None
        self._progress = Progress()
        self._checkpoint = Checkpoint()

    # -- what a kind of store says -----------------------------------------------------------------------------------

    @abstractmethod
    def preflight(self) -> Sequence[Finding]:
        """See `LiveCopy.preflight`."""

    @abstractmethod
    def fingerprint(self) -> Mapping[str, str]:
        """See `LiveCopy.fingerprint`."""

    @abstractmethod
    def turned(self) -> Self:
        """A copy of the same link in the other direction."""

    # -- copying -----------------------------------------------------------------------------------------------------

    @property
    def source(self) -> S:
        return self._source

    @property
    def target(self) -> S:
        return self._target

    @property
    def journaled(self) -> bool:
        """Whether a journal says what changes."""
        return self._journal is not None

    def takes(self) -> Sequence[Take]:
        return ()

    def start(self, fence: Fence) -> None:
        """An armed copy carries on with what the journal holds; any other one begins with a pass over both listings."""
        with self._state:
            if self._thread is not None:
                return
        before, goes_on = self._target_record.read(), self._source_record.read().link == self._link
        displaced = bool(before.process) and not self._armed
        self._target_record.join(fence, self._link, copier=self._me, fenced=True)
        self._source_record.join(fence, self._link, copier="")
        self._feed.begin(fence)
        carried_on = Checkpoint(before.passed if goes_on and before.link == self._link else "")
        self._come_to(EVERYTHING if self._armed else carried_on)
        self._queue.run(self._workers)
        with self._state:
            self._detached = False
            self._error = None
            self._passed = self._armed and self._journal is not None
            self._armed = False
            self._thread = threading.Thread(
                target=self._follow,
                args=(self._handover_s if displaced else 0.0,),
                name=f"follow-{self._target.cell}",
                daemon=True,
            )
            self._thread.start()

    def _come_to(self, point: Checkpoint) -> None:
        """The pass over everything has come that far: who carries on begins there, if a journal says what changes."""
        if self.journaled:
            self._checkpoint = point
            self._target_record.note(self._link, copier=self._me, passed=point.text)

    def progress(self) -> CopyProgress:
        self._raise_error()
        return self._progress.now(lag=len(self._queue), following=self._passed)

    def hurry(self, workers: int) -> int:
        """More threads copy at once."""
        self._workers = max(self._workers, workers)
        self._queue.run(self._workers)
        return self._workers

    def standing(self) -> Standing:
        """Nothing but the journal's rows is kept for a copy: whoever starts the next one lists both sides first."""
        return reachable(self._source, self._target)

    def arm_reverse(self, fence: Fence) -> Self:
        """Has the target's journal record from now on. What this copy brings is never in a journal."""
        self._target_record.join(fence, self._link)
        if self._target_journal is not None:
            self._target_journal.begin(self._tenant, fence)
        if self._reverse is None or not self._reverse._armed:
            self._reverse = self.turned()
            self._reverse._armed = True
        return self._reverse

    def armed_reverse(self) -> Sequence[Self]:
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
        self._progress.copied(keys, self._transfer.copy(keys))

    # -- following ---------------------------------------------------------------------------------------------------

    def _follow(self, pause_s: float) -> None:
        """Begin after that pause."""
        while not self._paused(pause_s):
            try:
                began = time.monotonic()
                self._ownership.ensure(OWNER_CHECK_S)
                if not self._passed:
                    self._first_pass()
                self._feed.read()
                self._feed.settle()
                pause_s = POLL_S if self.journaled else max(RELIST_S, 2 * (time.monotonic() - began))
            except LeaseLost as error:
                self._failed(error)
                self._queue.stop()
                with self._state:
                    self._thread = None
                return
            except TenureError as error:
                self._failed(error)
                pause_s = RETRY_S
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
        for point, checkpoint in self._pass_over():
            if not self._drained(point, look_every_s=0.5):
                return
            self._come_to(checkpoint)
        self._come_to(EVERYTHING)
        with self._state:
            self._passed = not self._detached
            self._state.notify_all()

    def _pass_over(self) -> list[tuple[int, Checkpoint]]:
        """Queue what the listings show to differ; return the points of the queue at which its parts are copied."""
        ours, theirs = self._listed()
        self._feed.listed(ours)
        if theirs and not ours:
            raise StoreRefused(
                f"{_where(self._source)} holds nothing of {self._tenant}, "
                f"and {_where(self._target)} does: nothing is deleted",
                hint="if the source is right, re-sync in full; if it lost its data, restore it first",
            )
        wanted = [key for key in theirs if key not in ours]
        sizes: dict[str, int] = {}
        for key, found in ours.items():
            there = theirs.get(key)
            if there is None or not (self._checkpoint.passed(key) or self._listing.current(found, there)):
                wanted.append(key)
                sizes[key] = found.size
        self._progress.expect(len(wanted), sizes)
        self._verification.note_changed(wanted)
        self._transfer.expect(theirs, wanted)
        return [(self._queue.put(part), checkpoint) for part, checkpoint in slices(wanted)]

    def _listed(self) -> tuple[Mapping[str, Item[V]], Mapping[str, Item[V]]]:
        """Both sides' listings, read at the same time."""
        with ThreadPoolExecutor(max_workers=1) as beside:
            theirs = beside.submit(self._listing.target)
            return self._listing.source(), theirs.result()

    def _drained(self, point: int, *, look_every_s: float) -> bool:
        """Wait until everything put up to `point` is copied; return False if this copy is let go of before."""
        while not self._detached:
            with contextlib.suppress(DeadlineExceeded):
                self._queue.drained(point, timeout_s=look_every_s)
                return True
        return False

    def _await_pass(self, deadline: float) -> None:
        with self._state:
            done = self._state.wait_for(
                lambda: self._passed or self._error is not None or self._thread is None,
                timeout=max(deadline - time.monotonic(), 0),
            )
        self._raise_error()
        if not done:
            raise DeadlineExceeded(f"{_where(self._source)}: the first pass over everything is not over yet")
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
        return self._verification.everything(
            progress, outstanding=self._queue.outstanding, note_unread=self._feed.note_unread
        )

    def compare_changed(self) -> Comparison:
        self._verification.require()
        if self._thread is None:
            raise self._verification.stale()
        self._raise_error()
        return self._verification.changes()

    def repair(self, differences: Sequence[Difference], fence: Fence) -> int:
        keys = [key_of(d.key) for d in differences]
        wrong = [key for key in keys if not self._listing.mine(key)]
        if wrong:
            raise StoreRefused(f"{wrong[0]!r} is nothing of {self._tenant}")
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
            self._drained(self._queue.put(tally.differing), look_every_s=1.0)
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
        self._progress.forget()

    def stop(self, fence: Fence) -> None:
        """Works on each side that can be reached; raises `StoreUnavailable` at the end if one could not be."""
        self.detach()
        away: list[StoreUnavailable] = []

        def attempt(act: Callable[[], None]) -> None:
            try:
                act()
            except StoreUnavailable as error:
                away.append(error)

        records = (self._target_record, self._source_record)
        for record in records:
            attempt(partial(record.check, fence))
        for record in records:  # before the journal: without it nobody may carry on from what they say
            attempt(partial(record.release, fence, self._link))
        attempt(self._feed.end)
        if away:
            raise away[0]


def _where(store: Store) -> str:
    """How messages name a store."""
    return f"{store.name} of {store.cell}"
