"""Writes that only the present holder of a step may do.

Every such write runs in a transaction that has locked the step's row and seen the holder's token on it, so a
holder that was taken over (paused, cut off, presumed dead) changes nothing, however late it comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tenure.errors import LeaseLost
from tenure.model.operation import Lease
from tenure.registry.database import Connection, Database, TupleRow


@contextmanager
def held(
    database: Database, lease: Lease | None, *, with_operation: bool = False
) -> Iterator[Connection[TupleRow]]:
    """Open a transaction in which the lease is known to be held; without a lease, an ordinary one.

    `with_operation` locks the operation's row as well, before the step's (the lock order of the whole
    registry). Raises `LeaseLost` if the step has a newer holder or is not running any more.
    """
    with database.transaction() as connection:
        if lease is not None:
            if with_operation:
                connection.execute(
                    "select 1 from registry.operations where id = %s for no key update", (lease.operation,)
                )
            found = connection.execute(
                """
                select 1 from registry.steps
                where operation = %s and position = %s and token = %s and state = 'running'
                for no key update
                """,
                (lease.operation, lease.position, lease.token),
            ).fetchone()
            if found is None:
                raise lost(lease)
        yield connection


def lost(lease: Lease) -> LeaseLost:
    """The error for a holder that has been taken over."""
    return LeaseLost(
        f"the step {lease.step!r} of {lease.operation} has been taken over: token {lease.token} is outdated",
        hint=f"`tenure op watch {lease.operation}` follows what the new holder does",
    )
