"""What stands in the way of moving a tenant between two PostgreSQL servers, found before anything is changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from psycopg import sql
from psycopg.types.json import Jsonb

from tenure.model.finding import Finding, Severity
from tenure.model.names import TenantId
from tenure.stores.postgres import catalog_checks, home_checks, replication
from tenure.stores.postgres import fence as fences
from tenure.stores.postgres.connect import Pool
from tenure.stores.postgres.home import Home
from tenure.stores.postgres.store import PostgresStore
from tenure.stores.postgres.tables import Table, describe

OLDEST_SERVER: Final = 160000
LONG_TRANSACTION_S: Final = 60
KEYS_PER_QUERY: Final = 10_000
NOTHING_MORE: Final = frozenset(("server_too_old", "database_missing"))
"""With one of these, what else is to be asked about the tables has no answer."""


def finding(severity: Severity, code: str, where: str, message: str, fix: str) -> Finding:
    return Finding(severity=severity, code=code, where=where, message=message, fix=fix)


def refusal(code: str, where: str, message: str, fix: str) -> Finding:
    return finding(Severity.REFUSAL, code, where, message, fix)


def preflight(
    source: PostgresStore, target: PostgresStore, tenant: TenantId, direction: str
) -> list[Finding]:
    """All findings, the gravest first. Reads only."""
    one, other = source.home(tenant), target.home(tenant)
    lacking = [
        home_checks.absent_database(home, from_home)
        for store, home, from_home in ((source, one, other), (target, other, one))
        if home_checks.database_missing(store.pool, home)
    ]
    pools = (source.pool, target.pool) if lacking else (one.pool, other.pool)
    with ThreadPoolExecutor(max_workers=1) as thread:
        theirs = thread.submit(lambda: list(_server(pools[1], target.most_wal_bytes)))
        found = [*lacking, *_server(pools[0], source.most_wal_bytes), *theirs.result()]
    if not any(f.code in NOTHING_MORE for f in found):
        found += _homes(one, other, tenant, direction)
    order = {Severity.REFUSAL: 0, Severity.WARNING: 1, Severity.INFO: 2}
    return sorted(dict.fromkeys(found), key=lambda f: (order[f.severity], f.where, f.code))


def _homes(source: Home, target: Home, tenant: TenantId, direction: str) -> Iterator[Finding]:
    here, there = describe(source.pool, source.all_tables), describe(target.pool, target.all_tables)
    yield from _other_links(source.pool, target.pool, tenant, direction)
    yield from _alike(source, target, here, there)
    for home, tables, other in ((source, here, target), (target, there, source)):
        yield from catalog_checks.findings(home, tables)
        yield from home_checks.findings(home, other)
    if replication.subscription(target.pool, direction) is None:
        yield from _empty(target.pool, there, tenant)
        yield from _collisions(source.pool, here, target.pool, there, tenant)


_SETTINGS: Final = """
select current_setting('server_version_num')::int, current_setting('wal_level'),
    current_setting('max_replication_slots')::int - (select count(*)::int from pg_replication_slots),
    current_setting('max_wal_senders')::int - (select count(*)::int from pg_stat_replication),
    current_setting('max_logical_replication_workers')::int
        - (select count(*)::int from pg_stat_activity where backend_type like 'logical replication%%'),
    pg_size_bytes(current_setting('max_slot_wal_keep_size')),
    (select rolsuper from pg_roles where rolname = current_user),
    (select rolsuper or rolreplication from pg_roles where rolname = current_user),
    pg_is_in_recovery()
"""

_LONG: Final = """
select coalesce(a.usename, '?') || ', pid ' || a.pid || ', open for ' || date_trunc('second', now() - a.xact_start)
from pg_stat_activity a where a.datname is not null and a.pid <> pg_backend_pid() and a.backend_type = 'client backend'
    and a.xact_start < now() - make_interval(secs => %(seconds)s)
"""


def _server(pool: Pool, most_wal_bytes: int | None) -> Iterator[Finding]:
    version, wal_level, slots, senders, workers, keep, superuser, replicates, standby = pool.rows(_SETTINGS)[
        0
    ]
    where = pool.where
    if version < OLDEST_SERVER:
        yield refusal(
            "server_too_old",
            where,
            f"PostgreSQL {version // 10000} has no `origin = none` for subscriptions (16 has): what comes back over the"
            " reverse link could not be told from what the app writes, and would go round for ever",
            "upgrade the server to PostgreSQL 16 or newer: both the cell that is left and the one that is entered"
            " need it",
        )
        return
    if standby:
        yield refusal(
            "standby", where, "the server is a standby", "give Tenure the primary's connection string"
        )
    if wal_level != "logical":
        yield refusal(
            "wal_level",
            where,
            f"wal_level is {wal_level}",
            "alter system set wal_level = logical; then restart the server",
        )
    for setting, free, needed in (
        ("max_replication_slots", slots, 4),
        ("max_wal_senders", senders, 4),
        ("max_logical_replication_workers", workers, 3),
    ):
        if free < needed:
            yield refusal(
                f"few_{setting.removeprefix('max_')}",
                where,
                f"{free} of {setting} are free, {needed} are needed",
                f"raise {setting} (and max_worker_processes) and restart the server, or end other links first",
            )
    yield _wal_kept(where, keep, most_wal_bytes)
    if not superuser or not replicates:
        yield refusal(
            "rights",
            where,
            "Tenure's role is no superuser: it must create subscriptions, row filters on any table and origins",
            "give Tenure the connection string of a superuser role",
        )
    for (gid,) in pool.rows("select gid from pg_prepared_xacts where database = current_database()"):
        yield refusal(
            "prepared_transaction",
            where,
            f"the prepared transaction {gid!r} could commit after the fence is down",
            f"commit prepared or rollback prepared '{gid}'",
        )
    for (about,) in pool.rows(_LONG, {"seconds": LONG_TRANSACTION_S}):
        yield finding(
            Severity.WARNING,
            "long_transaction",
            where,
            f"a transaction has been open for long ({about}): slots and triggers have to wait for it",
            "end it, or wait",
        )


def _wal_kept(where: str, keep: int, most: int | None) -> Finding:
    """`keep`: bytes, negative for no limit. `most`: what Tenure itself ends a link for, where it looks."""
    limit = f"'{most // 1024**2}MB'" if most is not None else "what the disk can spare"
    fix = f"alter system set max_slot_wal_keep_size = {limit}; select pg_reload_conf()"
    if keep < 0:
        return finding(
            Severity.WARNING,
            "slot_wal_unlimited",
            where,
            "max_slot_wal_keep_size is -1: a copy that stands still retains WAL until the disk is full",
            fix,
        )
    if most is not None and keep > most:
        return finding(
            Severity.WARNING,
            "slot_wal_over_bound",
            where,
            f"max_slot_wal_keep_size is {keep} bytes, more than the {most} that a link may make the server keep",
            fix,
        )
    return finding(
        Severity.INFO,
        "slot_wal_limit",
        where,
        f"max_slot_wal_keep_size is {keep} bytes: a copy that falls further behind is lost and has to start anew",
        "raise it if the tenant's copy takes long",
    )


def _other_links(source: Pool, target: Pool, tenant: TenantId, direction: str) -> Iterator[Finding]:
    mine = direction.rpartition("_")[0]
    subscribed = replication.subscription(target, direction) is not None
    for pool in (source, target):
        others = [n for n in fences.linked(pool, tenant) if n != direction and n.startswith(mine)]
        if others and not subscribed:
            yield refusal(
                "other_link",
                pool.where,
                f"{tenant} takes part in another link here ({', '.join(others)})",
                "complete or abort that migration first",
            )


def _alike(source: Home, target: Home, here: Sequence[Table], there: Sequence[Table]) -> Iterator[Finding]:
    absent = {home.cell: home_checks.missing_schemas(home) for home in (source, target)}
    left, right = ({t.collection: t for t in tables} for tables in (here, there))
    for spec in source.all_tables:
        name = spec.collection
        for store, tables in ((source, left), (target, right)):
            if name not in tables and spec.schema not in absent[store.cell]:
                yield refusal(
                    "table_missing",
                    f"{store.pool.where}, {name}",
                    "the table does not exist",
                    "create it there, or correct catalogue.yaml",
                )
        if name not in left or name not in right:
            continue
        mine, theirs = left[name].description, right[name].description
        for item in sorted(mine.keys() | theirs.keys()):
            if mine.get(item) != theirs.get(item):
                yield refusal(
                    "schema_differs",
                    f"{target.pool.where}, {name}",
                    f"{item}: {mine.get(item, 'absent')} in {source.cell},"
                    f" {theirs.get(item, 'absent')} in {target.cell}",
                    "run the schema migrations that one side lacks",
                )
    if {t.collection for t in source.all_tables} != {t.collection for t in target.all_tables}:
        yield refusal(
            "catalogue_differs", target.pool.where, "the cells list different tables", "use one catalogue"
        )
    yield from _extensions(source, target)


def _extensions(source: Home, target: Home) -> Iterator[Finding]:
    query: Final = "select extname::text, extversion from pg_extension where extname <> 'plpgsql'"
    mine: dict[str, str] = dict(source.pool.rows(query))
    theirs: dict[str, str] = dict(target.pool.rows(query))
    for name in sorted(mine.keys() - theirs.keys()):
        yield finding(
            Severity.WARNING,
            "extension_missing",
            target.pool.where,
            f"the extension {name} {mine[name]} of {source.cell} is not there",
            f"create extension {name}",
        )
    for name in sorted(mine.keys() & theirs.keys()):
        if mine[name] != theirs[name]:
            yield finding(
                Severity.INFO,
                "extension_version",
                target.pool.where,
                f"extension {name} is {mine[name]} in {source.cell} and {theirs[name]} in {target.cell}",
                f"alter extension {name} update, where it is older",
            )


def _empty(target: Pool, tables: Sequence[Table], tenant: TenantId) -> Iterator[Finding]:
    for table in tables:
        column = table.spec.tenant_column
        if column is not None and not any(c.name == column for c in table.columns):
            continue
        if target.value(
            sql.SQL("select exists (select from {} where {})").format(table.spec.sql, table.of_tenant(tenant))
        ):
            yield refusal(
                "target_not_empty",
                f"{target.where}, {table.collection}",
                f"there are rows of {tenant} already",
                f"find out whose they are; then erase {tenant} in that cell, or move it elsewhere",
            )


def _collisions(
    source: Pool, here: Sequence[Table], target: Pool, there: Sequence[Table], tenant: TenantId
) -> Iterator[Finding]:
    """Keys without the tenant column are unique per cell only: another tenant of the target may have the same one."""
    others = {t.collection: t for t in there}
    for table in here:
        other = others.get(table.collection)
        column = table.spec.tenant_column
        if other is None or not table.key or other.key != table.key or column in {None, *table.key}:
            continue
        names = sql.SQL(", ").join(sql.Identifier(k) for k in table.key)
        query = sql.SQL(
            "select count(*) from jsonb_array_elements(%(keys)s::jsonb) j (tenure_key) join {} r on {}"
        ).format(other.spec.sql, other.key_match("j", "r"))
        taken = 0
        with source.transaction() as connection, connection.cursor("tenure_keys") as cursor:
            cursor.execute(
                sql.SQL("select {} from {} where {} order by {}").format(
                    table.key_text, table.spec.sql, table.of_tenant(tenant), names
                )
            )
            while keys := cursor.fetchmany(KEYS_PER_QUERY):
                taken += int(target.value(query, {"keys": Jsonb([k for (k,) in keys])}))
        if taken:
            yield refusal(
                "key_collision",
                f"{target.where}, {table.collection}",
                f"{taken} keys of {tenant} belong to other tenants there",
                f"make ({column}, {', '.join(table.key)}) the primary key, or use keys that are"
                " unique everywhere",
            )
