"""kill -9 at a named point of an erasure, then resume or cancel: either the tenant is there as before, or nothing of it
is and a certificate says what there was; never one for an erasure that was cut off, and never a neighbour touched.

`make test` runs a fixed selection of points, `make faults` every one of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.backing import FIRST, SECOND, objects_in
from tests.estate import TestEstate
from tests.faults.points import ERASE, ERASE_COMMITTED, ERASE_SELECTION

pytestmark = pytest.mark.faults
_numbers = itertools.count(1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    every = metafunc.config.getoption("--every-point", default=False)
    before = ERASE[: ERASE.index(ERASE_COMMITTED)]
    for name, points in (("erase_point", ERASE), ("early_point", before)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, points if every else [p for p in points if p in ERASE_SELECTION])


@pytest.fixture
def tenant(cells_estate: TestEstate) -> Iterator[str]:
    """A new small tenant with a backup in two regions, and beside it one whose id begins with its id."""
    name = f"gone-{next(_numbers)}-x"
    for one in (name, f"{name}2"):
        cells_estate.add_tenant(one, tier="platinum")
    assert cells_estate.command("backup", "create", name).exit_code == 0
    neighbour = cells_estate.digests(f"{name}2")
    yield name
    assert cells_estate.digests(f"{name}2") == neighbour


def kill(estate: TestEstate, point: str, tenant: str) -> str:
    result = estate.killed_at(point, "erase", tenant)
    assert result.exit_code == -9, f"{point} was not reached: {result.stdout} {result.stderr}"
    with estate.service() as service:
        (latest, *_) = service.operations(tenant=None, limit=1)
    assert (latest.kind, latest.tenant) == ("erase", tenant)
    return latest.id


def certified(estate: TestEstate, tenant: str) -> bool:
    return estate.command("certificate", "show", f"req-{tenant}").exit_code == 0


def test_a_killed_erasure_is_resumed(cells_estate: TestEstate, tenant: str, erase_point: str) -> None:
    there = cells_estate.items_in(tenant, "blue")
    operation = kill(cells_estate, erase_point, tenant)
    assert certified(cells_estate, tenant) == (ERASE.index(erase_point) >= ERASE.index("certify.issued"))
    resumed = cells_estate.command("op", "resume", operation, "--json")
    assert resumed.exit_code == 0, resumed.stderr
    assert resumed.json["state"] == "succeeded"
    assert all(items == 0 for items, _ in cells_estate.digests(tenant).values())
    assert objects_in(cells_estate, tenant, FIRST) | objects_in(cells_estate, tenant, SECOND) == set()
    shown = cells_estate.command("certificate", "show", f"req-{tenant}", "--json").json["certificate"]
    counted = sum(s["before"]["items"] for s in shown["stores"] if s["level"] == "logical")
    assert counted == there, "what the attempt before has deleted must not be lost from the count"
    assert {b["region"] for b in shown["backups"]} == {FIRST, SECOND}
    assert len(shown["keys_destroyed"]) == 1
    with cells_estate.service() as service:
        assert tenant not in {t.id for t, _ in service.tenants()}


def test_a_killed_erasure_is_cancelled_before_its_point_of_no_return(
    cells_estate: TestEstate, tenant: str, early_point: str
) -> None:
    before = cells_estate.digests(tenant)
    operation = kill(cells_estate, early_point, tenant)
    cancelled = cells_estate.command("op", "cancel", operation, "--json")
    assert cancelled.exit_code == 0, cancelled.stderr
    assert cancelled.json["state"] == "aborted"
    assert cells_estate.digests(tenant) == before
    assert cells_estate.left_behind(tenant) == []
    assert not certified(cells_estate, tenant)
    made = cells_estate.command("backup", "create", tenant, "--json")
    assert made.exit_code == 0, made.stderr
