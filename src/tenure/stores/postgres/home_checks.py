"""Whether what is a tenant's own (its schemas, its database) is there, and holds only what the catalogue knows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from psycopg import sql

from tenure.model.finding import Finding
from tenure.model.names import TenantId
from tenure.stores.postgres.connect import Pool
from tenure.stores.postgres.findings import refusal, warning
from tenure.stores.postgres.home import Home
from tenure.stores.postgres.tables import collection_of

_SCHEMAS: Final = "select nspname::text from pg_namespace where nspname = any(%(schemas)s::text[])"

_NEIGHBOURS: Final = """
select n.nspname::text from pg_namespace n
where n.nspname ~ any(%(patterns)s::text[])
    and n.nspname <> all(%(mine)s::text[]) and n.nspname <> all(%(shared)s::text[])
    and exists (select from pg_class c where c.relnamespace = n.oid and c.relkind in ('r', 'p')
                and c.relname = any(%(tables)s::text[]))
"""

_UNKNOWN: Final = """
select c.relkind = 'S', n.nspname::text, c.relname::text
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'S') and not c.relispartition and (%(whole)s or n.nspname = any(%(schemas)s::text[]))
    and n.nspname not in ('information_schema', 'tenure') and n.nspname not like 'pg\\_%%'
    and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid
                    and (d.deptype = 'e' or (c.relkind = 'S' and d.deptype in ('a', 'i'))))
    and not exists (select from pg_depend d where d.classid = 'pg_attrdef'::regclass and c.relkind = 'S'
                    and d.refclassid = 'pg_class'::regclass and d.refobjid = c.oid)
order by 2, 3
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
    return refusal(
        "database_missing",
        home.pool.where,
        "the tenant's database is not there",
        f"create it; then run the app's migrations there, or take the tables of {other.cell}:"
        f" pg_dump --schema-only --exclude-schema=tenure {home.database} | psql {home.database}",
        f"create database {sql.Identifier(home.database or '').as_string()}",
    )


def findings(home: Home, other: Home) -> Iterator[Finding]:
    """What the catalogues say of what is the tenant's own here."""
    for schema in missing_schemas(home):
        quoted = sql.Identifier(schema).as_string()
        yield refusal(
            "schema_missing",
            f"{home.pool.where}, {schema}",
            "the tenant's schema is not there",
            f"create it; then run the app's migrations there, or take the tables of {other.cell}:"
            f" pg_dump --schema-only --schema='{quoted}' | psql",
            f"create schema {quoted}",
        )
    if home.database is not None and home.pool.value("select exists (select from pg_largeobject_metadata)"):
        yield refusal(
            "large_objects",
            home.pool.where,
            "the tenant's database holds large objects: they are not replicated",
            "move their contents to a bytea column or to the object store, and unlink them (lo_unlink)",
        )


def unknown(home: Home, tenant: TenantId, *, elsewhere: frozenset[str] | None) -> Iterator[Finding]:
    """Tables and sequences among the tenant's own that the catalogue does not name. `elsewhere`: see
    `unknown_table`."""
    if not home.own_names:
        return
    wanted = {"whole": home.database is not None, "schemas": sorted(home.schemas)}
    known = home.known
    for is_sequence, schema, name in home.pool.rows(_UNKNOWN, wanted):
        if collection_of(schema, name) in known:
            continue
        if is_sequence:
            yield warning(
                "sequence_outside",
                f"{home.pool.where}, {collection_of(schema, name)}",
                "no column of a table draws from this sequence of the tenant: it is not raised on the target",
                "let the column that it serves own it (alter sequence ... owned by), or raise it there by hand",
            )
        else:
            about = "the table lies among the tenant's own, and the catalogue does not know it"
            yield unknown_table(
                home, (schema, name), sql.SQL("true"), tenant, about=about, elsewhere=elsewhere
            )


def unknown_table(
    home: Home,
    table: tuple[str, str],
    mine: sql.Composable,
    tenant: TenantId,
    *,
    about: str,
    elsewhere: frozenset[str] | None,
) -> Finding:
    """What to say of a table that the catalogue does not name, whose rows are the tenant's where `mine`.

    `elsewhere` are the other cell's tables where that cell is the older one: what it does not have is a newer schema's
    and has nowhere to go, so it is no reason to refuse as long as the tenant has no rows in it that should move.
    """
    where = f"{home.pool.where}, {collection_of(*table)}"
    if elsewhere is None or collection_of(*table) in elsewhere:
        return refusal(
            "table_not_in_catalogue",
            where,
            f"{about}: its rows would stay behind",
            "add it to `tables` or to `ignore` in catalogue.yaml",
        )
    readable = home.pool.value(
        "select has_schema_privilege(%(schema)s, 'usage') and has_table_privilege(%(table)s, 'select')",
        {"schema": table[0], "table": sql.Identifier(*table).as_string()},
    )
    counted = sql.SQL("select count(*) from {} where {}").format(sql.Identifier(*table), mine)
    count = home.pool.value(counted) if readable else "an unknown number of"
    return warning(
        "newer_table",
        where,
        f"the table exists in this cell only, with {count} rows of {tenant}: they stay here if the tenant"
        " goes (back) to the other cell",
        "add it to catalogue.yaml as soon as both cells have it",
    )
