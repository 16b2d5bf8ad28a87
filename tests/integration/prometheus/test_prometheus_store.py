"""Prometheus: what is erased is gone from queries and from the blocks on disk; what cannot be erased is said."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tenure.errors import FenceRefused, StoreRefused, StoreUnavailable, UsageError
from tenure.estate.local import RunningEstate
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import Coverage, Found, Identifier, Search, tenant_identifier
from tenure.stores.contract import Fence
from tenure.stores.prometheus import PrometheusStore
from tests.prometheus import PASSWORD, USER, Prometheus
from tests.s3_proxy import CUT, LOST, Answer, Request, faulty, refusal, times

ACME, NEIGHBOURS = TenantId("acme"), (TenantId("acme1"), TenantId("Acme"), TenantId("acme.x"))
Start = Callable[..., Prometheus]


@pytest.fixture
def start(servers: RunningEstate, open_folder: Path) -> Iterator[Start]:
    """`start(admin=True)` gives a Prometheus with an empty folder."""
    made: list[Prometheus] = []

    def begin(*, admin: bool = True) -> Prometheus:
        made.append(Prometheus(servers, open_folder, admin=admin))
        return made[-1]

    yield begin
    for server in made:
        server.close()


def store(server: Prometheus, **changes: Any) -> PrometheusStore:
    options: dict[str, Any] = {
        "name": StoreName("metrics"),
        "cell": CellName("blue"),
        "url": server.url,
        "label": "tenant",
        "metrics": ("app_*",),
        "ignore": ("up", "scrape_*", "go_*"),
        "user": USER,
        "password": PASSWORD,
    }
    return PrometheusStore(**{**options, **changes})


def fence(token: int = 10) -> Fence:
    return Fence(tenant=ACME, epoch=1, token=token)


def closed(its: PrometheusStore) -> PrometheusStore:
    its.fence(fence(), expires_in_s=None, drain_s=1.0)
    return its


def fill(server: Prometheus) -> None:
    for tenant in (ACME, *NEIGHBOURS):
        for name in ("app_requests_total", "app_errors_total"):
            server.exporter.series[f'{name}{{tenant="{tenant}"}}'] = 1.0
    server.exporter.await_scrapes(3)


def ends_with(path: str, request: Request) -> bool:
    return request.path.endswith(path)


def found(its: PrometheusStore, *identifiers: Identifier, everywhere: bool = True) -> list[Found]:
    search = Search(identifiers=identifiers, known=frozenset({ACME, *NEIGHBOURS}), everywhere=everywhere)
    return [one for page in its.find(search) for one in page.found]


def test_what_is_erased_is_gone_from_every_query_and_the_neighbours_keep_theirs(start: Start) -> None:
    server = start()
    fill(server)
    for name in [s for s in server.exporter.series if 'tenant="acme"' in s]:
        del server.exporter.series[name]
    server.exporter.await_scrapes(2)
    its = closed(store(server))
    before = [its.inventory(n).items for n in NEIGHBOURS]
    told: list[int] = []
    assert its.erase(fence(), progress=told.append) == 2
    assert told == [2]
    assert its.inventory(ACME).items == 0
    assert its.erase(fence()) == 0
    assert [its.inventory(n).items for n in NEIGHBOURS] == before == [2, 2, 2]


def test_series_that_are_still_reported_are_never_said_to_be_erased(start: Start) -> None:
    server = start()
    fill(server)
    its = closed(store(server))

    def erase_often() -> None:
        for _ in range(200):  # a scrape falls between erasing and looking sooner or later
            its.erase(fence())

    with pytest.raises(StoreUnavailable, match="have samples again") as caught:
        erase_often()
    assert caught.value.hint
    assert "exporter" in caught.value.hint


def test_without_the_admin_api_nothing_is_erased_and_the_flag_is_named(start: Start) -> None:
    server = start(admin=False)
    fill(server)
    its = closed(store(server))
    with pytest.raises(StoreRefused, match="admin API is off") as caught:
        its.erase(fence())
    assert caught.value.hint
    assert "--web.enable-admin-api" in caught.value.hint
    assert its.inventory(ACME).items == 2


@pytest.mark.parametrize("answer", [refusal(503, "busy"), refusal(429, "busy"), CUT, LOST])
def test_an_erasure_that_was_throttled_or_cut_off_is_not_done_and_is_finished_by_trying_again(
    start: Start, answer: Answer
) -> None:
    server = start()
    fill(server)
    for name in [s for s in server.exporter.series if 'tenant="acme"' in s]:
        del server.exporter.series[name]
    server.exporter.await_scrapes(2)
    with faulty(server.url) as proxy:
        its = closed(store(server, url=proxy.endpoint))
        for path in ("/api/v1/query", "/delete_series", "/clean_tombstones"):
            proxy.rule = times(1, answer, partial(ends_with, path))
            with pytest.raises(StoreUnavailable):
                its.erase(fence())
        proxy.rule = lambda _request: None
        its.erase(fence())
        assert its.inventory(ACME).items == 0
        assert [its.inventory(n).items for n in NEIGHBOURS] == [2, 2, 2]


def test_an_erasure_needs_a_fence_and_no_newer_holder(start: Start) -> None:
    server = start()
    its = store(server)
    with pytest.raises(FenceRefused):
        its.erase(fence())
    its.fence(fence(20), expires_in_s=None, drain_s=1.0)
    for refused in (its.erase, its.open, its.claim):
        with pytest.raises(FenceRefused):
            refused(fence(19))
    its.open(fence(20))
    assert its.fence_state(ACME).writable


def test_identifiers_are_found_in_labels_and_names_of_metrics(start: Start) -> None:
    server = start()
    fill(server)
    exporter = server.exporter
    exporter.report('app_logins_total{tenant="acme",user="ann@example.com"}')
    exporter.report('app_seen_total{tenant="acme1",by="acme"}')
    exporter.report('debug_total{who="acme",other="acme1 Acme xacme"}')
    exporter.report("go_acme_total")
    person = Identifier(tenant=ACME, kind="email", value="ann@example.com")
    seen = {
        (f.label.partition("=")[0], str(f.place), f.coverage): f
        for f in found(store(server), tenant_identifier(ACME), person)
    }
    assert set(seen) == {
        ("tenant", "series app_requests_total:tenant", Coverage.OWN),
        ("tenant", "series app_errors_total:tenant", Coverage.OWN),
        ("tenant", "series app_logins_total:tenant", Coverage.OWN),
        ("email", "series app_logins_total:user", Coverage.OWN),
        ("tenant", "series app_seen_total:by", Coverage.NEIGHBOUR),
        ("tenant", "series debug_total:who", Coverage.UNDOCUMENTED),
        ("tenant", "series go_acme_total", Coverage.IGNORED),
    }
    assert seen["tenant", "series debug_total:who", Coverage.UNDOCUMENTED].entry == {
        "ignore": ["debug_total"]
    }
    assert not [e for f in seen.values() for e in f.examples if "ann@example.com" in e]
    with pytest.raises(UsageError):
        list(store(server).find(Search(identifiers=(person,)), cursor="[1]"))


def test_a_survey_names_metrics_that_are_not_classified_ignored_with_the_label_or_gone(start: Start) -> None:
    server = start()
    fill(server)
    its = store(server, metrics=("app_*", "jobs_*"))
    seen = its.survey((ACME,))
    assert not seen.unclassified
    assert [g.where for g in seen.gone] == ["metrics.jobs_*"]
    server.exporter.report('go_strange{tenant="acme"}')
    server.exporter.report("new_total")
    strays = {p.place.name: p for p in its.survey((ACME,)).unclassified}
    assert set(strays) == {"go_strange", "new_total"}
    assert strays["new_total"].entry == {"ignore": ["new_total"]}
    assert strays["go_strange"].entry == {"metrics": {"go_strange": "plain"}}
    assert "has the label" in strays["go_strange"].remark


def test_odd_characters_in_a_tenants_id_and_in_labels_select_nothing_else(start: Start) -> None:
    server = start()
    odd = TenantId("a.b-c_D")
    server.exporter.report(f'app_requests_total{{tenant="{odd}",path="/\\"x\\\\n"}}')
    server.exporter.report('app_requests_total{tenant="aXb-c_D",path="/"}')
    its = store(server)
    assert its.inventory(odd).items == 1
    other = Fence(tenant=odd, epoch=1, token=1)
    its.fence(other, expires_in_s=None, drain_s=1.0)
    server.exporter.series.clear()
    server.exporter.await_scrapes(2)
    assert its.erase(other) == 1
    assert its.inventory(TenantId("aXb-c_D")).items == 1
    assert re.search("aXb", str(found(its, tenant_identifier(TenantId("aXb-c_D")))))
