"""What Pinecone's part of a move costs, beside the fastest way to fill a namespace: the same records, the same run.

usage: python -m bench.pinecone [--records 20000] [--dimension 384] [--rounds 3]

Both indexes are on stand-ins, each a process of its own, with their rate limits switched off: Pinecone's own speed this
does not tell. What it tells is how much of a bulk upsert's speed the copy reaches, as a ratio of medians taken in turn:
- `bulk`: the vendor's SDK upserts the same records, which are in memory, in batches as large as allowed, from as many
  threads as the copy uses;
- `copy`: the live copy from its start until it follows: listing both sides, fetching, upserting, the fence's record and
  the journal in PostgreSQL included;
- `read`: listing and fetching the same records, with as many threads;
- `compare`: the full comparison of both sides.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Final

import psycopg
from psycopg import sql

from tenure.catalogue import Template
from tenure.estate.local import (
    EstateSpec,
    PineconeServer,
    PostgresServer,
    RunningEstate,
    Server,
    down,
    up,
)
from tenure.model.comparison import Comparison
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.secret import Secret
from tenure.stores.contract import Fence
from tenure.stores.pinecone import Limiter, Login, PineconeCopy, PineconeStore, Rates
from tenure.stores.pinecone.copy import BATCH, COPIERS
from tenure.stores.pinecone.records import Record, upserts
from tenure.stores.postgres import PostgresJournal, PostgresStore, PostgresTenantFence, TenantTable
from tests.pinecone_stand_in import StandIn

TENANT: Final = TenantId("bench")
SIDES: Final = ("source", "target")
DEADLINE_S: Final = 900.0


def records(count: int, dimension: int) -> list[Record]:
    chance = random.Random(3)
    return [
        Record(
            id=f"doc-{n // 8:07d}#{n % 8}",
            values=[chance.uniform(-1, 1) for _ in range(dimension)],
            metadata={"document": f"doc-{n // 8:07d}", "text": "lorem ipsum dolor " * 12, "page": n % 8},
        )
        for n in range(count)
    ]


@contextmanager
def servers(dimension: int) -> Iterator[RunningEstate]:
    """Two stand-ins and two PostgreSQL servers."""
    folder = Path(tempfile.mkdtemp(prefix="tenure-bench-"))
    folder.chmod(0o755)
    specs: tuple[Server, ...] = (
        *(PineconeServer(name=f"pinecone-{side}", indexes={side: dimension}) for side in SIDES),
        *(PostgresServer(name=f"pg-{side}") for side in SIDES),
    )
    running = up(EstateSpec(folder=folder / "estate", servers=specs), owner=True)
    try:
        yield running
    finally:
        running.close()
        down(running.folder, remove=True)
        folder.rmdir()


class Side:
    """One cell: its index, and its PostgreSQL with the fence and the journal."""

    def __init__(self, estate: RunningEstate, side: str, database: str) -> None:
        with psycopg.connect(estate.dsn(f"pg-{side}"), autocommit=True) as admin:
            admin.execute(sql.SQL("create database {}").format(sql.Identifier(database)))
        dsn = estate.dsn(f"pg-{side}", database)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(
                "create table public.items (tenant_id text, id text, primary key (tenant_id, id))"
            )
        self.carrier = PostgresStore(
            name=StoreName("postgres"),
            cell=CellName(side),
            dsn=Secret(dsn),
            tables=[TenantTable(schema="public", name="items", tenant_column="tenant_id")],
        )
        endpoint = estate.pinecone(f"pinecone-{side}")
        self.store = PineconeStore(
            name=StoreName("semantics"),
            cell=CellName(side),
            login=Login(host=endpoint.hosts[side], index=None, control=None, api_key=endpoint.api_key),
            namespace=Template.name("t-{tenant}"),
            anchor=PostgresTenantFence(self.carrier),
            limiter=Limiter(Rates(per_second={}), shared=None, alone=1.0),
            fields={},
        )

    @property
    def journal(self) -> PostgresJournal:
        return PostgresJournal(self.carrier)

    def close(self) -> None:
        self.store.close()
        self.carrier.close()


def bulk(store: PineconeStore, namespace: str, batches: list[list[Record]]) -> None:
    """The same records, from memory, as fast as they go."""
    with ThreadPoolExecutor(max_workers=COPIERS) as pool:
        for done in [pool.submit(store.client.upsert, namespace, batch) for batch in batches]:
            done.result()


def read(store: PineconeStore) -> None:
    ids = [one for page in store.ids(TENANT) for one in page]
    with ThreadPoolExecutor(max_workers=COPIERS) as pool:
        batches = [ids[n : n + BATCH] for n in range(0, len(ids), BATCH)]
        for done in [pool.submit(store.fetch, TENANT, batch) for batch in batches]:
            done.result()


def copied(copy: PineconeCopy, fence: Fence) -> None:
    copy.target.fence(fence, expires_in_s=None, drain_s=5.0)
    copy.start(fence)
    deadline = time.monotonic() + DEADLINE_S
    while not copy.progress().following:
        if time.monotonic() > deadline:
            sys.exit("the copy does not end")
        time.sleep(0.01)


def timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def one_round(estate: RunningEstate, n: int, there: list[Record]) -> dict[str, float]:
    """Seconds of each, in turn."""
    batches = list(upserts(there))
    with ExitStack() as stack:
        source, target = (Side(estate, side, f"round{n}") for side in SIDES)
        stack.callback(source.close)
        stack.callback(target.close)
        if n == 0:
            bulk(source.store, source.store.namespace(TENANT), batches)
        times = {"bulk": timed(lambda: bulk(target.store, f"bulk-{n}", batches))}
        target.store.client.drop(f"bulk-{n}")
        copy = PineconeCopy(
            link=f"bench-{n}",
            tenant=TENANT,
            source=source.store,
            target=target.store,
            source_journal=source.journal,
            target_journal=target.journal,
        )
        stack.callback(copy.detach)
        fence = Fence(tenant=TENANT, epoch=1, token=n + 1)
        times["copy"] = timed(lambda: copied(copy, fence))
        times["read"] = timed(lambda: read(source.store))
        seen: list[Comparison] = []
        times["compare"] = timed(lambda: seen.append(copy.compare()))
        if not seen[0].equal or seen[0].processed != len(there):
            sys.exit(f"the copy is not equal: {seen[0]}")
        copy.stop(fence)
        target.store.erase(fence)
    return times


def run(estate: RunningEstate, count: int, dimension: int, rounds: int) -> dict[str, object]:
    for side in SIDES:
        StandIn(estate.pinecone(f"pinecone-{side}")).behave(limits=None)
    there = records(count, dimension)
    each = [one_round(estate, n, there) for n in range(rounds)]
    result: dict[str, object] = {"records": count, "dimension": dimension}
    for name in each[0]:
        speeds = [times["bulk"] / times[name] for times in each]
        result[name] = {
            "vectors_per_s": round(count / median(times[name] for times in each)),
            "speed_to_bulk": round(median(speeds), 2),
            "least": round(min(speeds), 2),
            "greatest": round(max(speeds), 2),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with servers(options.dimension) as estate:
        print(json.dumps(run(estate, options.records, options.dimension, options.rounds), indent=1))


if __name__ == "__main__":
    main()
