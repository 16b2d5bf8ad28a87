"""Whatever a schema holds moves, goes back and compares equal, or is refused by name; also to a newer schema."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql

from tenure.model.finding import Severity
from tenure.model.names import TenantId
from tenure.stores.postgres import PostgresLiveCopy, PostgresStore, TenantTable
from tests.integration.postgres import peculiar
from tests.integration.postgres.cells import ACME, NEIGHBOUR, TABLES, Cells, fence, make_cells, make_store


@pytest.fixture(params=["shared tables", "tables of the tenant's own"])
def odd_cells(request: pytest.FixtureRequest, fresh_database: Callable[..., str]) -> Iterator[Cells]:
    """Every peculiarity, in blue (16) with rows of two tenants, or of the only one, in green (18) without."""
    shared = request.param == "shared tables"
    made = make_cells(
        fresh_database("pg16"),
        fresh_database("pg18a"),
        schema=peculiar.SCHEMA,
        rows=peculiar.PLANS + peculiar.rows(ACME, 0) + (peculiar.rows(NEIGHBOUR, 1) if shared else ""),
        tables=peculiar.TABLES if shared else [replace(t, tenant_column=None) for t in peculiar.TABLES],
    )
    yield made
    made.close()


def refusals(copy: PostgresLiveCopy) -> set[tuple[str, str]]:
    return {(f.code, f.where) for f in copy.preflight() if f.severity is Severity.REFUSAL}


def obey(cells: Cells, copy: PostgresLiveCopy) -> None:
    """Run the commands of everything that refuses."""
    for finding in copy.preflight():
        if finding.severity is Severity.REFUSAL:
            assert finding.command, finding
            store = cells.blue if finding.where.startswith("postgres in blue") else cells.green
            cells.run(store, *finding.command.splitlines())


def write(cells: Cells, store: PostgresStore, n: int) -> None:
    """Everything the app does, in one transaction, and once more statement by statement."""
    app = cells.connect(store)
    with app.transaction():
        for statement in peculiar.writes(n):
            app.execute(statement.encode())
    for statement in peculiar.writes(n + 1):
        app.execute(statement.encode())


def switch(copy: PostgresLiveCopy, token: int) -> PostgresLiveCopy:
    """Fence, seal, compare, open the other side; the copy back."""
    back = copy.arm_reverse(fence(token))
    assert copy.compare().equal
    write_lock = fence(token)
    copy.source.fence(write_lock, expires_in_s=None, drain_s=10)
    copy.seal(copy.mark(), timeout_s=30)
    assert copy.compare_changed().equal
    copy.target.open(write_lock)
    return back


def lose_a_row(table: TenantTable) -> str:
    mine: sql.Composable = sql.SQL("true")
    if table.tenant_column is not None:
        mine = sql.SQL("{} = 'acme'").format(sql.Identifier(table.tenant_column))
    return (
        sql.SQL(
            "delete from {table} where (tableoid, ctid) ="
            " (select tableoid, ctid from {table} where {mine} limit 1)"
        )
        .format(mine=mine, table=table.sql)
        .as_string()
    )


def digests(store: PostgresStore, tenant: TenantId) -> dict[str, str]:
    return {name: c.digest for name, c in store.inventory(tenant).collections.items()}


def test_a_schema_of_every_peculiarity_moves_and_goes_back(odd_cells: Cells) -> None:
    cells = odd_cells
    shared = all(t.tenant_column is not None for t in cells.blue.tables)
    neighbour = digests(cells.blue, NEIGHBOUR) if shared else {}
    # What is not fit to be moved is named, with the command that mends it.
    parts = {f"postgres in {cell}, app.parted" for cell in ("blue", "green")}
    assert refusals(cells.copy()) == {
        *(("replica_identity", where) for where in parts if shared),
        ("reference_missing", "postgres in green, app.plans"),
    }
    obey(cells, cells.copy())
    assert not refusals(cells.copy())
    copy = cells.link()
    write(cells, cells.blue, 1)
    copy.seal(copy.mark(), timeout_s=30)
    # Whatever a table is made of, a row that is missing is named and brought back.
    cells.past_the_fence(
        cells.green, "set session_replication_role = replica", *map(lose_a_row, cells.green.tables)
    )
    differences = copy.compare().differences
    assert {d.collection for d in differences} == {t.collection for t in cells.green.tables}
    assert copy.repair(differences, fence()) == len(differences)
    back = switch(copy, 1)
    assert digests(cells.blue, ACME) == digests(cells.green, ACME)
    write(cells, cells.green, 31)
    assert not refusals(back)
    again = switch(back, 2)
    assert digests(cells.blue, ACME) == digests(cells.green, ACME)
    write(cells, cells.blue, 61)
    switch(again, 3)
    assert digests(cells.blue, ACME) == digests(cells.green, ACME)
    # Numbers of shared sequences are not drawn again, triggers did not fire for what arrived.
    write(cells, cells.green, 91)
    changed = "select sum(changed) from app.audited where tenant_id = 'acme' and id >= 5"
    assert cells.rows(cells.green, changed) == [(16,)]
    if not shared:
        return
    assert digests(cells.blue, NEIGHBOUR) == neighbour
    assert digests(cells.green, NEIGHBOUR) == {
        name: digests(cells.green, TenantId("nobody"))[name] for name in neighbour
    }


def test_what_cannot_be_moved_is_refused_by_name(cells: Cells) -> None:
    for store in (cells.blue, cells.green):
        cells.run(
            store,
            "alter table public.parts drop constraint parts_pkey",
            "alter table public.parts replica identity full",
            "alter table public.visits replica identity nothing",
            "alter table public.visits_2025 replica identity nothing",
        )
    cells.run(
        cells.green,
        "alter table public.kinds replica identity full",
        "alter table public.kinds add extra int",
    )
    cells.run(cells.green, "create unique index other on public.documents (tenant_id, id, created_at)")
    cells.run(cells.green, "alter table public.documents replica identity using index other")
    assert refusals(cells.copy()) == {
        *(("no_primary_key", f"postgres in {cell}, public.parts") for cell in ("blue", "green")),
        *(("replica_identity", f"postgres in {cell}, public.visits") for cell in ("blue", "green")),
        *(
            ("replica_identity_differs", f"postgres in {cell}, public.{table}")
            for cell in ("blue", "green")
            for table in ("visits_2025", "visits_2026")
        ),
        ("replica_identity_differs", "postgres in green, public.documents"),
        ("schema_differs", "postgres in green, public.kinds"),
    }


NEWER = (
    "alter table public.documents add column stars int not null default 5",
    "alter table public.documents add column note text",
    "alter table public.documents add column serial_ bigint generated always as identity",
    "alter table public.visits add column doubled int generated always as (n * 2)",
    "alter table public.visits add column note text",
    "create table public.badges (tenant_id text, id int, primary key (tenant_id, id))",
    "create table public.medals (tenant_id text, id int, primary key (tenant_id, id))",
)


def extras(cells: Cells, id_: int) -> tuple[object, ...]:
    found = cells.rows(
        cells.green,
        f"select title, stars, note, serial_ is null from public.documents where tenant_id = 'acme' and id = {id_}",
    )
    return found[0]


def test_a_target_with_a_newer_schema_takes_a_tenant_and_gives_it_back(cells: Cells) -> None:
    cells.run(cells.green, *NEWER)
    # One of the new tables is in the catalogue already, as one of green's, the other is not.
    medals = TenantTable(schema="public", name="medals", tenant_column="tenant_id")
    cells.green = make_store("green", cells.green_dsn, [*TABLES, medals])
    found = cells.copy().preflight()
    assert not refusals(cells.copy())
    warned = {(f.code, f.where) for f in found if f.severity is Severity.WARNING}
    assert warned == {
        ("newer_column", "postgres in blue, public.documents"),
        ("newer_column", "postgres in blue, public.visits"),
        ("newer_table", "postgres in green, public.badges"),
        ("newer_table", "postgres in green, public.medals"),
    }
    assert refusals(cells.copy(cells.green, cells.blue)) >= {
        ("older_target", "postgres in green, public.medals")
    }
    copy = cells.link()
    cells.run(cells.blue, "update public.documents set title = 'in blue' where tenant_id = 'acme' and id < 9")
    back = switch(copy, 1)
    assert extras(cells, 1) == ("in blue", 5, None, False)
    cells.run(
        cells.green,
        "update public.documents set stars = 1, note = 'only here' where tenant_id = 'acme' and id < 20",
        "update public.documents set title = 'in green' where tenant_id = 'acme' and id = 2",
        "insert into public.documents (tenant_id, id, title) values ('acme', 9000, 'new')",
        "delete from public.documents where tenant_id = 'acme' and id = 3",
        "update public.visits set note = 'x', n = n + 1000 where tenant_id = 'acme' and n % 2 = 0",
        "insert into public.badges values ('acme', 1)",
        "insert into public.medals values ('acme', 1), ('acme', 2)",
    )
    assert not refusals(back)
    stay = sorted(f.message for f in back.preflight() if f.code == "newer_table")
    assert "2 rows of acme stay in green" in stay[0]
    assert "1 rows of acme: they stay here" in stay[1]
    cells.green.fence(fence(1), expires_in_s=None, drain_s=5)
    with pytest.raises(psycopg.DatabaseError, match="fenced"):
        cells.run(cells.green, "insert into public.medals values ('acme', 3)")
    cells.green.open(fence(1))
    again = switch(back, 2)
    assert cells.rows(
        cells.blue, "select title from public.documents where tenant_id = 'acme' and id in (2, 9000)"
    ) == [
        ("in green",),
        ("new",),
    ]
    # What only the newer side knows survives changes that arrive, and repairs.
    cells.run(cells.blue, "update public.documents set title = 'again' where tenant_id = 'acme' and id = 1")
    again.seal(again.mark(), timeout_s=20)
    assert extras(cells, 1) == ("again", 1, "only here", False)
    cells.past_the_fence(
        cells.green,
        "update public.documents set title = 'wrong' where tenant_id = 'acme' and id = 4",
        "delete from public.documents where tenant_id = 'acme' and id = 5",
    )
    differences = again.compare().differences
    assert {d.key for d in differences} == {'["acme", "4"]', '["acme", "5"]'}
    assert again.repair(differences, fence(2)) == len(differences)
    assert again.compare().equal
    assert extras(cells, 4) == ("in blue", 1, "only here", False)
    assert extras(cells, 5) == ("in blue", 5, None, False)
    # A column that both sides have by now is not in the link's list: a switch over it would lose its values.
    cells.run(cells.blue, "alter table public.documents add column note text")
    assert ("column_not_replicated", "postgres in blue, public.documents, note") in refusals(back)


def test_a_foreign_key_that_leads_nowhere_on_the_target_refuses_the_switch(cells: Cells) -> None:
    copy = cells.link()
    assert not refusals(copy)
    cells.past_the_fence(
        cells.green,
        "set session_replication_role = replica",
        "delete from public.documents where tenant_id = 'acme' and id = 7",
    )
    found = [f for f in copy.preflight() if f.severity is Severity.REFUSAL]
    assert [(f.code, f.where) for f in found] == [("dangling_reference", "postgres in green, public.parts")]
    assert "1 rows of acme refer (parts_tenant_id_document_id_fkey)" in found[0].message
