"""Whatever a schema holds moves, goes back and compares equal, or is refused by name; also to a newer schema."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tenure.model.finding import Severity
from tenure.model.names import TenantId
from tenure.stores.postgres import PostgresLiveCopy, PostgresStore
from tests.integration.postgres import peculiar
from tests.integration.postgres.cells import ACME, NEIGHBOUR, Cells, eventually, fence, make_cells

BY_ID = "app.parted"


@pytest.fixture
def odd_cells(fresh_database: Callable[..., str]) -> Iterator[Cells]:
    """Every peculiarity, in blue (16) with two tenants' rows, in green (18) without."""
    made = make_cells(
        fresh_database("pg16"),
        fresh_database("pg18a"),
        schema=peculiar.SCHEMA,
        rows=peculiar.PLANS + peculiar.rows(ACME, 0) + peculiar.rows(NEIGHBOUR, 1),
        tables=peculiar.TABLES,
    )
    yield made
    made.close()


def refusals(copy: PostgresLiveCopy) -> set[tuple[str, str]]:
    return {(f.code, f.where) for f in copy.preflight() if f.severity is Severity.REFUSAL}


def obey(cells: Cells, copy: PostgresLiveCopy) -> None:
    """Run the commands of everything that refuses."""
    for finding in copy.preflight():
        if finding.severity is Severity.REFUSAL:
            assert finding.command, finding
            store = cells.blue if finding.where.startswith("postgres in blue") else cells.green
            cells.run(store, *finding.command.splitlines())


def write(cells: Cells, store: PostgresStore, n: int) -> None:
    """Everything the app does, in one transaction, and once more statement by statement."""
    app = cells.connect(store)
    with app.transaction():
        for statement in peculiar.writes(n):
            app.execute(statement.encode())
    for statement in peculiar.writes(n + 1):
        app.execute(statement.encode())


def switch(copy: PostgresLiveCopy, token: int) -> PostgresLiveCopy:
    """Fence, seal, compare, open the other side; the copy back."""
    back = copy.arm_reverse(fence(token))
    assert copy.compare().equal
    write_lock = fence(token)
    copy.source.fence(write_lock, expires_in_s=None, drain_s=10)
    copy.seal(copy.mark(), timeout_s=30)
    assert copy.compare_changed().equal
    copy.target.open(write_lock)
    return back


def digests(store: PostgresStore, tenant: TenantId) -> dict[str, str]:
    return {name: c.digest for name, c in store.inventory(tenant).collections.items()}


def test_a_schema_of_every_peculiarity_moves_and_goes_back(odd_cells: Cells) -> None:
    cells = odd_cells
    neighbour = digests(cells.blue, NEIGHBOUR)
    # What is not fit to be moved is named, with the command that mends it.
    parts = {f"postgres in {cell}, app.parted" for cell in ("blue", "green")}
    assert refusals(cells.copy()) == {
        *(("replica_identity", where) for where in parts),
        ("reference_missing", "postgres in green, app.plans"),
    }
    obey(cells, cells.copy())
    assert not refusals(cells.copy())
    copy = cells.link()
    write(cells, cells.blue, 1)
    back = switch(copy, 1)
    assert digests(cells.blue, ACME) == digests(cells.green, ACME)
    write(cells, cells.green, 31)
    assert not refusals(back)
    again = switch(back, 2)
    assert digests(cells.blue, ACME) == digests(cells.green, ACME)
    write(cells, cells.blue, 61)
    switch(again, 3)
    assert digests(cells.blue, ACME) == digests(cells.green, ACME)
    # Numbers of shared sequences are not drawn again, triggers did not fire for what arrived.
    write(cells, cells.green, 91)
    changed = "select sum(changed) from app.audited where tenant_id = 'acme' and id >= 5"
    assert cells.rows(cells.green, changed) == [(16,)]
    assert digests(cells.blue, NEIGHBOUR) == neighbour
    assert digests(cells.green, NEIGHBOUR) == {name: digests(cells.green, TenantId("nobody"))[name] for name in neighbour}
