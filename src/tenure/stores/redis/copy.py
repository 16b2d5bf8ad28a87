"""One tenant's keys kept equal on a second server: a first pass over all keys and what the change feed announces go
through one queue, so that no older state of a key is ever written over a newer one."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from tenure.errors import DeadlineExceeded, EvidenceStale, StoreRefused, TenureError
from tenure.model.comparison import Comparison, Difference
from tenure.model.finding import Finding
from tenure.model.names import TenantId
from tenure.stores.contract import CopyProgress, Fence, Mark, Standing, Take
from tenure.stores.copy_queue import CopyQueue
from tenure.stores.redis.comparison import Comparer, Tally
from tenure.stores.redis.feed import ChangeFeed, Marks
from tenure.stores.redis.preflight import findings
from tenure.stores.redis.store import RedisStore
from tenure.stores.redis.transfer import Writer, dump, exist, portions
from tenure.stores.standing import reachable

BATCH: Final = 256
BARRIER_TIMEOUT_S: Final = 10.0


class RedisCopy:
    """The live copy of one tenant between two servers, of the link named `link`."""

    def __init__(self, *, link: str, tenant: TenantId, source: RedisStore, target: RedisStore) -> None:
        self._link = link
        self._tenant = tenant
        self._source = source
        self._target = target
        self._keys = source.keyspace(tenant)
        self._me = uuid.uuid4().hex
        self._state = threading.Condition()
        self._queue: CopyQueue[bytes] = CopyQueue(f"copy-{target.cell}", self._copy, batch=BATCH)
        self._feed = ChangeFeed(source, self._keys, on_change=self._on_change, on_gap=self._on_gap)
        self._workers = 1
        self._writer = Writer(target.nodes, self._keys)
        self._comparer = Comparer(source, target, self._keys)
        self._reverse: RedisCopy | None = None
        self._armed = False
        self._armed_gaps = 0
        self._following = False
        self._pass: threading.Thread | None = None
        self._passed = False
        self._pass_wanted = False
        self._pass_error: TenureError | None = None
        self._detached = False
        self._changed: set[bytes] | None = None
        self._evidence_gaps = 0
        self._marks: Marks | None = None
        self._items_done = 0
        self._bytes_done = 0
        self._items_total = 0

    @property
    def source(self) -> RedisStore:
        return self._source

    @property
    def target(self) -> RedisStore:
        return self._target

    def preflight(self) -> Sequence[Finding]:
        return findings(self._tenant, self._source, self._target)

    def takes(self) -> Sequence[Take]:
        return ()

    def fingerprint(self) -> Mapping[str, str]:
        """What must be equal is the prefix and how keys are told apart; Redis has no schema."""
        return {"prefix": self._keys.prefix.decode(), "keys": ", ".join(self._keys.collections)}

    # -- copying -----------------------------------------------------------------------------------------------------

    def start(self, fence: Fence) -> None:
        """An armed copy carries on with what it has heard since; any other one passes over all keys."""
        with self._target.translated():
            self._target.fencing(self._tenant).join(fence, self._link, copier=self._me, fenced=True)
        with self._source.translated():
            self._source.fencing(self._tenant).join(fence, self._link)
        with self._state:
            if self._following:
                return
            self._detached = False
            self._following = True
        self._feed.open()
        self._queue.run(self._workers)
        with self._state:
            lossless = self._armed and self._feed.gaps == self._armed_gaps
            self._armed = False
            self._passed = lossless
        if not lossless:
            self._want_pass()

    def progress(self) -> CopyProgress:
        self._raise_error()
        lag = len(self._queue)
        with self._state:
            return CopyProgress(
                items_done=self._items_done,
                items_total=max(self._items_total, self._items_done + lag),
                bytes_done=self._bytes_done,
                bytes_total=self._bytes_done + lag * (self._bytes_done // max(self._items_done, 1)),
                following=self._passed,
                lag_items=lag,
                applied=self._items_done,
            )

    def hurry(self, workers: int) -> int:
        """More threads copy at once: of use where round trips to the target are what takes long."""
        self._workers = max(self._workers, workers)
        self._queue.run(self._workers)
        return self._workers

    def standing(self) -> Standing:
        """Nothing is kept for a copy: whoever starts the next one compares all keys first."""
        return reachable(self._source, self._target)

    def arm_reverse(self, fence: Fence) -> RedisCopy:
        """Listens to the target from now on; every `seal` of this copy makes it forget what this copy has written."""
        with self._target.translated():
            self._target.fencing(self._tenant).join(fence, self._link)
        reverse = self._reverse
        if reverse is None or not reverse._armed:
            reverse = RedisCopy(
                link=self._link, tenant=self._tenant, source=self._target, target=self._source
            )
            reverse._arm()
            self._reverse = reverse
        return reverse

    def _arm(self) -> None:
        self._armed = True
        self._feed.open()
        self._armed_gaps = self._feed.gaps

    def _forget_echo(self, *, timeout_s: float) -> None:
        """Of an armed copy whose source is fenced: what it has heard so far came from the copy towards it."""
        if self._armed:
            self._feed.barrier(timeout_s=timeout_s)
            self._queue.forget()
            self._armed_gaps = self._feed.gaps

    def mark(self) -> Mark:
        self._marks = self._feed.mark()
        return Mark(link=self._link, n=self._marks.n)

    def seal(self, mark: Mark, *, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        if mark.link != self._link:
            raise StoreRefused(f"mark of link {mark.link} given to a copy of link {self._link}")
        self._await_pass(deadline)
        gaps = self._feed.gaps
        # A mark of another process may have gone by before this one listened: then a later one of its own serves.
        marks = self._marks
        if marks is None or marks.n != mark.n or not self._feed.hears(marks):
            marks = self._feed.mark()
        self._feed.wait(marks, timeout_s=deadline - time.monotonic())
        self._queue.drained(self._queue.point(), timeout_s=deadline - time.monotonic())
        if self._feed.gaps != gaps:
            raise DeadlineExceeded(
                f"{self._source.where}: the change feed was interrupted while sealing",
                hint="it catches up by itself",
            )
        if self._reverse is not None:
            self._reverse._forget_echo(timeout_s=max(deadline - time.monotonic(), 0.001))

    def _copy(self, keys: list[bytes]) -> None:
        for portion in portions_of(self._source, keys):
            with self._source.translated():
                dumped = self._source.nodes.gather(dump, portion)
            with self._target.translated():
                self._writer.restore(dumped, copier=self._me)
            with self._state:
                self._items_done += len(dumped)
                self._bytes_done += sum(len(d.payload or b"") for d in dumped)

    def _on_change(self, keys: list[bytes]) -> None:
        self._remember(keys)
        with self._state:
            wanted = self._following or self._armed
        if wanted:
            self._queue.put(keys)

    def _on_gap(self) -> None:
        with self._state:
            following = self._following
        if following:
            self._want_pass()

    # -- passes over everything --------------------------------------------------------------------------------------

    def _want_pass(self) -> None:
        """Have a thread pass over all keys; one that is under way begins again."""
        with self._state:
            self._passed = False
            self._pass_wanted = True
            if self._pass is None:
                self._pass = threading.Thread(
                    target=self._pass_loop, name=f"pass-{self._target.cell}", daemon=True
                )
                self._pass.start()

    def _pass_loop(self) -> None:
        while True:
            with self._state:
                if self._detached or not self._pass_wanted:
                    self._pass = None
                    self._state.notify_all()
                    return
                self._pass_wanted = False
            error: TenureError | None = None
            try:
                self._pass_over(guarded=True)
            except TenureError as failed:
                error = failed
            with self._state:
                self._pass_error = error
                self._passed = error is None and not self._pass_wanted
                if error is not None and error.retryable:
                    self._pass_wanted = True
                self._state.notify_all()
                if error is not None:
                    self._state.wait_for(lambda: self._detached, timeout=0.5)

    def _pass_over(self, *, guarded: bool) -> None:
        """Queue every key of both sides that matters, and wait until they are copied.

        `guarded`: a source that has lost everything (an empty server after a restart) does not empty the target.
        """
        found = 0
        point = self._queue.point()
        with self._source.translated():
            for keys in self._keys.scan(self._source.nodes):
                found += len(keys)
                with self._state:
                    self._items_total = max(self._items_total, found)
                point = self._queue.put_slowly(keys)
        for keys in self._only_on_target():
            if guarded and not found:
                raise StoreRefused(
                    f"{self._source.where} holds no key of {self._tenant}, "
                    f"and {self._target.where} does: nothing is deleted",
                    hint="if the source is right, re-sync in full; if it lost its data, restore it first",
                )
            point = self._queue.put_slowly(keys)
        while not self._detached:
            with contextlib.suppress(DeadlineExceeded):
                self._queue.drained(point, timeout_s=1.0)
                return

    def _only_on_target(self) -> Sequence[list[bytes]]:
        extras: list[list[bytes]] = []
        with self._target.translated():
            for keys in self._keys.scan(self._target.nodes):
                with self._source.translated():
                    there = self._source.nodes.gather(exist, keys)
                absent = [key for key, exists in zip(keys, there, strict=True) if not exists]
                if absent:
                    extras.append(absent)
        return extras

    def _await_pass(self, deadline: float) -> None:
        with self._state:
            done = self._state.wait_for(
                lambda: self._passed or self._pass_error is not None or not self._following,
                timeout=max(deadline - time.monotonic(), 0),
            )
        self._raise_error()
        if not done:
            raise DeadlineExceeded(f"{self._source.where}: the first pass over all keys is not over yet")
        if not self._following:
            raise StoreRefused("the copy has not been started")

    def _raise_error(self) -> None:
        with self._state:
            if self._pass_error is not None:
                raise self._pass_error
        self._feed.raise_error()
        self._queue.raise_error()

    # -- comparing and mending ---------------------------------------------------------------------------------------

    def compare(self, *, progress: Callable[[int], None] = lambda _items: None) -> Comparison:
        try:
            return self._compare(progress)
        except BaseException:
            # What this comparison has not come to was never compared: no later one may build on it.
            with self._state:
                self._changed = None
            raise

    def _compare(self, progress: Callable[[int], None]) -> Comparison:
        self._raise_error()
        self._feed.open()
        with self._state:
            self._changed = set()
        self._evidence_gaps = self._feed.gaps
        self._feed.barrier(timeout_s=BARRIER_TIMEOUT_S)
        self._remember(self._queue.outstanding())
        tally = self._comparer.everything(progress)
        self._feed.barrier(timeout_s=BARRIER_TIMEOUT_S)
        with self._state:
            changed = set(self._changed or ())
        self._check_evidence()
        result = self._comparer.result(tally, changed=changed)
        self._remember(self._keys.key(d.key) for d in result.differences)
        return result

    def compare_changed(self) -> Comparison:
        self._check_evidence()
        with self._state:
            changed, self._changed = self._changed or set(), set()
        try:
            tally = self._comparer.these(changed) if changed else Tally()
            result = self._comparer.result(tally)
            self._remember(self._keys.key(d.key) for d in result.differences)
            self._check_evidence()
        except BaseException:
            self._remember(changed)
            raise
        return result

    def _remember(self, keys: Iterable[bytes]) -> None:
        """Have the next `compare_changed` look at these keys."""
        with self._state:
            if self._changed is not None:
                self._changed.update(keys)

    def _check_evidence(self) -> None:
        if self._changed is None or self._feed.gaps != self._evidence_gaps:
            raise EvidenceStale(
                f"{self._source.where}: it is not known what has changed since the last comparison",
                hint="compare again",
            )

    def repair(self, differences: Sequence[Difference], fence: Fence) -> int:
        keys = [self._keys.key(d.key) for d in differences]
        if not keys:
            return 0
        if self._following:
            self._queue.drained(self._queue.put(keys), timeout_s=60.0 + len(keys) / 100)
            return len(keys)
        changed = 0
        for portion in portions_of(self._source, keys):
            with self._source.translated():
                dumped = self._source.nodes.gather(dump, portion)
            with self._target.translated():
                changed += self._writer.restore(dumped, token=fence.token)
        return changed

    def resync(self, fence: Fence, *, workers: int) -> None:
        self.start(fence)
        self._queue.run(workers)
        try:
            self._pass_over(guarded=False)
        finally:
            self._queue.shrink(self._workers)
        with self._state:
            self._pass_error = None
            if not self._pass_wanted and self._pass is None:
                self._passed = True
            self._state.notify_all()

    # -- ending ------------------------------------------------------------------------------------------------------

    def armed_reverse(self) -> Sequence[RedisCopy]:
        """The reverse copy that this object has armed, if any."""
        return () if self._reverse is None else (self._reverse,)

    def detach(self) -> None:
        with self._state:
            self._detached = True
            self._following = self._armed = False
            self._passed = self._pass_wanted = False
            passing = self._pass
            self._state.notify_all()
        self._feed.close()
        self._queue.stop()
        if passing is not None and passing is not threading.current_thread():
            passing.join()

    def stop(self, fence: Fence) -> None:
        self.detach()
        for store in (self._target, self._source):
            with store.translated():
                store.fencing(self._tenant).check(fence)
        for store in (self._target, self._source):
            with store.translated():
                self._keys.forget_marks(store.nodes, counters=True)
                store.fencing(self._tenant).release(fence, self._link)


def portions_of(store: RedisStore, keys: Sequence[bytes]) -> Sequence[Sequence[bytes]]:
    with store.translated():
        return list(portions(store.nodes, keys))
