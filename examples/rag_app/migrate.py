"""Brings a database to a version of the service's schema: `python -m rag_app.migrate VERSION`, with `DATABASE_URL`.

Version 1 is `schema.sql`, the later ones are plain SQL files in `migrations/`, each in a transaction of its own. The
running service is at version 1; the others are there to restore older backups into newer schemas with.
"""

from __future__ import annotations

import os
import sys
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Final

import psycopg
from psycopg import sql

from rag_app.settings import APP_ROLE

LATEST: Final = 4


def main(arguments: list[str]) -> int:
    """Migrate up to the version that is asked for. Never down: a database that is newer stays as it is."""
    wanted = int(arguments[0]) if arguments else LATEST
    known = scripts()
    if wanted not in known:
        sys.stderr.write(f"there is no version {wanted} of the schema: the last one is {max(known)}\n")
        return 1
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        migrate(connection, wanted)
    return 0


def migrate(connection: psycopg.Connection[Any], wanted: int) -> None:
    """Apply what is missing up to that version, in order. Raises what the database says against one, which then
    leaves no trace."""
    ensure_role(connection)
    for version, script in sorted(scripts().items()):
        if version_of(connection) < version <= wanted:
            with connection.transaction():
                connection.execute(script.read_bytes())


def scripts() -> dict[int, Traversable]:
    """The SQL of every version."""
    here = resources.files("rag_app")
    later = {
        int(entry.name.partition("_")[0]): entry
        for entry in here.joinpath("migrations").iterdir()
        if entry.name.endswith(".sql")
    }
    return {1: here.joinpath("schema.sql"), **later}


def version_of(connection: psycopg.Connection[Any]) -> int:
    """The version that a database has; 0 for an empty one."""
    if connection.execute("select to_regclass('public.schema_version')").fetchone() == (None,):
        return 0
    row = connection.execute("select version from public.schema_version").fetchone()
    return 0 if row is None else int(row[0])


def ensure_role(connection: psycopg.Connection[Any]) -> None:
    """The service's role, to which the schema grants rights; without a password nobody can log in as it."""
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(hashtextextended('rag_app:deploy', 0))")
        if connection.execute("select 1 from pg_roles where rolname = %s", (APP_ROLE,)).fetchone() is None:
            role = sql.Identifier(APP_ROLE)
            connection.execute(
                sql.SQL("create role {} login nosuperuser nobypassrls noreplication").format(role)
            )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
