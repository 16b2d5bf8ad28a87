"""The option that turns the fixed selection of fault tests into all of them."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--every-point", action="store_true", help="kill at every named point, not at a selection of them"
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Full disks need a file system of their own, which not every machine lets root mount: `make faults` alone."""
    if collection_path.name == "test_full_disk.py" and not config.getoption("--every-point", default=False):
        return True
    return None
