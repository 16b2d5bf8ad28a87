"""What people see when the control database cannot be used: named, explained, never with the password."""

from __future__ import annotations

import socket
import threading
import traceback
from collections.abc import Callable

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tenure.errors import ConfigurationError, DeadlineExceeded, StoreUnavailable, TenureError
from tenure.model.secret import Secret
from tenure.registry.database import Database, DatabaseSettings
from tenure.registry.registry import Registry

PASSWORD = "s3cret-never-shown"


def _with(dsn: str, **changes: str | int) -> Secret:
    parts = {key: str(value) for key, value in conninfo_to_dict(dsn).items() if value is not None}
    return Secret(make_conninfo("", **{**parts, **changes}))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _shown(error: TenureError) -> str:
    return "".join(traceback.format_exception(error)) + repr(error) + error.message + (error.hint or "")


def test_a_wrong_password_is_unavailable_and_says_where(control_dsn: str) -> None:
    database = Database(_with(control_dsn, password=PASSWORD))
    with pytest.raises(StoreUnavailable) as refused:
        database.ping()
    assert "refuses the login" in refused.value.message
    assert database.describe() in refused.value.message
    assert "control.dsn" in (refused.value.hint or "")
    assert PASSWORD not in _shown(refused.value)


def test_no_server_is_unavailable_and_says_where() -> None:
    port = _free_port()
    database = Database(Secret(f"postgresql://alice:{PASSWORD}@127.0.0.1:{port}/control"))
    with pytest.raises(StoreUnavailable) as refused:
        database.ping()
    assert f"control database alice@127.0.0.1:{port}/control" in refused.value.message
    assert "cannot be reached" in refused.value.message
    assert PASSWORD not in _shown(refused.value)
    assert PASSWORD not in repr(database)


def test_a_database_that_does_not_exist_is_named(control_dsn: str) -> None:
    with pytest.raises(StoreUnavailable, match="nothing_here") as refused:
        Database(_with(control_dsn, dbname="nothing_here")).ping()
    assert refused.value.hint is not None


def test_a_dsn_that_is_none_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigurationError) as refused:
        Database(Secret(f"postgresql//{PASSWORD} is no dsn"))
    assert PASSWORD not in _shown(refused.value)


def test_a_database_without_the_schema_says_how_to_get_it(control_dsn: str) -> None:
    registry = Registry.connect(Secret(control_dsn))
    with pytest.raises(ConfigurationError, match="lacks"):
        registry.check()
    with pytest.raises(ConfigurationError) as refused:
        registry.tenants.list()
    assert "tenure estate up" in (refused.value.hint or "")
    registry.close()


def test_connections_are_reused_and_broken_ones_are_replaced(registry: Registry, control_dsn: str) -> None:
    settings = DatabaseSettings(idle_check_after_s=0)
    database = Database(Secret(control_dsn), settings=settings)
    with database.connection() as first:
        pid = first.info.backend_pid
    with database.connection() as again:
        assert again.info.backend_pid == pid
    with psycopg.connect(control_dsn) as killer:
        killer.execute("select pg_terminate_backend(%s, 5000)", (pid,))
    with database.connection() as fresh:
        assert fresh.info.backend_pid != pid
        fresh.execute("select 1")
    database.close()


def test_a_transaction_that_raises_is_rolled_back_and_its_connection_is_clean(registry: Registry) -> None:
    def half() -> None:
        with registry.database.transaction() as connection:
            connection.execute("create table public.half (n int)")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    with registry.database.connection() as connection:
        assert connection.execute("select to_regclass('public.half')").fetchone() == (None,)


def test_a_lock_that_does_not_come_free_is_a_deadline(control_dsn: str, registry: Registry) -> None:
    quick = Registry.connect(Secret(control_dsn), settings=DatabaseSettings(lock_timeout_s=0.2))
    operation = registry.operations.create(kind="k", tenant=None, steps=["a"], requested_by="t")
    with registry.database.transaction() as holder:
        holder.execute("select 1 from registry.operations where id = %s for update", (operation.id,))
        with pytest.raises(DeadlineExceeded, match="took too long"):
            quick.operations.request_cancel(operation.id, actor="t")
    quick.close()


def test_threads_get_connections_of_their_own(registry: Registry) -> None:
    together = threading.Barrier(6)
    pids: list[int] = []

    def use() -> None:
        with registry.database.connection() as connection:
            together.wait(10)
            pids.append(connection.info.backend_pid)

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(set(pids)) == 6


def test_a_transaction_that_was_slept_in_is_given_up_and_can_be_tried_again(
    registry: Registry, control_dsn: str, wait_until: Callable[..., None]
) -> None:
    """A process that was stopped, or cut off, in the middle of a write: retryable, whatever the step was doing."""
    slept = Database(Secret(control_dsn), settings=DatabaseSettings(idle_in_transaction_s=0.05))
    gone = "select not exists (select from pg_stat_activity where pid = %s)"

    def sleep_in_it() -> None:
        with slept.transaction() as connection, registry.database.connection() as other:
            pid = connection.info.backend_pid
            wait_until(lambda: other.execute(gone, (pid,)).fetchone() == (True,), "the end of the session")
            connection.execute("select 1")

    with pytest.raises(StoreUnavailable, match="gave the transaction up") as given_up:
        sleep_in_it()
    assert given_up.value.retryable
    slept.ping()
    slept.close()
