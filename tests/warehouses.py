"""Warehouses for tests, each with real engine: how to make a table, and how the app writes rows past Tenure."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import clickhouse_connect
import duckdb
import sqlalchemy as sa
from clickhouse_connect.driver.client import Client

from tenure.model.secret import Secret
from tenure.stores.analytics import Engine
from tenure.stores.analytics.clickhouse_server import ClickHouseServer
from tenure.stores.analytics.duckdb_file import DuckDbFile
from tenure.stores.analytics.sql_warehouse import SqlWarehouse

ROOT = Path(__file__).parents[1]
PASSWORD = "warehouse-password"
READY_S = 30.0


class Warehouse(Protocol):
    """One database of analytics, and the app's way to it."""

    schema: str
    """Where tables are made."""

    def engine(self) -> Engine:
        """As Tenure makes it. Whoever asks closes it."""

    def run(self, *statements: str) -> None:
        """As the app, in one go."""

    def rows(self, query: str) -> Sequence[Sequence[Any]]: ...

    def unreachable(self) -> Engine: ...

    def wrong_password(self) -> Engine: ...

    def close(self) -> None: ...


class DuckDbWarehouse:
    """A file, opened only for as long as it is used."""

    schema = "main"

    def __init__(self, folder: Path, key: str = "") -> None:
        self.path = folder / f"{secrets.token_hex(4)}.duckdb"
        self.key = key
        with duckdb.connect(":memory:") as made:
            made.execute(f"attach '{self.path}' as file {self._options}")

    @property
    def _options(self) -> str:
        return f"(encryption_key '{self.key}')" if self.key else ""

    def engine(self, wait_s: float = 15.0) -> DuckDbFile:
        key = Secret(self.key) if self.key else None
        return DuckDbFile(path=self.path, where=f"analytics in {self.path.name}", key=key, wait_s=wait_s)

    def run(self, *statements: str) -> None:
        with self.engine().opened(write=True) as connection:
            connection.execute("use file.main")
            connection.execute("begin transaction")
            for statement in statements:
                connection.execute(statement)
            connection.execute("commit")
            connection.execute("use memory.main")

    def rows(self, query: str) -> Sequence[Sequence[Any]]:
        with self.engine().opened() as connection:
            connection.execute("use file.main")
            found = connection.execute(query).fetchall()
            connection.execute("use memory.main")
            return found

    def unreachable(self) -> DuckDbFile:
        return DuckDbFile(path=self.path.with_name("nowhere.duckdb"), where="analytics")

    def wrong_password(self) -> DuckDbFile:
        return DuckDbFile(path=self.path, where="analytics", key=Secret("wrong-password"))

    def close(self) -> None:
        self.path.unlink(missing_ok=True)


@dataclass
class ClickHouseProcess:
    """A server of `tests.clickhouse` in a process of its own, which can be killed and started again."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> ClickHouseProcess:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.clickhouse", str(self.folder), str(self.port), PASSWORD],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        deadline = time.monotonic() + READY_S
        while True:
            with contextlib.suppress(OSError, urllib.error.URLError):
                urllib.request.urlopen(f"{self.url}/ping", timeout=1).close()
                return self
            assert time.monotonic() < deadline, "ClickHouse does not start"
            assert self.process.poll() is None, "ClickHouse has ended"
            time.sleep(0.05)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def client(self) -> Client:
        return clickhouse_connect.get_client(
            host="127.0.0.1",
            port=self.port,
            username="tenure",
            password=PASSWORD,
            autogenerate_session_id=False,
        )


def clickhouse_in(folder: Path) -> ClickHouseProcess:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return ClickHouseProcess(folder=folder, port=port).start()


class ClickHouseWarehouse:
    """A database of its own on a server that others use as well; `name` makes two servers' tables have one name."""

    def __init__(self, server: ClickHouseProcess, name: str) -> None:
        self.server = server
        self.schema = name
        self._client = server.client()
        self._client.command(f"create database {name}")

    def engine(self, **options: Any) -> ClickHouseServer:
        given: dict[str, Any] = {
            "url": self.server.url,
            "user": "tenure",
            "password": Secret(PASSWORD),
            "where": f"analytics in {self.schema}",
        }
        return ClickHouseServer(**{**given, **options})

    def run(self, *statements: str) -> None:
        for statement in statements:
            self._client.command(statement)

    def rows(self, query: str) -> Sequence[Sequence[Any]]:
        found: Sequence[Sequence[Any]] = self._client.query(query).result_rows
        return found

    def unreachable(self) -> ClickHouseServer:
        return self.engine(url="http://127.0.0.1:1")

    def wrong_password(self) -> ClickHouseServer:
        return self.engine(password=Secret("wrong-password"))

    def close(self) -> None:
        self._client.command(f"drop database if exists {self.schema} sync")
        self._client.close()


class SqlDatabase:
    """What SQLAlchemy reaches at that URL."""

    def __init__(self, url: str, schema: str) -> None:
        self.url = url
        self.schema = schema
        self._engine = sa.create_engine(url)

    def engine(self) -> SqlWarehouse:
        return SqlWarehouse(url=Secret(self.url), where=f"analytics in {self.schema}")

    def run(self, *statements: str) -> None:
        with self._engine.begin() as connection:
            for statement in statements:
                # A percent sign begins a placeholder there.
                percent = "%%" if connection.dialect.name == "postgresql" else "%"
                connection.exec_driver_sql(statement.replace("%", percent))

    def rows(self, query: str) -> Sequence[Sequence[Any]]:
        with self._engine.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(query)]

    def unreachable(self) -> SqlWarehouse:
        return SqlWarehouse(url=Secret("postgresql+psycopg://nobody@127.0.0.1:1/none"), where="analytics")

    def wrong_password(self) -> SqlWarehouse:
        url = sa.make_url(self.url).set(password="wrong-password")
        return SqlWarehouse(url=Secret(url.render_as_string(hide_password=False)), where="analytics")

    def close(self) -> None:
        self._engine.dispose()


def sqlalchemy_url(dsn: str) -> str:
    """A libpq connection string as SQLAlchemy has it."""
    from psycopg.conninfo import conninfo_to_dict

    parts: Mapping[str, Any] = conninfo_to_dict(dsn)
    return sa.URL.create(
        "postgresql+psycopg",
        username=parts.get("user"),
        password=parts.get("password"),
        database=parts.get("dbname"),
        query={"host": str(parts.get("host", "")), "port": str(parts.get("port", ""))},
    ).render_as_string(hide_password=False)


@contextlib.contextmanager
def two_servers(folder: Path) -> Iterator[tuple[ClickHouseProcess, ClickHouseProcess]]:
    servers = clickhouse_in(folder / "one"), clickhouse_in(folder / "other")
    try:
        yield servers
    finally:
        for server in servers:
            server.kill()
