"""What Tenure says to a ClickHouse server, and what its errors mean: over HTTP, without a session."""

from __future__ import annotations

import io
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError

from tenure.errors import StoreRefused, StoreUnavailable, TenureError
from tenure.model.secret import Secret

CONNECT_TIMEOUT_S: Final = 3
ANSWER_TIMEOUT_S: Final = 300
BLOCK_BYTES: Final = 1 << 20
_NO_ENTRY: Final = (516, 192, 193, 194)
"""AUTHENTICATION_FAILED, UNKNOWN_USER, WRONG_PASSWORD, REQUIRED_PASSWORD."""
_TEMPORARY: Final = (159, 202, 209, 210, 241, 242, 243, 252, 319, 999)
"""TIMEOUT_EXCEEDED, TOO_MANY_SIMULTANEOUS_QUERIES, SOCKET_TIMEOUT, NETWORK_ERROR, MEMORY_LIMIT_EXCEEDED,
TABLE_IS_READ_ONLY, NOT_ENOUGH_SPACE, TOO_MANY_PARTS, UNKNOWN_STATUS_OF_INSERT, KEEPER_EXCEPTION."""
_SETTINGS: Final = {
    "async_insert": 0,
    "insert_deduplicate": 0,
    "session_timezone": "UTC",
    "lightweight_deletes_sync": 0,
    "mutations_sync": 0,
    "lightweight_mutation_projection_mode": "rebuild",
}
"""Without the second, a replicated table would take a partition that is deleted and brought again for a duplicate."""


class ClickHouseClient:
    """One server. Connects when it is first asked something; safe for several threads."""

    def __init__(self, *, url: str, user: str, password: Secret, where: str) -> None:
        parts = urlsplit(url)
        self._secure: Final = parts.scheme == "https"
        self._host: Final = str(parts.hostname)
        self._port: Final = parts.port or (8443 if self._secure else 8123)
        self._user: Final = user
        self._password: Final = password
        self._where: Final = where
        self._lock: Final = threading.Lock()
        self._made: Client | None = None
        self.server: Final = f"{self._host}:{self._port}"

    def ping(self) -> None:
        with self._translated():
            client = self._connect(answer_timeout_s=CONNECT_TIMEOUT_S)
            try:
                client.command("select 1")
            finally:
                client.close()

    def _connect(self, *, answer_timeout_s: int) -> Client:
        return clickhouse_connect.get_client(
            interface="https" if self._secure else "http",
            host=self._host,
            port=self._port,
            username=self._user,
            password=self._password.reveal(),
            connect_timeout=CONNECT_TIMEOUT_S,
            send_receive_timeout=answer_timeout_s,
            autogenerate_session_id=False,
            query_retries=0,
            settings=dict(_SETTINGS),
        )

    @contextmanager
    def client(self) -> Iterator[Client]:
        """The client of this process: without a session, it serves several threads at once."""
        with self._translated():
            with self._lock:
                if self._made is None:
                    self._made = self._connect(answer_timeout_s=ANSWER_TIMEOUT_S)
                client = self._made
            yield client

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ClickHouseError as error:
            raise self._translate(error) from error

    def _translate(self, error: ClickHouseError) -> TenureError:
        code = getattr(error, "code", None)
        text = str(error).partition("\n")[0]
        if code in _NO_ENTRY:
            return StoreUnavailable(
                f"{self._where} refuses the login", hint="check the user and the password in tenure.yaml"
            )
        if not isinstance(error, DatabaseError) or code is None or code in _TEMPORARY:
            return StoreUnavailable(
                f"{self._where} cannot be reached, or not now: {text}",
                hint="check that the server runs at that address and has room",
            )
        return StoreRefused(f"{self._where}: {text}")

    def select(self, query: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Sequence[Any]]:
        with self.client() as client:
            rows: Sequence[Sequence[Any]] = client.query(query, parameters=dict(parameters or {})).result_rows
            return rows

    def do(self, statement: str, parameters: Mapping[str, Any] | None = None) -> None:
        with self.client() as client:
            client.command(statement, parameters=dict(parameters or {}))

    def stream(self, query: str, parameters: Mapping[str, Any], form: str) -> Generator[bytes, None, None]:
        """The answer in that form. The server makes all of it before it begins to send: an answer that breaks off is an
        error and not a short answer."""
        with self.client() as client:
            stream = client.raw_stream(
                query, parameters=dict(parameters), fmt=form, settings={"wait_end_of_query": 1}
            )
            assert isinstance(stream, io.IOBase)
            with stream:
                while block := stream.read(BLOCK_BYTES):
                    yield block

    def close(self) -> None:
        with self._lock:
            client, self._made = self._made, None
        if client is not None:
            client.close()
