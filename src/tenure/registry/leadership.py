"""One process leads: a session of its own with the control database holds the lock, and every write of the leader's
goes through that session.

Whoever loses the session loses the lock with it. A leader that says nothing for `silence_s`, because it was stopped,
cut off or its host is gone, loses both: the server ends the session. When it wakes up, its writes have nowhere to go.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import psycopg

from tenure.errors import LeaseLost
from tenure.registry import events
from tenure.registry.database import Connection, Database, TupleRow, class_row

STATEMENT_S: Final = 4.0
"""Seconds for one statement of a leader. What the server does for one that has vanished ends by then, and its silence
begins: with `silence_s` it bounds how long nobody leads."""
_TRY: Final = "select pg_try_advisory_lock(hashtextextended('tenure.leader.' || %s, 0))"


@dataclass(frozen=True, kw_only=True)
class Leader:
    """Who was elected last. `term` grows with every election."""

    role: str
    holder: str
    term: int
    since: datetime


class Election:
    """A process's session for one role: it stands by until `elect` says that it leads. Safe to use from threads."""

    def __init__(self, database: Database, connection: Connection[TupleRow], role: str, holder: str) -> None:
        self._database = database
        self._connection = connection
        self._role = role
        self._holder = holder
        self._lock = threading.Lock()
        self.term: int | None = None

    @classmethod
    @contextmanager
    def open(cls, database: Database, role: str, *, holder: str, silence_s: float) -> Iterator[Election]:
        """Open the session, and close it at the end: leadership ends with it at once."""
        with database.dedicated(silence_s=silence_s) as connection:
            connection.execute("select set_config('statement_timeout', %s, false)", (f"{STATEMENT_S:g}s",))
            connection.execute("select set_config('lock_timeout', %s, false)", (f"{STATEMENT_S:g}s",))
            yield cls(database, connection, role, holder)

    def elect(self) -> bool:
        """Lead if nobody else does, in a new term; True if this session leads. Idempotent."""
        if self.term is not None:
            return True
        with self._talk() as connection, connection.transaction():
            taken = connection.execute(_TRY, (self._role,)).fetchone()
            if taken is None or not taken[0]:
                return False
            row = connection.execute(
                """
                insert into registry.leaders (role, holder, term, since) values (%s, %s, 1, clock_timestamp())
                on conflict (role) do update
                set holder = excluded.holder, term = leaders.term + 1, since = excluded.since
                returning term
                """,
                (self._role, self._holder),
            ).fetchone()
            assert row is not None
            events.append(
                connection, "leader_elected", actor=self._holder, data={"role": self._role, "term": row[0]}
            )
        self.term = int(row[0])
        return True

    def last(self) -> Leader | None:
        """Who was elected last, by anyone: who leads now, unless that one is gone. None before the first election."""
        with self._talk() as connection, connection.cursor(row_factory=class_row(Leader)) as cursor:
            query = "select role, holder, term, since from registry.leaders where role = %s"
            return cursor.execute(query, (self._role,)).fetchone()

    def beat(self) -> None:
        """Say a word, so that the server keeps the session. Raises `LeaseLost` if there is none any more."""
        with self._talk() as connection:
            connection.execute("select 1")

    @contextmanager
    def transaction(self) -> Iterator[Connection[TupleRow]]:
        """Lend the session with a transaction open, in the leader's own term; what it writes is a leader's.

        Raises `LeaseLost` if the session is gone or somebody was elected since.
        """
        with self._talk() as connection, connection.transaction():
            leads = connection.execute(
                "select 1 from registry.leaders where role = %s and term = %s for share",
                (self._role, self.term),
            ).fetchone()
            if leads is None:
                raise self._lost("another process was elected")
            yield connection

    @contextmanager
    def _talk(self) -> Iterator[Connection[TupleRow]]:
        with self._lock, self._database.translated():
            try:
                yield self._connection
            except psycopg.OperationalError as error:
                if not self._connection.closed:
                    raise
                raise self._lost(str(error).strip().partition("\n")[0]) from error

    def _lost(self, why: str) -> LeaseLost:
        return LeaseLost(
            f"{self._holder} does not lead as {self._role} any more: {why}",
            hint="it stands by for the one that leads now",
        )
