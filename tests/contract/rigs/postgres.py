"""PostgreSQL 16 and 18, or pgvector in them; the app writes as a role without special rights."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tenure.model.comparison import Comparison, Difference
from tenure.model.finding import Finding
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.secret import Secret
from tenure.stores.contract import CopyProgress, Fence, LiveCopy, Mark, Store
from tenure.stores.postgres import (
    PgVectorLiveCopy,
    PgVectorStore,
    PostgresLiveCopy,
    PostgresStore,
    TenantTable,
)
from tests.contract.rigs.protocol import AppRefused, Rig, Side

KINDS = ("postgres", "pgvector")

SCHEMA = """
create extension vector;
create table public.items (
    tenant_id text not null, item text not null, value text, primary key (tenant_id, item));
create table public.vectors (
    tenant_id text not null, item text not null, value text, embedding vector(3), primary key (tenant_id, item));
grant select, insert, update, delete on public.items, public.vectors to contract_app;
"""
ITEMS = TenantTable(schema="public", name="items", tenant_column="tenant_id")
VECTORS = TenantTable(schema="public", name="vectors", tenant_column="tenant_id")

LEFTOVERS = """
select 'publication ' || pubname from pg_publication
union all select 'subscription ' || subname from pg_subscription
    where subdbid = (select oid from pg_database where datname = current_database())
union all select 'slot ' || slot_name from pg_replication_slots where database = current_database()
union all select 'origin ' || roname from pg_replication_origin where roname like 'tenure%%'
union all select 'trigger ' || tgname from pg_trigger where not tgisinternal
union all select 'function ' || proname from pg_proc where proname like 'tenure%%'
"""
ROWS = """
select 'fence ' || tenant_id from tenure.fence union all select 'mark ' || link from tenure.mark
union all select 'touched ' || relation from tenure.touched union all select 'journal ' || key from tenure.journal
"""


def make(kind: str, request: pytest.FixtureRequest) -> Rig:
    fresh: Callable[..., str] = request.getfixturevalue("fresh_database")
    return PostgresRig(kind, {Side.BLUE: fresh("pg16"), Side.GREEN: fresh("pg18a")})


class PostgresRig:
    def __init__(self, kind: str, dsns: Mapping[Side, str]) -> None:
        self.kind = kind
        self.dsns = dsns
        self.table = ITEMS if kind == "postgres" else VECTORS
        self._stores: list[PostgresStore] = []
        for dsn in dsns.values():
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(
                    "do $$ begin create role contract_app;"
                    " exception when duplicate_object or unique_violation then null; end $$"
                )
                connection.execute(SCHEMA)
        self._admins = {side: psycopg.connect(dsn, autocommit=True) for side, dsn in dsns.items()}

    def carrier(self, side: Side, dsn: str | None = None) -> PostgresStore:
        store = PostgresStore(
            name=StoreName("postgres"),
            cell=CellName(side.value),
            dsn=Secret(dsn or self.dsns[side]),
            tables=[ITEMS],
            carried=[VECTORS],
        )
        self._stores.append(store)
        return store

    def _rider(self, carrier: PostgresStore) -> PgVectorStore:
        return PgVectorStore(name=StoreName("vectors"), cell=carrier.cell, carrier=carrier, tables=[VECTORS])

    def store(self, side: Side, dsn: str | None = None) -> Store:
        carrier = self.carrier(side, dsn)
        return carrier if self.kind == "postgres" else self._rider(carrier)

    def copy(self, tenant: TenantId, source: Side, target: Side) -> LiveCopy:
        carrier = PostgresLiveCopy(
            link=f"link-{tenant}", source=self.carrier(source), target=self.carrier(target), tenant=tenant
        )
        if self.kind == "postgres":
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
    def _app(self, side: Side) -> Iterator[psycopg.Connection]:
        with psycopg.connect(self.dsns[side], autocommit=True) as connection:
            connection.execute("set role contract_app")
            try:
                with connection.transaction():
                    yield connection
            except psycopg.DatabaseError as error:
                if error.sqlstate == "TN001":
                    raise AppRefused from error
                raise

    def write(self, side: Side, tenant: TenantId, item: str, value: str) -> None:
        with self._app(side) as connection:
            self._put(connection, tenant, item, value)

    def _put(self, connection: psycopg.Connection, tenant: TenantId, item: str, value: str) -> None:
        connection.execute(
            sql.SQL(
                "insert into {} (tenant_id, item, value) values (%s, %s, %s)"
                " on conflict (tenant_id, item) do update set value = excluded.value"
            ).format(self.table.sql),
            (tenant, item, value),
        )
        if self.table is VECTORS:
            connection.execute(
                "update public.vectors set embedding = %s::vector where tenant_id = %s and item = %s",
                (json.dumps([len(value), 0.1, -0.5]), tenant, item),
            )

    def delete(self, side: Side, tenant: TenantId, item: str) -> None:
        with self._app(side) as connection:
            self._remove(connection, tenant, item)

    def _remove(self, connection: psycopg.Connection, tenant: TenantId, item: str) -> None:
        connection.execute(
            sql.SQL("delete from {} where tenant_id = %s and item = %s").format(self.table.sql),
            (tenant, item),
        )

    def read(self, side: Side, tenant: TenantId) -> Mapping[str, str]:
        rows = self._admins[side].execute(
            sql.SQL("select item, value from {} where tenant_id = %s").format(self.table.sql), (tenant,)
        )
        return {item: value for item, value in rows}  # noqa: C416

    def plant(self, side: Side, tenant: TenantId, item: str, value: str | None) -> None:
        with psycopg.connect(self.dsns[side], autocommit=True) as connection:
            origin = {"o": f"planting_{connection.info.backend_pid}"}
            connection.execute("select pg_replication_origin_create(%(o)s)", origin)
            connection.execute("select pg_replication_origin_session_setup(%(o)s)", origin)
            if value is None:
                self._remove(connection, tenant, item)
            else:
                self._put(connection, tenant, item, value)
            connection.execute("select pg_replication_origin_session_reset()")
            connection.execute("select pg_replication_origin_drop(%(o)s)", origin)

    def difference_key(self, tenant: TenantId, item: str) -> tuple[str, str]:
        return self.table.collection, json.dumps([tenant, item])

    def leftovers(self, side: Side) -> Sequence[str]:
        connection = self._admins[side]
        found = [str(r[0]) for r in connection.execute(LEFTOVERS)]
        installed: Any = connection.execute("select to_regclass('tenure.fence') is not null").fetchone()
        return [*found, *(str(r[0]) for r in connection.execute(ROWS))] if installed[0] else found

    def unreachable(self) -> Store:
        return self.store(Side.BLUE, "host=127.0.0.1 port=1 user=nobody dbname=none")

    def wrong_password(self) -> Store:
        return self.store(
            Side.BLUE, psycopg.conninfo.make_conninfo(self.dsns[Side.BLUE], password="wrong-password")
        )

    def close(self) -> None:
        for store in self._stores:
            store.close()
        for admin in self._admins.values():
            admin.close()


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

    def fingerprint(self) -> Mapping[str, str]:
        return self._rider.fingerprint()

    def start(self, fence: Fence) -> None:
        self._carrier.start(fence)
        self._rider.start(fence)

    def progress(self) -> CopyProgress:
        assert self._rider.progress().following
        return self._carrier.progress()

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
