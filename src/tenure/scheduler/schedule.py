"""Schedules and their fire times. Pure: the database says what time it is and what was dealt with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.interval import IntervalTrigger

from tenure.registry.fires import Wanted

EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""All intervals are counted from here, so that every process comes to the same fire times."""
LOOK_BACK: Final = timedelta(days=7)
"""Fire times that were missed are counted that far back."""
_NEXT: Final = timedelta(microseconds=1)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What is wanted at the fire times of a trigger. `wanted` looks when asked, once per fire time."""

    name: str
    trigger: BaseTrigger
    wanted: Callable[[], Iterable[Wanted]]


@dataclass(frozen=True, kw_only=True)
class Due:
    """The fire times up to now: at most one is made up for, the others are missed."""

    fire: datetime | None
    missed: tuple[datetime, ...]


def every(seconds: int) -> IntervalTrigger:
    """Fire times at whole multiples of an interval."""
    return IntervalTrigger(seconds=seconds, start_date=EPOCH, timezone=UTC)


def due(trigger: BaseTrigger, *, last: datetime | None, now: datetime, grace_s: float) -> Due:
    """What is due after `last`, the newest fire time that was dealt with (None: there was none, nothing was missed).

    Several fire times are one (they coalesce): the latest, if it is within the grace. The others are missed.
    """
    grace = timedelta(seconds=grace_s)
    times = tuple(_between(trigger, max(last, now - LOOK_BACK) if last else now - grace - _NEXT, now))
    late = not times or times[-1] < now - grace
    missed = times if late else times[:-1]
    return Due(fire=None if late else times[-1], missed=missed if last else ())


def _between(trigger: BaseTrigger, after: datetime, until: datetime) -> Iterator[datetime]:
    at = trigger.get_next_fire_time(None, after + _NEXT)
    while at is not None and at <= until:
        yield at
        at = trigger.get_next_fire_time(None, at + _NEXT)
