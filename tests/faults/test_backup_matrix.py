"""kill -9 at a named point of a backup, a prune or a drill, then resume or cancel: no torn backup is listed, nothing
that a good one needs is ever gone, and the tenant and its stores are as before.

`make test` runs a fixed selection of points, `make faults` every one of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backing import FIRST, SECOND, config_with, every_byte, objects_in, shelf
from tests.estate import TestEstate
from tests.faults.points import BACKUP, BACKUP_ABORT, BACKUP_SELECTION, DRILL, MANIFEST, PRUNE

pytestmark = pytest.mark.faults
_numbers = itertools.count(1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    every = metafunc.config.getoption("--every-point", default=False)
    points = {"backup_point": BACKUP, "abort_point": BACKUP_ABORT, "prune_point": PRUNE, "drill_point": DRILL}
    for name, all_of_them in points.items():
        if name in metafunc.fixturenames:
            chosen = all_of_them if every else [p for p in all_of_them if p in BACKUP_SELECTION]
            metafunc.parametrize(name, chosen)


@pytest.fixture
def tenant(cells_estate: TestEstate) -> Iterator[str]:
    """A new small tenant in blue, of the tier whose backups are copied. Nothing of a capture may be left of it."""
    name = f"kept-{next(_numbers)}"
    cells_estate.add_tenant(name, tier="platinum")
    yield name
    assert cells_estate.left_behind(name) == []


def kill(estate: TestEstate, point: str, *command: str, config: Path | None = None) -> str:
    """Run the command until it dies at the point; return the operation it left."""
    result = estate.killed_at(point, *command, config=config)
    assert result.exit_code == -9, f"{point} was not reached: {result.stdout} {result.stderr}"
    with estate.service() as service:
        (latest, *_) = service.operations(tenant=command[1] if command[0] != "cancel" else None, limit=1)
    return latest.id


def listed(estate: TestEstate, tenant: str) -> list[str]:
    return [one["backup"] for one in estate.command("backup", "list", tenant, "--json").json["backups"]]


def reached(point: str) -> bool:
    """Whether there is a backup once a process has come to this point."""
    return BACKUP.index(point) >= BACKUP.index(MANIFEST)


def test_a_killed_backup_is_resumed(
    cells_estate: TestEstate, tenant: str, backup_point: str, tmp_path: Path
) -> None:
    before = cells_estate.digests(tenant)
    with cells_estate.load(tenant, folder=tmp_path) as load:
        operation = kill(cells_estate, backup_point, "backup", tenant)
        torn, _ = shelf(cells_estate, tenant)
        assert bool(torn) == reached(backup_point)
        every_byte(cells_estate, tenant)
        resumed = cells_estate.command("op", "resume", operation, "--json")
        assert resumed.exit_code == 0, resumed.stderr
        assert resumed.json["state"] == "succeeded"
        report = cells_estate.lost(load)
    assert report.clean, report
    backup = resumed.json["result"]["backup"]
    assert listed(cells_estate, tenant) == [backup]
    for region in (FIRST, SECOND):
        assert list(every_byte(cells_estate, tenant, region)) == [backup]
        assert shelf(cells_estate, tenant, region)[1] == set()
    assert before.keys() == cells_estate.digests(tenant).keys()


def test_a_killed_backup_is_cancelled(
    cells_estate: TestEstate, tenant: str, backup_point: str, tmp_path: Path
) -> None:
    with cells_estate.load(tenant, folder=tmp_path) as load:
        operation = kill(cells_estate, backup_point, "backup", tenant)
        cancelled = cells_estate.command("op", "cancel", operation, "--json")
        report = cells_estate.lost(load)
    assert report.clean, report
    if backup_point == BACKUP[-1]:  # its last step is done: whoever comes can only say so
        assert cancelled.json["state"] == "succeeded", cancelled.stderr
    else:
        assert cancelled.exit_code == 0, cancelled.stderr
        assert cancelled.json["state"] == "aborted"
    complete, unfinished = shelf(cells_estate, tenant)
    assert unfinished == set()
    if reached(backup_point):  # there is a good backup: it stays, and is known
        assert set(listed(cells_estate, tenant)) == complete == set(every_byte(cells_estate, tenant))
        assert len(complete) == 1
    else:
        assert listed(cells_estate, tenant) == []
        assert {key for key in objects_in(cells_estate, tenant) if "/condemned/" not in key} == set()
    assert shelf(cells_estate, tenant, SECOND)[1] == set()


def test_a_killed_abort_of_a_backup_is_finished_by_another_cancel(
    cells_estate: TestEstate, tenant: str, abort_point: str
) -> None:
    operation = kill(cells_estate, "capture.pinned", "backup", tenant)
    assert cells_estate.killed_at(abort_point, "cancel", operation).exit_code == -9
    with cells_estate.service() as service:
        ended = service.operation(operation)[0].state.final
    if not ended:
        again = cells_estate.command("op", "cancel", operation)
        assert again.exit_code == 0, again.stderr
    assert shelf(cells_estate, tenant) == (set(), set())
    assert listed(cells_estate, tenant) == []


@pytest.mark.parametrize("how", ["resume", "cancel"])
def test_a_killed_prune_leaves_every_good_backup_whole(
    cells_estate: TestEstate, tenant: str, prune_point: str, how: str
) -> None:
    config = config_with(
        cells_estate, "short.yaml", platinum={"keep_days": 0.00001, "keep_at_least": 1, "copy_to": None}
    )
    for _ in range(3):
        taken = cells_estate.command("backup", "create", tenant, config=config)
        assert taken.exit_code == 0, taken.stderr
        cells_estate.damage(tenant, "blue", "mismatched")  # so that each has chunks of its own
    newest, middle, oldest = listed(cells_estate, tenant)
    operation = kill(cells_estate, prune_point, "prune", tenant, config=config)
    assert set(every_byte(cells_estate, tenant)) >= {newest, oldest}
    done = cells_estate.command("op", how, operation, "--json", config=config)
    ended = prune_point == PRUNE[-1] and how == "cancel"
    assert done.exit_code == 0 or ended, done.stderr
    if how == "cancel":
        again = cells_estate.command("backup", "prune", tenant, config=config)
        assert again.exit_code == 0, again.stderr
    assert listed(cells_estate, tenant) == [newest, oldest]
    assert set(every_byte(cells_estate, tenant)) == shelf(cells_estate, tenant)[0] == {newest, oldest}
    shown = cells_estate.command("backup", "show", middle, "--json").json
    assert [copy["state"] for copy in shown["copies"]] == ["deleted"]


@pytest.mark.parametrize("how", ["resume", "cancel"])
def test_a_killed_drill_leaves_nothing_and_the_live_tenant_alone(
    cells_estate: TestEstate, tenant: str, drill_point: str, how: str
) -> None:
    taken = cells_estate.command("backup", "create", tenant)
    assert taken.exit_code == 0, taken.stderr
    before = cells_estate.digests(tenant)
    operation = kill(cells_estate, drill_point, "drill", tenant)
    done = cells_estate.command("op", how, operation, "--json")
    assert done.exit_code == 0, done.stderr
    assert cells_estate.digests(tenant) == before
    if how == "resume":
        assert done.json["result"]["equal"]
