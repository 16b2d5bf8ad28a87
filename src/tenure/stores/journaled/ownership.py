"""Whether this process may still write to a target: known for a moment only, by a clock that also runs while a machine
sleeps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tenure.errors import FenceRefused, LeaseLost, StoreUnavailable
from tenure.stores.contract import Fence
from tenure.stores.journaled.ports import LinkRecord

CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
ANSWER_S: Final = 2.0
"""How old an answer may be when it arrives."""
ATTEMPTS: Final = 3


def _now() -> float:
    return time.clock_gettime(CLOCK)


class Ownership:
    """That the target is fenced, and `copier` the one who copies into it: when this was last seen. Thread-safe.

    `target` is its record; `where` names it in messages.
    """

    def __init__(self, target: LinkRecord, copier: str, where: str) -> None:
        self._target = target
        self._copier = copier
        self._where = where
        self._mending: Fence | None = None
        self._seen_at: float | None = None

    def ensure(self, within_s: float) -> None:
        """Return if the last look that went well began at most so long ago; look again otherwise.

        An answer counts from when it was asked for, and one that took `ANSWER_S` to arrive (this process may have slept
        over it) does not count at all. Raises `LeaseLost` if the target is open for the tenant, or another's to write
        to, `StoreUnavailable` if nobody answers in time.
        """
        seen_at, now = self._seen_at, _now()
        if seen_at is not None and now - seen_at < within_s:
            return
        self._seen_at = None
        for _ in range(ATTEMPTS):
            asked_at = _now()
            self._look()
            if _now() - asked_at < ANSWER_S:
                self._seen_at = asked_at
                return
        raise StoreUnavailable(
            f"{self._where} takes longer than {ANSWER_S:g} s to say whose it is to write to", hint="try again"
        )

    @contextmanager
    def mending(self, fence: Fence) -> Iterator[None]:
        """Inside, a fence that is not a newer holder's is enough: nobody copies, and this process mends.

        Raises `FenceRefused` if it is not so to begin with.
        """
        self.check_fence(fence)
        self._mending = fence
        try:
            yield
        finally:
            self._mending = None
            self._seen_at = None

    def check_fence(self, fence: Fence) -> None:
        """Raise `FenceRefused` unless the target is fenced, and not by a newer holder."""
        found = self._target.read()
        if found.accepts or found.token > fence.token:
            raise FenceRefused(f"{self._where} is no longer this operation's to write to")

    def _look(self) -> None:
        found = self._target.read()
        mending = self._mending
        theirs = found.process != self._copier if mending is None else found.token > mending.token
        if found.accepts or theirs:
            raise LeaseLost(
                f"{self._where} is {'open for the tenant' if found.accepts else 'copied into by another process'} now",
                hint="this copy is over; the operation goes on elsewhere",
            )
