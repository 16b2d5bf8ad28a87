"""The end of a soak and the way back while it lasts: rehearsed, measured, bounded in WAL and in time, never silent."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
import yaml

from tenure.engine.observer import nobody
from tenure.errors import NotAllowed
from tenure.model.names import CellName
from tenure.operations.status import TenantStatus
from tests.estate import TestEstate

MIB = 1024**2


def shown(estate: TestEstate, tenant: str) -> TenantStatus:
    with estate.service() as service:
        return service.status(tenant)


def slots(estate: TestEstate, cell: str) -> set[str]:
    """The replication slots of the cell's database: other tests' tenants may be soaking there."""
    with psycopg.connect(estate.local.cells[CellName(cell)].dsn) as conn:
        found = conn.execute("select slot_name from pg_replication_slots where database = current_database()")
        return {str(name) for (name,) in found}


def migrated(estate: TestEstate, tenant: str) -> None:
    estate.add_tenant(tenant)
    with estate.service() as service:
        assert service.migrate(tenant, "green", apply=None, observer=nobody).error is None


def checked(estate: TestEstate, *args: str, config: Path | None = None) -> dict[str, Any]:
    """The one soak that `tenure soak check` tells about."""
    done = estate.command("soak", "check", *args, "--json", config=config)
    assert done.exit_code == 0, done.stderr
    (found,) = done.json["soaks"]
    return dict(found)


def test_a_rehearsed_rollback_holds_nobody_and_says_what_a_real_one_will_take(
    cells_estate: TestEstate, tmp_path: Path
) -> None:
    tenant = "rehearsed"
    cells_estate.add_tenant(tenant)
    with cells_estate.service() as service, cells_estate.load(tenant, folder=tmp_path, rate=20.0) as load:
        assert service.migrate(tenant, "green", apply=None, observer=nobody).error is None
        before, route = service.status(tenant), service.observed_route(tenant)
        rehearsed = cells_estate.command("rollback", tenant, "--rehearse", "--json")
        assert rehearsed.exit_code == 0, rehearsed.stderr
        after = service.status(tenant)
        assert service.observed_route(tenant) == route
        events = service.events(rehearsed.json["operation"])
        back = service.rollback(tenant, apply=None, observer=nobody)
        assert back.error is None
        later = service.status(tenant)
        counts = load.stats()
        report = cells_estate.lost(load)
    assert counts.failed == 0
    assert report.clean, report
    result = rehearsed.json["result"]
    assert set(result["parts_ms"]) == set(back.result["timing_ms"]), "the parts are those of a real hold"
    assert all(ms > 0 for ms in result["parts_ms"].values())
    assert result["predicted_hold_ms"] == pytest.approx(sum(result["parts_ms"].values()), abs=0.1)
    for seen in result["stores"].values():
        assert seen["processed"] == seen["matching"] > 0
    actions = {event["action"] for event in events}
    assert "rollback_rehearsed" in actions
    assert not {"placement_changed", "hold_backed_out", "switched", "writes_throttled"} & actions
    assert "holding" not in {event["data"].get("phase") for event in events}
    assert (before.placement, before.link) == (after.placement, after.link)
    assert before.outlook is not None
    assert before.outlook.loses_nothing
    assert "holds from" in before.outlook.basis
    assert after.outlook is not None
    assert after.outlook.hold_ms == result["predicted_hold_ms"]
    assert after.outlook.basis.startswith("rehearsed on ")
    assert f"about {result['predicted_hold_ms']:.0f} ms of waiting" in after.sentence
    assert "loses 0" in after.sentence
    # The tenant is in another cell now: what was rehearsed there says nothing about the way back from here.
    assert later.outlook is not None
    assert "holds from" in later.outlook.basis
    assert cells_estate.command("complete", tenant, "--yes", tenant).exit_code == 0
    assert cells_estate.left_behind(tenant) == []


@pytest.mark.variant
def test_a_follower_that_is_away_makes_no_server_keep_more_wal_than_allowed(
    cells_estate: TestEstate,
) -> None:
    tenant = "retaining"
    others = {cell: slots(cells_estate, cell) for cell in ("blue", "green")}
    migrated(cells_estate, tenant)
    assert slots(cells_estate, "green") - others["green"]
    assert checked(cells_estate, tenant)["said"] == "follows"
    document = yaml.safe_load(cells_estate.config.read_text(encoding="utf-8"))
    document["soak"] = {"most_wal_bytes": MIB}
    bounded = cells_estate.config.with_name("bounded.yaml")
    bounded.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    held = cells_estate.items_in(tenant, "green")
    running = cells_estate.local.running
    running.stop("postgres-blue")
    try:
        with psycopg.connect(cells_estate.local.cells[CellName("green")].dsn, autocommit=True) as green:
            green.execute("select pg_logical_emit_message(false, 'test', repeat('x', 3000000))")
            away = shown(cells_estate, tenant)
            assert away.outlook is not None
            assert not away.outlook.loses_nothing
            assert "blue does not follow now" in away.sentence
            assert "loses" not in away.sentence
            planned = checked(cells_estate, tenant, "--plan", config=bounded)
            assert "over the bound of 1,048,576" in planned["over"]
            assert planned["state"] == "active"
            ended = checked(cells_estate, tenant, config=bounded)
            assert (ended["state"], ended["retained_bytes"]) == ("expired", 0)
            assert any("postgres in blue" in left for left in ended["left"])
            assert not slots(cells_estate, "green") - others["green"]
    finally:
        running.start("postgres-blue")
    status = cells_estate.command("tenant", "show", tenant, "--json").json
    assert "The soak is over: blue has not followed since" in status["sentence"]
    assert "over the bound of" in status["sentence"]
    assert "There is no way back" in status["sentence"]
    assert status["rollback"] is None
    assert status["next_steps"] == [f"tenure complete {tenant} --plan"]
    refused = cells_estate.command("rollback", tenant)
    assert refused.exit_code == 4
    assert f"tenure complete {tenant}" in refused.stderr
    with cells_estate.service() as service:
        attempts: tuple[Callable[[], object], ...] = (
            lambda: service.rollback(tenant, apply=None, observer=nobody),
            lambda: service.rehearse_rollback(tenant, observer=nobody),
            lambda: service.migrate(tenant, "blue", apply=None, observer=nobody),
            lambda: service.verify(tenant, repair=True, observer=nobody),
        )
        for attempt in attempts:
            with pytest.raises(NotAllowed, match="over the bound of"):
                attempt()
    # What could not be reached then is removed now: blue's own slot.
    assert checked(cells_estate, tenant)["left"] == []
    assert not slots(cells_estate, "blue") - others["blue"]
    assert checked(cells_estate, tenant)["ended_by"] is None
    with cells_estate.service() as service:
        expiries = [o for o in service.operations(tenant=tenant, limit=10) if o.kind == "expire"]
        (told,) = (e["data"] for e in service.events(expiries[-1].id) if e["action"] == "soak_expired")
    assert len(expiries) == 2
    assert "over the bound of" in told["because"]
    assert cells_estate.command("complete", tenant, "--yes", tenant).exit_code == 0
    assert cells_estate.items_in(tenant, "green") == held
    assert cells_estate.items_in(tenant, "blue") == 0
    assert cells_estate.left_behind(tenant) == []


def test_a_soak_that_nobody_completes_ends_after_its_grace_and_the_copy_goes_only_if_the_cell_has_data(
    cells_estate: TestEstate,
) -> None:
    tenant = "overdue"
    migrated(cells_estate, tenant)
    cells_estate.end_soak(tenant, ago=timedelta(minutes=30))
    assert checked(cells_estate, tenant)["ended_by"] is None
    assert "still follows, but the soak ended on" in shown(cells_estate, tenant).sentence
    cells_estate.end_soak(tenant, ago=timedelta(hours=2))
    assert "is about to be let go of" in shown(cells_estate, tenant).sentence
    assert checked(cells_estate, tenant)["state"] == "expired"
    with psycopg.connect(cells_estate.local.cells[CellName("green")].dsn, autocommit=True) as green:
        green.execute("update public.documents set title = 'later' where tenant_id = %s", (tenant,))
    keys = emptied(cells_estate, "green", tenant)
    refused = cells_estate.command("complete", tenant, "--yes", tenant)
    assert refused.exit_code == 5, refused.stderr
    assert "green holds nothing of overdue in redis" in refused.stderr
    assert cells_estate.items_in(tenant, "blue") > 0
    keys()
    done = cells_estate.command("complete", tenant, "--yes", tenant)
    assert done.exit_code == 0, done.stderr
    assert cells_estate.items_in(tenant, "blue") == 0
    assert cells_estate.left_behind(tenant) == []


def emptied(estate: TestEstate, cell: str, tenant: str) -> Callable[[], None]:
    """Delete the tenant's keys in the cell; calling what is given back puts them there again."""
    url = estate.local.cells[CellName(cell)].redis_url
    with redis.Redis.from_url(url) as client:
        dumped = {key: client.dump(key) for key in client.scan_iter(match=f"t:{tenant}:*")}
        client.delete(*dumped)

    def restore() -> None:
        with redis.Redis.from_url(url) as client:
            for key, value in dumped.items():
                assert value is not None
                client.restore(key, 0, value)

    return restore
