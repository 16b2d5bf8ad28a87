"""What a fleet needs is gone for 30 s in the middle of a move: the move finishes or aborts by itself, nothing that was
acknowledged is lost, and users notice nothing, unless the control database goes in the middle of a switch.

`make faults` alone runs it.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from rag_app.history import History, Outcome
from tenure.estate.local import ValkeyServer
from tests.estate import TestEstate
from tests.fleet import Fleet, fleet, process_state, wait_until
from tests.scheduling import SchedulerUnderTest, scheduler

pytestmark = pytest.mark.faults
_numbers = itertools.count(1)

OUTAGE_S: Final = 30.0
RECOVERY_S: Final = 10.0
BROKER: Final = "outage-broker"
LOCKS: Final = "outage-locks"
OUTAGES: Final = (
    (BROKER, "verify", "verify.equal"),
    (LOCKS, "catch_up", "catch_up.following"),
    ("control", "catch_up", "catch_up.following"),
    ("control", "verify", "verify.equal"),
    ("control", "switch", "switch.fenced"),
)
"""The server that goes, and the step and the point at which it does."""


@dataclass(frozen=True, kw_only=True)
class Staff:
    """A fleet with a scheduler."""

    fleet: Fleet
    scheduler: SchedulerUnderTest


@pytest.fixture(scope="module")
def staff(cells_estate: TestEstate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Staff]:
    running, folder = cells_estate.local.running, tmp_path_factory.mktemp("outages")
    for name in (BROKER, LOCKS):
        running.add(ValkeyServer(name=name))
    locks = folder / "locks"
    locks.write_text(running.url(LOCKS))
    try:
        with (
            fleet(
                cells_estate,
                folder,
                broker=running.url(BROKER),
                namespace="outages",
                settings={
                    "locks": {"file": str(locks)},
                    "scheduler": {"tick_s": 1, "wake_again_s": 5, "compare_after_s": None},
                },
            ) as ours,
            scheduler(ours.config) as process,
        ):
            yield Staff(fleet=ours, scheduler=process)
    finally:
        for name in (BROKER, LOCKS):
            running.remove(name)


@pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: f"{outage[0]}-{outage[2]}")
def test_what_a_fleet_needs_is_gone_for_30_s_in_the_middle_of_a_move(
    cells_estate: TestEstate, staff: Staff, outage: tuple[str, str, str], tmp_path: Path
) -> None:
    (server, step, point), ours, running = outage, staff.fleet, cells_estate.local.running
    tenant = f"blackout-{next(_numbers)}"
    cells_estate.add_tenant(tenant)
    first = ours.worker("--concurrency", "1", point=f"{point}:stop")
    with cells_estate.load(tenant, folder=tmp_path) as load:
        command = ours.begin("migrate", tenant, "--to", "green", "--json")
        child = ours.holder(tenant, step)
        wait_until(lambda: process_state(child) == "T", first.log.read_text)
        other = ours.worker("--concurrency", "1")
        began = time.time()
        running.stop(server, signal.SIGKILL)
        try:
            os.kill(child, signal.SIGCONT)
            time.sleep(OUTAGE_S)
        finally:
            running.start(server)
        ended = time.time()
        moved = command.result()
        report = cells_estate.lost(load)
    logs = f"{moved.stderr}\n{first.log.read_text()}\n{other.log.read_text()}"
    assert moved.exit_code in (0, 5), logs
    if server != "control":
        assert moved.exit_code == 0, logs
    assert report.clean, report
    failed = [
        (request.start - began, request.end - ended)
        for request in History.load(tmp_path / "load.jsonl").requests
        if request.outcome is Outcome.UNKNOWN
        and not (point == "switch.fenced" and request.end >= began and request.start <= ended + RECOVERY_S)
    ]
    assert failed == [], logs
    serves, leaves = ("green", "blue") if moved.exit_code == 0 else ("blue", "green")
    assert cells_estate.command("tenant", "show", tenant, "--json").json["cell"] == serves
    assert staff.scheduler.process.poll() is None, staff.scheduler.told
    if serves == "green":
        # By the fleet again: its workers have found their broker, their database and their locks.
        done = ours.command("complete", tenant, "--yes", tenant)
        assert done.exit_code == 0, done.stderr
        assert "live worker" in done.stderr
    assert cells_estate.items_in(tenant, leaves) == 0
    assert cells_estate.items_in(tenant, serves) > 0
    assert cells_estate.left_behind(tenant) == []
    first.end()
    other.end()
