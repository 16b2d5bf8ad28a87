"""What moving and searching analytics costs, beside what the engine does with the same bytes by itself.

usage: python -m bench.analytics [--rows 500000] [--days 10] [--rounds 3]

Per engine, taken in turn, as ratios of medians:
- the copy of a tenant, partition by partition, against one plain copy of the same rows: DuckDB `INSERT ... SELECT` from
  one attached file to another, ClickHouse `SELECT ... FORMAT Native` piped into `INSERT ... FORMAT Native`;
- the digests of all partitions, and a search for an identifier (it reads the neighbour's rows as well), against a plain
  read of the tenant's rows: DuckDB into Arrow, ClickHouse as Native.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, Final

import duckdb

from tenure.catalogue import AnalyticsTable, DataClass, Partition, PartitionBy, QualifiedName
from tenure.model.matching import needles
from tenure.model.names import TenantId
from tenure.model.search import tenant_identifier
from tenure.stores.analytics import Engine
from tenure.stores.analytics.live import BATCH
from tests.warehouses import ClickHouseWarehouse, DuckDbWarehouse, two_servers

TENANT: Final = TenantId("bench-moving")
NEIGHBOUR: Final = TenantId("bench-neighbour")
SCHEMA: Final = "bench"


def facts(schema: str) -> AnalyticsTable:
    return AnalyticsTable(
        name=QualifiedName(schema=schema, name="facts"),
        tenant_column="tenant_id",
        columns={"tenant_id": DataClass.TENANT},
        partition=Partition(column="happened", by=PartitionBy.DAY),
    )


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def carry(table: AnalyticsTable, source: Engine, target: Engine) -> None:
    """What the live copy does in its first pass, with one worker."""
    partitions = list(source.partitions(table, TENANT))
    for start in range(0, len(partitions), BATCH):
        batch = partitions[start : start + BATCH]
        with source.rows(table, TENANT, batch) as rows:
            target.replace(table, TENANT, batch, rows, lambda: None)


def search(table: AnalyticsTable, engine: Engine) -> None:
    columns = [c.name for c in engine.columns(table.name)]
    wanted = needles(tenant_identifier(TenantId("nobody-at-all")))
    assert not list(engine.texts(table.name, columns, wanted))


def rounds(count: int, works: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """The median seconds of each, taken in turn."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(count):
        for name, work in works.items():
            taken[name].append(timed(work))
    return {name: median(seconds) for name, seconds in taken.items()}


def report(engine: str, rows: int, seconds: Mapping[str, float]) -> dict[str, Any]:
    figures = {
        "engine": engine,
        "rows": rows,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "copy_to_plain_copy": round(seconds["copy"] / seconds["plain copy"], 2),
        "digest_to_plain_read": round(seconds["digest"] / seconds["plain read"], 2),
        "search_to_plain_read": round(seconds["search"] / seconds["plain read"], 2),
        "rows_per_s": round(rows / seconds["copy"]),
    }
    print(json.dumps(figures))
    return figures


def duckdb_figures(folder: Path, rows: int, days: int, count: int) -> dict[str, Any]:
    one, other = DuckDbWarehouse(folder), DuckDbWarehouse(folder)
    plain = folder / "plain.duckdb"
    for warehouse in (one, other):
        warehouse.run(
            "create table main.facts (tenant_id text, happened timestamptz, who text, what text, amount double)"
        )
    for tenant in (TENANT, NEIGHBOUR):
        one.run(
            f"insert into main.facts select '{tenant}', timestamptz '2026-01-01' + interval (n % {days}) day,"
            f" md5(n::text), repeat(md5((n * 7)::text), 3), n / 7.0 from range({rows}) t(n)"
        )
    table, source, target = facts("main"), one.engine(), other.engine()

    def plain_copy() -> None:
        plain.unlink(missing_ok=True)
        with duckdb.connect(":memory:") as hub:
            hub.execute(f"attach '{one.path}' as a (read_only)")
            hub.execute(f"attach '{plain}' as b")
            hub.execute(
                f"create table b.main.facts as select * from a.main.facts where tenant_id = '{TENANT}'"
            )
            hub.execute("detach b")

    def plain_read() -> None:
        with one.engine().opened() as hub:
            hub.sql(f"select * from file.main.facts where tenant_id = '{TENANT}'").to_arrow_table()

    return report(
        "duckdb",
        rows,
        rounds(
            count,
            {
                "copy": lambda: carry(table, source, target),
                "plain copy": plain_copy,
                "digest": lambda: source.contents(table, TENANT, source.partitions(table, TENANT)),
                "search": lambda: search(table, source),
                "plain read": plain_read,
            },
        ),
    )


def clickhouse_figures(folder: Path, rows: int, days: int, count: int) -> dict[str, Any]:
    with two_servers(folder) as servers, contextlib.ExitStack() as stack:
        made = [ClickHouseWarehouse(server, SCHEMA) for server in servers]
        clients = [server.client() for server in servers]
        for warehouse in made:
            stack.callback(warehouse.close)
        for client in clients:
            stack.callback(client.close)
        for warehouse in made:
            for name in ("facts", "plain"):
                warehouse.run(
                    f"create table {SCHEMA}.{name} (tenant_id String, happened DateTime64(6, 'UTC'), who String,"
                    " what String, amount Float64) engine = MergeTree order by (tenant_id, happened)"
                )
        for tenant in (TENANT, NEIGHBOUR):
            made[0].run(
                f"insert into {SCHEMA}.facts select '{tenant}', toDateTime64('2026-01-01', 6, 'UTC')"
                f" + toIntervalDay(number % {days}), lower(hex(MD5(toString(number)))),"
                f" repeat(lower(hex(MD5(toString(number * 7)))), 3), number / 7 from numbers({rows})"
            )
        table, source, target = facts(SCHEMA), made[0].engine(), made[1].engine()
        for engine in (source, target):
            stack.callback(engine.close)
        query = f"select * from {SCHEMA}.facts where tenant_id = '{TENANT}'"

        def plain_copy() -> None:
            made[1].run(f"truncate table {SCHEMA}.plain sync")
            clients[1].raw_insert(
                f"{SCHEMA}.plain", insert_block=clients[0].raw_query(query, fmt="Native"), fmt="Native"
            )

        return report(
            "clickhouse",
            rows,
            rounds(
                count,
                {
                    "copy": lambda: carry(table, source, target),
                    "plain copy": plain_copy,
                    "digest": lambda: source.contents(table, TENANT, source.partitions(table, TENANT)),
                    "search": lambda: search(table, source),
                    "plain read": lambda: clients[0].raw_query(query, fmt="Native"),
                },
            ),
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=500_000, help="of the tenant; a neighbour has as many")
    parser.add_argument("--days", type=int, default=10, help="partitions")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tenure-bench-") as folder:
        duckdb_figures(Path(folder), given.rows, given.days, given.rounds)
        clickhouse_figures(Path(folder) / "clickhouse", given.rows, given.days, given.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
