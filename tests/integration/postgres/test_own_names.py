"""Schemas and databases of the tenants' own: what preflight says of them, and what two stores of one server share."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial

import psycopg

from tenure.model.finding import Severity
from tenure.model.names import CellName, StoreName
from tenure.model.secret import Secret
from tenure.stores.postgres import PostgresLiveCopy, PostgresStore, TenantTable
from tests.integration.postgres.cells import ACME, eventually, fence

SHARED = TenantTable(schema="public", name="plans", tenant_column="tenant_id")
ORDERS = TenantTable(schema="t_{tenant}", name="orders")
UNKEYED = TenantTable(schema="t_{tenant}", name="unkeyed")
IGNORED = TenantTable(schema="t_{tenant}", name="migrations")
PLANS = "create table public.plans (tenant_id text, id int, primary key (tenant_id, id))"
SCHEMA = """
create schema {0};
create table {0}.orders (id int primary key, tenant_id text, note text);
create table {0}.unkeyed (id int primary key);
create table {0}.migrations (id int);
"""
STRANGERS = """
create table t_acme.forgotten (id int primary key);
create sequence t_acme.numbers;
create table t_acme.parted (id int) partition by range (id);
create table t_acme.parted_1 partition of t_acme.parted for values from (0) to (9);
create sequence t_acme.used;
alter table t_acme.orders alter column id set default nextval('t_acme.used');
alter table t_acme.unkeyed replica identity nothing;
"""


def _run(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def _store(cell: str, dsn: str, *tables: TenantTable, database: str | None = None) -> PostgresStore:
    return PostgresStore(
        name=StoreName("own" if database else "postgres"),
        cell=CellName(cell),
        dsn=Secret(dsn),
        tables=tables,
        ignore=[] if database else [IGNORED],
        database=database,
    )


def _follows(copy: PostgresLiveCopy) -> bool:
    return copy.progress().following


def _seen(copy: PostgresLiveCopy) -> set[tuple[str, str, str]]:
    return {(f.severity.value, f.code, f.where) for f in copy.preflight() if f.severity is not Severity.INFO}


def test_preflight_knows_what_is_in_a_tenants_schema_and_keeps_out_of_the_neighbours(
    fresh_database: Callable[..., str],
) -> None:
    blue_dsn, green_dsn = fresh_database("pg16"), fresh_database("pg18a")
    # A neighbour's tables are not known by name, have a column like the tenant column, and refer to shared rows.
    neighbour = (
        SCHEMA.format("t_acme2")
        + "alter table t_acme2.orders add foreign key (tenant_id, id) references plans"
    )
    _run(blue_dsn, PLANS, SCHEMA.format("t_acme"), STRANGERS, neighbour)
    _run(green_dsn, PLANS, neighbour)
    blue, green = (
        _store(c, d, SHARED, ORDERS, UNKEYED) for c, d in (("blue", blue_dsn), ("green", green_dsn))
    )
    copy = PostgresLiveCopy(link="test", source=blue, target=green, tenant=ACME)
    assert _seen(copy) == {
        ("refusal", "schema_missing", "postgres in green, t_acme"),
        ("refusal", "table_not_in_catalogue", "postgres in blue, t_acme.forgotten"),
        ("refusal", "table_not_in_catalogue", "postgres in blue, t_acme.parted"),
        ("refusal", "replica_identity", "postgres in blue, t_acme.unkeyed"),
        ("warning", "sequence_outside", "postgres in blue, t_acme.numbers"),
    }
    _run(blue_dsn, "drop table t_acme.forgotten, t_acme.parted", "drop sequence t_acme.numbers")
    commands = [f.command for f in copy.preflight() if f.code == "replica_identity"]
    assert commands == ['alter table "t_acme"."unkeyed" replica identity default;']
    _run(blue_dsn, *commands)
    _run(green_dsn, SCHEMA.format("t_acme"), "insert into t_acme.orders values (1)")
    # Of a newer app: it has nowhere to go, so it is no reason to refuse.
    _run(green_dsn, "create table t_acme.badges (id int primary key)")
    assert _seen(copy) == {
        ("refusal", "target_not_empty", "postgres in green, t_acme.orders"),
        ("warning", "newer_table", "postgres in green, t_acme.badges"),
    }
    blue.close()
    green.close()


def test_two_stores_of_one_server_are_linked_at_once(fresh_database: Callable[..., str]) -> None:
    """One shared store and one with a database per tenant: slots are the server's, so their names must differ. The
    tenant's own table has a column more in green."""
    name = f"own{secrets.token_hex(4)}"
    orders = TenantTable(schema="public", name="orders")
    stores: dict[str, list[PostgresStore]] = {}
    for cell, server in (("blue", "pg16"), ("green", "pg18a")):
        shared, own = fresh_database(server), fresh_database(server, f"{name}_{ACME}")
        _run(shared, PLANS)
        _run(own, "create table public.orders (id int primary key)")
        if cell == "blue":
            _run(shared, "insert into public.plans values ('acme', 1), ('globex', 1)")
            _run(own, "insert into public.orders values (1), (2)", "select lo_create(0)")
        else:
            _run(own, "alter table public.orders add column stars int not null default 5")
        stores[cell] = [
            _store(cell, shared, SHARED),
            _store(
                cell,
                psycopg.conninfo.make_conninfo(own, dbname="postgres"),
                orders,
                database=f"{name}_{{tenant}}",
            ),
        ]
    copies = [
        PostgresLiveCopy(link="test", source=source, target=target, tenant=ACME)
        for source, target in zip(stores["blue"], stores["green"], strict=True)
    ]
    blue, green = stores["blue"][1].home(ACME), stores["green"][1].home(ACME)
    assert _seen(copies[1]) == {
        ("refusal", "large_objects", blue.pool.where),
        ("warning", "newer_column", f"{blue.pool.where}, public.orders"),
    }
    for copy in copies:
        copy.target.fence(fence(), expires_in_s=None, drain_s=5)
        copy.start(fence())
    for copy in copies:
        eventually(partial(_follows, copy), "the copy follows")
        copy.arm_reverse(fence()).detach()
        assert copy.compare().processed == copy.compare().matching == copy.source.inventory(ACME).items
    assert green.pool.rows("select id, stars from public.orders order by id") == [(1, 5), (2, 5)]
    for copy in copies:
        PostgresLiveCopy(link="test", source=copy.target, target=copy.source, tenant=ACME).stop(fence())
        copy.stop(fence())
    for store in (*stores["blue"], *stores["green"]):
        assert not store.home(ACME).pool.rows(
            "select 1 from pg_replication_slots where database = current_database()"
        )
        store.close()
