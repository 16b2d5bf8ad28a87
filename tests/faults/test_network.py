"""The network is cut in the middle of a move, so that packets vanish without a word, and heals a little later: the
move finishes or aborts by itself in reasonable time, nothing acknowledged is lost, and no request fails or is refused,
because every server that serves one is reachable for the app all the time.

`make test` runs a selection, `make faults` every way at every one of these points, for each time.
"""

from __future__ import annotations

import itertools
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
from tests.faults.network import WAYS, Network, network_of
from tests.slow_link import can_cut

pytestmark = pytest.mark.faults
_numbers = itertools.count(1)

POINTS: Final = ("provision.started", "catch_up.following", "switch.fenced", "switch.committed")
BRIEF_S: Final = 2.0
OUTLASTING_S: Final = 7.0
"""Longer than the local estate's hold budget of 4 s."""
SELECTION: Final = frozenset(
    {("target", "switch.fenced", OUTLASTING_S), ("control", "switch.fenced", BRIEF_S)}
)
CLOSED_MEANWHILE: Final = frozenset({("target", "switch.committed")})
"""Past the point of no return and before the target has opened, writes are refused while Tenure cannot reach it."""
RECOVERY_S: Final = 10.0
"""How long after it is back TCP may wait before it tries again, and Tenure after it."""
PATIENCE_S: Final = 60.0
"""Within this time after the network is back the operation has ended by itself."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cut" in metafunc.fixturenames:
        every = metafunc.config.getoption("--every-point", default=False)
        all_of_them = list(itertools.product(WAYS, POINTS, (BRIEF_S, OUTLASTING_S)))
        chosen = all_of_them if every else [c for c in all_of_them if c in SELECTION]
        metafunc.parametrize("cut", chosen, ids=[f"{way}-{point}-{s:g}s" for way, point, s in chosen])


@pytest.fixture(scope="module")
def network(cells_estate: TestEstate) -> Iterator[Network]:
    if not can_cut():
        pytest.skip("this machine's kernel lets only root drop packets")
    with network_of(cells_estate) as network:
        yield network


@pytest.fixture
def tenant(network: Network) -> Iterator[str]:
    """A new small tenant in blue. Whatever the test did, it ends with nothing left of it anywhere."""
    name = f"cut-off-{next(_numbers)}"
    network.estate.add_tenant(name)
    yield name
    assert network.estate.left_behind(name) == []


class Cut:
    """Cuts a way when a point is reached for the first time, and heals it after so many seconds."""

    def __init__(self, network: Network, way: str, point: str, seconds: float) -> None:
        self._network = network
        self._way = way
        self._point = point
        self._healing = threading.Timer(seconds, self._heal)
        self.began = self.ended = 0.0

    def __call__(self, notice: Notice) -> None:
        if not self.began and isinstance(notice, PointReached) and notice.point == self._point:
            self.began = time.time()
            self._network.cut(self._way)
            self._healing.start()

    def _heal(self) -> None:
        self._network.heal(self._way)
        self.ended = time.time()

    def over(self) -> None:
        assert self.began, f"{self._point} was not reached"
        self._healing.join()


def test_a_network_is_cut_in_the_middle_of_a_move(
    network: Network, tenant: str, cut: tuple[str, str, float], tmp_path: Path
) -> None:
    estate = network.estate
    happens = Cut(network, *cut)
    with estate.load(tenant, folder=tmp_path) as load:
        with estate.service() as service:
            operation = service.migrate(tenant, "green", apply=None, observer=happens)
        happens.over()
        took_s = time.time() - happens.ended
        report = estate.lost(load)
    assert operation.state in (OperationState.SOAKING, OperationState.ABORTED), operation
    serves = "green" if operation.state is OperationState.SOAKING else "blue"
    assert report.clean, report
    requests = History.load(tmp_path / "load.jsonl").requests
    assert [r for r in requests if r.outcome is Outcome.UNKNOWN] == []
    refused = [r for r in requests if r.outcome is Outcome.REFUSED]
    if cut[:2] in CLOSED_MEANWHILE:
        refused = [r for r in refused if r.end < happens.began or r.start > happens.ended + RECOVERY_S]
    assert refused == []
    assert took_s < PATIENCE_S
    shown = estate.command("tenant", "show", tenant, "--json").json
    assert shown["cell"] == serves, shown
    if shown["link"] is not None:
        done = estate.command("complete", tenant, "--yes", tenant)
        assert done.exit_code == 0, done.stderr
    for other in estate.local.cells:
        if other != serves:
            assert estate.items_in(tenant, other) == 0
