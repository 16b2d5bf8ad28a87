"""The queue of a live copy: nothing in two hands at once, nothing forgotten, and a truthful answer to `drained`."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tenure.errors import DeadlineExceeded, StoreRefused, StoreUnavailable
from tenure.stores.copy_queue import CopyQueue


class Work:
    """Copies by noting; waits while `held`, fails with `error`."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.batches: list[list[str]] = []
        self.in_hand: set[str] = set()
        self.twice = False
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Event()
        self.error: Exception | None = None

    def __call__(self, batch: list[str]) -> None:
        with self.lock:
            self.twice |= bool(self.in_hand.intersection(batch))
            self.in_hand.update(batch)
        self.entered.set()
        assert self.go.wait(10)
        with self.lock:
            self.in_hand.difference_update(batch)
            if self.error is not None:
                raise self.error
            self.batches.append(batch)

    @property
    def items(self) -> list[str]:
        return [item for batch in self.batches for item in batch]


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def queue(work: Work) -> Iterator[CopyQueue[str]]:
    made: CopyQueue[str] = CopyQueue("test", work, batch=3)
    yield made
    work.go.set()
    made.stop()


def test_everything_put_is_copied_in_batches(queue: CopyQueue[str], work: Work) -> None:
    point = queue.put("abcdefg")
    queue.run()
    queue.drained(point, timeout_s=5)
    assert work.items == list("abcdefg")
    assert max(map(len, work.batches)) == 3


def test_an_item_put_many_times_before_it_is_taken_is_copied_once(queue: CopyQueue[str], work: Work) -> None:
    for _ in range(100):
        point = queue.put("a")
    queue.run()
    queue.drained(point, timeout_s=5)
    assert work.items == ["a"]


def test_an_item_put_while_it_is_in_hand_is_copied_once_more_and_never_by_two_at_once(
    queue: CopyQueue[str], work: Work
) -> None:
    queue.run(4)
    work.go.clear()
    queue.put("a")
    assert work.entered.wait(5)
    point = queue.put("ab")
    with pytest.raises(DeadlineExceeded):
        queue.drained(point, timeout_s=0.05)
    work.go.set()
    queue.drained(point, timeout_s=5)
    assert sorted(work.items) == ["a", "a", "b"]
    assert not work.twice


def test_a_point_is_reached_although_new_items_keep_coming(queue: CopyQueue[str], work: Work) -> None:
    stop = threading.Event()

    def feed() -> None:
        n = 0
        while not stop.is_set():
            queue.put([str(n % 1000)])
            n += 1

    queue.run()
    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        for _ in range(20):
            queue.drained(queue.put(["x"]), timeout_s=5)
    finally:
        stop.set()
        feeder.join()
    assert work.items.count("x") == 20


def test_what_fails_is_tried_again_and_said_meanwhile(queue: CopyQueue[str], work: Work) -> None:
    work.error = StoreUnavailable("down")
    queue.run()
    point = queue.put("ab")
    with pytest.raises(StoreUnavailable):
        queue.drained(point, timeout_s=0.2)
    with pytest.raises(StoreUnavailable):
        queue.raise_error()
    work.error = None
    queue.drained(point, timeout_s=5)
    queue.raise_error()
    assert sorted(work.items) == ["a", "b"]


def test_a_refusal_ends_the_waiting_at_once(queue: CopyQueue[str], work: Work) -> None:
    work.error = StoreRefused("no")
    queue.run()
    with pytest.raises(StoreRefused):
        queue.drained(queue.put("a"), timeout_s=60)


def test_what_was_given_back_keeps_its_place_in_the_order(queue: CopyQueue[str], work: Work) -> None:
    work.go.clear()
    work.error = StoreUnavailable("down")
    queue.run()
    early = queue.put("a")
    assert work.entered.wait(5)
    queue.put("bcdefgh")
    work.go.set()
    with pytest.raises(StoreUnavailable):
        queue.drained(early, timeout_s=0.2)
    assert not queue.copied(early)
    work.error = None
    queue.drained(early, timeout_s=5)


def test_shrinking_ends_the_extra_workers_and_the_rest_go_on(queue: CopyQueue[str], work: Work) -> None:
    queue.run(5)
    queue.shrink(1)
    queue.drained(queue.put("abc"), timeout_s=5)
    assert work.items == list("abc")


def test_waiting_ends_when_the_queue_is_stopped(queue: CopyQueue[str], work: Work) -> None:
    point = queue.put("a")
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            queue.drained(point, timeout_s=60)
        except StoreUnavailable as error:
            caught.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    queue.stop()
    waiter.join(5)
    assert len(caught) == 1


def test_threads_that_begin_anew_know_nothing_of_what_stopped_the_earlier_ones(
    queue: CopyQueue[str], work: Work
) -> None:
    work.error = StoreRefused("no")
    queue.run()
    with pytest.raises(StoreRefused):
        queue.drained(queue.put("a"), timeout_s=5)
    queue.stop()
    work.error = None
    queue.run()
    queue.drained(queue.put("a"), timeout_s=5)
    queue.raise_error()
