"""A fresh, migrated control database."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tenure.model.names import CellName, TenantId
from tenure.model.secret import Secret
from tenure.model.tenancy import Placement, Tenant
from tenure.registry.registry import Registry


@pytest.fixture
def control_dsn(fresh_database: Callable[..., str]) -> str:
    return fresh_database("control")


@pytest.fixture
def registry(control_dsn: str) -> Iterator[Registry]:
    registry = Registry.connect(Secret(control_dsn))
    registry.migrate()
    yield registry
    registry.close()


@pytest.fixture
def add(registry: Registry) -> Callable[[str], Placement]:
    """`add("acme")` makes a tenant in the blue cell."""

    def tenant(name: str) -> Placement:
        value = Tenant(id=TenantId(name), tier="gold", host=f"{name}.localhost")
        return registry.tenants.add(value, CellName("blue"), actor="test")

    return tenant
