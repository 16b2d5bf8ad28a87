"""A tenant's rows in a backup: whatever a schema holds comes back, also into a newer server, or is refused by name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import psycopg
import pytest

from tenure.backups.contract import Header, Part
from tenure.errors import StoreRefused, StoreUnavailable
from tenure.model.comparison import DifferenceKind
from tenure.model.finding import Severity
from tenure.model.names import StoreName, TenantId
from tenure.stores.backup import Selection
from tenure.stores.contract import Fence
from tenure.stores.postgres import PostgresStore, TenantTable, streams
from tenure.stores.postgres.tables import describe
from tests.contract.memory_backup import MemoryBackup, Writer
from tests.integration.postgres import peculiar
from tests.integration.postgres.cells import ACME, NEIGHBOUR, Cells, eventually, fence, make_cells, make_store
from tests.integration.postgres.test_any_schema import digests, lose_a_row

OTHER = TenantId("initech")


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


def taken(store: PostgresStore, tenant: TenantId = ACME, token: int = 1) -> MemoryBackup:
    backup, capture = MemoryBackup(tenant), store.capture(tenant)
    at = Fence(tenant=tenant, epoch=1, token=token)
    capture.start(at)
    store.fence(at, expires_in_s=None, drain_s=5)
    capture.pin(backup, at)
    store.open(at)
    backup.complete(store.name, capture.rest(backup))
    capture.close(at)
    return backup


def down(store: PostgresStore, token: int = 2) -> Fence:
    store.fence(fence(token), expires_in_s=None, drain_s=5)
    return fence(token)


def origins(cells: Cells, store: PostgresStore) -> list[str]:
    return [name for name in cells.leftovers(store) if name.startswith("origin")]


# -- everything there is -----------------------------------------------------------------------------------------------


def test_a_schema_of_every_peculiarity_comes_back_on_a_newer_server(odd_cells: Cells) -> None:
    cells = odd_cells
    shared = all(t.tenant_column is not None for t in cells.blue.tables)
    before = digests(cells.blue, ACME)
    backup = taken(cells.blue)
    assert {f.collection: f.digest for f in backup.collections()} == before
    restoring = cells.green.restoring(ACME, ACME)
    assert not [f for f in restoring.preflight(backup) if f.severity is Severity.REFUSAL]
    # A row of a table that all tenants share is not in the backup: what refers to it is refused, and nothing stays.
    at = down(cells.green)
    with pytest.raises(StoreRefused, match=r"20 rows of app.accounts.*\(plan\) = \(free\), \(gold\)"):
        restoring.load(backup, at)
    empty = digests(cells.green, TenantId("nobody") if shared else ACME)
    assert digests(cells.green, ACME) == empty
    assert not origins(cells, cells.green)
    cells.run(cells.green, peculiar.PLANS)
    restored = restoring.load(backup, at)
    assert restored.items == cells.blue.inventory(ACME).items
    assert digests(cells.green, ACME) == before
    assert not list(restoring.differences(backup))
    cells.green.open(at)
    # Numbers of sequences are not drawn again.
    highest = "select max(n) from app.drawn where tenant_id = 'acme'"
    (most,) = cells.rows(cells.blue, highest)[0]
    cells.run(cells.green, "insert into app.drawn (tenant_id) values ('acme')")
    assert cells.rows(cells.green, highest)[0][0] > most
    if shared:
        assert digests(cells.green, NEIGHBOUR) == empty


def test_a_lost_row_of_any_table_is_named_and_comes_back(odd_cells: Cells) -> None:
    cells = odd_cells
    shared = all(t.tenant_column is not None for t in cells.blue.tables)
    before, backup = digests(cells.blue, ACME), taken(cells.blue)
    neighbour = digests(cells.blue, NEIGHBOUR) if shared else {}
    cells.past_the_fence(
        cells.blue, "set session_replication_role = replica", *map(lose_a_row, cells.blue.tables)
    )
    restoring = cells.blue.restoring(ACME, ACME)
    found = list(restoring.differences(backup))
    assert {d.collection for d in found} == {t.collection for t in cells.blue.tables}
    assert {d.kind for d in found} == {DifferenceKind.MISSING}
    assert restoring.apply(backup, found, down(cells.blue)) == len(found) == len(cells.blue.tables)
    assert digests(cells.blue, ACME) == before
    assert not origins(cells, cells.blue)
    if shared:
        assert digests(cells.blue, NEIGHBOUR) == neighbour


def test_a_stream_says_what_it_takes_to_read_it(cells: Cells) -> None:
    backup = taken(cells.blue)
    streams = {s.collection: s for s in backup.streams()}
    about = streams["public.kinds"].header
    assert [c["name"] for c in about["columns"]][:3] == ["tenant_id", "a", "b"]
    assert {"name": "v", "type": "public.vector(3)"} in about["columns"]
    assert [c["name"] for c in about["generated"]] == ["total"]
    assert about["key"] == ["tenant_id", "id"]
    assert about["constraints"]["kinds_pkey"] == "PRIMARY KEY (tenant_id, id)"
    assert streams["public.documents"].header["sequences"] == {"id": 600}
    assert {s.part for s in streams.values()} == {Part.BASE}
    first = backup.bytes[StoreName("postgres"), "public.visits", Part.BASE, 0].splitlines()[0]
    assert first == b"acme\t2025-12-21\t1"
    assert streams["public.documents"].items == 300


def test_an_unchanged_tenant_gives_the_same_bytes(cells: Cells) -> None:
    once = taken(cells.blue)
    cells.run(cells.blue, "update public.documents set title = title where tenant_id = 'acme' and id < 50")
    assert taken(cells.blue, token=2).bytes == once.bytes


# -- what does not fit -------------------------------------------------------------------------------------------------


def test_rows_that_break_a_constraint_are_named_and_nothing_stays(cells: Cells) -> None:
    backup = taken(cells.blue)
    cells.run(cells.green, "alter table public.parts add constraint short check (id < 250)")
    with pytest.raises(StoreRefused, match=r'"short": tenant_id = acme, id = 250') as refused:
        cells.green.restoring(ACME, ACME).load(backup, down(cells.green))
    assert "body 250" not in str(refused.value), "no more of a row than its key is shown"
    assert cells.green.inventory(ACME).items == 0
    assert not origins(cells, cells.green)


def test_single_rows_that_break_a_constraint_are_named_and_nothing_changes(cells: Cells) -> None:
    backup = taken(cells.blue)
    cells.run(
        cells.blue,
        "delete from public.parts where tenant_id = 'acme' and id in (249, 250)",
        "alter table public.parts add constraint short check (id < 250) not valid",
    )
    before = digests(cells.blue, ACME)
    restoring = cells.blue.restoring(ACME, ACME)
    found = list(restoring.differences(backup))
    assert len(found) == 2
    with pytest.raises(StoreRefused, match=r"'acme', '250'"):
        restoring.apply(backup, found, down(cells.blue))
    assert digests(cells.blue, ACME) == before


def test_what_would_lead_nowhere_is_named_and_nothing_changes(cells: Cells) -> None:
    backup = taken(cells.blue)
    cells.run(
        cells.blue,
        "insert into public.documents (tenant_id, id, title) values ('acme', 9999, 'new')",
        "insert into public.parts values ('acme', 9999, 9999, 'part of what is new')",
        "delete from public.documents where tenant_id = 'acme' and id = 1",
    )
    restoring = cells.blue.restoring(ACME, ACME)
    found = list(restoring.differences(backup))
    before, at = digests(cells.blue, ACME), down(cells.blue)
    # The document goes, and the part would stay; or the part comes back without its document.
    documents = [d for d in found if d.collection == "public.documents"]
    parts = [d for d in found if d.collection == "public.parts" and d.kind is DifferenceKind.MISSING]
    for some in (documents, parts):
        with pytest.raises(StoreRefused, match=r"parts_tenant_id_document_id_fkey.*\(acme, (9999|1)\)"):
            restoring.apply(backup, some, at)
        assert digests(cells.blue, ACME) == before
    assert restoring.apply(backup, found, at) == len(found) == 4
    assert not list(restoring.differences(backup))


def test_another_schema_is_refused_by_name_and_a_new_column_keeps_what_it_has(cells: Cells) -> None:
    backup = taken(cells.blue)
    of_acme = "select id from public.documents where tenant_id = 'acme' order by id limit 2"
    (changed,), (gone,) = cells.rows(cells.blue, of_acme)
    cells.run(
        cells.blue,
        "alter table public.documents add colour text default 'red'",
        f"update public.documents set colour = 'blue', title = 'changed' where id = {changed}",
        f"delete from public.documents where id = {gone}",
    )
    restoring = cells.blue.restoring(ACME, ACME)
    assert [(f.severity, f.code) for f in restoring.preflight(backup)] == [(Severity.WARNING, "newer_column")]
    found = [d for d in restoring.differences(backup) if d.collection == "public.documents"]
    assert len(found) == 2
    restoring.apply(backup, list(restoring.differences(backup)), down(cells.blue))
    colours = (
        f"select colour, title <> 'changed' from public.documents where id in ({changed}, {gone}) order by id"
    )
    assert cells.rows(cells.blue, colours) == [("blue", True), ("red", True)]
    cells.run(cells.green, "alter table public.parts alter body type varchar(100), drop column document_id")
    said = [f for f in cells.green.restoring(ACME, ACME).preflight(backup) if f.code == "schema_differs"]
    assert sorted(f.message.partition(": ")[2] for f in said) == [
        "column body was text and is character varying(100)",
        "column document_id is gone",
    ]
    with pytest.raises(StoreRefused, match="document_id is gone"):
        cells.green.restoring(ACME, ACME).load(backup, down(cells.green))


def test_keys_that_others_have_are_refused_under_another_name(fresh_database: Callable[..., str]) -> None:
    by_id = TenantTable(schema="app", name="by_id", tenant_column="tenant_id")
    store = make_store("blue", fresh_database("pg18a"), [by_id])
    try:
        with psycopg.connect(store.pool._dsn.reveal(), autocommit=True) as app:
            app.execute("create schema app")
            app.execute("create table app.by_id (id int primary key, tenant_id text not null, body text)")
            app.execute("insert into app.by_id select i, 'acme', 'x' from generate_series(1, 7) i")
        backup = taken(store)
        restoring = store.restoring(OTHER, ACME)
        found = restoring.preflight(backup)
        assert [(f.code, f.message) for f in found if f.severity is Severity.REFUSAL] == [
            (
                "keys_taken",
                "7 rows of the backup have keys that other tenants' rows have: (1), (2), (3), (4), (5)",
            )
        ]
        at = Fence(tenant=OTHER, epoch=1, token=1)
        store.fence(at, expires_in_s=None, drain_s=5)
        with pytest.raises(StoreRefused, match=r"Key \(id\)=\(1\) already exists"):
            restoring.load(backup, at)
        assert store.inventory(OTHER).items == 0
        assert store.inventory(ACME).items == 7
    finally:
        store.close()


def test_rows_of_others_in_a_stream_are_loaded_for_nobody(cells: Cells) -> None:
    backup = taken(cells.blue)
    name = next(n for n in backup.bytes if n[1] == "public.parts")
    backup.bytes[name] += b"globex\tstolen\t1\t9999\n"
    with pytest.raises(StoreRefused, match="has a row that is not of acme"):
        cells.green.restoring(ACME, ACME).load(backup, down(cells.green))
    assert cells.green.inventory(NEIGHBOUR).items == cells.green.inventory(ACME).items == 0


# -- one part of it ----------------------------------------------------------------------------------------------------


def test_chosen_tables_are_loaded_and_no_others(cells: Cells) -> None:
    backup = taken(cells.blue)
    chosen = Selection(items={"public.documents": None, "public.visits": ['["acme", "2025-12-21", "1"]']})
    restored = cells.green.restoring(ACME, ACME).load(backup, down(cells.green), chosen)
    assert restored.collections == {"public.documents": 300, "public.visits": 1}
    assert {n: c.items for n, c in cells.green.inventory(ACME).collections.items() if c.items} == dict(
        restored.collections
    )
    with pytest.raises(StoreRefused, match=r"the backup has nothing of public\.nowhere"):
        list(cells.green.restoring(ACME, ACME).differences(backup, Selection(items={"public.nowhere": None})))


# -- what breaks off ---------------------------------------------------------------------------------------------------


def test_a_snapshot_that_the_server_has_ended_is_said_so(cells: Cells) -> None:
    backup, capture = MemoryBackup(ACME), cells.blue.capture(ACME)
    capture.start(fence())
    capture.pin(backup, down(cells.blue, 1))
    cells.run(
        cells.blue,
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'tenure'"
        " and datname = current_database() and state = 'idle in transaction'",
    )
    with pytest.raises((StoreRefused, StoreUnavailable)):
        capture.rest(backup)
    capture.close(fence())
    assert not backup.bytes


def test_a_sink_that_fails_ends_the_capture_and_leaves_no_transaction(cells: Cells) -> None:
    class Full(Exception):
        pass

    class Small(MemoryBackup):
        def stream(self, store: StoreName, collection: str, part: Part, header: Header) -> Writer:
            raise Full

    backup, capture = Small(ACME), cells.blue.capture(ACME)
    capture.start(fence())
    capture.pin(backup, down(cells.blue))
    with pytest.raises(Full):
        capture.rest(backup)
    assert cells.rows(
        cells.blue,
        "select count(*) from pg_stat_activity where state like 'idle in transaction%'"
        " and datname = current_database()",
    ) == [(0,)]


def test_a_table_that_was_written_anew_meanwhile_ends_the_capture(cells: Cells) -> None:
    """A snapshot from before would find it empty."""
    backup, capture = MemoryBackup(ACME), cells.blue.capture(ACME)
    capture.start(fence())
    at = down(cells.blue, 1)
    capture.pin(backup, at)
    cells.blue.open(at)
    cells.run(cells.blue, "alter table public.kinds alter f8 type float4")
    with pytest.raises(StoreUnavailable, match=r"public\.kinds was emptied, or written anew"):
        capture.rest(backup)
    capture.close(at)


def test_a_partition_that_was_detached_meanwhile_ends_the_capture(cells: Cells) -> None:
    """A copy would leave its rows out, and count what is left."""
    backup, capture = MemoryBackup(ACME), cells.blue.capture(ACME)
    capture.start(fence())
    at = down(cells.blue, 1)
    capture.pin(backup, at)
    cells.blue.open(at)
    cells.run(cells.blue, "alter table public.visits detach partition public.visits_2025")
    try:
        with pytest.raises(StoreUnavailable, match=r"public\.visits was emptied.* or lost a partition"):
            capture.rest(backup)
        capture.close(at)
    finally:
        cells.run(
            cells.blue,
            "alter table public.visits attach partition public.visits_2025"
            " for values from ('2025-01-01') to ('2026-01-01')",
        )


def test_in_the_hold_nobody_waits_for_a_lock_on_a_table(cells: Cells) -> None:
    """A neighbour's long transaction neither keeps the fence from going down nor from lifting."""
    capture, backup = cells.blue.capture(ACME), MemoryBackup(ACME)
    capture.start(fence())
    neighbour = cells.connect(cells.blue)
    with neighbour.transaction():
        neighbour.execute("update public.documents set title = 'x' where tenant_id = 'globex'")
        began = time.monotonic()
        cells.blue.fence(fence(), expires_in_s=30, drain_s=5)
        capture.pin(backup, fence())
        cells.blue.open(fence())
        assert time.monotonic() - began < 5
        backup.complete(cells.blue.name, capture.rest(backup))
    capture.close(fence())
    assert cells.leftovers(cells.blue) == []


def test_rows_that_a_policy_hides_are_an_error_and_not_left_out(cells: Cells) -> None:
    cells.run(
        cells.blue,
        "drop role if exists half_blind",
        "create role half_blind",
        "grant select on public.parts to half_blind",
        "alter table public.parts enable row level security",
        "create policy few on public.parts using (id < 10)",
    )
    try:
        (table,) = describe(cells.blue.pool, [t for t in cells.blue.tables if t.name == "parts"])
        with psycopg.connect(cells.blue_dsn, autocommit=True) as connection:
            connection.execute("set role half_blind")
            streams.prepare(connection)
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
                streams.copy_out(connection, streams.select_rows(table, ACME), lambda _block: None)
    finally:
        cells.run(cells.blue, "drop owned by half_blind", "drop role half_blind")


def test_rows_that_would_be_in_no_backup_are_said_beforehand(cells: Cells) -> None:
    cells.run(
        cells.blue,
        "create table public.notes (id int primary key, tenant_id text, document_id bigint)",
        "create table public.lines (id int primary key, tenant text, n bigint,"
        " foreign key (tenant, n) references public.documents (tenant_id, id))",
    )
    said = {f.code: f.message for f in cells.blue.capture(ACME).preflight() if f.severity is Severity.REFUSAL}
    assert said.keys() == {"table_not_in_catalogue", "table_through_foreign_key"}
    assert all("would be in no backup" in message for message in said.values())


def test_a_process_that_is_killed_leaves_no_snapshot_and_nothing_after_close(cells: Cells) -> None:
    """After its point, while it copies: the server ends the transactions with the connections."""
    child = os.fork()
    if not child:
        store = make_store("blue", cells.blue_dsn)
        capture, backup = store.capture(ACME), MemoryBackup(ACME)
        capture.start(fence())
        store.fence(fence(), expires_in_s=30, drain_s=5)
        capture.pin(backup, fence())
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    eventually(
        lambda: (
            cells.rows(
                cells.blue,
                "select count(*) from pg_stat_activity where datname = current_database() and backend_xmin is not null"
                " and pid <> pg_backend_pid()",
            )
            == [(0,)]
        ),
        "the snapshot goes with its connection",
    )
    cells.blue.open(fence())
    cells.blue.capture(ACME).close(fence())
    assert cells.leftovers(cells.blue) == []
    assert taken(cells.blue, token=2).streams()
