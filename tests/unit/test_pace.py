"""The pace of a copy: what its lag does over time, how fast it is written and applied, and when it has caught up."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure.plan.pace import NOTICED_S, Pace, Sample, Trend, judge
from tenure.routing.envoy.throttle import Throttles


def line(*, lag: float, written: float, applied: float, seconds: float = 5.0) -> Pace:
    """Ten samples of a copy that begins with this lag, at these rates per second."""
    return judge(
        [
            Sample(at_s=100 + t, lag=max(0, round(lag + (written - applied) * t)), applied=round(applied * t))
            for t in (seconds * n / 9 for n in range(10))
        ]
    )


def test_a_copy_that_is_outpaced_grows_and_says_by_how_much() -> None:
    seen = line(lag=1_000, written=3_000, applied=1_000)
    assert seen.trend is Trend.GROWING
    assert seen.write_ratio == pytest.approx(3, rel=0.01)
    assert seen.caught_up_in_s is None
    assert not seen.in_time(least=64, within_s=1)


def test_a_copy_that_catches_up_says_when() -> None:
    seen = line(lag=10_000, written=100, applied=1_100)
    assert seen.trend is Trend.SHRINKING
    assert seen.caught_up_in_s == pytest.approx(5, rel=0.01)
    assert seen.write_ratio is not None
    assert seen.write_ratio < 1


def test_a_lag_that_stays_is_steady_and_in_time_only_if_it_is_short() -> None:
    seen = line(lag=2_000, written=1_000, applied=1_000)
    assert seen.trend is Trend.STEADY
    assert seen.in_time(least=64, within_s=2.5)
    assert not seen.in_time(least=64, within_s=1.5)


def test_a_copy_that_applies_nothing_is_never_in_time_and_has_no_ratio() -> None:
    seen = line(lag=100_000, written=500, applied=0)
    assert (seen.trend, seen.write_ratio) == (Trend.STEADY, None)
    assert not seen.in_time(least=64, within_s=1_000)


def test_a_moment_tells_no_trend_but_a_small_lag_does_not_matter() -> None:
    seen = line(lag=60, written=1_000, applied=1, seconds=NOTICED_S / 2)
    assert seen.trend is Trend.UNKNOWN
    assert judge([Sample(at_s=0, lag=60, applied=0)]).in_time(least=64, within_s=1)
    assert not judge([Sample(at_s=0, lag=65, applied=0)]).in_time(least=64, within_s=1)


@given(
    st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 10**12)), min_size=1, max_size=50),
    st.floats(0.01, 10),
)
def test_any_samples_are_judged_without_a_contradiction(found: list[tuple[int, int]], step_s: float) -> None:
    seen = judge([Sample(at_s=n * step_s, lag=lag, applied=done) for n, (lag, done) in enumerate(found)])
    assert seen.lag == found[-1][0]
    assert (seen.caught_up_in_s is not None) == (seen.trend is Trend.SHRINKING)
    assert seen.written_per_s >= 0 <= seen.applied_per_s


def test_a_throttle_spreads_writes_delays_none_for_longer_than_allowed_and_lets_reads_pass() -> None:
    async def passed(method: str, count: int, throttles: Throttles) -> list[float]:
        began = time.monotonic()

        async def one() -> float:
            await throttles.turn("acme", method)
            return time.monotonic() - began

        return sorted(await asyncio.gather(*(one() for _ in range(count))))

    async def scenario() -> None:
        throttles = Throttles()
        throttles.set("acme", writes_per_s=20, longest_delay_s=0.3, for_s=60)
        writes, reads = await asyncio.gather(passed("POST", 10, throttles), passed("GET", 10, throttles))
        assert [round(at, 9) >= 0.05 * n for n, at in enumerate(writes[:7])] == [True] * 7
        assert writes[6] >= 0.3  # this one and the later ones came through at the longest delay
        assert reads[-1] < writes[-1]
        delayed = asyncio.gather(passed("PUT", 10, throttles))
        await asyncio.sleep(0)
        throttles.lift("acme")
        assert (await delayed)[0][-1] < 0.3
        throttles.set("acme", writes_per_s=0.001, longest_delay_s=10, for_s=0.0)
        assert len(await passed("POST", 3, throttles)) == 3  # it had ended by itself

    asyncio.run(scenario())
