"""Decides which of the waiting operations may begin, given the limits and what is in use. Does no I/O.

Invariant: what is in use and what is admitted never exceed a limit together. Order: by rank, then by who was served
longest ago, then by age; a rank is gained with every `step_up_s` waited, so that nobody waits for ever. An operation
that does not fit keeps what it needs from those after it: what becomes free gathers for it. One that could not begin
even if nothing were in use keeps nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from tenure.model.capacity import Limit, Resource

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """An operation that is not admitted yet. `rank` 0 is the highest; `served_before` is when its tenant was admitted
    last, None for never."""

    operation: str
    tenant: str
    rank: int
    waited_s: float
    needs: Mapping[Resource, int]
    served_before: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Lack:
    """What an operation waits for: `wanted` of a resource of which `used` are taken. `kept_for`: it would fit, but is
    kept for that operation, whose turn comes first."""

    resource: Resource
    limit: Limit
    used: int
    wanted: int
    kept_for: str | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Admitted exactly if it lacks nothing. `hopeless`: it needs more than the whole limit."""

    operation: str
    lacks: tuple[Lack, ...] = ()
    hopeless: bool = False

    @property
    def admitted(self) -> bool:
        return not self.lacks


def in_order(queue: Sequence[Waiting], *, step_up_s: float) -> tuple[Waiting, ...]:
    """The queue in the order in which it is served."""

    def key(waiting: Waiting) -> tuple[int, datetime, float, str]:
        rank = waiting.rank - int(waiting.waited_s // step_up_s)
        return rank, waiting.served_before or _NEVER, -waiting.waited_s, waiting.operation

    return tuple(sorted(queue, key=key))


def decide(
    limits: Mapping[Resource, Limit],
    used: Mapping[Resource, int],
    queue: Sequence[Waiting],
    *,
    step_up_s: float,
) -> tuple[Verdict, ...]:
    """A verdict for every operation of the queue, in the order in which they are served.

    A resource without a limit is not limited. `used` may exceed a limit (what goes at once does): then nothing is
    admitted that needs it.
    """
    left = {resource: limit.most - used.get(resource, 0) for resource, limit in limits.items()}
    kept: dict[Resource, int] = {}
    first: dict[Resource, str] = {}
    verdicts: list[Verdict] = []
    for waiting in in_order(queue, step_up_s=step_up_s):
        wanted = {r: n for r, n in waiting.needs.items() if n > 0 and r in limits}
        lacks = tuple(
            Lack(
                resource=r,
                limit=limits[r],
                used=limits[r].most - left[r],
                wanted=n,
                kept_for=first[r] if left[r] >= n else None,
            )
            for r, n in sorted(wanted.items())
            if left[r] - kept.get(r, 0) < n
        )
        hopeless = any(n > limits[r].most for r, n in wanted.items())
        verdicts.append(Verdict(operation=waiting.operation, lacks=lacks, hopeless=hopeless))
        if hopeless:
            continue
        for resource, n in wanted.items():
            if lacks:
                kept[resource] = kept.get(resource, 0) + n
                first.setdefault(resource, waiting.operation)
            else:
                left[resource] -= n
    return tuple(verdicts)
