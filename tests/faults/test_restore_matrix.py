"""kill -9 at a named point of a restore, then resume or cancel: the tenant is as in the backup, or as it was; nothing
that users were told is written goes after the restored state is served; nothing is left.

`make test` runs a fixed selection of points, `make faults` every one of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from rag_app.history import History, Op
from rag_app.settings import TenantAccess
from tests.estate import TestEstate
from tests.faults.restore_points import ABORT, ELSEWHERE, IN_PLACE, NEW, OPEN, SELECTION, committed
from tests.restores import back_up, planned, restoring_estate, scratch_databases, sql

pytestmark = pytest.mark.faults
_numbers = itertools.count(1)
_MIX: dict[str, float] = {Op.CREATE: 1.0, Op.SEARCH: 1.0}
_WRITTEN = (
    "insert into documents (tenant_id, id, title, body) values (%(t)s, 777000001, 'after', 'the restore')"
)
_IDS = "select id from documents where tenant_id = %(t)s"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    every = metafunc.config.getoption("--every-point", default=False)
    points = {
        "in_place_point": IN_PLACE,
        "elsewhere_point": ELSEWHERE,
        "new_point": NEW,
        "abort_point": ABORT,
    }
    for name, all_of_them in points.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, all_of_them if every else [p for p in all_of_them if p in SELECTION])


@pytest.fixture(scope="module")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestEstate]:
    with restoring_estate(tmp_path_factory.mktemp("catalogue")) as made:
        yield made


@pytest.fixture
def tenant(estate: TestEstate) -> Iterator[str]:
    """A new small tenant in blue. Whatever the test did, it ends with nothing left but the tenant's data."""
    name = f"crash-{next(_numbers)}"
    estate.add_tenant(name)
    yield name
    with estate.service() as service:
        moved = service.status(name).placement.cell != "blue"
    assert moved or estate.left_behind(name) == []  # a former copy that nobody asked to erase stays fenced
    assert scratch_databases(estate) == []


def kill(estate: TestEstate, point: str, tenant: str, *command: str) -> str:
    """Run the command until it dies at the point; return the operation it left."""
    result = estate.killed_at(point, *command, timeout_s=240)
    assert result.exit_code == -9, f"{point} was not reached: {result.stdout} {result.stderr}"
    with estate.service() as service:
        (latest, *_) = service.operations(tenant=tenant, limit=1)
    return latest.id


def state(estate: TestEstate, tenant: str, cell: str) -> dict[tuple[str, str], tuple[int, str]]:
    return {key[1:]: value for key, value in estate.digests(tenant, [cell]).items()}


def lost_since(estate: TestEstate, tenant: str, history: History, since: float) -> list[str]:
    """Documents that were acknowledged after that instant and are not there."""
    found = {f"document:{row[0]}" for row in sql(estate, "blue", _IDS, t=tenant)}
    made = [
        r for r in history.requests if r.tenant == tenant and r.op is Op.CREATE and r.outcome.value == "ok"
    ]
    return [r.key for r in made if r.start > since and r.key not in found]


def test_a_killed_restore_in_place_is_resumed(
    estate: TestEstate, tenant: str, in_place_point: str, tmp_path: Path
) -> None:
    backup = back_up(estate, tenant)
    estate.damage(tenant, "blue", "mismatched")
    with estate.load(tenant, folder=tmp_path, mix=_MIX) as load:
        operation = kill(estate, in_place_point, tenant, "restore", tenant, backup)
        opened = in_place_point in OPEN
        if opened:  # a background job, which does not pass the gate
            sql(estate, "blue", _WRITTEN, t=tenant)
        resumed = estate.command("op", "resume", operation, "--json", timeout_s=240)
        assert resumed.exit_code == 0, resumed.stderr
        assert resumed.json["state"] == "succeeded"
        assert not opened or (777_000_001,) in sql(estate, "blue", _IDS, t=tenant)
        history = load.stop()
    # The list of recent documents goes on with those that were created after the restore.
    left = [c for c in planned(estate, backup)["changes"] if c["collection"] != "recent"]
    assert [c for c in left if c["added"] or c["changed"]] == []
    since = datetime.fromisoformat(resumed.json["committed_at"]).timestamp()
    assert lost_since(estate, tenant, history, since) == []


def test_a_killed_restore_in_place_is_cancelled(
    estate: TestEstate, tenant: str, in_place_point: str, tmp_path: Path
) -> None:
    backup = back_up(estate, tenant)
    estate.damage(tenant, "blue", "mismatched")
    damaged = state(estate, tenant, "blue")
    operation = kill(estate, in_place_point, tenant, "restore", tenant, backup)
    cancelled = estate.command("op", "cancel", operation, timeout_s=240)
    if committed(in_place_point):
        assert cancelled.exit_code == 4, cancelled.stderr
        assert estate.command("op", "resume", operation, timeout_s=240).exit_code == 0
        assert planned(estate, backup)["changes"] == []
    else:
        assert cancelled.exit_code == 0, cancelled.stderr
        assert state(estate, tenant, "blue") == damaged


def test_a_killed_restore_into_a_newer_cell_is_resumed(
    estate: TestEstate, tenant: str, elsewhere_point: str
) -> None:
    backup = back_up(estate, tenant)
    bodies = sql(
        estate, "blue", "select id, body from documents where tenant_id = %(t)s order by 1", t=tenant
    )
    operation = kill(estate, elsewhere_point, tenant, "restore", tenant, backup, "eu")
    resumed = estate.command("op", "resume", operation, "--json", timeout_s=240)
    assert resumed.exit_code == 0, resumed.stderr
    assert resumed.json["result"]["serves"] == "eu"
    query = "select document_id, body from document_bodies where tenant_id = %(t)s order by 1"
    assert sql(estate, "eu", query, t=tenant) == bodies


def test_a_killed_restore_into_a_newer_cell_is_cancelled(
    estate: TestEstate, tenant: str, elsewhere_point: str
) -> None:
    before, backup = state(estate, tenant, "blue"), back_up(estate, tenant)
    operation = kill(estate, elsewhere_point, tenant, "restore", tenant, backup, "eu")
    cancelled = estate.command("op", "cancel", operation, timeout_s=240)
    if committed(elsewhere_point):
        assert cancelled.exit_code == 4, cancelled.stderr
        assert estate.command("op", "resume", operation, timeout_s=240).exit_code == 0
        return
    assert cancelled.exit_code == 0, cancelled.stderr
    assert state(estate, tenant, "blue") == before
    assert not any(items for items, _ in state(estate, tenant, "eu").values())


def test_a_killed_restore_under_another_name_is_resumed_or_cancelled(
    estate: TestEstate, tenant: str, new_point: str
) -> None:
    before, backup = state(estate, tenant, "blue"), back_up(estate, tenant)
    for ending in ("resume", "cancel"):
        copy = f"{tenant}-{ending}"
        estate.app.tenants[copy] = TenantAccess(host=f"{copy}.rag.localhost", redis_password=f"pw-{copy}")
        for access in estate.local.cells.values():
            estate.app.deploy(access, estate.local.running.folder / "etc" / "app")
        killed = estate.killed_at(new_point, "restore", copy, backup, timeout_s=240)
        assert killed.exit_code == -9, f"{new_point} was not reached: {killed.stdout} {killed.stderr}"
        with estate.service() as service:
            (operation, *_) = service.operations(tenant=None, limit=1)
        ended = estate.command("op", ending, operation.id, timeout_s=240)
        if ending == "cancel" and committed(new_point):
            assert ended.exit_code == 4, ended.stderr
            ended = estate.command("op", "resume", operation.id, timeout_s=240)
        assert ended.exit_code == 0, ended.stderr
        gone = ending == "cancel" and not committed(new_point)
        counts = {place: items for place, (items, _) in state(estate, copy, "blue").items()}
        with estate.service() as service:
            known = copy in {t.id for t, _ in service.tenants()}
        assert known is not gone
        assert counts == {place: 0 if gone else items for place, (items, _) in before.items()}
    assert state(estate, tenant, "blue") == before


def test_a_killed_abort_is_finished_by_another_cancel(
    estate: TestEstate, tenant: str, abort_point: str
) -> None:
    before, backup = state(estate, tenant, "blue"), back_up(estate, tenant)
    operation = kill(estate, "compare.loaded", tenant, "restore", tenant, backup, "eu")
    assert estate.killed_at(abort_point, "cancel", operation, timeout_s=240).exit_code == -9
    with estate.service() as service:
        ended = service.operation(operation)[0].state.final
    if not ended:
        again = estate.command("op", "cancel", operation, timeout_s=240)
        assert again.exit_code == 0, again.stderr
    assert state(estate, tenant, "blue") == before
    assert not any(items for items, _ in state(estate, tenant, "eu").values())
