"""How fast a search is beside a plain read of the same bytes from the same server, store by store.

usage: python -m bench.scan [--mb 64] [--rounds 3]

PostgreSQL beside `COPY ... TO STDOUT`, Redis beside `SCAN` with pipelined `GET`, S3 beside listing and `GET` with as
many threads. One item in a thousand mentions the tenant, and one in ten a neighbour of a similar name. Both sides
alternate; printed are the medians, their ratio (1.0: as fast as the plain read) and its spread. Exits with 1 if a
search did not find every mention.
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
from typing import Any

import psycopg
import redis

from bench.backup import client_of
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
from tenure.model.search import Search, tenant_identifier
from tenure.model.secret import Secret
from tenure.stores.contract import Store
from tenure.stores.postgres import PostgresStore
from tenure.stores.redis import RedisStore
from tenure.stores.s3 import S3Store
from tests.contract.rigs.s3 import ProcessMutex

ITEM_BYTES = 2000
EVERY = 1000
OBJECT_ITEMS = 50
ACME = TenantId("acme")
SEARCH = Search(identifiers=(tenant_identifier(ACME),), known=frozenset({ACME, TenantId("acme2")}))
CELL, PREFIX = CellName("bench"), "t:{tenant}:"


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A store with so many mentions in it, and the plain read of its bytes."""

    store: Store
    mentions: int
    plain: Callable[[], int]


def text(n: int) -> str:
    name = "acme" if n % EVERY == 0 else "acme2" if n % 10 == 0 else "globex"
    return f"item {n} for {name} " + "lorem ipsum dolor " * (ITEM_BYTES // 18)


def in_postgres(servers: RunningEstate, items: int) -> Contender:
    dsn = servers.dsn("pg")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create table notes (id bigint, body text)")
        connection.execute("alter table notes alter body set storage external")
        with connection.cursor() as cursor, cursor.copy("copy notes from stdin") as copy:
            for n in range(items):
                copy.write_row((n, text(n)))
        connection.execute("vacuum analyze notes")

    def plain() -> int:
        with (
            psycopg.connect(dsn) as connection,
            connection.cursor() as cursor,
            cursor.copy("copy notes to stdout") as copy,
        ):
            return sum(len(block) for block in copy)

    store = PostgresStore(name=StoreName("postgres"), cell=CELL, dsn=Secret(dsn), tables=[])
    return Contender(store=store, mentions=-(-items // EVERY), plain=plain)


def in_redis(servers: RunningEstate, items: int) -> Contender:
    url = servers.url("valkey")
    client: Any = redis.Redis.from_url(url)
    pipe = client.pipeline(transaction=False)
    for n in range(items):
        pipe.set(f"note:{n}", text(n))
        if n % 1000 == 0:
            pipe.execute()
    pipe.execute()

    def plain() -> int:
        cursor, size = 0, 0
        while True:
            cursor, keys = client.scan(cursor, count=500)
            values = client.pipeline(transaction=False)
            for key in keys:
                values.get(key)
            size += sum(map(len, values.execute()))
            if int(cursor) == 0:
                return size

    store = RedisStore(name=StoreName("redis"), cell=CELL, url=Secret(url), prefix=PREFIX, acl_user=None)
    return Contender(store=store, mentions=-(-items // EVERY), plain=plain)


def in_s3(servers: RunningEstate, items: int) -> Contender:
    s3, bucket = servers.s3("seaweed"), "bench-scan"
    client = client_of(s3)
    client.create_bucket(Bucket=bucket)
    starts = range(0, items, OBJECT_ITEMS)

    def put(start: int) -> bool:
        body = "\n".join(text(n) for n in range(start, min(items, start + OBJECT_ITEMS)))
        client.put_object(Bucket=bucket, Key=f"notes/{start}", Body=body.encode())
        return any(n % EVERY == 0 for n in range(start, min(items, start + OBJECT_ITEMS)))

    with ThreadPoolExecutor(8) as pool:
        mentions = sum(pool.map(put, starts))

    def read(key: str) -> int:
        return len(client.get_object(Bucket=bucket, Key=key)["Body"].read())

    def plain() -> int:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        with ThreadPoolExecutor(8) as pool:
            return sum(sum(pool.map(read, [o["Key"] for o in page["Contents"]])) for page in pages)

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
    return Contender(store=store, mentions=mentions, plain=plain)


@contextmanager
def servers() -> Iterator[RunningEstate]:
    folder = Path(tempfile.mkdtemp(prefix="tenure-scan-"))
    folder.chmod(0o755)
    chosen = (PostgresServer(name="pg"), ValkeyServer(name="valkey"), SeaweedServer(name="seaweed"))
    estate = up(EstateSpec(folder=folder / "estate", servers=chosen, durable=False), owner=True)
    try:
        yield estate
    finally:
        estate.close()
        down(estate.folder, remove=True)
        folder.rmdir()


def seconds(work: Callable[[], int]) -> tuple[float, int]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def mentions(store: Store) -> int:
    return sum(f.items for page in store.find(SEARCH) for f in page.found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    items, wrong = options.mb * 1_000_000 // ITEM_BYTES, False
    with servers() as estate:
        print(f"{'store':<10} {'plain MB/s':>12} {'search MB/s':>12} {'ratio':>7}  spread")
        for make in (in_postgres, in_redis, in_s3):
            its = make(estate, items)
            plain, searched, size = [], [], 0
            for _ in range(options.rounds):
                took, size = seconds(its.plain)
                plain.append(took)
                took, found = seconds(lambda store=its.store: mentions(store))  # type: ignore[misc]
                searched.append(took)
                wrong |= found != its.mentions
            ratios = sorted(p / s for p, s in zip(plain, searched, strict=True))
            speeds = (size / statistics.median(times) / 1e6 for times in (plain, searched))
            shown = "  ".join(f"{speed:>11.0f}" for speed in speeds)
            spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
            print(f"{its.store.name:<10} {shown} {statistics.median(ratios):>7.2f}  {spread}")
            its.store.close()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
