"""Tenure without superuser rights, as managed services give them: preflight names every right that is lacking with the
statement that grants it, and with these rights alone a tenant moves, goes back, is repaired and erased."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tenure.model.finding import Finding, Severity
from tenure.model.secret import Secret
from tenure.stores.postgres import PostgresLiveCopy, PostgresStore
from tests.integration.postgres.cells import ACME, TABLES, Cells, eventually, fence, make_store

OWNER = "shop_owner"
OWNED = (*(t.name for t in TABLES), "visits_2025")
"""What the shop's owner owns; a partition is still the superuser's."""


@pytest.fixture
def plain(cells: Cells) -> Iterator[Cells]:
    """The same cells, whose tables belong to an owner, as a role sees them that may do nothing but log in."""
    (database,) = cells.rows(cells.blue, "select current_database()")[0]
    role = f"mover_{database}"
    owner = f"{OWNER}_{database}"
    everywhere = (cells.blue, cells.green)
    for store in everywhere:
        cells.run(
            store,
            f"create role {owner}",
            f"create role {role} login password 'mover'",
            *(f"alter table public.{name} owner to {owner}" for name in OWNED),
            "alter table public.documents enable row level security",
        )
    seen = replace(
        cells,
        blue=make_store("blue", make_conninfo(cells.blue_dsn, user=role, password="mover")),
        green=make_store("green", make_conninfo(cells.green_dsn, user=role, password="mover")),
    )
    try:
        yield seen
    finally:
        for store, mine in ((cells.blue, seen.blue), (cells.green, seen.green)):
            mine.close()
            for name in (role, owner):
                cells.run(store, f"reassign owned by {name} to current_user", f"drop owned by {name}")
            cells.run(store, f"drop role {role}", f"drop role {owner}")


def superuser(plain: Cells, store: PostgresStore, *statements: str) -> None:
    dsn = plain.blue_dsn if store is plain.blue else plain.green_dsn
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def findings(copy: PostgresLiveCopy, severity: Severity) -> list[Finding]:
    return [f for f in copy.preflight() if f.severity is severity]


def grant_what_is_asked_for(plain: Cells, copy: PostgresLiveCopy) -> set[str]:
    """Run every command of the refusals, in each cell, until there are none; the codes seen."""
    seen: set[str] = set()
    for _ in range(5):
        refusals = findings(copy, Severity.REFUSAL)
        seen |= {f.code for f in refusals}
        if not refusals:
            return seen
        for finding in refusals:
            store = plain.blue if " in blue" in finding.where else plain.green
            (role,) = plain.rows(plain.blue, f"select '{OWNER}_' || current_database()")[0]
            by_hand = f"alter table public.visits_2026 owner to {role}"
            assert finding.command or finding.where.endswith("public.visits_2026"), finding
            superuser(plain, store, finding.command or by_hand)
        plain.blue.pool.close()
        plain.green.pool.close()
    raise AssertionError(findings(copy, Severity.REFUSAL))


def test_a_role_without_superuser_rights_is_told_what_it_lacks_and_moves_a_tenant_with_just_that(
    plain: Cells,
) -> None:
    first = plain.copy()
    lacking = {f.message for f in findings(first, Severity.REFUSAL) if f.code == "rights"}
    assert len(lacking) >= 6
    assert grant_what_is_asked_for(plain, first) >= {"rights", "not_owner"}
    assert not findings(first, Severity.REFUSAL)
    assert "passwords_logged" in {f.code for f in findings(first, Severity.WARNING)}
    assert not plain.rows(plain.blue, "select from pg_roles where rolname like 'mover%' and rolsuper")

    copy = plain.link()
    app = plain.connect(plain.blue)
    app.execute("insert into public.parts values ('acme', 900, null, 'after the copy')")
    app.execute("update public.documents set title = 'new' where tenant_id = 'acme' and id = 1")
    moved = contents(plain.blue)
    back = copy.arm_reverse(fence())
    assert copy.compare().equal
    switch(copy)
    assert contents(plain.green) == moved

    plain.connect(plain.green).execute("delete from public.parts where tenant_id = 'acme' and id = 900")
    plain.past_the_fence(plain.blue, "update public.kinds set n = 0 where tenant_id = 'acme' and id = 3")
    eventually(lambda: back.progress().following, "the way back follows")
    back.seal(back.mark(), timeout_s=20)
    differs = back.compare().differences
    assert [d.collection for d in differs] == ["public.kinds"]
    assert back.repair(differs, fence()) == 1
    assert back.compare().equal
    switch(back, 2)
    assert contents(plain.blue) == contents(plain.green)

    for each in (copy, back):
        each.stop(fence(3))
    plain.green.erase(fence(3))
    assert not any(items for items, _ in contents(plain.green).values())
    plain.blue.open(fence(3))
    plain.green.open(fence(3))
    assert plain.leftovers(plain.blue) == plain.leftovers(plain.green) == []


def contents(store: PostgresStore) -> dict[str, tuple[int, str]]:
    return {name: (c.items, c.digest) for name, c in store.inventory(ACME).collections.items()}


def switch(copy: PostgresLiveCopy, token: int = 1) -> None:
    copy.source.fence(fence(token), expires_in_s=10, drain_s=5)
    copy.seal(copy.mark(), timeout_s=20)
    assert copy.compare_changed().equal
    copy.source.fence(fence(token), expires_in_s=None, drain_s=1)
    copy.target.open(fence(token))


def test_a_way_without_a_password_is_refused_to_a_role_that_is_no_superuser(plain: Cells) -> None:
    dsn = make_conninfo(plain.blue_dsn, password="")
    blue = PostgresStore(
        name=plain.blue.name,
        cell=plain.blue.cell,
        dsn=Secret(plain.blue_dsn),
        dsn_from_cells=Secret(dsn),
        tables=TABLES,
    )
    lacking = [f for f in plain.copy(source=blue).preflight() if f.code == "password_missing"]
    assert [f.where for f in lacking] == ["postgres in green"]
    assert "has no password" in lacking[0].message
    blue.close()
