"""What stands in the way of moving a tenant between two PostgreSQL servers, found before anything is changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from psycopg import sql
from psycopg.types.json import Jsonb

from tenure.model.finding import Finding, Severity
from tenure.model.names import TenantId
from tenure.stores.postgres import catalog_checks, home_checks, references, replication, server_checks
from tenure.stores.postgres import fence as fences
from tenure.stores.postgres.connect import Pool
from tenure.stores.postgres.findings import refusal, warning
from tenure.stores.postgres.home import Home
from tenure.stores.postgres.store import PostgresStore
from tenure.stores.postgres.tables import Column, Gap, Table, collection_of, describe, gaps, in_both

KEYS_PER_QUERY: Final = 10_000
NO_RIGHTS: Final = frozenset(("not_owner", "row_level_security"))
"""Without these rights the tenants' rows cannot be asked for."""
NOTHING_MORE: Final = frozenset(("server_too_old", "database_missing"))
"""With one of these, what else is to be asked about the tables has no answer."""

_TABLES: Final = """
select n.nspname::text, c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and not c.relispartition
"""

_PARTITIONS: Final = """
select r.oid::int8, pg_get_partkeydef(r.oid), n.nspname::text, c.relname::text, pg_get_expr(c.relpartbound, c.oid)
from unnest(%(oids)s::oid[]) r (oid) join pg_inherits h on h.inhparent = r.oid join pg_class c on c.oid = h.inhrelid
join pg_namespace n on n.oid = c.relnamespace where c.relispartition
"""


def preflight(
    source: PostgresStore, target: PostgresStore, tenant: TenantId, direction: str
) -> list[Finding]:
    """All findings, the gravest first. Reads only.

    Once the direction is linked, what was allowed when the link was made is allowed again, and only that.
    """
    one, other = source.home(tenant), target.home(tenant)
    lacking = [
        home_checks.absent_database(home, from_home)
        for store, home, from_home in ((source, one, other), (target, other, one))
        if home_checks.database_missing(store.pool, home)
    ]
    pools = (source.pool, target.pool) if lacking else (one.pool, other.pool)
    with ThreadPoolExecutor(max_workers=1) as thread:
        theirs = thread.submit(lambda: list(server_checks.findings(pools[1], target.most_wal_bytes)))
        found = [*lacking, *server_checks.findings(pools[0], source.most_wal_bytes), *theirs.result()]
    if not lacking and direction in fences.linked(other.pool, tenant):
        found = [f for f in found if f.code not in server_checks.LIMITS]
    if not any(f.code in NOTHING_MORE for f in found):
        found += _homes(one, other, tenant, direction, rights="rights" not in {f.code for f in found})
    order = {Severity.REFUSAL: 0, Severity.WARNING: 1, Severity.INFO: 2}
    return sorted(dict.fromkeys(found), key=lambda f: (order[f.severity], f.where, f.code))


def _homes(
    source: Home, target: Home, tenant: TenantId, direction: str, *, rights: bool
) -> Iterator[Finding]:
    """`rights`: Tenure's roles lack none on the servers themselves."""
    here, there = describe(source.pool, source.all_tables), describe(target.pool, target.all_tables)
    linked = direction in fences.linked(target.pool, tenant)
    tables_here, tables_there = _tables(source.pool), _tables(target.pool)
    older = tables_there if linked else None
    yield from _other_links(source.pool, target.pool, tenant, direction, linked=linked)
    yield from _alike(source, target, here, there, tenant, direction)
    yield from _partitions(source.pool, here, target.pool, there)
    yield from server_checks.extensions(source, target)
    for home, other in ((source, target), (target, source)):
        yield from server_checks.password(home, other.pool)
    for home, tables, other in ((source, here, target), (target, there, source)):
        about = list(catalog_checks.findings(home, tables))
        rights = rights and not any(f.code in NO_RIGHTS for f in about)
        yield from about
        yield from home_checks.findings(home, other)
    yield from references.outside(source, elsewhere=older)
    yield from references.outside(target, elsewhere=tables_here)
    # What reads the tenants' rows would fail, or see only some of them, without the rights that are asked for above.
    if rights:
        for home, elsewhere in ((source, older), (target, tables_here)):
            yield from catalog_checks.unknown_tables(home, tenant, elsewhere=elsewhere)
            yield from home_checks.unknown(home, tenant, elsewhere=elsewhere)
        yield from catalog_checks.large_objects(source.pool, here, tenant)
        yield from _rows(source.pool, _usable(here), target.pool, _usable(there), tenant, linked=linked)


def _tables(pool: Pool) -> frozenset[str]:
    return frozenset(collection_of(schema, name) for schema, name in pool.rows(_TABLES))


def _usable(tables: Sequence[Table]) -> list[Table]:
    """Those whose tenant's rows can be asked for; the others are refused by name."""
    return [t for t in tables if t.pickable]


def _rows(
    source: Pool,
    here: Sequence[Table],
    target: Pool,
    there: Sequence[Table],
    tenant: TenantId,
    *,
    linked: bool,
) -> Iterator[Finding]:
    """What has to be asked of the tenant's rows."""
    yield from references.shared_rows(source, here, target, there, tenant)
    if linked:
        yield from references.dangling(source, here, target, there, tenant)
    else:
        yield from references.dangling(source, here, None, (), tenant)
        yield from server_checks.room(source, here, target, tenant)
        yield from _empty(target, there, tenant)
        yield from _collisions(source, here, target, there, tenant)


def _other_links(
    source: Pool, target: Pool, tenant: TenantId, direction: str, *, linked: bool
) -> Iterator[Finding]:
    mine = direction.rpartition("_")[0]
    for pool in (source, target):
        others = [n for n in fences.linked(pool, tenant) if n != direction and n.startswith(mine)]
        if others and not linked:
            yield refusal(
                "other_link",
                pool.where,
                f"{tenant} takes part in another link here ({', '.join(others)})",
                "complete or abort that migration first",
            )


def _alike(
    source: Home,
    target: Home,
    here: Sequence[Table],
    there: Sequence[Table],
    tenant: TenantId,
    direction: str,
) -> Iterator[Finding]:
    absent = {home.cell: home_checks.missing_schemas(home) for home in (source, target)}
    left, right = ({t.collection: t for t in tables} for tables in (here, there))
    published = replication.published(source.pool, direction)
    yield from _in_one_cell(source, target, tenant, linked=bool(published))
    for spec in in_both(source.all_tables, target.all_tables):
        name = spec.collection
        for home, tables in ((source, left), (target, right)):
            if name not in tables and spec.schema not in absent[home.cell]:
                yield refusal(
                    "table_missing",
                    f"{home.pool.where}, {name}",
                    "the table does not exist",
                    "create it there, or correct catalogue.yaml",
                )
        if name in left and name in right:
            yield from _gaps(source, target, left[name], right[name], published.get(name))
            yield from _unlike_identities(source.pool, left[name], target.pool, right[name])
            yield from _unlike_identities(target.pool, right[name], source.pool, left[name])


def _in_one_cell(source: Home, target: Home, tenant: TenantId, *, linked: bool) -> Iterator[Finding]:
    """Tables that the catalogue has in one of the two cells only."""
    for spec in target.all_tables:
        if spec not in source.all_tables:
            yield warning(
                "newer_table",
                f"{target.pool.where}, {spec.collection}",
                f"the catalogue has the table in {target.cell} and not in {source.cell}: rows that are written to it"
                f" stay in {target.cell} if the tenant is rolled back",
                f"nothing, if {target.cell} runs the newer version of the app",
            )
    for spec in source.all_tables:
        if spec in target.all_tables:
            continue
        where = f"{source.pool.where}, {spec.collection}"
        message = f"the catalogue has the table in {source.cell} and not in {target.cell}"
        if linked:
            count = sum(
                source.pool.value(
                    sql.SQL("select count(*) from {} where {}").format(spec.sql, table.of_tenant(tenant))
                )
                for table in _usable(describe(source.pool, [spec]))
            )
            yield warning(
                "newer_table",
                where,
                f"{message}: {count} rows of {tenant} stay in {source.cell}",
                f"nothing, if {target.cell} runs the older version of the app",
            )
        else:
            yield refusal(
                "older_target", where, message, f"run the schema migration that {target.cell} lacks"
            )


def _unlike_identities(publisher: Pool, mine: Table, subscriber: Pool, theirs: Table) -> Iterator[Finding]:
    """A subscriber looks rows up by its own replica identity (or primary key), so the publisher has to send it."""
    sent = mine.row_image
    for relation in theirs.relations:
        lacking = sorted(theirs.needs(relation) - sent) if relation.leaf and sent is not None else []
        if lacking:
            yield refusal(
                "replica_identity_differs",
                f"{subscriber.where}, {collection_of(*relation.name)}",
                f"rows are looked up by {', '.join(lacking)} as well, which {publisher.where} does not send",
                "give the table (and its partitions) the same replica identity in both cells",
            )


def _gaps(
    source: Home,
    target: Home,
    mine: Table,
    theirs: Table,
    published: frozenset[str] | None,
) -> Iterator[Finding]:
    """What differs between the two tables. `published` are the columns that the link carries, if there is one."""
    where = f"{target.pool.where}, {mine.collection}"
    for gap in gaps(mine, theirs):
        told = (
            f"{gap.item}: {gap.here or 'absent'} in {source.cell}, {gap.there or 'absent'} in {target.cell}"
        )
        stays = gap.column is not None and not gap.obstacle
        if stays and not gap.here:
            yield warning(
                "newer_column",
                f"{source.pool.where}, {mine.collection}",
                f"{told}: rows that arrive get its default, and what is written to it stays in {target.cell} if the"
                " tenant is rolled back; only the other columns are compared",
                f"run the same schema migration in {source.cell} if a rollback is to keep it",
                _add_column(mine, gap),
            )
        elif stays and published is not None and gap.column is not None and gap.column.name not in published:
            yield warning(
                "newer_column",
                where,
                f"{told}: what was written to it stays in {source.cell}; only the other columns move and are compared",
                f"run the same schema migration in {target.cell}, complete the move and plan it anew, if it is to move",
            )
        else:
            obstacle = gap.obstacle or f"its values would not be in {target.cell}"
            yield refusal(
                "schema_differs",
                where,
                f"{told} ({obstacle})",
                "run the schema migrations that one side lacks",
                _add_column(theirs, gap) if gap.here and not gap.there else "",
            )
    if published is not None:
        both = {c.name for c in mine.stored} & {c.name for c in theirs.stored}
        for name in sorted(both - published):
            yield refusal(
                "column_not_replicated",
                f"{where}, {name}",
                f"both cells have the column now, but the link was made when {target.cell} did not have it",
                "complete or abort this migration and start it anew: the new link carries the column",
            )


def _add_column(table: Table, gap: Gap) -> str:
    """The statement that gives `table` the other side's column, where it says everything about it."""
    column: Column | None = gap.column
    if column is None or column.generated or column.identity or not column.fills_itself:
        return ""
    return sql.SQL("alter table {} add column {} {}").format(
        table.spec.sql, sql.Identifier(column.name), sql.SQL(gap.here or gap.there)
    ).as_string() + (f" default {column.expression}" if column.expression else "")


def _partitions(
    source: Pool, here: Sequence[Table], target: Pool, there: Sequence[Table]
) -> Iterator[Finding]:
    """Partitions by range or list that one side alone has: rows of theirs could not be stored on the other side."""
    right = {t.collection: t for t in there}
    both = [(t, right[t.collection]) for t in here if t.partitioned and t.collection in right]
    left_found, right_found = (
        pool.rows(_PARTITIONS, {"oids": [pair[n].oid for pair in both]})
        for n, pool in enumerate((source, target))
    )
    for mine, theirs in both:
        my_rows = [row for row in left_found if row[0] == mine.oid]
        their_rows = [row for row in right_found if row[0] == theirs.oid]
        keys = {row[1] for row in (*my_rows, *their_rows)}
        if not theirs.partitioned or len(keys) != 1 or next(iter(keys)).startswith("HASH"):
            continue
        for pool, rows, others in ((target, their_rows, my_rows), (source, my_rows, their_rows)):
            bounds = {row[4] for row in rows}
            for _, _, schema, name, bound in others:
                if bound in bounds or "DEFAULT" in bounds:
                    continue
                yield refusal(
                    "partition_missing",
                    f"{pool.where}, {mine.collection}",
                    f"there is no partition {bound}, which the other cell has: its rows could not be stored here",
                    "create it",
                    sql.SQL("create table {} partition of {} {}")
                    .format(sql.Identifier(schema, name), mine.spec.sql, sql.SQL(bound))
                    .as_string(),
                )


def _empty(target: Pool, tables: Sequence[Table], tenant: TenantId) -> Iterator[Finding]:
    for table in tables:
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
