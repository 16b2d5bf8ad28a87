"""How fast the things that a step does go on: items per second over the last while, and what is left at that pace."""

from __future__ import annotations

from collections import deque
from typing import Final

WINDOW_S: Final = 30.0
"""Long enough to even out bursts, short enough that a copy that slows down shows it."""
SAMPLES: Final = 120


class Rates:
    """Samples of how much is done, by name. Not thread-safe: its owner locks."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[float, int]]] = {}

    def note(self, what: str, done: int, *, at_s: float) -> float | None:
        """Take a sample at that moment (monotonic seconds); the items per second so far, None where nobody can say.

        Something that begins anew (`done` falls) is measured anew.
        """
        seen = self._seen.setdefault(what, deque(maxlen=SAMPLES))
        if seen and done < seen[-1][1]:
            seen.clear()
        seen.append((at_s, done))
        while at_s - seen[0][0] > WINDOW_S:
            seen.popleft()
        began_s, before = seen[0]
        return (done - before) / (at_s - began_s) if at_s > began_s and done > before else None


def left_s(done: int, total: int | None, per_s: float | None) -> float | None:
    """Seconds until all is done at that pace; None where nobody can say."""
    if total is None or per_s is None or done >= total:
        return None
    return (total - done) / per_s
