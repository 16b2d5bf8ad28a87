"""Many tenants are asked to move at once, and the processes of the fleet are killed at random, by a seed: every tenant
arrives, nobody is ever in two operations, and the servers never have more replication slots than they may.

`make faults` alone runs it. It prints the success rate.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tenure.engine.observer import nobody
from tenure.errors import NotAllowed
from tenure.estate.local import ValkeyServer
from tenure.model.names import CellName, TenantId
from tenure.model.operation import Event, Operation, OperationState
from tenure.service import Service
from tenure.wiring import open_service
from tests.estate import TestEstate
from tests.fleet import Fleet, WorkerProcess, fleet
from tests.scheduling import scheduler
from tests.slots import sampled, slots_of

pytestmark = pytest.mark.faults

SEED: Final = 50
TENANTS: Final = 50
WORKERS: Final = 4
BETWEEN_S: Final = (3.0, 9.0)
"""How long the killer rests between two blows."""
ROOM: Final = {"blue": 2 * 4 + 2, "green": 4}
"""Slots for links: on blue for two copies (four each) and two that soak, on green for one of each of four."""
TRIES: Final = 5
"""How often a migration that was aborted is asked for again."""
BUSY: Final = frozenset({"step_started", "step_taken_over"})
AT_REST: Final = frozenset({"done", "retried", "parked", "asked", "released", "failed", "abandoned"})


@dataclass
class Blows:
    """What the killer has done, by what it struck."""

    dealt: Counter[str] = field(default_factory=Counter)
    failed: list[BaseException] = field(default_factory=list)


@contextmanager
def killer(ours: Fleet, seed: int) -> Iterator[Blows]:
    """Kill a process of a pool, or a whole worker, every few seconds; a worker is replaced at once."""
    blows, chance, ended = Blows(), random.Random(seed), threading.Event()
    workers = [ours.worker("--concurrency", "1") for _ in range(WORKERS)]

    def strike(struck: WorkerProcess) -> None:
        children = struck.children()
        if children and chance.random() < 0.6:
            with suppress(ProcessLookupError):
                os.kill(chance.choice(children), signal.SIGKILL)
            blows.dealt["processes"] += 1
        else:
            struck.end()
            workers[workers.index(struck)] = ours.worker("--concurrency", "1")
            blows.dealt["workers"] += 1

    def run() -> None:
        try:
            while not ended.wait(chance.uniform(*BETWEEN_S)):
                strike(chance.choice(workers))
        except BaseException as error:  # noqa: BLE001  (seen by the test)
            blows.failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield blows
    finally:
        ended.set()
        thread.join()


def carry(service: Service, tenant: str) -> list[Operation]:
    """Move a tenant to green and complete it, as somebody does who asks again when a move was aborted."""
    moves: list[Operation] = []
    while not moves or moves[-1].state is OperationState.ABORTED:
        assert len(moves) < TRIES, moves
        try:
            moves.append(service.migrate(tenant, "green", apply=None, observer=nobody, here=False))
        except NotAllowed as error:
            raise AssertionError(f"{error}: {error.findings}") from error
    assert moves[-1].state is OperationState.SOAKING, moves[-1]
    done = service.complete(tenant, apply=None, observer=nobody, here=False)
    assert done.state is OperationState.SUCCEEDED, done
    return moves


def overlaps(events: tuple[Event, ...]) -> list[Event]:
    """What began on a tenant while something else of it had not come to rest."""
    found: list[Event] = []
    running: tuple[str | None, str] | None = None
    for event in events:
        this = (event.operation, str(event.data.get("step")))
        if event.action in BUSY:
            if running is not None and (event.action != "step_taken_over" or running != this):
                found.append(event)
            running = this
        elif event.action.removeprefix("step_") in AT_REST and event.action.startswith("step_"):
            if running != this:
                found.append(event)
            running = None
    return found


def in_cell(estate: TestEstate, tenant: str, cell: str) -> dict[tuple[str, str], tuple[int, str]]:
    """Items and digest of everything that the tenant has in that cell, by store and collection."""
    return {
        (store, collection): seen
        for (where, store, collection), seen in estate.digests(tenant).items()
        if where == cell and seen[0]
    }


@pytest.mark.timeout(1800)
def test_many_moves_at_once_all_arrive_though_workers_are_killed(
    cells_estate: TestEstate,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tenants = [f"many-{n}" for n in range(1, TENANTS + 1)]
    for tenant in tenants:
        cells_estate.add_tenant(tenant)
    before = {tenant: in_cell(cells_estate, tenant, "blue") for tenant in tenants}
    running = cells_estate.local.running
    dsns = {cell: cells_estate.local.cells[CellName(cell)].dsn for cell in ROOM}
    running.add(ValkeyServer(name="crowded-broker"))
    with ExitStack() as stack:
        stack.callback(running.remove, "crowded-broker")
        seen = {cell: stack.enter_context(sampled(dsn)) for cell, dsn in dsns.items()}
        most = {cell: seen[cell][0] + room for cell, room in ROOM.items()}
        ours = stack.enter_context(
            fleet(
                cells_estate,
                tmp_path,
                broker=running.url("crowded-broker"),
                namespace="crowd",
                # A fleet whose beats come late on a busy machine is not to be taken for a dead one.
                settings={
                    "presence_s": 3,
                    "scheduler": {"tick_s": 1, "wake_again_s": 5, "compare_after_s": None},
                },
                capacity={"servers": {slots_of(dsns[cell]).name: {"slots": most[cell]} for cell in ROOM}},
            )
        )
        stack.enter_context(scheduler(ours.config))
        service = stack.enter_context(closing(open_service(ours.config)))
        with killer(ours, SEED) as blows, ThreadPoolExecutor(max_workers=TENANTS) as threads:
            moves = dict(zip(tenants, threads.map(lambda t: carry(service, t), tenants), strict=True))
        assert blows.failed == []
        with ours.registry() as registry:
            events = {t: registry.events.list(tenant=TenantId(t)) for t in tenants}
    asked = [move for of_one in moves.values() for move in of_one]
    well = sum(1 for move in asked if move.state is OperationState.SOAKING)
    with capsys.disabled():
        sys.stdout.write(
            f"\n{well} of {len(tenants)} tenants moved in {len(asked)} migrations, success rate "
            f"{well / len(asked):.1%}, "
            f"{len(asked) - well} aborted and asked for again; killed {dict(blows.dealt)}; most slots "
            + ", ".join(f"{cell} {max(seen[cell])} of {most[cell]}" for cell in ROOM)
            + "\n"
        )
    assert blows.dealt
    for tenant in tenants:
        assert in_cell(cells_estate, tenant, "green") == before[tenant] != {}
        assert cells_estate.items_in(tenant, "blue") == 0
        assert cells_estate.left_behind(tenant) == []
        assert overlaps(events[tenant]) == []
        assert any(event.action == "step_started" for event in events[tenant])
    here = f":{os.getpid()}:"
    assert [e for of_one in events.values() for e in of_one if here in str(e.data.get("holder"))] == []
    for cell in ROOM:
        assert max(seen[cell]) <= most[cell]
    assert any(event.action == "capacity_awaited" for of_one in events.values() for event in of_one)
