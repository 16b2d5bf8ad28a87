"""Brings the schema of the control database up to date, one migration at a time and by one process at a time.

A migration that was applied is never edited: its digest is kept, and a difference is refused.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from tenure.errors import ConfigurationError
from tenure.registry.database import Connection, Database, TupleRow

_NAME: Final = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


@dataclass(frozen=True, kw_only=True, order=True)
class Migration:
    """One file of `schema/migrations`. `version` is the number in its name; they follow each other without a gap."""

    version: int
    name: str
    sql: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def known() -> tuple[Migration, ...]:
    """List the migrations this version of Tenure brings, in their order."""
    folder = files("tenure.registry").joinpath("schema", "migrations")
    found = sorted(
        Migration(version=int(match[1]), name=entry.name.removesuffix(".sql"), sql=entry.read_text("utf-8"))
        for entry in folder.iterdir()
        if (match := _NAME.fullmatch(entry.name))
    )
    if [m.version for m in found] != list(range(1, len(found) + 1)):
        raise ConfigurationError(f"migrations are missing or double: {', '.join(m.name for m in found)}")
    return tuple(found)


def migrate(database: Database) -> tuple[str, ...]:
    """Apply what is missing and return the names; nothing if the schema is current.

    Each migration commits together with the note that it was applied. Concurrent callers wait for each other.
    Raises `ConfigurationError` if the schema is newer than this Tenure.
    """
    done: list[str] = []
    with database.dedicated() as connection:
        connection.execute("select pg_advisory_lock(hashtextextended('tenure.registry.migrate', 0))")
        applied = _applied(connection)
        _refuse_newer(database, applied)
        for migration in known():
            if migration.version in applied:
                continue
            with connection.transaction():
                apply(connection, migration)
            done.append(migration.name)
    return tuple(done)


def apply(connection: Connection[TupleRow], migration: Migration) -> None:
    """Run one migration and note it, within the caller's transaction. Running it again changes nothing."""
    connection.execute(migration.sql.encode())
    connection.execute(
        """
        create table if not exists registry.migrations (
            version integer primary key,
            name text not null,
            digest text not null,
            applied_at timestamptz not null default clock_timestamp()
        )
        """
    )
    connection.execute(
        """
        insert into registry.migrations (version, name, digest) values (%s, %s, %s)
        on conflict (version) do nothing
        """,
        (migration.version, migration.name, migration.digest),
    )


def check_version(database: Database) -> None:
    """Return if the schema is exactly the one this Tenure knows; raise `ConfigurationError` with what to do
    otherwise."""
    with database.connection() as connection:
        applied = _applied(connection)
    _refuse_newer(database, applied)
    missing = [m for m in known() if m.version not in applied]
    if missing:
        raise ConfigurationError(
            f"the {database.describe()} lacks {len(missing)} migration(s), from {missing[0].name} on",
            hint="`tenure estate init` applies them",
        )
    for migration in known():
        if applied[migration.version] != migration.digest:
            raise ConfigurationError(
                f"the {database.describe()} was built by another {migration.name} than this Tenure has",
                hint="use the release that built it, or a new database",
            )


def _applied(connection: Connection[TupleRow]) -> dict[int, str]:
    exists = connection.execute("select to_regclass('registry.migrations') is not null").fetchone()
    if exists is None or not exists[0]:
        return {}
    rows = connection.execute("select version, digest from registry.migrations order by version")
    return {int(version): str(digest) for version, digest in rows}


def _refuse_newer(database: Database, applied: dict[int, str]) -> None:
    newest, mine = max(applied, default=0), len(known())
    if newest > mine:
        raise ConfigurationError(
            f"the {database.describe()} has schema version {newest}, this Tenure knows up to {mine}",
            hint="a newer Tenure has been here: use that release",
        )
