"""Canary reads and the watch of the soak, through the real command line, under load, with an app that really fails."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from rag_app.faults import Fault
from rag_app.history import History, Outcome
from tenure.operations.canary import TTL_S
from tenure.operations.watch import Outcome as WatchOutcome
from tenure.wiring import open_service
from tests.estate import TestEstate

SHARES = (10, 25, 50, 75, 100)
SOAK_S = 2.5
RATE = 60.0
BOUNDS = {"error_rate": 0.02, "latency_margin_ms": 1500, "min_requests": 3}


@pytest.fixture(scope="module")
def config(cells_estate: TestEstate) -> Iterator[Path]:
    """The estate with tiers that ask for canaries and for rollbacks."""
    document = yaml.safe_load(cells_estate.config.read_text())
    canary = {"shares": list(SHARES), "soak_s": SOAK_S}
    document["tiers"] |= {
        "careful": {"rank": 1, "canary": canary, "bounds": BOUNDS, "rollback_on_regression": True},
        "told": {"rank": 2, "canary": {"shares": [25, 50], "soak_s": SOAK_S}, "bounds": BOUNDS},
    }
    path = cells_estate.config.with_name("tenure-canary.yaml")
    path.write_text(json.dumps(document))
    yield path
    cells_estate.go_wrong("green", {})
    path.unlink()


def add(estate: TestEstate, config: Path, tenant: str, tier: str) -> None:
    estate.add_tenant(tenant)
    set_tier(config, tenant, tier)


def set_tier(config: Path, tenant: str, tier: str) -> None:
    with closing(open_service(config)) as service:
        service.set_tier(tenant, tier)


def events(estate: TestEstate, operation: str) -> list[dict[str, Any]]:
    """The operation's journal, each event with `when` as the load's clock has it."""
    found: list[dict[str, Any]] = estate.command("op", "show", operation, "--json").json["events"]
    return [{**event, "when": datetime.fromisoformat(event["at"]).timestamp()} for event in found]


def of(found: list[dict[str, Any]], action: str) -> list[dict[str, Any]]:
    return [event for event in found if event["action"] == action]


def reads(history: History, since: float, until: float) -> dict[str, int]:
    """How many reads that began in the window each cell answered."""
    seen: dict[str, int] = {"blue": 0, "green": 0}
    for request in history.requests:
        if since <= request.start <= until and not request.is_write and request.cell:
            seen[request.cell] += 1
    return seen


def test_a_healthy_target_gets_all_shares_and_a_regression_in_the_soak_is_rolled_back_by_itself(
    cells_estate: TestEstate, config: Path, tmp_path: Path
) -> None:
    tenant = "canary"
    add(cells_estate, config, tenant, "careful")
    plan = cells_estate.command("migrate", tenant, "--to", "green", "--plan", "--json", config=config).json
    assert plan["predicted"]["canary_s"] == SOAK_S * (1 + len(SHARES))
    assert plan["predicted"]["total_s"] > plan["predicted"]["canary_s"]
    assert "10, 25, 50, 75, 100 %" in next(s["does"] for s in plan["steps"] if s["name"] == "canary")
    with cells_estate.load(tenant, folder=tmp_path, rate=RATE) as load:
        moved = cells_estate.command(
            "migrate", tenant, "--to", "green", "--apply", plan["digest"], "--json", config=config
        )
        assert moved.exit_code == 0, moved.stderr
        assert load.stats().failed == 0
        well = cells_estate.command("watch", tenant, "--for", "3", "--json", config=config)
        assert well.exit_code == 0, well.stderr
        assert well.json["outcome"] == "healthy"
        assert well.json["reads"]["reference"]["requests"] > 0
        # A canary never tried the writes: only the watch can find out about them.
        cells_estate.go_wrong("green", {tenant: Fault(fails=True, methods=["POST"])})
        set_tier(config, tenant, "told")
        reported = cells_estate.command("watch", tenant, "--json", config=config)
        assert (reported.exit_code, reported.json["outcome"]) == (5, "regressed")
        assert reported.json["others"]["state"] == "outside"
        assert "go to green" in reported.json["sentence"]
        set_tier(config, tenant, "careful")
        begun = time.time()
        back = cells_estate.command("watch", tenant, "--json", config=config)
        ended = time.time()
        assert (back.exit_code, back.json["outcome"]) == (7, "rolled_back"), back.stderr
        assert "go to blue" in back.json["sentence"]
        report = cells_estate.lost(load)
    history = History.load(tmp_path / "load.jsonl")
    assert not report.lost
    assert not report.unexplained
    journal = events(cells_estate, moved.json["operation"])
    begins, holds = of(journal, "canary_share_begun"), of(journal, "canary_share_held")
    assert [event["data"]["share"] for event in begins] == [0, *SHARES]
    for begin, held in zip(begins, holds, strict=True):
        seen = reads(history, begin["when"], held["when"])
        everything = sum(seen.values())
        assert everything > 10
        assert abs(seen["green"] - everything * begin["data"]["share"] / 100) <= 2 + 0.1 * everything, seen
        assert held["data"]["state"] in ("inside", "too_few")
    switched = of(journal, "switched")[0]["when"]
    writes = [r for r in history.requests if r.is_write and r.outcome is Outcome.OK and r.end < switched]
    assert {request.cell for request in writes} <= {"blue", "green"}
    assert {r.cell for r in writes if r.end < holds[-1]["when"]} == {"blue"}
    assert of(journal, "regression_seen")[-1]["data"]["rolls_back"] is True
    rollback = cells_estate.command("op", "show", back.json["rollback"], "--json").json
    assert "requests failed" in rollback["request"]["because"][0]
    done = [r for r in history.requests if r.start > ended]
    assert not [r for r in done if r.outcome is not Outcome.OK]
    assert [r for r in history.requests if begun < r.start < ended and r.outcome is not Outcome.OK]
    assert cells_estate.command("complete", tenant, "--yes", tenant).exit_code == 0
    assert cells_estate.left_behind(tenant) == []


def test_a_bad_target_is_left_within_seconds_and_few_users_notice(
    cells_estate: TestEstate, config: Path, tmp_path: Path
) -> None:
    tenant = "canary-bad"
    add(cells_estate, config, tenant, "careful")
    faults = {
        "requests failed": Fault(fails=True, methods=["GET"]),
        "took longer than": Fault(delay_s=4.0, methods=["GET"]),
    }
    for run, (told, fault) in enumerate(faults.items()):
        folder = tmp_path / str(run)
        folder.mkdir()
        cells_estate.go_wrong("green", {tenant: fault})
        with cells_estate.load(tenant, folder=folder, rate=RATE) as load:
            moved = cells_estate.command("migrate", tenant, "--to", "green", "--json", config=config)
            assert moved.exit_code == 5, moved.stderr
            assert told in moved.stderr
            assert (moved.json["state"], moved.json["error"]["code"]) == ("aborted", "target_unfit")
            report = cells_estate.lost(load)
        assert not report.lost
        history = History.load(folder / "load.jsonl")
        journal = events(cells_estate, moved.json["operation"])
        begun = of(journal, "canary_share_begun")[1]["when"]
        [left] = of(journal, "canary_left")
        assert left["when"] - begun < 12
        assert left["data"]["reference"]["requests"] > 0
        hit = [r for r in history.requests if r.cell == "green"]
        assert hit
        assert all(begun - 1 < r.start < left["when"] + 1 for r in hit)
        window = reads(history, begun, left["when"])
        assert len(hit) <= 3 + sum(window.values()) * (left["data"]["share"] / 100 + 0.1)
        failed = [r for r in history.requests if r.outcome is not Outcome.OK]
        assert len(failed) == (len(hit) if fault.fails else 0)
        assert cells_estate.items_in(tenant, "green") == 0
        assert cells_estate.left_behind(tenant) == []


@pytest.mark.variant
def test_a_killed_canary_falls_back_by_the_gates_own_deadline_and_goes_on_where_it_was(
    cells_estate: TestEstate, config: Path, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    tenant = "canary-killed"
    add(cells_estate, config, tenant, "told")

    def kill(point: str) -> str:
        killed = cells_estate.killed_at(point, "migrate", tenant, "green", config=config)
        assert killed.exit_code == -9, killed.stderr
        with cells_estate.service() as service:
            return service.operations(tenant=tenant, limit=1)[0].id

    cancelled = cells_estate.command("op", "cancel", kill("canary.25"), config=config)
    assert cancelled.exit_code == 0, cancelled.stderr
    assert cells_estate.left_behind(tenant) == []
    with cells_estate.load(tenant, folder=tmp_path, rate=RATE) as load:
        operation = kill("canary.50")
        died = time.time()
        while time.time() < died + TTL_S + 2:
            load.stats()
            time.sleep(0.1)
        shown = cells_estate.command("tenant", "show", tenant, "--json").json
        assert (shown["gateway"]["cell"], shown["gateway"]["canary"]) == ("blue", None)
        assert (
            "at canary 50 %. As long as it is run, that share of the reads goes to green" in shown["sentence"]
        )
        resumed = cells_estate.command("op", "resume", operation, "--json", config=config)
        assert resumed.exit_code == 0, resumed.stderr
        assert load.stats().failed == 0
        report = cells_estate.lost(load)
    history = History.load(tmp_path / "load.jsonl")
    assert not report.lost
    journal = events(cells_estate, operation)
    assert [event["data"]["share"] for event in of(journal, "canary_share_begun")] == [0, 25, 50, 50]
    assert reads(history, died - 1, died + TTL_S - 1)["green"] > 0
    abandoned = reads(history, died + TTL_S + 0.5, died + TTL_S + 2)
    assert abandoned["green"] == 0 < abandoned["blue"]
    # A watch outlasts an Envoy that is started again meanwhile.
    running = cells_estate.local.running
    with closing(open_service(config)) as service, ThreadPoolExecutor(max_workers=1) as pool:
        looked: list[object] = []
        watched = pool.submit(service.watch, tenant, for_s=1, observer=looked.append, look_s=0.2)
        wait_until(lambda: looked, "the first look")
        running.stop("envoy")
        running.start("envoy")
        assert watched.result(60).outcome is WatchOutcome.HEALTHY
    assert cells_estate.command("complete", tenant, "--yes", tenant, config=config).exit_code == 0


def test_a_flag_overrules_the_tier(cells_estate: TestEstate, config: Path) -> None:
    tenant = "canary-flag"
    add(cells_estate, config, tenant, "told")
    with closing(open_service(config)) as service:

        def steps(canary: bool | None) -> list[str]:
            return [step.name for step in service.plan_migrate(tenant, "green", canary=canary).steps]

        usual = ["preflight", "provision", "catch_up", "verify", "arm", "switch", "settle"]
        assert steps(None) == steps(True) == [*usual[:4], "canary", *usual[4:]]
        assert steps(False) == usual
        service.set_tier(tenant, "gold")
        assert steps(None) == steps(False) == usual
        assert "canary" in steps(True)
    told = cells_estate.command(
        "migrate", tenant, "--to", "green", "--canary", "--plan", "--json", config=config
    ).json
    assert told["next_steps"] == [f"tenure migrate {tenant} --to green --canary --apply {told['digest']}"]
    refused = cells_estate.command("watch", tenant, config=config)
    assert (refused.exit_code, "nothing to watch" in refused.stderr) == (4, True)
