"""When the period of a tier's schedule began."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tenure.errors import ConfigurationError
from tenure.scheduler.periods import period_of

NOW = datetime(2026, 6, 3, 14, 30, tzinfo=UTC)  # a Wednesday


@pytest.mark.parametrize(
    ("every", "began"),
    [
        ("daily", datetime(2026, 6, 3, tzinfo=UTC)),
        ("weekly", datetime(2026, 5, 31, tzinfo=UTC)),
        ("monthly", datetime(2026, 6, 1, tzinfo=UTC)),
        ("30 1 * * *", datetime(2026, 6, 3, 1, 30, tzinfo=UTC)),
        ("0 15 * * *", datetime(2026, 6, 2, 15, tzinfo=UTC)),
        ("*/10 * * * *", NOW),
        ("0 0 1 1 *", datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_it_is_the_latest_fire_time(every: str, began: datetime) -> None:
    assert period_of(every, NOW) == began


@pytest.mark.parametrize("every", ["0 0 31 2 *", "61 * * * *"])
def test_a_schedule_that_never_comes_is_refused(every: str) -> None:
    with pytest.raises(ConfigurationError):
        period_of(every, NOW)
