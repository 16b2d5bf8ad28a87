"""PostgreSQL as a store: a tenant's rows in shared tables, in a schema or in a database of its own."""

from __future__ import annotations

import threading
from collections import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import psycopg

from tenure.catalogue.evolution import Migrations
from tenure.catalogue.patterns import Template
from tenure.model.inventory import Collection, Inventory
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import FindPage, Search, Survey
from tenure.model.secret import Secret
from tenure.stores.backup import Capture, Restoring
from tenure.stores.contract import Capabilities, Fence, FenceState, Pace, Room, unhurried
from tenure.stores.postgres import fence as fences
from tenure.stores.postgres import find as finds
from tenure.stores.postgres import room
from tenure.stores.postgres import survey as surveys
from tenure.stores.postgres.capture import PostgresCapture
from tenure.stores.postgres.compare import Side, count_and_sum, expected_rows
from tenure.stores.postgres.connect import Pool, translate
from tenure.stores.postgres.contents import Chart
from tenure.stores.postgres.erasing import erase_tables
from tenure.stores.postgres.home import Home, home_of
from tenure.stores.postgres.restoring import PostgresRestoring
from tenure.stores.postgres.tables import TenantTable, require

ROW_OVERHEAD_BYTES: Final = 28
MOST_HOMES: Final = 64


class PostgresStore:
    """A cell's PostgreSQL. Implements `tenure.stores.contract.Store`; safe for several threads.

    `tables` are this store's own; `carried` are those of stores that ride with it: they are fenced and published with
    these, but neither inventoried nor compared nor erased here. `dsn_from_cells` is how other servers reach it.
    `most_wal_bytes` is what a link may make the server keep: preflight looks whether the server knows that.
    Schemas may be templates. With `database`, a template too, each tenant has a database of that name on the server,
    and `dsn` leads to another one of its databases. `columns` are those that the catalogue names, of `tables` and
    `carried`, and `riders` the stores of the latter. `migrations` say where the schema's version is recorded. `others`
    gives the databases on this server that are those of other stores: a search leaves them to these.
    """

    def __init__(
        self,
        *,
        name: StoreName,
        cell: CellName,
        dsn: Secret,
        tables: Sequence[TenantTable],
        carried: Sequence[TenantTable] = (),
        ignore: Sequence[TenantTable] = (),
        dsn_from_cells: Secret | None = None,
        most_wal_bytes: int | None = None,
        database: str | None = None,
        columns: Mapping[TenantTable, frozenset[str]] | None = None,
        riders: Mapping[TenantTable, StoreName] | None = None,
        others: Callable[[], frozenset[str]] = frozenset,
        migrations: Migrations | None = None,
    ) -> None:
        self.name: Final = name
        self.cell: Final = cell
        self.tables: Final = tuple(tables)
        self.carried: Final = tuple(carried)
        self.most_wal_bytes: Final = most_wal_bytes
        self.pool: Final = Pool(dsn, f"{name} in {cell}")
        self.server: Final = self.pool.address
        self.capabilities: Final = Capabilities(fence_enforced=True, fence_drains=True, fence_expires=True)
        self._database: Final = Template.name(database) if database is not None else None
        self._unsettled: Final = Home(
            cell=cell,
            pool=self.pool,
            dsn_from_cells=dsn_from_cells or dsn,
            tables=self.tables,
            carried=self.carried,
            ignored=tuple(ignore),
        )
        self._columns: Final = dict(columns or {})
        self._riders: Final = dict(riders or {})
        self.migrations: Final = migrations
        self._others: Final = others
        self._homes: Final[dict[TenantId, Home]] = {}
        self._lock: Final = threading.Lock()

    def home(self, tenant: TenantId) -> Home:
        """Where the tenant's rows are here. Raises `StoreRefused` where its id gives names that are not its own.

        At most `MOST_HOMES` are kept: the connections of the oldest are closed then.
        """
        with self._lock:
            home = self._homes.pop(tenant, None)
            if home is None:
                home = home_of(self._unsettled, tenant, server=self.pool.where, database=self._database)
            self._homes[tenant] = home
            if len(self._homes) > MOST_HOMES:
                oldest = self._homes.pop(next(iter(self._homes)))
                if oldest.pool is not self.pool:
                    oldest.pool.close()
            return home

    def room(self) -> Sequence[Room]:
        return room.room(self.pool)

    def ping(self) -> None:
        connection = self.pool.connect()
        try:
            connection.execute("select 1")
        except psycopg.Error as error:
            raise translate(error, self.pool.where) from error
        finally:
            connection.close()

    def inventory(self, tenant: TenantId) -> Inventory:
        home = self.home(tenant)
        return inventory(home.pool, self.name, home.tables, tenant)

    def survey(self, tenants: abc.Collection[TenantId], *, pace: Pace = unhurried) -> Survey:
        """Tables of stores that ride with this one are theirs to survey; what no entry names is this one's."""
        return self.survey_of(self.name, self.tables, tenants, everything=True, pace=pace)

    def survey_of(
        self,
        name: StoreName,
        own: Sequence[TenantTable],
        tenants: abc.Collection[TenantId],
        *,
        everything: bool,
        pace: Pace,
    ) -> Survey:
        """The survey of a store with these tables, this one or one that rides with it."""
        return surveys.survey(
            name,
            self.cell,
            self._databases(frozenset(tenants)),
            own=own,
            riders=self._riders,
            everything=everything,
            pace=pace,
        )

    def find(
        self, search: Search, *, cursor: str | None = None, pace: Pace = unhurried
    ) -> Iterator[FindPage]:
        """Tables of stores that ride with this one are searched by those."""
        return finds.find(self.searched(self.name, search), search, cursor, pace)

    def searched(self, name: StoreName, search: Search, carried: frozenset[str] | None = None) -> finds.Where:
        """Where a search looks for a store with tables here, this one or, with `carried`, one that rides with it."""
        tenants = search.known | search.tenants
        return finds.Where(
            store=name,
            pool=self.pool,
            chart=lambda tenant: self.chart(tenants, tenant),
            database=self._database,
            tenants=tenants,
            carried=carried,
            others=self._others(),
        )

    def chart(self, tenants: frozenset[TenantId], tenant: TenantId | None) -> Chart:
        """The catalogue as it applies to the database of that tenant, or to the one that all share."""
        return Chart(
            tables=self.tables,
            carried=self.carried,
            ignored=self._unsettled.ignored,
            columns=self._columns,
            tenants=tenants,
            tenant=tenant,
        )

    def _databases(self, tenants: frozenset[TenantId]) -> Iterator[tuple[Pool, Chart]]:
        """The databases that the catalogue speaks of, each with what it says."""
        if self._database is None:
            yield self.pool, self.chart(tenants, None)
            return
        for (name,) in self.pool.rows("select datname::text from pg_database where datallowconn order by 1"):
            tenant = self._database.tenant_of(name)
            if tenant in tenants:
                pool = self.pool.beside(name)
                try:
                    yield pool, self.chart(tenants, tenant)
                finally:
                    pool.close()

    def claim(self, fence: Fence) -> None:
        fences.claim(self.home(fence.tenant).pool, fence)

    def fence(self, fence: Fence, *, expires_in_s: float | None, drain_s: float) -> None:
        home = self.home(fence.tenant)
        fences.lower(home.pool, home.all_tables, fence, expires_in_s=expires_in_s, drain_s=drain_s)

    def open(self, fence: Fence) -> None:
        fences.lift(self.home(fence.tenant).pool, fence)

    def fence_state(self, tenant: TenantId) -> FenceState:
        return fences.state(self.home(tenant).pool, tenant)

    def erase(self, fence: Fence, *, progress: Callable[[int], None] = lambda _items: None) -> int:
        """The tables stay, and so do a schema and a database of the tenant's own: Tenure has not created them."""
        home = self.home(fence.tenant)
        return erase_tables(home.pool, home.tables, home.all_tables, fence, progress)

    def retire(self, fence: Fence) -> None:
        """See `Store.retire`. `tenure.permit` and `tenure.touch` go on refusing the tenant; no trigger stays.

        Raises `StoreRefused` while a link of the tenant still reaches this database.
        """
        fences.retire(self.home(fence.tenant).pool, fence)

    def capture(self, tenant: TenantId) -> Capture:
        """With the tables of stores that ride with this one, under their names."""
        home = self.home(tenant)
        return PostgresCapture(
            name=self.name,
            tenant=tenant,
            server=self.pool,
            home=home,
            owners={table.of(tenant): store for table, store in self.owners.items()},
            migrations=self.migrations,
        )

    def restoring(self, tenant: TenantId, origin: TenantId) -> Restoring:
        return PostgresRestoring(
            tenant=tenant, origin=origin, server=self.pool, home=self.home(tenant), owners=self.owners
        )

    @property
    def owners(self) -> dict[TenantTable, StoreName]:
        """Whose the tables here are: this store's, or of one that rides with it."""
        return dict.fromkeys(self.tables, self.name) | {
            t: self._riders.get(t, self.name) for t in self.carried
        }

    def close(self) -> None:
        self.pool.close()
        with self._lock:
            homes = list(self._homes.values())
            self._homes.clear()
        for home in homes:
            home.pool.close()


def inventory(pool: Pool, name: StoreName, specs: Sequence[TenantTable], tenant: TenantId) -> Inventory:
    """Count, estimated size and digest of the tenant's rows, table by table."""
    collections = {}
    for table in require(pool, specs):
        side = Side(pool=pool, table=table)
        items, total = count_and_sum(side, tenant)
        width = expected_rows(side, tenant)[1] if items else 0
        collections[table.collection] = Collection(
            items=items,
            size_bytes=items * (width + ROW_OVERHEAD_BYTES),
            digest=f"{items:x}:{total % (1 << 128):032x}",
        )
    return Inventory(store=name, tenant=tenant, collections=collections)
