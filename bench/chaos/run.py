"""One chaos run on a running estate."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.chaos.journal import Journal
from bench.chaos.judgement import judge
from bench.chaos.lanes import Lanes
from bench.chaos.schedule import plan
from rag_app.history import History
from tenure.estate.local.fleet import BROKER, start_scheduler, start_workers
from tests.estate import TestEstate
from tests.faults.network import network_of

SETTLED_S: Final = 1.0
"""The load goes on that long after everything is whole again."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`rate` is requests per second over all tenants: those that are moved, and a neighbour that stays."""

    seed: int
    seconds: float
    tenants: int = 3
    rate: float = 40.0
    outages: bool = True
    workers: int = 0
    """Workers of the fleet, which carry the operations, with a scheduler; the estate needs a broker. All of them may
    fail as well."""


def chaos(estate: TestEstate, settings: Settings, evidence: Path) -> dict[str, Any]:
    """Register new tenants, do everything, and give the report. The history and what was done stay in `evidence`."""
    prefix = f"chaos-{settings.seed % 10_000}"
    moving = [f"{prefix}-{n}" for n in range(settings.tenants)]
    busy, quiet = f"{prefix}-busy", f"{prefix}-quiet"
    schedule = plan(
        settings.seed,
        settings.seconds,
        moving,
        outages=settings.outages,
        more_servers=fleet_of(settings.workers),
    )
    for line in schedule.lines():
        sys.stderr.write(json.dumps(line) + "\n")
    for tenant in (*moving, busy, quiet):
        estate.add_tenant(tenant)
    before = estate.digests(quiet)
    with _journal(evidence) as journal, network_of(estate) as network:
        if settings.workers:
            start_workers(network.estate.local.running, network.estate.config, settings.workers)
            start_scheduler(network.estate.local.running, network.estate.config)
        with estate.load(*moving, busy, folder=evidence, rate=settings.rate) as load:
            lanes = Lanes(network, schedule, journal)
            try:
                lanes.run()
            finally:
                lanes.close()
            time.sleep(SETTLED_S)  # the load alone, after everything
            stores = estate.lost(load)
        after = estate.digests(quiet)
        changed = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
        report = judge(
            network.estate, schedule, journal, History.load(evidence / "load.jsonl"), stores, changed
        )
    (evidence / "report.json").write_text(json.dumps(report, indent=2, default=str) + "\n", "utf-8")
    return report


def fleet_of(workers: int) -> tuple[str, ...]:
    """The servers of a fleet of so many workers; broker and scheduler once for each of them, so that they fail as
    often."""
    return tuple(f"worker-{n}" for n in range(1, workers + 1)) + (BROKER.name, "scheduler") * workers


@contextmanager
def _journal(evidence: Path) -> Iterator[Journal]:
    journal = Journal(evidence)
    try:
        yield journal
    finally:
        journal.close()
