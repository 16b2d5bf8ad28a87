"""The sample app with every store it can use, through the real command line: all of them move with a tenant and under
load, what differs in any is mended, and no undocumented place in any of them is missed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from rag_app.local import ALL
from tenure.estate.local.cell_plans import CellAccess
from tenure.estate.local.running import RunningEstate
from tenure.model.names import CellName
from tests.acceptance.planting import (
    NEIGHBOURS,
    REDIS_PLACES,
    S3_PLACES,
    TABLE_PLACES,
    TENANT,
    UPPER,
    clear_postgres,
    clear_redis,
    clear_s3,
    plant_in_postgres,
    plant_in_redis,
    plant_in_s3,
)
from tests.acceptance.planting_beside import (
    ANALYTICS_PLACES,
    LOG_PLACES,
    METRIC_PLACES,
    PINECONE_PLACES,
    VAULT_PLACES,
    clear_analytics,
    clear_cloudwatch,
    clear_pinecone,
    clear_vault,
    plant_in_analytics,
    plant_in_cloudwatch,
    plant_in_pinecone,
    plant_in_vault,
)
from tests.estate import TestEstate, running_estate
from tests.prometheus import PASSWORD, USER, Prometheus

MOVING = {"postgres", "vectors", "redis", "objects", "pinecone", "analytics", "logs"}
STAYING = {"metrics", "vault"}
BLUE = CellName("blue")
PLANTED = {
    "postgres": TABLE_PLACES,
    "redis": REDIS_PLACES,
    "objects": S3_PLACES,
    "pinecone": PINECONE_PLACES,
    "analytics": ANALYTICS_PLACES,
    "logs": LOG_PLACES,
    "metrics": METRIC_PLACES,
    "vault": VAULT_PLACES,
}
PLANT = (
    *(plant_in_postgres, plant_in_redis, plant_in_s3, plant_in_pinecone),
    *(plant_in_analytics, plant_in_cloudwatch, plant_in_vault),
)
CLEAR = (
    *(clear_postgres, clear_redis, clear_s3, clear_pinecone),
    *(clear_analytics, clear_cloudwatch, clear_vault),
)


@pytest.fixture(scope="module")
def estate() -> Iterator[TestEstate]:
    with running_estate(ALL) as running:
        yield running


@pytest.fixture
def planted(estate: TestEstate) -> Iterator[CellAccess]:
    with estate.service() as service:
        known = {t.id for t, _ in service.tenants()}
    if TENANT not in known:
        for tenant in (TENANT, *NEIGHBOURS):
            estate.add_tenant(tenant)
        with estate.service() as service:
            service.add_tenant(UPPER, cell="blue", tier="gold", host="upper.rag.localhost", residency=None)
    blue = estate.local.cells[BLUE]
    try:
        for plant in PLANT:
            plant(blue)
        yield blue
    finally:
        for clear in CLEAR:
            clear(blue)


@pytest.mark.timeout(600)
def test_all_stores_move_there_and_back_and_there_again_under_load(
    estate: TestEstate, tmp_path: Path
) -> None:
    tenant, neighbour = "whole", "whole2"
    estate.add_tenant(tenant)
    estate.add_tenant(neighbour)
    quiet = estate.digests(neighbour)
    plan = estate.command("migrate", tenant, "--to", "green", "--plan", "--json")
    assert plan.exit_code == 0, plan.stderr
    assert {its["store"] for its in plan.json["stay"]} == STAYING
    assert "15 months" in plan.stdout
    with estate.load(tenant, folder=tmp_path) as load:
        moved = estate.command("migrate", tenant, "--to", "green", "--json")
        assert moved.exit_code == 0, moved.stderr
        back = estate.command("rollback", tenant, "--json")
        assert back.exit_code == 0, back.stderr
        again = estate.command("migrate", tenant, "--to", "green", "--json")
        assert again.exit_code == 0, again.stderr
        counts = load.stats()
        report = estate.lost(load)
    assert counts.writes_acked > 0
    assert counts.failed == 0
    assert report.clean, report
    assert {"pinecone", "analytics", "postgres", "redis", "objects", "vectors"} <= set(report.checked)
    for result in (moved, back, again):
        stores = result.json["result"]["stores"]
        assert set(stores) == MOVING
        for seen in stores.values():
            assert seen["processed"] == seen["matching"] > 0
    assert estate.digests(neighbour) == quiet
    done = estate.command("complete", tenant, "--yes", tenant, "--json")
    assert done.exit_code == 0, done.stderr
    assert estate.items_in(tenant, "blue") == 0
    assert estate.items_in(tenant, "green") > 0
    assert estate.left_behind(tenant) == []
    assert estate.digests(neighbour) == quiet


@pytest.mark.variant
@pytest.mark.timeout(600)
def test_what_differs_in_any_store_is_named_and_mended(estate: TestEstate) -> None:
    tenant = "damaged-everywhere"
    estate.add_tenant(tenant)
    moved = estate.command("migrate", tenant, "--to", "green", "--json")
    assert moved.exit_code == 0, moved.stderr
    expected = estate.damage(tenant, "blue", "missing")
    assert {store for store, _, _ in expected} == MOVING
    found = estate.command("verify", tenant, "--json")
    assert found.exit_code == 5, found.stdout
    seen = {(d["store"], d["collection"], d["kind"]) for d in found.json["result"]["differences"]}
    assert seen == expected
    mended = estate.command("verify", tenant, "--repair", "--json")
    assert mended.exit_code == 0, mended.stdout
    assert estate.command("rollback", tenant).exit_code == 0
    estate.finish(tenant, "blue")


@pytest.mark.timeout(600)
def test_a_full_scan_finds_every_undocumented_place_in_every_store_and_nothing_of_the_neighbours(
    estate: TestEstate, planted: CellAccess
) -> None:
    before = estate.digests(TENANT)
    result = estate.command("catalogue", "scan", TENANT, "--full", "--cell", "blue", "--json", timeout_s=300)
    assert result.exit_code == 1, result.stderr
    assert result.json["complete"]
    found: dict[str, set[str]] = {}
    for finding in result.json["findings"]:
        assert finding["tenant"] == TENANT
        if finding["judgement"] in {"undocumented", "contradicted"}:
            found.setdefault(finding["store"], set()).add(f"{finding['kind']} {finding['place']}")
    for store in PLANTED.keys() | found.keys():
        ours, theirs = found.get(store, set()), PLANTED.get(store, set())
        assert ours == theirs, (store, sorted(theirs - ours), sorted(ours - theirs))
    assert all(len(places) >= 3 for places in PLANTED.values())
    assert sum(map(len, PLANTED.values())) >= 30
    assert not [f for f in result.json["findings"] if f["judgement"] == "misplaced"]
    assert estate.digests(TENANT) == before


def test_a_full_scan_looks_at_the_series_of_a_prometheus(
    estate: TestEstate, servers: RunningEstate, open_folder: Path, tmp_path: Path
) -> None:
    tenant = "seried"
    with estate.service() as service:
        for known in (tenant, f"{tenant}-corp"):
            service.add_tenant(known, cell="blue", tier="gold", host=f"{known}.rag.localhost", residency=None)
    prometheus = Prometheus(servers, open_folder)
    try:
        for who in (tenant, f"{tenant}2", f"x{tenant}", tenant.upper(), f"{tenant}-corp"):
            prometheus.exporter.series[f'calls_total{{customer="{who}"}}'] = 1.0
            prometheus.exporter.series[f'told_total{{path="/of/{who}/x"}}'] = 1.0
        prometheus.exporter.report(f"made_by_{tenant}_total")
        config = with_series(estate, prometheus.url, tmp_path)
        scan = ("catalogue", "scan", tenant, "--full", "--cell", "blue", "--store", "series", "--json")
        result = estate.command(*scan, config=config)
        assert result.exit_code == 1, result.stderr
        places = {
            (f["tenant"], f"{f['kind']} {f['place']}", f["items"])
            for f in result.json["findings"]
            if f["judgement"] == "undocumented"
        }
        assert places == {
            (tenant, "series calls_total:customer", 1),
            (tenant, "series told_total:path", 1),
            (tenant, f"series made_by_{tenant}_total", 1),
        }
    finally:
        prometheus.close()


def with_series(estate: TestEstate, url: str, folder: Path) -> Path:
    """A `tenure.yaml` and a catalogue that have the server beside the cell's stores."""
    document = yaml.safe_load(estate.config.read_text("utf-8"))
    catalogue = yaml.safe_load((estate.config.parent / document["catalogue"]).read_text("utf-8"))
    catalogue["stores"]["series"] = {"kind": "prometheus", "label": "tenant", "metrics": {"rag_*": "plain"}}
    password = folder / "prometheus-password"
    password.write_text(PASSWORD.reveal())
    password.chmod(0o600)
    own = {"kind": "prometheus", "user": USER, "password": {"file": str(password)}}
    for cell in document["cells"]:  # the other cells' servers are not looked at
        elsewhere = f"http://{cell}.prometheus.example"
        document["cells"][cell]["stores"]["series"] = own | {"url": url if cell == BLUE else elsewhere}
    mapped = estate.config.with_name("with-series-catalogue.yaml")
    mapped.write_text(json.dumps(catalogue))
    document["catalogue"] = mapped.name
    config = estate.config.with_name("with-series.yaml")
    config.write_text(json.dumps(document))
    return config


@pytest.mark.timeout(600)
def test_a_tenant_is_erased_from_every_store_and_what_was_planted_withholds_the_certificate(
    estate: TestEstate, planted: CellAccess
) -> None:
    assert estate.command("backup", "create", TENANT).exit_code == 0
    quiet = {neighbour: estate.digests(neighbour) for neighbour in NEIGHBOURS}
    wish = ("erase", "tenant", TENANT, "--request", "gdpr_req_all", "--yes", TENANT, "--json")
    asked = estate.command(*wish, timeout_s=400)
    assert asked.exit_code == 10, asked.stderr
    log = estate.command("audit", "show", TENANT, "--json").json["entries"]
    (told,) = [e["data"]["places"] for e in log if e["action"] == "residue_found"]
    found: dict[str, set[str]] = {}
    for place in told:
        named = f"{place['kind']} {place['place']}"
        if place["cell"] == "blue":
            found.setdefault(place["store"], set()).add(named)
        else:  # on a server, or in an account, that the cells share
            assert named in PLANTED[place["store"]], place
    # Nobody can delete metrics, wherever they are: they are declared, and ask nobody.
    for store in (PLANTED.keys() | found.keys()) - {"metrics"}:
        ours, theirs = found.get(store, set()), PLANTED.get(store, set())
        assert ours == theirs, (store, sorted(theirs - ours), sorted(ours - theirs))
    assert "metrics" not in found
    assert estate.command("certificate", "show", "gdpr_req_all").exit_code == 2
    for clear in CLEAR:
        clear(planted)
    done = estate.command("op", "confirm", asked.json["operation"], "--json", timeout_s=400)
    assert done.exit_code == 0, done.stderr
    assert {neighbour: estate.digests(neighbour) for neighbour in NEIGHBOURS} == quiet
    certificate = estate.command("certificate", "show", "gdpr_req_all", "--json").json["certificate"]
    levels = {one["store"]: one["level"] for one in certificate["stores"]}
    assert levels.keys() == MOVING | STAYING
    assert (levels["metrics"], levels["vault"]) == ("expires", "cryptographic")
    assert {levels[store] for store in MOVING} == {"logical"}
    held = {one["store"]: one["before"]["items"] for one in certificate["stores"] if one["cell"] == "blue"}
    assert all(held[store] for store in MOVING), held
    assert all(one["after"]["items"] == 0 for one in certificate["stores"] if one["store"] != "metrics")
    declared = {
        f"{one['kind']} {one['place']}"
        for one in certificate["remaining"]
        if (one["store"], one["cell"]) == ("metrics", "blue") and "expire" in one["why"]
    }
    assert declared >= PLANTED["metrics"]
    assert certificate["state"] == "interim"
    words = estate.command("certificate", "show", "gdpr_req_all").stdout
    assert TENANT in words
    for neighbour in (*NEIGHBOURS, UPPER):
        assert f" {neighbour} " not in words
