"""Every store keeps the promises of `Store.survey` and `Store.find`, against real servers of each kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from tenure.errors import StoreUnavailable, UsageError
from tenure.model.names import TenantId
from tenure.model.search import Coverage, FindPage, Found, Identifier, PlaceKind, Search, tenant_identifier
from tenure.stores.contract import Store
from tests.contract.rigs.protocol import Rig, Side
from tests.contract.test_store_contract import ACME, ACME1, NEIGHBOURS, PARAMS, RIGS, UPPER

BLUE = Side.BLUE
KNOWN = frozenset({ACME, *NEIGHBOURS})
ANN = "ann.lee@people.example"
ELSEWHERE = {PlaceKind.DATABASE, PlaceKind.BUCKET}
CLEAN = {Coverage.OWN, Coverage.TENURE}


@pytest.fixture(params=PARAMS)
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    made: Rig = RIGS[request.param].make(request.param, request)
    try:
        for tenant in (ACME, *NEIGHBOURS):
            for item in "abc":
                made.write(BLUE, tenant, item, f"{tenant} {item}")
        yield made
    finally:
        made.close()


def search(*tenants: TenantId, everywhere: bool = True, sample: float | None = None) -> Search:
    return Search(
        identifiers=tuple(map(tenant_identifier, tenants)), known=KNOWN, everywhere=everywhere, sample=sample
    )


def merged(pages: list[FindPage]) -> dict[object, Found]:
    found: dict[object, Found] = {}
    for page in pages:
        for its in page.found:
            found[its.key] = found[its.key].merged(its) if its.key in found else its
    return found


def found_by(store: Store, what: Search) -> list[Found]:
    """What was found in the store itself: what else its server has, other tests put there."""
    found = merged(list(store.find(what))).values()
    return [f for f in found if ": " not in f.place.name and f.place.kind not in ELSEWHERE]


def counts(found: list[Found]) -> Mapping[str, int]:
    return {f"{f.tenant} {f.place} {f.coverage}": f.items for f in found}


# -- find --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_tenants_items_are_found_as_its_own_and_no_lookalikes(rig: Rig, everywhere: bool) -> None:
    first = found_by(rig.store(BLUE), search(ACME, everywhere=everywhere))
    assert first
    assert {f.coverage for f in first} <= CLEAN, counts(first)
    assert {f.tenant for f in first} == {ACME}
    neighbour = found_by(rig.store(BLUE), search(ACME1, everywhere=everywhere))
    assert sum(f.items for f in neighbour) == sum(f.items for f in first)
    rig.write(BLUE, ACME1, "f", "a neighbour writes")
    rig.write(BLUE, UPPER, "f", "acme1 and Acme are written about")
    assert counts(found_by(rig.store(BLUE), search(ACME, everywhere=everywhere))) == counts(first)
    rig.write(BLUE, ACME, "f", "the tenant writes")
    after = found_by(rig.store(BLUE), search(ACME, everywhere=everywhere))
    assert sum(f.items for f in after) > sum(f.items for f in first)


def test_several_tenants_are_told_apart_in_one_search(rig: Rig) -> None:
    found = found_by(rig.store(BLUE), search(ACME, ACME1))
    alone = [*found_by(rig.store(BLUE), search(ACME)), *found_by(rig.store(BLUE), search(ACME1))]
    assert counts([f for f in found if f.coverage in CLEAN]) == counts(alone)
    assert {f.coverage for f in found} <= CLEAN


def test_a_mention_in_a_neighbours_data_is_said_to_be_that(rig: Rig) -> None:
    rig.write(BLUE, ACME1, "a", "copied from acme, see there")
    found = [f for f in found_by(rig.store(BLUE), search(ACME, everywhere=False)) if f.coverage not in CLEAN]
    assert [(f.tenant, f.coverage, f.items) for f in found] == [(ACME, Coverage.NEIGHBOUR, 1)]


def test_what_the_catalogue_does_not_name_is_found_too(rig: Rig) -> None:
    stray = rig.stray(BLUE, "acme was here")
    rig.stray(BLUE, "acme1 and acme-corp were here, and Acme, xacme and ACME")
    found = [f for f in found_by(rig.store(BLUE), search(ACME)) if f.coverage not in CLEAN]
    assert {(f.place, f.coverage) for f in found} == {(stray.place, stray.coverage)}, counts(found)
    assert [f.items for f in found] == [2], "acme-corp is no tenant here, so that it mentions acme"
    known = KNOWN | {TenantId("acme-corp")}
    what = Search(identifiers=(tenant_identifier(ACME),), known=known)
    again = [f for f in found_by(rig.store(BLUE), what) if f.coverage not in CLEAN]
    assert [f.items for f in again] == [1]
    assert all(f.examples for f in again)


def test_a_search_goes_on_from_any_page_in_another_store_object(rig: Rig) -> None:
    rig.stray(BLUE, "acme was here")
    pages = list(rig.store(BLUE).find(search(ACME)))
    assert pages[-1].cursor is None
    assert all(page.cursor is not None for page in pages[:-1])
    whole = merged(pages).keys()
    for n in {0, len(pages) // 2, len(pages) - 2} & set(range(len(pages) - 1)):
        rest = list(rig.store(BLUE).find(search(ACME), cursor=pages[n].cursor))
        assert merged([*pages[: n + 1], *rest]).keys() == whole
        assert rest[-1].items == pages[-1].items
        assert rest[-1].cursor is None


def test_progress_only_grows_and_the_caller_is_told_what_was_read(rig: Rig) -> None:
    told = [0, 0]

    def pace(*, items: int, size_bytes: int) -> None:
        told[0] += items
        told[1] += size_bytes

    pages = list(rig.store(BLUE).find(search(ACME), pace=pace))
    assert [p.items for p in pages] == sorted(p.items for p in pages)
    assert [p.size_bytes for p in pages] == sorted(p.size_bytes for p in pages)
    assert pages[-1].items > 0
    assert pages[-1].size_bytes > 0
    assert told[0] >= pages[-1].items
    assert told[1] > 0


def test_a_caller_can_end_a_search_and_go_on_later(rig: Rig) -> None:
    class Enough(Exception):
        pass

    def pace(*, items: int, size_bytes: int) -> None:
        raise Enough

    with pytest.raises(Enough):
        list(rig.store(BLUE).find(search(ACME), pace=pace))
    with pytest.raises(Enough):
        rig.store(BLUE).survey(KNOWN, pace=pace)
    assert found_by(rig.store(BLUE), search(ACME))
    assert not rig.leftovers(BLUE)


def test_a_sample_takes_no_more_than_everything_and_a_whole_one_all(rig: Rig) -> None:
    everything = counts(found_by(rig.store(BLUE), search(ACME)))
    assert counts(found_by(rig.store(BLUE), search(ACME, sample=1.0))) == everything
    part = counts(found_by(rig.store(BLUE), search(ACME, sample=1e-9)))
    assert part.keys() <= everything.keys()


def test_an_identifier_of_a_person_is_found_and_never_shown(rig: Rig) -> None:
    rig.write(BLUE, ACME, "a", f"written by {ANN} for acme")
    stray = rig.stray(BLUE, f"mail for {ANN}")
    person = Identifier(tenant=ACME, kind="email", value=ANN)
    pages = list(rig.store(BLUE).find(Search(identifiers=(person,), known=KNOWN)))
    found = merged(pages).values()
    assert {f.coverage for f in found} == {Coverage.OWN, stray.coverage}
    assert {f.label for f in found} == {person.label}
    assert "ann.lee" not in repr(pages)
    assert "ann.lee" not in person.label
    other = Identifier(tenant=ACME, kind="email", value="n.lee@people.example")
    assert not found_by(rig.store(BLUE), Search(identifiers=(other,), known=KNOWN))


def test_a_foreign_cursor_is_refused(rig: Rig) -> None:
    with pytest.raises(UsageError):
        list(rig.store(BLUE).find(search(ACME), cursor="not a cursor"))


def test_a_store_that_does_not_exist_cannot_be_searched(rig: Rig) -> None:
    with pytest.raises(StoreUnavailable):
        list(rig.unreachable().find(search(ACME)))
    with pytest.raises(StoreUnavailable):
        rig.unreachable().survey(KNOWN)


def test_a_search_writes_nothing(rig: Rig) -> None:
    before = rig.store(BLUE).inventory(ACME).collections
    list(rig.store(BLUE).find(search(ACME)))
    rig.store(BLUE).survey(KNOWN)
    assert rig.store(BLUE).inventory(ACME).collections == before
    assert not rig.leftovers(BLUE)


# -- survey ------------------------------------------------------------------------------------------------------


def test_what_the_catalogue_names_is_classified_and_there(rig: Rig) -> None:
    survey = rig.store(BLUE).survey(KNOWN)
    assert survey.places
    assert not survey.unclassified
    assert not survey.gone
    assert (survey.store, survey.cell) == (rig.store(BLUE).name, "blue")


def test_a_survey_names_what_the_catalogue_does_not_with_a_proposal(rig: Rig) -> None:
    stray = rig.stray(BLUE, "acme was here")
    survey = rig.store(BLUE).survey(KNOWN)
    assert [p.place for p in survey.unclassified] == [stray.surveyed]
    assert survey.unclassified[0].entry
