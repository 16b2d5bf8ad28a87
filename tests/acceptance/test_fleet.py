"""Operations on a fleet of real workers over a real broker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tenure.estate.local import ValkeyServer
from tests.estate import TestEstate
from tests.fleet import Fleet, fleet


@pytest.fixture(scope="module")
def redis_fleet(cells_estate: TestEstate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    running = cells_estate.local.running
    running.add(ValkeyServer(name="broker"))
    try:
        with fleet(
            cells_estate, tmp_path_factory.mktemp("fleet"), broker=running.url("broker"), namespace="ours"
        ) as made:
            yield made
    finally:
        running.remove("broker")


def test_a_move_through_a_worker_gives_what_it_gives_here(redis_fleet: Fleet) -> None:
    tenant = "afar"
    redis_fleet.estate.add_tenant(tenant)
    worker = redis_fleet.worker()
    done = redis_fleet.command("migrate", tenant, "--to", "green", "--json")
    print(done.stderr, done.stdout)
    print(worker.log.read_text())
    assert done.exit_code == 0, done.stderr
