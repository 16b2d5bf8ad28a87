"""What PostgreSQL's part of a backup costs, beside `pg_dump -Fc` and `pg_restore`, on the same rows in the same run.

usage: python -m bench.backup_postgres [--rows 200000] [--rounds 3]

One tenant's rows in two tables, taken in turn in each round:
- out of PostgreSQL 16: Tenure's capture into a sink that keeps nothing, with the digests of both tables; `pg_dump -Fc`
  and, to know what compression takes of it, `pg_dump -Fc -Z0`, into a file;
- into PostgreSQL 18, where the tables are and have nothing: Tenure's load, with its look at foreign keys; `pg_restore
  --data-only` of each of the dumps, as only that goes into tables which tenants share.
And how long the tenant is held for it: fence, point, open.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import psycopg

from bench.postgres import CLIENTS, MOVING, Servers, fill, ratios, table_in
from tenure.backups.contract import Header, Part
from tenure.estate.local import EstateSpec, PostgresServer, down, up
from tenure.model.names import CellName, StoreName
from tenure.model.secret import Secret
from tenure.stores.contract import Fence
from tenure.stores.postgres import PostgresStore, TenantTable
from tests.contract.memory_backup import MemoryBackup, Writer

TABLES: Final = ("documents", "parts")
BLOCK: Final = 256 * 1024
FENCE: Final = Fence(tenant=MOVING, epoch=1, token=1)


class Nothing(MemoryBackup):
    """A sink that counts bytes."""

    def stream(self, store: StoreName, collection: str, part: Part, header: Header) -> Writer:
        writer = super().stream(store, collection, part, header)
        writer.write = lambda data: None  # type: ignore[method-assign]
        return writer


def store(cell: str, dsn: str) -> PostgresStore:
    return PostgresStore(
        name=StoreName("postgres"),
        cell=CellName(cell),
        dsn=Secret(dsn),
        tables=[TenantTable(schema="public", name=name, tenant_column="tenant_id") for name in TABLES],
    )


def captured(source: PostgresStore, backup: MemoryBackup) -> tuple[float, float]:
    """Seconds of all of it, and of the hold."""
    began = time.perf_counter()
    capture = source.capture(MOVING)
    capture.start(FENCE)
    held = time.perf_counter()
    source.fence(FENCE, expires_in_s=None, drain_s=10)
    capture.pin(backup, FENCE)
    source.open(FENCE)
    held = time.perf_counter() - held
    backup.complete(source.name, capture.rest(backup))
    capture.close(FENCE)
    return time.perf_counter() - began, held


def tool(name: str, *arguments: str | Path) -> float:
    began = time.perf_counter()
    subprocess.run([CLIENTS / name, *arguments], check=True)
    return time.perf_counter() - began


def out_of(
    dsn: str, source: PostgresStore, folder: Path, rounds: int
) -> tuple[dict[str, list[float]], list[float]]:
    """Seconds of each way, and of the holds."""
    times: dict[str, list[float]] = {"tenure": [], "pg_dump": [], "pg_dump_plain": []}
    holds = []
    for _ in range(rounds):
        whole, held = captured(source, Nothing(MOVING))
        times["tenure"].append(whole)
        holds.append(held)
        times["pg_dump"].append(tool("pg_dump", "-Fc", "-N", "tenure", "-f", folder / "dump", dsn))
        times["pg_dump_plain"].append(
            tool("pg_dump", "-Fc", "-Z0", "-N", "tenure", "-f", folder / "plain", dsn)
        )
    return times, holds


def into(
    dsn: str, target: PostgresStore, backup: MemoryBackup, folder: Path, rounds: int
) -> dict[str, list[float]]:
    """Seconds of each way into tables that have nothing."""
    restoring = target.restoring(MOVING, MOVING)

    def load() -> float:
        target.fence(FENCE, expires_in_s=None, drain_s=10)
        began = time.perf_counter()
        restoring.load(backup, FENCE)
        return time.perf_counter() - began

    def restore(dump: str) -> Callable[[], float]:
        return lambda: tool("pg_restore", "--data-only", "-d", dsn, folder / dump)

    ways = {"tenure": load, "pg_restore": restore("dump"), "pg_restore_plain": restore("plain")}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            emptied(dsn, target)
            times[name].append(way())
    return times


def emptied(dsn: str, target: PostgresStore) -> None:
    target.open(FENCE)
    with psycopg.connect(dsn, autocommit=True) as connection:
        for name in TABLES:
            connection.execute(f"truncate public.{name}".encode())
        connection.execute("checkpoint")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000, help="in each of the two tables")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="tenure-bench-"))
    folder.chmod(0o755)  # the servers' account has to get in
    spec = EstateSpec(
        folder=folder / "estate",
        servers=(PostgresServer(name="source", version=16), PostgresServer(name="target")),
    )
    estate = up(spec, owner=True)
    try:
        servers = Servers(estate=estate)
        with servers.database("source", "blue") as blue, servers.database("target", "green") as green:
            for name in TABLES:
                table_in(blue, name)
                table_in(green, name)
                fill(blue, name, MOVING, options.rows)
            source, target = store("blue", blue), store("green", green)
            out, holds = out_of(blue, source, folder, options.rounds)
            backup = MemoryBackup(MOVING, block=BLOCK)
            captured(source, backup)
            result = {
                "rows": 2 * options.rows,
                "stream_mb": round(backup.written() / 1e6, 1),
                "out": ratios(out, "pg_dump"),
                "hold_ms": [round(held * 1000, 1) for held in holds],
                "into": ratios(into(green, target, backup, folder, options.rounds), "pg_restore"),
            }
            source.close()
            target.close()
    finally:
        estate.close()
        down(estate.folder, remove=True)
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
