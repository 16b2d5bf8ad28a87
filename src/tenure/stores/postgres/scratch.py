"""A scratch database: made for one restore, on a server of the operator's choice, and dropped with everything in it.

Its name says whose it is, so that any process finds what a killed one has left, and nothing else is ever dropped.
"""

from __future__ import annotations

from typing import Final

from psycopg import sql

from tenure.errors import StoreRefused
from tenure.model.secret import Secret
from tenure.stores.postgres.connect import Pool, to_database
from tenure.stores.postgres.names import PREFIX, short

_SCRATCH: Final = f"{PREFIX}_restore_"
_READY: Final = "staged: "


class Scratch:
    """The scratch database of `purpose` (an operation, a plan) on the server that `dsn` leads to, for one store."""

    def __init__(self, dsn: Secret, where: str, *purpose: str) -> None:
        self.name: Final = f"{_SCRATCH}{short(*purpose)}"
        self.dsn: Final = to_database(dsn, self.name)
        self._server: Final = Pool(dsn, where)
        self.pool: Final = Pool(self.dsn, f"{where}, scratch database {self.name}")

    def create(self) -> None:
        """Make it anew, empty. What a former attempt left in it is gone.

        Raises `StoreRefused` where the login may not create databases.
        """
        self.drop()
        try:
            self._server.run(
                sql.SQL("create database {} template template0").format(sql.Identifier(self.name))
            )
        except StoreRefused as error:
            raise StoreRefused(
                f"{self._server.where}: no scratch database can be made there: {error.message}",
                hint="give Tenure's role CREATEDB, or name another server with `scratch_dsn` in tenure.yaml",
            ) from error

    def ready(self) -> str | None:
        """What `note_ready` has noted last; None where there is no such database, or it was not finished."""
        comment = self._server.value(
            "select shobj_description(oid, 'pg_database') from pg_database where datname = %(name)s",
            {"name": self.name},
        )
        return str(comment).removeprefix(_READY) if comment and str(comment).startswith(_READY) else None

    def note_ready(self, what: str) -> None:
        """Note in the database itself that `what` is in it, whole and checked."""
        self._server.run(
            sql.SQL("comment on database {} is {}").format(
                sql.Identifier(self.name), sql.Literal(f"{_READY}{what}")
            )
        )

    def drop(self) -> None:
        """Remove it, whoever is connected. Idempotent."""
        self.pool.close()
        self._server.run(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(self.name)))

    def close(self) -> None:
        """Give connections back; the database stays."""
        self.pool.close()
        self._server.close()
