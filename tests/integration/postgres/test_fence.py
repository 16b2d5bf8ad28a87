"""No way around the fence: every kind of write, every isolation level, every moment of the snapshot."""

from __future__ import annotations

import time

import psycopg
import pytest

from tenure.client import permits
from tenure.errors import DeadlineExceeded, FenceRefused
from tenure.stores.contract import FenceState
from tenure.stores.postgres import names
from tests.integration.postgres.cells import ACME, NEIGHBOUR, Cells, eventually, fence

INSERT = "insert into public.parts values ('acme', 9999, null, 'late')"


def down(cells: Cells, token: int = 2, expires_in_s: float | None = None, drain_s: float = 5) -> None:
    cells.blue.fence(fence(token), expires_in_s=expires_in_s, drain_s=drain_s)


GATE = "pg_sequence_last_value(tenure.gate('acme'))"

WRITES = [
    INSERT,
    "update public.documents set title = 'x' where tenant_id = 'acme'",
    "delete from public.documents where tenant_id = 'acme'",
    "insert into public.parts values ('acme', 1, null, 'x') on conflict (tenant_id, id) do update set body = 'x'",
    "merge into public.parts p using (values ('acme', 1)) s (t, i) on p.tenant_id = s.t and p.id = s.i"
    " when matched then update set body = 'x' when not matched then insert values (s.t, s.i, null, 'x')",
    "update public.parts set tenant_id = 'acme', id = id + 100000, document_id = null where tenant_id = 'globex'",
    "update public.parts set tenant_id = 'globex', id = id + 100000, document_id = null where tenant_id = 'acme'",
    "insert into public.visits values ('acme', '2026-05-05', 1)",
    "insert into public.visits_2026 values ('acme', '2026-05-05', 1)",
    "update public.visits_2025 set n = n + 1000 where tenant_id = 'acme'",
    "delete from public.visits_2025 where tenant_id = 'acme'",
    "update public.visits set day = day + 300 where tenant_id = 'acme' and day < '2026-01-01'",
]


@pytest.mark.parametrize("role", ["origin", "replica"])
def test_every_statement_that_touches_the_tenant_is_refused(cells: Cells, role: str) -> None:
    down(cells)
    app = cells.connect(cells.blue)
    app.execute(f"set session_replication_role = {role}".encode())
    for statement in WRITES:
        with pytest.raises(psycopg.DatabaseError) as caught:
            app.execute(statement.encode())
        assert caught.value.sqlstate == "TN001", statement
    cells.blue.open(fence(2))
    for statement in WRITES:
        with app.transaction(force_rollback=True):
            assert app.execute(statement.encode()).rowcount > 0, statement


def test_copy_is_refused_even_when_one_row_of_many_is_the_tenants(cells: Cells) -> None:
    down(cells)
    app = cells.connect(cells.blue)
    with (
        pytest.raises(psycopg.DatabaseError) as caught,
        app.cursor() as cursor,
        cursor.copy("copy public.parts (tenant_id, id) from stdin") as copy,
    ):
        copy.write("globex\t5001\nacme\t5001\nglobex\t5002\n")
    assert caught.value.sqlstate == "TN001"


def test_truncate_is_refused_while_a_move_is_on_and_works_again_afterwards(cells: Cells) -> None:
    copy = cells.link()
    for table in ("visits", "visits_2025", "kinds"):
        with pytest.raises(psycopg.errors.ObjectInUse):
            cells.run(cells.blue, f"truncate public.{table}")
    copy.stop(fence())
    cells.run(cells.blue, "truncate public.kinds")


def test_neighbours_write_while_the_fence_is_down(cells: Cells) -> None:
    down(cells)
    cells.run(
        cells.blue,
        "insert into public.parts values ('globex', 9999, null, 'on time')",
        "update public.visits set n = n + 500 where tenant_id = 'globex'",
        "delete from public.documents where tenant_id = 'globex'",
    )


def test_an_open_transaction_of_a_neighbour_does_not_hold_the_fence_up(cells: Cells) -> None:
    cells.link()
    neighbour = cells.connect(cells.blue)
    with neighbour.transaction():
        neighbour.execute("update public.documents set title = 'open' where tenant_id = 'globex'")
        began = time.monotonic()
        down(cells, drain_s=5)
        assert time.monotonic() - began < 2


def test_the_fence_waits_for_the_tenants_open_transaction_and_then_holds(cells: Cells) -> None:
    cells.link()
    app = cells.connect(cells.blue)
    with app.transaction():
        app.execute("insert into public.parts values ('acme', 9998, null, 'in time')")
        fencing = cells.in_background(lambda: down(cells))
        eventually(lambda: waiting(cells), "the fence waits")
        app.execute("insert into public.parts values ('acme', 9997, null, 'in time as well')")
        assert not fencing.done()
    fencing.result(timeout=10)
    with pytest.raises(psycopg.DatabaseError, match="is fenced"):
        app.execute(INSERT.encode())
    assert cells.rows(cells.blue, "select count(*) from public.parts where id in (9997, 9998)") == [(2,)]


def waiting(cells: Cells) -> bool:
    found = cells.rows(
        cells.blue, "select count(*) from pg_locks where locktype = 'advisory' and not granted"
    )
    return bool(found[0][0])


def test_a_transaction_that_does_not_end_makes_the_fence_give_up_and_leaves_the_tenant_open(
    cells: Cells,
) -> None:
    cells.link()
    app = cells.connect(cells.blue)
    with app.transaction():
        app.execute("insert into public.parts values ('acme', 9998, null, 'open for long')")
        with pytest.raises(DeadlineExceeded, match=f"pid {app.info.backend_pid}"):
            down(cells, drain_s=0.2)
        assert cells.blue.fence_state(ACME).writable
    cells.run(cells.blue, INSERT)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_snapshot_older_than_the_fence_cannot_write_after_it(cells: Cells, level: str) -> None:
    cells.link()
    app = cells.connect(cells.blue)
    app.execute(f"begin isolation level {level}".encode())
    app.execute("select 1 from public.parts limit 1")
    down(cells)
    with pytest.raises(psycopg.errors.SerializationFailure):
        app.execute(INSERT.encode())
    app.execute("rollback")
    with pytest.raises(psycopg.DatabaseError, match="is fenced"):
        app.execute(INSERT.encode())


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_snapshot_older_than_the_link_cannot_write_after_the_fence(cells: Cells, level: str) -> None:
    app = cells.connect(cells.blue)
    app.execute(f"begin isolation level {level}".encode())
    app.execute("select 1 from pg_class limit 1")
    cells.link()
    down(cells)
    with pytest.raises(psycopg.errors.SerializationFailure):
        app.execute(INSERT.encode())


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
def test_a_permit_asked_for_with_an_old_snapshot_is_refused(cells: Cells, level: str) -> None:
    cells.blue.fence(fence(tenant=NEIGHBOUR), expires_in_s=None, drain_s=1)
    cells.blue.open(fence(tenant=NEIGHBOUR))
    app = cells.connect(cells.blue)
    app.execute(f"begin isolation level {level}".encode())
    app.execute("select 1 from pg_class limit 1")
    down(cells)
    with pytest.raises(psycopg.DatabaseError) as caught:
        app.execute("select tenure.permit('acme')")
    assert caught.value.sqlstate == ("TN001" if level == "read committed" else "40001")


def test_new_snapshots_get_permits_after_an_enrolment_that_was_rolled_back(cells: Cells) -> None:
    cells.blue.fence(fence(tenant=NEIGHBOUR), expires_in_s=None, drain_s=1)
    with psycopg.connect(cells.blue_dsn) as connection:
        connection.execute("select tenure.enrol('initech', true, 1, 1)")
        connection.rollback()
    app = cells.connect(cells.blue)
    app.execute("begin isolation level repeatable read")
    assert app.execute("select tenure.permit('acme')").fetchone() == (False,)
    app.execute("commit")


def test_a_prepared_transaction_holds_the_fence_up_until_it_ends(cells: Cells) -> None:
    cells.link()
    app = cells.connect(cells.blue)
    app.execute("begin")
    app.execute(INSERT.encode())
    app.execute("prepare transaction 'test_fence'")
    with pytest.raises(DeadlineExceeded, match="a prepared transaction"):
        down(cells, drain_s=0.2)
    app.execute("commit prepared 'test_fence'")
    down(cells)
    assert cells.rows(cells.blue, "select count(*) from public.parts where id = 9999") == [(1,)]


def test_a_fence_with_a_deadline_lifts_itself_and_cannot_be_made_permanent_then(cells: Cells) -> None:
    cells.link()
    down(cells, expires_in_s=0.2)
    assert cells.blue.fence_state(ACME).expires
    eventually(lambda: cells.blue.fence_state(ACME).writable, "the fence lifts itself")
    cells.run(cells.blue, INSERT)
    with pytest.raises(DeadlineExceeded, match="lifted itself"):
        down(cells)
    assert cells.blue.fence_state(ACME).writable


def test_a_fence_lapses_when_its_caller_said_however_long_it_waited(cells: Cells) -> None:
    cells.link()
    app = cells.connect(cells.blue)
    app.execute("begin")
    app.execute("insert into public.parts values ('acme', 9998, null, 'in time')")
    began = time.monotonic()
    fencing = cells.in_background(lambda: down(cells, expires_in_s=1.5))
    eventually(lambda: waiting(cells) and time.monotonic() > began + 1, "the fence has waited for a while")
    app.execute("commit")
    fencing.result(timeout=10)
    assert not cells.blue.fence_state(ACME).writable
    eventually(lambda: cells.blue.fence_state(ACME).writable, "the fence lifts itself")
    assert time.monotonic() - began < 2.2


def test_a_fence_that_would_come_down_after_it_had_lapsed_is_not_set(cells: Cells) -> None:
    cells.link()
    app = cells.connect(cells.blue)
    app.execute("begin")
    app.execute("insert into public.parts values ('acme', 9998, null, 'in time')")
    began = time.monotonic()
    fencing = cells.in_background(lambda: down(cells, expires_in_s=0.3))
    eventually(lambda: waiting(cells) and time.monotonic() > began + 0.5, "the fence has waited too long")
    app.execute("commit")
    with pytest.raises(DeadlineExceeded, match="lifted itself"):
        fencing.result(timeout=10)
    assert cells.blue.fence_state(ACME) == FenceState(writable=True, epoch=1, token=1)


def test_a_fence_made_permanent_in_time_stays(cells: Cells) -> None:
    cells.link()
    down(cells, expires_in_s=30)
    down(cells)
    assert cells.blue.fence_state(ACME) == FenceState(writable=False, epoch=1, token=2, expires=False)


def test_a_smaller_token_is_refused(cells: Cells) -> None:
    down(cells, token=5)
    for act in (
        lambda: down(cells, token=4),
        lambda: cells.blue.open(fence(4)),
        lambda: cells.blue.erase(fence(4)),
    ):
        with pytest.raises(FenceRefused):
            act()
    assert cells.blue.fence_state(ACME).token == 5


def test_a_partition_that_came_later_is_fenced_as_well(cells: Cells) -> None:
    cells.link()
    cells.run(
        cells.blue,
        "create table public.visits_2027 partition of public.visits for values from ('2027-01-01') to ('2028-01-01')",
    )
    down(cells)
    with pytest.raises(psycopg.DatabaseError, match="is fenced"):
        cells.run(cells.blue, "insert into public.visits_2027 values ('acme', '2027-05-05', 1)")


def test_an_app_without_rights_on_tenures_tables_passes_and_is_refused_like_any_other(cells: Cells) -> None:
    cells.link()
    app = cells.connect(cells.blue)
    permits.install(app)  # as the app does when it starts, in the middle of a move too
    app.execute("create role test_fence_app")
    try:
        app.execute("grant select, insert on public.parts to test_fence_app")
        app.execute("set role test_fence_app")
        app.execute("insert into public.parts values ('acme', 9998, null, 'passes')")
        app.execute("select tenure.touch('acme', 'objects', 'tenants/acme/x')")
        down(cells)
        for statement in (INSERT, "select tenure.touch('acme', 'objects', 'tenants/acme/y')"):
            with pytest.raises(psycopg.DatabaseError, match="is fenced"):
                app.execute(statement.encode())
        for statement in (
            "update tenure.fence set writable = true",
            "select tenure.lift_fence('acme', 1, 99)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(statement.encode())
    finally:
        app.execute("reset role")
        app.execute("drop owned by test_fence_app")
        app.execute("drop role test_fence_app")


def test_installing_waits_for_a_busy_table_without_blocking_others_and_names_who_holds_it(
    cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenure.stores.postgres.guard.DDL_DEADLINE_S", 1.0)
    busy = cells.connect(cells.blue)
    with busy.transaction():
        busy.execute("update public.documents set title = 'busy' where tenant_id = 'globex' and id = 301")
        fencing = cells.in_background(lambda: down(cells))
        slowest = 0.0
        while not fencing.done():
            began = time.monotonic()
            cells.run(
                cells.blue,
                "update public.documents set title = 'other' where tenant_id = 'globex' and id = 302",
            )
            slowest = max(slowest, time.monotonic() - began)
        with pytest.raises(DeadlineExceeded, match=f"pid {busy.info.backend_pid}"):
            fencing.result()
        assert slowest < 1.0
    down(cells)


def test_a_savepoint_that_is_rolled_back_takes_the_permit_with_it(cells: Cells) -> None:
    """What a transaction remembers of its permit must go with the lock, or the next write would pass the fence."""
    cells.link()
    app = cells.connect(cells.blue)
    app.execute("begin")
    app.execute("savepoint before")
    app.execute("insert into public.parts select 'acme', n, null, '' from generate_series(10001, 11000) n")
    app.execute("rollback to savepoint before")
    down(cells, drain_s=5)
    with pytest.raises(psycopg.DatabaseError, match="is fenced"):
        app.execute(INSERT.encode())


def test_settings_that_an_app_has_left_in_its_session_open_nothing(cells: Cells) -> None:
    cells.link()
    app = cells.connect(cells.blue)
    memory = names.memory(ACME, "public.parts")
    app.execute("begin")
    app.execute("insert into public.parts select 'acme', n, null, '' from generate_series(10001, 11000) n")
    remembered = app.execute("select current_setting(%s)", (memory,)).fetchone()
    app.execute("commit")
    app.execute("select set_config(%s, %s, false)", (memory, remembered[0] if remembered else None))
    down(cells)
    with pytest.raises(psycopg.DatabaseError, match="is fenced"):
        app.execute(INSERT.encode())


def test_a_schema_that_shadows_operators_and_types_does_not_fool_the_fence(cells: Cells) -> None:
    cells.link()
    down(cells)
    app = cells.connect(cells.blue)
    for statement in (
        "create schema shadow",
        "create domain shadow.text as pg_catalog.text check (false)",
        "create function shadow.yes(pg_catalog.text, pg_catalog.text) returns boolean language sql as 'select true'",
        "create operator shadow.= (leftarg = pg_catalog.text, rightarg = pg_catalog.text, function = shadow.yes)",
        "create function shadow.current_setting(pg_catalog.text, boolean) returns pg_catalog.text language sql"
        " as 'select pg_current_xact_id()::text'",
        "set search_path = shadow, pg_catalog",
    ):
        app.execute(statement.encode())
    for statement in (INSERT, "select tenure.permit('acme')", "select tenure.touch('acme', 'objects', 'x')"):
        with pytest.raises(psycopg.DatabaseError, match="is fenced"):
            app.execute(statement.encode())


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
def test_a_gate_that_writers_have_opened_is_shut_by_the_fence(cells: Cells, level: str) -> None:
    """The gate spares writers the look at the fence row; what it says must be as new as the tenant's lock."""
    cells.link()
    app = cells.connect(cells.blue)
    app.execute(f"begin isolation level {level}".encode())
    app.execute("select 1 from public.parts limit 1")
    cells.run(cells.blue, *("update public.parts set body = 'x' where tenant_id = 'acme' and id = 1",) * 2)
    assert cells.rows(cells.blue, f"select {GATE} < 1000") == [(True,)]
    down(cells)
    with pytest.raises(psycopg.DatabaseError) as caught:
        app.execute(INSERT.encode())
    assert caught.value.sqlstate == ("TN001" if level == "read committed" else "40001")
    app.execute("rollback")
    for again in (INSERT, INSERT):
        with pytest.raises(psycopg.DatabaseError, match="is fenced"):
            app.execute(again.encode())


def test_a_writer_that_passed_the_gate_holds_the_fence_up(cells: Cells) -> None:
    cells.link()
    app = cells.connect(cells.blue)
    cells.run(cells.blue, "update public.parts set body = 'x' where tenant_id = 'acme' and id = 1")
    with app.transaction():
        app.execute("update public.parts set body = 'y' where tenant_id = 'acme' and id = 1")
        assert cells.rows(cells.blue, "select count(*) from tenure.touched_log") == [(0,)], (
            "not committed yet"
        )
        with pytest.raises(DeadlineExceeded, match=f"pid {app.info.backend_pid}"):
            down(cells, drain_s=0.2)
    assert cells.rows(cells.blue, "select count(*) from tenure.touched_log") == [(1,)]
    down(cells)


def test_a_gate_is_not_opened_by_what_a_fence_refuses_or_lets_pass(cells: Cells) -> None:
    cells.link()
    down(cells, expires_in_s=0.3)
    with pytest.raises(psycopg.DatabaseError, match="is fenced"):
        cells.run(cells.blue, INSERT)
    cells.past_the_fence(cells.blue, INSERT)
    eventually(lambda: cells.blue.fence_state(ACME).writable, "the fence lifts itself")
    cells.run(cells.blue, INSERT.replace("9999", "9998"))
    assert cells.rows(cells.blue, f"select {GATE} >= {2**62}") == [(True,)]
    cells.blue.open(fence(3))
    cells.run(cells.blue, INSERT.replace("9999", "9997"))
    assert cells.rows(cells.blue, f"select {GATE} < 1000") == [(True,)]


def test_what_replication_applies_takes_no_permit(cells: Cells) -> None:
    cells.link()
    cells.run(cells.blue, "update public.parts set body = 'x' where tenant_id = 'acme' and id = 1")
    app = cells.connect(cells.blue)
    app.execute("select pg_replication_origin_create('applying')")
    app.execute("select pg_replication_origin_session_setup('applying')")
    with app.transaction():
        app.execute(INSERT.encode())
        down(cells, drain_s=1)
    app.execute("select pg_replication_origin_session_reset()")
    app.execute("select pg_replication_origin_drop('applying')")
