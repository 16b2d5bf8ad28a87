"""The judgement on a cell: what chance can explain is no reason, what it cannot is one, and few requests say little."""

from __future__ import annotations

import math
import random
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tenure.model.names import CellName
from tenure.model.traffic import CellTraffic, Traffic
from tenure.plan.bounds import Bounds, State, judge, latency_limit_ms, lower_share

BOUNDS = Bounds(error_rate=0.01, latency_ratio=2.0, latency_margin_ms=50.0, latency_ms=None, min_requests=20)


def traffic(
    answered: int, failed: int = 0, ms: float = 10.0, slow: int = 0, slow_ms: float = 500.0
) -> Traffic:
    return Traffic(
        begun=answered, answered=answered, failed=failed, latencies={ms: answered - slow, slow_ms: slow}
    )


def state(seen: Traffic, reference: Traffic | None = None, bounds: Bounds = BOUNDS) -> State:
    return judge(seen, reference or traffic(200), bounds).state


def test_one_failure_of_twenty_may_be_chance_three_of_three_are_not() -> None:
    assert state(traffic(20, failed=1)) is State.INSIDE
    assert state(traffic(3, failed=3)) is State.OUTSIDE
    assert state(traffic(1000, failed=10)) is State.INSIDE
    assert state(traffic(1000, failed=40)) is State.OUTSIDE
    assert state(traffic(1000, failed=40), bounds=replace(BOUNDS, error_rate=0.05)) is State.INSIDE


def test_the_cell_that_is_compared_with_sets_what_is_usual() -> None:
    failing_too = traffic(1000, failed=40)
    assert state(traffic(1000, failed=40), failing_too) is State.INSIDE
    assert state(traffic(1000, failed=200), failing_too) is State.OUTSIDE


def test_too_few_requests_are_called_so_and_are_no_reference() -> None:
    assert state(traffic(19)) is State.TOO_FEW
    assert state(traffic(0)) is State.TOO_FEW
    few = traffic(19, ms=1.0)
    verdict = judge(traffic(1000, ms=400.0), few, BOUNDS)
    assert (verdict.state, verdict.reference) == (State.INSIDE, None)


def test_slow_is_what_exceeds_both_the_ratio_and_the_margin_or_the_absolute_bound() -> None:
    reference = traffic(200, ms=40.0)
    assert latency_limit_ms(reference, BOUNDS) == 90.0
    assert latency_limit_ms(traffic(200, ms=100.0), BOUNDS) == 200.0
    assert latency_limit_ms(None, BOUNDS) == math.inf
    assert latency_limit_ms(reference, replace(BOUNDS, latency_ms=60.0)) == 60.0
    assert state(traffic(200, ms=89.0), reference) is State.INSIDE
    assert state(traffic(200, ms=91.0), reference) is State.OUTSIDE
    assert state(traffic(200, slow=1), reference) is State.INSIDE
    assert state(traffic(200, slow=20), reference) is State.OUTSIDE


def test_requests_without_an_answer_count_as_slow_once_they_are_overdue() -> None:
    nothing = Traffic(begun=10)
    assert state(nothing) is State.TOO_FEW
    verdict = judge(nothing, traffic(200), BOUNDS, overdue=5)
    assert verdict.state is State.OUTSIDE
    assert "5 of 5 requests took longer than 60 ms" in verdict.reasons[0]


def test_a_cell_that_is_exactly_at_its_bound_is_rarely_found_outside() -> None:
    chance = random.Random(7)
    looks = 2000
    found = 0
    for _ in range(looks):
        seen = chance.randint(20, 2000)
        failed = sum(chance.random() < 0.01 for _ in range(seen))
        found += state(traffic(seen, failed=failed)) is State.OUTSIDE
    assert found < looks * 0.02


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_lower_share_is_never_above_what_was_seen_and_grows_with_it(counts: tuple[int, int]) -> None:
    bad, of = counts
    assert 0 <= lower_share(bad, of) <= bad / of
    if bad < of:
        assert lower_share(bad, of) <= lower_share(bad + 1, of)


def test_a_proxy_that_was_started_again_counts_from_zero_and_the_others_go_on() -> None:
    def reading(one: int, other: int) -> CellTraffic:
        proxies = {"a": (traffic(one), Traffic()), "b": (traffic(other), Traffic())}
        return CellTraffic(cell=CellName("green"), by_proxy=proxies)

    reads, others = reading(7, 130).since(reading(100, 100))
    assert (reads.answered, reads.timed, others.answered) == (37, 37, 0)
    came = traffic(50, failed=5, slow=9).since(traffic(30, failed=5, slow=2))
    assert (came.answered, came.failed, came.slower_than(100)) == (20, 0, 7)
