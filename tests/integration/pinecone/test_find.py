"""What a search and a survey see in an index, and what deleting one person's records takes."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tenure.catalogue import DataClass, KeyPattern, Template
from tenure.errors import StoreRefused, UsageError
from tenure.model.names import TenantId
from tenure.model.search import (
    Coverage,
    FindPage,
    Found,
    Identifier,
    PlaceKind,
    Search,
    Skipped,
    tenant_identifier,
)
from tenure.stores.contract import Fence, unhurried
from tenure.stores.pinecone import PineconeStore
from tests.contract.rigs.pinecone import TEMPLATE, PineconeRig, vector
from tests.contract.rigs.protocol import Side

ACME, ACME2, UPPER = TenantId("acme"), TenantId("acme2"), TenantId("ACME")
TENANTS = frozenset({ACME, ACME2, UPPER})
BLUE = Side.BLUE
ANNA = Identifier(tenant=ACME, kind="email", value="anna@example.com")


def fence(token: int = 10) -> Fence:
    return Fence(tenant=ACME, epoch=1, token=token)


def put(rig: PineconeRig, namespace: str, item: str, **metadata: Any) -> None:
    record = {"id": item, "values": vector(item), "metadata": metadata}
    rig.indexes[BLUE].upsert(vectors=[record], namespace=namespace)


@pytest.fixture
def store(rig: PineconeRig) -> PineconeStore:
    """With records of three tenants whose ids look alike, and some that the catalogue does not name."""
    for tenant in sorted(TENANTS):
        put(rig, TEMPLATE.expand(tenant), "doc-1", value="nothing about anybody", author="bob@example.com")
    put(rig, TEMPLATE.expand(ACME), "doc-2", value="mail anna@example.com", author="anna@example.com")
    put(rig, TEMPLATE.expand(ACME), "doc-3", value="x", author="anna@example.com", extra="e")
    put(rig, TEMPLATE.expand(ACME2), "doc-9", value="forwarded by acme on Monday")
    put(rig, "old-acme", "1", value="v")
    put(rig, "shared", "acme#7", value="v")
    put(rig, "shared", "8", owner="acme")
    put(rig, "shared", "9", note=base64.b64encode(b"the tenant acme wrote this").decode())
    put(rig, "shared", "10", tags=["x", "tenant/acme"])
    put(rig, "shared", "11", owner="acme2", note="xacme ACME acme22")
    put(rig, "scratch", "12", owner="acme")
    return rig.store(
        BLUE,
        ignore=[KeyPattern(pattern="scratch*", data_class=DataClass.PLAIN)],
        fields={"value": DataClass.CONTENT, "author": DataClass.PERSONAL},
        person=("author",),
        login=rig.login(rig.hosts[BLUE]),
    )


def run(store: PineconeStore, search: Search) -> tuple[list[Found], list[Skipped], list[FindPage]]:
    pages = list(store.find(search))
    found: dict[object, Found] = {}
    for page in pages:
        for one in page.found:
            found[one.key] = found[one.key].merged(one) if one.key in found else one
    return list(found.values()), [s for page in pages for s in page.skipped], pages


def search(*identifiers: Identifier, **options: Any) -> Search:
    return Search(identifiers=identifiers or (tenant_identifier(ACME),), known=TENANTS, **options)


def test_a_search_finds_the_tenant_wherever_it_is_named_and_no_lookalike(store: PineconeStore) -> None:
    found, _, pages = run(store, search(everywhere=True))
    seen = {(str(one.place), one.coverage, one.items) for one in found}
    assert {(p, c, n) for p, c, n in seen if not p.startswith("index")} == {
        ("namespace t-{tenant}", Coverage.OWN, 3),
        ("record metadata t-{tenant}.value", Coverage.NEIGHBOUR, 1),
        ("namespace old-{tenant}", Coverage.UNDOCUMENTED, 1),
        ("record id shared", Coverage.UNDOCUMENTED, 1),
        ("record metadata shared.owner", Coverage.UNDOCUMENTED, 1),
        ("record metadata shared.note", Coverage.UNDOCUMENTED, 1),
        ("record metadata shared.tags", Coverage.UNDOCUMENTED, 1),
        ("record metadata scratch.owner", Coverage.IGNORED, 1),
    }
    assert pages[-1].cursor is None
    assert pages[-1].items >= 12
    old = next(one for one in found if str(one.place) == "namespace old-{tenant}")
    assert old.entry is not None
    assert [entry["namespace"] for entry in old.entry.values() if isinstance(entry, dict)] == ["old-{tenant}"]


def test_a_search_for_a_person_shows_nobody(store: PineconeStore) -> None:
    found, _, _ = run(store, search(ANNA, everywhere=True))
    assert {(str(one.place), one.items) for one in found} == {
        ("record metadata t-{tenant}.value", 1),
        ("record metadata t-{tenant}.author", 2),
    }
    assert "anna" not in repr(found)


def test_a_search_of_what_the_catalogue_names_leaves_the_rest_out(store: PineconeStore) -> None:
    found, skipped, _ = run(store, search(everywhere=False))
    assert {str(one.place) for one in found} == {"namespace t-{tenant}", "record metadata t-{tenant}.value"}
    assert not skipped


def test_a_search_looks_into_the_projects_other_indexes_but_not_into_other_cells(rig: PineconeRig) -> None:
    other = rig.names[Side.GREEN]
    rig.indexes[Side.GREEN].upsert(
        vectors=[{"id": "a", "values": vector("a"), "metadata": {"owner": "acme"}}], namespace="notes"
    )
    named, _, _ = run(rig.store(BLUE), search(everywhere=True))
    assert {(str(one.place), one.coverage) for one in named if other in str(one.place)} == {
        (f"record metadata {other}: notes.owner", Coverage.UNDOCUMENTED)
    }
    for known in (rig.hosts[Side.GREEN], other):
        quiet, _, _ = run(rig.store(BLUE, siblings=[known]), search(everywhere=True))
        assert not [one for one in quiet if other in str(one.place)]


def test_what_cannot_be_looked_at_is_said(rig: PineconeRig, store: PineconeStore) -> None:
    login = rig.login(rig.hosts[BLUE])
    blind = rig.store(
        BLUE, login=type(login)(host=login.host, index=None, control=None, api_key=login.api_key)
    )
    _, skipped, _ = run(blind, search(everywhere=True))
    assert [(s.place.kind, s.reason.split(":")[0]) for s in skipped] == [
        (PlaceKind.INDEX, "the project's other indexes are not known")
    ]
    _, cut, _ = run(store, search(everywhere=False, body_limit_bytes=10))
    assert {s.reason for s in cut} == {"longer than the limit"}


def test_a_search_is_resumed_after_any_page_also_by_another_process(
    rig: PineconeRig, store: PineconeStore
) -> None:
    for n in range(0, 250, 50):
        rig.indexes[BLUE].upsert(
            vectors=[
                {"id": f"r{i:04d}", "values": vector("r"), "metadata": {"owner": "acme"}}
                for i in range(n, n + 50)
            ],
            namespace="shared",
        )
    whole, _, pages = run(store, search(everywhere=True))
    for stop in range(len(pages) - 1):
        parts: dict[object, Found] = {}
        rest = rig.store(BLUE, ignore=store.ignore).find(search(everywhere=True), cursor=pages[stop].cursor)
        for page in (*pages[: stop + 1], *rest):
            for one in page.found:
                parts[one.key] = parts[one.key].merged(one) if one.key in parts else one
        assert {k: v.items for k, v in parts.items()} == {one.key: one.items for one in whole}
        assert page.cursor is None
        assert page.items == pages[-1].items
    with pytest.raises(UsageError):
        next(store.find(search(), cursor="no cursor"))


def test_a_survey_names_namespaces_and_fields_that_are_not_classified_and_those_that_are_gone(
    rig: PineconeRig, store: PineconeStore
) -> None:
    told: list[int] = []

    def pace(*, items: int, size_bytes: int) -> None:
        told.append(items)

    seen = store.survey(TENANTS, pace=pace)
    assert {(str(p.place), p.items) for p in seen.unclassified} == {
        ("namespace old-{tenant}", 1),
        ("namespace shared", 5),
        ("record metadata t-{tenant}.extra", 1),
    }
    assert all(p.entry for p in seen.unclassified)
    assert {str(p.place) for p in seen.places if p.classified} == {
        "namespace t-{tenant}",
        "namespace scratch",
        "record metadata t-{tenant}.value",
        "record metadata t-{tenant}.author",
    }
    assert sum(told) > 0
    fields = {"value": DataClass.CONTENT, "author": DataClass.PERSONAL, "title": DataClass.CONTENT}
    gone = rig.store(BLUE, fields=fields).survey(TENANTS, pace=unhurried).gone
    assert [one.where for one in gone] == ["fields.title"]
    empty = rig.store(BLUE, namespace=Template.name("none-{tenant}")).survey(TENANTS)
    assert [s.reason for s in empty.skipped] == ["no tenant has records here"]


def test_one_persons_records_go_and_nobody_elses(rig: PineconeRig, store: PineconeStore) -> None:
    rig.stand_in.change(lag_s=0.3)
    assert store.erase_person(fence(), [ANNA.value]) == 2
    assert sorted(one for page in store.ids(ACME) for one in page) == ["doc-1"]
    assert store.erase_person(fence(), [ANNA.value]) == 0
    assert store.inventory(ACME2).items == 2
    with pytest.raises(UsageError):
        rig.store(BLUE, person=()).erase_person(fence(), [ANNA.value])


def test_one_persons_records_stay_while_the_tenant_is_moved(rig: PineconeRig, store: PineconeStore) -> None:
    copy = rig.copy(ACME, BLUE, Side.GREEN)
    copy.target.fence(fence(), expires_in_s=None, drain_s=5.0)
    copy.start(fence())
    with pytest.raises(StoreRefused):
        store.erase_person(fence(), [ANNA.value])
    assert store.inventory(ACME).items == 3
