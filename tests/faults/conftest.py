"""The option that turns the fixed selection of fault tests into all of them."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--every-point", action="store_true", help="kill at every named point, not at a selection of them"
    )


FAULTS_ALONE = frozenset({"test_full_disk.py", "test_many_at_once.py", "test_fleet_outages.py"})
"""What `make faults` alone runs. A full disk needs a file system of its own, which not every machine lets root mount;
the others take minutes."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Some take too long, or need too much, for `make test`."""
    if collection_path.name in FAULTS_ALONE and not config.getoption("--every-point", default=False):
        return True
    return None
