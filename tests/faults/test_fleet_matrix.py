"""kill -9 at a named point of whoever carries an operation on in a fleet: another one finishes it, without help.

`make test` runs a fixed selection of points, `make faults` every one of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tenure.estate.local import ValkeyServer
from tenure.model.operation import OperationState
from tests.estate import TestEstate
from tests.faults.points import COMPLETE, MIGRATE, ROLLBACK
from tests.fleet import Fleet, fleet, wait_until
from tests.scheduling import SchedulerUnderTest, scheduler

pytestmark = pytest.mark.faults
_numbers = itertools.count(1)

BROKER = "matrix-broker"
SELECTION = frozenset({"switch.closed", "erase.gone"})
TICKS = {"scheduler": {"tick_s": 1, "quiet_s": 1, "wake_again_s": 2, "compare_after_s": None}}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    every = metafunc.config.getoption("--every-point", default=False)
    points = {"migrate_point": MIGRATE, "rollback_point": ROLLBACK, "complete_point": COMPLETE}
    for name, all_of_them in points.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, all_of_them if every else [p for p in all_of_them if p in SELECTION])


@pytest.fixture(scope="module")
def scheduled(
    cells_estate: TestEstate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Fleet, SchedulerUnderTest]]:
    """A broker and a scheduler; each test has the workers it starts, and no others."""
    running = cells_estate.local.running
    running.add(ValkeyServer(name=BROKER))
    folder = tmp_path_factory.mktemp("matrix")
    try:
        with (
            fleet(
                cells_estate, folder, broker=running.url(BROKER), namespace="matrix", settings=TICKS
            ) as ours,
            scheduler(ours.config) as process,
        ):
            yield ours, process
    finally:
        running.remove(BROKER)


@pytest.fixture
def ours(scheduled: tuple[Fleet, SchedulerUnderTest]) -> Iterator[Fleet]:
    yield scheduled[0]
    scheduled[0].end()


@pytest.fixture
def tenant(ours: Fleet) -> Iterator[str]:
    """A new small tenant in blue. Whatever the test did, it ends with nothing left of it anywhere."""
    name = f"matrix-{next(_numbers)}"
    ours.estate.add_tenant(name)
    yield name
    assert ours.estate.left_behind(name) == []


def test_a_migrate_goes_on_when_its_worker_is_killed(
    ours: Fleet, tenant: str, migrate_point: str, tmp_path: Path
) -> None:
    """The process at the operation dies, its message is delivered again."""
    ours.worker(point=migrate_point)
    with ours.estate.load(tenant, folder=tmp_path) as load:
        moved = ours.command("migrate", tenant, "--to", "green", "--json")
        report = ours.estate.lost(load)
    assert moved.exit_code == 0, moved.stderr
    assert moved.json["state"] == "soaking"
    assert report.clean, report
    ours.estate.finish(tenant, "green")


def test_a_rollback_goes_on_in_a_worker_when_the_process_that_was_asked_is_killed(
    ours: Fleet, tenant: str, rollback_point: str, tmp_path: Path
) -> None:
    """Nobody was told of it: the scheduler finds it."""
    estate = ours.estate
    assert estate.command("migrate", tenant, "--to", "green").exit_code == 0
    worker = ours.worker()
    with estate.load(tenant, folder=tmp_path) as load:
        killed = estate.killed_at(rollback_point, "rollback", tenant, config=ours.config)
        assert killed.exit_code == -9, f"{rollback_point} was not reached: {killed.stdout} {killed.stderr}"
        wait_until(
            lambda: ours.operation(tenant).state is OperationState.SUCCEEDED,
            lambda: f"{ours.operation(tenant)}\n{worker.log.read_text()}",
        )
        report = estate.lost(load)
    assert ours.operation(tenant).kind == "rollback"
    assert report.clean, report
    estate.finish(tenant, "blue")


def test_a_complete_goes_on_when_its_worker_is_killed(ours: Fleet, tenant: str, complete_point: str) -> None:
    estate = ours.estate
    assert estate.command("migrate", tenant, "--to", "green").exit_code == 0
    ours.worker(point=complete_point)
    done = ours.command("complete", tenant, "--yes", tenant, "--json")
    assert done.exit_code == 0, done.stderr
    estate.finish(tenant, "green")
