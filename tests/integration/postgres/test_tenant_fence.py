"""The fence that stores beside PostgreSQL share with it: who may copy into them, and what is left of it afterwards."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tenure.client import Fenced, touch, translating
from tenure.errors import (
    DeadlineExceeded,
    EvidenceStale,
    FenceRefused,
    LeaseLost,
    StoreRefused,
    StoreUnavailable,
)
from tenure.model.names import StoreName, TenantId
from tenure.stores.contract import Copier, Fence
from tenure.stores.journaled.checkpoint import EVERYTHING, Checkpoint
from tenure.stores.postgres import PostgresLiveCopy, PostgresTenantFence
from tests.contract.rigs.protocol import AppRefused, Side
from tests.folders import FolderCopy, FolderRig, FolderStore, prepare

ACME = TenantId("acme")
BLUE, GREEN = Side.BLUE, Side.GREEN
DOCUMENTS, LOGS = StoreName("documents"), StoreName("logs")
LINK = f"link-{ACME}"
Wait = Callable[..., None]


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
    yield made
    made.close()


def fence(token: int = 1, *, tenant: TenantId = ACME) -> Fence:
    return Fence(tenant=tenant, epoch=1, token=token)


def anchor(rig: FolderRig, side: Side = GREEN) -> PostgresTenantFence:
    return PostgresTenantFence(rig.carrier(side))


def closed(rig: FolderRig, token: int = 1) -> PostgresTenantFence:
    """The anchor of green, where the tenant is fenced."""
    made = anchor(rig)
    made.fence(fence(token), expires_in_s=None, drain_s=5.0)
    return made


def linked(rig: FolderRig, wait_until: Wait, token: int = 1) -> FolderCopy:
    copy = rig.copy(ACME, BLUE, GREEN)
    copy.target.fence(fence(token), expires_in_s=None, drain_s=5.0)
    copy.start(fence(token))
    wait_until(lambda: copy.progress().following, "the first pass", deadline_s=30)
    return copy


def sealed(copy: FolderCopy) -> None:
    copy.seal(copy.mark(), timeout_s=10.0)


# -- who holds it ------------------------------------------------------------------------------------------------


def test_one_look_says_who_copies_and_whether_the_tenant_may_write(rig: FolderRig) -> None:
    assert anchor(rig).copier(ACME, DOCUMENTS) == Copier()
    seen = closed(rig, token=3)
    assert seen.copier(ACME, DOCUMENTS) == Copier(accepts=False, token=3)
    seen.join(fence(4), DOCUMENTS, LINK, copier="me", fenced=True)
    assert seen.copier(ACME, DOCUMENTS) == Copier(link=LINK, process="me", accepts=False, token=4)
    assert seen.copier(ACME, LOGS) == Copier(accepts=False, token=4)
    assert seen.copier(TenantId("acme1"), DOCUMENTS) == Copier()
    seen.join(fence(5), DOCUMENTS, LINK)
    assert seen.copier(ACME, DOCUMENTS).process == "me"
    seen.open(fence(5))
    assert seen.copier(ACME, DOCUMENTS).accepts


def test_a_fence_that_has_lapsed_lets_nobody_copy(rig: FolderRig, wait_until: Wait) -> None:
    seen = anchor(rig)
    seen.fence(fence(), expires_in_s=0.2, drain_s=5.0)
    wait_until(lambda: seen.copier(ACME, DOCUMENTS).accepts, "the fence to lapse")
    with pytest.raises(FenceRefused):
        seen.join(fence(), DOCUMENTS, LINK, copier="me", fenced=True)
    assert not seen.copier(ACME, DOCUMENTS).link


def test_a_stale_holder_neither_joins_nor_releases_nor_erases(rig: FolderRig) -> None:
    seen = closed(rig, token=5)
    seen.join(fence(5), DOCUMENTS, LINK, copier="heir", fenced=True)
    attempts: tuple[Callable[[], None], ...] = (
        lambda: seen.join(fence(4), DOCUMENTS, LINK, copier="zombie", fenced=True),
        lambda: seen.join(fence(4), LOGS, LINK),
        lambda: seen.release(fence(4), DOCUMENTS, LINK),
        lambda: seen.require_unlinked(fence(4), DOCUMENTS),
        lambda: rig.copy(ACME, BLUE, GREEN).stop(fence(4)),
    )
    for stale in attempts:
        with pytest.raises(FenceRefused):
            stale()
    assert seen.copier(ACME, DOCUMENTS) == Copier(link=LINK, process="heir", accepts=False, token=5)
    assert not seen.copier(ACME, LOGS).link


def test_a_store_that_a_link_holds_is_not_erased_and_the_tenant_does_not_leave(rig: FolderRig) -> None:
    store = rig.store(GREEN)
    seen = closed(rig)
    rig.plant(GREEN, ACME, "a", "1")
    seen.join(fence(), DOCUMENTS, LINK, copier="me", fenced=True)
    for held in (store.erase, store.retire, rig.carrier(GREEN).retire, rig.carrier(GREEN).erase):
        with pytest.raises(StoreRefused, match=LINK):
            held(fence())
    assert rig.read(GREEN, ACME) == {"a": "1"}
    seen.release(fence(), DOCUMENTS, "another link")
    with pytest.raises(StoreRefused, match=LINK):
        store.erase(fence())
    seen.release(fence(), DOCUMENTS, LINK)
    assert store.erase(fence()) == 1


def test_an_erasure_needs_the_fence_of_postgresql(rig: FolderRig) -> None:
    rig.write(GREEN, ACME, "a", "1")
    with pytest.raises(FenceRefused) as refused:
        rig.store(GREEN).erase(fence())
    assert "fence postgres of the same cell" in str(refused.value.hint)
    rig.carrier(GREEN).fence(fence(), expires_in_s=None, drain_s=5.0)
    assert rig.store(GREEN).erase(fence()) == 1


# -- what is left ------------------------------------------------------------------------------------------------


def test_what_a_link_leaves_on_a_closed_side_goes_with_the_fence(rig: FolderRig) -> None:
    seen = closed(rig)
    seen.join(fence(), DOCUMENTS, LINK, copier="me", fenced=True)
    seen.release(fence(), DOCUMENTS, LINK)
    assert rig.leftovers(GREEN)[-1:] == ["fence acme"]
    assert not seen.fence_state(ACME).writable
    seen.open(fence())
    assert not rig.leftovers(GREEN)


def test_opening_keeps_everything_while_a_store_is_linked(rig: FolderRig) -> None:
    """As in a switch: the target opens, and what it was told to record must go on being recorded."""
    seen = closed(rig)
    seen.join(fence(), DOCUMENTS, LINK, copier="me", fenced=True)
    rig.copy(ACME, BLUE, GREEN).arm_reverse(fence())
    seen.open(fence(2))
    rig.write(GREEN, ACME, "a", "recorded")
    assert "journal acme/a" in rig.leftovers(GREEN)
    seen.release(fence(2), DOCUMENTS, LINK)
    assert not rig.leftovers(GREEN)


@pytest.mark.parametrize("last", ["postgres", "documents"])
def test_whichever_part_of_a_link_is_stopped_last_leaves_nothing(
    rig: FolderRig, wait_until: Wait, last: str
) -> None:
    rows = PostgresLiveCopy(link=LINK, source=rig.carrier(BLUE), target=rig.carrier(GREEN), tenant=ACME)
    files = rig.copy(ACME, BLUE, GREEN)
    rows.target.fence(fence(), expires_in_s=None, drain_s=5.0)
    for copy in (rows, files):
        copy.start(fence())
    wait_until(lambda: rows.progress().following and files.progress().following, "both follow", deadline_s=30)
    rig.write(BLUE, ACME, "a", "1")
    first, second = (files.stop, rows.stop) if last == "postgres" else (rows.stop, files.stop)
    first(fence())
    rig.write(BLUE, ACME, "a", "2")
    second(fence())
    assert not rig.leftovers(BLUE)
    assert rig.leftovers(GREEN)[-1:] == ["fence acme"]
    rig.carrier(GREEN).open(fence())
    assert not rig.leftovers(GREEN)


def test_a_tenant_that_leaves_for_good_takes_the_record_of_copiers_with_it(rig: FolderRig) -> None:
    seen = closed(rig)
    seen.join(fence(), DOCUMENTS, LINK, copier="me", fenced=True)
    seen.release(fence(), DOCUMENTS, LINK)
    rig.carrier(GREEN).retire(fence())
    rig.store(GREEN).retire(fence())
    assert rig.leftovers(GREEN)[-1:] == ["fence acme"]
    with pytest.raises(AppRefused):
        rig.write(GREEN, ACME, "a", "too late")


def test_a_side_that_is_away_keeps_nothing_of_the_other_from_going(
    rig: FolderRig, sides: dict[Side, tuple[str, Path]], wait_until: Wait
) -> None:
    copy = linked(rig, wait_until)
    copy.detach()
    rig.write(BLUE, ACME, "a", "1")
    away = FolderRig(
        "folders", {BLUE: sides[BLUE], GREEN: ("host=127.0.0.1 port=1 dbname=none", sides[GREEN][1])}
    )
    with pytest.raises(StoreUnavailable, match="postgres in green"):
        away.copy(ACME, BLUE, GREEN).stop(fence())
    away.close()
    assert not rig.leftovers(BLUE)
    assert "copier documents" in rig.leftovers(GREEN)
    rig.copy(ACME, BLUE, GREEN).stop(fence())
    assert "copier documents" not in rig.leftovers(GREEN)


def test_a_cell_that_knows_no_copiers_yet_is_open_and_learns_it(
    rig: FolderRig, sides: dict[Side, tuple[str, Path]]
) -> None:
    seen = closed(rig)
    with psycopg.connect(sides[GREEN][0], autocommit=True) as connection:
        connection.execute("drop table tenure.copier")
        connection.execute("comment on schema tenure is 'an older one'")
    assert seen.copier(ACME, DOCUMENTS) == Copier(accepts=False, token=1)
    seen.release(fence(), DOCUMENTS, LINK)
    seen.require_unlinked(fence(), DOCUMENTS)
    seen.join(fence(), DOCUMENTS, LINK, copier="me", fenced=True)
    assert seen.copier(ACME, DOCUMENTS).process == "me"


# -- the app's writes --------------------------------------------------------------------------------------------


def test_a_fence_waits_for_the_file_that_the_app_is_writing(rig: FolderRig, wait_until: Wait) -> None:
    copy = linked(rig, wait_until)
    with rig.app(BLUE, ACME, "a"):
        with pytest.raises(DeadlineExceeded):
            copy.source.fence(fence(), expires_in_s=None, drain_s=0.2)
        rig.plant(BLUE, ACME, "a", "written under the permit")
    copy.source.fence(fence(), expires_in_s=None, drain_s=5.0)
    sealed(copy)
    assert rig.read(GREEN, ACME) == {"a": "written under the permit"}


def test_a_seal_reads_what_the_journal_says_after_the_fence(
    rig: FolderRig,
    sides: dict[Side, tuple[str, Path]],
    wait_until: Wait,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also of a copy that does not come to read its journal while it follows."""
    monkeypatch.setattr("tenure.stores.journaled.copy.POLL_S", 60.0)
    copy = linked(rig, wait_until)
    with psycopg.connect(sides[BLUE][0], autocommit=True) as connection:
        for item in ("a", "b"):
            with translating(ACME), connection.transaction():
                touch(connection, ACME, DOCUMENTS, f"{ACME}/{item}")
                rig.plant(BLUE, ACME, item, item)
        copy.source.fence(fence(), expires_in_s=None, drain_s=5.0)
        with pytest.raises(Fenced), translating(ACME), connection.transaction():
            touch(connection, ACME, DOCUMENTS, f"{ACME}/c")
    sealed(copy)
    assert rig.read(GREEN, ACME) == {"a": "a", "b": "b"}


# -- two processes -----------------------------------------------------------------------------------------------


def test_of_two_copies_the_displaced_one_stops(rig: FolderRig, wait_until: Wait) -> None:
    zombie = linked(rig, wait_until)
    heir = linked(rig, wait_until, token=2)

    def displaced() -> bool:
        try:
            zombie.progress()
        except LeaseLost:
            return True
        return False

    wait_until(displaced, "the displaced copy's end")
    with pytest.raises(LeaseLost):
        sealed(zombie)
    with pytest.raises(EvidenceStale):
        zombie.compare_changed()
    rig.write(BLUE, ACME, "a", "1")
    sealed(heir)
    assert rig.read(GREEN, ACME) == {"a": "1"}


def test_what_a_displaced_copy_had_under_way_is_put_right(
    rig: FolderRig, wait_until: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has looked, and its write arrives after the other one has taken over."""
    zombie = linked(rig, wait_until)
    send, stopped, goes_on, arrived = zombie.target.put, *(threading.Event() for _ in range(3))

    def late(key: str, body: bytes | None) -> None:
        stopped.set()
        assert goes_on.wait(30)
        send(key, body)
        arrived.set()

    monkeypatch.setattr(zombie.target, "put", late)
    rig.write(BLUE, ACME, "a", "1")
    assert stopped.wait(10)
    rig.write(BLUE, ACME, "a", "2")
    heir = rig.copy(ACME, BLUE, GREEN, handover_s=2.0)
    heir.target.fence(fence(2), expires_in_s=None, drain_s=5.0)
    began = time.monotonic()
    heir.start(fence(2))
    wait_until(lambda: heir.progress().following or time.monotonic() - began > 0.5, "the heir to begin")
    goes_on.set()
    assert arrived.wait(10)
    wait_until(lambda: heir.progress().following, "the first pass")
    sealed(heir)
    assert rig.read(GREEN, ACME) == {"a": "2"}


PROCESS = """
import signal, sys, threading
from pathlib import Path
from tenure.errors import LeaseLost
from tenure.model.names import TenantId
from tenure.stores.contract import Fence
from tenure.stores.journaled import checkpoint
from tests.folders import FolderRig, FolderStore
from tests.contract.rigs.protocol import Side

blue, green, root, stops_at = (sys.stdin.readline().strip() for _ in range(4))
sides = {Side.BLUE: (blue, Path(root) / "blue"), Side.GREEN: (green, Path(root) / "green")}
rig, get = FolderRig("folders", sides), FolderStore.get
copy = rig.copy(TenantId("acme"), Side.BLUE, Side.GREEN)
copy._workers = 1

def halting(store, key):
    body = get(store, key)
    if key == stops_at:
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # this thread goes no further
    return body

FolderStore.get = halting
checkpoint.SLICE = 10
copy.start(Fence(tenant=TenantId("acme"), epoch=1, token=1))
try:
    while True:
        copy.progress()
        copy._paused(0.02)
except LeaseLost:
    rig.close()
    print("lost", flush=True)
"""
ITEMS = [f"{n:03}" for n in range(200)]
HALFWAY = f"{ACME}/{ITEMS[100]}"


@pytest.fixture
def stopped(
    rig: FolderRig, sides: dict[Side, tuple[str, Path]], wait_until: Wait
) -> Iterator[subprocess.Popen[str]]:
    """Another process that copies into green as the holder of token 1, and was stopped with files in its hands."""
    for item in ITEMS:
        rig.plant(BLUE, ACME, item, "old")
    closed(rig)
    with subprocess.Popen(
        [sys.executable, "-c", PROCESS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), *sys.path])},
    ) as started:
        try:
            assert started.stdin is not None
            given = (sides[BLUE][0], sides[GREEN][0], str(sides[BLUE][1].parent), HALFWAY)
            started.stdin.write("".join(f"{line}\n" for line in given))
            started.stdin.close()
            state = Path(f"/proc/{started.pid}/stat")
            wait_until(
                lambda: state.read_text().rpartition(")")[2].split()[0] == "T",
                "the process to stop halfway",
                deadline_s=30,
            )
            assert 5 < len(rig.read(GREEN, ACME)) < len(ITEMS)
            yield started
        finally:
            started.kill()


@pytest.mark.faults
def test_a_process_that_was_stopped_while_it_copied_overwrites_nothing(
    rig: FolderRig, stopped: subprocess.Popen[str], wait_until: Wait
) -> None:
    heir = linked(rig, wait_until, token=2)
    sealed(heir)
    heir.target.open(fence(3))
    for item in ITEMS:
        rig.write(GREEN, ACME, item, "new")
    stopped.send_signal(signal.SIGCONT)
    assert stopped.stdout is not None
    assert select.select([stopped.stdout], [], [], 30)[0], "the process does not notice"
    assert stopped.stdout.readline().strip() == "lost"
    stopped.wait(10)
    assert rig.read(GREEN, ACME) == dict.fromkeys(ITEMS, "new")


@pytest.mark.faults
def test_a_process_that_was_killed_while_it_copied_is_carried_on_for(
    rig: FolderRig, stopped: subprocess.Popen[str], wait_until: Wait
) -> None:
    rig.write(BLUE, ACME, "000", "changed after it was copied")
    rig.delete(BLUE, ACME, "001")
    stopped.kill()
    stopped.wait(10)
    rig.write(BLUE, ACME, "002", "changed while nobody copied")
    heir = linked(rig, wait_until, token=2)
    assert heir.compare().equal
    heir.source.fence(fence(2), expires_in_s=None, drain_s=5.0)
    sealed(heir)
    assert heir.compare_changed().equal
    assert rig.read(GREEN, ACME) == rig.read(BLUE, ACME)
    assert rig.read(GREEN, ACME)["002"] == "changed while nobody copied"


@pytest.mark.faults
@pytest.mark.parametrize("journal", ["goes on", "was gone for a while"])
def test_a_first_pass_is_carried_on_where_the_killed_process_had_come_to(
    rig: FolderRig,
    stopped: subprocess.Popen[str],
    wait_until: Wait,
    monkeypatch: pytest.MonkeyPatch,
    journal: str,
) -> None:
    """Listings that cannot tell what is current, as those of most stores. What the journal names is copied again."""
    stopped.kill()
    stopped.wait(10)
    passed = Checkpoint(anchor(rig).copier(ACME, DOCUMENTS).passed)
    assert passed.passed(f"{ACME}/{ITEMS[50]}")
    assert not passed.passed(HALFWAY)
    rig.write(BLUE, ACME, "000", "changed")
    rig.delete(BLUE, ACME, "001")
    if journal != "goes on":
        anchor(rig, BLUE).release(fence(), DOCUMENTS, LINK)
        rig.write(BLUE, ACME, "002", "unheard of")
    monkeypatch.setattr(FolderStore, "get", asked := Asked(FolderStore.get))
    monkeypatch.setattr("tests.folders._Listing.current", lambda *_: False)
    linked(rig, wait_until, token=2)
    wait_until(lambda: rig.read(GREEN, ACME) == rig.read(BLUE, ACME), "everything to arrive")
    keys = [f"{ACME}/{item}" for item in ITEMS]
    again = {key for key in keys if not passed.passed(key)} | set(keys[:2])
    assert asked.keys == (again if journal == "goes on" else set(keys))
    assert anchor(rig).copier(ACME, DOCUMENTS).passed == EVERYTHING.text


class Asked:
    """Remembers for which keys files were asked."""

    def __init__(self, get: Callable[[FolderStore, str], bytes | None]) -> None:
        self._get = get
        self.keys: set[str] = set()

    def __get__(self, store: FolderStore, _: type[FolderStore]) -> Callable[[str], bytes | None]:
        def asked(key: str) -> bytes | None:
            self.keys.add(key)
            return self._get(store, key)

        return asked
