"""The part that every hold has: requests wait at the gate, the tenant's stores refuse its writes, and open again.

A switch, a backup's point and a restore in place all begin with it; what they do under the fence is their own. Until
something irrevocable is done there, everything here is undone by more than one path: by `Pause.reopen`, by the fence's
own deadline, by the gate's budget, and by the next holder of the step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from tenure.engine.context import StepContext
from tenure.errors import DeadlineExceeded, FenceRefused, StoreUnavailable, TenureError
from tenure.model.names import StoreName
from tenure.operations.deps import Deps
from tenure.operations.served import Served
from tenure.routing.contract import HoldReport
from tenure.stores.contract import Fence

R = TypeVar("R")
FENCE_MARGIN_S = 0.1
"""The fence lifts itself this long before the gate does, so that released requests find the cell open."""
REOPEN_ATTEMPTS: Final = 5
BACKED_OUT: Final = "hold_backed_out"
"""How a hold that came to nothing, or one that a dead process left, is journaled."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Milliseconds of the parts of one hold, in order, and of what each store took of a part: stores work at the same
    time, so a part takes as long as the slowest of them."""

    parts: tuple[tuple[str, float], ...]
    stores: Mapping[str, Mapping[StoreName, float]]

    def as_dict(self) -> dict[str, float]:
        return {name: round(ms, 2) for name, ms in self.parts}

    def stores_as_dict(self) -> dict[str, dict[str, float]]:
        return {part: {n: round(ms, 2) for n, ms in its.items()} for part, its in self.stores.items()}


class Clock:
    """The parts of one hold, and what is left of its budget."""

    def __init__(self, budget_s: float) -> None:
        self.began = self._last = time.perf_counter()
        self._deadline = self.began + budget_s
        self._parts: list[tuple[str, float]] = []
        self._stores: dict[str, dict[StoreName, float]] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._parts.append((name, (now - self._last) * 1000))
        self._last = now

    def left_s(self) -> float:
        """Seconds left before the fence lifts itself; at least a millisecond, so that waits fail rather than hang."""
        return max(0.001, self._deadline - time.perf_counter())

    def total_ms(self) -> float:
        return (time.perf_counter() - self.began) * 1000

    def over(self) -> bool:
        return time.perf_counter() > self._deadline

    def timed(self, part: str, work: Callable[[StoreName], R]) -> Callable[[StoreName], R]:
        """`work` that notes how long each store takes for it."""
        noted = self._stores.setdefault(part, {})

        def run(name: StoreName) -> R:
            began = time.perf_counter()
            try:
                return work(name)
            finally:
                noted[name] = (time.perf_counter() - began) * 1000

        return run

    def timing(self) -> Timing:
        return Timing(parts=tuple(self._parts), stores=self._stores)


class Pause:
    """One attempt to have a tenant stand still in the cell that serves it. `step` begins the names of its points.

    Without `gated` nobody is held: the fences alone keep the tenant's writes out.
    """

    def __init__(
        self, deps: Deps, ctx: StepContext, served: Served, fence: Fence, *, step: str, gated: bool = True
    ) -> None:
        self._deps = deps
        self._ctx = ctx
        self._served = served
        self._fence = fence
        self._step = step
        self._gated = gated
        self.clock = Clock(deps.estate.hold.budget_s - FENCE_MARGIN_S)

    def begin(self) -> None:
        """Hold requests, wait for those under way, and fence the stores that wait for open work.

        The other stores follow by `fence_last`, when it is certain that this process may still open them.
        """
        deps, ctx, served = self._deps, self._ctx, self._served
        clock = self.clock = Clock(deps.estate.hold.budget_s - FENCE_MARGIN_S)
        if self._gated:
            deps.router.hold(
                served.tenant, token=ctx.token, budget_s=deps.estate.hold.budget_s, fallback=served.cell
            )
        ctx.reach(f"{self._step}.held")
        clock.lap("hold")
        drain_s = self._drain_s()
        if self._gated:
            deps.router.drain(served.tenant, served.cell, timeout_s=drain_s)
        ctx.reach(f"{self._step}.drained")
        clock.lap("drain")
        lower = clock.timed("fence", lambda n: self._lower(n, min(drain_s, clock.left_s())))
        served.each(lower, served.draining())
        ctx.reach(f"{self._step}.fenced")
        clock.lap("fence")

    def fence_last(self, name: StoreName) -> None:
        """Fence a store whose fence does not wait."""
        self._lower(name, self._drain_s())

    def keep_closed(self) -> None:
        """Have the fences that would lift themselves stay down. Raises `DeadlineExceeded` if one has lapsed."""
        self._served.each(
            lambda n: self._served.store(n).fence(
                self._fence, expires_in_s=None, drain_s=self.clock.left_s()
            ),
            self._served.draining(),
        )

    def require_time(self, before: str) -> None:
        """Raise `DeadlineExceeded` if the budget is used up."""
        if self.clock.over():
            raise DeadlineExceeded(
                f"the hold budget of {self._deps.estate.hold.budget_s:g} s was used up before {before}",
                hint="it is tried again; if that does not help, look at the parts of the hold in its events",
            )

    def reopen(self, event: str = BACKED_OUT) -> tuple[list[TenureError], HoldReport | None]:
        """Open the tenant's stores and let the requests that wait go there: see `back_out`."""
        return back_out(self._deps, self._ctx, self._served, self._fence, event=event)

    def _lower(self, name: StoreName, drain_s: float) -> None:
        self._served.store(name).fence(self._fence, expires_in_s=self.clock.left_s(), drain_s=drain_s)

    def _drain_s(self) -> float:
        return min(self._deps.estate.hold.drain_s, self.clock.left_s())


def back_out(
    deps: Deps, ctx: StepContext, served: Served, fence: Fence, *, event: str = BACKED_OUT
) -> tuple[list[TenureError], HoldReport | None]:
    """Open the serving cell again and let waiting requests go there. Tries every part even if another fails; returns
    what failed, and what the hold was like where the gate said so.

    A store in which a newer holder has spoken refuses, and stays as it is. The others are tried all the same: what only
    this holder has fenced nobody else would open. What cannot be reached opens by itself (the fence's deadline, the
    gate's budget) or with the next attempt.
    """

    def reopen(name: StoreName) -> TenureError | None:
        for _ in range(REOPEN_ATTEMPTS):
            try:
                served.store(name).open(fence)
            except StoreUnavailable as error:
                problem: TenureError = error
            except TenureError as error:
                return error
            else:
                return None
        return problem

    problems = [p for p in served.each_anchored(reopen).values() if p is not None]
    if any(isinstance(p, FenceRefused) for p in problems):
        ctx.later_event("hold_left_to_newer_holder")
        return problems, None
    report = None
    try:
        report = deps.router.release(served.tenant, token=ctx.token, cell=served.cell)
    except TenureError as error:
        problems.append(error)
    ctx.later_event(event, serves=served.cell, problems=messages(problems))
    return problems, report


def messages(problems: Sequence[TenureError]) -> list[str]:
    """What stood in the way, in words."""
    return [problem.message for problem in problems]
