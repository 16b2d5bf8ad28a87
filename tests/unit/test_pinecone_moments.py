"""What a comparison waits for while users wait: what the copy has written, by number where there is one, and once."""

from __future__ import annotations

import time

from tenure.stores.pinecone.freshness import Freshness, Moments


class Asked(Freshness):
    """Remembers what it was asked to wait for; `there`: whether writes find the namespace."""

    def __init__(self, *, there: bool = True) -> None:
        self.reached: list[int] = []
        self.since: list[float] = []
        self._there = there

    def catch_up(self, *, since: float | None = None, timeout_s: float = 0.0) -> bool:
        assert since is not None
        self.since.append(since)
        return self._there

    def reach(self, lsn: int, *, timeout_s: float = 0.0) -> bool:
        self.reached.append(lsn)
        return self._there


def test_the_greatest_number_is_waited_for_and_only_once() -> None:
    moments, target = Moments(), Asked()
    moments.see_written(target)
    assert target.reached == []
    moments.wrote(7)
    moments.wrote(5)
    moments.see_written(target)
    moments.see_written(target)
    assert target.reached == [7]
    moments.wrote(9)
    moments.see_written(target)
    assert target.reached == [7, 9]


def test_what_has_no_number_is_waited_for_by_the_time_of_its_acknowledgement() -> None:
    moments, target = Moments(), Asked()
    before = time.monotonic()
    moments.wrote(None)
    after = time.monotonic()
    moments.see_written(target)
    assert before <= target.since[-1] <= after
    assert target.reached == []


def test_a_number_that_no_namespace_can_show_is_asked_for_again() -> None:
    moments, gone = Moments(), Asked(there=False)
    moments.wrote(3)
    moments.see_written(gone)
    moments.see_written(gone)
    assert gone.reached == [3, 3]
