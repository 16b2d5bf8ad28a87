"""Whether what is a tenant's own (its schemas, its database) is there, and holds only what the catalogue knows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from psycopg import sql

from tenure.model.finding import Finding, Severity
from tenure.stores.postgres.connect import Pool
from tenure.stores.postgres.home import Home

_SCHEMAS: Final = "select nspname::text from pg_namespace where nspname = any(%(schemas)s::text[])"

_NEIGHBOURS: Final = """
select n.nspname::text from pg_namespace n
where n.nspname ~ any(%(patterns)s::text[])
    and n.nspname <> all(%(mine)s::text[]) and n.nspname <> all(%(shared)s::text[])
    and exists (select from pg_class c where c.relnamespace = n.oid and c.relkind in ('r', 'p')
                and c.relname = any(%(tables)s::text[]))
"""

_UNKNOWN: Final = """
select c.relkind = 'S', n.nspname || '.' || c.relname
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'S') and not c.relispartition and (%(whole)s or n.nspname = any(%(schemas)s::text[]))
    and n.nspname not in ('information_schema', 'tenure') and n.nspname not like 'pg\\_%%'
    and n.nspname || '.' || c.relname <> all(%(known)s::text[])
    and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid
                    and (d.deptype = 'e' or (c.relkind = 'S' and d.deptype in ('a', 'i'))))
    and not exists (select from pg_depend d where d.classid = 'pg_attrdef'::regclass and c.relkind = 'S'
                    and d.refclassid = 'pg_class'::regclass and d.refobjid = c.oid)
order by 2
"""


def database_missing(server: Pool, home: Home) -> bool:
    """Whether the tenant's own database does not exist on that server."""
    return home.database is not None and not server.value(
        "select exists (select from pg_database where datname = %(name)s)", {"name": home.database}
    )


def missing_schemas(home: Home) -> list[str]:
    there = {name for (name,) in home.pool.rows(_SCHEMAS, {"schemas": sorted(home.schemas)})}
    return sorted(home.schemas - there)


def neighbours(home: Home) -> list[str]:
    """The schemas of other tenants in this database."""
    if not home.schemas:
        return []
    shared = [t.schema for t in home.all_tables if t.schema not in home.schemas]
    return [
        str(name)
        for (name,) in home.pool.rows(
            _NEIGHBOURS,
            {
                "patterns": list(home.schema_patterns),
                "mine": sorted(home.schemas),
                "shared": shared,
                "tables": [t.name for t in home.all_tables if t.schema in home.schemas],
            },
        )
    ]


def absent_database(home: Home, other: Home) -> Finding:
    """What to say where `database_missing`."""
    quoted = sql.Identifier(home.database or "").as_string()
    return _found(
        Severity.REFUSAL,
        "database_missing",
        home.pool.where,
        "the tenant's database is not there",
        f"create database {quoted}; then run the app's migrations there, or take the tables of {other.cell}:"
        f" pg_dump --schema-only --exclude-schema=tenure {home.database} | psql {home.database}",
    )


def findings(home: Home, other: Home) -> Iterator[Finding]:
    """Everything to know about what is the tenant's own here."""
    for schema in missing_schemas(home):
        quoted = sql.Identifier(schema).as_string()
        yield _found(
            Severity.REFUSAL,
            "schema_missing",
            f"{home.pool.where}, {schema}",
            "the tenant's schema is not there",
            f"create schema {quoted}; then run the app's migrations there, or take the tables of {other.cell}:"
            f" pg_dump --schema-only --schema='{quoted}' | psql",
        )
    if home.own_names:
        yield from _unknown(home)
    if home.database is not None and home.pool.value("select exists (select from pg_largeobject_metadata)"):
        yield _found(
            Severity.REFUSAL,
            "large_objects",
            home.pool.where,
            "the tenant's database holds large objects: they are not replicated",
            "move their contents to a bytea column or to the object store, and unlink them (lo_unlink)",
        )


def _unknown(home: Home) -> Iterator[Finding]:
    known = [t.collection for t in (*home.all_tables, *home.ignored)]
    wanted = {"whole": home.database is not None, "schemas": sorted(home.schemas), "known": known}
    for is_sequence, name in home.pool.rows(_UNKNOWN, wanted):
        if is_sequence:
            yield _found(
                Severity.WARNING,
                "sequence_outside",
                f"{home.pool.where}, {name}",
                "no column of a table draws from this sequence of the tenant: it is not raised on the target",
                "let the column that it serves own it (alter sequence ... owned by), or raise it there by hand",
            )
        else:
            yield _found(
                Severity.REFUSAL,
                "table_not_in_catalogue",
                f"{home.pool.where}, {name}",
                "the table lies among the tenant's own, and the catalogue does not know it: its rows would stay behind",
                "add it to `tables` or to `ignore` in catalogue.yaml",
            )


def _found(severity: Severity, code: str, where: str, message: str, fix: str) -> Finding:
    return Finding(severity=severity, code=code, where=where, message=message, fix=fix)
