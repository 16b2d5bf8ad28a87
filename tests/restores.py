"""An estate that makes backups and can restore them: the sample app's core stores, a vault per region, and what the
catalogue says of the app's migrations. `eu` is at version 4 of the app's schema, the other cells at version 1."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import yaml

import rag_app
from rag_app.local import CORE
from rag_app.migrate import migrate
from tenure.model.names import CellName
from tests.estate import CommandResult, TestEstate, running_estate


def catalogue(folder: Path) -> Path:
    """The catalogue of such an estate, in that folder."""
    document: dict[str, Any] = yaml.safe_load(CORE.read_text("utf-8"))
    postgres = document["stores"]["postgres"]
    postgres["tables"]["public.document_bodies"] = {
        "columns": {"tenant_id": "tenant", "document_id": "key", "body": "content"},
        "cells": ["eu"],
    }
    postgres["migrations"] = {
        "tool": "sql",
        "table": "public.schema_version",
        "migrate": {
            "command": [sys.executable, "-m", "rag_app.migrate", "{version}"],
            "environment": {"PYTHONPATH": str(Path(rag_app.__file__).parents[1])},
            "timeout_s": 120.0,
        },
    }
    document["stores"]["vault"] = {"kind": "vault"}
    file = folder / "catalogue.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return file


@contextmanager
def restoring_estate(folder: Path) -> Iterator[TestEstate]:
    with running_estate(catalogue(folder)) as estate:
        with psycopg.connect(estate.local.cells[CellName("eu")].dsn, autocommit=True) as connection:
            migrate(connection, 4)
        _give_time(estate.config)
        yield estate


def _give_time(config: Path) -> None:
    """A budget for the hold that a machine with other work to do can keep as well."""
    document = yaml.safe_load(config.read_text("utf-8"))
    document["hold"] = {**document.get("hold", {}), "budget_ms": 9_500, "drain_ms": 4_000}
    config.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def back_up(estate: TestEstate, tenant: str) -> str:
    """Take a backup of the tenant; its id."""
    done = estate.command("backup", "create", tenant, "--json")
    assert done.exit_code == 0, done.stderr
    return str(done.json["result"]["backup"])


def planned(estate: TestEstate, backup: str, *options: str, refused: bool = False) -> dict[str, Any]:
    """The plan of a restore, which is refused or not."""
    plan = estate.command("restore", backup, *options, "--plan", "--json")
    assert plan.exit_code == (4 if refused else 0), plan.stdout + plan.stderr
    return plan.json


def restore(estate: TestEstate, backup: str, *options: str) -> CommandResult:
    """Restore it as its plan says."""
    plan = planned(estate, backup, *options)
    return estate.command("restore", backup, *options, "--apply", plan["digest"], "--json")


def sql(estate: TestEstate, cell: str, statement: str, **parameters: object) -> list[tuple[Any, ...]]:
    """Run a statement in a cell's database, with the deployer's rights."""
    with psycopg.connect(estate.local.cells[CellName(cell)].dsn, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []


def scratch_databases(estate: TestEstate) -> list[str]:
    """Scratch databases that are still there, in any cell."""
    return [
        str(name)
        for cell in estate.local.cells
        for (name,) in sql(
            estate, cell, "select datname from pg_database where datname like 'tenure_restore_%'"
        )
    ]
