"""When reads of a namespace see what was written: by log sequence numbers, never by counts or by waiting a while.

The vendor numbers the writes to a namespace, and says with each query up to which number it sees everything. Other
reads (listing, fetching) carry no number; they are taken to be as fresh as a query that was answered before them.
https://docs.pinecone.io/guides/index-data/check-data-freshness
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from typing import Final

from tenure.errors import DeadlineExceeded, StoreRefused
from tenure.stores.pinecone.client import IndexClient
from tenure.stores.pinecone.errors import Absent

VISIBLE_S: Final = 60.0
"""How long a write may take to become visible; the vendor says seconds."""
PAUSES_S: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
DOUBTFUL_S: Final = 0.2
"""From this pause on it is asked whether there is such a namespace at all: without one, no number ever shows."""
ABSENT_S: Final = 10.0
"""How long a namespace that took a write must stay unknown to reads before it is taken for absent: what was made by a
first write a moment ago is unknown to them, too."""


class Freshness:
    """Waits for one namespace of one index. Thread-safe: who comes while others wait is served by one look for all."""

    def __init__(self, client: IndexClient, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self._turn = threading.Lock()
        self._seen_at: float | None = None
        self._absent_at: float | None = None

    def catch_up(self, *, since: float | None = None, timeout_s: float = VISIBLE_S) -> bool:
        """Return when reads see every write that was acknowledged before this call, or before `since` (monotonic
        seconds): True, or False if writes find no such namespace. Raises `DeadlineExceeded`."""
        now = time.monotonic()
        asked, deadline = now if since is None else since, now + timeout_s
        with self._turn:
            if self._seen_at is not None and self._seen_at > asked:
                return True
            if self._absent_at is not None and self._absent_at > asked:
                return False
            begun = time.monotonic()
            try:
                lsn = self._client.barrier(self._namespace)
                self._await(lsn, deadline)
            except Absent:
                self._absent_at = begun
                return False
            self._seen_at = begun
            return True

    def reach(self, lsn: int, *, timeout_s: float = VISIBLE_S) -> bool:
        """Return when reads see everything up to this number: True, or False if writes find no such namespace. Raises
        `DeadlineExceeded`."""
        try:
            self._await(lsn, time.monotonic() + timeout_s)
        except Absent:
            return False
        return True

    def _await(self, lsn: int, deadline: float) -> None:
        unknown_since: float | None = None
        for pause in self._pauses():
            seen = self._client.indexed(self._namespace)
            if seen is not None and seen >= lsn:
                return
            if (seen is None or pause >= DOUBTFUL_S) and not self._client.exists(self._namespace):
                unknown_since = unknown_since or time.monotonic()
                if time.monotonic() - unknown_since >= ABSENT_S:
                    raise Absent(f"{self._client.where} has no namespace {self._namespace}")
            elif seen is None:
                raise StoreRefused(
                    f"{self._client.where} does not say which writes its queries see",
                    hint="use a serverless index",
                )
            else:
                unknown_since = None
            if time.monotonic() + pause > deadline:
                behind = "all" if seen is None else lsn - seen
                raise DeadlineExceeded(
                    f"{self._client.where}: reads of {self._namespace} are still {behind} writes behind",
                    hint="the service is slow to show what was written; try again later",
                )
            time.sleep(pause)

    @staticmethod
    def _pauses() -> Iterator[float]:
        return itertools.chain(PAUSES_S, itertools.repeat(PAUSES_S[-1]))


class Moments:
    """What of one copy has to be seen by whoever copies or compares next. Thread-safe.

    On the source, what was written before a record was last `named` to be copied again (monotonic seconds); on the
    target, what the copy has written.
    """

    def __init__(self) -> None:
        self.named = time.monotonic()
        self._lock = threading.Lock()
        self._unnumbered = self.named
        self._lsn = self._seen = 0

    def wrote(self, lsn: int | None) -> None:
        """The copy has written to the target up to this log sequence number; None: up to one that nobody knows."""
        with self._lock:
            if lsn is None:
                self._unnumbered = time.monotonic()
            else:
                self._lsn = max(self._lsn, lsn)

    def see_written(self, target: Freshness) -> None:
        """Return when reads of the target see what the copy has written so far. Raises `DeadlineExceeded`."""
        with self._lock:
            lsn, unnumbered = self._lsn, self._unnumbered
        target.catch_up(since=unnumbered)
        if lsn > self._seen and target.reach(lsn):
            with self._lock:
                self._seen = max(self._seen, lsn)
