"""Readings of what a tenant's users get from a cell, taken again and again, and the windows that are judged."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from tenure.model.names import CellName, TenantId
from tenure.model.traffic import CellTraffic, Traffic
from tenure.plan.bounds import Bounds, State, Verdict, judge, latency_limit_ms
from tenure.routing.contract import Router

RECENT_S = 15.0
"""A cell is judged by all that was seen and by this last part of it: what breaks late must not hide in a long past."""


@dataclass(frozen=True, kw_only=True)
class Kinds:
    """A count of the requests that only read and one of all others: they are never compared with each other."""

    reads: Traffic
    others: Traffic


class Health:
    """What one cell gave one tenant since this object was made."""

    def __init__(self, router: Router, tenant: TenantId, cell: CellName) -> None:
        """Takes the first reading. Raises `StoreUnavailable`, as `look` does."""
        self._read: Callable[[], CellTraffic] = lambda: router.traffic(tenant, cell)
        self._first = self._read()
        self._began = time.monotonic()
        self._kept = [(self._began, self._first)]

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def look(self) -> None:
        """Take a reading."""
        self._kept.append((time.monotonic(), self._read()))
        while len(self._kept) > 2 and self._kept[1][0] <= self._kept[-1][0] - RECENT_S:
            del self._kept[0]

    def seen(self) -> Kinds:
        """All that came since the first reading."""
        return self._since(self._first)

    def verdicts(self, reference: Kinds, bounds: Bounds, *, others: bool) -> dict[str, Verdict]:
        """The judgement on the reads and, with `others`, on the other requests; the worse of all and the recent ones.

        A reference without requests means that there is nothing to compare with.
        """
        whole, recent = self.seen(), self._since(self._kept[0][1])
        kinds = ("reads", "others") if others else ("reads",)
        found = {}
        for kind in kinds:
            beside: Traffic = getattr(reference, kind)
            overdue = self._overdue(kind, latency_limit_ms(beside, bounds))
            judged = [
                judge(getattr(window, kind), beside, bounds, overdue=overdue) for window in (recent, whole)
            ]
            found[kind] = next((v for v in judged if v.state is State.OUTSIDE), judged[-1])
        return found

    def _since(self, earlier: CellTraffic) -> Kinds:
        reads, others = self._kept[-1][1].since(earlier)
        return Kinds(reads=reads, others=others)

    def _overdue(self, kind: str, limit_ms: float) -> int:
        """At least how many requests have been under way for longer than the limit: those begun before it was last
        that long ago, less all answers, which may be to later ones."""
        if not math.isfinite(limit_ms):
            return 0
        before = self._kept[-1][0] - limit_ms / 1000
        past = [reading for at, reading in self._kept if at <= before]
        if not past:
            return 0
        reads, others = past[-1].since(self._first)
        begun: int = (reads if kind == "reads" else others).begun
        answered: int = getattr(self.seen(), kind).answered
        # Tries that were repeated and users who went away are begun and never answered: never more than there are.
        return max(0, min(begun - answered, self._kept[-1][1].under_way))


def add(one: Kinds, other: Kinds) -> Kinds:
    """Both together."""
    return Kinds(
        reads=Traffic.total((one.reads, other.reads)), others=Traffic.total((one.others, other.others))
    )
