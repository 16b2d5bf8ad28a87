"""CloudWatch metrics as what they are: listed for two weeks, kept for fifteen months, deleted by nobody."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tenure.errors import StoreRefused, StoreUnavailable, UsageError
from tenure.model.names import TenantId
from tenure.model.search import Coverage, Search, tenant_identifier
from tenure.stores.contract import Fence
from tests.aws_faults import Answer, refused
from tests.contract.staying.cloudwatch_metrics import MetricsRig

ACME, ACME1 = TenantId("acme"), TenantId("acme1")


@pytest.fixture
def rig(moto: str) -> Iterator[MetricsRig]:
    made = MetricsRig(moto)
    yield made
    made.close()


def searched() -> Search:
    return Search(identifiers=(tenant_identifier(ACME),), known=frozenset({ACME, ACME1}))


def test_an_erasure_is_refused_with_the_day_on_which_the_last_data_points_expire(rig: MetricsRig) -> None:
    rig.write(ACME, "a")
    store = rig.store()
    day = f"{datetime.now(UTC) + timedelta(days=455):%Y-%m-%d}"
    for tenant, counted in ((ACME, "1 series"), (TenantId("nobody"), "0 series")):
        with pytest.raises(StoreRefused, match=counted) as caught:
            store.erase(Fence(tenant=tenant, epoch=1, token=1))
        assert day in caught.value.message
    assert store.inventory(ACME).items == 1
    assert store.capabilities.stays
    assert "15 months" in store.capabilities.stays


def test_a_metric_counts_for_the_tenant_its_dimension_names_whatever_else_it_has(rig: MetricsRig) -> None:
    rig.put("RagApp", "Latency", Tenant="acme", Path="/x")
    rig.put("RagApp", "Latency", Tenant="acme1", Path="acme")
    rig.put("RagApp", "Latency", Path="/x")
    rig.put("Other", "Latency", Tenant="acme")
    found = rig.store().inventory(ACME).collections
    assert {name: its.items for name, its in found.items()} == {"RagApp": 1}


def test_a_search_tells_own_metrics_from_neighbours_ignored_and_undocumented_ones(rig: MetricsRig) -> None:
    rig.put("RagApp", "Latency", Tenant="acme")
    rig.put("RagApp", "Latency", Tenant="acme1", Path="acme")
    rig.put("AWS/Lambda", "Duration", FunctionName="import-acme")
    rig.put("Old", "Seen", Customer="acme")
    rig.put("Old", "Seen", Customer="acme1")
    [page] = list(rig.store().find(searched()))
    assert {(f.place.name, f.coverage) for f in page.found} == {
        ("RagApp:Latency", Coverage.OWN),
        ("RagApp:Latency", Coverage.NEIGHBOUR),
        ("AWS/Lambda:Duration", Coverage.IGNORED),
        ("Old:Seen", Coverage.UNDOCUMENTED),
    }
    [stray] = [f for f in page.found if f.coverage is Coverage.UNDOCUMENTED]
    assert (stray.items, stray.entry) == (
        1,
        {"namespaces": {"Old": {"dimension": "Customer", "holds": "plain"}}},
    )


def test_throttling_and_a_token_that_expires_halfway_are_survived(rig: MetricsRig) -> None:
    for n in range(600):
        rig.put("RagApp", "Latency", Tenant="acme", Path=f"/{n}")
    store, proxy = rig.faulty()
    pages = list(store.find(searched()))
    assert len(pages) == 2
    assert pages[-1].items == 600
    error = b'{"__type": "InvalidParameterValueException", "message": "the token has expired"}'
    for rule in (refused("ThrottlingException"), Answer(status=400, body=error)):
        proxy.answer(rule, operation="ListMetrics", skip=1, times=1)
    rest = list(store.find(searched(), cursor=pages[0].cursor))
    assert rest[-1].cursor is None
    assert rest[-1].items >= 600
    proxy.clear()
    proxy.answer(Answer(status=503), operation="ListMetrics")
    with pytest.raises(StoreUnavailable):
        store.inventory(ACME)
    with pytest.raises(UsageError):
        list(store.find(searched(), cursor="no"))


def test_a_survey_names_namespaces_that_are_not_classified_and_those_nobody_reports_to(
    rig: MetricsRig,
) -> None:
    rig.put("AWS/Lambda", "Duration", FunctionName="f")
    rig.put("Stray", "Seen", Customer="acme")
    seen = rig.store().survey((ACME,))
    assert [(p.place.name, p.classified) for p in seen.places] == [("AWS/Lambda", True), ("Stray", False)]
    assert seen.unclassified[0].entry == {
        "namespaces": {"Stray": {"dimension": "Customer", "holds": "plain"}}
    }
    assert [(g.where, g.empty) for g in seen.gone] == [("namespaces.RagApp", True)]
