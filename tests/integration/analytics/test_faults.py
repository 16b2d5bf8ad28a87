"""Locked files, servers that die in the middle of a load, deletions that do not end, connections that break."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tenure.catalogue import AnalyticsTable
from tenure.errors import DeadlineExceeded, LeaseLost, StoreUnavailable
from tenure.model.names import TenantId
from tenure.stores.analytics import Engine
from tests.contract.rigs import analytics as rigs
from tests.contract.rigs.protocol import Side
from tests.contract.test_store_contract import ACME, following, linked, sealed
from tests.integration.analytics.test_exactness import make_table
from tests.slow_link import slow_link
from tests.warehouses import ClickHouseWarehouse, DuckDbWarehouse, Warehouse, clickhouse_in

OTHER = TenantId("acme1")
Make = Callable[[str, str], Warehouse]
HOLD = "import sys, duckdb; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
REPLACE = """
import sys
from pathlib import Path
from tenure.model.names import TenantId
from tests.integration.analytics.test_faults import table_of
from tests.warehouses import DuckDbWarehouse
from tenure.stores.analytics.duckdb_file import DuckDbFile
source, target = (DuckDbFile(path=Path(p), where=p) for p in sys.argv[1:])
def loaded():
    print("loaded", flush=True)
    sys.stdin.read()
with source.rows(table_of("main"), TenantId("acme"), ["p"]) as rows:
    target.replace(table_of("main"), TenantId("acme"), ["p"], rows, loaded)
"""


def table_of(schema: str) -> AnalyticsTable:
    from tenure.catalogue import DataClass, Partition, PartitionBy, QualifiedName

    return AnalyticsTable(
        name=QualifiedName(schema=schema, name="facts"),
        tenant_column="tenant_id",
        columns={"tenant_id": DataClass.TENANT},
        partition=Partition(column="part", by=PartitionBy.VALUE),
    )


@contextlib.contextmanager
def another_process(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python that has said that it is where the test wants it."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline().strip() in {"open", "loaded"}
        yield process
    finally:
        process.kill()
        process.communicate()


def filled(warehouse: Warehouse, engine: str, value: str, rows: int = 3) -> AnalyticsTable:
    table = make_table(warehouse, engine, "v varchar" if engine != "clickhouse" else "v String")
    for tenant in (ACME, OTHER):
        values = ", ".join(f"('{tenant}', 'p', '{value} {n}')" for n in range(rows))
        warehouse.run(f"insert into {table.name} values {values}")
    return table


def values(warehouse: Warehouse, table: AnalyticsTable, tenant: TenantId = ACME) -> list[str]:
    query = f"select v from {table.name} where tenant_id = '{tenant}' order by v"
    return [str(v) for (v,) in warehouse.rows(query)]


def replace(table: AnalyticsTable, source: Engine, target: Engine, allowed: Callable[[], None]) -> None:
    """Closes both engines, which open again when they are used."""
    with contextlib.closing(source), contextlib.closing(target), source.rows(table, ACME, ["p"]) as rows:
        target.replace(table, ACME, ["p"], rows, allowed)


def erase(table: AnalyticsTable, engine: Engine) -> int:
    with contextlib.closing(engine):
        return engine.erase(table, ACME, lambda _rows: None)


# -- DuckDB ------------------------------------------------------------------------------------------------------


def test_a_file_that_another_process_keeps_open_is_unavailable_and_says_so(tmp_path: Path) -> None:
    warehouse = DuckDbWarehouse(tmp_path)
    with another_process(HOLD, str(warehouse.path)):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable) as caught:
            warehouse.engine().ping()
        assert time.monotonic() - began < 5
        assert "another process" in caught.value.message
        assert caught.value.hint
    warehouse.engine().ping()


def test_whoever_finds_a_file_taken_waits_for_it(tmp_path: Path) -> None:
    warehouse = DuckDbWarehouse(tmp_path)
    table = filled(warehouse, "duckdb", "old")
    with another_process(HOLD, str(warehouse.path)) as holder:
        seen: list[int] = []
        reader = threading.Thread(
            target=lambda: seen.append(sum(warehouse.engine(60).partitions(table, ACME).values()))
        )
        reader.start()
        holder.kill()
        reader.join()
    assert seen == [3]


def test_threads_of_one_process_take_turns_with_a_file(tmp_path: Path) -> None:
    warehouse = DuckDbWarehouse(tmp_path)
    table = filled(warehouse, "duckdb", "old")
    failed: list[BaseException] = []

    def work(n: int) -> None:
        try:
            for k in range(5):
                warehouse.run(f"insert into {table.name} values ('{OTHER}', 'q', '{n} {k}')")
                assert warehouse.engine().partitions(table, ACME) == {"p": 3}
        except BaseException as error:  # noqa: BLE001  (shown below)
            failed.append(error)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failed
    assert warehouse.engine().partitions(table, OTHER)["q"] == 20


def test_a_process_killed_in_the_middle_of_a_load_leaves_the_partition_as_it_was(tmp_path: Path) -> None:
    one, other = DuckDbWarehouse(tmp_path), DuckDbWarehouse(tmp_path)
    table = filled(one, "duckdb", "new", rows=5000)
    filled(other, "duckdb", "old")
    with another_process(REPLACE, str(one.path), str(other.path)) as process:
        with pytest.raises(StoreUnavailable):
            other.engine(0.2).partitions(table, ACME)
        process.kill()
        process.wait()
    assert values(other, table) == ["old 0", "old 1", "old 2"]
    replace(table, one.engine(), other.engine(), lambda: None)
    assert values(other, table) == values(one, table)
    assert values(other, table, OTHER) == ["old 0", "old 1", "old 2"]


def test_a_link_survives_a_file_that_is_taken_for_a_while(
    request: pytest.FixtureRequest,
) -> None:
    rig = rigs.make("analytics-duckdb", request)
    assert isinstance(rig, rigs.AnalyticsRig)
    try:
        for item in "abc":
            rig.write(Side.BLUE, ACME, item, "first")
        copy = linked(rig)
        target = rig.warehouses[Side.GREEN]
        assert isinstance(target, DuckDbWarehouse)
        with another_process(HOLD, str(target.path)):
            rig.write(Side.BLUE, ACME, "a", "while it was taken")
            with pytest.raises((DeadlineExceeded, StoreUnavailable)):
                copy.seal(copy.mark(), timeout_s=0.3)
        sealed(following(copy))
        assert rig.read(Side.GREEN, ACME) == rig.read(Side.BLUE, ACME)
        assert rig.read(Side.GREEN, ACME)["a"] == "while it was taken"
    finally:
        rig.close()


# -- whoever lost the right to write -----------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["duckdb", "postgresql", "sqlite", "clickhouse"])
def test_a_copier_that_was_displaced_writes_nothing(warehouse: Make, engine: str) -> None:
    one, other = warehouse(engine, "one"), warehouse(engine, "other")
    table = filled(one, engine, "new")
    filled(other, engine, "old")

    def displaced() -> None:
        raise LeaseLost("another process copies into it now")

    with pytest.raises(LeaseLost):
        replace(table, one.engine(), other.engine(), displaced)
    assert values(other, table) == ["old 0", "old 1", "old 2"]


# -- PostgreSQL --------------------------------------------------------------------------------------------------


def test_a_connection_that_breaks_in_the_middle_of_a_load_changes_nothing(
    warehouse: Make, fresh_database: Callable[..., str]
) -> None:
    one, other = warehouse("postgresql", "one"), warehouse("postgresql", "other")
    table = filled(one, "postgresql", "new", rows=6000)
    filled(other, "postgresql", "old")
    database = other.rows("select current_database()")[0][0]

    def cut() -> None:
        with psycopg.connect(fresh_database("pg18b"), autocommit=True) as admin:
            admin.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
                " where datname = %s and application_name = 'tenure'",
                (database,),
            )

    engine = other.engine()
    with pytest.raises(StoreUnavailable):
        replace(table, one.engine(), engine, cut)
    assert values(other, table) == ["old 0", "old 1", "old 2"]
    replace(table, one.engine(), engine, lambda: None)
    assert values(other, table) == values(one, table)


# -- ClickHouse --------------------------------------------------------------------------------------------------


def test_a_server_killed_between_delete_and_insert_is_mended_by_trying_again(
    warehouse: Make, tmp_path: Path
) -> None:
    one = warehouse("clickhouse", "one")
    server = clickhouse_in(tmp_path / "killed")
    try:
        other = ClickHouseWarehouse(server, one.schema)
        table = filled(one, "clickhouse", "new", rows=5000)
        filled(other, "clickhouse", "old")
        asked = 0

        def killed_before_the_insert() -> None:
            nonlocal asked
            asked += 1
            if asked == 2:
                server.kill()

        engine = other.engine()
        with pytest.raises(StoreUnavailable):
            replace(table, one.engine(), engine, killed_before_the_insert)
        server.start()
        assert values(other, table) in ([], ["old 0", "old 1", "old 2"])
        assert values(other, table, OTHER) == ["old 0", "old 1", "old 2"]
        replace(table, one.engine(), engine, lambda: None)
        assert values(other, table) == values(one, table)
        with contextlib.closing(engine):
            engine.sweep(ACME)
        tables = other.rows(f"select name from system.tables where database = '{one.schema}'")
        assert [name for (name,) in tables] == ["facts"]
        other.close()
    finally:
        server.kill()


def test_a_source_that_breaks_off_in_the_middle_of_its_answer_leaves_the_target_as_it_was(
    warehouse: Make, tmp_path: Path
) -> None:
    other = warehouse("clickhouse", "other")
    server = clickhouse_in(tmp_path / "killed")
    try:
        one = ClickHouseWarehouse(server, other.schema)
        table = filled(one, "clickhouse", "new" * 300, rows=20_000)
        filled(other, "clickhouse", "old")
        with slow_link("127.0.0.1", server.port) as link:
            link.bytes_per_s = 2_000_000
            engine = one.engine(url=f"http://127.0.0.1:{link.port}")
            engine.ping()
            killer = threading.Timer(0.5, server.kill)
            killer.start()
            with pytest.raises(StoreUnavailable):
                replace(table, engine, other.engine(), lambda: None)
            killer.join()
        assert values(other, table) == ["old 0", "old 1", "old 2"]
    finally:
        server.kill()


def test_a_network_that_falls_silent_is_unavailable_within_five_seconds(warehouse: Make) -> None:
    made = warehouse("clickhouse", "one")
    assert isinstance(made, ClickHouseWarehouse)
    with slow_link("127.0.0.1", made.server.port) as link:
        engine = made.engine(url=f"http://127.0.0.1:{link.port}")
        engine.ping()
        link.stalled = True
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            engine.ping()
        assert time.monotonic() - began < 5
        link.stalled = False
        engine.close()


def test_a_deletion_that_does_not_end_is_waited_for_and_never_asked_for_twice(warehouse: Make) -> None:
    made = warehouse("clickhouse", "one")
    assert isinstance(made, ClickHouseWarehouse)
    table = filled(made, "clickhouse", "old")
    made.run(f"system stop merges {table.name}")
    engine = made.engine(mutation_wait_s=0.3)
    for _ in range(2):
        with pytest.raises(DeadlineExceeded) as caught:
            erase(table, engine)
        assert "1 deletions" in caught.value.message
    mutations = made.rows(f"select count() from system.mutations where database = '{made.schema}'")
    assert mutations[0][0] == 1
    made.run(f"system start merges {table.name}")
    patient = made.engine()
    erase(table, patient)
    assert values(made, table) == []
    assert values(made, table, OTHER) == ["old 0", "old 1", "old 2"]
    assert erase(table, patient) == 0


def test_an_erasure_takes_the_bytes_that_lightweight_deletes_have_only_hidden(warehouse: Make) -> None:
    made = warehouse("clickhouse", "one")
    table = filled(made, "clickhouse", "old")
    made.run(f"delete from {table.name} where tenant_id = '{ACME}' and v = 'old 0'")
    hidden = f"select count() from system.parts where database = '{made.schema}' and active and has_lightweight_delete"
    assert made.rows(hidden)[0][0] == 1
    assert erase(table, made.engine()) == 2
    assert made.rows(hidden)[0][0] == 0
    assert values(made, table, OTHER) == ["old 0", "old 1", "old 2"]


def test_an_erasure_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    warehouse = DuckDbWarehouse(tmp_path)
    table = filled(warehouse, "duckdb", "old")
    warehouse.run(f"insert into {table.name} select '{ACME}', 'q' || range % 3, 'more' from range(600000)")

    class Stopped(Exception):
        """The process ends."""

    def stop(_rows: int) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        warehouse.engine().erase(table, ACME, stop)
    left = sum(warehouse.engine().partitions(table, ACME).values())
    assert 0 < left < 600_003
    assert warehouse.engine().erase(table, ACME, lambda _rows: None) == left
    assert warehouse.engine().erase(table, ACME, lambda _rows: None) == 0
    assert values(warehouse, table, OTHER) == ["old 0", "old 1", "old 2"]
