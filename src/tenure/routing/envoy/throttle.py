"""Slows a tenant's writing requests down at the gate: each waits for its turn, at most so long, and none is refused.

Kept in memory only: a gate that is started again throttles nobody. One event loop, no locks.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Final

_READS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


@dataclass(kw_only=True)
class _Limit:
    between_s: float
    longest_delay_s: float
    until: float
    turn: float = 0.0
    """The monotonic moment at which the next request may pass."""
    lifted: asyncio.Event = field(default_factory=asyncio.Event)


class Throttles:
    """All throttled tenants. Methods must be called on the event loop's thread."""

    def __init__(self) -> None:
        self._limits: dict[str, _Limit] = {}

    def set(self, tenant: str, *, writes_per_s: float, longest_delay_s: float, for_s: float) -> None:
        """Let about that many writes per second pass from now on. Who is being delayed already goes on at once."""
        self.lift(tenant)
        self._limits[tenant] = _Limit(
            between_s=1 / writes_per_s, longest_delay_s=longest_delay_s, until=time.monotonic() + for_s
        )

    def lift(self, tenant: str) -> None:
        """Delay nobody any more. Idempotent."""
        limit = self._limits.pop(tenant, None)
        if limit is not None:
            limit.lifted.set()

    async def turn(self, tenant: str, method: str) -> None:
        """Return when a request of that method may pass: reads at once, others within the longest delay."""
        limit = self._limits.get(tenant)
        if limit is None or method in _READS:
            return
        now = time.monotonic()
        if now >= limit.until:
            self.lift(tenant)
            return
        turn = max(now, limit.turn)
        delay_s = min(turn - now, limit.longest_delay_s)
        limit.turn = min(turn + limit.between_s, now + limit.longest_delay_s + limit.between_s)
        if delay_s > 0:
            try:
                async with asyncio.timeout(delay_s):
                    await limit.lifted.wait()
            except TimeoutError:
                return
