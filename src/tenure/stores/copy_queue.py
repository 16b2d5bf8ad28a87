"""The items a live copy still has to bring over: coalesced, never in two hands at once, and counted off up to a point.

Everything that copies (first pass, following, repair, re-sync) goes through one queue, so that an older state of an
item can never be written over a newer one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

from tenure.errors import DeadlineExceeded, StoreRefused, StoreUnavailable, TenureError

K = TypeVar("K", bound=Hashable)

HIGH_WATER = 20_000
"""`put_slowly` waits while more items than this are queued."""
BACK_OFF_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


class CopyQueue(Generic[K]):
    """Threads of `work(batch)` that empty a queue. An item put while it is being copied is copied once more."""

    def __init__(self, name: str, work: Callable[[list[K]], None], *, batch: int) -> None:
        self._name = name
        self._work = work
        self._batch = batch
        self._state = threading.Condition()
        self._pending: dict[K, int] = {}
        self._in_hand: dict[K, int] = {}
        self._sequence = 0
        self._error: TenureError | None = None
        self._threads: list[threading.Thread] = []
        self._stopping = False

    # -- filling -----------------------------------------------------------------------------------------------------

    def put(self, items: Iterable[K]) -> int:
        """Queue these items; return the point up to which `drained` must come for them to be copied."""
        with self._state:
            return self._add(items)

    def put_slowly(self, items: Iterable[K]) -> int:
        """As `put`, but waits while the queue is long. For passes over everything, never for a change feed."""
        with self._state:
            self._state.wait_for(lambda: len(self._pending) < HIGH_WATER or self._stopping)
            return self._add(items)

    def _add(self, items: Iterable[K]) -> int:
        self._sequence += 1
        for item in items:
            self._pending.setdefault(item, self._sequence)
        self._state.notify_all()
        return self._sequence

    def point(self) -> int:
        """The point up to which everything put so far is copied once `drained` has come to it."""
        with self._state:
            return self._sequence

    def forget(self) -> None:
        """Drop what is queued; what is in hand is finished."""
        with self._state:
            self._pending.clear()
            self._state.notify_all()

    # -- watching ----------------------------------------------------------------------------------------------------

    def outstanding(self) -> set[K]:
        """Everything not copied yet."""
        with self._state:
            return {*self._pending, *self._in_hand}

    def __len__(self) -> int:
        with self._state:
            return len(self._pending) + len(self._in_hand)

    def copied(self, point: int) -> bool:
        """Whether everything put up to `point` is copied."""
        with self._state:
            return self._oldest(point) > point

    def _oldest(self, point: int) -> int:
        return min(
            next(iter(self._pending.values()), point + 1), min(self._in_hand.values(), default=point + 1)
        )

    def raise_error(self) -> None:
        """Raise what the last attempt to copy has failed with, if it has not worked since."""
        with self._state:
            if self._error is not None:
                raise self._error

    def drained(self, point: int, *, timeout_s: float) -> None:
        """Return when everything put up to `point` is copied. Raises `DeadlineExceeded`, or why it is not."""
        deadline = time.monotonic() + timeout_s
        with self._state:
            while not self._stopping:
                if self._error is not None and not self._error.retryable:
                    raise self._error
                if self._oldest(point) > point:
                    return
                left = deadline - time.monotonic()
                if left <= 0:
                    if self._error is not None:
                        raise self._error
                    raise DeadlineExceeded(
                        f"{self._name}: {len(self._pending) + len(self._in_hand)} items are still to be copied",
                        hint="the source changes faster than the copy follows; try again at a quieter time",
                    )
                self._state.wait(left)
        raise StoreUnavailable(f"{self._name}: the copy was stopped")

    # -- working -----------------------------------------------------------------------------------------------------

    def run(self, workers: int = 1) -> None:
        """Have at least this many threads at work; what stopped earlier ones is forgotten. Idempotent."""
        with self._state:
            self._stopping = False
            if not self._threads:
                self._error = None
            for n in range(len(self._threads), workers):
                thread = threading.Thread(target=self._loop, name=f"{self._name}-{n}", daemon=True)
                self._threads.append(thread)
                thread.start()

    def shrink(self, workers: int) -> None:
        """Let the threads beyond this many end when they have finished what is in their hands."""
        with self._state:
            leaving, self._threads = self._threads[workers:], self._threads[:workers]
            self._state.notify_all()
        for thread in leaving:
            thread.join()

    def stop(self) -> None:
        """Finish what is in hand, forget the rest, end all threads. Idempotent."""
        with self._state:
            self._stopping = True
            self._pending.clear()
            threads, self._threads = self._threads, []
            self._state.notify_all()
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join()

    def _loop(self) -> None:
        failures = 0
        while True:
            batch = self._take()
            if batch is None:
                return
            try:
                self._work(list(batch))
            except TenureError as error:
                self._give_back(batch, error)
                failures += 1
                self._pause(BACK_OFF_S[min(failures, len(BACK_OFF_S)) - 1])
            except BaseException as defect:
                self._give_back(
                    batch, StoreRefused(f"{self._name}: the copy broke off: {type(defect).__name__}")
                )
                raise
            else:
                failures = 0
                self._done(batch)

    def _take(self) -> dict[K, int] | None:
        """A batch of items that no other thread has in hand; None when this thread is to end."""
        me = threading.current_thread()
        with self._state:
            while not self._stopping and me in self._threads:
                batch: dict[K, int] = {}
                for item, point in self._pending.items():
                    if item not in self._in_hand:
                        batch[item] = point
                        if len(batch) == self._batch:
                            break
                if batch:
                    for item in batch:
                        del self._pending[item]
                    self._in_hand.update(batch)
                    return batch
                self._state.wait()
        return None

    def _done(self, batch: dict[K, int]) -> None:
        with self._state:
            for item in batch:
                del self._in_hand[item]
            self._error = None
            self._state.notify_all()

    def _give_back(self, batch: dict[K, int], error: TenureError) -> None:
        """Queue again what could not be copied, in front, with its old points."""
        with self._state:
            for item in batch:
                del self._in_hand[item]
            if not self._stopping:
                merged = {**self._pending, **batch}
                self._pending = dict(sorted(merged.items(), key=lambda entry: entry[1]))
            self._error = error
            self._state.notify_all()

    def _pause(self, seconds: float) -> None:
        with self._state:
            self._state.wait_for(lambda: self._stopping, timeout=seconds)
