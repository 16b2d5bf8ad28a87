"""Whether a copy keeps pace with the writes it follows: what it still lacked at several moments, judged. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

NOTICED_S: Final = 1.0
"""No trend is read from samples that span less than this."""
STEADY_SHARE: Final = 0.1
"""A lag that changes by less than this share of itself over the samples counts as steady."""


class Trend(StrEnum):
    UNKNOWN = "unknown"
    """The samples do not reach far enough back."""
    SHRINKING = "shrinking"
    STEADY = "steady"
    GROWING = "growing"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What a copy lacked (`lag`) and how much it had brought over since ever (`applied`), in one unit, at a moment."""

    at_s: float
    lag: int
    applied: int


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How a copy does. Rates are per second, in the unit of the samples.

    `write_ratio` is what is written for each unit applied: above 1 the copy falls behind; None while nothing is
    applied. `caught_up_in_s` is None unless the lag shrinks.
    """

    trend: Trend
    lag: int
    written_per_s: float
    applied_per_s: float
    write_ratio: float | None
    caught_up_in_s: float | None

    def in_time(self, *, least: int, within_s: float) -> bool:
        """Whether what is lacking is too little to matter, or brought over within that time at this rate."""
        if self.lag <= least:
            return True
        return self.trend is not Trend.UNKNOWN and self.lag <= self.applied_per_s * within_s

    def as_dict(self) -> dict[str, Any]:
        return {
            "trend": str(self.trend),
            "lag": self.lag,
            "written_per_s": round(self.written_per_s, 1),
            "applied_per_s": round(self.applied_per_s, 1),
            "write_ratio": None if self.write_ratio is None else round(self.write_ratio, 2),
            "caught_up_in_s": None if self.caught_up_in_s is None else round(self.caught_up_in_s, 1),
        }


def judge(samples: Sequence[Sample]) -> Pace:
    """Judge samples in the order of their time; at least one. The trend is that of the least-squares line."""
    first, last = samples[0], samples[-1]
    span_s = last.at_s - first.at_s
    if span_s < NOTICED_S:
        return Pace(
            trend=Trend.UNKNOWN,
            lag=last.lag,
            written_per_s=0.0,
            applied_per_s=0.0,
            write_ratio=None,
            caught_up_in_s=None,
        )
    applied_per_s = max(0.0, (last.applied - first.applied) / span_s)
    written_per_s = max(0.0, applied_per_s + (last.lag - first.lag) / span_s)
    grows_per_s = _slope(samples)
    mean = sum(s.lag for s in samples) / len(samples)
    if abs(grows_per_s) * span_s <= STEADY_SHARE * mean:
        trend = Trend.STEADY
    else:
        trend = Trend.GROWING if grows_per_s > 0 else Trend.SHRINKING
    return Pace(
        trend=trend,
        lag=last.lag,
        written_per_s=written_per_s,
        applied_per_s=applied_per_s,
        write_ratio=written_per_s / applied_per_s if applied_per_s > 0 else None,
        caught_up_in_s=last.lag / -grows_per_s if trend is Trend.SHRINKING else None,
    )


def _slope(samples: Sequence[Sample]) -> float:
    """Of the least-squares line through the lags, per second."""
    at = sum(s.at_s for s in samples) / len(samples)
    lag = sum(s.lag for s in samples) / len(samples)
    return sum((s.at_s - at) * (s.lag - lag) for s in samples) / sum((s.at_s - at) ** 2 for s in samples)
