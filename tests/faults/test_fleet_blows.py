"""What else befalls whoever carries an operation on in a fleet, at a named point: it and the scheduler are killed
together, its connections to the control database end, it is told again of what it is at, or it sleeps past its lease
and wakes up when another one has finished. Each time the operation ends well, without help.

`make test` runs a fixed selection of points, `make faults` every one of them.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tenure.estate.local import ValkeyServer
from tenure.model.operation import OperationState
from tests.estate import TestEstate
from tests.faults.points import COMPLETE, MIGRATE, ROLLBACK
from tests.fleet import Fleet, WorkerProcess, fleet, process_state, wait_until
from tests.scheduling import SchedulerUnderTest, scheduler

pytestmark = pytest.mark.faults
_numbers = itertools.count(1)

BROKER = "blows-broker"
TICKS = {"scheduler": {"tick_s": 1, "quiet_s": 1, "wake_again_s": 2, "compare_after_s": None}}
WITH_SCHEDULER, DISCONNECT, DELIVER, SLEEP = "with the scheduler", "disconnect", "deliver", "stop"
SELECTION = {
    WITH_SCHEDULER: {"switch.fenced"},
    DISCONNECT: {"switch.committing"},
    DELIVER: {"switch.closed"},
    SLEEP: {"switch.committed"},
}
"""What `make test` runs of the migrations."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    every = metafunc.config.getoption("--every-point", default=False)
    if "migrate_blow" in metafunc.fixturenames:
        chosen = [(b, p) for b, some in SELECTION.items() for p in MIGRATE if every or p in some]
        metafunc.parametrize("migrate_blow", chosen, ids=" at ".join)
    if "rollback_blow" in metafunc.fixturenames:
        blows = (DISCONNECT, DELIVER, SLEEP)
        chosen = [(b, p) for b in blows for p in ROLLBACK if every or (b, p) == (DELIVER, "switch.closed")]
        metafunc.parametrize("rollback_blow", chosen, ids=" at ".join)
    if "complete_blow" in metafunc.fixturenames:
        chosen = [(b, p) for b in SELECTION for p in COMPLETE if every or (b, p) == (DELIVER, "erase.gone")]
        metafunc.parametrize("complete_blow", chosen, ids=" at ".join)


@dataclass
class Staff:
    """A fleet without workers, and two schedulers of which one leads."""

    fleet: Fleet
    leader: SchedulerUnderTest
    standby: SchedulerUnderTest
    _open: ExitStack

    def promote(self) -> None:
        """The leader is dead: the standby leads now, and there is a new one."""
        assert self.leader.process.wait(timeout=10) == -signal.SIGKILL
        self.standby.wait_for("leading")
        self.leader, self.standby = self.standby, self._open.enter_context(scheduler(self.fleet.config))
        self.standby.wait_for("standing_by")


@pytest.fixture(scope="module")
def staff_of_module(cells_estate: TestEstate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Staff]:
    running = cells_estate.local.running
    running.add(ValkeyServer(name=BROKER))
    folder = tmp_path_factory.mktemp("blows")
    try:
        with ExitStack() as opened:
            ours = opened.enter_context(
                fleet(cells_estate, folder, broker=running.url(BROKER), namespace="blows", settings=TICKS)
            )
            leader = opened.enter_context(scheduler(ours.config))
            leader.wait_for("leading")
            standby = opened.enter_context(scheduler(ours.config))
            standby.wait_for("standing_by")
            yield Staff(fleet=ours, leader=leader, standby=standby, _open=opened)
    finally:
        running.remove(BROKER)


@pytest.fixture
def staff(staff_of_module: Staff) -> Iterator[Staff]:
    yield staff_of_module
    staff_of_module.fleet.end()


@pytest.fixture
def tenant(staff: Staff) -> Iterator[str]:
    """A new small tenant in blue. Whatever the test did, it ends with nothing left of it anywhere."""
    name = f"blow-{next(_numbers)}"
    staff.fleet.estate.add_tenant(name)
    yield name
    assert staff.fleet.estate.left_behind(name) == []


def struck(staff: Staff, blow: str, point: str) -> WorkerProcess:
    """A worker of two processes, of which the first one that comes to the point is struck."""
    how = f"with-{staff.leader.process.pid}" if blow == WITH_SCHEDULER else blow
    return staff.fleet.worker("--concurrency", "2", point=f"{point}:{how}")


def ended(staff: Staff, worker: WorkerProcess, tenant: str, *states: OperationState) -> None:
    wait_until(
        lambda: staff.fleet.operation(tenant).state in states,
        lambda: f"{staff.fleet.operation(tenant)}\n{worker.log.read_text()}",
        deadline_s=90,
    )


def sleepers(worker: WorkerProcess) -> list[int]:
    return [child for child in worker.children() if process_state(child) == "T"]


def aftermath(staff: Staff, worker: WorkerProcess, blow: str, tenant: str) -> None:
    """What the blow has left: a leader to follow, or a sleeper who wakes up and finds that it is over."""
    if blow == WITH_SCHEDULER:
        staff.promote()
    if blow == SLEEP:
        (sleeper,) = sleepers(worker)
        before = staff.fleet.operation(tenant)
        os.kill(sleeper, signal.SIGCONT)
        worker.signal(signal.SIGTERM)  # it ends when what its processes are at is over
        assert worker.wait() == 0, worker.log.read_text()
        assert staff.fleet.operation(tenant) == before


def test_a_migrate_ends_well_whatever_befalls_its_worker(
    staff: Staff, tenant: str, migrate_blow: tuple[str, str], tmp_path: Path
) -> None:
    (blow, point), ours = migrate_blow, staff.fleet
    worker = struck(staff, blow, point)
    with ours.estate.load(tenant, folder=tmp_path) as load:
        moved = ours.command("migrate", tenant, "--to", "green", "--json")
        aftermath(staff, worker, blow, tenant)
        report = ours.estate.lost(load)
    assert moved.exit_code == 0, f"{moved.stderr}\n{worker.log.read_text()}"
    assert moved.json["state"] == "soaking"
    assert report.clean, report
    ours.estate.finish(tenant, "green")


def test_a_rollback_ends_well_whatever_befalls_who_was_asked(
    staff: Staff, tenant: str, rollback_blow: tuple[str, str], tmp_path: Path
) -> None:
    (blow, point), ours = rollback_blow, staff.fleet
    estate = ours.estate
    assert estate.command("migrate", tenant, "--to", "green").exit_code == 0
    worker = ours.worker("--concurrency", "1")
    with estate.load(tenant, folder=tmp_path) as load:
        if blow == SLEEP:
            with estate.stopped_at(point, "rollback", tenant, config=ours.config) as sleeper:
                ended(staff, worker, tenant, OperationState.SUCCEEDED)
                before = ours.operation(tenant)
                sleeper.wake()
                assert ours.operation(tenant) == before
        else:
            done = estate.killed_at(f"{point}:{blow}", "rollback", tenant, config=ours.config)
            assert done.exit_code == 0, f"{done.stdout} {done.stderr}"
        report = estate.lost(load)
    assert ours.operation(tenant).kind == "rollback"
    assert ours.operation(tenant).state is OperationState.SUCCEEDED
    assert report.clean, report
    estate.finish(tenant, "blue")


def test_a_complete_ends_well_whatever_befalls_its_worker(
    staff: Staff, tenant: str, complete_blow: tuple[str, str]
) -> None:
    (blow, point), ours = complete_blow, staff.fleet
    assert ours.estate.command("migrate", tenant, "--to", "green").exit_code == 0
    worker = struck(staff, blow, point)
    done = ours.command("complete", tenant, "--yes", tenant, "--json")
    aftermath(staff, worker, blow, tenant)
    assert done.exit_code == 0, f"{done.stderr}\n{worker.log.read_text()}"
    ours.estate.finish(tenant, "green")
