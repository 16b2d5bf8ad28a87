"""Comparing a tenant's rows on two servers: a sum of row hashes, where it differs one per bucket of keys, then rows.

One sum takes half as long as the buckets. Buckets come from a hash of the key and not from ranges of it, so that
servers with different collations agree on them, and one pass over the tenant's rows gives all of them. What two equal
sums can miss is a collision of 64-bit hashes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from psycopg import sql
from psycopg.types.json import Jsonb

from tenure.errors import StoreRefused
from tenure.model.comparison import Difference, DifferenceKind
from tenure.model.names import TenantId
from tenure.stores.postgres.connect import Pool, Query
from tenure.stores.postgres.tables import Table, gaps, shared

ROWS_PER_BUCKET: Final = 64
MOST_BUCKETS: Final = 1 << 18
KEYS_PER_QUERY: Final = 5_000

Key = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Side:
    """A table on one of the two servers."""

    pool: Pool
    table: Table


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The same table on both servers."""

    source: Side
    target: Side

    @property
    def collection(self) -> str:
        return self.source.table.collection


@dataclass(kw_only=True)
class Tally:
    """What was seen of one table: how many keys, and which of them differ."""

    processed: int = 0
    differing: dict[Key, DifferenceKind] = field(default_factory=dict)

    def differences(self, collection: str) -> tuple[Difference, ...]:
        return tuple(
            Difference(collection=collection, key=key_json(key), kind=kind)
            for key, kind in sorted(self.differing.items())
        )


def key_json(key: Sequence[str]) -> str:
    return json.dumps(list(key), ensure_ascii=False)


def pairs(source: Pool, sources: Iterable[Table], target: Pool, targets: Iterable[Table]) -> list[Pair]:
    """The tables of both sides, matched by name and cut down to the columns that both have.

    Raises `StoreRefused` where they differ in more than a move can go over (`tables.gaps`).
    """
    there = {t.collection: t for t in targets}
    matched = []
    for table in sources:
        other = there[table.collection]
        refused = [gap for gap in gaps(table, other) if gap.obstacle]
        if refused:
            named = "; ".join(f"{gap} ({gap.obstacle})" for gap in refused)
            raise StoreRefused(
                f"{table.collection} is not the same table in {source.where} (here) and {target.where} (there):"
                f" {named}",
                hint="run the schema migrations that one side lacks",
            )
        matched.append(
            Pair(
                source=Side(pool=source, table=shared(table, other)),
                target=Side(pool=target, table=shared(other, table)),
            )
        )
    return matched


def _both(pair: Pair, read: Callable[[Side], Any]) -> tuple[Any, Any]:
    """Read both sides at the same time."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        target = thread.submit(read, pair.target)
        source = read(pair.source)
        return source, target.result()


def count_and_sum(side: Side, tenant: TenantId) -> tuple[int, int]:
    """How many rows the tenant has, and the sum of their hashes."""
    rows = side.pool.rows(
        sql.SQL("select count(*), coalesce(sum({}), 0) from {} where {}").format(
            side.table.row_hash, side.table.spec.sql, side.table.of_tenant(tenant)
        )
    )
    return int(rows[0][0]), int(rows[0][1])


def _buckets(side: Side, tenant: TenantId, mask: int) -> dict[int, tuple[int, int]]:
    rows = side.pool.rows(
        sql.SQL("select {} & {}, count(*), sum({}) from {} where {} group by 1").format(
            side.table.key_hash,
            sql.Literal(mask),
            side.table.row_hash,
            side.table.spec.sql,
            side.table.of_tenant(tenant),
        )
    )
    return {bucket: (count, int(total)) for bucket, count, total in rows}


def _rows_of_buckets(side: Side, tenant: TenantId, mask: int, buckets: Sequence[int]) -> dict[Key, int]:
    rows = side.pool.rows(
        sql.SQL("select {}, {} from {} where {} and ({} & {}) = any(%(buckets)s::int8[])").format(
            side.table.key_text,
            side.table.row_hash,
            side.table.spec.sql,
            side.table.of_tenant(tenant),
            side.table.key_hash,
            sql.Literal(mask),
        ),
        {"buckets": list(buckets)},
    )
    return {tuple(key): digest for key, digest in rows}


def expected_rows(side: Side, tenant: TenantId) -> tuple[int, int]:
    """The planner's estimate of the tenant's rows and their average width in bytes."""
    plan = side.pool.value(
        sql.SQL("explain (format json) select {} from {} where {}").format(
            sql.SQL(", ").join(sql.Identifier(c.name) for c in side.table.columns),
            side.table.spec.sql,
            side.table.of_tenant(tenant),
        )
    )
    return int(plan[0]["Plan"]["Plan Rows"]), int(plan[0]["Plan"]["Plan Width"])


def compare_table(pair: Pair, tenant: TenantId) -> Tally:
    """Compare all of the tenant's rows of one table."""
    whole, other = _both(pair, lambda side: count_and_sum(side, tenant))
    if whole == other:
        return Tally(processed=whole[0])
    expected = max(expected_rows(pair.source, tenant)[0], expected_rows(pair.target, tenant)[0])
    mask = min(MOST_BUCKETS, 1 << (expected // ROWS_PER_BUCKET).bit_length()) - 1
    here, there = _both(pair, lambda side: _buckets(side, tenant, mask))
    tally = Tally(
        processed=sum(count for bucket, (count, _) in here.items() if here[bucket] == there.get(bucket))
    )
    differing = sorted(b for b in here.keys() | there.keys() if here.get(b) != there.get(b))
    if differing:
        mine, theirs = _both(pair, lambda side: _rows_of_buckets(side, tenant, mask, differing))
        _classify(tally, mine, theirs)
    return tally


def _classify(tally: Tally, mine: dict[Key, int], theirs: dict[Key, int]) -> None:
    tally.processed += len(mine.keys() | theirs.keys())
    for key in mine.keys() - theirs.keys():
        tally.differing[key] = DifferenceKind.MISSING
    for key in theirs.keys() - mine.keys():
        tally.differing[key] = DifferenceKind.EXTRA
    for key in mine.keys() & theirs.keys():
        if mine[key] != theirs[key]:
            tally.differing[key] = DifferenceKind.MISMATCHED


def by_keys(table: Table, tenant: TenantId, select: sql.Composable, *, suffix: str = "") -> Query:
    """A query of the tenant's rows `r` whose keys are in the parameter `keys`, a jsonb array of keys.

    A tenant column is part of the condition: a key that names another tenant's row finds nothing.
    """
    return sql.SQL(
        "with k as materialized (select tenure_key from jsonb_array_elements(%(keys)s::jsonb) j (tenure_key))"
        " select {} from k join {} r on {} and {} {}"
    ).format(
        select,
        table.spec.sql,
        table.key_match("k", "r"),
        table.of_tenant(tenant, "r"),
        sql.SQL(suffix),
    )


def _rows_of_keys(side: Side, tenant: TenantId, keys: Sequence[Key]) -> dict[Key, int]:
    query = by_keys(side.table, tenant, sql.SQL("k.tenure_key, {}").format(side.table.row_hash))
    found: dict[Key, int] = {}
    for start in range(0, len(keys), KEYS_PER_QUERY):
        batch = [list(k) for k in keys[start : start + KEYS_PER_QUERY]]
        found |= {tuple(key): digest for key, digest in side.pool.rows(query, {"keys": Jsonb(batch)})}
    return found


def compare_keys(pair: Pair, tenant: TenantId, keys: Sequence[Key]) -> Tally:
    """Compare the rows of these keys. A key that neither side has counts as processed: it matches."""
    mine, theirs = _both(pair, lambda side: _rows_of_keys(side, tenant, keys))
    tally = Tally(processed=len(set(keys)) - len(mine.keys() | theirs.keys()))
    _classify(tally, mine, theirs)
    return tally
