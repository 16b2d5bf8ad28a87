"""How fast a tenant is erased, beside each engine's own bulk delete of the same data, store by store.

usage: python -m bench.erase [--items 50000] [--rounds 3]

PostgreSQL 18 beside `DELETE ... WHERE tenant_id = ...` in one transaction per table (ten times as many items), Redis
beside `SCAN` with pipelined `UNLINK`, S3 beside listing and `DeleteObjects` with as many at once (a tenth). Beside the
tenant lies as much of a neighbour. Both sides alternate, each on data written anew; printed are the medians in items
per second, their ratio (1.0: as fast as the bulk delete) and its spread. Fence and opening count as part of it.
Exits with 1 if anything of the tenant was left or anything of the neighbour changed, and says where.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
import redis

from bench.backup import client_of
from bench.postgres import fill, table_in
from tenure.estate.local import (
    EstateSpec,
    PostgresServer,
    RunningEstate,
    SeaweedServer,
    ValkeyServer,
    down,
    up,
)
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.secret import Secret
from tenure.stores.contract import Fence, Store
from tenure.stores.postgres import PostgresStore, TenantTable
from tenure.stores.redis import RedisStore
from tenure.stores.s3 import S3Store
from tests.contract.rigs.s3 import ProcessMutex

GONE, STAYS = TenantId("gone"), TenantId("gone2")
CELL: Final = CellName("bench")
TABLES: Final = ("documents", "parts")
PIPELINE: Final = 1000
ROWS_FOR, OBJECTS_OF = 10, 10
"""So many rows for one item, and one object for so many: they take that much less and more."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A store, how it is filled with so many items of a tenant, and the engine's own bulk delete."""

    store: Store
    items: int
    fill: Callable[[TenantId], None]
    bulk: Callable[[], None]


def in_postgres(servers: RunningEstate, items: int) -> Contender:
    dsn, rows = servers.dsn("pg"), items * ROWS_FOR
    for table in TABLES:
        table_in(dsn, table)

    def fill_(tenant: TenantId) -> None:
        for table in TABLES:
            fill(dsn, table, tenant, rows // len(TABLES))

    def bulk() -> None:
        with psycopg.connect(dsn) as connection:
            for table in TABLES:
                connection.execute(f"delete from {table} where tenant_id = %s", (GONE,))
                connection.commit()

    tables = [TenantTable(schema="public", name=name, tenant_column="tenant_id") for name in TABLES]
    store = PostgresStore(name=StoreName("postgres"), cell=CELL, dsn=Secret(dsn), tables=tables)
    return Contender(store=store, items=rows, fill=fill_, bulk=bulk)


def in_redis(servers: RunningEstate, items: int) -> Contender:
    url = servers.url("valkey")
    client: Any = redis.Redis.from_url(url)

    def fill_(tenant: TenantId) -> None:
        for first in range(0, items, PIPELINE):
            pipe = client.pipeline(transaction=False)
            for n in range(first, min(items, first + PIPELINE)):
                pipe.set(f"t:{tenant}:{n}", f"value {n} " * 20)
            pipe.execute()

    def bulk() -> None:
        cursor = 0
        while True:
            cursor, keys = client.scan(cursor, match=f"t:{GONE}:*", count=PIPELINE)
            if keys:
                client.unlink(*keys)
            if int(cursor) == 0:
                return

    store = RedisStore(
        name=StoreName("redis"), cell=CELL, url=Secret(url), prefix="t:{tenant}:", acl_user=None
    )
    return Contender(store=store, items=items, fill=fill_, bulk=bulk)


def in_s3(servers: RunningEstate, items: int) -> Contender:
    s3, bucket, objects = servers.s3("seaweed"), "bench-erase", items // OBJECTS_OF
    client = client_of(s3)
    client.create_bucket(Bucket=bucket)

    def put(key: str) -> None:
        client.put_object(Bucket=bucket, Key=key, Body=b"x" * 1000)

    def fill_(tenant: TenantId) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, (f"tenants/{tenant}/{n}" for n in range(objects))))

    def bulk() -> None:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"tenants/{GONE}/")
        for page in pages:
            keys = [{"Key": o["Key"]} for o in page.get("Contents", ())]
            if keys:
                client.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})

    store = S3Store(
        name=StoreName("objects"),
        cell=CELL,
        endpoint=s3.endpoint,
        bucket=bucket,
        region=s3.region,
        access_key=s3.access_key,
        secret_key=s3.secret_key,
        prefix="tenants/{tenant}/",
        principal=None,
        mutex=ProcessMutex(),
    )
    return Contender(store=store, items=objects, fill=fill_, bulk=bulk)


@contextmanager
def servers() -> Iterator[RunningEstate]:
    folder = Path(tempfile.mkdtemp(prefix="tenure-erase-"))
    folder.chmod(0o755)
    chosen = (PostgresServer(name="pg"), ValkeyServer(name="valkey"), SeaweedServer(name="seaweed"))
    estate = up(EstateSpec(folder=folder / "estate", servers=chosen, durable=False), owner=True)
    try:
        yield estate
    finally:
        estate.close()
        down(estate.folder, remove=True)
        folder.rmdir()


def erased(store: Store) -> None:
    fence = Fence(tenant=GONE, epoch=1, token=time.time_ns())
    store.fence(fence, expires_in_s=None, drain_s=10)
    try:
        store.erase(fence)
    finally:
        store.open(fence)


def digests(store: Store) -> dict[str, tuple[int, str]]:
    """Of the neighbour; sizes are estimates."""
    return {name: (c.items, c.digest) for name, c in store.inventory(STAYS).collections.items()}


def seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    wrong: list[str] = []
    with servers() as estate:
        print(f"{'store':<10} {'bulk, items/s':>14} {'erase, items/s':>15} {'ratio':>7}  spread")
        for make in (in_postgres, in_redis, in_s3):
            its = make(estate, options.items)
            its.fill(STAYS)
            stays = digests(its.store)
            times: dict[str, list[float]] = {"bulk": [], "erase": []}
            for _ in range(options.rounds):
                for name, work in (("bulk", its.bulk), ("erase", lambda store=its.store: erased(store))):
                    its.fill(GONE)
                    times[name].append(seconds(work))
                    left = its.store.inventory(GONE).items
                    wrong += [f"{its.store.name}: {left} items left by {name}"] if left else []
            if digests(its.store) != stays:
                wrong.append(f"{its.store.name}: the neighbour changed")
            ratios = sorted(b / e for b, e in zip(times["bulk"], times["erase"], strict=True))
            bulk, erase = (its.items / statistics.median(times[name]) for name in ("bulk", "erase"))
            spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
            ratio = statistics.median(ratios)
            print(f"{its.store.name:<10} {bulk:>14,.0f} {erase:>15,.0f} {ratio:>7.2f}  {spread}", flush=True)
            its.store.close()
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
