"""Prometheus of one cell as a `Store`: a tenant's data are the series in which a label has its id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Final

from tenure.catalogue import DataClass, KeyPattern
from tenure.errors import StoreUnavailable, UsageError
from tenure.model.inventory import Collection as Counted
from tenure.model.inventory import Inventory
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import FindPage, Search, Survey
from tenure.model.secret import Secret
from tenure.stores.backup import Capture, Restoring, refused
from tenure.stores.contract import Capabilities, Fence, FenceState, Pace, Room, TenantFence, unhurried
from tenure.stores.journaled import Anchored
from tenure.stores.noted import NotedFence
from tenure.stores.prometheus.api import PrometheusApi, selector
from tenure.stores.prometheus.search import SeriesSearch

STAYS: Final = "series belong to the server that scraped them, and Prometheus takes no samples of other times"
SAMPLE_BYTES: Final = 2
"""Prometheus documentation, "Storage": an average of 1 to 2 bytes per sample."""
EVER: Final = "100y"
OTHER: Final = "*"
NAME: Final = "__name__"
_MASK: Final = (1 << 128) - 1


class PrometheusStore:
    """The series of one server whose `label` is a tenant's id. Thread-safe.

    Prometheus keeps nobody's series out. The fence is that of the cell's PostgreSQL (`anchor`), so that no process that
    was stopped for long can erase what a tenant has reported since; without one it is only noted.

    Erasing needs the admin API. Samples of the last hours are also in the server's write-ahead log, which only the
    server itself rewrites when it compacts its head, as a rule within three hours.
    """

    def __init__(
        self,
        *,
        name: StoreName,
        cell: CellName,
        url: str,
        label: str,
        metrics: Sequence[str] = (OTHER,),
        ignore: Sequence[str] = (),
        user: str | None = None,
        password: Secret | None = None,
        token: Secret | None = None,
        anchor: TenantFence | None = None,
    ) -> None:
        self._name = name
        self._cell = cell
        self._label = label
        self._patterns = tuple(KeyPattern(pattern=p, data_class=DataClass.PLAIN) for p in metrics)
        self._ignore = tuple(KeyPattern(pattern=p, data_class=DataClass.PLAIN) for p in ignore)
        self._api = PrometheusApi(url, where=self.where, user=user, password=password, token=token)
        self._anchored = Anchored(name, anchor) if anchor is not None else None
        self._noted = NotedFence(name)

    @property
    def name(self) -> StoreName:
        return self._name

    @property
    def cell(self) -> CellName:
        return self._cell

    @property
    def where(self) -> str:
        """How messages name this store."""
        return f"{self._name} of {self._cell}"

    @property
    def capabilities(self) -> Capabilities:
        if self._anchored is not None:
            return replace(self._anchored.capabilities, stays=STAYS, not_backed_up=STAYS)
        return Capabilities(
            fence_enforced=False, fence_drains=False, fence_expires=False, stays=STAYS, not_backed_up=STAYS
        )

    @property
    def server(self) -> str:
        return self._api.server

    def room(self) -> Sequence[Room]:
        return ()

    def ping(self) -> None:
        self._api.ready()

    def inventory(self, tenant: TenantId) -> Inventory:
        """Counts the series that have samples, pattern by pattern; sizes are estimates. Digests cover labels alone."""
        tally = {p.pattern: [0, 0, 0] for p in self._patterns}
        for name in self._api.values(NAME, self._of(tenant)):
            counted = tally.setdefault(self._collection(name), [0, 0, 0])
            for labels, samples in self._samples(tenant, name):
                counted[0] += 1
                counted[1] += int(samples) * SAMPLE_BYTES
                counted[2] = (counted[2] + _digest({**labels, NAME: name})) & _MASK
        return Inventory(
            store=self._name,
            tenant=tenant,
            collections={
                name: Counted(items=items, size_bytes=size, digest=f"{total:032x}")
                for name, (items, size, total) in tally.items()
            },
        )

    def _of(self, tenant: TenantId) -> str:
        return selector(**{self._label: tenant})

    def _samples(self, tenant: TenantId, name: str) -> list[tuple[dict[str, str], float]]:
        """How many samples each series of that name has. What is deleted counts no more, though a server may list its
        labels until it compacts its head."""
        return self._api.vector(f"count_over_time({selector(**{NAME: name, self._label: tenant})}[{EVER}])")

    def _collection(self, name: str) -> str:
        return next((p.pattern for p in self._patterns if p.matches(name)), OTHER)

    # -- the fence ---------------------------------------------------------------------------------------------------

    def claim(self, fence: Fence) -> None:
        (self._anchored or self._noted).claim(fence)

    def fence(self, fence: Fence, *, expires_in_s: float | None, drain_s: float) -> None:
        (self._anchored or self._noted).fence(fence, expires_in_s=expires_in_s, drain_s=drain_s)

    def open(self, fence: Fence) -> None:
        (self._anchored or self._noted).open(fence)

    def fence_state(self, tenant: TenantId) -> FenceState:
        return (self._anchored or self._noted).fence_state(tenant)

    def retire(self, fence: Fence) -> None:
        (self._anchored or self._noted).retire(fence)

    # -- erasing -----------------------------------------------------------------------------------------------------

    def erase(self, fence: Fence, *, progress: Callable[[int], None] = lambda _items: None) -> int:
        """Delete the samples of all times, have the blocks on disk rewritten, and see by a query that none is left;
        return how many series had samples. Raises `StoreUnavailable` if some have again: they are still reported."""
        (self._anchored or self._noted).require_erasable(fence)
        before = self.inventory(fence.tenant).items
        self._api.delete(self._of(fence.tenant))
        self._api.clean()
        left = self.inventory(fence.tenant)
        if left.items:
            named = ", ".join(name for name, its in left.collections.items() if its.items)
            raise StoreUnavailable(
                f"{self.where}: {left.items} series of {fence.tenant} have samples again ({named})",
                hint="an exporter still reports them: stop that, then erase again",
            )
        progress(before)
        return before

    # -- finding and surveying ---------------------------------------------------------------------------------------

    def find(
        self, search: Search, *, cursor: str | None = None, pace: Pace = unhurried
    ) -> Iterator[FindPage]:
        """Looks at the names of metrics and at the names and values of labels; a page for each label."""
        if cursor is not None and not _is_cursor(cursor):
            raise UsageError("the cursor is none of Prometheus")
        yield from self._search().find(search, json.loads(cursor) if cursor is not None else None, pace)

    def survey(self, tenants: Collection[TenantId], *, pace: Pace = unhurried) -> Survey:  # noqa: ARG002
        return self._search().survey(self._name, self._cell, pace)

    def _search(self) -> SeriesSearch:
        return SeriesSearch(self._api, label=self._label, metrics=self._patterns, ignore=self._ignore)

    def capture(self, tenant: TenantId) -> Capture:  # noqa: ARG002
        """Raises `StoreRefused`: its data is in no backup."""
        raise refused(self._name, self._cell, STAYS)

    def restoring(self, tenant: TenantId, origin: TenantId) -> Restoring:  # noqa: ARG002
        """Raises `StoreRefused`: its data is in no backup."""
        raise refused(self._name, self._cell, STAYS)

    def close(self) -> None:
        """No connection is kept."""


def _digest(labels: dict[str, str]) -> int:
    content = json.dumps(labels, sort_keys=True).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=16).digest(), "little")


def _is_cursor(cursor: str) -> bool:
    try:
        label, items, size_bytes = json.loads(cursor)
    except (ValueError, TypeError):
        return False
    return isinstance(label, str) and isinstance(items, int) and isinstance(size_bytes, int)
