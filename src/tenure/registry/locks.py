"""Locks by name that span all of Tenure's processes, kept by a PostgreSQL: the control database, or a cell's.

A lock ends with its connection: a process that dies gives it back at once, and from one that stalls the database takes
it. What it protects must still be safe without it (the steps' tokens see to that); it only keeps read-modify-write of
shared things in order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Final, Protocol

import psycopg

from tenure.errors import DeadlineExceeded, LeaseLost, StoreUnavailable
from tenure.registry.database import Connection, TupleRow

POLL_S: Final = 0.005
STALL_S: Final = 10.0
"""Seconds without a word from the holder after which the database ends its session, and the lock with it. Longer than
any one change to what the locks protect takes."""
_TRY: Final = """
    select pg_try_advisory_lock(hashtextextended('tenure.mutex.' || %(name)s, 0)),
           set_config('idle_session_timeout', %(stall)s, false)
"""
_GIVE_BACK: Final = "select pg_advisory_unlock_all(), set_config('idle_session_timeout', null, false)"


class Lender(Protocol):
    """Whose connections keep the locks: always one database. Safe for several threads."""

    def connection(self) -> AbstractContextManager[Connection[TupleRow]]:
        """Lend a connection in autocommit mode; after an error, which comes out as a `TenureError`, it is closed."""

    def close(self) -> None:
        """Close the connections that nobody uses."""


class AdvisoryMutex:
    """A `tenure.stores.contract.Mutex`: `with mutex("name") as still_held: ...`, from any thread. Not re-entrant."""

    def __init__(self, lender: Lender, *, wait_s: float = 30.0, stall_s: float = STALL_S) -> None:
        self._lender = lender
        self._wait_s = wait_s
        self._stall_s = stall_s

    @contextmanager
    def __call__(self, name: str) -> Iterator[Callable[[], None]]:
        """Hold the lock of that name. Raises `DeadlineExceeded` if another keeps it for longer than `wait_s`.

        It belongs to one connection of the pool, which is closed if it cannot give the lock back. The check that the
        block is given asks the database, and counts as a word from the holder.
        """
        with ExitStack() as lent:
            try:
                connection = self._lend(lent, name)
            except StoreUnavailable:  # connections that were kept may be dead: once more with a new one
                self._lender.close()
                connection = self._lend(lent, name)
            yield lambda: _still_held(connection, name)

    def _lend(self, lent: ExitStack, name: str) -> Connection[TupleRow]:
        """A connection that has the lock until `lent` is closed."""
        with ExitStack() as stack:
            connection = stack.enter_context(self._lender.connection())
            stack.callback(_give_back, connection)
            self._acquire(connection, name)
            lent.push(stack.pop_all())
            return connection

    def _acquire(self, connection: Connection[TupleRow], name: str) -> None:
        deadline = time.monotonic() + self._wait_s
        wanted = {"name": name, "stall": f"{self._stall_s * 1000:.0f}ms"}
        while not _first(connection.execute(_TRY, wanted).fetchone()):
            if time.monotonic() > deadline:
                raise DeadlineExceeded(
                    f"another process has kept the lock {name!r} for {self._wait_s:g} s", hint="try again"
                )
            time.sleep(POLL_S)


def _give_back(connection: Connection[TupleRow]) -> None:
    try:
        connection.execute(_GIVE_BACK)
    except psycopg.Error:
        connection.close()


def _still_held(connection: Connection[TupleRow], name: str) -> None:
    """The lock is the session's: as long as the session answers, nobody else has it."""
    try:
        connection.execute("select 1")
    except psycopg.Error as error:
        raise LeaseLost(
            f"the lock {name!r} was lost: this process stalled, or the database that keeps it went away",
            hint="nothing was changed under it since; try again",
        ) from error


def _first(row: TupleRow | None) -> bool:
    return row is not None and bool(row[0])
