"""Every store that is backed up keeps the promises of `tenure.stores.backup`: one suite, against real servers."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator

import pytest

from tenure.errors import FenceRefused, StoreRefused
from tenure.model.comparison import Difference, DifferenceKind
from tenure.model.names import TenantId
from tenure.stores.backup import Capture, Selection
from tenure.stores.contract import Fence, Store
from tests.contract.memory_backup import MemoryBackup
from tests.contract.rigs.protocol import AppRefused, Rig, Side
from tests.contract.test_store_contract import (
    ACME,
    BLUE,
    GREEN,
    NEIGHBOURS,
    RIGS,
    close,
    contents,
    fence,
    refuses,
)
from tests.variants import marked

BACKED_UP = [kind for kind in RIGS if getattr(RIGS[kind], "BACKED_UP", True)]
REPLACED = [kind for kind in BACKED_UP if not getattr(RIGS[kind], "ADDS_ONLY", False)]
"""Kinds whose items can be changed and removed: logs are only added to, which has tests of its own."""
VARIANTS = {kind for module in RIGS.values() for kind in module.VARIANTS}
OTHER = TenantId("acme1")


@pytest.fixture(params=marked(BACKED_UP, VARIANTS.intersection(BACKED_UP)))
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


def carrier(rig: Rig, side: Side) -> Store:
    """The store whose captures have the rig's items."""
    store = rig.store(side)
    if store.capabilities.rides_with is None:
        return store
    named: Callable[[Side], Store] = rig.carrier  # type: ignore[attr-defined]
    return named(side)


def item_key(rig: Rig, tenant: TenantId, item: str) -> tuple[str, str]:
    """By which a backup names an item, where that is not how a comparison of two cells does."""
    named: Callable[[TenantId, str], tuple[str, str]] = getattr(rig, "backup_key", rig.difference_key)
    return named(tenant, item)


def pinned(capture: Capture, store: Store, backup: MemoryBackup, token: int = 10) -> None:
    """The order in which an operation calls a capture, up to its point."""
    capture.close(fence(token))
    capture.start(fence(token))
    capture.first_pass(backup)
    for _ in range(20):
        if not capture.settle(backup):
            break
    close(store, token)
    capture.pin(backup, fence(token))


def taken(rig: Rig, side: Side = BLUE, tenant: TenantId = ACME) -> MemoryBackup:
    backup, store = MemoryBackup(tenant), carrier(rig, side)
    capture = store.capture(tenant)
    assert not [f for f in capture.preflight() if f.severity == "refusal"]
    pinned(capture, store, backup)
    store.open(fence())
    backup.complete(store.name, capture.rest(backup))
    capture.close(fence())
    return backup


def differing(rig: Rig, found: list[Difference], tenant: TenantId = ACME) -> dict[str, DifferenceKind]:
    by_key = {item_key(rig, tenant, item): item for item in ("a", "b", "c", "d", "e", "f", "new")}
    return {by_key[d.collection, d.key]: d.kind for d in found}


# -- the point ---------------------------------------------------------------------------------------------------------


def test_what_is_loaded_elsewhere_is_what_there_was(rig: Rig) -> None:
    backup, was = taken(rig), rig.read(BLUE, ACME)
    before, there = contents(rig.store(BLUE), ACME), carrier(rig, GREEN)
    close(there)
    restored = there.restoring(ACME, ACME).load(backup, fence())
    assert restored.items == len(was) == 5
    assert rig.read(GREEN, ACME) == was
    assert contents(rig.store(GREEN), ACME) == before
    assert not list(there.restoring(ACME, ACME).differences(backup))


def test_the_digests_of_a_capture_are_those_of_the_inventory(rig: Rig) -> None:
    backup, store = taken(rig), carrier(rig, BLUE)
    said = {
        f.collection: (f.items, f.digest)
        for f in backup.collections()
        if f.collection in contents(rig.store(BLUE), ACME)
    }
    assert said == contents(rig.store(BLUE), ACME)
    assert sum(f.items for f in backup.collections()) == 5
    assert store.capture(ACME).estimate().items >= 0


def test_acknowledged_before_the_fence_is_in_and_later_is_not(rig: Rig) -> None:
    store, backup = carrier(rig, BLUE), MemoryBackup(ACME)
    capture = store.capture(ACME)
    acknowledged: dict[str, str] = {}
    stop, fenced = threading.Event(), threading.Event()

    def work() -> None:
        for n in itertools.count():
            if stop.is_set():
                return
            item = "abcde"[n % 5]
            try:
                rig.write(BLUE, ACME, item, f"written {n}")
            except AppRefused:
                fenced.wait(20)
                continue
            acknowledged[item] = f"written {n}"

    writer = threading.Thread(target=work)
    capture.start(fence())
    writer.start()
    try:
        capture.first_pass(backup)
        for _ in range(3):
            capture.settle(backup)
        if refuses(rig.store(BLUE)):
            close(store)
        else:
            stop.set()
            writer.join()
            close(store)
        expected = dict(rig.read(BLUE, ACME))
        capture.pin(backup, fence())
        store.open(fence())
        fenced.set()
        rig.write(BLUE, ACME, "new", "after the point")
        rig.delete(BLUE, ACME, "new")
        backup.complete(store.name, capture.rest(backup))
    finally:
        stop.set()
        fenced.set()
        writer.join()
        capture.close(fence())
    there = carrier(rig, GREEN)
    close(there)
    there.restoring(ACME, ACME).load(backup, fence())
    assert rig.read(GREEN, ACME) == expected


def test_a_point_is_refused_while_the_tenant_writes(rig: Rig) -> None:
    store, backup = carrier(rig, BLUE), MemoryBackup(ACME)
    capture = store.capture(ACME)
    capture.start(fence())
    try:
        capture.first_pass(backup)
        with pytest.raises(FenceRefused):
            capture.pin(backup, fence())
    finally:
        capture.close(fence())


def test_after_a_hold_that_was_given_up_the_last_point_counts(rig: Rig) -> None:
    store, backup = carrier(rig, BLUE), MemoryBackup(ACME)
    capture = store.capture(ACME)
    pinned(capture, store, backup)
    store.open(fence())
    rig.write(BLUE, ACME, "a", "between the holds")
    rig.delete(BLUE, ACME, "b")
    rig.write(BLUE, ACME, "new", "between the holds")
    capture.settle(backup)
    close(store)
    capture.pin(backup, fence())
    store.open(fence())
    rig.write(BLUE, ACME, "c", "after the point")
    backup.complete(store.name, capture.rest(backup))
    capture.close(fence())
    there = carrier(rig, GREEN)
    close(there)
    there.restoring(ACME, ACME).load(backup, fence())
    assert rig.read(GREEN, ACME) == {
        "a": "between the holds",
        "c": "acme c",
        "d": "acme d",
        "e": "acme e",
        "new": "between the holds",
    }


def test_what_a_crash_leaves_is_gone_after_close(rig: Rig) -> None:
    before = sorted(rig.leftovers(BLUE))
    store, backup = carrier(rig, BLUE), MemoryBackup(ACME)
    crashed = store.capture(ACME)
    pinned(crashed, store, backup)
    store.open(fence())
    rig.write(BLUE, ACME, "a", "written after the crash")
    carrier(rig, BLUE).capture(ACME).close(fence())
    assert sorted(rig.leftovers(BLUE)) == before
    crashed.close(fence())


def test_a_capture_leaves_nothing_and_changes_nothing(rig: Rig) -> None:
    before = sorted(rig.leftovers(BLUE))
    was = {tenant: rig.read(BLUE, tenant) for tenant in (ACME, *NEIGHBOURS)}
    taken(rig)
    assert sorted(rig.leftovers(BLUE)) == before
    assert {tenant: rig.read(BLUE, tenant) for tenant in (ACME, *NEIGHBOURS)} == was


# -- neighbours --------------------------------------------------------------------------------------------------------


def test_no_neighbour_is_in_a_stream_and_none_is_changed(rig: Rig) -> None:
    for tenant in NEIGHBOURS:
        rig.write(BLUE, tenant, "a", f"secret-of-{tenant.swapcase()}")
    backup = taken(rig)
    for written in backup.bytes.values():
        assert b"secret-of-" not in written
    was = {(side, tenant): rig.read(side, tenant) for side in Side for tenant in NEIGHBOURS}
    there = carrier(rig, GREEN)
    close(there)
    there.restoring(ACME, ACME).load(backup, fence())
    assert {(side, tenant): rig.read(side, tenant) for side in Side for tenant in NEIGHBOURS} == was


# -- differences and putting them right --------------------------------------------------------------------------------


def damaged(rig: Rig) -> dict[str, DifferenceKind]:
    rig.write(BLUE, ACME, "a", "changed since")
    rig.delete(BLUE, ACME, "b")
    rig.write(BLUE, ACME, "new", "new since")
    return {
        "a": DifferenceKind.MISMATCHED,
        "b": DifferenceKind.MISSING,
        "new": DifferenceKind.EXTRA,
    }


@pytest.mark.parametrize("rig", marked(REPLACED, VARIANTS.intersection(REPLACED)), indirect=True)
def test_the_differences_are_named_and_exactly_they_are_put_right(rig: Rig) -> None:
    backup, was = taken(rig), rig.read(BLUE, ACME)
    expected, store = damaged(rig), carrier(rig, BLUE)
    neighbours = {tenant: rig.read(BLUE, tenant) for tenant in NEIGHBOURS}
    restoring = store.restoring(ACME, ACME)
    assert not [f for f in restoring.preflight(backup) if f.severity == "refusal"]
    found = list(restoring.differences(backup))
    assert differing(rig, found) == expected
    close(store, 11)
    assert restoring.apply(backup, found, fence(11)) == 3
    assert rig.read(BLUE, ACME) == was
    assert not list(restoring.differences(backup))
    restoring.apply(backup, found, fence(11))
    assert rig.read(BLUE, ACME) == was
    assert {tenant: rig.read(BLUE, tenant) for tenant in NEIGHBOURS} == neighbours
    store.open(fence(11))
    rig.write(BLUE, ACME, "a", "the tenant goes on")


@pytest.mark.parametrize("rig", marked(REPLACED, VARIANTS.intersection(REPLACED)), indirect=True)
def test_only_what_is_asked_for_is_put_right(rig: Rig) -> None:
    backup = taken(rig)
    damaged(rig)
    store = carrier(rig, BLUE)
    restoring = store.restoring(ACME, ACME)
    collection, key = item_key(rig, ACME, "b")
    chosen = list(restoring.differences(backup, Selection(items={collection: [key]})))
    assert differing(rig, chosen) == {"b": DifferenceKind.MISSING}
    close(store, 11)
    assert restoring.apply(backup, chosen, fence(11)) == 1
    assert rig.read(BLUE, ACME) == {
        "a": "changed since",
        "b": "acme b",
        "c": "acme c",
        "d": "acme d",
        "e": "acme e",
        "new": "new since",
    }


def test_single_items_are_loaded_into_an_empty_place(rig: Rig) -> None:
    backup, there = taken(rig), carrier(rig, GREEN)
    collection, key = item_key(rig, ACME, "c")
    close(there)
    restored = there.restoring(ACME, ACME).load(backup, fence(), Selection(items={collection: [key]}))
    assert restored.items == 1
    assert rig.read(GREEN, ACME) == {"c": "acme c"}


def test_nothing_is_written_while_the_tenant_writes_or_by_an_older_holder(rig: Rig) -> None:
    backup, store = taken(rig), carrier(rig, BLUE)
    damaged(rig)
    restoring = store.restoring(ACME, ACME)
    found, was = list(restoring.differences(backup)), rig.read(BLUE, ACME)
    with pytest.raises(FenceRefused):
        restoring.apply(backup, found, fence(11))
    there = carrier(rig, GREEN)
    with pytest.raises(FenceRefused):
        there.restoring(ACME, ACME).load(backup, fence(11))
    close(store, 20)
    with pytest.raises(FenceRefused):
        restoring.apply(backup, found, fence(11))
    assert rig.read(BLUE, ACME) == was
    assert rig.read(GREEN, ACME) == {}


def test_a_place_that_has_something_is_not_loaded_into(rig: Rig) -> None:
    backup, store = taken(rig), carrier(rig, BLUE)
    rig.delete(BLUE, ACME, "a")
    was = rig.read(BLUE, ACME)
    close(store, 11)
    with pytest.raises(StoreRefused):
        store.restoring(ACME, ACME).load(backup, fence(11))
    assert rig.read(BLUE, ACME) == was


# -- under another name ------------------------------------------------------------------------------------------------


def other_fence() -> Fence:
    return Fence(tenant=OTHER, epoch=1, token=10)


@pytest.fixture
def emptied(rig: Rig) -> Iterator[Store]:
    """A place that has nothing of the other tenant, which is fenced there."""
    rig.delete(GREEN, OTHER, "a")
    there = carrier(rig, GREEN)
    there.fence(other_fence(), expires_in_s=None, drain_s=5)
    yield there
    there.open(other_fence())


@pytest.mark.parametrize("rig", marked(REPLACED, VARIANTS.intersection(REPLACED)), indirect=True)
def test_a_backup_becomes_another_tenants(rig: Rig, emptied: Store) -> None:
    backup, was = taken(rig), rig.read(BLUE, ACME)
    restoring = emptied.restoring(OTHER, ACME)
    assert not [f for f in restoring.preflight(backup) if f.severity == "refusal"]
    restoring.load(backup, other_fence())
    assert rig.read(GREEN, OTHER) == was
    assert rig.read(GREEN, ACME) == {}
    assert not list(restoring.differences(backup))
    rig.plant(GREEN, OTHER, "a", "changed since")
    found = list(restoring.differences(backup))
    assert differing(rig, found, OTHER) == {"a": DifferenceKind.MISMATCHED}
    restoring.apply(backup, found, other_fence())
    assert rig.read(GREEN, OTHER) == was


def test_a_backup_of_another_tenant_is_refused(rig: Rig, emptied: Store) -> None:
    backup = taken(rig)
    with pytest.raises(StoreRefused):
        emptied.restoring(OTHER, OTHER).load(backup, other_fence())
    assert rig.read(GREEN, OTHER) == {}
