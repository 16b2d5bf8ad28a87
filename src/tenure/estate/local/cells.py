"""The local estate's three cells on real servers, its gateway and control database, and the `tenure.yaml` for them.

`blue` (us-east-1, v1, PostgreSQL 16), `green` (us-east-1, v2, PostgreSQL 18), `eu` (eu-west-1, PostgreSQL 18). Pinecone
is a stand-in, one per region, with an index for each cell.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import psycopg
import yaml
from psycopg import sql

from tenure.estate.local import accounts
from tenure.estate.local.fleet import BROKER, fleet_document
from tenure.estate.local.layout import write
from tenure.estate.local.running import RunningEstate, up
from tenure.estate.local.spec import (
    CommandServer,
    EnvoyServer,
    EstateSpec,
    PineconeServer,
    PostgresServer,
    SeaweedServer,
    Server,
    ValkeyServer,
)
from tenure.model.names import CellName
from tenure.routing.envoy.bootstrap import write_bootstrap

DATABASE: Final = "rag"
CONTROL: Final = "control"
ESTATE_FILE: Final = "tenure.yaml"
INDEX_DIMENSION: Final = 32
"""Of the vectors in the cells' indexes of the stand-in for Pinecone."""


@dataclass(frozen=True, kw_only=True)
class CellPlan:
    """What a cell consists of: the names of its servers in the data folder."""

    name: CellName
    region: str
    infrastructure: str
    postgres_version: Literal[16, 18]

    @property
    def postgres(self) -> str:
        return f"postgres-{self.name}"

    @property
    def valkey(self) -> str:
        return f"valkey-{self.name}"

    @property
    def objects(self) -> str:
        return f"s3-{self.region}"

    @property
    def bucket(self) -> str:
        return f"rag-{self.name}"

    @property
    def pinecone(self) -> str:
        """A stand-in: its region's, with an index for each cell."""
        return f"pinecone-{self.region}"

    @property
    def index(self) -> str:
        return f"rag-{self.name}"

    @property
    def app(self) -> str:
        return f"app-{self.name}"


CELLS: Final = (
    CellPlan(name=CellName("blue"), region="us-east-1", infrastructure="v1", postgres_version=16),
    CellPlan(name=CellName("green"), region="us-east-1", infrastructure="v2", postgres_version=18),
    CellPlan(name=CellName("eu"), region="eu-west-1", infrastructure="v2", postgres_version=18),
)


@dataclass(frozen=True, kw_only=True)
class CellAccess:
    """How to reach the stores of a running cell with the rights to deploy. Secrets: do not print."""

    plan: CellPlan
    dsn: str
    redis_url: str
    endpoint: str
    access_key: str
    secret_key: str
    app_access_key: str
    app_secret_key: str
    pinecone_host: str
    pinecone_control: str
    pinecone_api_key: str

    def __repr__(self) -> str:
        return f"CellAccess({self.plan.name})"


class App(Protocol):
    """The application that is deployed in every cell."""

    @property
    def catalogue(self) -> Path:
        """Its `catalogue.yaml`."""

    def deploy(self, cell: CellAccess, folder: Path) -> CommandServer:
        """Create its schema, users and buckets in the cell; say how to start it. `folder` is for its configuration."""


@dataclass(frozen=True, kw_only=True)
class LocalCells:
    """A running local estate: its servers, its cells and the `tenure.yaml` that describes them."""

    running: RunningEstate
    cells: Mapping[CellName, CellAccess]
    estate_file: Path
    gateway: str


def server_specs(*, fleet: bool = False) -> tuple[Server, ...]:
    """The stores of all cells, the control database and the fleet's broker; gate, gateway and apps are added when these
    run."""
    regions = {cell.region: [c for c in CELLS if c.region == cell.region] for cell in CELLS}
    return (
        PostgresServer(name=CONTROL, version=18),
        *(PostgresServer(name=cell.postgres, version=cell.postgres_version) for cell in CELLS),
        *(ValkeyServer(name=cell.valkey) for cell in CELLS),
        *(
            SeaweedServer(name=its[0].objects, buckets=tuple(c.bucket for c in its))
            for its in regions.values()
        ),
        *(
            PineconeServer(name=its[0].pinecone, indexes={c.index: INDEX_DIMENSION for c in its})
            for its in regions.values()
        ),
        *((BROKER,) if fleet else ()),
    )


def start(folder: Path, app: App, *, owner: bool, durable: bool = True, fleet: bool = False) -> LocalCells:
    """Start everything, deploy the app in every cell, and write `tenure.yaml` into the data folder.

    With `fleet` there is a broker as well; workers are started (`fleet.start_workers`) when the control database has
    its schema. Idempotent on an existing folder: data stays. With `owner`, everything stops with this process.
    """
    running = up(EstateSpec(folder=folder, servers=server_specs(fleet=fleet), durable=durable), owner=owner)
    try:
        return _complete(running, app, fleet=fleet)
    except BaseException:
        running.close()
        raise


def _complete(running: RunningEstate, app: App, *, fleet: bool) -> LocalCells:
    etc = running.folder / "etc"
    account = accounts.for_servers("nobody")
    for name in (CONTROL, *(cell.postgres for cell in CELLS)):
        _create_database(running.dsn(name), DATABASE if name != CONTROL else CONTROL)
    cells = {cell.name: _access(running, cell) for cell in CELLS}
    (etc / "app").mkdir(parents=True, exist_ok=True)
    apps = [app.deploy(access, etc / "app") for access in cells.values()]
    token = _gate_token(etc / "gate-token", account)
    _give(etc / "app", account)
    gate = CommandServer(
        name="gate",
        argv=(
            *("${python}", "-m", "tenure.routing.envoy.gate", "--check", "127.0.0.1:${self.check}"),
            *("--control", "127.0.0.1:${self.control}", "--state", "${self.folder}/gate-state.json"),
            *("--token-file", str(token)),
        ),
        ports={"check": 0, "control": 0},
        ready="tcp:control",
    )
    for server in (gate, *apps):
        running.add(server)
    addresses = {cell.name: f"http://127.0.0.1:{running.endpoint(cell.app).ports['http']}" for cell in CELLS}
    gate_ports = running.endpoint("gate").ports
    # The ports first, because the bootstrap names them; they are kept over restarts.
    bootstrap = etc / "envoy" / "envoy.json"
    running.add(EnvoyServer(name="envoy", bootstrap=bootstrap), start=False)
    listen, admin = running.port("envoy", "http"), running.port("envoy", "admin")
    write_bootstrap(
        config_dir=etc / "envoy",
        listen=f"http://127.0.0.1:{listen}",
        admin=f"http://127.0.0.1:{admin}",
        gate_check=f"http://127.0.0.1:{gate_ports['check']}",
        cells=addresses,
    )
    running.start("envoy")
    catalogue = etc / "catalogue.yaml"
    shutil.copyfile(app.catalogue, catalogue)
    semantics = _stores_of_kind(catalogue, "pinecone")
    document = _estate_document(running, cells, addresses, listen, admin, fleet=fleet, semantics=semantics)
    estate_file = running.folder / ESTATE_FILE
    write(estate_file, yaml.safe_dump(document, sort_keys=False), mode=0o644)
    return LocalCells(
        running=running, cells=cells, estate_file=estate_file, gateway=f"http://127.0.0.1:{listen}"
    )


def _stores_of_kind(catalogue: Path, kind: str) -> list[str]:
    """The names that the app's catalogue gives to its stores of that kind."""
    stores = yaml.safe_load(catalogue.read_text())["stores"]
    return [name for name, its in stores.items() if its["kind"] == kind]


def _create_database(dsn: str, name: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        if conn.execute("select 1 from pg_database where datname = %s", (name,)).fetchone() is None:
            conn.execute(sql.SQL("create database {}").format(sql.Identifier(name)))


def _access(running: RunningEstate, cell: CellPlan) -> CellAccess:
    objects = running.s3(cell.objects)
    pinecone = running.pinecone(cell.pinecone)
    return CellAccess(
        plan=cell,
        dsn=running.dsn(cell.postgres, DATABASE),
        redis_url=running.url(cell.valkey),
        endpoint=objects.endpoint,
        access_key=objects.access_key.reveal(),
        secret_key=objects.secret_key.reveal(),
        app_access_key=objects.app_access_key.reveal(),
        app_secret_key=objects.app_secret_key.reveal(),
        pinecone_host=pinecone.hosts[cell.index],
        pinecone_control=pinecone.control,
        pinecone_api_key=pinecone.api_key.reveal(),
    )


def _gate_token(path: Path, account: accounts.Account) -> Path:
    if not path.exists():
        write(path, secrets.token_urlsafe(32), mode=0o600)
    if not account.is_current:
        os.chown(path, *account.owner)
    return path


def _give(folder: Path, account: accounts.Account) -> None:
    """Let the servers' account read what the app is configured with."""
    if account.is_current:
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, *account.owner)


def _estate_document(
    running: RunningEstate,
    cells: Mapping[CellName, CellAccess],
    addresses: Mapping[CellName, str],
    listen: int,
    admin: int,
    *,
    fleet: bool,
    semantics: Sequence[str],
) -> dict[str, Any]:
    folder = running.folder / "etc" / "secrets"
    folder.mkdir(mode=0o700, exist_ok=True)

    def secret(name: str, value: str) -> dict[str, str]:
        write(folder / name, value, mode=0o600)
        return {"file": f"etc/secrets/{name}"}

    gate = running.endpoint("gate").ports
    return {
        "version": 1,
        "catalogue": "etc/catalogue.yaml",
        "control": {"dsn": secret("control", running.dsn(CONTROL, CONTROL))},
        "gateway": {
            "kind": "envoy",
            "listen": f"http://127.0.0.1:{listen}",
            "admin": [f"http://127.0.0.1:{admin}"],
            "config_dir": "etc/envoy",
            "gate": {
                "check": f"http://127.0.0.1:{gate['check']}",
                "control": f"http://127.0.0.1:{gate['control']}",
                "token": {"file": "etc/gate-token"},
            },
            "probe": {"path": "/healthz", "header": "x-served-by"},
            "domain": "rag.localhost",
        },
        "hold": {"budget_ms": 4000, "drain_ms": 2000},
        "cells": {
            access.plan.name: {
                "region": access.plan.region,
                "infrastructure": access.plan.infrastructure,
                "app": addresses[access.plan.name],
                "stores": {
                    "postgres": {
                        "kind": "postgresql",
                        "dsn": secret(f"{access.plan.name}-postgres", access.dsn),
                    },
                    "vectors": {"kind": "pgvector", "rides_with": "postgres"},
                    "redis": {"kind": "redis", "url": secret(f"{access.plan.name}-redis", access.redis_url)},
                    "objects": {
                        "kind": "s3",
                        "endpoint": access.endpoint,
                        "bucket": access.plan.bucket,
                        "region": access.plan.region,
                        "access_key": secret(f"{access.plan.name}-s3-access-key", access.access_key),
                        "secret_key": secret(f"{access.plan.name}-s3-secret-key", access.secret_key),
                    },
                    **{
                        name: {
                            "kind": "pinecone",
                            "host": access.pinecone_host,
                            "index": access.plan.index,
                            "control": access.pinecone_control,
                            "api_key": secret(f"{access.plan.name}-pinecone", access.pinecone_api_key),
                            # Here the app asks for little, and a request takes milliseconds.
                            "rate_share": 0.8,
                            "alone_share": 1,
                            "handover_s": 1,
                            **({"limiter": secret("broker", running.url(BROKER.name))} if fleet else {}),
                        }
                        for name in semantics
                    },
                },
            }
            for access in cells.values()
        },
        "tiers": {
            "platinum": {"rank": 1, "soak_h": 72},
            "gold": {"rank": 2, "soak_h": 24},
            "bronze": {"rank": 3, "soak_h": 4},
        },
        "residency": {
            "eu-only": {"regions": ["eu-west-1"], "reason": "GDPR: the customer's contract names the EU"}
        },
        "prices": {
            "currency": "INR",
            "cell_hour": {"blue": 4200, "green": 4500, "eu": 4700},
            "gb_moved": 0.9,
            "cross_region_gb_moved": 1.8,
            "operator_hour": 2500,
        },
        **({"fleet": fleet_document(secret("broker", running.url(BROKER.name)))} if fleet else {}),
    }
