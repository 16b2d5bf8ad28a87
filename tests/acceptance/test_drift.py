"""A gateway out of step, through the real command line: it is seen, a move refuses, and a rollback takes the second
path, waits for a confirmed look, and loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.drifting import DriftingEstate
from tests.estate import CommandResult, TestEstate
from tests.faults.points import SECOND_PATH
from tests.named import Named

LB = ("lb.sites.rag.localhost",)
BLUE = ("blue.sites.rag.localhost",)


@pytest.fixture(scope="module")
def drifting(cells_estate: TestEstate) -> Iterator[DriftingEstate]:
    named = Named()
    made = DriftingEstate(cells_estate, named)
    try:
        named.start()
        made.start_envoy()
        yield made
    finally:
        made.close()
        named.close()


def kinds(result: CommandResult, tenant: str) -> set[str]:
    (look,) = (t for t in result.json["tenants"] if t["tenant"] == tenant)
    assert all(d["message"] and d["fix"] for d in look["differences"])
    return {d["kind"] for d in look["differences"]}


def operation_of(estate: TestEstate, tenant: str) -> str:
    with estate.service() as service:
        return service.operations(tenant=tenant, limit=1)[0].id


def test_an_edited_route_file_and_a_wrong_name_are_named_refuse_a_move_and_are_repaired(
    drifting: DriftingEstate,
) -> None:
    tenant, estate = "edited", drifting.estate
    estate.add_tenant(tenant)
    host = f"{tenant}.rag.localhost"
    assert kinds(estate.command("drift", tenant, "--json"), tenant) == set()
    drifting.edit_routes(edited="green")
    drifting.named.change(host, "CNAME", "elsewhere.sites.rag.localhost.")
    seen = estate.command("drift", tenant, "--json")
    assert seen.exit_code == 5
    assert kinds(seen, tenant) == {"route", "answer", "name"}
    assert f"tenure drift {tenant} --repair" in seen.json["next_steps"]
    refused = estate.command("migrate", tenant, "--to", "green")
    assert refused.exit_code == 4
    assert "it is placed in blue" in refused.stderr
    repaired = estate.command("drift", tenant, "--repair")
    assert repaired.exit_code == 0, repaired.stdout + repaired.stderr
    assert drifting.named.holds(host) == LB


def test_a_rollback_past_a_gateway_out_of_step_waits_for_a_confirmed_look_and_loses_nothing(
    drifting: DriftingEstate, tmp_path: Path
) -> None:
    """Killed at each of its own points; users write through the gateway until their name leads them past it."""
    tenant, estate, named = "second-path", drifting.estate, drifting.named
    estate.add_tenant(tenant)
    assert estate.command("migrate", tenant, "--to", "green").exit_code == 0
    with drifting.out_of_step(tenant, to="green"):
        seen = estate.command("drift", "--json")
        assert seen.exit_code == 5
        assert kinds(seen, tenant) == {"gated"}
        with estate.load(tenant, folder=tmp_path, rate=30.0) as through_gateway:
            assert estate.killed_at(SECOND_PATH[0], "rollback", tenant).exit_code == -9
            operation = operation_of(estate, tenant)
            assert estate.killed_at(SECOND_PATH[1], "resume", operation).exit_code == -9
            assert named.holds(f"{tenant}.rag.localhost") == BLUE
            asked = estate.command("op", "resume", operation, "--json")
            counts = through_gateway.stats()
            report = estate.lost(through_gateway)
        assert asked.exit_code == 10, asked.stderr
        assert counts.writes_acked > 0
        assert report.clean, report
        assert (asked.json["state"], asked.json["phase"]) == ("awaiting", "awaiting_confirmation")
        assert asked.json["result"]["gated"] is False
        stores = asked.json["result"]["stores"].values()
        assert all(s["processed"] == s["matching"] > 0 for s in stores)
        shown = estate.command("tenant", "show", tenant, "--json").json
        assert shown["cell"] == "blue"
        assert f"tenure op confirm {operation}" in shown["next_steps"]
        told = estate.command("op", "show", operation).stdout
        assert f"answers for {tenant}.rag.localhost: {BLUE[0]}" in told
        assert "through blue's own endpoint" in told
        assert "gateway_drifted" in told

        with drifting.at_name(tenant).load(tenant, folder=tmp_path, rate=30.0) as at_its_cell:
            assert estate.killed_at(SECOND_PATH[2], "confirm", operation).exit_code == -9
            done = estate.command("op", "resume", operation, "--json")
            counts = at_its_cell.stats()
            report = estate.lost(at_its_cell)
        assert done.exit_code == 0, done.stderr
        assert done.json["state"] == "succeeded"
        assert counts.writes_acked > 0
        assert counts.failed == 0
        assert report.clean, report
        assert kinds(estate.command("drift", tenant, "--json"), tenant) == {"route", "answer", "diverted"}
        assert estate.command("migrate", tenant, "--to", "green", "--plan").exit_code == 4
    mended = estate.command("drift", tenant, "--repair", "--json")
    assert mended.exit_code == 0, mended.stderr
    assert named.holds(f"{tenant}.rag.localhost") == LB
    assert estate.command("complete", tenant, "--yes", tenant).exit_code == 0
    assert estate.left_behind(tenant) == []


@pytest.mark.variant
def test_a_name_that_cannot_be_changed_is_said_and_keeps_the_rollback_waiting(
    drifting: DriftingEstate,
) -> None:
    tenant, estate, named = "unsigned", drifting.estate, drifting.named
    host = f"{tenant}.rag.localhost"
    estate.add_tenant(tenant)
    assert estate.command("migrate", tenant, "--to", "green").exit_code == 0
    with drifting.out_of_step(tenant, to="green"):
        waits = drifting.view(port=1).command("rollback", tenant)
        assert waits.exit_code == 10, waits.stderr
        operation = operation_of(estate, tenant)
        events = estate.command("op", "show", operation, "--json").json["events"]
        (problem,) = [e["data"]["problem"] for e in events if e["action"] == "name_not_changed"]
        assert "the name server at 127.0.0.1 port 1 does not answer" in problem
        early = estate.command("op", "confirm", operation)
        assert early.exit_code == 4
        assert "answered by green, not by blue" in early.stderr
        wrong = drifting.view(secret="d3Jvbmc=").command("drift", tenant, "--repair")
        assert wrong.exit_code == 5
        assert "does not accept the key 'tenure-update'" in wrong.stderr
        assert named.holds(host) == LB
        # The gateway still follows nobody; the name of a tenant that waits for it is led past it.
        assert estate.command("drift", tenant, "--repair").exit_code == 5
        assert named.holds(host) == BLUE
        confirmed = estate.command("op", "confirm", operation)
        assert confirmed.exit_code == 0, confirmed.stderr
    assert estate.command("drift", tenant, "--repair").exit_code == 0
    assert estate.command("complete", tenant, "--yes", tenant).exit_code == 0


@pytest.mark.variant
def test_without_names_the_gateway_is_mended_before_the_rollback_is_confirmed_and_a_migrate_refuses(
    drifting: DriftingEstate, cells_estate: TestEstate
) -> None:
    tenant, half, estate = "no-names", "half-moved", drifting.view(names=False)
    for name in (tenant, half):
        estate.add_tenant(name)
    assert estate.command("migrate", tenant, "--to", "green").exit_code == 0
    assert estate.killed_at("verify.equal", "migrate", half, "green").exit_code == -9
    with drifting.out_of_step(tenant, to="green"):
        refused = estate.command("op", "resume", operation_of(estate, half))
        assert refused.exit_code == 5, refused.stderr
        assert f"the requests of {half} cannot be held" in refused.stderr
        assert estate.items_in(half, "green") == 0
        assert estate.left_behind(half) == []

        assert estate.command("rollback", tenant).exit_code == 10
        operation = operation_of(estate, tenant)
        assert estate.command("op", "resume", operation).exit_code == 10
        assert estate.command("op", "confirm", operation).exit_code == 4
        drifting.stop_envoy()
        assert "gateway_silent" in kinds(estate.command("drift", tenant, "--json"), tenant)
    assert estate.command("drift", tenant, "--repair").exit_code == 0
    assert estate.command("op", "confirm", operation).exit_code == 0
    assert estate.command("complete", tenant, "--yes", tenant).exit_code == 0
    assert estate.left_behind(tenant) == []

    # Users come through an Envoy that is on nobody's list: it sends them to the right cell, but past the gate.
    assert cells_estate.command("drift", half, "--repair").exit_code == 0
    elsewhere = drifting.view(names=False, listen=cells_estate.local.gateway)
    assert elsewhere.command("drift", half).exit_code == 0
    refused = elsewhere.command("migrate", half, "--to", "green")
    assert refused.exit_code == 5, refused.stderr
    assert "does not come to the gate" in refused.stderr
    assert elsewhere.left_behind(half) == []
