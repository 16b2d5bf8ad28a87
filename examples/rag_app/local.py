"""Puts the service into the cells of the local estate: what `tenure estate up` and `tenure demo` deploy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rag_app.deploy import deploy
from rag_app.seed import TENANTS, default_access
from rag_app.settings import (
    CellSettings,
    LogSettings,
    ObjectSettings,
    TenantAccess,
    VectorSettings,
    write_config,
)
from tenure.estate.local.cell_plans import CellAccess
from tenure.estate.local.document import ANY_KEY
from tenure.estate.local.spec import CommandServer

ALL: Final = Path(__file__).with_name("catalogue.yaml")
"""Every store that the service can use."""
CORE: Final = Path(__file__).with_name("catalogue_core.yaml")
"""PostgreSQL, pgvector, Redis and S3: enough to try most things, and sooner up."""


class RagApp:
    """The service with its five tenants and their neighbours, as an app of the local estate.

    It uses the stores that its catalogue names.
    """

    def __init__(self, tenants: Mapping[str, TenantAccess] | None = None, *, catalogue: Path = ALL) -> None:
        self.tenants = dict(tenants or default_access())
        self.catalogue = catalogue

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
            # As Tenure's own: DuckDB's file and what it keeps beside it are written by both.
            account="own" if cell.analytics else "reachable",
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
        vectors=VectorSettings(host=cell.pinecone_host, api_key=cell.pinecone_api_key)
        if cell.pinecone_host
        else None,
        warehouse=cell.analytics,
        logs=LogSettings(
            endpoint=cell.cloudwatch,
            region=cell.plan.region,
            group_prefix=cell.plan.log_prefix,
            access_key=ANY_KEY,
            secret_key=ANY_KEY,
        )
        if cell.cloudwatch
        else None,
    )


def tiers() -> dict[str, str]:
    """The tier of every tenant that is seeded."""
    return {tenant.id: tenant.tier for tenant in TENANTS}
