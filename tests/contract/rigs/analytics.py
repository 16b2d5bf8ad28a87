"""A warehouse in each cell, of each engine; the app writes inside a transaction of the cell's PostgreSQL, in which it
notes the partition that it changes. Each item is a row in a day of its own."""

from __future__ import annotations

import contextlib
import json
import secrets
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path

import psycopg
import pytest

from tenure.catalogue import AnalyticsMap, AnalyticsTable, DataClass, Partition, PartitionBy, QualifiedName
from tenure.client import Fenced, touch, translating
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import Coverage, Place, PlaceKind
from tenure.model.secret import Secret
from tenure.stores.analytics import AnalyticsCopy, AnalyticsStore, Engine
from tenure.stores.contract import Store
from tenure.stores.postgres import PostgresJournal, PostgresStore, PostgresTenantFence, install_cell
from tests.contract.rigs.postgres import ITEMS, LEFTOVERS, ROLE, ROWS, SERVERS, SHARED
from tests.contract.rigs.protocol import AppRefused, Rig, Side, Stray
from tests.warehouses import ClickHouseWarehouse, DuckDbWarehouse, SqlDatabase, Warehouse, sqlalchemy_url

KINDS = ("analytics-duckdb", "analytics-clickhouse", "analytics-sql")
VARIANTS = ("analytics-clickhouse", "analytics-sql")
NAME = StoreName("analytics")
COLUMNS = "(tenant_id text not null, item text not null, value text, happened {time} not null"
CREATE = {
    "analytics-duckdb": COLUMNS.format(time="timestamptz") + ", primary key (tenant_id, item))",
    "analytics-clickhouse": "(tenant_id String, item String, value Nullable(String), happened DateTime64(6, 'UTC'))"
    " engine = ReplacingMergeTree order by (tenant_id, item)",
    "analytics-sql": COLUMNS.format(time="timestamptz") + ", primary key (tenant_id, item))",
}


def make(kind: str, request: pytest.FixtureRequest) -> Rig:
    fresh: Callable[..., str] = request.getfixturevalue("fresh_database")
    folder: Path = request.getfixturevalue("tmp_path")
    homes = {side: fresh(server) for side, server in SERVERS.items()}
    for dsn in homes.values():
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(ROLE)
            connection.execute(SHARED.encode())
        install_cell(Secret(dsn))
    warehouses: dict[Side, Warehouse]
    if kind == "analytics-duckdb":
        warehouses = {side: DuckDbWarehouse(folder) for side in Side}
    elif kind == "analytics-clickhouse":
        servers = request.getfixturevalue("clickhouse_servers")
        name = f"c_{secrets.token_hex(4)}"
        warehouses = {
            side: ClickHouseWarehouse(server, name) for side, server in zip(Side, servers, strict=True)
        }
    else:
        warehouses = {side: SqlDatabase(sqlalchemy_url(fresh("pg18b")), "public") for side in Side}
    for warehouse in warehouses.values():
        warehouse.run(f"create table {warehouse.schema}.items {CREATE[kind]}")
    return AnalyticsRig(kind, homes, warehouses)


def day(item: str) -> date:
    return date(2026, 1, 1) + timedelta(days=zlib.crc32(item.encode()) % 9000)


class AnalyticsRig:
    def __init__(self, kind: str, homes: Mapping[Side, str], warehouses: Mapping[Side, Warehouse]) -> None:
        self.kind = kind
        self.homes = homes
        self.warehouses = warehouses
        self._postgres: list[PostgresStore] = []
        self._stores: list[AnalyticsStore] = []
        self._copies: list[AnalyticsCopy] = []
        table = QualifiedName(schema=warehouses[Side.BLUE].schema, name="items")
        classes = {
            "tenant_id": DataClass.TENANT,
            "item": DataClass.KEY,
            "value": DataClass.CONTENT,
            "happened": DataClass.PLAIN,
        }
        self.table = AnalyticsTable(
            name=table,
            tenant_column="tenant_id",
            columns=classes,
            partition=Partition(column="happened", by=PartitionBy.DAY),
        )
        self.map = AnalyticsMap(name=NAME, journal=StoreName("postgres"), tables={table: self.table})

    def carrier(self, side: Side) -> PostgresStore:
        store = PostgresStore(
            name=StoreName("postgres"),
            cell=CellName(side.value),
            dsn=Secret(self.homes[side]),
            tables=[ITEMS],
        )
        self._postgres.append(store)
        return store

    def beside(self, carrier: PostgresStore, engine: Engine | None = None) -> AnalyticsStore:
        store = AnalyticsStore(
            name=NAME,
            cell=carrier.cell,
            where=self.map,
            engine=engine or self.warehouses[Side(carrier.cell)].engine(),
            anchor=PostgresTenantFence(carrier),
        )
        self._stores.append(store)
        return store

    def store(self, side: Side) -> AnalyticsStore:
        return self.beside(self.carrier(side))

    def copy(self, tenant: TenantId, source: Side, target: Side) -> AnalyticsCopy:
        ours, theirs = self.carrier(source), self.carrier(target)
        copy = AnalyticsCopy(
            link=f"link-{tenant}",
            tenant=tenant,
            source=self.beside(ours),
            target=self.beside(theirs),
            source_journal=PostgresJournal(ours),
            target_journal=PostgresJournal(theirs),
        )
        self._copies.append(copy)
        return copy

    def key(self, item: str) -> str:
        return f"{self.table.name}/{day(item).isoformat()}"

    @contextlib.contextmanager
    def app(self, side: Side, tenant: TenantId, item: str) -> Iterator[None]:
        """The app's transaction, in which it is about to change that item."""
        with psycopg.connect(self.homes[side], autocommit=True) as connection:
            connection.execute("set role contract_app")
            try:
                with translating(tenant), connection.transaction():
                    touch(connection, tenant, NAME, self.key(item))
                    yield
            except Fenced as error:
                raise AppRefused from error

    def write(self, side: Side, tenant: TenantId, item: str, value: str) -> None:
        with self.app(side, tenant, item):
            self.plant(side, tenant, item, value)

    def delete(self, side: Side, tenant: TenantId, item: str) -> None:
        with self.app(side, tenant, item):
            self.plant(side, tenant, item, None)

    def plant(self, side: Side, tenant: TenantId, item: str, value: str | None) -> None:
        table = self.table.name
        delete = f"delete from {table} where tenant_id = '{tenant}' and item = '{item}'"
        insert = f"insert into {table} values ('{tenant}', '{item}', '{value}', '{day(item)} 12:34:56.789')"
        if value is None:
            self.warehouses[side].run(delete)
        elif self.kind == "analytics-clickhouse":
            # The newer row counts: a ReplacingMergeTree keeps one of each key.
            self.warehouses[side].run(insert)
        else:
            self.warehouses[side].run(delete, insert)

    def read(self, side: Side, tenant: TenantId) -> Mapping[str, str]:
        final = " final" if self.kind == "analytics-clickhouse" else ""
        rows = self.warehouses[side].rows(
            f"select item, value from {self.table.name}{final} where tenant_id = '{tenant}'"
        )
        assert len({item for item, _ in rows}) == len(rows)
        return {str(item): str(value) for item, value in rows}

    def stray(self, side: Side, text: str) -> Stray:
        name = QualifiedName(schema=self.table.name.schema, name="notes")
        kind = "String" if self.kind == "analytics-clickhouse" else "text"
        end = " engine = MergeTree order by tuple()" if self.kind == "analytics-clickhouse" else ""
        self.warehouses[side].run(
            f"create table if not exists {name} (id {kind}, words {kind}){end}",
            f"insert into {name} values ('{secrets.token_hex(4)}', '{text}')",
        )
        return Stray(
            place=Place(kind=PlaceKind.COLUMN, name=f"{name}.words"),
            coverage=Coverage.UNDOCUMENTED,
            surveyed=Place(kind=PlaceKind.TABLE, name=str(name)),
        )

    def difference_key(self, tenant: TenantId, item: str) -> tuple[str, str]:
        return str(self.table.name), json.dumps(self.key(item))

    def leftovers(self, side: Side) -> Sequence[str]:
        with psycopg.connect(self.homes[side], autocommit=True) as connection:
            rows = [str(r[0]) for query in (LEFTOVERS, ROWS) for r in connection.execute(query.encode())]
        tables = {
            "analytics-duckdb": "select table_name from duckdb_tables() where database_name = 'file'",
            "analytics-clickhouse": f"select name from system.tables where database = '{self.table.name.schema}'",
            "analytics-sql": "select tablename from pg_tables where schemaname = 'public'",
        }
        found = [str(name) for (name,) in self.warehouses[side].rows(tables[self.kind])]
        return [*rows, *(name for name in found if name != "items")]

    def unreachable(self) -> Store:
        return self.beside(self.carrier(Side.BLUE), self.warehouses[Side.BLUE].unreachable())

    def wrong_password(self) -> Store:
        return self.beside(self.carrier(Side.BLUE), self.warehouses[Side.BLUE].wrong_password())

    def close(self) -> None:
        copies = list(self._copies)
        while copies:
            copy = copies.pop()
            copies += copy.armed_reverse()
            copy.detach()
        for store in self._stores:
            store.close()
        for postgres in self._postgres:
            postgres.close()
        for warehouse in self.warehouses.values():
            warehouse.close()
