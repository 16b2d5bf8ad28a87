"""DDL during a move refuses the switch and is named; a newer schema on the target is no obstacle, there and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import yaml

from tenure.engine.observer import Notice, PointReached
from tenure.errors import TenureError
from tenure.model.names import CellName
from tests.estate import TestEstate


def run(estate: TestEstate, cell: str, statement: str) -> None:
    with psycopg.connect(estate.local.cells[CellName(cell)].dsn, autocommit=True) as connection:
        connection.execute(statement.encode())


@contextmanager
def restored(estate: TestEstate, cell: str, name: str) -> Iterator[None]:
    """The tables of the estate are everybody's: what a test adds goes again."""
    try:
        yield
    finally:
        run(estate, cell, f"alter table public.chunks drop column if exists {name}")
        run(estate, cell, "drop table if exists public.badges")


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


def newer_app(estate: TestEstate) -> Path:
    """The estate of an app whose newer version, in green, has one more table."""
    catalogue = yaml.safe_load(load_catalogue_text(estate))
    catalogue["stores"]["postgres"]["tables"]["public.badges"] = {
        "columns": {"tenant_id": "tenant", "id": "key"},
        "tenant_column": "tenant_id",
        "cells": ["green"],
    }
    settings = yaml.safe_load(estate.config.read_text(encoding="utf-8"))
    settings["catalogue"] = "newer-catalogue.yaml"
    estate.config.with_name("newer-catalogue.yaml").write_text(yaml.safe_dump(catalogue), encoding="utf-8")
    config = estate.config.with_name("newer.yaml")
    config.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return config


def load_catalogue_text(estate: TestEstate) -> str:
    named = yaml.safe_load(estate.config.read_text(encoding="utf-8"))["catalogue"]
    return estate.config.parent.joinpath(named).read_text(encoding="utf-8")


def rows(estate: TestEstate, cell: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(estate.local.cells[CellName(cell)].dsn, autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()


def test_ddl_during_a_move_is_named_and_the_move_can_start_again_to_the_newer_schema(
    cells_estate: TestEstate,
) -> None:
    tenant = "drifting"
    cells_estate.add_tenant(tenant)
    held = cells_estate.items_in(tenant, "blue")
    with restored(cells_estate, "blue", "drift"), restored(cells_estate, "green", "drift"):
        told = refused_move(
            cells_estate,
            tenant,
            "provision.started",
            "blue",
            "alter table public.chunks add column drift text; "
            "update public.chunks set drift = 'x' where tenant_id = 'drifting'",
        )
        assert "public.chunks, column drift (text) was added in blue" in told
        assert cells_estate.left_behind(tenant) == []
    with restored(cells_estate, "green", "stars"):
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
        run(
            cells_estate,
            "green",
            "create table public.badges (tenant_id text, id int, primary key (tenant_id, id))",
        )
        newer = newer_app(cells_estate)
        moved = cells_estate.command("migrate", tenant, "--to", "green", config=newer)
        assert moved.exit_code == 0, moved.stderr
        run(cells_estate, "green", f"insert into public.badges values ('{tenant}', 1), ('another', 1)")
        run(
            cells_estate,
            "green",
            f"update public.chunks set stars = 1, text = 'written in green' where tenant_id = '{tenant}'",
        )
        told = cells_estate.command("rollback", tenant, "--plan", config=newer).stdout
        assert (
            f"the catalogue has the table in green and not in blue: 1 rows of {tenant} stay in green" in told
        )
        back = cells_estate.command("rollback", tenant, "--json", config=newer)
        assert back.exit_code == 0, back.stderr
        for seen in back.json["result"]["stores"].values():
            assert seen["processed"] == seen["matching"] > 0
        done = cells_estate.command("complete", tenant, "--yes", tenant, config=newer)
        assert done.exit_code == 0, done.stderr
        assert rows(cells_estate, "green", "select tenant_id from public.badges") == [("another",)]
    assert rows(cells_estate, "blue", f"select distinct text from chunks where tenant_id = '{tenant}'") == [
        ("written in green",)
    ]
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
    frozen.write_text(f"{cells_estate.config.read_text(encoding='utf-8')}\nfreeze:\n  always: {window}\n")
    refused = cells_estate.command("migrate", tenant, "--to", "green", config=frozen)
    assert refused.exit_code == 4
    assert "no tenant is moved now: always (audit) until 2120-01-01" in refused.stderr
