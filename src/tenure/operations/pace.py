"""What is done when a tenant's writes outpace its copies: noticed early, then more workers, then a longer window, then
a throttle at the gateway where the tenant's tier allows it, then a clean abort. Each is an event of the operation.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tenure.engine.context import StepContext
from tenure.errors import Outpaced
from tenure.model.names import StoreName
from tenure.operations.deps import Deps
from tenure.operations.session import Session
from tenure.plan.pace import Pace, Sample, Trend, judge
from tenure.stores.contract import CopyProgress

POLL_S: Final = 0.2
HORIZON_S: Final = 10.0
"""Samples older than this say nothing about how a copy does now."""
FEW_ITEMS: Final = 64
FEW_BYTES: Final = 256 * 1024
"""What a copy may lack at any moment without being late: it is on its way."""
THROTTLED_S: Final = 900.0
"""A throttle ends with the hold. One that nobody ends because the operation's process is gone lasts at least this."""


def show(ctx: StepContext, name: StoreName, progress: CopyProgress) -> None:
    """Tell those who watch how far a copy is."""
    ctx.progress(
        f"copy {name}",
        progress.items_done,
        progress.items_total,
        bytes_done=progress.bytes_done,
        bytes_total=progress.bytes_total,
        following=progress.following,
        lag_items=progress.lag_items,
        lag_bytes=progress.lag_bytes,
    )


@dataclass
class _Behind:
    """What has been done since the copies were found to fall behind. Moments are monotonic seconds."""

    since: float
    deadline: float
    tried: list[str]
    extended: bool = False
    throttled: bool = False


@dataclass
class Ladder:
    """One per run of an operation in a process: another one begins at the first rung. The throttle ends by itself."""

    deps: Deps
    may_throttle: bool = True
    """A rehearsal slows nobody down."""
    _samples: dict[StoreName, deque[Sample]] = field(default_factory=dict)
    _behind: _Behind | None = None

    def keep_up(self, ctx: StepContext, session: Session) -> None:
        """Return when every copy lacks no more than a hold can wait for, and climb the ladder until then.

        Raises `Outpaced` when nothing is left to try.
        """
        while late := self._late(ctx, session):
            self._climb(ctx, session, late)
            if not ctx.committed:
                ctx.check()
            ctx.wait(POLL_S)
        if self._behind is not None:
            after_s = round(time.monotonic() - self._behind.since, 1)
            ctx.event("caught_up", after_s=after_s, throttled=self._behind.throttled)
            self._behind = None

    def _late(self, ctx: StepContext, session: Session) -> Mapping[StoreName, Pace]:
        """Take a sample of every copy; those that lack too much, and how they do."""
        within_s = self.deps.estate.hold.budget_s / 2
        late = {}
        for name, copy in session.copies.items():
            progress = copy.progress()
            show(ctx, name, progress)
            lag = progress.lag_bytes if progress.lag_items is None else progress.lag_items
            if lag is None or progress.applied is None:
                continue
            least = FEW_BYTES if progress.lag_items is None else FEW_ITEMS
            samples = self._samples.setdefault(name, deque())
            samples.append(Sample(at_s=time.monotonic(), lag=lag, applied=progress.applied))
            while samples[-1].at_s - samples[0].at_s > HORIZON_S:
                samples.popleft()
            pace = judge(samples)
            if not pace.in_time(least=least, within_s=within_s):
                late[name] = pace
        return late

    def _climb(self, ctx: StepContext, session: Session, late: Mapping[StoreName, Pace]) -> None:
        """A copy whose lag shrinks is given its time; any other one is helped, rung by rung."""
        sync, now = self.deps.estate.sync, time.monotonic()
        if all(pace.trend in (Trend.UNKNOWN, Trend.SHRINKING) for pace in late.values()):
            return
        behind = self._behind
        if behind is None:
            ctx.event("fell_behind", stores=_numbers(late))
            behind = _Behind(since=now, deadline=now + sync.window_s, tried=[])
            behind.tried.append(self._hurry(ctx, session, late))
            self._behind = behind
        elif now < behind.deadline:
            return
        elif not behind.extended and sync.longest_window_s > sync.window_s:
            behind.extended = True
            behind.deadline = behind.since + sync.longest_window_s
            behind.tried.append(f"a window of {sync.longest_window_s:g} s instead of {sync.window_s:g} s")
            ctx.event(
                "window_extended",
                from_s=sync.window_s,
                to_s=sync.longest_window_s,
                stores=_numbers(late),
            )
        elif not behind.throttled and (tried := self._throttle(ctx, session, late)):
            behind.throttled = True
            behind.deadline = now + sync.longest_window_s
            behind.tried.append(tried)
        else:
            raise self._outpaced(late, behind, now)
        self._samples.clear()  # what a rung does shows in what comes after it

    def _hurry(self, ctx: StepContext, session: Session, late: Mapping[StoreName, Pace]) -> str:
        most = self.deps.estate.sync.most_workers
        workers = {name: session.copies[name].hurry(most) for name in late}
        ctx.event(
            "workers_raised", workers=workers, one_applies_in_order=[n for n in late if workers[n] == 1]
        )
        return ", ".join(
            f"{n} workers in {name}" if n > 1 else f"no more workers in {name}, which applies in order"
            for name, n in workers.items()
        )

    def _throttle(self, ctx: StepContext, session: Session, late: Mapping[StoreName, Pace]) -> str | None:
        """Slow the tenant's writes down at the gateway; None where the estate or the tenant's tier says no."""
        deps, throttle = self.deps, self.deps.estate.sync.throttle
        tier = deps.estate.tiers.get(deps.registry.tenants.get(session.tenant).tier)
        if throttle is None or tier is None or not (tier.throttle and self.may_throttle):
            return None
        epoch = deps.registry.placements.get(session.tenant).epoch
        deps.router.gate(deps.address(session.tenant), session.source, token=ctx.token, epoch=epoch)
        deps.router.throttle(
            session.tenant,
            token=ctx.token,
            writes_per_s=throttle.writes_per_s,
            longest_delay_s=throttle.longest_delay_s,
            for_s=max(THROTTLED_S, 2 * deps.estate.sync.longest_window_s),
        )
        ctx.event(
            "writes_throttled",
            writes_per_s=throttle.writes_per_s,
            longest_delay_ms=throttle.longest_delay_ms,
            stores=_numbers(late),
        )
        return f"a throttle of {throttle.writes_per_s:g} writes/s at the gateway"

    def _outpaced(self, late: Mapping[StoreName, Pace], behind: _Behind, now: float) -> Outpaced:
        how = "; ".join(
            f"{name}: {pace.written_per_s:,.0f}/s written, {pace.applied_per_s:,.0f}/s applied"
            for name, pace in late.items()
        )
        may = "" if behind.throttled else ", or allow sync.throttle for the tenant's tier"
        return Outpaced(
            f"the writes outpace the copies for {now - behind.since:.0f} s ({how}); tried: "
            + "; ".join(behind.tried),
            hint=f"move the tenant at a quieter time, raise sync.longest_window_s{may}",
        )


def _numbers(late: Mapping[StoreName, Pace]) -> dict[str, object]:
    return {str(name): pace.as_dict() for name, pace in late.items()}
