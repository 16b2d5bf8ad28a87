"""One tenant's log events kept equal in a second cell: what `JournaledCopy` needs to know of them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from tenure.errors import StoreUnavailable
from tenure.model.finding import Finding
from tenure.model.names import TenantId
from tenure.stores.cloudwatch.hours import Comparer, Hours, Listing, Transfer, Version
from tenure.stores.cloudwatch.preflight import findings
from tenure.stores.cloudwatch.store import LogsStore
from tenure.stores.contract import Fence, Journal
from tenure.stores.copy_queue import CopyQueue
from tenure.stores.journaled import Item, JournaledCopy
from tenure.stores.journaled.feed import Feed

WORKERS: Final = 6
LATE_S: Final = 30.0
"""How often the last hours are looked through for events that shippers have delivered late."""
LATE_HOURS: Final = 2
LATE_SHARE: Final = 10
"""Looking through them takes at most one part in so many of the time."""


class LogsCopy(JournaledCopy[LogsStore, Version]):
    """The live copy of one tenant between the log groups of two cells.

    Its items are hours of streams; the app touches `GROUP:STREAM:2026-11-23T15`. A copy only ever adds events: what one
    side lacks is brought to it, whichever side that is, because an event that only the passive side has was delivered
    late by a shipper of the app that ran there, and CloudWatch Logs could not remove it alone anyway. An event may be
    there twice after an answer was lost, as with every shipper; that is no difference.

    What is promised: every event that CloudWatch Logs showed when the copy was sealed, and that PutLogEvents takes (not
    older than 14 days or than the shorter retention), is on both sides. Events that shippers deliver after that are no
    difference while users wait, and are brought by a later pass while the link stands. Older events stay where they
    are, until they expire or are erased.
    """

    def __init__(
        self,
        *,
        link: str,
        tenant: TenantId,
        source: LogsStore,
        target: LogsStore,
        source_journal: Journal | None,
        target_journal: Journal | None,
        late_s: float = LATE_S,
    ) -> None:
        hours = Hours(source, target, tenant)
        super().__init__(
            link=link,
            tenant=tenant,
            source=source,
            target=target,
            source_journal=source_journal,
            target_journal=target_journal,
            source_record=source.anchored.link_record(tenant),
            target_record=target.anchored.link_record(tenant),
            listing=Listing(hours),
            comparer=Comparer(hours),
            transfer=lambda allowed: Transfer(hours, allowed),
            workers=WORKERS,
        )
        self._late_s = late_s
        self._feed = _LateFeed(self._feed, hours, self._queue, self._verification.note_changed, late_s)

    def preflight(self) -> Sequence[Finding]:
        linked = bool(self._target_record.read().link)
        return findings(self._tenant, self._source, self._target, journaled=self.journaled, linked=linked)

    def fingerprint(self) -> Mapping[str, str]:
        """What must be equal is which groups and streams are a tenant's; events have no schema."""
        return {
            place.group.text: place.streams.text if place.streams is not None else "*"
            for place in self._source.groups.places
        }

    def turned(self) -> LogsCopy:
        return LogsCopy(
            link=self._link,
            tenant=self._tenant,
            source=self._target,
            target=self._source,
            source_journal=self._target_journal,
            target_journal=self._journal,
            late_s=self._late_s,
        )


class _LateFeed:
    """Another feed, and from time to time a look at the last hours on both sides: shippers deliver after the app's
    transaction, so what the journal named may not have been all there when it was copied."""

    def __init__(
        self,
        inner: Feed[Version],
        hours: Hours,
        queue: CopyQueue[str],
        on_change: Callable[[Iterable[str]], None],
        every_s: float,
    ) -> None:
        self._inner = inner
        self._hours = hours
        self._queue = queue
        self._on_change = on_change
        self._every_s = every_s
        self._lock = threading.Lock()
        self._due = 0.0

    def begin(self, fence: Fence) -> None:
        self._inner.begin(fence)
        with self._lock:
            self._due = time.monotonic() + self._every_s

    def listed(self, source: Mapping[str, Item[Version]]) -> None:
        self._inner.listed(source)

    def read(self) -> None:
        """Never looks for late events: users may be waiting."""
        self._inner.read()

    def settle(self) -> None:
        self._inner.settle()
        with self._lock:
            began = time.monotonic()
            if began < self._due:
                return
        # What cannot be looked through now is looked through the next time.
        with contextlib.suppress(StoreUnavailable):
            late = self._hours.differing(since_hours=LATE_HOURS)
            self._on_change(late)
            self._queue.put(late)
        with self._lock:
            took = time.monotonic() - began
            self._due = began + max(self._every_s, LATE_SHARE * took)

    def note_unread(self) -> None:
        self._inner.note_unread()

    def reset(self) -> None:
        self._inner.reset()

    def end(self) -> None:
        self._inner.end()
