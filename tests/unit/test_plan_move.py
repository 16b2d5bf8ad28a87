"""The planner: equal circumstances give an equal digest, rules refuse, predictions follow from what was measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tenure.cli.output import show_plan
from tenure.model.finding import Finding, Severity
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.record import RouteKind, RouteRecord, Spread
from tenure.plan.bounds import Bounds
from tenure.plan.canary import CanaryPlan
from tenure.plan.move import (
    COPY_PER_INVENTORY,
    COPY_STARTUP_S,
    MIGRATE_STEPS,
    ROLLBACK_STEPS,
    Plan,
    plan_move,
)
from tenure.plan.observation import (
    CellObservation,
    MoveObservation,
    Prices,
    Rate,
    ResidencyRule,
    StayingStore,
    StoreObservation,
)
from tenure.plan.targets import Targets, Verdict, judge

STORE = StoreObservation(
    store=StoreName("postgres"),
    kind="postgresql",
    items=1000,
    size_bytes=2_000_000_000,
    inventory_s=2.0,
    round_trip_ms=1.5,
    fence_enforced=True,
    rides_with=None,
    fenced_with=None,
    fingerprint_source={"prefix": "a"},
    fingerprint_target={"prefix": "a"},
)
SEEN = MoveObservation(
    tenant=TenantId("acme"),
    tier="gold",
    residency=None,
    legal_hold=None,
    freeze=None,
    epoch=3,
    source=CellObservation(name=CellName("blue"), region="us-east-1", infrastructure="v1", hour_price=100.0),
    target=CellObservation(name=CellName("eu"), region="eu-west-1", infrastructure="v2", hour_price=200.0),
    stores=(STORE,),
    findings=(),
    linked=False,
    catalogue_digest="sha256:0",
    hold_budget_ms=2000.0,
    commit_ms=1.0,
    past_holds_ms=(),
    prices=Prices(currency="INR", gb_moved=1.0, cross_region_gb_moved=10.0, operator_hour=3600.0),
)


CANARY = CanaryPlan(
    shares=(10.0, 50.0),
    soak_s=60.0,
    bounds=Bounds(
        error_rate=0.01, latency_ratio=2.0, latency_margin_ms=50.0, latency_ms=None, min_requests=50
    ),
)


def plan(seen: MoveObservation = SEEN) -> Plan:
    return plan_move("migrate", MIGRATE_STEPS, seen)


def codes(found: Plan) -> set[str]:
    return {f.code for f in found.refusals}


def test_stores_whose_data_stays_are_named_with_their_reasons_and_decide_the_digest() -> None:
    series = StayingStore(
        store=StoreName("metrics"), kind="prometheus", why="series are the past of a cell; they expire"
    )
    seen = plan(replace(SEEN, staying=(series,)))
    assert seen.as_dict()["stay"] == [
        {"store": "metrics", "kind": "prometheus", "why": "series are the past of a cell; they expire"}
    ]
    assert "Not moved:\n  metrics (prometheus): series are the past of a cell; they expire" in show_plan(seen)
    assert seen.digest != plan().digest
    assert plan().as_dict()["stay"] == []
    assert "Not moved" not in show_plan(plan())


def test_a_store_that_shares_a_fence_says_whose() -> None:
    vectors = replace(
        STORE, store=StoreName("pinecone"), fence_enforced=False, fenced_with=StoreName("postgres")
    )
    seen = plan(replace(SEEN, stores=(STORE, vectors)))
    assert [s["fenced_with"] for s in seen.as_dict()["stores"]] == [None, "postgres"]
    assert "permit of postgres" in show_plan(seen)
    assert {f.where for f in seen.findings if f.code == "fence_cooperative"} == {"pinecone"}


def test_the_digest_does_not_change_with_the_tenants_writes() -> None:
    grown = replace(SEEN, stores=(replace(STORE, items=9999, size_bytes=1, inventory_s=7.0),), commit_ms=9.0)
    assert plan(grown).digest == plan().digest


def test_the_digest_changes_with_everything_that_was_agreed_to() -> None:
    finding = Finding(severity=Severity.WARNING, code="x", where="y", message="m", fix="f")
    variants = [
        replace(SEEN, epoch=4),
        replace(SEEN, tenant=TenantId("globex")),
        replace(SEEN, target=replace(SEEN.target, name=CellName("green"))),
        replace(SEEN, stores=(replace(STORE, fingerprint_source={"prefix": "b"}),)),
        replace(SEEN, stores=(replace(STORE, fingerprint_target={"prefix": "b"}),)),
        replace(SEEN, catalogue_digest="sha256:1"),
        replace(SEEN, linked=True),
        replace(SEEN, findings=(finding,)),
        replace(SEEN, canary=CANARY),
        replace(SEEN, canary=replace(CANARY, shares=(10.0, 100.0))),
        replace(SEEN, canary=replace(CANARY, bounds=replace(CANARY.bounds, error_rate=0.5))),
    ]
    digests = {plan(v).digest for v in variants}
    assert len(digests) == len(variants)
    assert plan().digest not in digests


def test_a_tenant_whose_requests_cannot_be_held_is_not_moved_but_can_be_taken_back() -> None:
    astray = replace(SEEN, strays="the gateway sends it to green; it is placed in blue")
    assert codes(plan(astray)) == {"route_drifted"}
    back = plan_move("rollback", ROLLBACK_STEPS, astray)
    assert not back.refusals
    for has_names, then in ((True, "its name is then led past"), (False, "the gateway has to be mended")):
        (warning,) = plan_move("rollback", ROLLBACK_STEPS, replace(astray, has_names=has_names)).findings
        assert warning.code == "route_drifted"
        assert then in warning.message
        assert "waits for a confirmed look" in warning.message


def test_residency_refuses_a_region_that_the_rule_does_not_name() -> None:
    rule = ResidencyRule(name="us-only", regions=("us-east-1",), reason="contract")
    refused = plan(replace(SEEN, residency=rule))
    assert codes(refused) == {"residency"}
    assert "us-east-1" in refused.refusals[0].message
    allowed = replace(rule, regions=("eu-west-1",))
    assert codes(plan(replace(SEEN, residency=allowed))) == set()


def test_a_canary_is_a_step_before_the_switch_and_takes_its_time_with_the_source_alone_first() -> None:
    with_canary = plan(replace(SEEN, canary=CANARY))
    names = [step.name for step in with_canary.steps]
    assert names[names.index("verify") :] == ["verify", "canary", "arm", "switch", "settle"]
    assert with_canary.prediction.canary_s == 180.0
    assert abs(with_canary.prediction.total_s - plan().prediction.total_s - 180.0) < 1e-9
    assert CanaryPlan.of(CANARY.as_dict()) == CANARY


def test_a_legal_hold_refuses() -> None:
    assert codes(plan(replace(SEEN, legal_hold="case 17"))) == {"legal_hold"}


def test_a_freeze_refuses_a_move_and_not_the_way_back() -> None:
    frozen = replace(SEEN, freeze="year-end (closing of the books) until 2027-01-04T06:00:00+00:00")
    assert codes(plan(frozen)) == {"freeze"}
    assert "year-end (closing of the books)" in plan(frozen).refusals[0].message
    assert not plan_move("rollback", ROLLBACK_STEPS, frozen).refusals


def test_a_hold_over_the_budget_refuses() -> None:
    assert codes(plan(replace(SEEN, past_holds_ms=(2500.0,)))) == {"hold_over_budget"}


def test_a_store_that_cannot_fence_is_named() -> None:
    warned = plan(replace(SEEN, stores=(replace(STORE, fence_enforced=False),)))
    assert [(f.severity, f.code, f.where) for f in warned.findings] == [
        (Severity.WARNING, "fence_cooperative", "postgres")
    ]
    assert not warned.refusals


def test_the_copy_is_predicted_from_the_inventory_until_one_was_measured() -> None:
    assert plan().prediction.copy_s == COPY_STARTUP_S + COPY_PER_INVENTORY * 2.0
    measured = replace(STORE, copied=Rate(items_per_s=1000.0, bytes_per_s=1_000_000_000.0, basis="2 copies"))
    assert plan(replace(SEEN, stores=(measured,))).prediction.copy_s == 2.0
    assert plan(replace(SEEN, linked=True)).prediction.copy_s == 0.0


def test_cost_is_hours_of_both_cells_and_bytes_across_regions_and_the_operators_time() -> None:
    predicted = plan(replace(SEEN, linked=False)).prediction
    hours = predicted.total_s / 3600
    assert abs(predicted.cost.cells - hours * 300.0) < 1e-9
    assert abs(predicted.cost.bytes_moved - 2.0 * 10.0) < 1e-9
    assert abs(predicted.cost.operator - hours * 3600.0) < 1e-9
    inside = replace(SEEN, target=replace(SEEN.target, region="us-east-1"))
    assert abs(plan(inside).prediction.cost.bytes_moved - 2.0 * 1.0) < 1e-9


def test_the_hold_is_predicted_from_past_holds_once_there_are_some() -> None:
    assert plan().prediction.hold_ms == 1.0 + 6 * 1.5
    assert plan(replace(SEEN, past_holds_ms=(12.0,))).prediction.hold_ms == 12.0
    spread = plan(replace(SEEN, past_holds_ms=tuple(float(i) for i in range(1, 21)))).prediction.hold_ms
    assert 19.0 <= spread <= 21.0


def _record(number: int, succeeded: int, **given: Any) -> RouteRecord:
    none: dict[str, Any] = dict.fromkeys(
        ("attempts", "duration_s", "hold_ms", "rollback_s", "cost", "stretch")
    )
    return RouteRecord(
        kind="migrate",
        route_kind=RouteKind.CROSS_REGION,
        number=number,
        succeeded=succeeded,
        rolled_back=0,
        aborted=number - succeeded,
        failed=0,
        stuck=0,
        judged=given.pop("judged", number),
        judged_succeeded=given.pop("judged_succeeded", succeeded),
        currency="INR",
        **{**none, **given},
    )


def test_the_kind_of_route_follows_from_regions_and_infrastructure() -> None:
    assert plan().route_kind is RouteKind.CROSS_REGION
    near = replace(SEEN, target=replace(SEEN.target, region="us-east-1"))
    assert plan(near).route_kind is RouteKind.MAJOR_UPGRADE
    same = replace(near, target=replace(near.target, infrastructure="v1"))
    assert plan(same).as_dict()["route_kind"] == "blue_green"


def test_a_plan_learns_from_how_such_moves_went_and_its_digest_does_not() -> None:
    first = plan()
    assert first.prediction.total_s == first.prediction.estimated_s
    assert first.as_dict()["predicted"]["record"] is None
    record = _record(12, 12, stretch=1.5, rollback_s=Spread(p50=2.0, p95=4.0))
    learnt = plan(replace(SEEN, record=record))
    assert learnt.digest == first.digest
    assert learnt.prediction.estimated_s == first.prediction.estimated_s
    assert learnt.prediction.total_s == first.prediction.total_s * 1.5
    assert learnt.prediction.rollback_s == 4.0
    told = learnt.as_dict()["predicted"]["record"]
    assert told["sentence"] == "12 of the last 12 migrate operations on cross-region routes succeeded"
    assert told["chance"] == 0.9286
    few = plan(replace(SEEN, record=_record(2, 2, stretch=9.0)))
    assert few.prediction.total_s == first.prediction.total_s


def test_what_was_measured_is_judged_by_the_targets_and_nothing_else_is() -> None:
    targets = Targets(migration_s=3600, rollback_s=60, success_rate=0.98, cost=100, currency="INR")
    slow = Spread(p50=10, p95=4000)
    seen = judge(_record(100, 97, duration_s=slow, rollback_s=Spread(p50=1, p95=60), cost=slow), targets)
    assert {name: str(j.verdict) for name, j in seen.items()} == {
        "success_rate": "missed",
        "duration_s": "missed",
        "rollback_s": "met",
        "cost": "missed",
    }
    early = judge(_record(3, 2, judged=0, judged_succeeded=0), replace(targets, currency="EUR"))
    assert {name: str(j.verdict) for name, j in early.items()} == {
        "success_rate": "too early",
        "duration_s": "too early",
        "rollback_s": "too early",
    }
    assert judge(_record(100, 98), targets)["success_rate"].verdict is Verdict.MET
