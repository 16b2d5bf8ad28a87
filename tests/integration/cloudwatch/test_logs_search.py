"""Finding identifiers in CloudWatch Logs, and groups and streams that the catalogue does not name."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence

import pytest

from tenure.catalogue import DataClass, LogPlace, NamePattern
from tenure.errors import StoreUnavailable, UsageError
from tenure.model.names import TenantId
from tenure.model.search import Coverage, FindPage, Found, Identifier, PlaceKind, Search, tenant_identifier
from tenure.stores.cloudwatch import LogsStore
from tenure.stores.cloudwatch.events import Stream
from tests.aws_faults import refused
from tests.contract.rigs.cloudwatch_logs import LogsRig
from tests.contract.rigs.protocol import Side

MakeRig = Callable[..., LogsRig]
BLUE = Side.BLUE
ACME = TenantId("acme")
NEIGHBOURS = tuple(map(TenantId, ("acme1", "Acme", "xacme", "acme-corp")))
PERSON = Identifier(tenant=ACME, kind="email", value="ann@example.com")
SHARED = LogPlace(
    group=NamePattern.parse("/aws/lambda/api"), streams=NamePattern.parse("*"), data_class=DataClass.PERSONAL
)


def searched(*identifiers: Identifier, everywhere: bool = True, **more: float) -> Search:
    return Search(
        identifiers=identifiers or (tenant_identifier(ACME), PERSON),
        known=frozenset({ACME, *NEIGHBOURS}),
        everywhere=everywhere,
        **more,  # type: ignore[arg-type]
    )


def merged(pages: Sequence[FindPage]) -> dict[tuple[str, str, Coverage], Found]:
    found: dict[tuple[str, str, Coverage], Found] = {}
    for page in pages:
        for one in page.found:
            key = one.label.partition("=")[0], str(one.place), one.coverage
            found[key] = one if key not in found else found[key].merged(one)
    return found


def catalogued(rig: LogsRig) -> LogsStore:
    return rig.store(BLUE, places=(SHARED, *rig.places), ignore=(NamePattern.parse("/aws/rds/*"),))


def plant(rig: LogsRig) -> None:
    for group, stream, message in (
        ("/app/acme", "web", "acme signs in ann@example.com"),
        ("/app/acme", "web", "nobody in particular"),
        ("/app/acme1", "web", "acme1, and acme by the way"),
        ("/app/Acme", "web", "Acme xacme acme-corp acme1"),
        ("/aws/lambda/api", "2026/[$LATEST]0a", json.dumps({"tenant": "acme"})),
        ("/aws/rds/main", "error", "statement: ... where tenant_id = 'acme'"),
        ("/debug/sandbox", "acme/x", "token " + base64.b64encode(b'{"sub": "acme"}').decode()),
        ("/debug/sandbox", "other", "for%20acme%2Fx and ann\\u0040example.com"),
    ):
        rig.put(BLUE, Stream(group, stream), rig.now(), message)


def test_identifiers_are_found_in_names_and_events_and_never_inside_a_neighbours(logs_rig: MakeRig) -> None:
    rig = logs_rig()
    plant(rig)
    found = merged(list(catalogued(rig).find(searched())))
    # The sample app's groups are other tests', in the same CloudWatch.
    ours = {
        key: its.items for key, its in found.items() if rig.prefix not in key[1] and "/rag_app/" not in key[1]
    }
    assert ours == {
        ("tenant", "log group /app/{tenant}", Coverage.OWN): 1,
        ("tenant", "log event /app/{tenant}", Coverage.OWN): 1,
        ("email", "log event /app/{tenant}", Coverage.OWN): 1,
        ("tenant", "log event /app/{tenant}", Coverage.NEIGHBOUR): 1,
        ("tenant", "log event /aws/lambda/api:*", Coverage.NEIGHBOUR): 1,
        ("tenant", "log event /aws/rds/main", Coverage.IGNORED): 1,
        ("tenant", "log stream /debug/sandbox", Coverage.UNDOCUMENTED): 1,
        ("tenant", "log event /debug/sandbox", Coverage.UNDOCUMENTED): 2,
        ("email", "log event /debug/sandbox", Coverage.UNDOCUMENTED): 1,
    }
    stray = found["tenant", "log event /debug/sandbox", Coverage.UNDOCUMENTED]
    assert stray.entry == {"groups": {"/debug/sandbox": {"holds": "personal", "streams": "*"}}}
    assert {*stray.encodings} == {"base64", "percent"}
    assert all("ann@example.com" not in example for its in found.values() for example in its.examples)


def test_only_what_the_catalogue_names_is_looked_at_where_that_is_asked(logs_rig: MakeRig) -> None:
    rig = logs_rig()
    plant(rig)
    found = merged(list(catalogued(rig).find(searched(everywhere=False))))
    assert {coverage for _, _, coverage in found} == {Coverage.OWN, Coverage.NEIGHBOUR}


@pytest.mark.parametrize("theirs", ["/green", "/blue-eu"])
def test_groups_of_other_cells_are_theirs_and_groups_of_nobody_are_found_beside_them(
    logs_rig: MakeRig, theirs: str
) -> None:
    """Also those of a cell whose prefix begins as this one's."""
    rig = logs_rig()
    store = rig.store(BLUE, prefix=f"{rig.prefix}/blue", elsewhere=(f"{rig.prefix}{theirs}",))
    for group in ("/blue/app/acme", f"{theirs}/app/acme", "/nobody/of-acme"):
        rig.put(BLUE, Stream(group, "web"), rig.now(), "acme")
    found = [its for its in merged(list(store.find(searched()))).values() if its.tenant == ACME]
    here = [its for its in found if any(rig.prefix.strip("/") in e or "acme" in e for e in its.examples)]
    assert {its.coverage for its in here} >= {Coverage.OWN, Coverage.UNDOCUMENTED}
    mark = theirs.removeprefix("/blue")
    assert not [its for its in here if any(mark in e for e in its.examples)]
    assert f"{mark}/" not in repr(store.survey({ACME}))


def test_a_search_goes_on_from_any_of_its_pages_and_refuses_a_strange_cursor(logs_rig: MakeRig) -> None:
    rig = logs_rig()
    plant(rig)
    store = catalogued(rig)
    whole = merged(list(store.find(searched(everywhere=False))))
    pages = list(store.find(searched(everywhere=False)))
    for n, page in enumerate(pages[:-1]):
        rest = list(store.find(searched(everywhere=False), cursor=page.cursor))
        assert merged([*pages[: n + 1], *rest]).keys() == whole.keys()
        assert rest[-1].cursor is None
    with pytest.raises(UsageError):
        list(store.find(searched(), cursor="somebody else's"))


def test_a_search_survives_throttling_and_a_token_that_expires_halfway(logs_rig: MakeRig) -> None:
    rig = logs_rig()
    at = rig.now()
    rig.put(BLUE, Stream("/app/acme", "web"), at, "first")
    for start in range(0, 24_000, 8_000):
        rig.client(BLUE).put_log_events(
            logGroupName=f"{rig.prefix}/app/acme",
            logStreamName="web",
            logEvents=[
                {"timestamp": at + n // 5, "message": f"{n} for acme" if n % 2_000 == 0 else str(n)}
                for n in range(start, start + 8_000)
            ],
        )
    store, proxy = rig.faulty(BLUE)
    proxy.answer(refused("ThrottlingException"), operation="FilterLogEvents", times=2)
    proxy.answer(
        refused("InvalidParameterException"),
        operation="FilterLogEvents",
        when=lambda asked: "nextToken" in asked.fields,
        times=2,
    )
    found = merged(list(store.find(searched(tenant_identifier(ACME), everywhere=False))))
    assert found["tenant", "log event /app/{tenant}", Coverage.OWN].items >= 12
    assert proxy.asked.count("FilterLogEvents") >= 3 + 2 + 2
    proxy.answer(refused("ThrottlingException"), operation="FilterLogEvents")
    with pytest.raises(StoreUnavailable):
        list(store.find(searched(everywhere=False)))


def test_a_group_that_may_not_be_read_is_skipped_by_name_and_ends_nothing(logs_rig: MakeRig) -> None:
    rig = logs_rig()
    plant(rig)
    store, proxy = rig.faulty(BLUE)
    proxy.answer(
        refused("AccessDeniedException"),
        operation="FilterLogEvents",
        when=lambda asked: asked.fields["logGroupName"].endswith("/app/Acme"),
    )
    pages = list(store.find(searched(everywhere=False)))
    [skipped] = [s for page in pages for s in page.skipped]
    assert skipped.place.kind is PlaceKind.LOG_EVENT
    assert "AccessDenied" in skipped.reason
    assert ("tenant", "log event /app/{tenant}", Coverage.OWN) in merged(pages)


def test_what_is_over_the_limit_is_said_to_be_skipped(logs_rig: MakeRig) -> None:
    rig = logs_rig()
    rig.put(BLUE, Stream("/app/acme", "web"), rig.now(), "x" * 2000 + " acme")
    pages = list(rig.store(BLUE).find(searched(everywhere=False, body_limit_bytes=1000)))
    [skipped] = [s for page in pages for s in page.skipped]
    assert (skipped.items, skipped.size_bytes) == (1, 1005)
    assert not [f for p in pages for f in p.found if f.place.kind is PlaceKind.LOG_EVENT]


def test_a_survey_names_every_group_and_stream_that_is_not_classified_and_every_one_that_is_gone(
    logs_rig: MakeRig,
) -> None:
    rig = logs_rig("cloudwatch_logs-streams")
    rig.put(BLUE, rig.stream(ACME, "web"), rig.now(), "ours")
    own = LogPlace(group=NamePattern.parse("/own/{tenant}/*"), streams=None, data_class=DataClass.PERSONAL)
    idle = LogPlace(group=NamePattern.parse("/idle/{tenant}"), streams=None, data_class=DataClass.PERSONAL)
    store = rig.store(
        BLUE, places=(*rig.places, own, idle, SHARED), ignore=(NamePattern.parse("/aws/rds/*"),)
    )
    for group in ("/own/acme/web", "/own/acme/cron", "/own/acme1/web", "/aws/rds/a", "/aws/rds/b"):
        rig.put(BLUE, Stream(group, "s"), rig.now(), "x")
    seen = store.survey((ACME, *NEIGHBOURS))
    assert not seen.unclassified
    assert {str(p.place): p.items for p in seen.places} == {
        "log group /app/all": 1,
        "log group /aws/rds/*": 2,
        "log group /own/{tenant}/*": 3,
    }
    assert {(str(g.place), g.where, g.empty) for g in seen.gone} == {
        ("log group /aws/lambda/api", "groups./aws/lambda/api", False),
        ("log group /idle/{tenant}", "groups./idle/{tenant}", True),
    }
    for group, stream in (("/own/web/x", "s"), ("/new", "s"), ("/app/all", "cron"), ("/app/all", "acme2/x")):
        rig.put(BLUE, Stream(group, stream), rig.now(), "x")
    strays = {str(p.place): p for p in store.survey((ACME, *NEIGHBOURS)).unclassified}
    assert {name.partition(" /")[2].partition("/")[0] for name in strays} == {"own", "new", "app"}
    assert sum(p.items or 0 for p in strays.values()) == 4
    assert all(p.remark for p in strays.values())


def test_a_survey_leaves_out_other_cells_groups(logs_rig: MakeRig) -> None:
    rig = logs_rig()
    rig.put(BLUE, Stream("/green/debug", "s"), rig.now(), "x")
    assert not rig.store(BLUE, prefix=f"{rig.prefix}/blue").survey((ACME,)).places
