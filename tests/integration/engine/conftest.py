"""A fresh control database with one tenant, and operations on it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tenure.engine.engine import Engine
from tenure.model.names import CellName, TenantId
from tenure.model.operation import Operation
from tenure.model.secret import Secret
from tenure.model.tenancy import Tenant
from tenure.registry.registry import Registry
from tests.integration.engine.sample_operation import QUICK, SAMPLE

ROOT = Path(__file__).parents[3]
ACME = TenantId("acme")


@pytest.fixture
def control_dsn(fresh_database: Callable[..., str]) -> str:
    return fresh_database("control")


@pytest.fixture
def registry(control_dsn: str) -> Iterator[Registry]:
    registry = Registry.connect(Secret(control_dsn))
    registry.migrate()
    registry.tenants.add(Tenant(id=ACME, tier="gold", host="acme.localhost"), CellName("blue"), actor="test")
    with registry.database.connection() as connection:
        connection.execute(
            "create table public.effects (operation text, effect text, primary key (operation, effect))"
        )
    yield registry
    registry.close()


@pytest.fixture
def engine(registry: Registry) -> Engine:
    return Engine(registry, actor="test", settings=QUICK)


@pytest.fixture
def operation(engine: Engine) -> Operation:
    return engine.create(SAMPLE, tenant=ACME, request={"epoch": 1}, plan_digest="d1")


@pytest.fixture
def effects(registry: Registry, operation: Operation) -> Callable[[], set[str]]:
    """What the operation's steps have left behind."""

    def read() -> set[str]:
        with registry.database.connection() as connection:
            rows = connection.execute(
                "select effect from public.effects where operation = %s", (operation.id,)
            )
            return {str(row[0]) for row in rows}

    return read


@pytest.fixture
def start(control_dsn: str, operation: Operation) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`start(actor, kill_at=, stop_at=)` runs the operation in a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def run(actor: str, *, kill_at: str | None = None, stop_at: str | None = None) -> subprocess.Popen[str]:
        argv = [
            sys.executable,
            "-m",
            "tests.integration.engine.sample_operation",
            control_dsn,
            operation.id,
            actor,
        ]
        argv += ["--kill-at", kill_at] if kill_at else []
        argv += ["--stop-at", stop_at] if stop_at else []
        process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)
