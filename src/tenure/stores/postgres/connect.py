"""Connections to one cell's PostgreSQL: a few warm ones, always the same session settings, errors translated.

The settings make text forms of values equal on every server, whatever its configuration and the role's defaults are.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

from tenure.errors import DeadlineExceeded, FenceRefused, StoreRefused, StoreUnavailable, TenureError
from tenure.model.secret import Secret

Connection = psycopg.Connection[TupleRow]
Query = LiteralString | sql.SQL | sql.Composed

SILENT_NETWORK: Final = {
    "connect_timeout": 4,
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
"""Seconds (and ms) after which a server counts as gone whose network says nothing any more, also while it is asked for
nothing but an answer: a statement may take as long as it likes, as long as the other end's TCP is there."""
IDLE_CONNECTIONS: Final = 8
WARM_CONNECTIONS: Final = 3
SESSION: Final = {
    "search_path": "pg_catalog,pg_temp",
    "client_encoding": "UTF8",
    "datestyle": "ISO,YMD",
    "timezone": "UTC",
    "intervalstyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "xmloption": "content",
    "jit": "off",
    "work_mem": "64MB",
    "default_transaction_isolation": r"read\ committed",
    "idle_in_transaction_session_timeout": "120s",
    "application_name": "tenure",
}
_TIMED_OUT: Final = ("55P03", "57014")
_MET: Final = ("40001", "40P01")
"""Two transactions met; so they did where DDL took away what another session was just looking up (XX000)."""
_NEWER_HOLDER: Final = "TN002"
"""What the functions of cell.sql raise when a greater token has been at work."""
_DISK_FULL: Final = "53100"
_LEFT_OPEN: Final = "25P03"
"""The server gave a transaction up in which this process slept, or during which the network was silent."""
_NO_DATABASE: Final = re.compile(r'database "(.+)" does not exist')
_LOGIN_REFUSED: Final = ("authentication failed", "no pg_hba.conf entry", "no password supplied")


def translate(error: psycopg.Error, where: str) -> TenureError:
    """The Tenure error for a driver's error. The text is the server's own first line: it never holds a secret."""
    state = error.sqlstate
    text = error.diag.message_primary or str(error).strip().partition("\n")[0]
    if state == _NEWER_HOLDER:
        return FenceRefused(f"{where}: {text}", hint="`tenure op list` shows who works on this tenant now")
    if state in _TIMED_OUT:
        return DeadlineExceeded(f"{where}: {text}", hint="something else holds a lock there; try again later")
    if state in _MET or (state == "XX000" and "cache lookup failed" in text):
        return DeadlineExceeded(
            f"{where}: {text}", hint="two transactions met there; the same call again can work"
        )
    if any(sign in text for sign in _LOGIN_REFUSED):
        return StoreUnavailable(
            f"{where}: the login was refused: {text}", hint="check the user and the password"
        )
    if state == _DISK_FULL:
        return StoreUnavailable(
            f"{where}: the disk is full: {text}",
            hint="make room there; what was not written yet is written then",
        )
    missing = _NO_DATABASE.search(text) if state in {None, "3D000"} else None
    if missing:
        return StoreRefused(
            f"{where}: there is no database {missing[1]}",
            hint="create it; preflight says how, and with what in it",
        )
    if state in {None, _LEFT_OPEN} or str(state)[:2] in {"08", "28", "57", "53"}:
        return StoreUnavailable(f"{where}: {text}", hint="check that the server runs and lets Tenure log in")
    return StoreRefused(f"{where}: {text} (SQLSTATE {state})", hint=error.diag.message_hint)


def to_database(dsn: Secret, database: str) -> Secret:
    """The same connection string, but to that database. Raises `StoreRefused`."""
    try:
        return Secret(make_conninfo(dsn.reveal(), dbname=database))
    except psycopg.Error:
        raise StoreRefused(f"the connection string for database {database} is malformed") from None


class Pool:
    """Autocommit connections to one database, reused and safe for several threads. `where` names it in messages."""

    def __init__(self, dsn: Secret, where: str) -> None:
        self.where = where
        self._dsn = dsn
        try:
            given = conninfo_to_dict(dsn.reveal())
        except psycopg.Error:
            raise StoreRefused(f"{where}: the connection string is malformed") from None
        options = " ".join(
            f"-c {name}={value}" for name, value in SESSION.items() if name != "client_encoding"
        )
        settings: dict[str, Any] = {**SILENT_NETWORK, **given}
        settings["options"] = f"{given.get('options') or ''} {options}".strip()
        settings["client_encoding"] = "UTF8"
        self.database: Final = given.get("dbname") or given.get("user")
        host = given.get("host") or given.get("hostaddr") or "localhost"
        self.address: Final = f"{host}:{given.get('port') or 5432}"
        """The server, as the connection string names it."""
        self._conninfo = Secret(make_conninfo("", **settings))
        self._idle: list[Connection] = []
        self._lock = threading.Lock()

    def beside(self, database: str) -> Pool:
        """A pool for another database of the same server."""
        return Pool(to_database(self._dsn, database), f"{self.where}, database {database}")

    def connect(self) -> Connection:
        """A new connection of its own. Raises `StoreUnavailable`."""
        try:
            connection = psycopg.connect(self._conninfo.reveal(), autocommit=True)
        except psycopg.Error as error:
            raise translate(error, self.where) from error
        try:
            connection.execute(
                "select set_config('synchronous_commit', 'on', false)"
                " where current_setting('synchronous_commit') = 'off'"
            )
        except psycopg.Error as error:
            connection.close()
            raise translate(error, self.where) from error
        return connection

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Lend a connection. Driver errors inside come out translated; a connection that had one is thrown away."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = self.connect()
        try:
            yield connection
        except psycopg.Error as error:
            connection.close()
            raise translate(error, self.where) from error
        except BaseException:
            connection.close()
            raise
        with self._lock:
            if not connection.closed and len(self._idle) < IDLE_CONNECTIONS:
                self._idle.append(connection)
                return
        connection.close()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction on a lent connection."""
        with self.connection() as connection, connection.transaction():
            yield connection

    def rows(self, query: Query, parameters: dict[str, Any] | None = None) -> list[TupleRow]:
        """Run one statement in a transaction of its own and give all its rows. A dead connection is replaced once."""
        try:
            with self.connection() as connection:
                return connection.execute(query, parameters).fetchall()
        except StoreUnavailable:
            self.close()
        with self.connection() as connection:
            return connection.execute(query, parameters).fetchall()

    def run(self, statement: Query) -> None:
        """Run one statement that gives no rows, in a transaction of its own where it allows one."""
        with self.connection() as connection:
            connection.execute(statement)

    def value(self, query: Query, parameters: dict[str, Any] | None = None) -> Any:
        """The first column of the first row, or None."""
        rows = self.rows(query, parameters)
        return rows[0][0] if rows else None

    def warm(self, rehearse: Callable[[Connection], None]) -> None:
        """Have `WARM_CONNECTIONS` idle connections, each of which has run `rehearse`."""
        with ExitStack() as stack:
            for connection in [stack.enter_context(self.connection()) for _ in range(WARM_CONNECTIONS)]:
                rehearse(connection)

    def close(self) -> None:
        """Close idle connections. The pool stays usable."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
