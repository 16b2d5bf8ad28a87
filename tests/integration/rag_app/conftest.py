"""A cell of the sample app on the test servers: deployed stores, and the app itself as a process."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pinecone import Pinecone

import rag_app
from rag_app.deploy import deploy
from rag_app.embedding import DIMENSIONS
from rag_app.settings import (
    CellSettings,
    LogSettings,
    ObjectSettings,
    TenantAccess,
    VectorSettings,
    default_host,
    write_config,
)
from tenure.estate.local import RunningEstate, S3Endpoint
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.secret import Secret
from tenure.stores.contract import Fence
from tenure.stores.postgres import PostgresStore, TenantTable

ACME = "tenant_001_acme_corp"
ACME_HOST = default_host(ACME)
GLOBEX = "tenant_002_globex"
GLOBEX_HOST = default_host(GLOBEX)
TENANTS = {
    ACME: TenantAccess(host=ACME_HOST, redis_password="acme password"),
    GLOBEX: TenantAccess(host=GLOBEX_HOST, redis_password="globex password"),
}
EXAMPLES = Path(rag_app.__file__).parent.parent


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class App:
    """Requests to the running app, no redirect followed."""

    def __init__(self, port: int, process: subprocess.Popen[str]) -> None:
        self.port = port
        self._process = process

    def kill(self) -> None:
        """As if the machine had gone."""
        self._process.kill()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __call__(
        self, method: str, path: str, fields: Any = None, *, host: str = ACME_HOST, tenant: str | None = None
    ) -> Answer:
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            headers = {"host": host} | ({"x-tenant-id": tenant} if tenant else {})
            body = None if fields is None else json.dumps(fields)
            conn.request(method, path, body, headers)
            response = conn.getresponse()
            answered = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, answered, response.read())
        finally:
            conn.close()


class Fencing:
    """Lowers and lifts the fence of the cell's PostgreSQL as Tenure does."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        tables = [
            TenantTable(schema="public", name=name, tenant_column="tenant_id")
            for name in ("documents", "chunks", "embeddings", "usage_outbox")
        ]
        self._store = PostgresStore(
            name=StoreName("postgres"), cell=CellName("blue"), dsn=Secret(dsn), tables=tables
        )

    def lower(self, tenant: str) -> None:
        self._store.fence(_fence(tenant), expires_in_s=None, drain_s=5)

    def lift(self, tenant: str) -> None:
        self._store.open(_fence(tenant))

    def record(self, tenant: str) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as conn:
            conn.execute("select tenure.enrol(%s, true, 1, 1)", (tenant,))
            recording = conn.execute("select tenure.record_changes(%s, 5000)", (tenant,)).fetchone()
        assert recording == (True,)

    def close(self) -> None:
        self._store.close()


def _fence(tenant: str) -> Fence:
    return Fence(tenant=TenantId(tenant), epoch=1, token=1)


@pytest.fixture
def fresh_vectors(servers: RunningEstate) -> Iterator[Callable[[], VectorSettings]]:
    """`fresh_vectors()` gives a new index, gone after the test."""
    servers.start("pinecone-a")
    endpoint = servers.pinecone("pinecone-a")
    key = endpoint.api_key.reveal()
    project = Pinecone(api_key=key, host=endpoint.control)
    made: list[str] = []

    def make() -> VectorSettings:
        name = f"t-{secrets.token_hex(6)}"
        values = {"type": "dense_vector", "dimension": DIMENSIONS, "metric": "cosine"}
        host = project.indexes.create(name=name, schema={"fields": {"_values": values}}).host
        made.append(name)
        return VectorSettings(host=str(host), api_key=key)

    yield make
    for name in made:
        project.indexes.delete(name)
    project.close()


@pytest.fixture
def cell_settings(
    fresh_database: Callable[..., str],
    fresh_redis: Callable[..., str],
    fresh_bucket: Callable[..., tuple[S3Endpoint, str]],
    fresh_vectors: Callable[[], VectorSettings],
    moto: str,
    tmp_path: Path,
) -> CellSettings:
    """A cell that nothing has been deployed to."""
    s3, bucket = fresh_bucket()
    return CellSettings(
        cell="blue",
        postgres_dsn=fresh_database(),
        redis_url=fresh_redis(),
        app_postgres_password="app password",
        objects=ObjectSettings(
            endpoint=s3.endpoint,
            bucket=bucket,
            region=s3.region,
            access_key=s3.access_key.reveal(),
            secret_key=s3.secret_key.reveal(),
            app_access_key=s3.app_access_key.reveal(),
            app_secret_key=s3.app_secret_key.reveal(),
        ),
        vectors=fresh_vectors(),
        warehouse=tmp_path / "blue.duckdb",
        logs=LogSettings(
            endpoint=moto,
            region="us-east-1",
            group_prefix=f"/{secrets.token_hex(6)}",
            access_key="any",
            secret_key="any",
        ),
    )


@pytest.fixture
def cell(cell_settings: CellSettings) -> CellSettings:
    """A deployed cell."""
    deploy(cell_settings, TENANTS)
    return cell_settings


@pytest.fixture
def fencing(cell: CellSettings) -> Iterator[Fencing]:
    fencing = Fencing(cell.postgres_dsn)
    yield fencing
    fencing.close()


@pytest.fixture
def app(cell: CellSettings, tmp_path: Path) -> Iterator[App]:
    """The app of the cell, as a process."""
    config = write_config(cell, TENANTS, tmp_path)
    port = _free_port()
    with (tmp_path / "app.log").open("w") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "rag_app.app", "--cell", "blue"),
                *("--config", str(config), "--port", str(port)),
            ],
            env={**os.environ, "PYTHONPATH": str(EXAMPLES)},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", (tmp_path / "app.log").read_text()
        yield App(port, process)
    finally:
        process.terminate()
        process.communicate(timeout=15)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
