"""Fixtures for the tests of the PostgreSQL store."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.integration.postgres.cells import Cells, make_cells


@pytest.fixture
def cells(fresh_database: Callable[..., str]) -> Iterator[Cells]:
    """PostgreSQL 16 as blue, 18 as green."""
    made = make_cells(fresh_database("pg16"), fresh_database("pg18a"))
    yield made
    made.close()
