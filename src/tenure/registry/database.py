"""Connections to the control database, and the one place where the driver's errors become Tenure's.

Connections are kept warm and are used by one thread at a time; the DSN is never shown, logged or raised.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, LiteralString

import psycopg
from psycopg import Connection, errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow, TupleRow, class_row, dict_row

from tenure.errors import (
    ApprovalNeeded,
    Cancelled,
    ConfigurationError,
    DeadlineExceeded,
    LeaseLost,
    NotAllowed,
    PlanStale,
    StoreRefused,
    StoreUnavailable,
    TenureError,
)
from tenure.model.secret import Secret

__all__ = ["Connection", "Database", "DatabaseSettings", "DictRow", "TupleRow", "class_row", "dict_row"]

_OWN_STATES: Final[Mapping[str, tuple[type[TenureError], str | None]]] = {
    "TR001": (LeaseLost, "someone else has taken the operation over: `tenure op watch` follows it"),
    "TR002": (PlanStale, "make a new plan with `--plan` from what is there now"),
    "TR003": (Cancelled, None),
    "TR005": (StoreRefused, "the journal cannot be changed; write another event instead"),
    "TR006": (NotAllowed, "`tenure capacity` shows what it waits for"),
    "TR040": (ApprovalNeeded, "`tenure op show OPERATION` says what is to be approved"),
    "TR041": (NotAllowed, "`tenure op list` shows who asked for what"),
}
"""The SQLSTATEs that the schema's own triggers and functions raise, the error that each becomes, and its hint."""

_GIVEN_UP: Final = (
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.IdleInTransactionSessionTimeout,  # this process slept in it, or the network was silent for that long
)
_SESSION: Final[LiteralString] = """
    select set_config('timezone', 'UTC', false),
           set_config('statement_timeout', %(statement_timeout)s, false),
           set_config('lock_timeout', %(lock_timeout)s, false),
           set_config('idle_in_transaction_session_timeout', %(idle_timeout)s, false)
"""


@dataclass(frozen=True, kw_only=True)
class DatabaseSettings:
    """How long the control database may take before it counts as unavailable."""

    connect_timeout_s: int = 5
    """Seconds for one attempt to connect; a person waits for it."""
    statement_timeout_s: float = 30.0
    """Seconds for one statement; the longest of ours lists events."""
    lock_timeout_s: float = 10.0
    """Seconds for a row lock; nobody keeps one for longer than a commit."""
    idle_in_transaction_s: float = 5.0
    """Seconds a transaction may stay open unused: a process frozen inside one must not keep the others out."""
    idle_connections: int = 6
    """How many unused connections stay open: the executor, its heartbeat, and the threads of a step."""
    idle_check_after_s: float = 5.0
    """Seconds after which an unused connection is tried out before it is used again."""


class Database:
    """The control database. Safe to use from several threads; not to be carried over a fork."""

    def __init__(self, conninfo: Secret, *, settings: DatabaseSettings | None = None) -> None:
        self._settings = settings or DatabaseSettings()
        try:
            given: dict[str, Any] = conninfo_to_dict(conninfo.reveal())
        except psycopg.ProgrammingError:
            # The driver's message may quote the DSN, password included: it must not be shown as the cause.
            raise ConfigurationError(
                "the DSN of the control database is neither a PostgreSQL URL nor a list of key=value",
                hint="check what `control.dsn` in tenure.yaml refers to",
            ) from None
        given = {
            "application_name": "tenure",
            "connect_timeout": self._settings.connect_timeout_s,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
            **given,
        }
        self._conninfo = Secret(make_conninfo("", **given))
        self._name = _describe(given)
        self._idle: list[tuple[float, Connection[TupleRow]]] = []
        self._lock = Lock()

    def describe(self) -> str:
        """Name the database for people, without the password: `control database u@host:5432/name`."""
        return self._name

    __repr__ = describe

    @contextmanager
    def connection(self) -> Iterator[Connection[TupleRow]]:
        """Lend a connection in autocommit mode; several threads get several. Errors come out as `TenureError`s."""
        with self.translated():
            connection = self._take()
            try:
                yield connection
            finally:
                self._give_back(connection)

    @contextmanager
    def transaction(self) -> Iterator[Connection[TupleRow]]:
        """Lend a connection with one transaction open: committed at the end, rolled back if anything is raised."""
        with self.connection() as connection, connection.transaction():
            yield connection

    @contextmanager
    def dedicated(self, *, silence_s: float | None = None) -> Iterator[Connection[TupleRow]]:
        """Open a connection of its own, for session-wide locks and LISTEN, and close it at the end.

        With `silence_s` (at least 3) the server ends the session when this side has said nothing for that long, and
        each side gives the other one up as soon, even if its host has vanished.
        """
        with self.translated():
            bounds = _given_up_after(silence_s) if silence_s is not None else {}
            connection = self._connect(
                {name.replace("tcp_keep", "keep"): value for name, value in bounds.items()}
            )
            try:
                if silence_s is not None:
                    _say(connection, {**bounds, "idle_session_timeout": round(silence_s * 1000)})
                yield connection
            finally:
                connection.close()

    def ping(self) -> None:
        """Return if the control database lets us in; raise `StoreUnavailable` otherwise."""
        with self.connection() as connection:
            connection.execute("select 1")

    def close(self) -> None:
        """Close the connections that nobody uses. Idempotent; the database can be used again afterwards."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    def _connect(self, options: Mapping[str, int] | None = None) -> Connection[TupleRow]:
        connection = psycopg.connect(
            make_conninfo(self._conninfo.reveal(), **(options or {})), autocommit=True
        )
        try:
            connection.execute(
                _SESSION,
                {
                    "statement_timeout": f"{self._settings.statement_timeout_s:.3f}s",
                    "lock_timeout": f"{self._settings.lock_timeout_s:.3f}s",
                    "idle_timeout": f"{self._settings.idle_in_transaction_s:.3f}s",
                },
            )
        except BaseException:
            connection.close()
            raise
        return connection

    def _take(self) -> Connection[TupleRow]:
        while True:
            with self._lock:
                if not self._idle:
                    break
                since, connection = self._idle.pop()
            if time.monotonic() - since < self._settings.idle_check_after_s or _answers(connection):
                return connection
            connection.close()
        return self._connect()

    def _give_back(self, connection: Connection[TupleRow]) -> None:
        if connection.closed or connection.info.transaction_status is not TransactionStatus.IDLE:
            connection.close()
            return
        with self._lock:
            if len(self._idle) < self._settings.idle_connections:
                self._idle.append((time.monotonic(), connection))
                return
        connection.close()

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Have the driver's errors come out as `TenureError`s."""
        try:
            yield
        except psycopg.Error as error:
            translated = self._translate(error)
            if translated is None:
                raise
            if isinstance(translated, StoreUnavailable):
                self.close()
            raise translated from error

    def _translate(self, error: psycopg.Error) -> TenureError | None:
        """Give the Tenure error for a driver error; None for what only a defect of Tenure can cause."""
        said = error.diag.message_primary or _first_line(error)
        own = _OWN_STATES.get(error.sqlstate or "")
        if own is not None:
            raised, hint = own
            return raised(said, hint=hint)
        if isinstance(error, errors.InvalidPassword | errors.InvalidAuthorizationSpecification):
            return self._login_refused(said)
        if isinstance(error, errors.LockNotAvailable | errors.QueryCanceled):
            return DeadlineExceeded(f"the {self._name} took too long: {said}")
        if isinstance(error, _GIVEN_UP):
            return StoreUnavailable(f"the {self._name} gave the transaction up: {said}", hint="try again")
        if isinstance(error, errors.InvalidCatalogName):
            return StoreUnavailable(
                f"the {self._name} does not exist", hint="create it: `createdb`, then `tenure estate up`"
            )
        if isinstance(error, errors.InsufficientPrivilege | errors.ReadOnlySqlTransaction):
            return StoreRefused(
                f"the {self._name} refused: {said}",
                hint="the role needs to own the schema `registry`, or the rights that docs/approval.md grants",
            )
        if isinstance(error, errors.UndefinedTable | errors.InvalidSchemaName | errors.UndefinedColumn):
            return ConfigurationError(
                f"the {self._name} lacks what this Tenure needs: {said}",
                hint="`tenure estate up` brings its schema up to date",
            )
        if isinstance(error, psycopg.OperationalError):
            if "password authentication failed" in str(error) or "no password supplied" in str(error):
                return self._login_refused(said)
            return StoreUnavailable(
                f"the {self._name} cannot be reached: {said}",
                hint="check that it runs and what `control.dsn` in tenure.yaml refers to",
            )
        return None

    def _login_refused(self, said: str) -> StoreUnavailable:
        return StoreUnavailable(
            f"the {self._name} refuses the login: {said}",
            hint="check the user and password in what `control.dsn` in tenure.yaml refers to",
        )


def _say(connection: Connection[TupleRow], settings: Mapping[str, int]) -> None:
    for name, value in settings.items():
        connection.execute("select set_config(%s, %s, false)", (name, str(value)))


def _given_up_after(silence_s: float) -> dict[str, int]:
    """What makes one side of a TCP connection give the other one up, by the same names here and in the server."""
    third = max(1, round(silence_s / 3))
    return {
        "tcp_user_timeout": round(silence_s * 1000),
        "tcp_keepalives_idle": third,
        "tcp_keepalives_interval": third,
        "tcp_keepalives_count": 2,
    }


def _describe(given: dict[str, Any]) -> str:
    host = given.get("host") or given.get("hostaddr") or "localhost"
    port = given.get("port") or 5432
    user = f"{given['user']}@" if given.get("user") else ""
    return f"control database {user}{host}:{port}/{given.get('dbname') or given.get('user') or ''}"


def _answers(connection: Connection[TupleRow]) -> bool:
    try:
        connection.execute("select 1")
    except psycopg.OperationalError:
        return False
    return True


def _first_line(error: psycopg.Error) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
