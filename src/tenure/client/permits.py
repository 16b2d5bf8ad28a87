"""Permits and the journal, inside the app's own transaction, with the refusals of `cell.sql` as exceptions.

A permit is the right to write for one tenant until the transaction ends. While it is held no fence can go
down, so whatever the app writes for the tenant, in any store, is either finished before a switch or
refused:

    with translating(tenant), conn.transaction():
        touch(conn, tenant, "objects", key)      # or permit(conn, tenant) if no journaled store is written
        conn.execute(...)                        # PostgreSQL
        s3.put_object(...); redis.set(...)       # other stores: here, before the transaction ends
    return 201                                   # and only then is it acknowledged

A write to another store after the transaction, or in a thread that outlives it, is outside the promise. So
is one whose transaction rolls back: it was never acknowledged, and a move may leave it behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any, ClassVar, Final

import psycopg

from tenure.errors import TenureError

FENCED_SQLSTATE: Final = "TN001"

_PERMIT: Final = "select tenure.permit(%s)"
_TOUCH: Final = "select tenure.touch(%s, %s, %s)"
_INSTALL_LOCK: Final = "select pg_advisory_xact_lock(hashtextextended('tenure:install', 7))"


class Fenced(TenureError):
    """This cell does not accept the tenant's writes now, or any more. Roll back: nothing was done."""

    code: ClassVar[str] = "fenced"
    retryable: ClassVar[bool] = True

    def __init__(self, tenant: str) -> None:
        super().__init__(
            f"tenant {tenant} is fenced in this cell",
            hint="look up where the tenant is served now and run the transaction there",
        )
        self.tenant = tenant


@contextmanager
def translating(tenant: str) -> Iterator[None]:
    """Turn the refusal of a fenced tenant's write, by a permit or by a trigger, into `Fenced`.

    Put it around the whole transaction (around `async with` as well): a statement of an app that takes no
    permit is refused by the fence's trigger. Every other error passes unchanged. SQLSTATE 40001 does too:
    the snapshot was too old to tell, and running the whole transaction again is the answer.
    """
    try:
        yield
    except psycopg.Error as error:
        if error.diag.sqlstate == FENCED_SQLSTATE:
            raise Fenced(tenant) from error
        raise


def permit(conn: psycopg.Connection[Any], tenant: str) -> bool:
    """Take the right to write for the tenant until the open transaction ends.

    Returns whether changes are being recorded. Waits while a fence goes down or up. Taking it twice in a
    transaction is harmless. Raises `Fenced`, and psycopg's `SerializationFailure` (40001) if the
    transaction's snapshot is too old. On a connection in autocommit mode without an open transaction the
    permit ends with the statement and protects nothing.
    """
    with translating(tenant):
        return _recording(conn.execute(_PERMIT, (tenant,)).fetchone())


async def apermit(conn: psycopg.AsyncConnection[Any], tenant: str) -> bool:
    """`permit` for an asynchronous connection."""
    with translating(tenant):
        return _recording(await (await conn.execute(_PERMIT, (tenant,))).fetchone())


def touch(conn: psycopg.Connection[Any], tenant: str, store: str, key: str) -> None:
    """Take a permit and say that this transaction is about to change `key` of `store` (as in the catalogue).

    Call it before the change. Costs one function call; a row is written only while the tenant is being moved.
    """
    with translating(tenant):
        conn.execute(_TOUCH, (tenant, store, key))


async def atouch(conn: psycopg.AsyncConnection[Any], tenant: str, store: str, key: str) -> None:
    """`touch` for an asynchronous connection."""
    with translating(tenant):
        await conn.execute(_TOUCH, (tenant, store, key))


def install(conn: psycopg.Connection[Any]) -> None:
    """Create the schema `tenure` in the database of a cell. Safe to run again, also concurrently.

    It is one transaction. The connection's user becomes the owner of the functions: use the owner of the
    app's tables, not the app's role.
    """
    script = resources.files("tenure.client").joinpath("cell.sql").read_bytes()
    with conn.transaction():
        conn.execute(_INSTALL_LOCK)
        conn.execute(script)


def _recording(row: tuple[Any, ...] | dict[str, Any] | None) -> bool:
    """The function's one result, whatever row factory the app has set."""
    if row is None:
        return False
    return bool(row["permit"] if isinstance(row, dict) else row[0])
