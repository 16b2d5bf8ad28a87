"""Fire times: the same for every process, one of several, and those that were missed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from apscheduler.triggers.cron import CronTrigger
from hypothesis import given
from hypothesis import strategies as st

from tenure.scheduler.schedule import LOOK_BACK, due, every

NOW = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
"""The hour in which Europe's clocks change."""


@given(
    seconds=st.integers(1, 2_000),
    since_s=st.integers(0, 2_000),
    grace_s=st.integers(0, 2_000),
    off_us=st.integers(0, 999_999),
)
def test_every_fire_time_after_the_last_is_fired_or_missed_and_none_is_both(
    seconds: int, since_s: int, grace_s: int, off_us: int
) -> None:
    now = NOW + timedelta(microseconds=off_us)
    trigger = every(seconds)
    last = trigger.get_next_fire_time(None, now - timedelta(seconds=since_s))
    found = due(trigger, last=last, now=now, grace_s=grace_s)
    times = [*found.missed, *([found.fire] if found.fire else [])]
    assert times == sorted(set(times))
    assert all(last < at <= now for at in times)
    assert len(times) == max(0, int((now - last).total_seconds() // seconds))
    assert found.fire is None or found.fire >= now - timedelta(seconds=grace_s)
    assert found.fire is None or due(trigger, last=found.fire, now=now, grace_s=grace_s).fire is None
    assert all(due(every(seconds), last=None, now=at, grace_s=0).fire == at for at in times[-2:])


def test_a_first_start_misses_nothing_and_makes_up_for_what_is_within_the_grace() -> None:
    nightly = CronTrigger(hour=1, timezone=UTC)
    assert due(nightly, last=None, now=NOW, grace_s=3600).fire == NOW.replace(minute=0)
    late = due(nightly, last=None, now=NOW, grace_s=60)
    assert (late.fire, late.missed) == (None, ())


def test_a_long_outage_is_looked_back_on_for_some_days_only() -> None:
    found = due(every(3600), last=NOW - timedelta(days=400), now=NOW, grace_s=3600)
    assert found.fire == NOW.replace(minute=0)
    assert len(found.missed) == LOOK_BACK / timedelta(hours=1) - 1
