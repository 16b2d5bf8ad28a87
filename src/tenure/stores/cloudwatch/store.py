"""CloudWatch Logs of one cell as a `Store`: a tenant's data are the events of its log groups, or of its streams in
groups that tenants share."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Final

from tenure.catalogue import LogPlace, NamePattern
from tenure.errors import StoreRefused, StoreUnavailable
from tenure.model.inventory import Collection as Counted
from tenure.model.inventory import Inventory
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import FindPage, Search, Survey
from tenure.stores.backup import Capture, Restoring
from tenure.stores.cloudwatch.account import PING_TIMEOUT_S, WORKERS, Account
from tenure.stores.cloudwatch.backup import HourItems, HourUnpacking
from tenure.stores.cloudwatch.errors import translated
from tenure.stores.cloudwatch.events import Event, Stream, Sum, read
from tenure.stores.cloudwatch.export import Export, Manifest, Sink
from tenure.stores.cloudwatch.groups import Groups
from tenure.stores.cloudwatch.search import LogSearch
from tenure.stores.cloudwatch.shared import Retained, retained
from tenure.stores.contract import Capabilities, Fence, FenceState, Pace, Room, TenantFence, unhurried
from tenure.stores.journaled import Anchored, JournaledCapture, JournaledRestoring
from tenure.stores.noted import NotedFence

NO_JOURNAL: Final = "the catalogue names no journal for it, so nothing keeps a moving tenant's events out"
LISTED_WITHIN_S: Final = 2.0
LIST_AGAIN_S: Final = 0.2
EXPORTS: Final = 3
"""How often a stream is exported anew because events came meanwhile, before its erasure gives up."""


class LogsStore:
    """The log groups of one region and account whose names begin with `prefix`.

    CloudWatch Logs refuses nobody's events: the fence is that of the cell's PostgreSQL (`anchor`), under whose permit
    the app logs; without one it is only noted. No event can be deleted alone: what is erased are a tenant's own groups,
    or its own streams, whole. Events in streams that tenants share stay until they expire (`retained`). With `export`,
    every erasure first writes out what it deletes. `elsewhere` are prefixes of other cells in the same account and
    region, whose groups are none of this store's. Thread-safe.
    """

    def __init__(
        self,
        *,
        name: StoreName,
        cell: CellName,
        account: Account,
        places: Sequence[LogPlace],
        ignore: Sequence[NamePattern] = (),
        prefix: str = "",
        anchor: TenantFence | None = None,
        export: Sink | None = None,
        elsewhere: Sequence[str] = (),
    ) -> None:
        self._name = name
        self._cell = cell
        self.account: Final = account
        self.client: Final = account.client("logs")
        self.putter: Final = account.client("logs", attempts=1)
        """Puts events, and asks once: see `events.put`."""
        self._ping_client = account.client("logs", timeout_s=PING_TIMEOUT_S, attempts=2)
        self.groups: Final = Groups(
            self.client, prefix=prefix, places=places, ignore=ignore, elsewhere=elsewhere
        )
        self.pool: Final = ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix=f"logs-{cell}")
        self._anchored = Anchored(name, anchor) if anchor is not None else None
        self._noted = NotedFence(name)
        self._export = export

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
            return self._anchored.capabilities
        return Capabilities(fence_enforced=False, fence_drains=False, fence_expires=False, stays=NO_JOURNAL)

    @property
    def anchored(self) -> Anchored:
        """The fence's part. Raises `StoreRefused` where the store takes no part in moves."""
        if self._anchored is None:
            raise StoreRefused(
                f"{self.where} cannot be moved: {NO_JOURNAL}", hint="name one in the catalogue"
            )
        return self._anchored

    @property
    def server(self) -> str:
        return self.account.server("logs")

    def room(self) -> Sequence[Room]:
        return ()

    def ping(self) -> None:
        with translated(self.where):
            self._ping_client.describe_log_groups(limit=1)

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

    # -- what there is -----------------------------------------------------------------------------------------------

    def inventory(self, tenant: TenantId) -> Inventory:
        """A collection per stream. Whatever can be read counts, also what has reached its retention and is not deleted
        yet. Events in shared streams are not in it."""
        with translated(self.where):
            streams = self.groups.of(tenant)
            sums = self.pool.map(self._sum, streams)
            return Inventory(
                store=self._name,
                tenant=tenant,
                collections={
                    str(stream): Counted(items=its.events, size_bytes=its.size_bytes, digest=its.digest)
                    for stream, its in zip(streams, sums, strict=True)
                },
            )

    def _sum(self, stream: Stream) -> Sum:
        total = Sum()
        for event in self.events(stream):
            total.add(event)
        return total

    def events(self, stream: Stream, *, start: int = 0, end: int | None = None) -> Iterator[Event]:
        """The stream's events from `start` on and before `end`, in the order of their times."""
        return read(self.client, self.groups.full(stream.group), stream.name, start=start, end=end)

    def collection(self, group: str) -> str:
        """The entry of the catalogue that the group belongs to."""
        place = self.groups.place_of(group)
        return place.group.text if place is not None else group

    def survey(self, tenants: Collection[TenantId], *, pace: Pace = unhurried) -> Survey:
        with translated(self.where):
            return self._search().survey(self._name, self._cell, tenants, pace)

    def find(
        self, search: Search, *, cursor: str | None = None, pace: Pace = unhurried
    ) -> Iterator[FindPage]:
        """Looks at the names of groups and streams and at every event, as CloudWatch Logs filters them (`filters`). Not
        looked at: tags of groups, metric filters, saved queries."""
        pages = self._search().find(search, cursor, pace)
        while True:
            with translated(self.where):
                page = next(pages, None)
            if page is None:
                return
            yield page

    def _search(self) -> LogSearch:
        return LogSearch(self.client, self.groups)

    def retained(self, tenant: TenantId, *, known: Collection[TenantId] = ()) -> Sequence[Retained]:
        """The streams that tenants share in which this tenant is mentioned: what no erasure reaches, and until when it
        stays. `known` are all tenants' ids. Reads every event that CloudWatch's filter lets through."""
        with translated(self.where):
            return retained(self.client, self.groups, tenant, known)

    def retention(self, tenant: TenantId) -> dict[str, timedelta | None]:
        """How long the tenant's groups keep their events; None for ever. Up to `EXPIRES_WITHIN` longer may pass until
        CloudWatch Logs has deleted them."""
        with translated(self.where):
            return {
                group.name: timedelta(days=group.retention_days) if group.retention_days is not None else None
                for group in self.groups.groups_of(tenant)
            }

    # -- erasing -----------------------------------------------------------------------------------------------------

    def erase(
        self,
        fence: Fence,
        *,
        progress: Callable[[int], None] = lambda _items: None,
        export: Sink | None = None,
    ) -> int:
        """Delete the tenant's own groups, and its own streams in other groups; return how many streams went.

        With `export` (or the store's own) everything is written out, read back and compared with what is there right
        before it is deleted, and the manifest is whole before anything is. What shippers deliver later comes back as a
        new stream: erase again. Shared streams are not touched, and are none of the count: see `retained`.
        """
        tenant = fence.tenant
        self.require_erasable(fence)
        with translated(self.where):
            streams = self.groups.of(tenant)
            sink = export or self._export
            if sink is not None and streams:
                self._exported(sink, tenant, streams)
            own = [group.name for group in self.groups.own(tenant)]
            gone = 0
            for stream in streams:
                if stream.group not in own:
                    self.require_erasable(fence)
                    self.groups.remove_stream(stream)
                    gone += 1
                    progress(gone)
            for group in own:
                self.require_erasable(fence)
                if sink is not None:
                    self._refuse_newcomers(tenant, streams)
                self.groups.remove_group(group)
                gone += sum(stream.group == group for stream in streams)
                progress(gone)
            left = self._left(tenant)
        if left:
            raise StoreUnavailable(
                f"{self.where}: {len(left)} streams of {tenant} are there again, the first one {left[0]}",
                hint="a log shipper still delivers events: erase again when it has ended",
            )
        return gone

    def _left(self, tenant: TenantId) -> list[Stream]:
        """What is listed of the tenant after its erasure; listings may be a moment behind."""
        deadline = time.monotonic() + LISTED_WITHIN_S
        while (left := self.groups.of(tenant)) and time.monotonic() < deadline:
            time.sleep(LIST_AGAIN_S)
        return left

    def _refuse_newcomers(self, tenant: TenantId, exported: Sequence[Stream]) -> None:
        new = sorted(set(self.groups.of(tenant)).difference(exported))
        if new:
            raise StoreUnavailable(
                f"{self.where}: {new[0]} has come since the export, which lacks it",
                hint="try again when the tenant's log shippers have ended",
            )

    def require_erasable(self, fence: Fence) -> None:
        """Raise `FenceRefused` unless the tenant is fenced and no newer holder has been here, `StoreRefused` while a
        link holds the store."""
        (self._anchored or self._noted).require_erasable(fence)

    def _exported(self, sink: Sink, tenant: TenantId, streams: Sequence[Stream]) -> Manifest:
        """Write all streams out; a stream that has got events since is written out anew."""
        export = Export(sink, store=self._name, cell=self._cell, tenant=tenant)
        pending = list(streams)
        for _ in range(EXPORTS):
            for stream in pending:
                export.write(stream, self.events(stream))
            manifest = export.finish()
            written = {Stream(s.group, s.stream): s.digest for s in manifest.streams}
            pending = [stream for stream in streams if self._sum(stream).digest != written[stream]]
            if not pending:
                return manifest
        raise StoreUnavailable(
            f"{self.where}: {pending[0]} gets new events while it is exported",
            hint="nothing was deleted: try again when its log shipper has ended",
        )

    # -- backups -----------------------------------------------------------------------------------------------------

    def capture(self, tenant: TenantId) -> Capture:
        """The events of the tenant's own streams that CloudWatch Logs shows; what shippers deliver later is not in."""
        journal = self._anchored.anchor.journal if self._anchored is not None else None
        return JournaledCapture(store=self, tenant=tenant, journal=journal, packing=HourItems(self, tenant))

    def restoring(self, tenant: TenantId, origin: TenantId) -> Restoring:
        """Adds the events that are lacking, with their times; removes none."""
        hours = HourUnpacking(self, tenant, origin)
        return JournaledRestoring(store=self, tenant=tenant, origin=origin, unpacking=hours)

    def close(self) -> None:
        self.pool.shutdown(wait=False)
        for client in (self.client, self.putter, self._ping_client):
            client.close()
