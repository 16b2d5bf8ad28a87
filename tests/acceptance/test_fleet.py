"""Operations on a fleet of real workers over real brokers: carried on by whichever worker lives, and never twice."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tenure.engine.observer import nobody
from tenure.estate.local import ValkeyServer
from tenure.estate.local.fleet import start_workers
from tenure.wiring import open_service
from tests import rabbit
from tests.estate import TestEstate
from tests.fleet import Fleet, fleet, process_state, wait_until


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


@pytest.fixture
def ours(redis_fleet: Fleet) -> Iterator[Fleet]:
    """Each test has the workers it starts, and no others."""
    yield redis_fleet
    redis_fleet.end()


@pytest.fixture
def supervised(ours: Fleet) -> Iterator[Fleet]:
    """One worker as `tenure estate up --workers 1` runs it, stopped in its own way at the end."""
    running = ours.estate.local.running
    start_workers(running, ours.config, 1)
    wait_until(ours.living, running.endpoint("worker-1").log.read_text)
    try:
        yield ours
    finally:
        running.remove("worker-1")


def test_a_worker_does_what_the_command_would_do_here_and_a_rollback_needs_none(supervised: Fleet) -> None:
    tenant, estate = "afar", supervised.estate
    estate.add_tenant(tenant)
    with estate.service() as service:
        digest = service.plan_migrate(tenant, "green").digest
    assert supervised.command("migrate", tenant, "--to", "green", "--apply", "0" * 16).exit_code == 6
    moved = supervised.command("migrate", tenant, "--to", "green", "--apply", digest, "--json")
    assert moved.exit_code == 0, moved.stderr
    assert "ours.copy.us-east-1, which 1 live worker serves" in moved.stderr
    assert "catching_up" in moved.stderr
    for seen in moved.json["result"]["stores"].values():
        assert seen["processed"] == seen["matching"] > 0
    assert "green" in moved.json["sentence"]
    shown = supervised.command("op", "show", moved.json["operation"], "--json").json
    assert {step["attempt"] for step in shown["steps"]} == {1}
    holders = {step["holder"] for step in shown["steps"]}

    back = supervised.command("rollback", tenant, "--json")
    assert back.exit_code == 0, back.stderr
    assert "live worker" not in back.stderr
    by = supervised.command("op", "show", back.json["operation"], "--json").json["steps"]
    assert holders.isdisjoint(step["holder"] for step in by)

    done = supervised.command("complete", tenant, "--yes", tenant)
    assert done.exit_code == 0, done.stderr
    assert "ours.erase.us-east-1" in done.stderr
    assert estate.left_behind(tenant) == []
    estate.local.running.stop("worker-1")
    assert supervised.living() == ()


def test_a_worker_that_slept_through_a_takeover_harms_nobody_and_duplicates_do_nothing(
    ours: Fleet,
) -> None:
    """Late side effects are refused by the token; a message about an operation that somebody is at is thrown away."""
    tenant = "snooze"
    ours.estate.add_tenant(tenant)
    sleeper = ours.worker(point="catch_up.following:stop")
    command = ours.begin("migrate", tenant, "--to", "green", "--json")
    child = ours.holder(tenant, "catch_up")
    wait_until(lambda: process_state(child) == "T", lambda: "the process stops itself")
    operation = ours.operation(tenant).id
    other = ours.worker()
    for _ in range(3):
        ours.wake(operation)
    # One or two may be with the worker whose only process is asleep.
    wait_until(lambda: "operation_left_alone" in other.log.read_text(), other.log.read_text)
    ours.estate.wait_for_lease(operation)
    assert operation in ours.tick()
    done = command.result()
    assert done.exit_code == 0, done.stderr
    after = ours.actions(operation)
    assert after.count("step_taken_over") == 1
    os.kill(child, signal.SIGCONT)
    wait_until(lambda: "operation_left_alone" in sleeper.log.read_text(), sleeper.log.read_text)
    assert ours.actions(operation) == after
    assert done.json["sentence"].startswith(f"Reads and writes of {tenant} go to green (epoch 2).")
    with ours.estate.service() as service:
        assert service.verify(tenant, repair=False, observer=nobody).error is None
        assert service.complete(tenant, apply=None, observer=nobody).error is None
    assert ours.estate.left_behind(tenant) == []


def test_a_worker_told_to_stop_hands_its_step_over_and_who_watches_may_come_and_go(
    ours: Fleet,
) -> None:
    tenant = "relay"
    ours.estate.add_tenant(tenant)
    first = ours.worker("--concurrency", "1")
    command = ours.begin("migrate", tenant, "--to", "green", "--canary")
    wait_until(
        lambda: ours.latest(tenant) is not None and ours.operation(tenant).phase == "measuring",
        lambda: "the canary begins",
    )
    operation = ours.operation(tenant).id
    command.interrupt()
    detached = command.result(deadline_s=30)
    assert detached.exit_code == 130, detached.stderr
    assert f"migrate {operation} goes on in the fleet" in detached.stderr
    assert f"tenure op cancel {operation}" in detached.stderr

    watching = ours.begin("op", "watch", operation, "--json")
    second = ours.worker("--queues", "copy", "--region", "us-east-1", "--concurrency", "1")
    for _ in range(2):
        first.signal(signal.SIGTERM)
    assert first.wait(deadline_s=30) == 0, first.log.read_text()
    actions = ours.actions(operation)
    released = actions.index("step_released")
    wait_until(
        lambda: "step_started" in ours.actions(operation)[released:],
        lambda: f"the other one goes on\n{first.log.read_text()}\n{second.log.read_text()}",
    )
    assert "step_taken_over" not in ours.actions(operation)
    wait_until(lambda: '"progress"' in watching.stdout, lambda: "who watches sees how far it is")
    cancelled = ours.command("op", "cancel", operation)
    assert cancelled.exit_code == 0, cancelled.stderr
    watched = watching.result(deadline_s=60)
    assert watched.exit_code == 5, watched.stderr
    lines: list[dict[str, Any]] = [json.loads(line) for line in watched.stdout.splitlines()]
    assert {line["kind"] for line in lines} == {"event", "progress", "operation"}
    progress = [line for line in lines if line["kind"] == "progress"]
    assert {"done", "total", "unit", "per_s", "left_s"} <= set(progress[0])
    assert lines[-1]["state"] == "aborted"
    assert lines[-1]["sentence"].startswith(f"Reads and writes of {tenant} go to blue")
    assert ours.estate.left_behind(tenant) == []


@pytest.mark.variant
def test_without_its_broker_a_fleet_rolls_back_at_once_and_a_move_waits_for_the_next_tick(
    ours: Fleet,
) -> None:
    """A process of a worker that dies in a step is replaced as well: by the worker itself, without any tick."""
    tenant, running = "offline", ours.estate.local.running
    ours.estate.add_tenant(tenant)
    worker = ours.worker(point="verify.equal")
    moved = ours.command("migrate", tenant, "--to", "green", "--json")
    assert moved.exit_code == 0, moved.stderr
    assert "step_taken_over" in ours.actions(moved.json["operation"])
    running.stop("broker")
    try:
        with closing(open_service(ours.config)) as service:
            assert service.rehearse_rollback(tenant, observer=nobody).error is None
        back = ours.command("rollback", tenant)
        assert back.exit_code == 0, back.stderr
        command = ours.begin("migrate", tenant, "--to", "green")
        stays = "it stays planned until the scheduler's tick announces it"
        wait_until(lambda: stays in command.stderr, lambda: command.stderr)
        operation = ours.operation(tenant)
        assert operation.state == "planned"
    finally:
        running.start("broker")
    wait_until(lambda: operation.id in ours.tick(), lambda: "the tick announces it")
    again = command.result()
    assert again.exit_code == 0, f"{again.stderr}\n{worker.log.read_text()}"
    worker.end()
    wait_until(lambda: not ours.living(), lambda: "the dead are not counted on")
    done = ours.command("complete", tenant, "--yes", tenant)
    assert done.exit_code == 0, done.stderr
    assert "live worker" not in done.stderr
    assert ours.estate.left_behind(tenant) == []


def test_over_rabbitmq_the_message_of_a_killed_worker_goes_to_another_one_at_once(
    cells_estate: TestEstate, tmp_path: Path
) -> None:
    tenant, running = "hare", cells_estate.local.running
    broker = rabbit.start(running)
    cells_estate.add_tenant(tenant)
    try:
        with fleet(cells_estate, tmp_path, broker=broker, namespace="hares") as hares:
            first = hares.worker(point="verify.equal:stop")
            command = hares.begin("migrate", tenant, "--to", "green", "--json")
            child = hares.holder(tenant, "verify")
            wait_until(lambda: process_state(child) == "T", lambda: "the process stops itself")
            second = hares.worker("--concurrency", "1")
            first.signal_all(signal.SIGKILL)
            moved = command.result()
            assert moved.exit_code == 0, f"{moved.stderr}\n{second.log.read_text()}"
            assert "step_taken_over" in hares.actions(moved.json["operation"])
            assert rabbit.is_quorum(broker, "hares.copy.us-east-1")
            done = hares.command("complete", tenant, "--yes", tenant)
            assert done.exit_code == 0, f"{done.stderr}\n{second.log.read_text()}"
            assert "hares.erase.us-east-1" in done.stderr
    finally:
        rabbit.stop(running)
    assert cells_estate.left_behind(tenant) == []
