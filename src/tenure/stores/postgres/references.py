"""Foreign keys around the tenants' tables: what they reach that does not move, and what they would point at.

Replication does not check foreign keys, so a reference that leads nowhere on the target would be found by the app.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from psycopg import sql
from psycopg.types.json import Jsonb

from tenure.model.finding import Finding
from tenure.model.names import TenantId
from tenure.stores.postgres.connect import Pool
from tenure.stores.postgres.findings import refusal, warning
from tenure.stores.postgres.home import Home
from tenure.stores.postgres.home_checks import neighbours
from tenure.stores.postgres.tables import Table, TenantTable, collection_of, describe

KEYS_PER_QUERY: Final = 10_000
NAMED: Final = 5
INSERTED: Final = 20
"""Up to that many rows of a shared table come with the statements that insert them."""

_KEYS: Final = """
select k.conname::text, cn.nspname::text, c.relname::text, pn.nspname::text, p.relname::text,
    array(select a.attname::text from unnest(k.conkey) with ordinality u (attnum, n)
        join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.attnum order by u.n),
    array(select a.attname::text from unnest(k.confkey) with ordinality u (attnum, n)
        join pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.attnum order by u.n)
from pg_constraint k
join pg_class c on c.oid = k.conrelid join pg_namespace cn on cn.oid = c.relnamespace
join pg_class p on p.oid = k.confrelid join pg_namespace pn on pn.oid = p.relnamespace
where k.contype = 'f' and k.conparentid = 0 and not c.relispartition and not p.relispartition
    and cn.nspname <> all(%(without)s::text[])
order by 2, 3, 1
"""


@dataclass(frozen=True, kw_only=True)
class ForeignKey:
    name: str
    child: str
    parent: str
    child_relation: tuple[str, str]
    parent_relation: tuple[str, str]
    child_columns: tuple[str, ...]
    parent_columns: tuple[str, ...]

    @property
    def present(self) -> sql.Composed:
        """The condition that a row `c` of the child refers to anything at all."""
        return sql.SQL(" and ").join(
            sql.SQL("c.{} is not null").format(sql.Identifier(n)) for n in self.child_columns
        )


def foreign_keys(pool: Pool, *, without: Sequence[str] = ()) -> list[ForeignKey]:
    """The foreign keys of the database, those of the schemas `without` left out."""
    return [
        ForeignKey(
            name=name,
            child=collection_of(schema, table),
            parent=collection_of(parent_schema, parent),
            child_relation=(schema, table),
            parent_relation=(parent_schema, parent),
            child_columns=tuple(mine),
            parent_columns=tuple(theirs),
        )
        for name, schema, table, parent_schema, parent, mine, theirs in pool.rows(
            _KEYS, {"without": list(without)}
        )
    ]


def outside(home: Home, *, elsewhere: frozenset[str] | None) -> Iterator[Finding]:
    """Tables that a foreign key joins to the tenants' and the catalogue does not know.

    `elsewhere` are the other cell's tables if a link exists: what it does not have was known to stay when the link was
    made, so it is no longer a reason to refuse.
    """
    keys = foreign_keys(home.pool, without=neighbours(home))
    known, listed = {t.collection for t in home.all_tables}, home.known
    reached = set(known)
    while True:
        more = [k for k in keys if k.parent in reached and k.child not in reached and k.child not in listed]
        if not more:
            break
        for key in more:
            if key.child in reached:
                continue
            reached.add(key.child)
            found = warning if elsewhere is not None and key.child not in elsewhere else refusal
            yield found(
                "table_through_foreign_key",
                f"{home.pool.where}, {key.child}",
                f"its rows belong to a tenant only through {key.name} to {key.parent}: they would stay behind",
                "give it the tenant column, filled from there, and add it to catalogue.yaml; or `ignore` it, if none of"
                " its rows are a tenant's",
            )
    for key in keys:
        if key.child in known and key.parent not in listed:
            yield warning(
                "foreign_key_outside",
                f"{home.pool.where}, {key.child}",
                f"{key.name} refers to {key.parent}, and the catalogue does not know it: its rows do not move along",
                "add the table to catalogue.yaml, or make sure that both cells have these rows (`ignore` it then)",
            )


def shared_rows(
    source: Pool, here: Sequence[Table], target: Pool, there: Sequence[Table], tenant: TenantId
) -> Iterator[Finding]:
    """Rows of tables shared by all tenants, which the tenant's rows refer to and the target lacks."""
    mine, known = {t.collection: t for t in here}, {t.collection for t in there}
    for key in foreign_keys(target):
        child = mine.get(key.child)
        if child is None or key.child not in known or key.parent in known:
            continue
        if not {c.name for c in child.columns}.issuperset(key.child_columns):
            continue  # the column is the target's alone
        schema, name = key.parent_relation
        spec = TenantTable(schema=schema, name=name)
        parent = replace(describe(target, [spec])[0], key=key.parent_columns)
        missing = _missing(source, child, key, target, parent, tenant)
        if missing:
            named = ", ".join("(" + ", ".join(values) + ")" for values in missing[:NAMED])
            more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
            yield refusal(
                "reference_missing",
                f"{target.where}, {key.parent}",
                f"rows of {tenant} in {key.child} refer ({key.name}) to rows that are not there:"
                f" ({', '.join(key.parent_columns)}) = {named}{more}",
                "bring these rows there, or have a tool keep this shared table equal in all cells",
                _inserts(source, parent, missing) if len(missing) <= INSERTED else "",
            )


def _missing(
    source: Pool, child: Table, key: ForeignKey, target: Pool, parent: Table, tenant: TenantId
) -> list[list[str]]:
    values = sql.SQL(", ").join(sql.SQL("c.{}::text").format(sql.Identifier(n)) for n in key.child_columns)
    query = sql.SQL(
        "select j.tenure_key from jsonb_array_elements(%(keys)s::jsonb) j (tenure_key)"
        " where not exists (select from {} r where {})"
    ).format(parent.spec.sql, parent.key_match("j", "r"))
    missing: list[list[str]] = []
    with source.transaction() as connection, connection.cursor("tenure_references") as cursor:
        cursor.execute(
            sql.SQL("select distinct jsonb_build_array({}) from {} c where {} and {}").format(
                values, child.spec.sql, child.of_tenant(tenant, "c"), key.present
            )
        )
        while keys := cursor.fetchmany(KEYS_PER_QUERY):
            missing += [k for (k,) in target.rows(query, {"keys": Jsonb([k for (k,) in keys])})]
    return sorted(missing)


def _inserts(source: Pool, parent: Table, missing: Sequence[Sequence[str]]) -> str:
    """Statements that insert these rows as the source has them; nothing if it does not have them all."""
    columns = sql.SQL(", ").join(sql.Identifier(c.name) for c in parent.stored)
    if not describe(source, [parent.spec]):
        return ""
    rows = source.rows(
        sql.SQL(
            "select to_jsonb(r)::text from jsonb_array_elements(%(keys)s::jsonb) j (tenure_key) join {} r on {}"
        ).format(parent.spec.sql, parent.key_match("j", "r")),
        {"keys": Jsonb([list(k) for k in missing])},
    )
    if len(rows) < len(missing):
        return ""
    return "\n".join(
        sql.SQL(
            "insert into {table} ({columns}) overriding system value"
            " select {columns} from jsonb_populate_record(null::{table}, {row}) on conflict do nothing;"
        )
        .format(table=parent.spec.sql, columns=columns, row=sql.Literal(row))
        .as_string()
        for (row,) in rows
    )


def dangling(
    source: Pool, here: Sequence[Table], target: Pool | None, there: Sequence[Table], tenant: TenantId
) -> Iterator[Finding]:
    """References between the tenant's own rows that lead nowhere: in the source, and on a target that follows it."""
    side, tables = (source, here) if target is None else (target, there)
    by_name = {t.collection: t for t in tables}
    for key in foreign_keys(side):
        child, parent = by_name.get(key.child), by_name.get(key.parent)
        if child is None or parent is None:
            continue
        count = _dangling(side, key, child, parent, tenant)
        if not count:
            continue
        where = f"{side.where}, {key.child}"
        message = f"{count} rows of {tenant} refer ({key.name}) to rows of {key.parent} that do not exist"
        known = target is None or _dangling_too(source, key, here, tenant) >= count
        if known:
            yield warning(
                "dangling_reference",
                where,
                message + ": they move as they are",
                "find out why, and mend them",
            )
        else:
            yield refusal(
                "dangling_reference",
                where,
                message + f", and do so only in this cell, not in {source.where}",
                "compare and repair",
                f"tenure verify {tenant} --repair",
            )


def _dangling_too(source: Pool, key: ForeignKey, tables: Sequence[Table], tenant: TenantId) -> int:
    """How many of the same references dangle in the source, where it has these columns."""
    by_name = {t.collection: t for t in tables}
    child, parent = by_name.get(key.child), by_name.get(key.parent)
    if child is None or parent is None or not {c.name for c in child.columns}.issuperset(key.child_columns):
        return 0
    return _dangling(source, key, child, parent, tenant)


def _dangling(pool: Pool, key: ForeignKey, child: Table, parent: Table, tenant: TenantId) -> int:
    match = sql.SQL(" and ").join(
        sql.SQL("p.{} = c.{}").format(sql.Identifier(theirs), sql.Identifier(mine))
        for mine, theirs in zip(key.child_columns, key.parent_columns, strict=True)
    )
    return int(
        pool.value(
            sql.SQL(
                "select count(*) from {} c where {} and {} and not exists (select from {} p where {})"
            ).format(
                child.spec.sql,
                child.of_tenant(tenant, "c"),
                key.present,
                parent.spec.sql,
                match,
            )
        )
    )
