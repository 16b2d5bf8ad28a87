"""The promises of a move through the real command line, under load: nothing lost or failed, neighbours untouched."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.estate import TestEstate


def test_migrate_rollback_migrate_complete_under_load(cells_estate: TestEstate, tmp_path: Path) -> None:
    tenant, neighbour = "moving", "moving2"
    cells_estate.add_tenant(tenant)
    cells_estate.add_tenant(neighbour)
    quiet = cells_estate.digests(neighbour)
    with cells_estate.load(tenant, folder=tmp_path) as load:
        moved = cells_estate.command("migrate", tenant, "--to", "green", "--json")
        assert moved.exit_code == 0, moved.stderr
        back = cells_estate.command("rollback", tenant, "--json")
        assert back.exit_code == 0, back.stderr
        again = cells_estate.command("migrate", tenant, "--to", "green", "--json")
        assert again.exit_code == 0, again.stderr
        verified = cells_estate.command("verify", tenant, "--repair", "--json")
        assert verified.exit_code == 0, verified.stderr
        counts = load.stats()
        report = cells_estate.lost(load)
    assert counts.writes_acked > 0
    assert counts.failed == 0
    assert report.clean, report
    for result in (moved, back, again):
        document = result.json
        assert set(document["result"]["stores"]) == {"postgres", "vectors", "redis", "objects"}
        for seen in document["result"]["stores"].values():
            assert seen["processed"] == seen["matching"] > 0
        assert document["cost"]["currency"] == "INR"
        assert document["cost"]["total"] > 0
    assert "green" in again.json["sentence"]
    assert cells_estate.digests(neighbour) == quiet
    done = cells_estate.command("complete", tenant, "--yes", tenant, "--json")
    assert done.exit_code == 0, done.stderr
    assert cells_estate.items_in(tenant, "blue") == 0
    assert cells_estate.items_in(tenant, "green") > 0
    assert cells_estate.left_behind(tenant) == []
    assert cells_estate.digests(neighbour) == quiet


def test_a_plan_changes_nothing_and_its_digest_is_what_apply_wants(cells_estate: TestEstate) -> None:
    tenant = "planned"
    cells_estate.add_tenant(tenant)
    before = cells_estate.digests(tenant)
    plan = cells_estate.command("migrate", tenant, "--to", "eu", "--plan", "--json")
    assert plan.exit_code == 0, plan.stderr
    assert cells_estate.digests(tenant) == before
    assert cells_estate.left_behind(tenant) == []
    document = plan.json
    assert {"copy_s", "hold_ms", "rollback_ms", "cost"} <= set(document["predicted"])
    assert document["next_steps"] == [f"tenure migrate {tenant} --to eu --apply {document['digest']}"]
    applied = cells_estate.command("migrate", tenant, "--to", "eu", "--apply", document["digest"])
    assert applied.exit_code == 0, applied.stderr
    stale = cells_estate.command("rollback", tenant, "--apply", document["digest"])
    assert stale.exit_code == 6
    assert cells_estate.command("rollback", tenant).exit_code == 0
    assert cells_estate.command("complete", tenant, "--yes", tenant).exit_code == 0
    assert cells_estate.left_behind(tenant) == []


def test_the_timeline_tells_what_happened(cells_estate: TestEstate) -> None:
    tenant = "told"
    cells_estate.add_tenant(tenant)
    moved = cells_estate.command("migrate", tenant, "--to", "green", "--json")
    assert moved.exit_code == 0, moved.stderr
    shown = cells_estate.command("op", "show", moved.json["operation"], "--json").json
    actions = [event["action"] for event in shown["events"]]
    for action in ("copies_started", "reverse_armed", "placement_changed", "switched", "soak_begun"):
        assert action in actions, actions
    assert actions.index("reverse_armed") < actions.index("placement_changed") < actions.index("soak_begun")
    assert [step["state"] for step in shown["steps"]] == ["done"] * 7
    listed = cells_estate.command("op", "list", "--tenant", tenant, "--json").json
    assert [o["operation"] for o in listed["operations"]] == [moved.json["operation"]]
    assert cells_estate.command("rollback", tenant).exit_code == 0
    assert cells_estate.command("complete", tenant, "--yes", tenant).exit_code == 0


@pytest.mark.parametrize("where", ["missing", "extra", "mismatched"])
def test_differences_on_the_target_are_named_and_repaired(cells_estate: TestEstate, where: str) -> None:
    tenant = f"differs-{where}"
    cells_estate.add_tenant(tenant)
    assert cells_estate.command("migrate", tenant, "--to", "green").exit_code == 0
    # green serves; what is damaged is blue's copy, behind everybody's back.
    planted = cells_estate.damage(tenant, "blue", where)
    found = cells_estate.command("verify", tenant, "--json")
    assert found.exit_code == 5, found.stderr
    document = found.json
    seen = {(d["store"], d["collection"], d["kind"]) for d in document["result"]["differences"]}
    assert seen == planted
    repaired = cells_estate.command("verify", tenant, "--repair")
    assert repaired.exit_code == 0, repaired.stderr
    assert cells_estate.command("verify", tenant).exit_code == 0
    assert cells_estate.command("complete", tenant, "--yes", tenant).exit_code == 0


def test_too_many_differences_bring_a_full_resync_with_parallel_workers(cells_estate: TestEstate) -> None:
    tenant = "differs-widely"
    cells_estate.add_tenant(tenant)
    assert cells_estate.command("migrate", tenant, "--to", "green").exit_code == 0
    gone = cells_estate.devastate(tenant, "blue")
    assert gone > 50
    found = cells_estate.command("verify", tenant, "--json")
    assert found.exit_code == 5
    assert found.json["result"]["stores"]["postgres"]["missing"] == gone
    repaired = cells_estate.command("verify", tenant, "--repair", "--json")
    assert repaired.exit_code == 0, repaired.stderr
    shown = cells_estate.command("op", "show", repaired.json["operation"], "--json").json
    resynced = [e["data"] for e in shown["events"] if e["action"] == "resynced"]
    assert {"store": "postgres", "workers": 4} in resynced
    assert cells_estate.command("verify", tenant).exit_code == 0
    assert cells_estate.command("complete", tenant, "--yes", tenant).exit_code == 0
