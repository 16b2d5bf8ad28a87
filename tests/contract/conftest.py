"""Lets the suite and its rigs import each other as `tests.contract...` however pytest was started, and keeps what a
rig's tests share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)


@pytest.fixture(scope="session")
def neighbours_of_contract(lasting_database: Callable[..., str]) -> Any:
    """See `neighbour_databases` of the PostgreSQL rigs."""
    from tests.contract.rigs.postgres import neighbour_databases

    return neighbour_databases(lasting_database)
