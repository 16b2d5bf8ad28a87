"""Every store keeps the promises of `tenure.stores.contract`: one suite, run against real servers of each kind."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tenure.errors import EvidenceStale, FenceRefused, StoreRefused, StoreUnavailable
from tenure.model.comparison import Comparison, DifferenceKind
from tenure.model.names import TenantId
from tenure.stores.contract import Fence, LiveCopy, Store
from tests.contract.rigs.protocol import AppRefused, Rig, Side
from tests.variants import marked

ACME, ACME1, UPPER = TenantId("acme"), TenantId("acme1"), TenantId("Acme")
NEIGHBOURS = (ACME1, UPPER)
BLUE, GREEN = Side.BLUE, Side.GREEN
DEADLINE_S = 20.0

RIGS = {
    kind: module
    for module in (
        importlib.import_module(f"tests.contract.rigs.{path.stem}")
        for path in sorted((Path(__file__).parent / "rigs").glob("*.py"))
        if path.stem not in ("protocol", "__init__")
    )
    for kind in module.KINDS
}
PARAMS = marked(RIGS, {kind for module in RIGS.values() for kind in module.VARIANTS})


@pytest.fixture(params=PARAMS)
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    made: Rig = RIGS[request.param].make(request.param, request)
    try:
        for tenant in (ACME, *NEIGHBOURS):
            for item in "abcde":
                made.write(BLUE, tenant, item, f"{tenant} {item}")
        for tenant in NEIGHBOURS:
            made.write(GREEN, tenant, "a", f"{tenant} in green")
        yield made
    finally:
        made.close()


def fence(token: int = 10, *, epoch: int = 1, tenant: TenantId = ACME) -> Fence:
    return Fence(tenant=tenant, epoch=epoch, token=token)


def close(store: Store, token: int = 10) -> None:
    store.fence(fence(token), expires_in_s=None, drain_s=5.0)


def refuses(store: Store) -> bool:
    """Whether the app's writes meet the fence: in the store itself, or in the one whose fence it shares."""
    return store.capabilities.fence_enforced or store.capabilities.fenced_with is not None


def following(copy: LiveCopy) -> LiveCopy:
    deadline = time.monotonic() + DEADLINE_S
    while not copy.progress().following:
        assert time.monotonic() < deadline, "the first pass does not end"
        time.sleep(0.01)
    return copy


def linked(rig: Rig, source: Side = BLUE, target: Side = GREEN, token: int = 10) -> LiveCopy:
    """A copy that follows, over a target that is fenced."""
    copy = rig.copy(ACME, source, target)
    close(copy.target, token)
    copy.start(fence(token))
    return following(copy)


def sealed(copy: LiveCopy) -> None:
    copy.seal(copy.mark(), timeout_s=DEADLINE_S)


def switch(copy: LiveCopy, token: int, *, between: Callable[[], None] = lambda: None) -> LiveCopy:
    """The order of the hold, and the reverse copy that follows from then on."""
    reverse = copy.arm_reverse(fence(token))
    close(copy.source, token)
    sealed(copy)
    copy.target.open(fence(token))
    between()
    copy.detach()
    close(copy.source, token)
    reverse.start(fence(token))
    return following(reverse)


def unlink(rig: Rig, token: int) -> None:
    """Stop both directions with objects that did not start them."""
    for source, target in ((BLUE, GREEN), (GREEN, BLUE)):
        rig.copy(ACME, source, target).stop(fence(token))


def contents(store: Store, tenant: TenantId) -> dict[str, tuple[int, str]]:
    """What the store holds of a tenant. Its size is left out: engines estimate it, and gather statistics when they
    please."""
    return {name: (c.items, c.digest) for name, c in store.inventory(tenant).collections.items()}


def kinds(rig: Rig, comparison: Comparison) -> dict[str, DifferenceKind]:
    """The items that differ; fails if a difference names anything but an item of these tests."""
    by_key = {rig.difference_key(ACME, item): item for item in ("a", "b", "c", "d", "e", "f", "g", "new")}
    return {by_key[d.collection, d.key]: d.kind for d in comparison.differences}


# -- reaching a store --------------------------------------------------------------------------------------------


def test_ping_answers(rig: Rig) -> None:
    rig.store(BLUE).ping()


def test_a_store_that_does_not_exist_is_unavailable_within_five_seconds(rig: Rig) -> None:
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        rig.unreachable().ping()
    assert time.monotonic() - began < 5
    assert caught.value.hint


def test_a_refused_login_is_said_so_and_shows_no_secret(rig: Rig) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        rig.wrong_password().ping()
    assert "login" in caught.value.message
    assert "wrong-password" not in str(caught.value)


def test_inventory_counts_the_tenant_and_no_lookalike(rig: Rig) -> None:
    store = rig.store(BLUE)
    assert store.inventory(ACME).items == 5
    assert rig.store(GREEN).inventory(ACME).items == 0
    before = store.inventory(ACME)
    rig.write(BLUE, ACME1, "f", "a neighbour writes")
    assert rig.store(BLUE).inventory(ACME).collections == before.collections
    rig.write(BLUE, ACME, "a", "the tenant writes")
    assert rig.store(BLUE).inventory(ACME).collections != before.collections


# -- fence -------------------------------------------------------------------------------------------------------


def test_a_fence_refuses_the_tenants_writes_and_nobody_elses(rig: Rig) -> None:
    store = rig.store(BLUE)
    before = dict(rig.read(BLUE, ACME))
    close(store)
    assert refuses(store)
    with pytest.raises(AppRefused):
        rig.write(BLUE, ACME, "a", "after the fence")
    with pytest.raises(AppRefused):
        rig.write(BLUE, ACME, "new", "after the fence")
    with pytest.raises(AppRefused):
        rig.delete(BLUE, ACME, "a")
    assert rig.read(BLUE, ACME) == before
    for neighbour in NEIGHBOURS:
        rig.write(BLUE, neighbour, "new", "untouched")
        rig.delete(BLUE, neighbour, "new")
    assert not store.fence_state(ACME).writable
    assert rig.store(BLUE).fence_state(ACME1).writable


def test_fencing_and_opening_twice_is_the_same_as_once(rig: Rig) -> None:
    for _ in range(2):
        close(rig.store(BLUE))
    for _ in range(2):
        rig.store(BLUE).open(fence())
    rig.write(BLUE, ACME, "a", "open again")
    assert rig.store(BLUE).fence_state(ACME).writable


def test_opening_where_no_fence_was_ever_set_changes_nothing(rig: Rig) -> None:
    rig.store(BLUE).open(fence())
    assert rig.store(BLUE).fence_state(ACME).token == 0
    assert not rig.leftovers(BLUE)


def test_a_fence_that_was_lifted_without_a_link_leaves_nothing(rig: Rig) -> None:
    close(rig.store(BLUE))
    rig.store(BLUE).open(fence())
    assert not rig.leftovers(BLUE)


def test_an_older_holder_can_neither_set_nor_lift_a_fence(rig: Rig) -> None:
    copy = linked(rig, token=10)
    close(copy.source, token=12)
    for older in (5, 11):
        with pytest.raises(FenceRefused):
            close(rig.store(BLUE), token=older)
        with pytest.raises(FenceRefused):
            rig.store(BLUE).open(fence(older))
    assert not rig.store(BLUE).fence_state(ACME).writable
    rig.store(BLUE).open(fence(13, epoch=2))
    state = rig.store(BLUE).fence_state(ACME)
    assert (state.writable, state.epoch, state.token) == (True, 2, 13)
    with pytest.raises(FenceRefused):
        close(rig.store(BLUE), token=12)
    rig.write(BLUE, ACME, "a", "still open")


def test_after_a_claim_older_holders_are_refused_and_nothing_else_has_changed(rig: Rig) -> None:
    linked(rig, token=10)
    before = [rig.store(side).fence_state(ACME).writable for side in Side]
    for side in Side:
        rig.store(side).claim(fence(20))
        rig.store(side).claim(fence(20))
    for side in Side:
        for outdated in (rig.store(side).claim, rig.store(side).open):
            with pytest.raises(FenceRefused):
                outdated(fence(19))
    with pytest.raises(FenceRefused):
        close(rig.store(BLUE), token=19)
    assert [rig.store(side).fence_state(ACME).writable for side in Side] == before
    rig.write(BLUE, ACME, "a", "still open")


def test_a_claim_where_no_fence_was_ever_set_leaves_nothing(rig: Rig) -> None:
    rig.store(BLUE).claim(fence())
    assert not rig.leftovers(BLUE)


# -- copy --------------------------------------------------------------------------------------------------------


def test_a_copy_needs_a_fenced_target(rig: Rig) -> None:
    copy = rig.copy(ACME, BLUE, GREEN)
    with pytest.raises(FenceRefused):
        copy.start(fence())


def test_a_preflight_of_two_good_stores_refuses_nothing(rig: Rig) -> None:
    found = rig.copy(ACME, BLUE, GREEN).preflight()
    assert not [f for f in found if f.severity == "refusal"]
    assert all(f.fix and f.message and f.where for f in found)


def test_a_target_that_holds_the_tenants_data_is_refused_by_preflight(rig: Rig) -> None:
    rig.plant(GREEN, ACME, "a", "residue")
    found = rig.copy(ACME, BLUE, GREEN).preflight()
    assert "target_not_empty" in [f.code for f in found if f.severity == "refusal"]


def test_fingerprints_of_equal_schemas_are_equal(rig: Rig) -> None:
    assert rig.copy(ACME, BLUE, GREEN).fingerprint() == rig.copy(ACME, GREEN, BLUE).fingerprint()


def test_a_copy_brings_everything_and_follows_every_kind_of_change(rig: Rig) -> None:
    copy = linked(rig)
    rig.write(BLUE, ACME, "a", "changed")
    rig.write(BLUE, ACME, "new", "inserted")
    rig.delete(BLUE, ACME, "b")
    sealed(copy)
    assert rig.read(GREEN, ACME) == rig.read(BLUE, ACME)
    assert rig.read(GREEN, ACME)["a"] == "changed"
    assert "b" not in rig.read(GREEN, ACME)
    assert copy.source.inventory(ACME).collections.keys() == copy.target.inventory(ACME).collections.keys()
    for name, collection in copy.source.inventory(ACME).collections.items():
        other = copy.target.inventory(ACME).collections[name]
        assert (other.items, other.digest) == (collection.items, collection.digest)


def test_a_copy_leaves_the_neighbours_alone(rig: Rig) -> None:
    before = [contents(rig.store(side), n) for side in Side for n in NEIGHBOURS]
    copy = linked(rig)
    sealed(copy)
    copy.compare()
    assert [contents(rig.store(side), n) for side in Side for n in NEIGHBOURS] == before
    assert set(rig.read(GREEN, ACME1)) == {"a"}


def test_a_seal_has_brought_every_write_that_was_accepted_before_the_fence(rig: Rig) -> None:
    copy = linked(rig)
    accepted: dict[str, str] = {}
    stop = threading.Event()

    def writer(n: int) -> None:
        written = 0
        while not stop.is_set():
            item, value = f"w{n}-{written % 7}", f"{n} {written}"
            try:
                rig.write(BLUE, ACME, item, value)
            except AppRefused:
                return
            accepted[item] = value
            written += 1

    writers = [threading.Thread(target=writer, args=(n,)) for n in range(3)]
    for thread in writers:
        thread.start()
    stop.wait(0.3)
    if not refuses(copy.source):
        stop.set()
        for thread in writers:
            thread.join()
    close(copy.source)
    sealed(copy)
    arrived = rig.read(GREEN, ACME)
    stop.set()
    for thread in writers:
        thread.join()
    assert accepted
    assert {item: arrived.get(item) for item in accepted} == accepted


def test_after_a_switch_the_former_source_follows_from_the_first_write(rig: Rig) -> None:
    copy = linked(rig)
    reverse = switch(
        copy, 11, between=lambda: rig.write(GREEN, ACME, "new", "before the reverse copy started")
    )
    rig.write(GREEN, ACME, "a", "after")
    rig.delete(GREEN, ACME, "b")
    sealed(reverse)
    assert rig.read(BLUE, ACME) == rig.read(GREEN, ACME)
    assert rig.read(BLUE, ACME)["new"] == "before the reverse copy started"
    if refuses(reverse.target):
        with pytest.raises(AppRefused):
            rig.write(BLUE, ACME, "a", "the former source is closed")


def test_a_switch_there_and_back_loses_nothing(rig: Rig) -> None:
    reverse = switch(linked(rig), 11)
    rig.write(GREEN, ACME, "a", "written in green")
    forward = switch(reverse, 12, between=lambda: rig.write(BLUE, ACME, "b", "written in blue again"))
    rig.write(BLUE, ACME, "c", "and later")
    sealed(forward)
    assert rig.read(BLUE, ACME) == rig.read(GREEN, ACME)
    values = rig.read(BLUE, ACME)
    assert (values["a"], values["b"], values["c"]) == (
        "written in green",
        "written in blue again",
        "and later",
    )


def test_another_process_carries_on_after_a_crash(rig: Rig) -> None:
    first = linked(rig)
    sealed(first)
    first.detach()
    rig.write(BLUE, ACME, "a", "while nobody listened")
    rig.delete(BLUE, ACME, "c")
    second = linked(rig, token=11)
    sealed(second)
    assert rig.read(GREEN, ACME) == rig.read(BLUE, ACME)
    assert second.compare().equal


def test_another_process_finishes_a_switch_whose_holder_died(rig: Rig) -> None:
    copy = linked(rig)
    reverse = copy.arm_reverse(fence(11))
    close(copy.source, 11)
    sealed(copy)
    copy.target.open(fence(11))
    rig.write(GREEN, ACME, "new", "accepted by the new cell")
    rig.delete(GREEN, ACME, "d")
    copy.detach()
    reverse.detach()
    again = rig.copy(ACME, GREEN, BLUE)
    close(again.target, 12)
    again.start(fence(12))
    sealed(following(again))
    assert rig.read(BLUE, ACME) == rig.read(GREEN, ACME)
    assert again.compare().equal


def test_a_copy_in_a_hurry_says_how_many_workers_it_uses_and_stays_right(rig: Rig) -> None:
    copy = linked(rig)
    assert 1 <= copy.hurry(3) <= max(3, copy.hurry(1))
    for value in ("one", "two", "three"):
        for item in "abcdefg":
            rig.write(BLUE, ACME, item, value)
    sealed(copy)
    assert set(rig.read(GREEN, ACME).values()) == {"three"}
    unlink(rig, 10)


def test_any_process_can_ask_whether_a_link_stands(rig: Rig) -> None:
    linked(rig).arm_reverse(fence())
    for source, target in ((BLUE, GREEN), (GREEN, BLUE)):
        copy = rig.copy(ACME, source, target)
        deadline = time.monotonic() + DEADLINE_S
        while (seen := copy.standing()).problem is not None:
            assert time.monotonic() < deadline, seen
            time.sleep(0.05)
        assert not seen.lost
        assert seen.retained_bytes >= 0
    unlink(rig, 10)


# -- compare, repair, re-sync ------------------------------------------------------------------------------------


def test_a_comparison_names_exactly_what_differs(rig: Rig) -> None:
    copy = linked(rig)
    sealed(copy)
    assert copy.compare().equal
    rig.plant(GREEN, ACME, "a", "something else")
    rig.plant(GREEN, ACME, "b", None)
    rig.plant(GREEN, ACME, "new", "only here")
    seen = copy.compare()
    assert kinds(rig, seen) == {
        "a": DifferenceKind.MISMATCHED,
        "b": DifferenceKind.MISSING,
        "new": DifferenceKind.EXTRA,
    }
    assert (seen.processed, seen.matching, seen.mismatched, seen.missing, seen.extra) == (6, 3, 1, 1, 1)


def test_a_repair_mends_exactly_what_it_is_given(rig: Rig) -> None:
    copy = linked(rig)
    sealed(copy)
    for item, value in (
        ("a", "wrong"),
        ("b", None),
        ("new", "only here"),
        ("c", "wrong, and not to be mended"),
    ):
        rig.plant(GREEN, ACME, item, value)
    differences = copy.compare().differences
    ours = [d for d in differences if (d.collection, d.key) != rig.difference_key(ACME, "c")]
    assert copy.repair(ours, fence()) == 3
    assert kinds(rig, copy.compare()) == {"c": DifferenceKind.MISMATCHED}
    assert rig.read(GREEN, ACME)["c"] == "wrong, and not to be mended"


def test_a_resync_makes_everything_equal_and_goes_on_following(rig: Rig) -> None:
    copy = linked(rig)
    sealed(copy)
    for item, value in (("a", "wrong"), ("b", None), ("new", "only here"), ("c", "wrong")):
        rig.plant(GREEN, ACME, item, value)
    copy.resync(fence(), workers=3)
    rig.write(BLUE, ACME, "d", "and this too")
    sealed(copy)
    assert rig.read(GREEN, ACME) == rig.read(BLUE, ACME)
    assert copy.compare().equal


def test_what_changes_during_a_comparison_is_no_difference_and_is_compared_later(rig: Rig) -> None:
    copy = linked(rig)
    stop = threading.Event()

    def write() -> None:
        n = 0
        while not stop.is_set():
            rig.write(BLUE, ACME, "abcde"[n % 5], f"value {n}")
            n += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        comparisons = [copy.compare() for _ in range(5)]
    finally:
        stop.set()
        writer.join()
    assert [c.differences for c in comparisons] == [()] * 5
    close(copy.source)
    sealed(copy)
    assert copy.compare_changed().equal


def test_what_changed_since_a_comparison_is_compared_again(rig: Rig) -> None:
    copy = linked(rig)
    sealed(copy)
    assert copy.compare().equal
    rig.write(BLUE, ACME, "a", "changed since")
    close(copy.source)
    sealed(copy)
    rig.plant(GREEN, ACME, "a", "and spoilt")
    assert kinds(rig, copy.compare_changed()) == {"a": DifferenceKind.MISMATCHED}


def test_what_a_comparison_found_to_differ_is_never_passed_over_later(rig: Rig) -> None:
    copy = linked(rig)
    sealed(copy)
    rig.plant(GREEN, ACME, "a", "something else")
    assert kinds(rig, copy.compare()) == {"a": DifferenceKind.MISMATCHED}
    close(copy.source)
    sealed(copy)
    for _ in range(2):
        try:
            later = copy.compare_changed()
        except EvidenceStale:
            return  # a comparison that found differences is no ground to build on: that passes over nothing either
        assert kinds(rig, later) == {"a": DifferenceKind.MISMATCHED}
    copy.repair(later.differences, fence())
    assert copy.compare_changed().equal


# -- erase, stop, retire -----------------------------------------------------------------------------------------


def test_an_erasure_needs_a_fence_and_takes_only_that_tenant(rig: Rig) -> None:
    store = rig.store(BLUE)
    before = [contents(store, n) for n in NEIGHBOURS]
    with pytest.raises(FenceRefused):
        store.erase(fence())
    assert len(rig.read(BLUE, ACME)) == 5
    close(store, token=20)
    with pytest.raises(FenceRefused):
        store.erase(fence(19))
    assert len(rig.read(BLUE, ACME)) == 5
    assert store.erase(fence(20)) == 5
    assert store.erase(fence(20)) == 0
    assert not rig.read(BLUE, ACME)
    assert store.inventory(ACME).items == 0
    assert [contents(store, n) for n in NEIGHBOURS] == before


def test_stopping_an_aborted_link_leaves_nothing_but_the_tenants_data(rig: Rig) -> None:
    copy = linked(rig)
    sealed(copy)
    copy.arm_reverse(fence())
    copy.detach()
    unlink(rig, 11)
    if refuses(copy.target):
        with pytest.raises(AppRefused):
            rig.write(GREEN, ACME, "a", "the passive side stays closed")
    target = rig.store(GREEN)
    close(target, token=11)
    target.erase(fence(11))
    target.open(fence(11))
    assert not rig.leftovers(BLUE)
    assert not rig.leftovers(GREEN)
    assert len(rig.read(BLUE, ACME)) == 5
    rig.write(BLUE, ACME, "a", "as before")


def test_stopping_a_completed_link_leaves_nothing(rig: Rig) -> None:
    reverse = switch(linked(rig), 11)
    sealed(reverse)
    reverse.detach()
    unlink(rig, 12)
    unlink(rig, 12)
    source = rig.store(BLUE)
    close(source, token=12)
    assert source.erase(fence(12)) == 5
    source.open(fence(12))
    assert not rig.leftovers(BLUE)
    assert not rig.leftovers(GREEN)
    assert len(rig.read(GREEN, ACME)) == 5
    rig.write(GREEN, ACME, "a", "the tenant lives here now")


def test_a_tenant_that_has_left_can_come_back(rig: Rig) -> None:
    reverse = switch(linked(rig), 11)
    sealed(reverse)
    reverse.detach()
    with pytest.raises(StoreRefused):
        rig.store(BLUE).retire(fence(12))
    unlink(rig, 12)
    close(rig.store(BLUE), token=12)
    with pytest.raises(FenceRefused):
        rig.store(BLUE).retire(fence(11))
    assert rig.store(BLUE).erase(fence(12)) == 5
    for _ in range(2):
        rig.store(BLUE).retire(fence(12))
    again = switch(linked(rig, GREEN, BLUE, token=13), 14)
    rig.write(BLUE, ACME, "a", "back again")
    sealed(again)
    assert rig.read(GREEN, ACME) == rig.read(BLUE, ACME)
    assert len(rig.read(BLUE, ACME)) == 5
