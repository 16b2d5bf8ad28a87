"""Several tenants are moved at once, and the server has replication slots for one copy at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import yaml

from tenure.engine.observer import Notice, PointReached, nobody
from tenure.model.capacity import Resource
from tenure.model.names import CellName
from tenure.operations.capacity import CapacityReport
from tenure.wiring import open_service
from tests.estate import TestEstate
from tests.slots import sampled, settled, slots_of

COPY, KEPT = 5, 1
"""Slots of the source's server: while a tenant is copied (its three tables and the marks at once), and in its soak."""


@pytest.fixture
def dsn(cells_estate: TestEstate) -> str:
    return cells_estate.local.cells[CellName("blue")].dsn


@pytest.fixture
def slots(dsn: str) -> Resource:
    return slots_of(dsn)


@pytest.fixture
def limited(cells_estate: TestEstate, slots: Resource, tmp_path: Path) -> Callable[[int], Path]:
    """`limited(n)` gives the estate's file with room for so many slots on blue's server."""

    def write(most: int) -> Path:
        document = yaml.safe_load(cells_estate.config.read_text("utf-8"))
        document["capacity"] = {"servers": {slots.name: {"slots": most}}}
        path = cells_estate.config.with_name("capacity.yaml")
        path.write_text(yaml.safe_dump(document), "utf-8")
        return path

    return write


def test_slots_stay_within_their_limit_the_highest_tier_goes_first_and_a_completion_lets_the_next_one_begin(
    cells_estate: TestEstate,
    dsn: str,
    slots: Resource,
    limited: Callable[[int], Path],
    wait_until: Callable[..., None],
) -> None:
    first, low, high = "queues-first", "queues-low", "queues-high"
    for tenant, tier in ((first, "gold"), (low, "bronze"), (high, "platinum")):
        cells_estate.add_tenant(tenant, tier=tier)
    go_on = threading.Event()

    def stay(notice: Notice) -> None:
        if isinstance(notice, PointReached) and notice.point == "catch_up.following":
            go_on.wait(300)

    settled(dsn)
    with (
        sampled(dsn) as seen,
        ExitStack() as closed,
        ThreadPoolExecutor(max_workers=3) as run,
        ExitStack() as stack,
    ):
        stack.callback(go_on.set)
        most = seen[0] + COPY + KEPT
        config = limited(most)
        service, of_first = (closed.enter_context(closing(open_service(config))) for _ in range(2))

        def report() -> CapacityReport:
            return service.capacity()

        def used() -> int:
            return next(s.used for s in report().standings if s.resource == slots)

        def waiting() -> list[str | None]:
            return [admission.tenant for admission in report().waiting]

        begun = run.submit(of_first.migrate, first, "green", apply=None, observer=stay)
        wait_until(
            lambda: begun.done() or used() == seen[0] + COPY, "the first one is admitted", deadline_s=120
        )
        assert not begun.done(), begun.result()
        moves = {}
        for tenant in (low, high):
            moves[tenant] = run.submit(
                cells_estate.command,
                "migrate",
                tenant,
                "--to",
                "green",
                "--json",
                config=config,
                timeout_s=300,
            )
            wait_until(lambda t=tenant: moves[t].done() or t in waiting(), f"{tenant} waits", deadline_s=120)
            assert not moves[tenant].done(), moves[tenant].result().stderr
        wait_until(lambda: all(a.waits_for for a in report().waiting), "both have been told", deadline_s=120)
        assert waiting() == [high, low]

        shown = cells_estate.command("tenant", "show", low, "--json", config=config).json
        expected = f"waits for a replication slot on server {slots.name}: {used()} of {most} in use by "
        assert expected in shown["sentence"]
        assert shown["waits_for"].startswith(expected)

        go_on.set()
        assert begun.result().error is None
        moved = moves[high].result()
        assert moved.exit_code == 0, moved.stderr
        # Both soak now and keep a slot each: there is no room for another copy until one of them is completed.
        assert used() == seen[0] + 2 * KEPT
        assert waiting() == [low]
        assert service.complete(first, apply=None, observer=nobody).error is None
        moved = moves[low].result()
        assert moved.exit_code == 0, moved.stderr
        for ended in (run.submit(service.complete, t, apply=None, observer=nobody) for t in (low, high)):
            assert ended.result().error is None
        assert used() == seen[0]
    assert max(seen) <= most
    assert max(seen) > seen[0] + KEPT
    for tenant in (first, low, high):
        assert cells_estate.left_behind(tenant) == []
