"""Plans of restores: what decides their digest, what refuses them, what they predict."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tenure.model.names import CellName, StoreName, TenantId
from tenure.operations.restore.request import Newcomer, Request
from tenure.operations.restoring import names
from tenure.plan.observation import CellObservation, Prices, Rate, ResidencyRule
from tenure.plan.restore import BackupFacts, CollectionChange, RestoreObservation, plan_restore
from tenure.plan.restore_steps import Mode
from tenure.plan.schema_path import SchemaPath, Way

BLUE = CellObservation(name=CellName("blue"), region="us-east-1", infrastructure="v1", hour_price=3600.0)
GREEN = CellObservation(name=CellName("green"), region="eu-west-1", infrastructure="v2", hour_price=3600.0)
POSTGRES = StoreName("postgres")
CHANGE = CollectionChange(
    store=POSTGRES,
    collection="public.documents",
    in_backup=1000,
    added=10,
    changed=20,
    removed=30,
    named={"added": ('["acme", "1"]',), "changed": (), "removed": ()},
)
SEEN = RestoreObservation(
    mode=Mode.IN_PLACE,
    backup=BackupFacts(
        id="b-1",
        tenant=TenantId("acme"),
        point=datetime(2026, 11, 23, 12, tzinfo=UTC),
        cell=CellName("blue"),
        manifest="d1",
        size_bytes=100_000_000,
        items=1000,
    ),
    tenant=TenantId("acme"),
    source=BLUE,
    target=BLUE,
    epoch=3,
    selection=None,
    changes=(CHANGE,),
    schemas=(SchemaPath(store=POSTGRES, way=Way.AS_IT_IS, backup="4", live="4"),),
    findings=(),
    residency=None,
    legal_hold=None,
    erasures=(),
    protected=True,
    catalogue_digest="c",
    hold_budget_ms=2000,
    round_trip_ms=1.0,
    compare_s=0.5,
    prices=Prices(currency="INR", gb_moved=1.0, cross_region_gb_moved=10.0, operator_hour=0.0),
)


def codes(seen: RestoreObservation) -> set[str]:
    return {f.code for f in plan_restore(seen).refusals}


def test_the_digest_is_of_what_was_decided_and_not_of_what_changes_with_every_row() -> None:
    digest = plan_restore(SEEN).digest
    for same in (
        replace(SEEN, changes=(replace(CHANGE, removed=31),)),
        replace(SEEN, compare_s=0.6, round_trip_ms=2.0),
    ):
        assert plan_restore(same).digest == digest
    for other in (
        replace(SEEN, epoch=4),
        replace(SEEN, backup=replace(SEEN.backup, id="b-2")),
        replace(SEEN, backup=replace(SEEN.backup, manifest="d2")),
        replace(SEEN, selection={"postgres": None}),
        replace(SEEN, mode=Mode.OTHER_CELL, target=GREEN),
        replace(SEEN, schemas=(replace(SEEN.schemas[0], way=Way.MIGRATED, live="5"),)),
        replace(SEEN, protected=False),
        replace(SEEN, catalogue_digest="d"),
        replace(SEEN, erasures=("acme, gdpr_1: erased",)),
    ):
        assert plan_restore(other).digest != digest


def test_a_backup_that_cannot_get_to_the_live_schema_is_refused_with_the_reason() -> None:
    path = SchemaPath(store=POSTGRES, way=Way.NONE, backup="5", live="4", reason="it is newer", cure="wait")
    (refusal,) = plan_restore(replace(SEEN, schemas=(path,))).refusals
    assert (refusal.code, refusal.message, refusal.fix) == ("schema_incompatible", "it is newer", "wait")


def test_the_rules_about_places_and_holds_are_kept() -> None:
    rule = ResidencyRule(name="eu", regions=("eu-west-1",), reason="GDPR")
    assert codes(replace(SEEN, residency=rule)) == {"residency"}
    assert codes(replace(SEEN, residency=rule, mode=Mode.OTHER_CELL, target=GREEN)) == set()
    assert codes(replace(SEEN, legal_hold="case 7")) == {"legal_hold"}
    assert codes(replace(SEEN, legal_hold="case 7", mode=Mode.NEW_TENANT)) == set()


def test_a_hold_over_its_budget_is_refused_in_place_and_not_elsewhere() -> None:
    slow = replace(SEEN, compare_s=3.0)
    assert codes(slow) == {"hold_over_budget"}
    assert codes(replace(slow, mode=Mode.OTHER_CELL, target=GREEN)) == set()


def test_the_hold_in_place_is_the_comparison_and_the_writing() -> None:
    guess = plan_restore(SEEN).prediction
    assert guess.hold_ms == pytest.approx(6 + 500 + 60 / 2000 * 1000)
    measured = plan_restore(
        replace(SEEN, applied=Rate(items_per_s=60_000, bytes_per_s=0, basis=""))
    ).prediction
    assert measured.hold_ms == pytest.approx(6 + 500 + 1)
    assert "a guess for what is written" in guess.basis
    assert "a guess for" not in measured.basis
    assert guess.bytes_moved == 3_000_000  # 30 of 1,000 items come back or change


def test_what_is_not_protected_is_said() -> None:
    plan = plan_restore(replace(SEEN, protected=False))
    assert [s.name for s in plan.steps] == ["preflight", "stage", "compare", "arm", "switch", "settle"]
    assert {f.code for f in plan.findings} == {"not_protected"}
    assert "protect" in [s.name for s in plan_restore(SEEN).steps]


def test_a_request_comes_back_from_its_operation() -> None:
    request = Request(
        backup="b-1",
        tenant=TenantId("acme"),
        source=CellName("blue"),
        target=CellName("blue"),
        mode=Mode.NEW_TENANT,
        chosen={"postgres": {"public.documents": None, "public.chunks": ('["acme", "1"]',)}, "redis": None},
        newcomer=Newcomer(tier="gold", host="acme.example", residency=None),
    )
    assert Request.of(TenantId("acme"), request.as_dict()) == request
    assert request.selection(StoreName("objects")) is None
    chosen = request.selection(StoreName("postgres"))
    assert chosen is not None
    assert chosen.keys("public.chunks") == frozenset({'["acme", "1"]'})
    assert chosen.keys("public.documents") is None
    assert not chosen.has_collection("public.embeddings")


@pytest.mark.parametrize(
    ("key", "wanted", "meant"),
    [
        ('["acme", "17"]', "17", True),
        ('["acme", "17"]', "acme,17", True),
        ('["acme", "17"]', '["acme", "17"]', True),
        ('["acme", "17"]', "7", False),
        ('["acme", "3", "4"]', "3,4", True),
        ('"tenants/acme/files/a.txt"', "files/a.txt", True),
        ('"tenants/acme/files/a.txt"', "a.txt", True),
        ('"tenants/acme/files/a.txt"', ".txt", False),
    ],
)
def test_an_item_is_named_in_full_or_by_its_last_part(key: str, wanted: str, meant: bool) -> None:
    assert names(key, wanted) is meant
