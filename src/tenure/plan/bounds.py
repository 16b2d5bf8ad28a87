"""Judges whether a cell serves a tenant well enough: pure, from two counts of requests and the bounds of a tier.

Few requests prove little, so a bound counts as left only where chance does not explain what was seen: the lower end of
the Wilson score interval (E. B. Wilson, 1927) of the share of bad requests must lie above the bound. With `Z` = 3 that
happens by chance about once in 700 looks at a cell that is exactly at its bound, and far more rarely at a healthy one;
three failures out of three are proof enough, one out of twenty is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tenure.model.traffic import Traffic

Z = 3.0
SLOW_SHARE = 0.01
"""p99: this share of the answers may take longer than the limit."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a tier calls healthy. Rates are shares of requests, the `_ms` are milliseconds of the 99th percentile."""

    error_rate: float
    """How much higher the share of failed requests may be than the one compared with."""
    latency_ratio: float
    latency_margin_ms: float
    """A p99 may be this many times the one compared with, or this much higher, whichever allows more."""
    latency_ms: float | None
    """The highest p99 allowed, whatever the other side's is."""
    min_requests: int


class State(StrEnum):
    """`too_few`: neither inside nor outside could be shown."""

    INSIDE = "inside"
    OUTSIDE = "outside"
    TOO_FEW = "too_few"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was found, with the numbers. `reasons` is empty unless it is outside."""

    state: State
    reasons: tuple[str, ...]
    seen: Traffic
    reference: Traffic | None
    overdue: int = 0

    def as_dict(self) -> dict[str, Any]:
        """As events and `--json` show it."""
        return {
            "state": str(self.state),
            "reasons": list(self.reasons),
            "seen": self.seen.as_dict(),
            "overdue": self.overdue,
            "reference": self.reference.as_dict() if self.reference is not None else None,
        }


def lower_share(bad: int, of: int) -> float:
    """The smallest share of bad requests that `bad` out of `of` leaves plausible."""
    if bad <= 0 or of <= 0:
        return 0.0  # exactly: rounding must not make a failure of none
    share, spread = bad / of, Z * Z / of
    width = Z * math.sqrt(share * (1 - share) / of + Z * Z / (4 * of * of))
    return min(share, max(0.0, (share + spread / 2 - width) / (1 + spread)))


def latency_limit_ms(reference: Traffic | None, bounds: Bounds) -> float:
    """The p99 allowed; infinite where there is nothing to compare with and no absolute bound."""
    limit = math.inf if bounds.latency_ms is None else bounds.latency_ms
    if reference is not None and reference.timed >= bounds.min_requests:
        p99 = reference.quantile_ms(0.99)
        limit = min(limit, max(p99 * bounds.latency_ratio, p99 + bounds.latency_margin_ms))
    return limit


def judge(seen: Traffic, reference: Traffic | None, bounds: Bounds, *, overdue: int = 0) -> Verdict:
    """Compare what a cell did with the other side at the same time (or before), and with the bounds.

    `overdue` requests have already taken longer than the limit and have no answer yet: they count as slow.
    A reference with fewer than `min_requests` answers is no reference.
    """
    if reference is not None and reference.answered < bounds.min_requests:
        reference = None
    reasons = []
    usual = reference.error_rate if reference is not None else 0.0
    if lower_share(seen.failed, seen.answered) > usual + bounds.error_rate:
        reasons.append(
            f"{seen.failed} of {seen.answered} requests failed ({seen.error_rate:.1%}), "
            f"at most {usual + bounds.error_rate:.1%} may"
        )
    limit_ms = latency_limit_ms(reference, bounds)
    slow, timed = seen.slower_than(limit_ms) + overdue, seen.timed + overdue
    if lower_share(slow, timed) > SLOW_SHARE:
        reasons.append(
            f"{slow} of {timed} requests took longer than {limit_ms:.0f} ms, at most {SLOW_SHARE:.0%} may"
        )
    enough = State.INSIDE if seen.answered >= bounds.min_requests else State.TOO_FEW
    state = State.OUTSIDE if reasons else enough
    return Verdict(state=state, reasons=tuple(reasons), seen=seen, reference=reference, overdue=overdue)
