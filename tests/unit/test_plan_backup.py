"""Plans of backups: what refuses one, what is predicted, and what the digest depends on."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tenure.model.finding import Severity
from tenure.model.names import StoreName, TenantId, cell_name
from tenure.plan.backup import BackupObservation, BackupPlan, Keeping, StoreToTake, plan_backup
from tenure.plan.observation import CellObservation, Prices, Rate, ResidencyRule, StayingStore

KEEPING = Keeping(tier="platinum", region="us", copy_to="eu", lock=None, locked_until=None, keep_days=365)
STORE = StoreToTake(
    store=StoreName("postgres"),
    kind="postgresql",
    items=100,
    size_bytes=2_000_000_000,
    pin_s=0.02,
    round_trip_ms=1.0,
    fence_enforced=True,
)
SEEN = BackupObservation(
    tenant=TenantId("acme"),
    cell=CellObservation(name=cell_name("blue"), region="us", infrastructure="v1", hour_price=3600.0),
    epoch=3,
    keeping=KEEPING,
    stores=(STORE,),
    left_out=(),
    findings=(),
    hold_budget_ms=2000.0,
    past_holds_ms=(),
    taken=None,
    stored_before=None,
    linked=False,
    residency=None,
    strays=None,
    catalogue_digest="c",
    prices=Prices(currency="INR", gb_moved=1.0, cross_region_gb_moved=10.0, operator_hour=0.0),
)


def refusals(plan: BackupPlan) -> list[str]:
    return [f.code for f in plan.refusals]


def test_a_plan_without_a_second_region_copies_nothing() -> None:
    assert [s.name for s in plan_backup(SEEN).steps] == ["preflight", "capture", "verify", "copy"]
    alone = replace(SEEN, keeping=replace(KEEPING, copy_to=None))
    assert [s.name for s in plan_backup(alone).steps] == ["preflight", "capture", "verify"]


@pytest.mark.parametrize(
    ("rule", "codes"), [(("us",), ["residency"]), (("us", "eu"), []), (("eu",), ["residency"])]
)
def test_residency_refuses_a_vault_or_a_copy_elsewhere(rule: tuple[str, ...], codes: list[str]) -> None:
    bound = replace(SEEN, residency=ResidencyRule(name="r", regions=rule, reason="law"))
    assert refusals(plan_backup(bound)) == codes


def test_a_hold_over_the_budget_and_a_drifted_route_refuse() -> None:
    assert refusals(plan_backup(SEEN)) == []
    assert refusals(plan_backup(replace(SEEN, past_holds_ms=(2500.0,)))) == ["hold_over_budget"]
    assert refusals(plan_backup(replace(SEEN, strays="it goes elsewhere"))) == ["route_drifted"]


def test_what_is_left_out_and_what_only_cooperates_is_said() -> None:
    left = StayingStore(store=StoreName("metrics"), kind="cloudwatch_metrics", why="nobody can read them out")
    plan = plan_backup(replace(SEEN, left_out=(left,), stores=(replace(STORE, fence_enforced=False),)))
    said = {f.code: f.severity for f in plan.findings}
    assert said == {"not_backed_up": Severity.INFO, "fence_cooperative": Severity.WARNING}


def test_a_tier_without_retention_is_warned_about() -> None:
    plan = plan_backup(replace(SEEN, keeping=replace(KEEPING, keep_days=None)))
    assert [f.code for f in plan.findings] == ["kept_for_ever"]


def test_predictions_follow_what_was_measured() -> None:
    first = plan_backup(SEEN).prediction
    assert first.hold_ms == pytest.approx(24.0)
    assert first.total_s == pytest.approx(101.0)
    assert first.sent_bytes == first.size_bytes == STORE.size_bytes
    rate = Rate(items_per_s=1.0, bytes_per_s=200_000_000.0, basis="3 measured backups")
    later = plan_backup(replace(SEEN, taken=rate, stored_before=0.01, past_holds_ms=(50.0, 60.0))).prediction
    assert later.total_s == pytest.approx(11.0)
    assert later.sent_bytes == STORE.size_bytes // 100
    assert 50.0 < later.hold_ms <= 60.0
    assert later.cost.bytes_moved == pytest.approx(0.02 * 11.0)
    assert later.cost.cells == pytest.approx(11.0)


def test_the_digest_depends_on_what_would_be_done_and_not_on_predictions() -> None:
    digest = plan_backup(SEEN).digest
    same = (
        replace(SEEN, stores=(replace(STORE, items=101, size_bytes=7, round_trip_ms=2.0),)),
        replace(SEEN, past_holds_ms=(10.0,)),
    )
    other = (
        replace(SEEN, epoch=4),
        replace(SEEN, linked=True),
        replace(SEEN, catalogue_digest="d"),
        replace(
            SEEN, keeping=replace(KEEPING, lock="governance", locked_until=datetime(2027, 1, 1, tzinfo=UTC))
        ),
        replace(SEEN, keeping=replace(KEEPING, copy_to=None)),
        replace(SEEN, stores=()),
    )
    assert {plan_backup(seen).digest for seen in same} == {digest}
    assert digest not in {plan_backup(seen).digest for seen in other}
