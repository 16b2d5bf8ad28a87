"""The target's disk is full in the middle of a move: the move finishes when there is room again, or aborts by itself
and says why; the tenant goes on in the source, and nothing acknowledged is lost.

`make faults` runs each of these points, with a disk that is freed and one that is not; `make test` none of them,
because not every machine lets root mount a file system.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psycopg
import pytest

from rag_app.history import History, Outcome
from tenure.engine.observer import Notice, PointReached
from tenure.model.names import CellName
from tenure.model.operation import OperationState
from tests.estate import TestEstate
from tests.faults.small_disk import SmallDisk, small_disk_of

pytestmark = pytest.mark.faults
_numbers = itertools.count(1)

POINTS: Final = ("provision.started", "catch_up.following", "switch.fenced")
FREED_AFTER_S: Final = 3.0
CASES: Final = [(p, s) for p in POINTS for s in (FREED_AFTER_S, None) if (p, s) != ("switch.fenced", None)]
IDS: Final = [f"{point}-{'stays' if seconds is None else 'freed'}" for point, seconds in CASES]
ROWS: Final = 6000
"""That many rows of a kilobyte need room in the target that it does not have from earlier tenants."""


@pytest.fixture(scope="module")
def disk(cells_estate: TestEstate) -> Iterator[SmallDisk]:
    with small_disk_of(cells_estate.local.running, "postgres-green") as disk:
        yield disk


@pytest.fixture
def tenant(cells_estate: TestEstate, disk: SmallDisk) -> Iterator[str]:
    """A new tenant in blue. Whatever the test did, it ends with nothing left of it anywhere."""
    name = f"full-{next(_numbers)}"
    cells_estate.add_tenant(name)
    with psycopg.connect(cells_estate.local.cells[CellName("blue")].dsn, autocommit=True) as conn:
        conn.execute(
            "insert into documents (tenant_id, id, title, body)"
            " select %s, 3000000000 + n, 'bulk', repeat(md5(n::text), 32) from generate_series(1, %s) n",
            (name, ROWS),
        )
    yield name
    disk.free()
    assert cells_estate.left_behind(name) == []


class Fills:
    """Fills the disk when a point is reached for the first time, and frees it after so many seconds or never."""

    def __init__(self, disk: SmallDisk, point: str, seconds: float | None) -> None:
        self._disk = disk
        self._point = point
        self._freeing = None if seconds is None else threading.Timer(seconds, disk.free)
        self.happened = False

    def __call__(self, notice: Notice) -> None:
        if not self.happened and isinstance(notice, PointReached) and notice.point == self._point:
            self.happened = True
            self._disk.fill()
            if self._freeing is not None:
                self._freeing.start()

    def over(self) -> None:
        assert self.happened, f"{self._point} was not reached"
        if self._freeing is not None:
            self._freeing.join()


@pytest.mark.parametrize("filled", CASES, ids=IDS)
def test_the_disk_of_the_target_is_full_in_the_middle_of_a_move(
    cells_estate: TestEstate,
    disk: SmallDisk,
    tenant: str,
    filled: tuple[str, float | None],
    tmp_path: Path,
) -> None:
    point, freed_after_s = filled
    fills = Fills(disk, point, freed_after_s)
    with cells_estate.load(tenant, folder=tmp_path) as load:
        with cells_estate.service() as service:
            operation = service.migrate(tenant, "green", apply=None, observer=fills)
            journal = str(service.events(operation.id))
        fills.over()
        disk.free()
        report = cells_estate.lost(load)
    assert report.clean, report
    assert operation.state in (OperationState.SOAKING, OperationState.ABORTED), operation
    serves = "green" if operation.state is OperationState.SOAKING else "blue"
    requests = History.load(tmp_path / "load.jsonl").requests
    assert serves == "green" or [r for r in requests if r.outcome is not Outcome.OK] == []
    if point == "provision.started":
        assert "postgres in green: the disk is full" in journal
        assert operation.state is (
            OperationState.ABORTED if freed_after_s is None else OperationState.SOAKING
        )
    shown = cells_estate.command("tenant", "show", tenant, "--json").json
    assert shown["cell"] == serves, shown
    if shown["link"] is not None:
        done = cells_estate.command("complete", tenant, "--yes", tenant)
        assert done.exit_code == 0, done.stderr
    for other in cells_estate.local.cells:
        if other != serves:
            assert cells_estate.items_in(tenant, other) == 0
