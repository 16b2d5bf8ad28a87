"""The option that turns the fixed selection of fault tests into all of them."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--every-point", action="store_true", help="kill at every named point, not at a selection of them"
    )


NEEDS_A_DISK = "test_full_disk.py"
"""A full disk needs a file system of its own, which not every machine lets root mount."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`make faults` alone fills disks."""
    if collection_path.name == NEEDS_A_DISK and not config.getoption("--every-point", default=False):
        return True
    return None
