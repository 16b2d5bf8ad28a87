"""The option that turns the fixed selection of fault tests into all of them."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--every-point", action="store_true", help="kill at every named point, not at a selection of them"
    )


OUTAGES = frozenset({"test_full_disk.py", "test_network.py"})
"""Full disks need a file system of their own, which not every machine lets root mount; cut networks take long."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`make faults` alone runs the outages that ask much of the machine."""
    if collection_path.name in OUTAGES and not config.getoption("--every-point", default=False):
        return True
    return None
