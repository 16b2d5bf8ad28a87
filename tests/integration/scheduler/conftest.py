"""A control database with some tenants, schedules that ask for an operation of each, and processes that lead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tenure.model.names import CellName, TenantId
from tenure.model.secret import Secret
from tenure.model.tenancy import Tenant
from tenure.registry.leadership import Election
from tenure.registry.registry import Registry

TENANTS = tuple(TenantId(f"t{n}") for n in range(3))
Elections = Callable[..., AbstractContextManager[Election]]


@pytest.fixture
def control_dsn(fresh_database: Callable[..., str]) -> str:
    return fresh_database("control")


@pytest.fixture
def registry(control_dsn: str) -> Iterator[Registry]:
    registry = Registry.connect(Secret(control_dsn))
    registry.migrate()
    for tenant in TENANTS:
        registry.tenants.add(
            Tenant(id=tenant, tier="gold", host=f"{tenant}.localhost"), CellName("blue"), actor="test"
        )
    yield registry
    registry.close()


@pytest.fixture
def elections(registry: Registry) -> Elections:
    """`elections("a", silence_s=5)` opens a session that may be elected."""

    @contextmanager
    def session(holder: str, *, silence_s: float = 8.0) -> Iterator[Election]:
        with Election.open(registry.database, "scheduler", holder=holder, silence_s=silence_s) as election:
            yield election

    return session
