"""DDL during a move refuses the switch and is named; a newer schema on the target is no obstacle, there and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from tenure.engine.observer import Notice, PointReached
from tenure.errors import TenureError
from tenure.model.names import CellName
from tests.estate import TestEstate


def run(estate: TestEstate, cell: str, statement: str) -> None:
    with psycopg.connect(estate.local.cells[CellName(cell)].dsn, autocommit=True) as connection:
        connection.execute(statement.encode())


@contextmanager
def column(estate: TestEstate, cell: str, name: str) -> Iterator[None]:
    """The tables of the estate are everybody's: what a test adds goes again."""
    try:
        yield
    finally:
        run(estate, cell, f"alter table public.chunks drop column if exists {name}")


def refused_move(estate: TestEstate, tenant: str, point: str, cell: str, statement: str) -> str:
    """Migrate to green, running a statement in a cell at that point; why the move was aborted."""

    def observer(notice: Notice) -> None:
        if isinstance(notice, PointReached) and notice.point == point:
            run(estate, cell, statement)

    with estate.service() as service:
        try:
            operation = service.migrate(tenant, "green", apply=None, observer=observer)
        except TenureError:
            operation = service.operations(tenant=tenant, limit=1)[0]
        assert str(operation.state) == "aborted", operation
        assert operation.error is not None
        return str(operation.error["message"])


def test_ddl_during_a_move_is_named_and_the_move_can_start_again_to_the_newer_schema(
    cells_estate: TestEstate,
) -> None:
    tenant = "drifting"
    cells_estate.add_tenant(tenant)
    held = cells_estate.items_in(tenant, "blue")
    with column(cells_estate, "blue", "drift"), column(cells_estate, "green", "drift"):
        told = refused_move(
            cells_estate,
            tenant,
            "provision.started",
            "blue",
            "alter table public.chunks add column drift text; update public.chunks set drift = 'x'",
        )
        assert "public.chunks, column drift (text) was added in blue" in told
        assert cells_estate.left_behind(tenant) == []
    with column(cells_estate, "green", "stars"):
        told = refused_move(
            cells_estate,
            tenant,
            "arm.reverse",
            "green",
            "alter table public.chunks add column stars int not null default 5",
        )
        assert "public.chunks, column stars (integer not null) was added in green" in told
        assert cells_estate.left_behind(tenant) == []
        assert cells_estate.items_in(tenant, "blue") == held
        plan = cells_estate.command("migrate", tenant, "--to", "green", "--plan")
        assert "column stars: absent in blue, integer not null in green" in plan.stdout
        command = 'alter table "public"."chunks" add column "stars" integer not null default 5'
        assert f"$ {command}" in plan.stdout
        shown = cells_estate.command("migrate", tenant, "--to", "green", "--plan", "--json").json
        assert command in [finding["command"] for finding in shown["findings"]]
        moved = cells_estate.command("migrate", tenant, "--to", "green")
        assert moved.exit_code == 0, moved.stderr
        run(
            cells_estate,
            "green",
            f"update public.chunks set stars = 1, text = 'written in green' where tenant_id = '{tenant}'",
        )
        back = cells_estate.command("rollback", tenant, "--json")
        assert back.exit_code == 0, back.stderr
        for seen in back.json["result"]["stores"].values():
            assert seen["processed"] == seen["matching"] > 0
        assert cells_estate.command("complete", tenant, "--yes", tenant).exit_code == 0
    assert cells_estate.items_in(tenant, "blue") == held
    assert cells_estate.left_behind(tenant) == []


def test_a_plan_names_every_reason_at_once_when_a_table_is_missing(cells_estate: TestEstate) -> None:
    tenant = "unplannable"
    cells_estate.add_tenant(tenant)
    run(cells_estate, "green", "alter table public.chunks rename to chunks_away")
    try:
        refused = cells_estate.command("migrate", tenant, "--to", "green", "--plan")
        assert "public.chunks: the table does not exist" in refused.stdout
        assert "the catalogue does not know it" in refused.stdout
    finally:
        run(cells_estate, "green", "alter table public.chunks_away rename to chunks")


def test_a_freeze_of_the_estate_refuses_a_move_now(cells_estate: TestEstate) -> None:
    tenant = "frozen"
    cells_estate.add_tenant(tenant)
    frozen = cells_estate.config.with_name("frozen.yaml")
    window = '{begins: "2020-01-01T00:00:00Z", ends: "2120-01-01T00:00:00Z", reason: audit}'
    frozen.write_text(f"{cells_estate.config.read_text()}\nfreeze:\n  always: {window}\n")
    refused = cells_estate.command("migrate", tenant, "--to", "green", config=frozen)
    assert refused.exit_code == 4
    assert "no tenant is moved now: always (audit) until 2120-01-01" in refused.stderr
