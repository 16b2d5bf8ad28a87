"""The invariants of `docs/invariants.md` as a user would check them: from outside, on the whole estate."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest
import redis
from botocore.config import Config
from botocore.exceptions import ClientError

from rag_app.local import settings_of
from tenure.model.names import CellName
from tests.estate import TestEstate


@dataclass
class Probe:
    """Writes into one store of one cell again and again, past the gateway; notes what was accepted."""

    cell: str
    store: str
    write: Callable[[int], bool]
    accepted: list[tuple[float, float]] = field(default_factory=list)
    refused: int = 0

    def run(self, stop: threading.Event) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            began = time.monotonic()
            if self.write(number):
                self.accepted.append((began, time.monotonic()))
            else:
                self.refused += 1
            stop.wait(0.001)


def probes(estate: TestEstate, tenant: str, cell: str, stack: ExitStack) -> Iterator[Probe]:
    access = estate.local.cells[CellName(cell)]
    settings = settings_of(access)
    conn = stack.enter_context(psycopg.connect(settings.app_dsn, autocommit=True))
    announce = stack.enter_context(psycopg.connect(settings.app_dsn, autocommit=True))
    object_key = f"tenants/{tenant}/files/probe-{cell}.txt"
    statement = (
        "insert into documents (tenant_id, id, title, body) values (%s, %s, 'probe', '') "
        "on conflict (tenant_id, id) do update set body = excluded.body"
    )

    def row(number: int) -> bool:
        del number
        try:
            conn.execute(statement, (tenant, 4_000_000_000 + (cell == "green")))
        except psycopg.DatabaseError as error:
            assert error.sqlstate == "TN001", error
            return False
        return True

    url = access.redis_url.split("@", 1)[1]
    password = estate.app.tenants[tenant].redis_password
    client: Any = stack.enter_context(redis.Redis.from_url(f"redis://app-{tenant}:{password}@{url}"))

    def key(number: int) -> bool:
        try:
            client.set(f"t:{tenant}:counter:probe-{cell}", number)
        except redis.exceptions.NoPermissionError:
            return False
        return True

    s3: Any = boto3.client(
        "s3",
        endpoint_url=access.endpoint,
        aws_access_key_id=access.app_access_key,
        aws_secret_access_key=access.app_secret_key,
        region_name=access.plan.region,
        config=Config(retries={"max_attempts": 0}),
    )

    def thing(number: int) -> bool:
        # Announced as the app would, so that the copy hears of it; sent whatever the answer is.
        with suppress(psycopg.errors.DatabaseError):
            announce.execute("select tenure.touch(%s, 'objects', %s)", (tenant, object_key))
        try:
            s3.put_object(Bucket=access.plan.bucket, Key=object_key, Body=str(number))
        except ClientError as error:
            assert error.response["Error"]["Code"] == "AccessDenied", error
            return False
        return True

    yield Probe(cell=cell, store="postgres", write=row)
    yield Probe(cell=cell, store="redis", write=key)
    stack.callback(s3.close)
    yield Probe(cell=cell, store="objects", write=thing)


def test_at_every_instant_at_most_one_cell_accepts_writes_enforced_in_each_store(
    cells_estate: TestEstate,
) -> None:
    """Invariant 1. Writers that pass by the gateway and by the client library are refused by the stores themselves."""
    tenant = "one-writer"
    cells_estate.add_tenant(tenant)
    assert cells_estate.command("migrate", tenant, "--to", "green").exit_code == 0
    assert (
        cells_estate.command("rollback", tenant).exit_code == 0
    )  # both sides fenced as a link has it, blue serves
    stop = threading.Event()
    with ExitStack() as stack:
        all_probes = [p for cell in ("blue", "green") for p in probes(cells_estate, tenant, cell, stack)]
        threads = [threading.Thread(target=p.run, args=(stop,)) for p in all_probes]
        for thread in threads:
            thread.start()
        try:
            moved = cells_estate.command("migrate", tenant, "--to", "green")
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    for store in ("postgres", "redis", "objects"):
        blue, green = (p for p in all_probes if p.store == store)
        assert blue.accepted, store
        assert green.refused, store
        assert blue.refused or moved.exit_code != 0, store
        if green.accepted:
            last_in_blue = max(began for began, _ in blue.accepted)
            first_in_green = min(ended for _, ended in green.accepted)
            assert last_in_blue < first_in_green, f"{store} took writes in both cells at once"
    # Objects that nobody announced in the journal may differ now: that is what `verify --repair` is for.
    assert moved.exit_code == 0, moved.stderr
    assert cells_estate.command("verify", tenant, "--repair").exit_code == 0
    assert cells_estate.command("complete", tenant, "--yes", tenant).exit_code == 0
    assert cells_estate.left_behind(tenant) == []


def ask(estate: TestEstate, tenant: str) -> tuple[int, str | None]:
    """One read of the tenant through the gateway: status and the cell that answered."""
    url = f"{estate.local.gateway}/counters/probe"
    request = urllib.request.Request(url, headers={"Host": estate.app.tenants[tenant].host})
    with urllib.request.urlopen(request, timeout=15) as answer:
        return answer.status, answer.headers["x-served-by"]


def test_tenants_notice_nothing_when_the_control_plane_is_down(cells_estate: TestEstate) -> None:
    """Invariant 9, also for a tenant that soaks: the gateway sends it to the cell that serves it, gate or no gate."""
    steady, soaking = "steady", "soaking"
    cells_estate.add_tenant(steady)
    cells_estate.add_tenant(soaking)
    assert cells_estate.command("migrate", soaking, "--to", "green").exit_code == 0
    running = cells_estate.local.running
    try:
        running.stop("control")
        running.stop("gate")
        for _ in range(5):
            assert ask(cells_estate, steady) == (200, "blue")
            assert ask(cells_estate, soaking) == (200, "green")
        unavailable = cells_estate.command("tenant", "show", steady, "--json")
        assert unavailable.exit_code == 1
        assert json.loads(unavailable.stdout)["code"] == "unavailable"
    finally:
        running.start("control")
        running.start("gate")
    assert ask(cells_estate, soaking) == (200, "green")
    try:
        running.stop("app-green")  # what a rollback is for: it needs no answer of the app that it leaves
        back = cells_estate.command("rollback", soaking, "--json")
    finally:
        running.start("app-green")
    assert back.exit_code == 0, back.stderr
    assert back.json["result"]["gated"]
    assert ask(cells_estate, soaking) == (200, "blue")
    assert cells_estate.command("complete", soaking, "--yes", soaking).exit_code == 0


def test_data_is_destroyed_only_by_an_operation_that_names_it(cells_estate: TestEstate) -> None:
    """Invariant 8. A source whose data has vanished does not empty the target: complete refuses, nothing more goes."""
    tenant = "vanished"
    cells_estate.add_tenant(tenant)
    assert cells_estate.command("migrate", tenant, "--to", "green").exit_code == 0
    held = cells_estate.items_in(tenant, "blue")
    refused = cells_estate.command("complete", tenant, "--yes", "another")
    assert refused.exit_code == 3
    assert cells_estate.items_in(tenant, "blue") == held
    assert cells_estate.command("complete", tenant, "--yes", tenant).exit_code == 0
    assert cells_estate.items_in(tenant, "green") == held
    again = cells_estate.command("complete", tenant, "--yes", tenant)
    assert again.exit_code == 4
    assert cells_estate.items_in(tenant, "green") == held


def test_a_store_that_cannot_do_its_work_fails_the_move(cells_estate: TestEstate) -> None:
    """Invariant 5. With one store of the target down, nothing is called done and nothing is left."""
    tenant = "skipped"
    cells_estate.add_tenant(tenant)
    running = cells_estate.local.running
    try:
        running.stop("valkey-eu")
        failed = cells_estate.command("migrate", tenant, "--to", "eu")
    finally:
        running.start("valkey-eu")
    assert failed.exit_code == 1, failed.stderr
    assert "redis" in failed.stderr
    assert cells_estate.items_in(tenant, "eu") == 0
    assert cells_estate.left_behind(tenant) == []


@pytest.mark.parametrize("busy", [1.5])
def test_a_transaction_that_outlasts_the_drain_aborts_the_switch_and_nothing_is_lost(
    cells_estate: TestEstate, tmp_path: Path, busy: float
) -> None:
    """Invariants 2 and 3. The hold is bounded: waiting requests go to the source, the move makes its next attempt."""
    tenant = f"slow-{int(busy * 10)}"
    cells_estate.add_tenant(tenant)
    access = cells_estate.local.cells[CellName("blue")]
    stop = threading.Event()

    def long_transactions() -> None:
        number = 5_000_000_000
        with psycopg.connect(settings_of(access).app_dsn) as conn:
            while not stop.is_set():
                number += 1
                try:
                    conn.execute("select tenure.permit(%s)", (tenant,))
                    conn.execute(
                        "insert into documents (tenant_id, id, title, body) values (%s, %s, '', '')",
                        (tenant, number),
                    )
                    stop.wait(busy)
                    conn.commit()
                except psycopg.DatabaseError as error:
                    assert error.sqlstate == "TN001", error
                    conn.rollback()
                    return

    thread = threading.Thread(target=long_transactions)
    thread.start()
    try:
        with cells_estate.load(tenant, folder=tmp_path) as load:
            moved = cells_estate.command("migrate", tenant, "--to", "green", "--json")
            counts = load.stats()
            report = cells_estate.lost(load)
    finally:
        stop.set()
        thread.join()
    assert moved.exit_code == 0, moved.stderr
    assert counts.failed == 0
    assert report.clean, report
    assert cells_estate.command("complete", tenant, "--yes", tenant).exit_code == 0


def test_a_cell_that_a_completed_move_has_left_keeps_refusing_the_tenants_writes(
    cells_estate: TestEstate,
) -> None:
    """Invariant 1 in the steady state: a job that still knows the old cell is refused there; a move back opens it."""
    tenant = "left"
    cells_estate.add_tenant(tenant)
    assert cells_estate.command("migrate", tenant, "--to", "green").exit_code == 0
    assert cells_estate.command("complete", tenant, "--yes", tenant).exit_code == 0
    with ExitStack() as stack:
        blue = {p.store: p for p in probes(cells_estate, tenant, "blue", stack)}
        assert not blue["redis"].write(1)
        settings = settings_of(cells_estate.local.cells[CellName("blue")])
        conn = stack.enter_context(psycopg.connect(settings.app_dsn, autocommit=True))
        for statement in ("select tenure.permit(%s)", "select tenure.touch(%s, 'objects', 'x')"):
            with pytest.raises(psycopg.DatabaseError) as refused:
                conn.execute(statement, (tenant,))
            assert refused.value.sqlstate == "TN001"
    assert cells_estate.left_behind(tenant) == []
    assert cells_estate.command("migrate", tenant, "--to", "blue").exit_code == 0
    assert cells_estate.command("complete", tenant, "--yes", tenant).exit_code == 0
    with ExitStack() as stack:
        blue = {p.store: p for p in probes(cells_estate, tenant, "blue", stack)}
        assert all(probe.write(1) for probe in blue.values())
    assert cells_estate.left_behind(tenant) == []


def test_a_holder_that_slept_through_a_takeover_harms_nobody(cells_estate: TestEstate) -> None:
    """Invariants 1, 2 and 7: a process stopped in its abort wakes up when others have finished the move and completed
    it. It must neither erase, nor fence, nor route anything."""
    tenant = "sleeper"
    cells_estate.add_tenant(tenant)
    held = cells_estate.items_in(tenant, "blue")
    assert cells_estate.killed_at("verify.equal", "migrate", tenant, "green").exit_code == -9
    with cells_estate.service() as service:
        operation = service.operations(tenant=tenant, limit=1)[0].id
    with cells_estate.stopped_at("abort.unlinked", "cancel", operation) as sleeper:
        cells_estate.wait_for_lease(operation)
        assert cells_estate.command("op", "cancel", operation).exit_code == 0
        assert cells_estate.command("migrate", tenant, "--to", "green").exit_code == 0
        assert cells_estate.command("complete", tenant, "--yes", tenant).exit_code == 0
        sleeper.wake()
    assert sleeper.exit_code != 0
    assert cells_estate.items_in(tenant, "green") == held
    assert ask(cells_estate, tenant)[1] == "green"
    with ExitStack() as stack:
        assert all(probe.write(1) for probe in probes(cells_estate, tenant, "green", stack))
    assert cells_estate.left_behind(tenant) == []


def test_a_holder_that_slept_in_its_hold_through_a_cancel_leaves_every_store_open(
    cells_estate: TestEstate,
) -> None:
    """Invariant 7: it wakes up between two fences, when nobody keeps its token in the second store any more."""
    tenant = "dozer"
    cells_estate.add_tenant(tenant)
    with cells_estate.stopped_at("switch.fenced", "migrate", tenant, "green") as sleeper:
        with cells_estate.service() as service:
            operation = service.operations(tenant=tenant, limit=1)[0].id
        cells_estate.wait_for_lease(operation)
        assert cells_estate.command("op", "cancel", operation).exit_code == 0
        sleeper.wake()
    assert sleeper.exit_code != 0
    with ExitStack() as stack:
        refused = [p.store for p in probes(cells_estate, tenant, "blue", stack) if not p.write(1)]
    assert refused == []


def test_a_switch_does_not_go_over_differences_that_were_found(cells_estate: TestEstate) -> None:
    """Invariants 2 and 8: what the passive side lacks is brought back before a rollback, not dropped after it."""
    tenant = "lacking"
    cells_estate.add_tenant(tenant)
    assert cells_estate.command("migrate", tenant, "--to", "green").exit_code == 0
    held = cells_estate.items_in(tenant, "green")
    with cells_estate.service() as service:
        cells_estate.damage(tenant, "blue", "missing")
        found = service.verify(tenant, repair=False, observer=lambda notice: None)
        assert found.error is not None
        back = service.rollback(tenant, apply=None, observer=lambda notice: None)
        assert back.error is None
    assert cells_estate.items_in(tenant, "blue") == held
    assert cells_estate.items_in(tenant, "green") == held
    assert cells_estate.command("complete", tenant, "--yes", tenant).exit_code == 0


def test_a_tenants_table_that_appears_during_the_move_refuses_the_switch(cells_estate: TestEstate) -> None:
    """Invariant 2: DDL since the plan is looked for again just before the hold."""
    tenant = "new-table"
    cells_estate.add_tenant(tenant)
    assert cells_estate.killed_at("verify.equal", "migrate", tenant, "green").exit_code == -9
    with cells_estate.service() as service:
        operation = service.operations(tenant=tenant, limit=1)[0].id
    statement = (
        "create table public.notes (tenant_id text not null, id bigint not null, primary key (tenant_id, id))"
    )
    dsns = [cells_estate.local.cells[CellName(cell)].dsn for cell in ("blue", "green")]
    try:
        for dsn in dsns:
            with psycopg.connect(dsn, autocommit=True) as conn:
                conn.execute(statement)
        resumed = cells_estate.command("op", "resume", operation)
    finally:
        for dsn in dsns:
            with psycopg.connect(dsn, autocommit=True) as conn:
                conn.execute("drop table public.notes")
    assert resumed.exit_code == 5, resumed.stderr
    assert "notes" in resumed.stderr
    assert ask(cells_estate, tenant)[1] == "blue"
    assert cells_estate.left_behind(tenant) == []


def test_an_interrupted_complete_is_finished_by_another_one_and_heeds_a_legal_hold(
    cells_estate: TestEstate,
) -> None:
    tenant = "half-complete"
    cells_estate.add_tenant(tenant)
    assert cells_estate.command("migrate", tenant, "--to", "green").exit_code == 0
    assert cells_estate.killed_at("unlink.done", "complete", tenant).exit_code == -9
    with cells_estate.service() as service:
        operation = service.operations(tenant=tenant, limit=1)[0].id
    assert cells_estate.command("op", "cancel", operation).exit_code in (0, 5)
    assert cells_estate.command("rollback", tenant).exit_code == 4
    shown = cells_estate.command("tenant", "show", tenant, "--json").json
    assert "rolling back loses nothing" not in shown["sentence"]
    assert shown["next_steps"] == [f"tenure complete {tenant}"]
    assert cells_estate.command("tenant", "hold", tenant, "--reason", "case 18").exit_code == 0
    assert cells_estate.command("complete", tenant, "--yes", tenant).exit_code == 4
    assert cells_estate.items_in(tenant, "blue") > 0
    assert cells_estate.command("tenant", "hold", tenant, "--release").exit_code == 0
    done = cells_estate.command("complete", tenant, "--yes", tenant)
    assert done.exit_code == 0, done.stderr
    assert cells_estate.items_in(tenant, "blue") == 0
    assert cells_estate.left_behind(tenant) == []
