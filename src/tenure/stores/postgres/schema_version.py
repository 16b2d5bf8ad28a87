"""The version of a database's schema, as the app's own migrations have recorded it."""

from __future__ import annotations

from typing import Final

from psycopg import sql

from tenure.catalogue.evolution import Migrations
from tenure.model.schema_version import MigrationTool, SchemaVersion, latest
from tenure.stores.postgres.connect import Connection, Pool

SCHEMA_VERSION: Final = "schema_version"
"""What the version is called among the facts of a backup."""
_ALEMBIC: Final = "select version_num::text from {} order by 1"
_DJANGO: Final = "select app || '.' || name from {} order by id"
_SQL: Final = "select {}::text from {}"


def schema_version(pool: Pool, migrations: Migrations) -> SchemaVersion:
    """The version now; that of an empty database where there is no record of it. Reads only.

    Raises `StoreRefused` where the catalogue's query, or table, does not give one.
    """
    with pool.transaction() as connection:
        connection.execute("set transaction read only")
        return version_in(connection, migrations)


def version_in(connection: Connection, migrations: Migrations) -> SchemaVersion:
    """As `schema_version`, in a transaction of the caller's: at one point with whatever else it reads."""
    names = _names(connection, migrations)
    if migrations.tool is MigrationTool.SQL:
        last = latest(names)
        return SchemaVersion(tool=migrations.tool, applied=() if last is None else (last,))
    return SchemaVersion(tool=migrations.tool, applied=names)


def _names(connection: Connection, migrations: Migrations) -> tuple[str, ...]:
    if migrations.query is not None:
        rows = connection.execute(migrations.query.encode()).fetchall()
        return tuple(str(row[0]) for row in rows)
    assert migrations.table is not None
    table = sql.Identifier(migrations.table.schema, migrations.table.name)
    there = connection.execute("select to_regclass(%(name)s)", {"name": table.as_string()}).fetchone()
    if there is None or there[0] is None:
        return ()
    match migrations.tool:
        case MigrationTool.ALEMBIC:
            query = sql.SQL(_ALEMBIC).format(table)
        case MigrationTool.DJANGO:
            query = sql.SQL(_DJANGO).format(table)
        case MigrationTool.SQL:
            query = sql.SQL(_SQL).format(sql.Identifier(migrations.column), table)
    return tuple(str(row[0]) for row in connection.execute(query).fetchall())
