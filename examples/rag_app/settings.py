"""What a deployment needs to know about its cell, and the configuration file that the app of a cell reads."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from psycopg.conninfo import make_conninfo

DOMAIN: Final = "rag.localhost"
TENANT_HEADER: Final = "x-tenant-id"
APP_ROLE: Final = "rag_app"
CLIENT_IDS_FROM: Final = 1_000_000_000
"""Ids that clients choose; smaller ones come from the sequence, so that the two cannot meet."""


@dataclass(frozen=True, kw_only=True)
class ObjectSettings:
    """A cell's bucket. `access_key` creates it; the app itself uses `app_*`, where those are given."""

    endpoint: str | None
    bucket: str
    region: str
    access_key: str
    secret_key: str
    app_access_key: str | None = None
    app_secret_key: str | None = None

    def __repr__(self) -> str:
        return f"ObjectSettings(endpoint={self.endpoint!r}, bucket={self.bucket!r})"


@dataclass(frozen=True, kw_only=True)
class VectorSettings:
    """A cell's index in Pinecone, by its host."""

    host: str
    api_key: str

    def __repr__(self) -> str:
        return f"VectorSettings(host={self.host!r})"


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """A cell's log groups in CloudWatch Logs: those whose names begin with `group_prefix`."""

    endpoint: str | None
    region: str
    group_prefix: str
    access_key: str
    secret_key: str

    def __repr__(self) -> str:
        return f"LogSettings(endpoint={self.endpoint!r}, group_prefix={self.group_prefix!r})"


@dataclass(frozen=True, kw_only=True)
class CellSettings:
    """One cell, with the credentials of the one who deploys: a PostgreSQL superuser and Redis's ACL admin.

    `warehouse` is the DuckDB file with what tenants used. The service does without any of the last three that a cell
    has not.
    """

    cell: str
    postgres_dsn: str
    redis_url: str
    app_postgres_password: str
    objects: ObjectSettings
    vectors: VectorSettings | None = None
    warehouse: Path | None = None
    logs: LogSettings | None = None

    def __repr__(self) -> str:
        return f"CellSettings(cell={self.cell!r}, objects={self.objects!r}, vectors={self.vectors!r})"

    @property
    def app_dsn(self) -> str:
        """How the app logs in: the same database, as its own role."""
        return make_conninfo(self.postgres_dsn, user=APP_ROLE, password=self.app_postgres_password)


@dataclass(frozen=True, kw_only=True)
class TenantAccess:
    """How a tenant is reached (its host name) and what opens its keys in Redis (user `app-{tenant}`)."""

    host: str
    redis_password: str

    def __repr__(self) -> str:
        return f"TenantAccess(host={self.host!r})"


def default_host(tenant: str, domain: str = DOMAIN) -> str:
    """The host name of a tenant that has no other: its id with '-' for '_', in lower case, under the
    domain."""
    return f"{tenant.lower().replace('_', '-')}.{domain}"


@dataclass(frozen=True, kw_only=True)
class AppConfig:
    """What the app of one cell reads from its configuration file. The last three may be left out there."""

    cell: str
    domain: str
    postgres_dsn: str
    redis_host: str
    redis_port: int
    tenants_file: Path
    faults_file: Path
    objects: ObjectSettings
    vectors: VectorSettings | None
    warehouse: Path | None
    logs: LogSettings | None

    @staticmethod
    def load(path: Path) -> AppConfig:
        """Read the file and the secrets it refers to (`{"file": relative path}` or `{"env": name}`)."""
        raw: dict[str, Any] = json.loads(path.read_text("utf-8"))
        folder = path.parent

        def secret(reference: Mapping[str, str]) -> str:
            if "env" in reference:
                return os.environ[reference["env"]]
            return (folder / reference["file"]).read_text("utf-8").strip()

        objects = raw["objects"]
        vectors, warehouse, logs = (raw.get(name) for name in ("vectors", "warehouse", "logs"))
        return AppConfig(
            cell=raw["cell"],
            domain=raw["domain"],
            postgres_dsn=secret(raw["postgres"]["dsn"]),
            redis_host=raw["redis"]["host"],
            redis_port=raw["redis"]["port"],
            tenants_file=folder / raw["tenants"]["file"],
            faults_file=faults_file(folder, raw["cell"]),
            objects=ObjectSettings(
                endpoint=objects["endpoint"],
                bucket=objects["bucket"],
                region=objects["region"],
                access_key=secret(objects["access_key"]),
                secret_key=secret(objects["secret_key"]),
            ),
            vectors=vectors and VectorSettings(host=vectors["host"], api_key=secret(vectors["api_key"])),
            warehouse=warehouse and Path(warehouse["path"]),
            logs=logs
            and LogSettings(
                endpoint=logs["endpoint"],
                region=logs["region"],
                group_prefix=logs["group_prefix"],
                access_key=secret(logs["access_key"]),
                secret_key=secret(logs["secret_key"]),
            ),
        )


def faults_file(folder: Path, cell: str) -> Path:
    """Where the app of a cell looks for what it is to do wrong (see `rag_app.faults`)."""
    return folder / f"{cell}.faults.json"


def load_tenants(path: Path) -> dict[str, TenantAccess]:
    raw: dict[str, dict[str, str]] = json.loads(path.read_text("utf-8"))
    return {tenant: TenantAccess(**access) for tenant, access in raw.items()}


def write_config(
    settings: CellSettings, tenants: Mapping[str, TenantAccess], folder: Path, domain: str = DOMAIN
) -> Path:
    """Write `<cell>.json` for `python -m rag_app.app`, its secrets beside it in files that only the owner
    reads.

    A running app sees tenants that were added this way with the first request for one of them.
    """
    secrets = folder / f"{settings.cell}.secrets"
    secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
    objects = settings.objects
    redis = address_of(settings.redis_url)
    contents = {
        "postgres": settings.app_dsn,
        "tenants": json.dumps({tenant: asdict(access) for tenant, access in tenants.items()}, indent=1),
        "s3-access-key": objects.app_access_key or objects.access_key,
        "s3-secret-key": objects.app_secret_key or objects.secret_key,
    }
    if settings.vectors:
        contents |= {"pinecone-api-key": settings.vectors.api_key}
    if settings.logs:
        contents |= {"logs-access-key": settings.logs.access_key, "logs-secret-key": settings.logs.secret_key}
    for name, content in contents.items():
        _write(secrets / name, content, mode=0o600)
    config = {
        "cell": settings.cell,
        "domain": domain,
        "postgres": {"dsn": {"file": f"{secrets.name}/postgres"}},
        "redis": {"host": redis[0], "port": redis[1]},
        "tenants": {"file": f"{secrets.name}/tenants"},
        "objects": {
            "endpoint": objects.endpoint,
            "bucket": objects.bucket,
            "region": objects.region,
            "access_key": {"file": f"{secrets.name}/s3-access-key"},
            "secret_key": {"file": f"{secrets.name}/s3-secret-key"},
        },
        **_beside(settings, secrets.name),
    }
    path = folder / f"{settings.cell}.json"
    _write(path, json.dumps(config, indent=2), mode=0o644)
    return path


def _beside(settings: CellSettings, secrets: str) -> dict[str, Any]:
    """The part of the configuration that a cell may do without."""
    config: dict[str, Any] = {}
    if settings.vectors:
        api_key = {"file": f"{secrets}/pinecone-api-key"}
        config["vectors"] = {"host": settings.vectors.host, "api_key": api_key}
    if settings.warehouse:
        config["warehouse"] = {"path": str(settings.warehouse)}
    if logs := settings.logs:
        config["logs"] = {
            "endpoint": logs.endpoint,
            "region": logs.region,
            "group_prefix": logs.group_prefix,
            "access_key": {"file": f"{secrets}/logs-access-key"},
            "secret_key": {"file": f"{secrets}/logs-secret-key"},
        }
    return config


def address_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or 6379


def _write(path: Path, content: str, *, mode: int) -> None:
    """Replace the file in one step, so that a running app never reads half of it."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        file.write(content + "\n")
    fresh.replace(path)
