"""How far a copy is: items and bytes that it has brought, of those it has to bring."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from tenure.stores.contract import CopyProgress


class Progress:
    """Thread-safe. Bytes that do not pass through this process count as the listing has shown them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sizes: dict[str, int] = {}
        self._items_done = 0
        self._items_total = 0
        self._bytes_done = 0
        self._bytes_total = 0

    def expect(self, items: int, sizes: Mapping[str, int]) -> None:
        """So many items are to be copied, and removed, now; these have a size."""
        with self._lock:
            self._sizes.update(sizes)
            self._items_total = max(self._items_total, self._items_done + items)
            self._bytes_total = max(self._bytes_total, self._bytes_done + sum(self._sizes.values()))

    def copied(self, keys: Sequence[str], size_bytes: int) -> None:
        """These are copied. `size_bytes` is 0 where it is not known."""
        with self._lock:
            listed = sum(self._sizes.pop(key, 0) for key in keys)
            self._items_done += len(keys)
            self._bytes_done += size_bytes or listed

    def now(self, *, lag: int, following: bool) -> CopyProgress:
        """How far it is, while `lag` items are still queued."""
        with self._lock:
            return CopyProgress(
                items_done=self._items_done,
                items_total=max(self._items_total, self._items_done + lag),
                bytes_done=self._bytes_done,
                bytes_total=max(self._bytes_total, self._bytes_done),
                following=following,
                lag_items=lag,
                applied=self._items_done,
            )

    def forget(self) -> None:
        """Forget what is still to be copied."""
        with self._lock:
            self._sizes.clear()
