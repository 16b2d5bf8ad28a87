"""Operations on a fleet of real workers over real brokers: carried on by whichever worker lives, and never twice."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tenure.estate.local import ValkeyServer
from tenure.estate.local.fleet import start_workers
from tests import rabbit
from tests.estate import TestEstate
from tests.fleet import Fleet, fleet, wait_until


@pytest.fixture(scope="module")
def redis_fleet(cells_estate: TestEstate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    running = cells_estate.local.running
    running.add(ValkeyServer(name="broker"))
    try:
        folder = tmp_path_factory.mktemp("fleet")
        with fleet(cells_estate, folder, broker=running.url("broker"), namespace="ours") as made:
            yield made
    finally:
        running.remove("broker")


@pytest.fixture(autouse=True)
def no_worker_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test has the workers it starts, and no others."""
    yield
    if "redis_fleet" in request.fixturenames:
        request.getfixturevalue("redis_fleet").end()


def test_a_worker_does_what_the_command_would_do_here_and_a_rollback_needs_none(redis_fleet: Fleet) -> None:
    tenant, estate = "afar", redis_fleet.estate
    estate.add_tenant(tenant)
    running = estate.local.running
    start_workers(running, redis_fleet.config, 1)
    wait_until(redis_fleet.living, lambda: "the worker is seen")
    digest = redis_fleet.command("migrate", tenant, "--to", "green", "--plan", "--json").json["digest"]
    assert redis_fleet.command("migrate", tenant, "--to", "green", "--apply", "0" * 16).exit_code == 6
    moved = redis_fleet.command("migrate", tenant, "--to", "green", "--apply", digest, "--json")
    assert moved.exit_code == 0, moved.stderr
    assert "ours.copy.us-east-1, which 1 live worker serves" in moved.stderr
    assert "copying" not in moved.stdout
    assert "verify postgres: 180" in moved.stderr
    for seen in moved.json["result"]["stores"].values():
        assert seen["processed"] == seen["matching"] > 0
    assert "green" in moved.json["sentence"]
    shown = redis_fleet.command("op", "show", moved.json["operation"], "--json").json
    assert {step["attempt"] for step in shown["steps"]} == {1}
    holders = {step["holder"] for step in shown["steps"]}

    back = redis_fleet.command("rollback", tenant, "--json")
    assert back.exit_code == 0, back.stderr
    assert "live worker" not in back.stderr
    by = redis_fleet.command("op", "show", back.json["operation"], "--json").json["steps"]
    assert holders.isdisjoint(step["holder"] for step in by)

    for queue, args in (("verify", ("verify", tenant)), ("erase", ("complete", tenant, "--yes", tenant))):
        done = redis_fleet.command(*args, "--json")
        assert done.exit_code == 0, done.stderr
        assert f"ours.{queue}." in done.stderr
    assert estate.left_behind(tenant) == []
    running.remove("worker-1")
    assert redis_fleet.living() == ()


def test_a_worker_that_slept_through_a_takeover_harms_nobody_and_duplicates_do_nothing(
    redis_fleet: Fleet,
) -> None:
    """Late side effects are refused by the token; a message about an operation that somebody is at is thrown away."""
    tenant = "snooze"
    redis_fleet.estate.add_tenant(tenant)
    sleeper = redis_fleet.worker(point="catch_up.following:stop")
    command = redis_fleet.begin("migrate", tenant, "--to", "green", "--json")
    child = _holder(redis_fleet, tenant, "catch_up")
    wait_until(lambda: _state(child) == "T", lambda: "the process stops itself")
    operation = redis_fleet.operation(tenant).id
    other = redis_fleet.worker()
    for _ in range(3):
        redis_fleet.wake(operation)
    wait_until(lambda: other.log.read_text().count("operation_left_alone") >= 3, other.log.read_text)
    redis_fleet.estate.wait_for_lease(operation)
    assert operation in redis_fleet.tick()
    out, err = command.communicate(timeout=180)
    assert command.returncode == 0, err
    after = redis_fleet.actions(operation)
    assert after.count("step_taken_over") == 1
    os.kill(child, signal.SIGCONT)
    wait_until(lambda: "operation_left_alone" in sleeper.log.read_text(), sleeper.log.read_text)
    assert redis_fleet.actions(operation) == after
    assert json.loads(out)["sentence"].startswith(f"Reads and writes of {tenant} go to green (epoch 2).")
    assert redis_fleet.command("verify", tenant, "--here").exit_code == 0
    assert redis_fleet.command("complete", tenant, "--yes", tenant, "--here").exit_code == 0
    assert redis_fleet.estate.left_behind(tenant) == []


def test_a_worker_told_to_stop_hands_its_step_over_and_who_watches_may_come_and_go(
    redis_fleet: Fleet,
) -> None:
    tenant = "relay"
    redis_fleet.estate.add_tenant(tenant)
    first = redis_fleet.worker("--concurrency", "1")
    command = redis_fleet.begin("migrate", tenant, "--to", "green", "--canary")
    wait_until(
        lambda: redis_fleet.latest(tenant) is not None and redis_fleet.operation(tenant).phase == "measuring",
        lambda: "the canary begins",
    )
    operation = redis_fleet.operation(tenant).id
    command.send_signal(signal.SIGINT)
    _, err = command.communicate(timeout=30)
    assert command.returncode == 130, err
    assert f"migrate {operation} goes on in the fleet" in err
    assert f"tenure op cancel {operation}" in err

    watching = redis_fleet.begin("op", "watch", operation, "--json")
    second = redis_fleet.worker("--queues", "copy", "--region", "us-east-1", "--concurrency", "1")
    for _ in range(2):
        first.signal(signal.SIGTERM)
    assert first.wait(deadline_s=30) == 0, first.log.read_text()
    actions = redis_fleet.actions(operation)
    released = actions.index("step_released")
    wait_until(
        lambda: "step_started" in redis_fleet.actions(operation)[released:],
        lambda: f"the other one goes on\n{first.log.read_text()}\n{second.log.read_text()}",
    )
    assert "step_taken_over" not in redis_fleet.actions(operation)
    cancelled = redis_fleet.command("op", "cancel", operation)
    assert cancelled.exit_code == 0, cancelled.stderr
    out, err = watching.communicate(timeout=60)
    assert watching.returncode == 5, err
    lines: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    assert {line["kind"] for line in lines} == {"event", "progress", "operation"}
    progress = [line for line in lines if line["kind"] == "progress"]
    assert {"done", "total", "unit", "per_s", "left_s"} <= set(progress[0])
    assert lines[-1]["state"] == "aborted"
    assert lines[-1]["sentence"].startswith(f"Reads and writes of {tenant} go to blue")
    assert redis_fleet.estate.left_behind(tenant) == []


def test_without_its_broker_a_fleet_rolls_back_at_once_and_a_move_waits_for_the_next_tick(
    redis_fleet: Fleet,
) -> None:
    """A process of a worker that dies in a step is replaced as well: by the worker itself, without any tick."""
    tenant, running = "offline", redis_fleet.estate.local.running
    redis_fleet.estate.add_tenant(tenant)
    worker = redis_fleet.worker(point="verify.equal")
    moved = redis_fleet.command("migrate", tenant, "--to", "green", "--json")
    assert moved.exit_code == 0, moved.stderr
    assert "step_taken_over" in redis_fleet.actions(moved.json["operation"])
    running.stop("broker")
    try:
        rehearsed = redis_fleet.command("rollback", tenant, "--rehearse")
        assert rehearsed.exit_code == 0, rehearsed.stderr
        back = redis_fleet.command("rollback", tenant)
        assert back.exit_code == 0, back.stderr
        command = redis_fleet.begin("migrate", tenant, "--to", "green")
        wait_until(lambda: redis_fleet.operation(tenant).kind == "migrate", lambda: "it is planned")
        operation = redis_fleet.operation(tenant)
        assert operation.state == "planned"
    finally:
        running.start("broker")
    wait_until(lambda: operation.id in redis_fleet.tick(), lambda: "the tick announces it")
    _, err = command.communicate(timeout=180)
    assert command.returncode == 0, f"{err}\n{worker.log.read_text()}"
    assert "it stays planned until the scheduler's tick announces it" in err
    worker.end()
    wait_until(lambda: not redis_fleet.living(), lambda: "the dead are not counted on")
    done = redis_fleet.command("complete", tenant, "--yes", tenant)
    assert done.exit_code == 0, done.stderr
    assert "live worker" not in done.stderr
    assert redis_fleet.estate.left_behind(tenant) == []


def test_over_rabbitmq_the_message_of_a_killed_worker_goes_to_another_and_a_restart_loses_nothing(
    cells_estate: TestEstate, tmp_path: Path
) -> None:
    tenant, running = "hare", cells_estate.local.running
    broker = rabbit.start(running)
    cells_estate.add_tenant(tenant)
    try:
        with fleet(cells_estate, tmp_path, broker=broker, namespace="hares") as hares:
            first = hares.worker(point="verify.equal:stop")
            command = hares.begin("migrate", tenant, "--to", "green", "--json")
            child = _holder(hares, tenant, "verify")
            wait_until(lambda: _state(child) == "T", lambda: "the process stops itself")
            second = hares.worker("--concurrency", "1")
            first.signal_all(signal.SIGKILL)
            out, err = command.communicate(timeout=180)
            assert command.returncode == 0, f"{err}\n{second.log.read_text()}"
            assert "step_taken_over" in hares.actions(json.loads(out)["operation"])
            assert set(rabbit.queue_types(running).values()) == {"quorum"}
            running.stop("rabbitmq", signal.SIGKILL)
            running.start("rabbitmq")
            done = hares.command("complete", tenant, "--yes", tenant)
            assert done.exit_code == 0, f"{done.stderr}\n{second.log.read_text()}"
            assert "hares.erase.us-east-1" in done.stderr
    finally:
        rabbit.stop(running)
    assert cells_estate.left_behind(tenant) == []


def _holder(of: Fleet, tenant: str, step: str) -> int:
    """The process that runs that step of the tenant's latest operation, once there is one."""
    found: list[int] = []

    def look() -> bool:
        latest = of.latest(tenant)
        if latest is None:
            return False
        with of.estate.service() as service:
            _, steps = service.operation(latest.id)
        found[:] = [
            int(s.holder.split(":")[1]) for s in steps if s.name == step and s.holder and s.state == "running"
        ]
        return bool(found)

    wait_until(look, lambda: f"{step} of {tenant} is run")
    return found[0]


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
