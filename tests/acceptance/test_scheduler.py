"""With a scheduler nobody has to come by: what died goes on, soaks end, copies are compared; and no rollback waits."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from tenure.engine.observer import Notice, PointReached, nobody
from tenure.estate.local import ValkeyServer
from tenure.model.operation import Operation, OperationState
from tenure.registry.links import LinkState
from tenure.service import Service
from tenure.wiring import open_service
from tests.estate import TestEstate
from tests.scheduling import scheduler


def variant(estate: TestEstate, name: str, **fleet: Any) -> Path:
    """The estate's file with a fleet."""
    document = yaml.safe_load(estate.config.read_text(encoding="utf-8"))
    document["fleet"] = fleet
    path = estate.config.with_name(name)
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def latest(service: Service, tenant: str, kind: str) -> Operation | None:
    return next((o for o in service.operations(tenant=tenant, limit=20) if o.kind == kind), None)


def migrated(service: Service, tenant: str) -> None:
    assert service.migrate(tenant, "green", apply=None, observer=nobody).error is None


def test_what_died_goes_on_soaks_end_and_copies_are_compared_without_anybodys_help(
    cells_estate: TestEstate, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    died, overdue, soaking = "died-alone", "overdue-alone", "soaking-alone"
    for tenant in (died, overdue, soaking):
        cells_estate.add_tenant(tenant)
    settings = {"tick_s": 1, "quiet_s": 1, "soaks_every_s": 2, "comparisons_every_s": 2, "compare_after_s": 5}
    config = variant(cells_estate, "scheduled.yaml", scheduler=settings)
    with (
        cells_estate.service() as service,
        cells_estate.load(died, folder=tmp_path, rate=20.0) as load,
    ):
        migrated(service, overdue)
        migrated(service, soaking)
        cells_estate.end_soak(overdue, ago=timedelta(hours=2))
        assert cells_estate.killed_at("switch.closed", "migrate", died, "green").exit_code == -9
        cells_estate.damage(soaking, "blue", "missing")
        with scheduler(config) as process:
            wait_until(
                lambda: (o := latest(service, died, "migrate")) and o.state is OperationState.SOAKING,
                "what died goes on",
                deadline_s=120,
            )
            wait_until(
                lambda: (link := service.status(overdue).link) and link.state is LinkState.EXPIRED,
                "the soak ends",
                deadline_s=60,
            )
            wait_until(
                lambda: (o := latest(service, soaking, "verify")) and o.state is OperationState.SUCCEEDED,
                "the copies are compared and mended",
                deadline_s=60,
            )
            assert process.end() == 0
        compared = [o for o in service.operations(tenant=soaking, limit=20) if o.kind == "verify"]
        expired = latest(service, overdue, "expire")
        assert expired is not None
        assert {o.request["schedule"] for o in compared} == {"comparisons"}
        assert expired.request["schedule"] == "soaks"
        kept = cells_estate.digests(soaking)
        assert {k[1:]: v for k, v in kept.items() if k[0] == "blue"} == {
            k[1:]: v for k, v in kept.items() if k[0] == "green"
        }
        assert service.rollback(soaking, apply=None, observer=nobody).error is None
        report = cells_estate.lost(load)
    assert report.clean, report


@pytest.mark.variant
def test_a_scheduler_that_is_told_to_end_gives_its_step_back_and_once_does_what_is_left(
    cells_estate: TestEstate, wait_until: Callable[..., None]
) -> None:
    tenant = "handed-back"
    cells_estate.add_tenant(tenant)
    settings = {"tick_s": 1, "quiet_s": 1, "compare_after_s": None}
    config = variant(cells_estate, "handed.yaml", scheduler=settings)
    assert cells_estate.killed_at("provision.started", "migrate", tenant, "green").exit_code == -9
    with cells_estate.service() as service, scheduler(config) as process:
        operation = latest(service, tenant, "migrate")
        assert operation is not None

        def actions() -> list[str]:
            return [e["action"] for e in service.events(operation.id)]

        wait_until(lambda: "step_taken_over" in actions(), "the scheduler carries it on", deadline_s=60)
        assert process.end() == 0
        assert "step_released" in actions()
        assert service.operation(operation.id)[0].state is OperationState.RUNNING

        def ended() -> bool:
            done = cells_estate.command("scheduler", "--once", config=config)
            assert done.exit_code == 0, done.stderr
            return service.operation(operation.id)[0].state is OperationState.SOAKING

        wait_until(ended, "one look of another scheduler ends it", deadline_s=120)


def test_a_rollback_does_not_wait_for_a_comparison_not_even_for_one_whose_process_was_stopped(
    cells_estate: TestEstate, tmp_path: Path
) -> None:
    tenant = "in-a-hurry"
    cells_estate.add_tenant(tenant)
    with cells_estate.service() as service, cells_estate.load(tenant, folder=tmp_path, rate=20.0) as load:
        migrated(service, tenant)
        with cells_estate.stopped_at("compare.started", "verify", tenant) as sleeper:
            comparing = latest(service, tenant, "verify")
            assert comparing is not None
            planned = service.plan_rollback(tenant)
            assert planned.target == "blue"
            assert service.operation(comparing.id)[0].state is OperationState.RUNNING, (
                "a plan disturbs nobody"
            )
            back = service.rollback(tenant, apply=None, observer=nobody)
            assert back.error is None
            assert service.operation(comparing.id)[0].state is OperationState.ABORTED
            sleeper.wake()
        assert service.status(tenant).placement.cell == "blue"
        report = cells_estate.lost(load)
    assert report.clean, report
    assert sleeper.exit_code not in {0, None}


def test_a_move_loses_the_redis_of_its_locks_and_nothing_else(
    cells_estate: TestEstate, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It forgets everything at one point and is gone from another one on; nobody else gets at the tenant either way."""
    tenant = "lock-lost"
    cells_estate.add_tenant(tenant)
    running = cells_estate.local.running
    running.add(ValkeyServer(name="locks"))
    url = running.url("locks")
    (tmp_path / "locks").write_text(url, encoding="utf-8")
    config = variant(cells_estate, "locked.yaml", locks={"file": str(tmp_path / "locks")})
    service, intruder = open_service(config), open_service(config)
    refused: dict[str, str] = {}
    locked: dict[str, object] = {}

    def look(point: str, operation: str) -> None:
        caplog.clear()
        intruder.look_at(operation, wait_s=0.0)
        (refused[point],) = (
            r.message for r in caplog.records if r.message.startswith("operation_left_alone")
        )

    def disturb(notice: Notice) -> None:
        if not isinstance(notice, PointReached):
            return
        if notice.point == "catch_up.following":
            with redis.Redis.from_url(url, decode_responses=True) as client:
                locked[notice.point] = client.get(f"tenure:lock:{tenant}")
                look("while it is locked", notice.operation)
                client.flushall()
            look("while the lock is forgotten", notice.operation)
        if notice.point == "verify.equal":
            running.stop("locks")
            look("while Redis is gone", notice.operation)

    caplog.set_level("INFO", logger="tenure.operations.fleet")
    try:
        with cells_estate.load(tenant, folder=tmp_path, rate=20.0) as load:
            done = service.migrate(tenant, "green", apply=None, observer=disturb)
            back = service.rollback(tenant, apply=None, observer=nobody)
            events = [e for o in (done, back) for e in service.events(o.id)]
            report = cells_estate.lost(load)
    finally:
        intruder.close()
        service.close()
        running.remove("locks")
    assert (done.state, back.state) == (OperationState.SOAKING, OperationState.SUCCEEDED)
    assert locked["catch_up.following"] is not None
    assert "says its lock" in refused.pop("while it is locked")
    assert refused.keys() == {"while the lock is forgotten", "while Redis is gone"}
    assert all("is being run by" in why for why in refused.values()), "then the journal says so"
    assert not any(e["action"] in {"step_taken_over", "step_retried"} for e in events), (
        "it went on as if nothing was"
    )
    assert report.clean, report
