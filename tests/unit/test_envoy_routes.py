"""The documents for Envoy are a function of the route table: what they promise, checked without an Envoy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure.errors import StoreRefused, UsageError
from tenure.model.names import CellName, TenantId
from tenure.routing.envoy.bootstrap import bootstrap, write_bootstrap
from tenure.routing.envoy.options import EnvoyOptions
from tenure.routing.envoy.routes import (
    AUTHZ,
    Route,
    cell_cluster,
    cluster_document,
    gate_cluster,
    route_document,
    split_address,
)
from tenure.routing.envoy.table import RouteFiles, Table

BLUE, GREEN = CellName("blue"), CellName("green")
CELLS = {BLUE: "http://127.0.0.1:9101", GREEN: "http://127.0.0.1:9102"}
GATE = "http://127.0.0.1:9002"
OPTIONS = EnvoyOptions()

tables = st.dictionaries(
    st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,20}", fullmatch=True).map(TenantId),
    st.builds(lambda cell, gated: (cell, gated), st.sampled_from([BLUE, GREEN]), st.booleans()),
    max_size=8,
).map(
    lambda found: {
        name: Route(host=f"h{n}.example", cell=cell, gated=gated)
        for n, (name, (cell, gated)) in enumerate(found.items())
    }
)


def resources(document: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = document["resources"]
    return found


def clusters_used(node: object) -> set[str]:
    """Every cluster that a document sends anything to."""
    if isinstance(node, dict):
        own = {node["cluster"]} if isinstance(node.get("cluster"), str) else set()
        return own.union(*map(clusters_used, node.values()))
    if isinstance(node, list):
        return set().union(*map(clusters_used, node))
    return set()


@given(tables)
def test_every_cluster_that_routes_use_exists(routes: dict[TenantId, Route]) -> None:
    gated = [tenant for tenant, route in routes.items() if route.gated]
    clusters = cluster_document(CELLS, gated, gate_check=GATE, version="1", options=OPTIONS)
    made = [cluster["name"] for cluster in resources(clusters)]
    assert len(made) == len(set(made)) == len(CELLS) + len(gated) * (len(CELLS) + 1)
    assert clusters_used(route_document(routes, cells=CELLS, version="1", options=OPTIONS)) <= set(made)


@given(tables)
def test_only_gated_tenants_ask_the_gate_and_their_last_route_is_the_fallback(
    routes: dict[TenantId, Route],
) -> None:
    [config] = resources(route_document(routes, cells=CELLS, version="1", options=OPTIONS))
    hosts = {host["name"]: host for host in config["virtual_hosts"]}
    for tenant, route in routes.items():
        last = hosts[tenant]["routes"][-1]
        assert last["match"] == {"prefix": "/"}
        assert len(hosts[tenant]["routes"]) == (2 * len(CELLS) if route.gated else 1)
        for each in hosts[tenant]["routes"]:
            assert (AUTHZ in each.get("typed_per_filter_config", {})) == route.gated
            assert ("internal_redirect_policy" in each["route"]) == route.gated
        expected = cell_cluster(route.cell, tenant) if route.gated else route.cell
        assert last["route"]["cluster"] == expected


@given(tables)
def test_the_shared_host_knows_exactly_the_tenants_of_the_table(routes: dict[TenantId, Route]) -> None:
    [config] = resources(route_document(routes, cells=CELLS, version="1", options=OPTIONS))
    shared = config["virtual_hosts"][-1]
    assert shared["domains"] == ["*"]
    if not routes:
        assert shared["routes"][0]["direct_response"]["status"] == 404
        return
    tree = shared["matcher"]["matcher_tree"]
    assert tree["input"]["typed_config"]["header_name"] == OPTIONS.tenant_header
    assert set(tree["exact_match_map"]["map"]) == set(routes)
    assert shared["matcher"]["on_no_match"]["action"]["typed_config"]["direct_response"]["status"] == 404


def test_cluster_names_of_cells_tenants_and_the_gate_never_meet() -> None:
    """A cell may be called `gate`, and a tenant like a cell."""
    cells = {CellName("gate"): "http://127.0.0.1:1", **CELLS}
    tenants = [TenantId("gate"), TenantId("blue"), TenantId("gate.blue")]
    document = cluster_document(cells, tenants, gate_check=GATE, version="1", options=OPTIONS)
    names = [cluster["name"] for cluster in resources(document)]
    assert len(names) == len(set(names)) == 3 + 3 * 4
    assert gate_cluster(TenantId("blue")) != cell_cluster(CellName("gate"), TenantId("blue"))


def test_the_gate_has_longer_to_answer_than_the_longest_hold() -> None:
    options = EnvoyOptions(hold_max_s=7.5)
    tenant = TenantId("acme")
    routes = {tenant: Route(host="acme.example", cell=BLUE, gated=True)}
    [config] = resources(route_document(routes, cells=CELLS, version="1", options=options))
    check = config["virtual_hosts"][0]["routes"][0]["typed_per_filter_config"][AUTHZ]["check_settings"]
    assert check["http_service"]["server_uri"]["timeout"] == "8.500s"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://127.0.0.1:80", ("127.0.0.1", 80, False)),
        ("http://app.internal", ("app.internal", 80, False)),
        ("https://app.internal/", ("app.internal", 443, True)),
        ("http://[::1]:9000", ("::1", 9000, False)),
    ],
)
def test_addresses_are_taken_apart(address: str, expected: tuple[str, int, bool]) -> None:
    assert split_address(address) == expected


@pytest.mark.parametrize("address", ["", "127.0.0.1:80", "ftp://a", "http://", "http://a:x", "http://a/path"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError):
        split_address(address)


def test_cells_with_names_are_resolved_and_https_is_verified() -> None:
    cells = {BLUE: "https://blue.internal:8443", GREEN: "http://green.internal:80"}
    with pytest.raises(UsageError, match=r"blue\.internal"):
        cluster_document(cells, (), gate_check=GATE, version="1", options=OPTIONS)
    options = EnvoyOptions(tls_ca_file="/ca.pem")
    blue, green = resources(cluster_document(cells, (), gate_check=GATE, version="1", options=options))
    assert (blue["type"], green["type"]) == ("STRICT_DNS", "STRICT_DNS")
    tls = blue["transport_socket"]["typed_config"]
    assert tls["sni"] == "blue.internal"
    assert tls["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"] == [
        {"san_type": "DNS", "matcher": {"exact": "blue.internal"}}
    ]
    assert "transport_socket" not in green


def test_the_bootstrap_keeps_routes_that_are_there(tmp_path: Path) -> None:
    arguments = {
        "listen": "http://127.0.0.1:1",
        "admin": "http://127.0.0.1:2",
        "gate_check": GATE,
        "cells": CELLS,
    }
    path = write_bootstrap(config_dir=tmp_path / "envoy", **arguments)  # type: ignore[arg-type]
    assert json.loads(path.read_text())["dynamic_resources"]
    (path.parent / "rds.json").write_text("mine")
    assert write_bootstrap(config_dir=tmp_path / "envoy", **arguments) == path  # type: ignore[arg-type]
    assert (path.parent / "rds.json").read_text() == "mine"


def test_the_gate_is_asked_by_no_route_unless_the_route_says_so() -> None:
    document = bootstrap(config_dir=Path("/x"), listen="http://h:1", admin="http://h:2", options=OPTIONS)
    manager = document["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    authz = manager["http_filters"][0]
    assert (authz["name"], authz["disabled"]) == (AUTHZ, True)
    assert authz["typed_config"]["failure_mode_allow"]
    assert authz["typed_config"]["clear_route_cache"]


def files(folder: Path) -> RouteFiles:
    return RouteFiles(folder, cells=CELLS, gate_check=GATE, options=OPTIONS)


def test_documents_are_rewritten_only_when_they_differ_and_versions_grow(tmp_path: Path) -> None:
    acme = {TenantId("acme"): Route(host="acme.example", cell=BLUE)}
    table = Table(routes=acme, clustered=frozenset())
    first = files(tmp_path).publish_routes(table)
    assert files(tmp_path).publish_routes(table) == first
    moved = Table(routes={TenantId("acme"): Route(host="acme.example", cell=GREEN)}, clustered=frozenset())
    second = files(tmp_path).publish_routes(moved)
    assert int(second) > int(first)
    (tmp_path / "rds.json").unlink()
    assert int(files(tmp_path).publish_routes(table)) > int(second)


def test_the_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    table = Table(
        routes={TenantId("a"): Route(host="a.example", cell=BLUE, gated=True, epoch=3)},
        clustered=frozenset({TenantId("b")}),
    )
    assert files(tmp_path).read() == Table(routes={}, clustered=frozenset())
    files(tmp_path).write(table)
    assert files(tmp_path).read() == table


def test_a_line_from_before_epochs_were_kept_is_older_than_every_placement(tmp_path: Path) -> None:
    line = {"host": "a.example", "cell": "blue", "gated": False}
    (tmp_path / "routes.json").write_text(json.dumps({"version": 1, "tenants": {"a": line}, "clustered": []}))
    assert files(tmp_path).read().routes == {TenantId("a"): Route(host="a.example", cell=BLUE, epoch=0)}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 9}', '{"version": 1, "tenants": {"a": {}}}'])
def test_a_table_that_cannot_be_understood_is_never_overwritten_silently(tmp_path: Path, text: str) -> None:
    (tmp_path / "routes.json").write_text(text)
    with pytest.raises(StoreRefused, match=r"routes\.json"):
        files(tmp_path).read()


def test_restoring_a_snapshot_gives_the_documents_new_versions(tmp_path: Path) -> None:
    """Envoy may have seen the refused document's version: the old content must not come back under the old one."""
    acme = {TenantId("acme"): Route(host="acme.example", cell=BLUE)}
    first = files(tmp_path).publish_routes(Table(routes=acme, clustered=frozenset()))
    before = files(tmp_path).snapshot()
    second = files(tmp_path).publish_routes(Table(routes={}, clustered=frozenset()))
    files(tmp_path).restore(before)
    restored = json.loads((tmp_path / "rds.json").read_text())
    assert int(restored["version_info"]) > int(second) > int(first)
    assert restored["resources"] == json.loads(before["rds.json"] or "")["resources"]


def test_a_cell_that_the_estate_lost_keeps_its_tenants_from_being_written(tmp_path: Path) -> None:
    lost = {TenantId("acme"): Route(host="acme.example", cell=CellName("red"))}
    with pytest.raises(StoreRefused, match="red"):
        files(tmp_path).publish_routes(Table(routes=lost, clustered=frozenset()))
    assert not (tmp_path / "rds.json").exists()
