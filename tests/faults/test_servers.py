"""A server is killed (SIGKILL) in the middle of a move and comes back a little later: the move finishes or aborts by
itself, nothing acknowledged is lost, and requests fail only while what serves them is down.

`make test` runs a fixed selection, `make faults` every server at every one of these points.
"""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from rag_app.history import History, Outcome
from tenure.engine.observer import Notice, PointReached
from tenure.model.operation import OperationState
from tests.estate import TestEstate

pytestmark = pytest.mark.faults
_numbers = itertools.count(1)

SERVING: Final = ("postgres-blue", "valkey-blue", "s3-us-east-1", "envoy", "postgres-green", "valkey-green")
"""What the tenant's requests need, those of blue before the switch and those of green after it. The object store is
that of both."""
SERVERS: Final = (*SERVING, "control")
POINTS: Final = ("provision.started", "catch_up.following", "switch.fenced", "switch.committed")
SELECTION: Final = frozenset(
    {
        ("postgres-blue", "catch_up.following"),
        ("postgres-green", "switch.fenced"),
        ("control", "switch.fenced"),
        ("s3-us-east-1", "switch.fenced"),
    }
)
OUTAGE_S: Final = 2.0
RECOVERY_S: Final = 10.0
"""How long after its restart requests may still fail: crash recovery, and the app's connections that died with it."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "outage" in metafunc.fixturenames:
        every = metafunc.config.getoption("--every-point", default=False)
        all_of_them = list(itertools.product(SERVERS, POINTS))
        chosen = all_of_them if every else [c for c in all_of_them if c in SELECTION]
        metafunc.parametrize("outage", chosen, ids=[f"{server}-{point}" for server, point in chosen])


class Outage:
    """Kills a server when a point is reached for the first time, and starts it again after `OUTAGE_S`."""

    def __init__(self, estate: TestEstate, server: str, point: str) -> None:
        self._running = estate.local.running
        self._server = server
        self._point = point
        self._back: threading.Thread | None = None
        self.began = self.ended = 0.0

    def __call__(self, notice: Notice) -> None:
        if self._back is None and isinstance(notice, PointReached) and notice.point == self._point:
            self.began = time.time()
            self._running.stop(self._server, signal.SIGKILL)
            self._back = threading.Thread(target=self._restart)
            self._back.start()

    def _restart(self) -> None:
        time.sleep(OUTAGE_S)
        self._running.start(self._server)
        self.ended = time.time()

    def over(self) -> None:
        assert self._back is not None, f"{self._point} was not reached"
        self._back.join(timeout=60)
        assert self.ended, f"{self._server} did not come back"


@pytest.fixture
def tenant(cells_estate: TestEstate) -> Iterator[str]:
    """A new small tenant in blue. Whatever the test did, it ends with nothing left of it anywhere."""
    name = f"outage-{next(_numbers)}"
    cells_estate.add_tenant(name)
    yield name
    assert cells_estate.left_behind(name) == []


def failed(history: History) -> list[tuple[float, float]]:
    """Begin and end of every request that was neither done nor refused with a reason."""
    return [(r.start, r.end) for r in history.requests if r.outcome is Outcome.UNKNOWN]


def test_a_server_dies_in_the_middle_of_a_move(
    cells_estate: TestEstate, tenant: str, outage: tuple[str, str], tmp_path: Path
) -> None:
    server, point = outage
    dies = Outage(cells_estate, server, point)
    with cells_estate.load(tenant, folder=tmp_path) as load:
        with cells_estate.service() as service:
            operation = service.migrate(tenant, "green", apply=None, observer=dies)
        dies.over()
        report = cells_estate.lost(load)
    assert operation.state in (OperationState.SOAKING, OperationState.ABORTED), operation
    serves = "green" if operation.state is OperationState.SOAKING else "blue"
    assert report.clean, report
    outside = [
        (start - dies.began, end - dies.ended)
        for start, end in failed(History.load(tmp_path / "load.jsonl"))
        if server not in SERVING or end < dies.began or start > dies.ended + RECOVERY_S
    ]
    assert outside == []
    shown = cells_estate.command("tenant", "show", tenant, "--json").json
    assert shown["cell"] == serves, shown
    if shown["link"] is not None:
        done = cells_estate.command("complete", tenant, "--yes", tenant)
        assert done.exit_code == 0, done.stderr
    for other in cells_estate.local.cells:
        if other != serves:
            assert cells_estate.items_in(tenant, other) == 0
