"""Whether each tenant table can be published by tenant, and whether the catalogue knows all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from tenure.model.finding import Finding, Severity
from tenure.stores.postgres.home import Home
from tenure.stores.postgres.home_checks import neighbours
from tenure.stores.postgres.tables import Table

_UNKNOWN: Final = """
select distinct n.nspname || '.' || c.relname
from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid
where c.relkind in ('r', 'p') and not c.relispartition and a.attname = any(%(columns)s::name[]) and not a.attisdropped
    and n.nspname not in ('pg_catalog', 'information_schema', 'tenure') and n.nspname not like 'pg\\_%%'
    and n.nspname || '.' || c.relname <> all(%(known)s::text[]) and n.nspname <> all(%(own)s::text[])
order by 1
"""

_FOREIGN: Final = """
select k.conname::text, cn.nspname || '.' || c.relname, pn.nspname || '.' || p.relname
from pg_constraint k
join pg_class c on c.oid = k.conrelid join pg_namespace cn on cn.oid = c.relnamespace
join pg_class p on p.oid = k.confrelid join pg_namespace pn on pn.oid = p.relnamespace
where k.contype = 'f' and k.conparentid = 0 and not c.relispartition and not p.relispartition
    and cn.nspname <> all(%(neighbours)s::text[])
    and (cn.nspname || '.' || c.relname = any(%(known)s::text[]))
        <> (pn.nspname || '.' || p.relname = any(%(known)s::text[]))
"""

_UNIQUE: Final = """
select c.relname::text, i.relname::text from pg_index x join pg_class i on i.oid = x.indexrelid
join pg_class c on c.oid = x.indrelid
where x.indrelid = %(oid)s and x.indisunique and not x.indisprimary
    and not exists (select from pg_attribute a where a.attrelid = x.indrelid and a.attname = %(column)s
                    and a.attnum = any(x.indkey::int2[]))
"""

_CACHED: Final = """
select distinct n.nspname || '.' || s.relname, q.seqcache
from pg_depend d join pg_class s on s.oid = d.objid and s.relkind = 'S'
join pg_namespace n on n.oid = s.relnamespace join pg_sequence q on q.seqrelid = s.oid
where d.refobjid = any(%(oids)s::oid[]) and d.deptype in ('a', 'i') and q.seqcache > 1
"""


def findings(store: Home, tables: Sequence[Table]) -> Iterator[Finding]:
    """Everything to know about these tables on this server."""
    for table in tables:
        yield from _table(store, table)
    yield from _catalogue(store)
    for name, size in store.pool.rows(_CACHED, {"oids": [t.oid for t in tables]}):
        yield _found(
            Severity.WARNING,
            "sequence_cache",
            f"{store.pool.where}, {name}",
            f"sessions draw {size} numbers at a time: numbers drawn before the switch may be taken after it",
            f"alter sequence {name} cache 1",
        )


def _found(severity: Severity, code: str, where: str, message: str, fix: str) -> Finding:
    return Finding(severity=severity, code=code, where=where, message=message, fix=fix)


def _table(store: Home, table: Table) -> Iterator[Finding]:
    where = f"{store.pool.where}, {table.collection}"
    tenant_column = table.spec.tenant_column
    by_name = {c.name: c for c in table.columns}
    if tenant_column is not None and tenant_column not in by_name:
        yield _found(
            Severity.REFUSAL,
            "tenant_column_missing",
            where,
            f"there is no column {tenant_column}",
            "correct tenant_column in catalogue.yaml",
        )
        return
    if tenant_column is not None and not by_name[tenant_column].builtin:
        yield _found(
            Severity.REFUSAL,
            "tenant_column_type",
            where,
            f"{tenant_column} is a {by_name[tenant_column].type_name}: row filters take built-in types only",
            f"alter table {table.collection} alter column {tenant_column} type text",
        )
    yield from _identity(where, table)
    if table.persistence != "p":
        yield _found(
            Severity.REFUSAL,
            "unlogged",
            where,
            "the table is unlogged: its changes are not replicated",
            f"alter table {table.collection} set logged",
        )
    if table.inherited_by:
        yield _found(
            Severity.REFUSAL,
            "inheritance",
            where,
            "tables inherit from it: their rows would be neither copied nor fenced",
            "list the inheriting tables in catalogue.yaml instead, or use partitions",
        )
    for column in table.columns:
        if column.type_name in {"oid", "lo", "public.lo"}:
            yield _found(
                Severity.WARNING,
                "large_object",
                f"{where}, {column.name}",
                "if this refers to large objects: they are not replicated",
                "store the contents in a bytea column or in the object store",
            )
    shared = {"oid": table.oid, "column": tenant_column}
    for _, index in store.pool.rows(_UNIQUE, shared) if tenant_column is not None else ():
        yield _found(
            Severity.WARNING,
            "unique_across_tenants",
            f"{where}, {index}",
            f"the unique index lacks {tenant_column}: a neighbour on the target may have the same value, which stops"
            " the copy",
            f"add {tenant_column} to the index, or make sure that its values are unique everywhere",
        )


def _identity(where: str, table: Table) -> Iterator[Finding]:
    tenant_column = table.spec.tenant_column
    if not table.key:
        yield _found(
            Severity.REFUSAL,
            "no_primary_key",
            where,
            "the table has no primary key: its rows cannot be told apart",
            f"alter table {table.collection} add primary key ({f'{tenant_column}, ' if tenant_column else ''}...)",
        )
    elif tenant_column is None and table.replica_identity != "f" and not table.identity:
        yield _found(
            Severity.REFUSAL,
            "replica_identity",
            where,
            "the table has no replica identity: updates and deletes would be refused as soon as it is published",
            f"alter table {table.collection} replica identity default",
        )
    elif tenant_column is not None and table.replica_identity != "f" and tenant_column not in table.identity:
        columns = ", ".join((tenant_column, *(k for k in table.key if k != tenant_column)))
        yield _found(
            Severity.REFUSAL,
            "replica_identity",
            where,
            f"{tenant_column} is not part of the replica identity: updates and deletes cannot be filtered by tenant",
            f"create unique index {table.spec.name}_tenure on {table.collection} ({columns}); alter table"
            f" {table.collection} replica identity using index {table.spec.name}_tenure",
        )


def _catalogue(store: Home) -> Iterator[Finding]:
    known = [t.collection for t in store.all_tables]
    ignored = [t.collection for t in store.ignored]
    others = neighbours(store)
    parameters: dict[str, Any] = {
        "columns": sorted({t.tenant_column for t in store.all_tables if t.tenant_column is not None}),
        "known": [*known, *ignored],
        "own": [*others, *sorted(store.schemas)],
    }
    for (name,) in store.pool.rows(_UNKNOWN, parameters):
        yield _found(
            Severity.REFUSAL,
            "table_not_in_catalogue",
            f"{store.pool.where}, {name}",
            "the table has a tenant column but the catalogue does not know it: its rows would stay behind",
            "add it to `tables` or to `ignore` in catalogue.yaml",
        )
    for constraint, child, parent in store.pool.rows(_FOREIGN, {"known": known, "neighbours": others}):
        unknown = child if child not in known else parent
        if unknown in ignored:
            continue
        yield _found(
            Severity.WARNING,
            "foreign_key_outside",
            f"{store.pool.where}, {child}",
            f"{constraint} refers to {parent}, and the catalogue does not know {unknown}: its rows do not move along",
            "add the table to catalogue.yaml, or make sure that both cells have these rows (`ignore` it then)",
        )
