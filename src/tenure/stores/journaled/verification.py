"""Comparing items that change all the while: what is in flight is no difference, and is remembered for the hold."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Collection, Iterable
from typing import Final, Generic

from tenure.errors import EvidenceStale
from tenure.model.comparison import Comparison, Difference
from tenure.model.names import TenantId
from tenure.stores.contract import Store
from tenure.stores.journaled.ports import Comparer, Listing, Tally, V

SETTLE_S: Final = 1.0
"""How long a difference may stay unexplained while the app's transaction that explains it has not committed."""
LOOK_AGAIN_S: Final = 0.1


class Verification(Generic[V]):
    """One copy's comparisons. `paused` waits for so many seconds and says whether the copy was let go of."""

    def __init__(
        self,
        source: Store,
        tenant: TenantId,
        listing: Listing[V],
        comparer: Comparer,
        paused: Callable[[float], bool],
    ) -> None:
        self._source = source
        self._tenant = tenant
        self._listing = listing
        self._comparer = comparer
        self._paused = paused
        self._lock = threading.Lock()
        self._changed: set[str] | None = None
        """Since the last comparison of everything began; None where there is none to build on."""

    def note_changed(self, keys: Iterable[str]) -> None:
        with self._lock:
            if self._changed is not None:
                self._changed.update(keys)

    def everything(
        self,
        progress: Callable[[int], None],
        *,
        outstanding: Callable[[], Iterable[str]],
        note_unread: Callable[[], None],
    ) -> Comparison:
        """See `LiveCopy.compare`. `outstanding` is still to be copied; `note_unread` has the feed say what changed."""
        with self._lock:
            self._changed = set()
        try:
            self.note_changed(list(outstanding()))
            tally = self._comparer.everything(progress)
            return self._explained(tally, note_unread, deadline=time.monotonic() + SETTLE_S)
        except BaseException:
            # What this comparison has not come to was never compared: no later one may build on it.
            with self._lock:
                self._changed = None
            raise

    def _explained(self, tally: Tally, note_unread: Callable[[], None], *, deadline: float) -> Comparison:
        """The result without what changed meanwhile. A transaction of the app may have written an item and not yet
        committed the row that says so: what differs is looked at again for a while."""
        while True:
            note_unread()
            with self._lock:
                changed = set(self._changed or ())
            again = self._comparer.these([key for key in tally.differing if key not in changed])
            late = time.monotonic() >= deadline or self._paused(0.0)
            if late or not again.differing or not self._source.fence_state(self._tenant).writable:
                tally.differing.update(again.differing)
                self.note_changed(again.differing)
                return self._result(tally, again.differing, changed=changed)
            self._paused(LOOK_AGAIN_S)

    def require(self) -> None:
        """Raise `EvidenceStale` unless it is known what has changed since everything was compared."""
        with self._lock:
            known = self._changed is not None
        if not known:
            raise self.stale()

    def stale(self) -> EvidenceStale:
        return EvidenceStale(
            f"{self._source.name} of {self._source.cell}: it is not known what has changed since the last comparison",
            hint="compare again in the process that copies",
        )

    def changes(self) -> Comparison:
        """See `LiveCopy.compare_changed`."""
        with self._lock:
            if self._changed is None:
                raise self.stale()
            changed, self._changed = self._changed, set()
        try:
            tally = self._comparer.these(changed, thorough=False) if changed else Tally()
        except BaseException:
            self.note_changed(changed)
            raise
        self.note_changed(tally.differing)
        return self._result(tally, tally.differing, changed=frozenset())

    def _result(self, tally: Tally, differing: Iterable[str], *, changed: Collection[str]) -> Comparison:
        """The comparison in which these of the candidates differ indeed."""
        differences = tuple(
            Difference(collection=self._listing.collection(key), key=key_text(key), kind=tally.differing[key])
            for key in sorted(differing)
        )
        return Comparison(
            store=self._source.name,
            processed=len(tally.processed),
            matching=len(tally.processed) - len(differences),
            differences=differences,
            bytes_read=tally.bytes_read,
            changed_meanwhile=len(tally.processed.intersection(changed)),
        )


def key_text(key: str) -> str:
    """A key as a `Difference` names it."""
    return json.dumps(key)


def key_of(text: str) -> str:
    """The key of a `Difference`."""
    return str(json.loads(text))
