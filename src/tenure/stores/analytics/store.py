"""A warehouse of one cell as a `Store`: a tenant's data are the rows with its id in the tables of the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Final

from tenure.catalogue import AnalyticsMap
from tenure.errors import StoreRefused
from tenure.model.inventory import Collection as Held
from tenure.model.inventory import Inventory
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import FindPage, Search, Survey
from tenure.stores.analytics.backup import UnitItems, UnitUnpacking
from tenure.stores.analytics.engine import Engine
from tenure.stores.analytics.looking import finds, survey
from tenure.stores.analytics.units import Units, total
from tenure.stores.backup import Capture, Restoring
from tenure.stores.contract import Capabilities, Fence, Pace, Room, TenantFence, unhurried
from tenure.stores.journaled import Anchored, JournaledCapture, JournaledRestoring


class AnalyticsStore(Anchored):
    """The tables of one cell's warehouse. Implements `tenure.stores.contract.Store`; safe for several threads.

    No engine of analytics refuses a tenant's writes. The fence is that of the cell's PostgreSQL (`anchor`): the app
    writes here inside a transaction that holds the tenant's permit. What is erased is gone from every query when
    `erase` returns; `Capabilities` says where its bytes may still lie (`residue`), and for how long the vendor keeps it
    besides (`lapses_after_days`).
    """

    def __init__(
        self, *, name: StoreName, cell: CellName, where: AnalyticsMap, engine: Engine, anchor: TenantFence
    ) -> None:
        super().__init__(name, anchor)
        self.cell: Final = cell
        self.engine: Final = engine
        self.tables: Final = tuple(t for t in where.tables.values() if t.is_in(cell))
        self.units: Final = Units(self.tables)
        self.map: Final = where

    @property
    def where(self) -> str:
        """How messages name this store."""
        return f"{self.name} of {self.cell}"

    @property
    def capabilities(self) -> Capabilities:
        return replace(
            super().capabilities,
            lapses_after_days=self.map.retention.lapses_after_days,
            residue=self.engine.residue,
        )

    @property
    def server(self) -> str:
        return self.engine.server

    def room(self) -> Sequence[Room]:
        return ()

    def ping(self) -> None:
        self.engine.ping()

    def inventory(self, tenant: TenantId) -> Inventory:
        """One collection per table. Digests are the engine's own: those of two engines of one kind can be compared."""
        self.require_tables()
        collections = {}
        for table in self.tables:
            partitions = self.engine.partitions(table, tenant)
            found = total(self.engine.contents(table, tenant, partitions).values())
            collections[str(table.name)] = Held(
                items=found.rows, size_bytes=found.size_bytes, digest=f"{found.digest:032x}"
            )
        return Inventory(store=self.name, tenant=tenant, collections=collections)

    def require_tables(self) -> None:
        """Raise `StoreRefused` if a table of the catalogue is not there."""
        missing = [str(t.name) for t in self.tables if not self.engine.columns(t.name)]
        if missing:
            raise StoreRefused(
                f"{self.where} has no table {', '.join(missing)}",
                hint="create it, or name the cells that have it (`cells`) in the catalogue",
            )

    def erase(self, fence: Fence, *, progress: Callable[[int], None] = lambda _items: None) -> int:
        """Counts rows. What an interrupted copy has left behind goes as well."""
        self.require_erasable(fence)
        self.require_tables()
        self.engine.sweep(fence.tenant)
        erased = 0
        for table in self.tables:

            def counted(rows: int, before: int = erased) -> None:
                self.require_erasable(fence)
                progress(before + rows)

            self.require_erasable(fence)
            erased += self.engine.erase(table, fence.tenant, counted)
        return erased

    def survey(self, tenants: Collection[TenantId], *, pace: Pace = unhurried) -> Survey:  # noqa: ARG002
        return survey(self.name, self.cell, self.map, self.engine, pace)

    def find(
        self, search: Search, *, cursor: str | None = None, pace: Pace = unhurried
    ) -> Iterator[FindPage]:
        return finds(self.map, self.engine, search, cursor, pace)

    def capture(self, tenant: TenantId) -> Capture:
        """Each partition as it is at one moment, exact to the last bit of every type."""
        items = UnitItems(self, tenant)
        return JournaledCapture(store=self, tenant=tenant, journal=self.anchor.journal, packing=items)

    def restoring(self, tenant: TenantId, origin: TenantId) -> Restoring:
        """Only of a backup of the same kind of engine."""
        units = UnitUnpacking(self, tenant)
        return JournaledRestoring(store=self, tenant=tenant, origin=origin, unpacking=units)

    def close(self) -> None:
        self.engine.close()
