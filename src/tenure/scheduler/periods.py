"""When the period of a tier's schedule began: the latest fire time of its cron expression up to now."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from apscheduler.triggers.cron import CronTrigger

from tenure.errors import ConfigurationError
from tenure.estate.settings_retention import CRON_OF

LOOK_BACK: Final = (timedelta(hours=1), timedelta(days=1), timedelta(days=8), timedelta(days=32))
LONGEST: Final = timedelta(days=366)


def period_of(every: str, now: datetime) -> datetime:
    """The beginning of the period that `now` lies in. `every` as `tenure.yaml` has it.

    Raises `ConfigurationError` for an expression that means nothing, or nothing within a year.
    """
    trigger = _trigger(every)
    for back in (*LOOK_BACK, LONGEST):
        found: datetime | None = None
        at: datetime | None = trigger.get_next_fire_time(None, now - back)
        while at is not None and at <= now:
            found = at
            at = trigger.get_next_fire_time(None, at + timedelta(microseconds=1))
        if found is not None:
            return found.astimezone(UTC)
    raise ConfigurationError(
        f"the schedule {every!r} has no time in the last year", hint="mend `every` of the tier's `backup`"
    )


def _trigger(every: str) -> CronTrigger:
    try:
        return CronTrigger.from_crontab(CRON_OF.get(every, every), timezone=UTC)
    except ValueError as error:
        raise ConfigurationError(
            f"the schedule {every!r} is no cron expression: {error}",
            hint="mend `every` of the tier's `backup`",
        ) from error
