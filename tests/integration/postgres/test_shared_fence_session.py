"""A link over PostgreSQL, a store that shares its fence, and one that stays: from the first copy to the last trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest

from tenure.engine.context import StepContext
from tenure.errors import StoreUnavailable
from tenure.model.names import CellName, StoreName, TenantId
from tenure.operations.deps import Deps
from tenure.operations.session import Session
from tenure.operations.teardown import erase_copy, unlink
from tenure.stores.contract import Fence, FenceState, LiveCopy, Store
from tenure.stores.postgres import PostgresLiveCopy
from tests.contract.rigs.protocol import AppRefused, Side
from tests.folders import FolderRig, FolderStore, prepare

ACME = TenantId("acme")
BLUE, GREEN = Side.BLUE, Side.GREEN
POSTGRES, DOCUMENTS, METRICS = StoreName("postgres"), StoreName("documents"), StoreName("metrics")
LINK = "acme:blue:green"
Wait = Callable[..., None]


class Factory:
    """`StoreFactory` over a rig. Nobody may ask for the store that stays, nor for its copy."""

    def __init__(self, rig: FolderRig) -> None:
        self._rig = rig
        self._carriers = {side: rig.carrier(side) for side in Side}
        self._folders = {side: rig.beside(self._carriers[side]) for side in Side}

    def names(self) -> Sequence[StoreName]:
        return (DOCUMENTS, METRICS, POSTGRES)

    def moving(self) -> Sequence[StoreName]:
        return (DOCUMENTS, POSTGRES)

    def store(self, cell: CellName, name: StoreName) -> Store:
        if name == POSTGRES:
            return self._carriers[Side(cell)]
        assert name == DOCUMENTS
        return self._folders[Side(cell)]

    def folder(self, side: Side) -> FolderStore:
        return self._folders[side]

    def copy(
        self, link: str, name: StoreName, tenant: TenantId, source: CellName, target: CellName
    ) -> LiveCopy:
        one, other = Side(source), Side(target)
        if name == POSTGRES:
            return PostgresLiveCopy(
                link=link, source=self._carriers[one], target=self._carriers[other], tenant=tenant
            )
        assert name == DOCUMENTS
        return self._rig.copy(tenant, one, other)

    def close(self) -> None:
        """The rig closes everything."""


class Step:
    """What taking a link apart needs of a step, and of everything else."""

    def __init__(self, serves: Side) -> None:
        self.registry = self
        self.placements = self
        self.cell = CellName(serves)

    def get(self, tenant: TenantId) -> Step:
        return self

    def require_lease(self) -> None:
        """Nobody else works on the tenant here."""

    def event(self, action: str, **told: Any) -> None:
        """Nobody reads it."""

    def progress(self, what: str, items: int) -> None:
        """Nobody looks."""


def fence(token: int) -> Fence:
    return Fence(tenant=ACME, epoch=1, token=token)


def erase(session: Session, token: int, *, serves: Side, side: Side) -> int:
    step = Step(serves)
    return erase_copy(cast(Deps, step), cast(StepContext, step), session, fence(token), CellName(side))


@pytest.fixture
def sides(fresh_database: Callable[..., str], tmp_path: Path) -> dict[Side, tuple[str, Path]]:
    made = {}
    for side, server in ((BLUE, "pg16"), (GREEN, "pg18a")):
        (tmp_path / side).mkdir()
        made[side] = (fresh_database(server), tmp_path / side)
        prepare(made[side][0])
    return made


@pytest.fixture
def rig(sides: dict[Side, tuple[str, Path]]) -> Iterator[FolderRig]:
    made = FolderRig("folders", sides)
    with psycopg.connect(sides[BLUE][0], autocommit=True) as connection:
        connection.execute("insert into items values ('acme', 'row', 'a row'), ('acme1', 'row', 'not ours')")
    for item in "abc":
        made.write(BLUE, ACME, item, f"file {item}")
    made.write(GREEN, TenantId("acme1"), "a", "a neighbour's")
    yield made
    made.close()


@pytest.fixture
def session(rig: FolderRig) -> Iterator[Session]:
    made = Session(
        link=LINK, tenant=ACME, source=CellName(BLUE), target=CellName(GREEN), factory=Factory(rig)
    )
    yield made
    made.detach()


def started(session: Session, wait_until: Wait, token: int) -> Session:
    session.start(fence(token))
    wait_until(
        lambda: all(copy.progress().following for copy in session.copies.values()),
        "every copy to follow",
        deadline_s=30,
    )
    return session


def switched(session: Session, wait_until: Wait, token: int) -> Session:
    """The order of the hold, without a gate."""
    session.arm(fence(token))
    session.claim(fence(token))
    assert all(seen.full.equal for seen in session.compare(lambda *_: None).values())
    for name in session.draining():
        session.source_store(name).fence(fence(token), expires_in_s=None, drain_s=5.0)
    session.each(lambda n: session.copies[n].seal(session.copies[n].mark(), timeout_s=10.0))
    assert all(c.equal for c in session.compare_changed().values())
    session.each(lambda n: session.target_store(n).open(fence(token)), session.fenced())
    return started(session.turned(), wait_until, token)


def rows(sides: dict[Side, tuple[str, Path]], side: Side) -> list[tuple[Any, ...]]:
    with psycopg.connect(sides[side][0], autocommit=True) as connection:
        return connection.execute("select item, value from items where tenant_id = 'acme'").fetchall()


def test_a_store_that_shares_a_fence_is_fenced_with_it_and_one_that_stays_takes_no_part(
    session: Session,
) -> None:
    assert set(session.copies) == {DOCUMENTS, POSTGRES}
    assert (session.riders(), session.draining(), session.others()) == ([DOCUMENTS], [POSTGRES], [])


def test_an_aborted_move_leaves_nothing_of_any_store(
    rig: FolderRig,
    sides: dict[Side, tuple[str, Path]],
    session: Session,
    wait_until: Wait,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started(session, wait_until, 1)
    session.arm(fence(1))
    rig.write(BLUE, ACME, "d", "during the move")
    wait_until(lambda: len(rig.read(GREEN, ACME)) == 4, "the file to arrive")
    unlink(cast(StepContext, Step(BLUE)), session, fence(2))
    folder = cast(Factory, session.factory).folder(GREEN)
    fenced: list[FenceState] = []
    put = folder.put

    def watched(key: str, body: bytes | None) -> None:
        fenced.append(folder.fence_state(ACME))
        put(key, body)

    monkeypatch.setattr(folder, "put", watched)
    assert erase(session, 2, serves=BLUE, side=GREEN) == 5
    assert [state.writable for state in fenced] == [False] * 4
    session.each(lambda n: session.target_store(n).open(fence(2)), session.fenced())
    assert not rig.leftovers(BLUE)
    assert not rig.leftovers(GREEN)
    assert (rig.read(GREEN, ACME), rows(sides, GREEN)) == ({}, [])
    assert rig.read(GREEN, TenantId("acme1")) == {"a": "a neighbour's"}
    rig.write(BLUE, ACME, "a", "as before")


def test_an_abort_that_was_cut_short_anywhere_is_finished_by_the_next(
    rig: FolderRig, session: Session, wait_until: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    started(session, wait_until, 1)
    folder = cast(Factory, session.factory).folder(GREEN)
    put, left = folder.put, [2]

    def breaks(key: str, body: bytes | None) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise StoreUnavailable("the power is gone")
        put(key, body)

    unlink(cast(StepContext, Step(BLUE)), session, fence(2))
    with monkeypatch.context() as patch:
        patch.setattr(folder, "put", breaks)
        with pytest.raises(StoreUnavailable):
            erase(session, 2, serves=BLUE, side=GREEN)
    assert len(rig.read(GREEN, ACME)) == 1
    with pytest.raises(AppRefused):
        rig.write(GREEN, ACME, "b", "the target stays closed until all of it is gone")
    unlink(cast(StepContext, Step(BLUE)), session, fence(3))
    assert erase(session, 3, serves=BLUE, side=GREEN) == 1
    session.each(lambda n: session.target_store(n).open(fence(3)), session.fenced())
    assert not rig.leftovers(GREEN)


def test_a_completed_move_leaves_a_fence_and_nothing_else(
    rig: FolderRig, sides: dict[Side, tuple[str, Path]], session: Session, wait_until: Wait
) -> None:
    back = switched(started(session, wait_until, 1), wait_until, 2)
    rig.write(GREEN, ACME, "a", "written in green")
    wait_until(lambda: rig.read(BLUE, ACME)["a"] == "written in green", "the file to flow back")
    with pytest.raises(AppRefused):
        rig.write(BLUE, ACME, "a", "the former source is closed")
    unlink(cast(StepContext, Step(GREEN)), back, fence(3))
    assert erase(back, 3, serves=GREEN, side=BLUE) == 4
    for names in (back.riders(), back.fenced()):
        for _ in range(2):
            back.each(lambda n: back.target_store(n).retire(fence(3)), names)
    assert rig.leftovers(BLUE) == ["fence acme"]
    assert not rig.leftovers(GREEN)
    assert (rig.read(BLUE, ACME), rows(sides, BLUE)) == ({}, [])
    assert rows(sides, GREEN) == [("row", "a row")]
    with pytest.raises(AppRefused):
        rig.write(BLUE, ACME, "a", "it has left")
    rig.write(GREEN, ACME, "b", "it lives here")
    back.detach()
