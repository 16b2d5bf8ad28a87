"""`tenure.client` against a real cell: permits, the journal, and jobs that follow a tenant to another
cell."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.rows import dict_row

from rag_app.settings import CellSettings
from tenure.client import (
    Fenced,
    Placement,
    apermit,
    atouch,
    install,
    permit,
    run_in_cell,
    touch,
    translating,
)

from .conftest import ACME, GLOBEX, Fencing


def as_app(cell: CellSettings) -> psycopg.Connection[tuple[object, ...]]:
    """A connection with no more rights than the app has."""
    return psycopg.connect(cell.app_dsn)


def test_a_permit_says_whether_changes_are_recorded_and_is_refused_under_a_fence(
    cell: CellSettings, fencing: Fencing
) -> None:
    with as_app(cell) as conn:
        assert permit(conn, ACME) is False
        conn.commit()
        fencing.record(ACME)
        assert permit(conn, ACME) is True
        conn.commit()
        fencing.lower(ACME)
        with pytest.raises(Fenced) as refused:
            permit(conn, ACME)
        conn.rollback()
        assert refused.value.tenant == ACME
        assert refused.value.retryable
        assert refused.value.hint
        assert permit(conn, GLOBEX) is False
        conn.commit()
        fencing.lift(ACME)
        permit(conn, ACME)


def test_any_row_factory_will_do(cell: CellSettings, fencing: Fencing) -> None:
    fencing.record(ACME)
    with psycopg.connect(cell.app_dsn, row_factory=dict_row) as conn:
        assert permit(conn, ACME) is True
        assert permit(conn, GLOBEX) is False


def test_the_fence_waits_for_the_transaction_that_holds_a_permit(
    cell: CellSettings, fencing: Fencing, wait_until: Callable[..., None]
) -> None:
    done: list[str] = []

    def lower() -> None:
        fencing.lower(ACME)
        done.append("fenced")

    with as_app(cell) as conn, psycopg.connect(cell.postgres_dsn, autocommit=True) as watch:
        permit(conn, ACME)
        thread = threading.Thread(target=lower)
        thread.start()
        waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
        wait_until(lambda: watch.execute(waiting).fetchone() != (0,), "the fence waits")
        assert done == []
        done.append("committed")
        conn.commit()
        thread.join(timeout=10)
    assert done == ["committed", "fenced"]


def test_an_old_snapshot_is_sent_back_with_40001_and_not_as_fenced(
    cell: CellSettings, fencing: Fencing
) -> None:
    with as_app(cell) as conn:
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        conn.execute("select 1")
        fencing.lower(ACME)
        with translating(ACME), pytest.raises(psycopg.errors.SerializationFailure):
            permit(conn, ACME)
        conn.rollback()
        with pytest.raises(Fenced):
            permit(conn, ACME)


def test_touch_journals_in_the_apps_own_transaction(cell: CellSettings, fencing: Fencing) -> None:
    def journal() -> list[tuple[object, ...]]:
        with psycopg.connect(cell.postgres_dsn) as admin:
            return admin.execute("select tenant_id, store, key from tenure.journal order by id").fetchall()

    with as_app(cell) as conn:
        touch(conn, ACME, "objects", "before")
        conn.commit()
        assert journal() == []
        fencing.record(ACME)
        touch(conn, ACME, "objects", "undone")
        conn.rollback()
        touch(conn, ACME, "objects", "done")
        conn.commit()
        assert journal() == [(ACME, "objects", "done")]
        fencing.lower(ACME)
        with pytest.raises(Fenced):
            touch(conn, ACME, "objects", "refused")
        conn.rollback()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("delete from tenure.journal")


def test_the_asynchronous_calls_do_the_same(cell: CellSettings, fencing: Fencing) -> None:
    async def run() -> None:
        conn = await psycopg.AsyncConnection.connect(cell.app_dsn)
        async with conn:
            assert await apermit(conn, ACME) is False
            await atouch(conn, ACME, "objects", "key")
            await conn.commit()
            fencing.lower(ACME)
            with pytest.raises(Fenced):
                await apermit(conn, ACME)
            await conn.rollback()
            with pytest.raises(Fenced):
                await atouch(conn, ACME, "objects", "key")
            await conn.rollback()

    asyncio.run(run())


def test_installing_again_and_at_the_same_time_changes_nothing(cell: CellSettings, fencing: Fencing) -> None:
    fencing.lower(ACME)

    def again(_: int) -> None:
        with psycopg.connect(cell.postgres_dsn, autocommit=True) as conn:
            install(conn)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(again, range(8)))
    with as_app(cell) as conn, pytest.raises(Fenced):
        permit(conn, ACME)


def test_a_job_follows_the_tenant_to_the_cell_that_serves_it_now(
    cell: CellSettings, fencing: Fencing, fresh_database: Callable[..., str]
) -> None:
    other = fresh_database()
    with psycopg.connect(other, autocommit=True) as conn:
        install(conn)
        conn.execute("create table done (tenant_id text)")
    fencing.lower(ACME)
    dsns = {"blue": cell.postgres_dsn, "green": other}
    placements = iter([("blue", 1), ("blue", 1), ("green", 2)])
    visited: list[str] = []

    def resolve(tenant: str) -> Placement:
        name, epoch = next(placements)
        return Placement(tenant=tenant, cell=name, epoch=epoch)

    def work(placement: Placement) -> int:
        visited.append(placement.cell)
        with psycopg.connect(dsns[placement.cell]) as conn:
            permit(conn, ACME)
            conn.execute("insert into done values (%s)", (ACME,))
        return placement.epoch

    assert run_in_cell(ACME, resolve, work, backoff_s=0.001) == 2
    assert visited == ["blue", "blue", "green"]


def test_a_job_gives_up_after_its_attempts_and_at_once_on_other_errors() -> None:
    tries: list[int] = []

    def resolve(tenant: str) -> Placement:
        tries.append(1)
        return Placement(tenant=tenant, cell="blue", epoch=1)

    def fenced(placement: Placement) -> None:
        raise Fenced(placement.tenant)

    def broken(placement: Placement) -> None:
        raise KeyError(placement.cell)

    with pytest.raises(Fenced):
        run_in_cell(ACME, resolve, fenced, attempts=3, backoff_s=0.001)
    assert len(tries) == 3
    with pytest.raises(KeyError):
        run_in_cell(ACME, resolve, broken, attempts=3, backoff_s=0.001)
    assert len(tries) == 4
    with pytest.raises(ValueError, match="attempts"):
        run_in_cell(ACME, resolve, broken, attempts=0)
