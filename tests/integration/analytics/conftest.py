"""Pairs of warehouses, and what the tests put into them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.warehouses import (
    ClickHouseProcess,
    ClickHouseWarehouse,
    DuckDbWarehouse,
    SqlDatabase,
    Warehouse,
    sqlalchemy_url,
)

ENGINES = ("duckdb", "clickhouse", "postgresql", "sqlite")


@pytest.fixture
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str, str], Warehouse]]:
    """`warehouse(engine, where="one")` makes an empty warehouse; those of two places have tables of equal names."""
    made: list[Warehouse] = []
    name = f"w_{secrets.token_hex(4)}"

    def make(engine: str, where: str = "one") -> Warehouse:
        found: Warehouse
        if engine == "duckdb":
            found = DuckDbWarehouse(tmp_path)
        elif engine == "clickhouse":
            servers: tuple[ClickHouseProcess, ClickHouseProcess]
            servers = request.getfixturevalue("clickhouse_servers")
            found = ClickHouseWarehouse(servers[where != "one"], name)
        elif engine == "postgresql":
            found = SqlDatabase(sqlalchemy_url(request.getfixturevalue("fresh_database")("pg18b")), "public")
        else:
            found = SqlDatabase(f"sqlite:///{tmp_path}/{secrets.token_hex(4)}.sqlite", "main")
        made.append(found)
        return found

    yield make
    for each in made:
        each.close()
