"""Stores that a move leaves where they are keep what is left of the promises of `tenure.stores.contract`: one suite,
run against real servers of each kind."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tenure.errors import FenceRefused, StoreRefused, StoreUnavailable
from tenure.model.names import TenantId
from tenure.model.search import Coverage, Found, Search, tenant_identifier
from tenure.stores.contract import Fence, Store
from tests.contract.staying.protocol import StayingRig
from tests.variants import marked

ACME, ACME1, UPPER = TenantId("acme"), TenantId("acme1"), TenantId("Acme")
NEIGHBOURS = (ACME1, UPPER)

RIGS = {
    kind: module
    for module in (
        importlib.import_module(f"tests.contract.staying.{path.stem}")
        for path in sorted((Path(__file__).parent / "staying").glob("*.py"))
        if path.stem not in ("protocol", "__init__")
    )
    for kind in module.KINDS
}
PARAMS = marked(RIGS, {kind for module in RIGS.values() for kind in module.VARIANTS})


@pytest.fixture(params=PARAMS)
def rig(request: pytest.FixtureRequest) -> Iterator[StayingRig]:
    made: StayingRig = RIGS[request.param].make(request.param, request)
    try:
        for tenant in (ACME, *NEIGHBOURS):
            for item in "ab":
                made.write(tenant, item)
        yield made
    finally:
        made.close()


def fence(token: int = 10, *, tenant: TenantId = ACME) -> Fence:
    return Fence(tenant=tenant, epoch=1, token=token)


def hold(store: Store, token: int = 10) -> None:
    store.fence(fence(token), expires_in_s=None, drain_s=5.0)


def found(store: Store, *tenants: TenantId, everywhere: bool = True) -> list[Found]:
    search = Search(
        identifiers=tuple(tenant_identifier(tenant) for tenant in tenants),
        known=frozenset({ACME, *NEIGHBOURS}),
        everywhere=everywhere,
    )
    merged: dict[object, Found] = {}
    for page in store.find(search):
        for one in page.found:
            before = merged.get(one.key)
            merged[one.key] = before.merged(one) if before else one
    return list(merged.values())


def test_it_says_why_a_move_leaves_its_data_where_it_is(rig: StayingRig) -> None:
    capabilities = rig.store().capabilities
    assert capabilities.stays
    assert capabilities.rides_with is None


def test_it_says_why_its_data_is_in_no_backup(rig: StayingRig) -> None:
    store = rig.store()
    reason = store.capabilities.not_backed_up
    assert reason
    for asked in (lambda: store.capture(ACME), lambda: store.restoring(ACME, ACME)):
        with pytest.raises(StoreRefused) as caught:
            asked()
        assert reason in caught.value.message
    assert not rig.leftovers()


def test_ping_answers(rig: StayingRig) -> None:
    rig.store().ping()


def test_a_store_that_does_not_exist_is_unavailable_within_five_seconds(rig: StayingRig) -> None:
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        rig.unreachable().ping()
    assert time.monotonic() - began < 5
    assert caught.value.hint


def test_a_refused_login_is_said_so_and_shows_no_secret(rig: StayingRig) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        rig.wrong_password().ping()
    assert "login" in caught.value.message
    assert "wrong-password" not in str(caught.value)


def test_inventory_counts_the_tenant_and_no_lookalike(rig: StayingRig) -> None:
    before = rig.store().inventory(ACME)
    assert before.items
    assert not rig.store().inventory(TenantId("acm")).items
    rig.write(ACME1, "c")
    assert rig.store().inventory(ACME).collections == before.collections
    rig.write(ACME, "c")
    after = rig.store().inventory(ACME)
    assert after.items > before.items
    assert after.collections != before.collections


def test_a_search_finds_the_tenant_in_its_own_data_and_no_lookalike(rig: StayingRig) -> None:
    own = found(rig.store(), ACME, everywhere=False)
    assert own
    assert {f.tenant for f in own} == {ACME}
    assert {f.coverage for f in own} == {Coverage.OWN}
    assert not found(rig.store(), TenantId("acm"))


def test_a_search_finds_what_the_catalogue_does_not_name(rig: StayingRig) -> None:
    rig.plant("left by acme, not by acme1x")
    stray = [f for f in found(rig.store(), ACME, ACME1) if f.coverage is Coverage.UNDOCUMENTED]
    assert {f.tenant for f in stray} == {ACME}
    assert not [f for f in found(rig.store(), ACME, everywhere=False) if f.coverage is Coverage.UNDOCUMENTED]


def test_a_search_goes_on_from_any_of_its_pages(rig: StayingRig) -> None:
    search = Search(identifiers=(tenant_identifier(ACME),), known=frozenset({ACME, *NEIGHBOURS}))
    pages = list(rig.store().find(search))
    for n, page in enumerate(pages[:-1]):
        rest = list(rig.store().find(search, cursor=page.cursor))
        assert rest[-1].items >= pages[-1].items
        assert len(rest) <= len(pages) - n
    assert pages[-1].cursor is None


def test_a_survey_classifies_tenants_data_and_nothing_else(rig: StayingRig) -> None:
    before = rig.store().survey((ACME, *NEIGHBOURS))
    assert before.places
    assert not before.unclassified
    rig.plant("nobody's")
    strays = rig.store().survey((ACME, *NEIGHBOURS)).unclassified
    assert len(strays) == 1


def test_an_erasure_needs_a_holder_and_takes_only_that_tenant(rig: StayingRig) -> None:
    store = rig.store()
    before = [store.inventory(n).collections for n in NEIGHBOURS]
    with pytest.raises(FenceRefused if rig.erases else StoreRefused):
        store.erase(fence())
    assert store.inventory(ACME).items
    if not rig.erases:
        return
    hold(store, token=20)
    with pytest.raises(FenceRefused):
        store.erase(fence(19))
    assert store.inventory(ACME).items
    assert store.erase(fence(20)) > 0
    assert store.erase(fence(20)) == 0
    assert store.inventory(ACME).items == 0
    assert [store.inventory(n).collections for n in NEIGHBOURS] == before


def test_an_older_holder_is_refused_and_one_that_lets_go_leaves_nothing(rig: StayingRig) -> None:
    hold(rig.store(), token=10)
    rig.store().claim(fence(12))
    if rig.erases:
        for older in (5, 11):
            with pytest.raises(FenceRefused):
                hold(rig.store(), token=older)
            with pytest.raises(FenceRefused):
                rig.store().open(fence(older))
        state = rig.store().fence_state(ACME)
        assert not state.writable
    assert rig.store().fence_state(ACME1).writable
    for _ in range(2):
        rig.store().open(fence(12))
    assert rig.store().fence_state(ACME).writable
    assert not rig.leftovers()


def test_opening_and_claiming_where_nobody_holds_changes_nothing(rig: StayingRig) -> None:
    rig.store().open(fence())
    rig.store().claim(fence())
    assert rig.store().fence_state(ACME).token == 0
    assert not rig.leftovers()
