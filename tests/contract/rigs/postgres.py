"""PostgreSQL 16 and 18, or pgvector in them; the app writes as a role without special rights.

Tenants share the tables with their vectors (`pgvector`), have some of their items in a shared table and the others in a
schema of their own (`postgres-mixed`), or have a database each (`postgres-database`).
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tenure.model.comparison import Comparison, Difference
from tenure.model.finding import Finding
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import Coverage, Place, PlaceKind
from tenure.model.secret import Secret
from tenure.stores.contract import CopyProgress, Fence, LiveCopy, Mark, Standing, Store, Take
from tenure.stores.postgres import (
    PgVectorLiveCopy,
    PgVectorStore,
    PostgresLiveCopy,
    PostgresStore,
    TenantTable,
)
from tests.contract.rigs.protocol import AppRefused, Rig, Side, Stray

KINDS = ("pgvector", "postgres-mixed", "postgres-database")
VARIANTS = ("pgvector", "postgres-database")
SERVERS = {Side.BLUE: "pg16", Side.GREEN: "pg18a"}
TENANTS = tuple(map(TenantId, ("acme", "acme1", "Acme")))

ROLE = """
do $$ begin create role contract_app; exception when duplicate_object or unique_violation then null; end $$
"""
SHARED = """
create table public.items (
    tenant_id text not null, item text not null, value text, primary key (tenant_id, item));
grant select, insert, update, delete on public.items to contract_app;
"""
RIDING = """
create extension vector;
create table public.vectors (
    tenant_id text not null, item text not null, value text, embedding vector(3), primary key (tenant_id, item));
grant select, insert, update, delete on public.vectors to contract_app;
"""
OWN = """
create schema if not exists {schema};
create table {schema}.items (item text primary key, value text);
grant usage on schema {schema} to contract_app;
grant select, insert, update, delete on {schema}.items to contract_app;
"""
ITEMS = TenantTable(schema="public", name="items", tenant_column="tenant_id")
VECTORS = TenantTable(schema="public", name="vectors", tenant_column="tenant_id")
OWN_ITEMS = TenantTable(schema="t_{tenant}", name="items")
DATABASE_ITEMS = TenantTable(schema="public", name="items")
COLUMNS = frozenset({"tenant_id", "item", "value"})
CATALOGUED = {
    ITEMS: COLUMNS,
    VECTORS: COLUMNS | {"embedding"},
    OWN_ITEMS: COLUMNS - {"tenant_id"},
    DATABASE_ITEMS: COLUMNS - {"tenant_id"},
}

LEFTOVERS = """
select 'publication ' || pubname from pg_publication
union all select 'subscription ' || subname from pg_subscription
    where subdbid = (select oid from pg_database where datname = current_database())
union all select 'slot ' || slot_name from pg_replication_slots where database = current_database()
union all select 'origin ' || roname from pg_replication_origin where roname like 'tenure%%'
union all select 'trigger ' || tgname from pg_trigger where not tgisinternal
union all select 'function ' || proname from pg_proc where proname like 'tenure%%'
union all select 'gate ' || relname from pg_class where relname like 'gate%%' and relkind = 'S'
"""
ROWS = """
select 'fence ' || tenant_id from tenure.fence union all select 'mark ' || link from tenure.mark
union all select 'touched ' || relation from tenure.touched
union all select 'touched log ' || relation from tenure.touched_log
union all select 'touched in bulk ' || relation from tenure.touched_in_bulk
union all select 'journal ' || key from tenure.journal
union all select 'copier ' || store from tenure.copier
union all select 'reader ' || store from tenure.journal_reader
"""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the items of a kind of rig are: an item is in one of `homes`; `database` is the template of a tenant's."""

    tables: Sequence[TenantTable]
    carried: Sequence[TenantTable] = ()
    homes: Sequence[TenantTable]
    database: str | None = None

    def table(self, tenant: TenantId, item: str) -> TenantTable:
        return self.homes[sum(item.encode()) % len(self.homes)].of(tenant)


def make(kind: str, request: pytest.FixtureRequest) -> Rig:
    fresh: Callable[..., str] = request.getfixturevalue("fresh_database")
    if kind == "postgres-database":
        name, neighbours = request.getfixturevalue("neighbours_of_contract")
        for dsn in neighbours.values():
            _run(dsn, "delete from public.items")
        databases = dict(neighbours)
        for side, server in SERVERS.items():
            databases[side, TENANTS[0]] = fresh(server, f"{name}_{TENANTS[0]}")
            _run(databases[side, TENANTS[0]], ROLE, _own("public"))
        layout = Layout(tables=[DATABASE_ITEMS], homes=[DATABASE_ITEMS], database=f"{name}_{{tenant}}")
        return PostgresRig(kind, layout, databases)
    shared = {side: fresh(server) for side, server in SERVERS.items()}
    for dsn in shared.values():
        _run(dsn, ROLE, SHARED)
        if kind == "postgres-mixed":
            _run(dsn, *(_own(f"t_{tenant}") for tenant in TENANTS))
        else:
            _run(dsn, RIDING)
    databases = {(side, tenant): dsn for side, dsn in shared.items() for tenant in TENANTS}
    if kind == "postgres-mixed":
        layout = Layout(tables=[ITEMS, OWN_ITEMS], homes=[ITEMS, OWN_ITEMS])
    else:
        layout = Layout(tables=[ITEMS], carried=[VECTORS], homes=[VECTORS])
    return PostgresRig(kind, layout, databases)


def neighbour_databases(make: Callable[..., str]) -> tuple[str, dict[tuple[Side, TenantId], str]]:
    """How tenants' databases begin, and those of the neighbours. They serve every test, since none may change them."""
    name = f"c{secrets.token_hex(4)}"
    made = {
        (side, tenant): make(server, f"{name}_{tenant}")
        for side, server in SERVERS.items()
        for tenant in TENANTS[1:]
    }
    for dsn in made.values():
        _run(dsn, ROLE, _own("public"))
    return name, made


def _own(schema: str) -> sql.Composed:
    return sql.SQL(OWN).format(schema=sql.Identifier(schema))


def _run(dsn: str, *statements: str | sql.Composed) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode() if isinstance(statement, str) else statement)


class PostgresRig:
    def __init__(self, kind: str, layout: Layout, databases: Mapping[tuple[Side, TenantId], str]) -> None:
        self.kind = kind
        self._layout = layout
        self._databases = databases
        self._stores: list[PostgresStore] = []
        self._admins = {
            dsn: psycopg.connect(dsn, autocommit=True) for dsn in dict.fromkeys(databases.values())
        }

    def _admin(self, side: Side, tenant: TenantId) -> psycopg.Connection:
        return self._admins[self._databases[side, tenant]]

    def carrier(self, side: Side, dsn: str | None = None) -> PostgresStore:
        home = self._databases[side, TENANTS[0]]
        if self._layout.database is not None:
            home = psycopg.conninfo.make_conninfo(home, dbname="postgres")
        store = PostgresStore(
            name=StoreName("postgres"),
            cell=CellName(side.value),
            dsn=Secret(dsn or home),
            tables=self._layout.tables,
            carried=self._layout.carried,
            database=self._layout.database,
            columns=CATALOGUED,
            riders={table: StoreName("vectors") for table in self._layout.carried},
        )
        self._stores.append(store)
        return store

    def _rider(self, carrier: PostgresStore) -> PgVectorStore:
        return PgVectorStore(name=StoreName("vectors"), cell=carrier.cell, carrier=carrier, tables=[VECTORS])

    def store(self, side: Side, dsn: str | None = None) -> Store:
        carrier = self.carrier(side, dsn)
        return self._rider(carrier) if self.kind == "pgvector" else carrier

    def copy(self, tenant: TenantId, source: Side, target: Side) -> LiveCopy:
        carrier = PostgresLiveCopy(
            link=f"link-{tenant}", source=self.carrier(source), target=self.carrier(target), tenant=tenant
        )
        if self.kind != "pgvector":
            return carrier
        return Riding(
            carrier,
            PgVectorLiveCopy(
                link=carrier.link,
                source=self._rider(carrier.source),
                target=self._rider(carrier.target),
                tenant=tenant,
            ),
        )

    @contextlib.contextmanager
    def _app(self, side: Side, tenant: TenantId) -> Iterator[psycopg.Connection]:
        with psycopg.connect(self._databases[side, tenant], autocommit=True) as connection:
            connection.execute("set role contract_app")
            try:
                with connection.transaction():
                    yield connection
            except psycopg.DatabaseError as error:
                if error.sqlstate == "TN001":
                    raise AppRefused from error
                raise

    def write(self, side: Side, tenant: TenantId, item: str, value: str) -> None:
        with self._app(side, tenant) as connection:
            self._put(connection, tenant, item, value)

    def _put(self, connection: psycopg.Connection, tenant: TenantId, item: str, value: str) -> None:
        table = self._layout.table(tenant, item)
        key = {"item": item} if table.tenant_column is None else {"tenant_id": tenant, "item": item}
        columns = sql.SQL(", ").join(map(sql.Identifier, key))
        connection.execute(
            sql.SQL(
                "insert into {} ({columns}, value) values ({})"
                " on conflict ({columns}) do update set value = excluded.value"
            ).format(
                table.sql,
                sql.SQL(", ").join(map(sql.Literal, [*key.values(), value])),
                columns=columns,
            )
        )
        if table == VECTORS:
            connection.execute(
                "update public.vectors set embedding = %s::vector where tenant_id = %s and item = %s",
                (json.dumps([len(value), 0.1, -0.5]), tenant, item),
            )

    def delete(self, side: Side, tenant: TenantId, item: str) -> None:
        with self._app(side, tenant) as connection:
            self._remove(connection, tenant, item)

    def _remove(self, connection: psycopg.Connection, tenant: TenantId, item: str) -> None:
        table = self._layout.table(tenant, item)
        connection.execute(
            sql.SQL("delete from {} where {} and item = {}").format(
                table.sql, _rows_of(table, tenant), sql.Literal(item)
            )
        )

    def read(self, side: Side, tenant: TenantId) -> Mapping[str, str]:
        found: dict[str, str] = {}
        for table in self._layout.homes:
            here = table.of(tenant)
            found |= self._admin(side, tenant).execute(
                sql.SQL("select item, value from {} where {}").format(here.sql, _rows_of(here, tenant))
            )
        return found

    def plant(self, side: Side, tenant: TenantId, item: str, value: str | None) -> None:
        with psycopg.connect(self._databases[side, tenant], autocommit=True) as connection:
            origin = {"o": f"planting_{connection.info.backend_pid}"}
            connection.execute("select pg_replication_origin_create(%(o)s)", origin)
            connection.execute("select pg_replication_origin_session_setup(%(o)s)", origin)
            if value is None:
                self._remove(connection, tenant, item)
            else:
                self._put(connection, tenant, item, value)
            connection.execute("select pg_replication_origin_session_reset()")
            connection.execute("select pg_replication_origin_drop(%(o)s)", origin)

    def stray(self, side: Side, text: str) -> Stray:
        """In a table; where the store has tables with vectors only, in a new column of a neighbour's rows."""
        admin = self._admin(side, TENANTS[0])
        if self.kind != "pgvector":
            admin.execute("create table if not exists public.notes (id bigint, tenant text, words text)")
            admin.execute("insert into public.notes (id, words) values (1, %s)", (text,))
            return Stray(
                place=Place(kind=PlaceKind.COLUMN, name="public.notes.words"),
                coverage=Coverage.UNDOCUMENTED,
                surveyed=Place(kind=PlaceKind.TABLE, name="public.notes"),
            )
        admin.execute("alter table public.vectors add column if not exists words text")
        item = f"stray {secrets.token_hex(4)}"
        admin.execute(
            "insert into public.vectors (tenant_id, item, words) values (%s, %s, %s)",
            (TENANTS[1], item, text),
        )
        place = Place(kind=PlaceKind.COLUMN, name="public.vectors.words")
        return Stray(place=place, coverage=Coverage.NEIGHBOUR, surveyed=place)

    def difference_key(self, tenant: TenantId, item: str) -> tuple[str, str]:
        table = self._layout.table(tenant, item)
        key = [item] if table.tenant_column is None else [tenant, item]
        return table.collection, json.dumps(key)

    def leftovers(self, side: Side) -> Sequence[str]:
        found: list[str] = []
        for dsn in {dsn for (where, _), dsn in self._databases.items() if where is side}:
            connection = self._admins[dsn]
            found += [str(r[0]) for r in connection.execute(LEFTOVERS)]
            installed: Any = connection.execute("select to_regclass('tenure.fence') is not null").fetchone()
            if installed[0]:
                found += [str(r[0]) for r in connection.execute(ROWS)]
        return found

    def unreachable(self) -> Store:
        return self.store(Side.BLUE, "host=127.0.0.1 port=1 user=nobody dbname=none")

    def wrong_password(self) -> Store:
        there = self._databases[Side.BLUE, TENANTS[0]]
        return self.store(Side.BLUE, psycopg.conninfo.make_conninfo(there, password="wrong-password"))

    def close(self) -> None:
        for store in self._stores:
            store.close()
        for admin in self._admins.values():
            admin.close()


def _rows_of(table: TenantTable, tenant: TenantId) -> sql.Composed:
    return sql.SQL("({} is null or {} = {})").format(
        sql.Literal(table.tenant_column),
        sql.Identifier(table.tenant_column or "item"),
        sql.Literal(tenant),
    )


class Riding:
    """The two copies of a link as one: the carrier brings everything, the rider compares and mends its own tables."""

    def __init__(self, carrier: PostgresLiveCopy, rider: PgVectorLiveCopy) -> None:
        self._carrier = carrier
        self._rider = rider

    @property
    def source(self) -> Store:
        return self._rider.source

    @property
    def target(self) -> Store:
        return self._rider.target

    def preflight(self) -> Sequence[Finding]:
        return [*self._carrier.preflight(), *self._rider.preflight()]

    def takes(self) -> Sequence[Take]:
        return [*self._carrier.takes(), *self._rider.takes()]

    def fingerprint(self) -> Mapping[str, str]:
        return self._rider.fingerprint()

    def start(self, fence: Fence) -> None:
        self._carrier.start(fence)
        self._rider.start(fence)

    def progress(self) -> CopyProgress:
        assert self._rider.progress().following
        return self._carrier.progress()

    def hurry(self, workers: int) -> int:
        return max(self._carrier.hurry(workers), self._rider.hurry(workers))

    def standing(self) -> Standing:
        assert self._rider.standing() == Standing()
        return self._carrier.standing()

    def arm_reverse(self, fence: Fence) -> LiveCopy:
        return Riding(self._carrier.arm_reverse(fence), self._rider.arm_reverse(fence))

    def mark(self) -> Mark:
        self._rider.mark()
        return self._carrier.mark()

    def seal(self, mark: Mark, *, timeout_s: float) -> None:
        self._carrier.seal(mark, timeout_s=timeout_s)
        self._rider.seal(mark, timeout_s=timeout_s)

    def compare(self, *, progress: Callable[[int], None] = lambda items: None) -> Comparison:
        return self._rider.compare(progress=progress)

    def compare_changed(self) -> Comparison:
        return self._rider.compare_changed()

    def repair(self, differences: Sequence[Difference], fence: Fence) -> int:
        return self._rider.repair(differences, fence)

    def resync(self, fence: Fence, *, workers: int) -> None:
        self._rider.resync(fence, workers=workers)

    def detach(self) -> None:
        self._carrier.detach()
        self._rider.detach()

    def stop(self, fence: Fence) -> None:
        self._rider.stop(fence)
        self._carrier.stop(fence)
