"""A chaos run by a fixed seed keeps every promise: short and without outages in `make test`, longer and with
everything in `make faults`; `make chaos` runs as long as wanted, by any seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.chaos.run import Settings, chaos
from tests.estate import TestEstate

pytestmark = pytest.mark.faults

SHORT = Settings(seed=7337, seconds=3.0, tenants=1, rate=30.0, outages=False)
"""A migration that is killed right behind its point of no return, resumed and completed."""
LONG = Settings(seed=4, seconds=30.0, tenants=3, rate=40.0)


def test_a_run_of_a_fixed_seed_keeps_every_promise(
    cells_estate: TestEstate, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    settings = LONG if request.config.getoption("--every-point", default=False) else SHORT
    report = chaos(cells_estate, settings, tmp_path)
    assert report["violations"] == []
    assert report["done"]["blows"]
    assert report["checker"]["reads"] > 20
    assert report["checker"]["writes_acked"] > 20
    assert report["stores"]["lost"] == 0
