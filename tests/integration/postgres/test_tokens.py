"""Who was stopped for a while and wakes up after the next holder has finished can do nothing any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tenure.errors import DeadlineExceeded, FenceRefused, StoreRefused
from tenure.model.comparison import Difference, DifferenceKind
from tenure.model.names import CellName, StoreName
from tenure.stores.contract import FenceState
from tenure.stores.postgres import PgVectorStore, PostgresJournal, PostgresLiveCopy, PostgresStore
from tenure.stores.postgres.verification import Verification
from tests.integration.postgres.cells import ACME, NEIGHBOUR, Cells, eventually, fence

OURS = "insert into public.parts values ('acme', 9999, null, 'late')"
DIFFERENCE = Difference(collection="public.parts", key='["acme", "1"]', kind=DifferenceKind.MISMATCHED)


def close(store: PostgresStore, token: int) -> None:
    store.fence(fence(token), expires_in_s=None, drain_s=5)


def refused(statement: str, cells: Cells, store: PostgresStore) -> bool:
    try:
        cells.run(store, statement)
    except psycopg.DatabaseError as error:
        assert error.sqlstate == "TN001"
        return True
    return False


def linked_and_gone(cells: Cells, token: int) -> None:
    """A whole aborted link: nothing is left of it in either cell but the token."""
    cells.link(token).stop(fence(token))
    cells.green.erase(fence(token))
    cells.green.open(fence(token))
    assert cells.leftovers(cells.blue) == cells.leftovers(cells.green) == []


OLD_ACTS: dict[str, Callable[[Cells, PostgresLiveCopy], Any]] = {
    "fence the source": lambda cells, _: close(cells.blue, 4),
    "fence the target": lambda cells, _: close(cells.green, 4),
    "open the source": lambda cells, _: cells.blue.open(fence(4)),
    "open the target": lambda cells, _: cells.green.open(fence(4)),
    "start": lambda _, copy: copy.start(fence(4)),
    "arm": lambda _, copy: copy.arm_reverse(fence(4)),
    "erase": lambda cells, _: cells.green.erase(fence(4)),
    "retire": lambda cells, _: cells.green.retire(fence(4)),
    "repair": lambda _, copy: copy.repair([DIFFERENCE], fence(4)),
    "resync": lambda _, copy: copy.resync(fence(4), workers=1),
    "stop": lambda _, copy: copy.stop(fence(4)),
    "enrol": lambda cells, _: PostgresJournal(cells.blue).begin(ACME, fence(4)),
}


def test_tokens_are_remembered_when_everything_else_is_gone(cells: Cells) -> None:
    linked_and_gone(cells, 5)
    for what, act in OLD_ACTS.items():
        with pytest.raises(FenceRefused):
            act(cells, cells.copy())
        assert cells.leftovers(cells.blue) == cells.leftovers(cells.green) == [], what
    cells.run(cells.blue, OURS)
    linked_and_gone(cells, 5)


def test_an_older_holder_is_refused_while_a_newer_link_runs_and_changes_nothing(cells: Cells) -> None:
    linked_and_gone(cells, 5)
    copy = cells.link(6)
    before = sorted(cells.leftovers(cells.blue)), sorted(cells.leftovers(cells.green))
    for what, act in OLD_ACTS.items():
        if what == "enrol":
            continue  # the changes are being recorded already: nothing to do
        with pytest.raises(FenceRefused):
            act(cells, cells.copy())
        assert (sorted(cells.leftovers(cells.blue)), sorted(cells.leftovers(cells.green))) == before, what
    assert copy.compare().equal


def test_a_newer_holder_that_only_stopped_the_link_is_remembered(cells: Cells) -> None:
    cells.link(5)
    cells.copy().stop(fence(6))
    with pytest.raises(FenceRefused):
        cells.copy().start(fence(5))
    with pytest.raises(FenceRefused):
        cells.green.open(fence(5))
    vectors = PgVectorStore(name=StoreName("vectors"), cell=CellName("green"), carrier=cells.green, tables=[])
    with pytest.raises(FenceRefused):
        vectors.fence(fence(5), expires_in_s=None, drain_s=1)


def test_opening_that_is_interrupted_before_it_cleans_up_leaves_a_newer_fence_alone(
    cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    close(cells.blue, 1)

    def meanwhile(*_: object) -> list[str]:
        close(cells.blue, 2)
        return []

    monkeypatch.setattr("tenure.stores.postgres.fence.linked", meanwhile)
    with pytest.raises(FenceRefused):
        cells.blue.open(fence(1))
    assert not cells.blue.fence_state(ACME).writable
    assert refused(OURS, cells, cells.blue)


def test_a_fence_that_gave_up_leaves_the_tenant_to_the_newest_holder(cells: Cells) -> None:
    linked_and_gone(cells, 5)
    app = cells.connect(cells.blue)
    with app.transaction():
        app.execute("select tenure.permit('acme')")
        with pytest.raises(DeadlineExceeded):
            cells.blue.fence(fence(6), expires_in_s=None, drain_s=0.1)
    with pytest.raises(FenceRefused):
        close(cells.blue, 4)
    assert cells.blue.fence_state(ACME).writable
    close(cells.blue, 6)


@pytest.mark.parametrize("newer", ["fences the target", "opens the target"])
def test_a_repair_that_was_overtaken_writes_nothing(
    cells: Cells, monkeypatch: pytest.MonkeyPatch, newer: str
) -> None:
    copy = cells.link()
    assert copy.compare().equal
    changed = "update public.parts set body = 'of the newer holder' where tenant_id = 'acme' and id = 1"
    into_step = Verification.bring_into_step

    def overtaken(verification: Verification) -> None:
        into_step(verification)
        if newer == "fences the target":
            close(cells.green, 2)
        else:
            cells.green.open(fence(1))
        cells.past_the_fence(cells.green, changed)

    monkeypatch.setattr(Verification, "bring_into_step", overtaken)
    with pytest.raises(FenceRefused):
        copy.repair([DIFFERENCE], fence())
    rows = cells.rows(cells.green, "select body from public.parts where tenant_id = 'acme' and id = 1")
    assert rows == [("of the newer holder",)]


def test_a_retired_tenant_stays_refused_at_no_cost_and_can_come_back(cells: Cells) -> None:
    forward = cells.link()
    assert forward.compare().equal
    back = forward.arm_reverse(fence())
    switch(forward, 2)
    with pytest.raises(StoreRefused, match="link"):
        cells.blue.retire(fence(2))
    for copy in (back, forward):
        copy.stop(fence(2))
    cells.blue.erase(fence(2))
    for _ in range(2):
        cells.blue.retire(fence(2))
        assert cells.leftovers(cells.blue) == ["fence acme"]
        assert cells.blue.fence_state(ACME) == FenceState(writable=False, epoch=1, token=2)
    for statement in ("select tenure.permit('acme')", "select tenure.touch('acme', 'objects', 'x')"):
        assert refused(statement, cells, cells.blue)
        assert not refused(statement, cells, cells.green)
    cells.run(cells.blue, "select tenure.permit('globex')", "truncate public.kinds")
    assert cells.blue.inventory(NEIGHBOUR).items

    close(cells.blue, 3)
    assert refused(OURS, cells, cells.blue)
    home = cells.copy(cells.green, cells.blue)
    home.start(fence(3))
    eventually(lambda: home.progress().following, "the copy follows")
    assert home.compare().equal
    away = home.arm_reverse(fence(3))
    switch(home, 4)
    cells.run(cells.blue, OURS)
    away.seal(away.mark(), timeout_s=20)
    for copy in (away, home):
        copy.stop(fence(4))
    cells.green.erase(fence(4))
    cells.green.retire(fence(4))
    assert cells.leftovers(cells.blue) == []
    assert cells.leftovers(cells.green) == ["fence acme"]
    cells.green.open(fence(5))
    assert cells.leftovers(cells.green) == []


def test_retiring_closes_a_store_that_is_open_once_its_transactions_are_over(cells: Cells) -> None:
    close(cells.blue, 1)
    cells.blue.open(fence(1))
    app = cells.connect(cells.blue)
    with app.transaction():
        app.execute("select tenure.permit('acme')")
        retiring = cells.in_background(lambda: cells.blue.retire(fence(2)))
        app.execute("insert into public.parts values ('acme', 9998, null, 'in time')")
        assert not retiring.done()
    retiring.result(timeout=10)
    assert refused("select tenure.permit('acme')", cells, cells.blue)


def switch(copy: PostgresLiveCopy, token: int) -> None:
    close(copy.source, token)
    copy.seal(copy.mark(), timeout_s=20)
    assert copy.compare_changed().equal
    copy.target.open(fence(token))
