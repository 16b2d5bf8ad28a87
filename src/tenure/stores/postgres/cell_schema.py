"""Installs `tenure.client`'s cell.sql in a cell's database: idempotent, and safe when several processes do it."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Final

from psycopg import sql

from tenure.model.secret import Secret
from tenure.stores.postgres.connect import Pool

_INSTALLED: Final = "select obj_description(to_regnamespace('tenure'), 'pg_namespace')"


@cache
def _script() -> tuple[str, str]:
    text = files("tenure.client").joinpath("cell.sql").read_text(encoding="utf-8")
    return text, f"Tenure, cell.sql {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def install(pool: Pool) -> None:
    """Make sure that this version of cell.sql is there. One query if it is."""
    script, comment = _script()
    if pool.value(_INSTALLED) == comment:
        return
    with pool.transaction() as connection:
        connection.execute("select pg_advisory_xact_lock(hashtextextended('tenure install', 7))")
        connection.execute(sql.SQL(script))
        connection.execute(sql.SQL("comment on schema tenure is {}").format(sql.Literal(comment)))


def installed(pool: Pool) -> bool:
    """Whether some version of cell.sql is there."""
    return bool(pool.value("select to_regclass('tenure.fence') is not null"))


def install_cell(dsn: Secret) -> None:
    """Install cell.sql in the database of `dsn`. Idempotent."""
    pool = Pool(dsn, "PostgreSQL")
    try:
        install(pool)
    finally:
        pool.close()
