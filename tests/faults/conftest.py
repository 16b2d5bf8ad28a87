"""The option that turns the fixed selection of fault tests into all of them."""

from __future__ import annotations

import sys
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


COUNTS: pytest.StashKey[tuple[int, int]] = pytest.StashKey()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    stats = terminalreporter.stats
    failed = len(stats.get("failed", ())) + len(stats.get("error", ()))
    config.stash[COUNTS] = (len(stats.get("passed", ())), failed)


def pytest_unconfigure(config: pytest.Config) -> None:
    """The last line of the whole matrix."""
    counts = config.stash.get(COUNTS, None)
    if counts is not None and config.getoption("--every-point", default=False):
        sys.stdout.write(f"{counts[0]} passed, {counts[1]} failed\n")
