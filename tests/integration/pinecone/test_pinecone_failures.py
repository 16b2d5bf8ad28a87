"""A copy between two indexes gets through throttling, timeouts, half-done batches, late reads, expired page tokens and
a service that dies; what was acknowledged is there afterwards, to the bit."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import pytest

from tenure.errors import DeadlineExceeded, StoreUnavailable
from tenure.estate.local import RunningEstate
from tenure.model.names import TenantId
from tenure.stores.contract import Fence
from tenure.stores.pinecone import PineconeCopy, client, freshness
from tenure.stores.pinecone.client import all_matching, all_namespaces
from tests.contract.rigs.pinecone import TEMPLATE, PineconeRig, vector
from tests.contract.rigs.protocol import Side

ACME = TenantId("acme")
BLUE, GREEN = Side.BLUE, Side.GREEN
DEADLINE_S = 60.0


def fence(token: int = 10) -> Fence:
    return Fence(tenant=ACME, epoch=1, token=token)


def fill(rig: PineconeRig, count: int) -> None:
    """Records with dense and sparse values and metadata, past the journal."""
    chance = random.Random(7)
    records = [
        {
            "id": f"doc-{n:05d}",
            "values": [chance.gauss(0, 1), chance.uniform(-1e-30, 1e-30), chance.expovariate(1e-9)],
            **({"sparse_values": {"indices": [n, n + 9], "values": [0.1, chance.random()]}} if n % 3 else {}),
            "metadata": {"value": f"v{n}", "n": n, "tags": ["a", f"t{n % 5}"], "open": bool(n % 2)},
        }
        for n in range(count)
    ]
    for start in range(0, count, 500):
        rig.indexes[BLUE].upsert(vectors=records[start : start + 500], namespace=TEMPLATE.expand(ACME))


@pytest.fixture
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(client, "WRITE_TIMEOUT_S", 0.5)


def linked(rig: PineconeRig) -> PineconeCopy:
    copy = rig.copy(ACME, BLUE, GREEN)
    copy.target.fence(fence(), expires_in_s=None, drain_s=5.0)
    copy.start(fence())
    return copy


def through(copy: PineconeCopy, wait_until: Callable[..., None]) -> None:
    """Wait until the first pass is over, whatever stops it for a while."""

    def following() -> bool:
        try:
            return copy.progress().following
        except (DeadlineExceeded, StoreUnavailable):
            return False

    wait_until(following, "the first pass ends", deadline_s=DEADLINE_S)


def require_equal(rig: PineconeRig, copy: PineconeCopy, count: int) -> None:
    rig.stand_in.change(faults=[], token_pages=None)
    seen = copy.compare()
    assert seen.differences == ()
    assert seen.processed == count
    ours, theirs = copy.source.inventory(ACME), copy.target.inventory(ACME)
    assert ours.collections == theirs.collections
    assert ours.items == count


def test_values_arrive_to_the_bit_with_weights_and_metadata(
    rig: PineconeRig, wait_until: Callable[..., None]
) -> None:
    fill(rig, 1200)
    copy = linked(rig)
    through(copy, wait_until)
    require_equal(rig, copy, 1200)
    namespace = TEMPLATE.expand(ACME)
    there = [
        rig.indexes[side].fetch(ids=["doc-00004"], namespace=namespace).vectors["doc-00004"] for side in Side
    ]
    assert there[0].values == there[1].values
    assert there[0].sparse_values == there[1].sparse_values
    assert there[0].metadata == there[1].metadata
    rig.indexes[GREEN].update(id="doc-00004", set_metadata={"n": 5}, namespace=namespace)
    nearly = [float.fromhex("0x1.000002p+0"), 1.0, 1.0]
    rig.indexes[GREEN].update(id="doc-00005", values=nearly, namespace=namespace)
    rig.indexes[BLUE].update(id="doc-00005", values=[1.0, 1.0, 1.0], namespace=namespace)
    assert [d.key for d in copy.compare().differences] == ['"doc-00004"', '"doc-00005"']


def test_throttling_is_waited_out_as_long_as_the_service_asks(
    rig: PineconeRig, wait_until: Callable[..., None]
) -> None:
    fill(rig, 300)
    asked_s = 0.4
    rig.stand_in.change(
        faults=[
            {"operation": operation, "times": 6, "status": 429, "retry_after_s": asked_s}
            for operation in ("list", "fetch", "upsert", "update", "query")
        ]
    )
    began = time.monotonic()
    copy = linked(rig)
    through(copy, wait_until)
    assert time.monotonic() - began > asked_s
    assert rig.stand_in.seen()["throttled"] == 30
    require_equal(rig, copy, 300)


def test_a_request_that_is_not_answered_in_time_is_made_again(
    rig: PineconeRig, wait_until: Callable[..., None], short_timeouts: None
) -> None:
    fill(rig, 300)
    rig.stand_in.change(
        faults=[
            {"operation": operation, "times": 2, "delay_s": 1.5, "done": done}
            for operation, done in (("list", False), ("fetch", False), ("upsert", True), ("query", False))
        ]
    )
    copy = linked(rig)
    through(copy, wait_until)
    require_equal(rig, copy, 300)


@pytest.mark.parametrize(
    "fault",
    [
        {"operation": "upsert", "times": 3, "status": 500, "records": 7},
        {"operation": "upsert", "times": 3, "status": 503, "done": True},
        {"operation": "upsert", "times": 3, "status": 0, "done": True},
        {"operation": "*", "times": 9, "skip": 4, "status": 0},
        {"operation": "*", "times": 9, "skip": 4, "status": 502},
    ],
    ids=["half", "done", "done-no-answer", "no-answer", "bad-gateway"],
)
def test_a_batch_that_was_done_in_part_is_done_again_in_full(
    rig: PineconeRig, wait_until: Callable[..., None], fault: dict[str, object]
) -> None:
    fill(rig, 400)
    rig.stand_in.change(faults=[fault])
    copy = linked(rig)
    through(copy, wait_until)
    require_equal(rig, copy, 400)


def test_a_batch_that_is_too_large_goes_in_parts(
    rig: PineconeRig, wait_until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [
        {"id": f"doc-{n}", "values": vector("x"), "metadata": {"value": "\u20ac" * 11_000}}
        for n in range(150)
    ]
    for start in range(0, 150, 30):
        rig.indexes[BLUE].upsert(vectors=records[start : start + 30], namespace=TEMPLATE.expand(ACME))
    monkeypatch.setattr("tenure.stores.pinecone.records.UPSERT_BYTES", 50_000_000)
    rig.stand_in.change()
    copy = linked(rig)
    through(copy, wait_until)
    assert rig.stand_in.count("upsert") > 1
    require_equal(rig, copy, 150)


@pytest.mark.parametrize("pages", [1, 3])
def test_a_page_token_that_expires_halfway_costs_no_record(
    rig: PineconeRig, wait_until: Callable[..., None], pages: int
) -> None:
    fill(rig, 950)
    rig.stand_in.change(token_pages=pages)
    copy = linked(rig)
    through(copy, wait_until)
    rig.stand_in.change(token_pages=pages)
    listed = [one for page in copy.source.ids(ACME) for one in page]
    assert listed == [f"doc-{n:05d}" for n in range(950)]
    require_equal(rig, copy, 950)


def test_a_page_token_that_expires_halfway_costs_no_namespace_and_no_record_of_a_person(
    rig: PineconeRig,
) -> None:
    fill(rig, 450)
    others = [f"beside-{n:03d}" for n in range(210)]
    for name in others:
        rig.indexes[BLUE].upsert(vectors=[("one", [1.0, 2.0, 3.0])], namespace=name)
    index = rig.store(BLUE).client
    rig.stand_in.change(token_pages=1)
    names = [name for page in all_namespaces(index) for name in page]
    assert len(names) == len(set(names))
    assert set(others) <= set(names)
    rig.stand_in.change(token_pages=1)
    everybody = {"value": {"$ne": "nobody"}}
    found = [one.id for page in all_matching(index, TEMPLATE.expand(ACME), everybody) for one in page]
    assert sorted(found) == [f"doc-{n:05d}" for n in range(450)]


def test_a_listing_goes_on_after_any_id_without_a_token(rig: PineconeRig) -> None:
    fill(rig, 950)
    store = rig.store(BLUE)
    rest = [one for page in store.ids(ACME, after="doc-00420") for one in page]
    assert rest == [f"doc-{n:05d}" for n in range(421, 950)]


def test_a_seal_never_takes_a_read_that_is_older_than_the_last_write(
    rig: PineconeRig, wait_until: Callable[..., None]
) -> None:
    fill(rig, 50)
    copy = linked(rig)
    through(copy, wait_until)
    rig.stand_in.change(frozen=True)
    rig.write(BLUE, ACME, "doc-00001", "the last write")
    copy.source.fence(fence(), expires_in_s=None, drain_s=5.0)
    with pytest.raises(DeadlineExceeded):
        copy.seal(copy.mark(), timeout_s=1.0)
    rig.stand_in.change(frozen=False)
    copy.seal(copy.mark(), timeout_s=DEADLINE_S)
    assert rig.read(GREEN, ACME)["doc-00001"] == "the last write"
    assert copy.compare().equal


def test_what_changes_while_reads_are_late_is_brought_in_its_last_state(
    rig: PineconeRig, wait_until: Callable[..., None]
) -> None:
    fill(rig, 50)
    copy = linked(rig)
    through(copy, wait_until)
    rig.stand_in.change(lag_s=0.3)
    for n in range(40):
        rig.write(BLUE, ACME, f"doc-{n % 4:05d}", f"state {n}")
    rig.delete(BLUE, ACME, "doc-00003")
    copy.source.fence(fence(), expires_in_s=None, drain_s=5.0)
    copy.seal(copy.mark(), timeout_s=DEADLINE_S)
    arrived = rig.read(GREEN, ACME)
    assert [arrived.get(f"doc-{n:05d}") for n in range(4)] == ["state 36", "state 37", "state 38", None]
    assert copy.compare().equal


def test_a_service_that_is_killed_in_the_middle_of_a_copy_has_lost_nothing(
    rig: PineconeRig, servers: RunningEstate, wait_until: Callable[..., None]
) -> None:
    fill(rig, 3000)
    rig.stand_in.change(faults=[{"operation": "upsert", "times": 30, "delay_s": 0.05, "done": True}])
    copy = linked(rig)
    for _ in range(2):
        wait_until(lambda: rig.stand_in.count("upsert") > 1, "the copy is under way", deadline_s=DEADLINE_S)
        servers.stop("pinecone-a", 9)
        servers.start("pinecone-a")
        rig.stand_in.change(faults=[])
    through(copy, wait_until)
    require_equal(rig, copy, 3000)


def test_a_copy_that_is_resumed_writes_only_what_differs(
    rig: PineconeRig, wait_until: Callable[..., None]
) -> None:
    fill(rig, 600)
    first = linked(rig)
    through(first, wait_until)
    first.detach()
    rig.indexes[GREEN].delete(ids=["doc-00007"], namespace=TEMPLATE.expand(ACME))
    rig.stand_in.change()
    again = linked(rig)
    through(again, wait_until)
    assert rig.stand_in.count("upsert") == 1
    require_equal(rig, again, 600)


def test_a_service_that_takes_writes_to_namespaces_that_are_not_there_is_served_as_well(
    rig: PineconeRig, wait_until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freshness, "ABSENT_S", 0.3)
    fill(rig, 50)
    rig.stand_in.change(lenient=True)
    copy = rig.copy(ACME, BLUE, GREEN)
    assert not [f for f in copy.preflight() if f.severity == "refusal"]
    copy = linked(rig)
    through(copy, wait_until)
    require_equal(rig, copy, 50)
    copy.stop(fence())
    assert copy.target.erase(fence()) == 50
    assert copy.target.erase(fence()) == 0


def test_a_namespace_that_reads_do_not_know_yet_is_not_taken_for_absent(
    rig: PineconeRig, wait_until: Callable[..., None]
) -> None:
    rig.stand_in.change(lag_s=1.0, shy=True)
    fill(rig, 50)
    store = rig.beside(rig.carrier(BLUE))
    assert not store.client.exists(TEMPLATE.expand(ACME))
    assert store.freshness(ACME).catch_up()
    assert store.inventory(ACME).items == 50
    copy = linked(rig)
    through(copy, wait_until)
    require_equal(rig, copy, 50)


def test_what_was_written_to_a_namespace_a_moment_ago_is_erased(rig: PineconeRig) -> None:
    store = rig.beside(rig.carrier(BLUE))
    store.fence(fence(), expires_in_s=None, drain_s=5.0)
    rig.stand_in.change(lag_s=1.0, shy=True)
    fill(rig, 50)
    assert store.erase(fence()) == 50
    rig.stand_in.settle()
    assert rig.read(BLUE, ACME) == {}


def test_an_erasure_ends_when_reads_see_it_and_not_before(rig: PineconeRig) -> None:
    fill(rig, 250)
    store = rig.store(BLUE)
    store.fence(fence(), expires_in_s=None, drain_s=5.0)
    rig.stand_in.change(lag_s=0.5)
    assert store.erase(fence()) == 250
    assert next(store.ids(ACME), None) is None
    assert not store.client.exists(TEMPLATE.expand(ACME))
    assert store.erase(fence()) == 0


def test_an_erasure_that_no_read_shows_is_not_done(rig: PineconeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenure.stores.pinecone.store.ERASED_VISIBLE_S", 1.0)
    fill(rig, 50)
    store = rig.store(BLUE)
    store.fence(fence(), expires_in_s=None, drain_s=5.0)
    store.freshness(ACME).catch_up()
    frozen = threading.Event()

    def freeze(_items: int) -> None:
        rig.stand_in.change(frozen=True)
        frozen.set()

    with pytest.raises(DeadlineExceeded):
        store.erase(fence(), progress=freeze)
    assert frozen.is_set()
    rig.stand_in.change(frozen=False)
    assert store.erase(fence()) == 0
    assert rig.read(BLUE, ACME) == {}
