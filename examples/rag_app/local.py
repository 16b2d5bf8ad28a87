"""Puts the service into the cells of the local estate: what `tenure estate up` and `tenure demo` deploy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from rag_app.deploy import deploy
from rag_app.seed import TENANTS, default_access
from rag_app.settings import CellSettings, ObjectSettings, TenantAccess, write_config
from tenure.estate.local.cell_plans import CellAccess
from tenure.estate.local.spec import CommandServer


class RagApp:
    """The service with its five tenants and their neighbours, as an app of the local estate."""

    def __init__(self, tenants: Mapping[str, TenantAccess] | None = None) -> None:
        self.tenants = dict(tenants or default_access())

    @property
    def catalogue(self) -> Path:
        return Path(__file__).with_name("catalogue.yaml")

    def deploy(self, cell: CellAccess, folder: Path) -> CommandServer:
        settings = settings_of(cell)
        deploy(settings, self.tenants)
        config = write_config(settings, self.tenants, folder)
        examples = Path(__file__).resolve().parent.parent
        path = os.pathsep.join([str(examples), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]).rstrip(
            os.pathsep
        )
        return CommandServer(
            name=cell.plan.app,
            argv=(
                *("${python}", "-m", "rag_app.app", "--cell", cell.plan.name, "--config", str(config)),
                *("--port", "${self.http}"),
            ),
            env={"PYTHONPATH": path},
            ready="http:http/healthz",
        )


def settings_of(cell: CellAccess) -> CellSettings:
    """The cell as the service's own deployment sees it."""
    return CellSettings(
        cell=cell.plan.name,
        postgres_dsn=cell.dsn,
        redis_url=cell.redis_url,
        app_postgres_password="local-" + cell.plan.name,
        objects=ObjectSettings(
            endpoint=cell.endpoint,
            bucket=cell.plan.bucket,
            region=cell.plan.region,
            access_key=cell.access_key,
            secret_key=cell.secret_key,
            app_access_key=cell.app_access_key,
            app_secret_key=cell.app_secret_key,
        ),
    )


def tiers() -> dict[str, str]:
    """The tier of every tenant that is seeded."""
    return {tenant.id: tenant.tier for tenant in TENANTS}
