"""The local estate's three cells on real servers, its gateway and control database, and the `tenure.yaml` for them.

`blue` (us-east-1, v1, PostgreSQL 16), `green` (us-east-1, v2, PostgreSQL 18), `eu` (eu-west-1, PostgreSQL 18).
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

import boto3
import psycopg
import yaml
from psycopg import sql

from tenure.estate.local import accounts
from tenure.estate.local.cell_plans import CELLS, CONTROL, DATABASE, DIMENSION, CellAccess, CellPlan
from tenure.estate.local.document import estate_document
from tenure.estate.local.fleet import BROKER
from tenure.estate.local.layout import write
from tenure.estate.local.moto import moto_server
from tenure.estate.local.running import RunningEstate, S3Endpoint, up
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

ESTATE_FILE: Final = "tenure.yaml"
CLOUDWATCH_KINDS: Final = frozenset({"cloudwatch_logs", "cloudwatch_metrics"})


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


def server_specs(kinds: Collection[str] = (), *, fleet: bool = False) -> tuple[Server, ...]:
    """The stores of all cells, the control database and the fleet's broker; gate, gateway and apps are added when these
    run. Pinecone's stand-in and CloudWatch are among them if these `kinds` of stores name them."""
    regions = {cell.region: [c for c in CELLS if c.region == cell.region] for cell in CELLS}
    return (
        PostgresServer(name=CONTROL, version=18),
        *(PostgresServer(name=cell.postgres, version=cell.postgres_version) for cell in CELLS),
        *(ValkeyServer(name=cell.valkey) for cell in CELLS),
        *(
            SeaweedServer(name=own[0].objects, buckets=(*(c.bucket for c in own), own[0].vault))
            for own in regions.values()
        ),
        *(
            PineconeServer(name=own[0].pinecone, indexes={c.index: DIMENSION for c in own})
            for own in regions.values()
            if "pinecone" in kinds
        ),
        *(moto_server(own[0].cloudwatch) for own in regions.values() if CLOUDWATCH_KINDS & {*kinds}),
        *((BROKER,) if fleet else ()),
    )


def start(folder: Path, app: App, *, owner: bool, durable: bool = True, fleet: bool = False) -> LocalCells:
    """Start everything, deploy the app in every cell, and write `tenure.yaml` into the data folder.

    With `fleet` there is a broker as well; workers are started (`fleet.start_workers`) when the control database has
    its schema. Idempotent on an existing folder: data stays. With `owner`, everything stops with this process.
    """
    mapped = yaml.safe_load(app.catalogue.read_text("utf-8"))["stores"]
    kinds = {store["kind"] for store in mapped.values()}
    servers = server_specs(kinds, fleet=fleet)
    running = up(EstateSpec(folder=folder, servers=servers, durable=durable), owner=owner)
    try:
        return _complete(running, app, kinds, mapped, fleet=fleet)
    except BaseException:
        running.close()
        raise


def _complete(
    running: RunningEstate,
    app: App,
    kinds: Collection[str],
    mapped: Mapping[str, Mapping[str, Any]],
    *,
    fleet: bool,
) -> LocalCells:
    etc = running.folder / "etc"
    account = accounts.for_servers("nobody")
    for name in (CONTROL, *(cell.postgres for cell in CELLS)):
        _create_database(running.dsn(name), DATABASE if name != CONTROL else CONTROL)
    cells = {cell.name: _access(running, cell, kinds) for cell in CELLS}
    for plan in {cell.objects: cell for cell in CELLS}.values():
        _keep_the_app_out(running.s3(plan.objects), plan.vault)
    (etc / "app").mkdir(parents=True, exist_ok=True)
    if "analytics" in kinds:
        (running.folder / "analytics").mkdir(mode=0o700, exist_ok=True)
    apps = [app.deploy(access, etc / "app") for access in cells.values()]
    token = _gate_token(etc / "gate-token", account)
    _give(etc / "app", account)
    if "analytics" in kinds:
        _give(running.folder / "analytics", account)
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
    document = estate_document(running, cells, addresses, listen, admin, fleet=fleet, mapped=mapped)
    estate_file = running.folder / ESTATE_FILE
    write(estate_file, yaml.safe_dump(document, sort_keys=False), mode=0o644)
    return LocalCells(
        running=running, cells=cells, estate_file=estate_file, gateway=f"http://127.0.0.1:{listen}"
    )


def _create_database(dsn: str, name: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        if conn.execute("select 1 from pg_database where datname = %s", (name,)).fetchone() is None:
            conn.execute(sql.SQL("create database {}").format(sql.Identifier(name)))


def _keep_the_app_out(s3: S3Endpoint, vault: str) -> None:
    """The app's identity may not see, change or delete backups."""
    client = boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        region_name=s3.region,
        aws_access_key_id=s3.access_key.reveal(),
        aws_secret_access_key=s3.secret_key.reveal(),
    )
    statement = {
        "Sid": "NoApp",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [f"arn:aws:s3:::{vault}", f"arn:aws:s3:::{vault}/*"],
        "Condition": {"StringEquals": {"aws:username": "app"}},
    }
    client.put_bucket_policy(
        Bucket=vault, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    )
    client.close()


def _access(running: RunningEstate, cell: CellPlan, kinds: Collection[str]) -> CellAccess:
    objects = running.s3(cell.objects)
    access = CellAccess(
        plan=cell,
        dsn=running.dsn(cell.postgres, DATABASE),
        redis_url=running.url(cell.valkey),
        endpoint=objects.endpoint,
        access_key=objects.access_key.reveal(),
        secret_key=objects.secret_key.reveal(),
        app_access_key=objects.app_access_key.reveal(),
        app_secret_key=objects.app_secret_key.reveal(),
    )
    if "analytics" in kinds:
        access = replace(access, analytics=running.folder / "analytics" / f"{cell.name}.duckdb")
    if "pinecone" in kinds:
        pinecone = running.pinecone(cell.pinecone)
        access = replace(
            access,
            pinecone_host=pinecone.hosts[cell.index],
            pinecone_control=pinecone.control,
            pinecone_api_key=pinecone.api_key.reveal(),
        )
    if CLOUDWATCH_KINDS & {*kinds}:
        port = running.endpoint(cell.cloudwatch).ports["http"]
        access = replace(access, cloudwatch=f"http://127.0.0.1:{port}")
    return access


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
