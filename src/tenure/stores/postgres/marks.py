"""Marks in a direction's feed: written on the source, awaited on the target, and the sequences that follow them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from psycopg.types.json import Jsonb

from tenure.errors import DeadlineExceeded, StoreRefused
from tenure.model.names import TenantId
from tenure.stores.contract import Mark
from tenure.stores.postgres import replication
from tenure.stores.postgres.connect import Pool
from tenure.stores.postgres.tables import TenantTable

WAIT_MS: Final = 250
"""How long one wait lasts on the server before the subscription's health is looked at."""
SEQUENCE_MARGIN: Final = 10_000
"""Sequences that are behind by at most that many numbers are raised by drawing these; others jump that far ahead of the
source, because neighbours may draw numbers between the look and the jump (see `tenure.raise_sequences`)."""


def write(pool: Pool, direction: str, tenant: TenantId) -> Mark:
    """Write the next mark. One round trip."""
    n = pool.value("select tenure.write_mark(%(tenant)s, %(link)s)", {"tenant": tenant, "link": direction})
    return Mark(link=direction, n=int(n))


def wait(pool: Pool, mark: Mark, tenant: TenantId, *, timeout_s: float) -> None:
    """Return when everything up to the mark is on `pool`'s server, the first copy of every table included."""
    deadline = time.monotonic() + timeout_s
    failures = None
    while True:
        left_ms = round((deadline - time.monotonic()) * 1000)
        arrived, tables_left = pool.rows(
            "select tenure.await_mark(%(tenant)s, %(link)s, %(n)s, %(wait)s), (select count(*) from pg_subscription s"
            " join pg_subscription_rel r on r.srsubid = s.oid where s.subname = %(link)s and r.srsubstate <> 'r')",
            {"tenant": tenant, "link": mark.link, "n": mark.n, "wait": max(1, min(WAIT_MS, left_ms))},
        )[0]
        if arrived and not tables_left:
            return
        if arrived:
            time.sleep(0.05)
        found = replication.check(pool, mark.link)
        failures = found.errors if failures is None else failures
        if time.monotonic() > deadline:
            if found.errors > failures or not found.running:
                raise StoreRefused(
                    f"{pool.where}: the changes are not being applied ({found.errors} errors so far)",
                    hint=f"the reason is in the server's log, at the worker for subscription {mark.link}",
                )
            raise DeadlineExceeded(
                f"{pool.where}: not everything had arrived within {timeout_s:g} s",
                hint="the source writes faster than the target applies, or the copy is not complete yet",
            )


def last_values(pool: Pool, specs: Sequence[TenantTable]) -> dict[str, int]:
    """The last value drawn from the sequence behind each column `schema.table.column` that has one."""
    rows = pool.rows("select * from tenure.sequences(%(schemas)s, %(tables)s)", _tables(specs))
    return {column: last for column, _, last in rows if last is not None}


def raise_sequences(pool: Pool, specs: Sequence[TenantTable], wanted: dict[str, int]) -> None:
    """No sequence is behind `wanted`. Never lowers one: neighbours draw from them as well."""
    if wanted:
        pool.rows(
            "select tenure.raise_sequences(%(schemas)s, %(tables)s, %(wanted)s, %(margin)s)",
            {**_tables(specs), "wanted": Jsonb(wanted), "margin": SEQUENCE_MARGIN},
        )


def _tables(specs: Sequence[TenantTable]) -> dict[str, object]:
    return {"schemas": [t.schema for t in specs], "tables": [t.name for t in specs]}
