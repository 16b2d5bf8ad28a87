"""kill -9 at a named point of an operation, then resume or cancel: the same final state, nothing lost, nothing left.

`make test` runs a fixed selection of points, `make faults` every one of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.estate import TestEstate
from tests.faults.points import ABORT, COMPLETE, EXPIRE, MIGRATE, REHEARSE, ROLLBACK, SELECTION, committed

pytestmark = pytest.mark.faults
_numbers = itertools.count(1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    every = metafunc.config.getoption("--every-point", default=False)
    points = {
        "migrate_point": MIGRATE,
        "rollback_point": ROLLBACK,
        "abort_point": ABORT,
        "complete_point": COMPLETE,
        "rehearse_point": REHEARSE,
        "expire_point": EXPIRE,
    }
    for name, all_of_them in points.items():
        if name in metafunc.fixturenames:
            chosen = all_of_them if every else [p for p in all_of_them if p in SELECTION] or all_of_them[1:2]
            metafunc.parametrize(name, chosen)


@pytest.fixture
def tenant(cells_estate: TestEstate) -> Iterator[str]:
    """A new small tenant in blue. Whatever the test did, it ends with nothing left of it anywhere."""
    name = f"crash-{next(_numbers)}"
    cells_estate.add_tenant(name)
    yield name
    assert cells_estate.left_behind(name) == []


def kill(estate: TestEstate, point: str, *command: str) -> str:
    """Run the command until it dies at the point; return the operation it left."""
    result = estate.killed_at(point, *command)
    assert result.exit_code == -9, f"{point} was not reached: {result.stdout} {result.stderr}"
    with estate.service() as service:
        (latest, *_) = service.operations(tenant=command[1] if command[0] != "cancel" else None, limit=1)
    return latest.id


def test_a_killed_migrate_is_resumed(
    cells_estate: TestEstate, tenant: str, migrate_point: str, tmp_path: Path
) -> None:
    with cells_estate.load(tenant, folder=tmp_path) as load:
        operation = kill(cells_estate, migrate_point, "migrate", tenant, "green")
        resumed = cells_estate.command("op", "resume", operation, "--json")
        assert resumed.exit_code == 0, resumed.stderr
        assert resumed.json["state"] == "soaking"
        report = cells_estate.lost(load)
    assert report.clean, report
    cells_estate.finish(tenant, "green")


def test_a_killed_migrate_is_cancelled(
    cells_estate: TestEstate, tenant: str, migrate_point: str, tmp_path: Path
) -> None:
    with cells_estate.load(tenant, folder=tmp_path) as load:
        operation = kill(cells_estate, migrate_point, "migrate", tenant, "green")
        cancelled = cells_estate.command("op", "cancel", operation)
        if committed(migrate_point):
            assert cancelled.exit_code == 4, cancelled.stderr
            assert cells_estate.command("op", "resume", operation).exit_code == 0
            serves = "green"
        else:
            assert cancelled.exit_code == 0, cancelled.stderr
            serves = "blue"
        report = cells_estate.lost(load)
    assert report.clean, report
    cells_estate.finish(tenant, serves)


def test_a_killed_rollback_is_resumed(
    cells_estate: TestEstate, tenant: str, rollback_point: str, tmp_path: Path
) -> None:
    assert cells_estate.command("migrate", tenant, "--to", "green").exit_code == 0
    with cells_estate.load(tenant, folder=tmp_path) as load:
        operation = kill(cells_estate, rollback_point, "rollback", tenant)
        resumed = cells_estate.command("op", "resume", operation, "--json")
        assert resumed.exit_code == 0, resumed.stderr
        assert resumed.json["state"] == "succeeded"
        report = cells_estate.lost(load)
    assert report.clean, report
    cells_estate.finish(tenant, "blue")


def test_a_killed_rollback_is_cancelled(
    cells_estate: TestEstate, tenant: str, rollback_point: str, tmp_path: Path
) -> None:
    assert cells_estate.command("migrate", tenant, "--to", "green").exit_code == 0
    with cells_estate.load(tenant, folder=tmp_path) as load:
        operation = kill(cells_estate, rollback_point, "rollback", tenant)
        cancelled = cells_estate.command("op", "cancel", operation)
        if committed(rollback_point):
            assert cancelled.exit_code == 4, cancelled.stderr
            assert cells_estate.command("op", "resume", operation).exit_code == 0
            serves = "blue"
        else:
            assert cancelled.exit_code == 0, cancelled.stderr
            serves = "green"
        report = cells_estate.lost(load)
    assert report.clean, report
    cells_estate.finish(tenant, serves)


def test_a_killed_abort_is_finished_by_another_cancel(
    cells_estate: TestEstate, tenant: str, abort_point: str
) -> None:
    operation = kill(cells_estate, "verify.equal", "migrate", tenant, "green")
    assert cells_estate.killed_at(abort_point, "cancel", operation).exit_code == -9
    with cells_estate.service() as service:
        ended = service.operation(operation)[0].state.final
    if not ended:
        again = cells_estate.command("op", "cancel", operation)
        assert again.exit_code == 0, again.stderr
    cells_estate.finish(tenant, "blue")


def test_a_killed_complete_is_resumed(cells_estate: TestEstate, tenant: str, complete_point: str) -> None:
    assert cells_estate.command("migrate", tenant, "--to", "green").exit_code == 0
    before = {key[1:]: value for key, value in cells_estate.digests(tenant).items() if key[0] == "green"}
    operation = kill(cells_estate, complete_point, "complete", tenant)
    resumed = cells_estate.command("op", "resume", operation)
    assert resumed.exit_code == 0, resumed.stderr
    cells_estate.finish(tenant, "green")
    after = {key[1:]: value for key, value in cells_estate.digests(tenant).items() if key[0] == "green"}
    assert after == before


def test_a_second_process_is_refused_while_an_operation_is_unfinished(
    cells_estate: TestEstate, tenant: str
) -> None:
    operation = kill(cells_estate, "verify.equal", "migrate", tenant, "green")
    for command in (
        ("migrate", tenant, "--to", "eu"),
        ("migrate", tenant, "--to", "green"),
        ("rollback", tenant),
    ):
        refused = cells_estate.command(*command)
        assert refused.exit_code == 11, refused.stderr
        assert operation in refused.stderr
    assert cells_estate.command("op", "cancel", operation).exit_code == 0
    cells_estate.finish(tenant, "blue")


def test_a_killed_rehearsal_is_resumed_and_changes_nothing(
    cells_estate: TestEstate, tenant: str, rehearse_point: str
) -> None:
    assert cells_estate.command("migrate", tenant, "--to", "green").exit_code == 0
    operation = kill(cells_estate, rehearse_point, "rehearse", tenant)
    resumed = cells_estate.command("op", "resume", operation, "--json")
    assert resumed.exit_code == 0, resumed.stderr
    assert resumed.json["result"]["predicted_hold_ms"] > 0
    cells_estate.finish(tenant, "green")


def test_a_killed_expiry_is_resumed(cells_estate: TestEstate, tenant: str, expire_point: str) -> None:
    assert cells_estate.command("migrate", tenant, "--to", "green").exit_code == 0
    cells_estate.end_soak(tenant, ago=timedelta(days=2))
    operation = kill(cells_estate, expire_point, "expire", tenant)
    resumed = cells_estate.command("op", "resume", operation, "--json")
    assert resumed.exit_code == 0, resumed.stderr
    assert resumed.json["result"]["left"] == []
    assert "There is no way back" in resumed.json["sentence"]
    cells_estate.finish(tenant, "green")
