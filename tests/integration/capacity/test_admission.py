"""Who begins when, decided in the real control database with the limits of a real server."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from tenure.cli.main import tenure
from tenure.cli.progress import ProgressLines
from tenure.engine.engine import Engine
from tenure.engine.observer import Notice, Queued, compose
from tenure.errors import Interrupted, NotAllowed
from tenure.model.capacity import Need, Resource, Scope, What
from tenure.model.names import CellName, TenantId
from tenure.model.operation import Operation, OperationState
from tenure.model.tenancy import Tenant
from tenure.operations.capacity import Standing
from tenure.registry.database import Database
from tenure.registry.measurements import Measurement
from tests.integration.capacity.estate import QUICK, SPEC, Bench, write

ROOT = Path(__file__).parents[3]
TIERS = ("bronze", "gold", "platinum")
SLOTS = 4


@pytest.fixture(scope="module")
def secrets(lasting_database: Callable[..., str]) -> dict[str, str]:
    """The control database, and two cells on one server."""
    found = {"control": lasting_database("control"), "blue": lasting_database(), "green": lasting_database()}
    for cell in ("blue", "green"):
        with psycopg.connect(found[cell], autocommit=True) as connection:
            connection.execute(
                "create table notes (tenant_id text, id int, text text, primary key (tenant_id, id))"
            )
    return found


@pytest.fixture(scope="module")
def address(secrets: dict[str, str]) -> str:
    given = psycopg.conninfo.conninfo_to_dict(secrets["blue"])
    return f"{given['host']}:{given['port']}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, secrets: dict[str, str], address: str) -> Path:
    folder = tmp_path_factory.mktemp("estate")
    bench = Bench(write(folder, secrets, f'{{"{address}": {{slots: {SLOTS}}}}}'))
    bench.registry.migrate()
    with bench.registry.database.connection() as connection:
        connection.execute("create table public.taken (operation text, resource text, units bigint)")
        connection.execute(
            "create table public.peaks"
            " (n bigint generated always as identity, operation text, resource text, units bigint)"
        )
    for tier in TIERS:
        for n in range(10):
            name = f"{tier}-{n}"
            bench.registry.tenants.add(
                Tenant(id=TenantId(name), tier=tier, host=f"{name}.localhost"), CellName("blue"), actor="test"
            )
    bench.close()
    return folder


@pytest.fixture
def bench(folder: Path, secrets: dict[str, str], address: str) -> Iterator[Bench]:
    bench = Bench(write(folder, secrets, f'{{"{address}": {{slots: {SLOTS}}}}}'))
    _forget(bench.registry.database)
    yield bench
    bench.close()


def _forget(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute("set local session_replication_role = replica")  # what is append-only, too
        connection.execute(
            "truncate registry.capacity_needs, registry.admissions, registry.wakes, registry.approvals,"
            " registry.steps, registry.operations, registry.links, public.taken, public.peaks cascade"
        )


def standing(bench: Bench, resource: Resource) -> Standing:
    return next(s for s in bench.capacity.survey().standings if s.resource == resource)


def test_the_limits_hold_at_every_instant_and_nobody_is_forgotten(bench: Bench, folder: Path) -> None:
    """Twelve operations in two processes and as many threads; each takes what it was admitted for and adds up, under a
    lock of its own, what all of them have."""
    operations = [bench.create(f"{tier}-{n}", slots=2, moves=1 + n % 2) for tier in TIERS for n in range(4)]
    other = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.integration.capacity.estate",
            str(folder / "tenure.yaml"),
            *(o.id for o in operations[::2]),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    ended: list[Operation] = []
    threads = [
        threading.Thread(target=lambda o=o: ended.append(bench.engine.run(o.id, SPEC)))
        for o in operations[1::2]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(180)
    said, _ = other.communicate(timeout=180)
    assert [o.state for o in ended] == ["soaking"] * 6
    assert [line.split()[0] for line in said.splitlines()] == ["soaking"] * 6
    with bench.registry.database.connection() as connection:
        peaks = dict(
            connection.execute("select resource, max(units)::int from public.peaks group by 1").fetchall()
        )
    assert peaks[bench.slots().key] == SLOTS
    assert peaks["cell blue moves"] <= 4


def test_one_decision_is_made_at_a_time(bench: Bench, wait_until: Callable[..., None]) -> None:
    """One of a higher tier that comes while a lower one is being admitted sees it admitted, and waits."""
    low, high = bench.create("bronze-1", slots=3), bench.create("platinum-1", slots=3)
    told: list[str | None] = []
    thread = threading.Thread(target=lambda: told.append(bench.capacity.admit(high)))

    with bench.registry.admissions.deciding(among=[low.id], actor="test") as deciding:

        def blocked() -> bool:
            row = deciding.connection.execute(
                "select count(*) from pg_locks where locktype = 'advisory' and not granted"
            ).fetchone()
            return row is not None and row[0] == 1

        thread.start()
        wait_until(blocked, "the other decision waits", deadline_s=30)
        deciding.admit(next(a for a in deciding.waiting if a.operation == low.id))
    thread.join(60)
    (waits_for,) = told
    assert waits_for is not None
    assert "in use by bronze-1" in waits_for


def test_the_highest_tier_begins_first_and_only_what_may_begin_is_due(bench: Bench) -> None:
    registry = bench.registry
    holder = bench.create("gold-9", slots=SLOTS)
    assert bench.capacity.admit(holder) is None
    waiting = [bench.create(f"{tier}-{n}", slots=2) for tier in TIERS for n in (1, 2)]
    by_tier = [o.id for o in (*waiting[4:], *waiting[2:4], *waiting[:2])]
    assert registry.operations.due() == (holder.id,)
    assert set(registry.operations.due(admitted=False)) == set(by_tier)
    assert bench.capacity.admit_waiting() == ()
    seen = standing(bench, bench.slots())
    assert (seen.used, seen.limit.most, seen.waiting) == (SLOTS, SLOTS, tuple(by_tier))

    bench.engine.cancel(holder.id, SPEC)
    assert bench.capacity.admit_waiting() == tuple(by_tier[:2])
    assert registry.operations.due() == tuple(by_tier[:2])
    for n, operation in enumerate(by_tier):
        assert bench.engine.run(operation, SPEC).state is OperationState.SOAKING, n
    with registry.database.connection() as connection:
        began = connection.execute("select operation from public.peaks group by 1 order by min(n)").fetchall()
    assert [row[0] for row in began] == by_tier


def test_an_executor_that_does_not_ask_cannot_begin(bench: Bench) -> None:
    """The database refuses the claim, whatever the executor thinks."""
    operation = bench.create("gold-1")
    careless = Engine(bench.registry, actor="careless", settings=QUICK)
    with pytest.raises(NotAllowed, match="waits for capacity"):
        careless.run(operation.id, SPEC)
    assert bench.registry.operations.get(operation.id).state is OperationState.PLANNED
    assert bench.engine.run(operation.id, SPEC).state is OperationState.SOAKING


def test_a_wait_is_visible_and_can_be_withdrawn_from_elsewhere(
    bench: Bench, wait_until: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    holder = bench.create("gold-1", slots=3)
    assert bench.capacity.admit(holder) is None
    operation = bench.create("gold-2", slots=2)
    told: list[Notice] = []
    ended: list[Operation] = []
    observer = compose(ProgressLines(), told.append)
    thread = threading.Thread(
        target=lambda: ended.append(bench.engine.run(operation.id, SPEC, observer=observer))
    )
    thread.start()
    wait_until(lambda: told, "the wait is told", deadline_s=60)
    sentence = (
        f"waits for a replication slot on server {bench.server}: 3 of {SLOTS} in use by gold-1, 2 needed"
    )
    assert isinstance(told[0], Queued)
    assert told[0].waits_for == bench.waits_for(operation) == sentence
    assert capsys.readouterr().err.endswith(f" s  {operation.id} {sentence}\n")
    elsewhere = Bench(bench.estate)
    assert elsewhere.engine.cancel(operation.id, SPEC).state is OperationState.ABORTED
    elsewhere.close()
    thread.join(60)
    assert [o.state for o in ended] == [OperationState.ABORTED]
    actions = [e.action for e in bench.registry.events.list(operation=operation.id)]
    assert actions[:2] == ["operation_created", "capacity_awaited"]
    assert not {"capacity_admitted", "step_started"} & set(actions)


def test_the_commands_say_what_is_taken_who_waits_and_who_is_next(bench: Bench, folder: Path) -> None:
    holder = bench.create("gold-1", slots=3)
    assert bench.capacity.admit(holder) is None
    waiting = [bench.create(tenant, slots=2) for tenant in ("bronze-1", "platinum-1")]
    for operation in waiting:
        assert bench.capacity.admit(operation) is not None

    def command(*args: str) -> str:
        done = CliRunner().invoke(tenure, ["--config", str(folder / "tenure.yaml"), *args])
        assert done.exit_code == 0, done.output
        return done.stdout

    found = json.loads(command("capacity", "--json"))
    (of_slots,) = [
        r
        for r in found["resources"]
        if (r["scope"], r["name"], r["what"]) == ("server", bench.server, "slots")
    ]
    assert of_slots["limit"] == SLOTS
    assert of_slots["by"] == [{"tenant": "gold-1", "operation": holder.id, "moving": True, "units": 3}]
    assert of_slots["waiting"] == [waiting[1].id, waiting[0].id]
    assert of_slots["next"] == waiting[1].id
    assert [w["tenant"] for w in found["waiting"]] == ["platinum-1", "bronze-1"]
    assert f"{waiting[0].id} {bench.waits_for(waiting[0])}" in command("capacity")
    shown = json.loads(command("op", "show", waiting[1].id, "--json"))
    sentence = bench.waits_for(waiting[1])
    assert shown["capacity"]["waits_for"] == sentence
    assert f"sample {waiting[1].id} {sentence}." in shown["sentence"]
    assert f"sample {waiting[1].id} {sentence}." in command("op", "show", waiting[1].id)


def test_ctrl_c_leaves_it_planned_and_keeps_nothing_for_it(bench: Bench) -> None:
    holder = bench.create("gold-1", slots=3)
    assert bench.capacity.admit(holder) is None
    large = bench.create("platinum-1", slots=2)

    def press(notice: Notice) -> None:
        if isinstance(notice, Queued):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="stays as it is"):
        bench.engine.run(large.id, SPEC, observer=press)
    assert bench.registry.operations.get(large.id).state is OperationState.PLANNED
    small = bench.create("bronze-1", slots=1)
    kept = bench.capacity.admit(small)
    assert kept is not None
    assert kept.endswith("; platinum-1 goes first")
    with bench.registry.database.connection() as connection:
        connection.execute("update registry.admissions set wanted_at = wanted_at - interval '1 minute'")
    assert bench.capacity.admit(small) is None
    assert bench.capacity.admit(large) is not None


def test_a_rollback_begins_at_once_over_every_limit_and_is_counted(bench: Bench) -> None:
    holder = bench.create("gold-1", slots=SLOTS)
    assert bench.capacity.admit(holder) is None
    back = bench.create("bronze-1", slots=2, at_once=True)
    later = bench.create("bronze-2", slots=1)
    assert bench.capacity.admit(later) is not None
    assert standing(bench, bench.slots()).used == SLOTS + 2
    assert bench.engine.run(back.id, SPEC).state is OperationState.SOAKING


def test_a_link_keeps_its_slots_until_it_is_gone(bench: Bench) -> None:
    """While the operation is active it takes what the copy needs, afterwards what its link keeps; then nothing."""
    moved = bench.create("gold-1", slots=4, kept=2)
    assert bench.engine.run(moved.id, SPEC).state is OperationState.SOAKING
    seen = standing(bench, bench.slots())
    assert (seen.used, [u.active for u in seen.by]) == (2, [False])
    after = bench.create("gold-2", slots=3)
    waits_for = bench.capacity.admit(after)
    assert waits_for is not None
    assert "2 of 4 in use by gold-1, 3 needed" in waits_for
    bench.registry.links.end("gold-1:blue:green")
    assert bench.capacity.admit(after) is not None
    bench.registry.links.remove("gold-1:blue:green")
    assert bench.capacity.admit(after) is None


def test_a_server_says_what_it_has_and_others_use_and_what_nobody_accounts_for(
    folder: Path, secrets: dict[str, str], address: str
) -> None:
    ours = "tenure_0123456789ab_0123456789ab"
    with psycopg.connect(secrets["blue"], autocommit=True) as connection:
        row = connection.execute(
            "select current_setting('max_replication_slots')::int, count(*)::int from pg_replication_slots"
        ).fetchone()
        assert row is not None
        most, there = row
        for name in (ours, "somebody_elses"):
            connection.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (name,))
        bench = Bench(write(folder, secrets))
        _forget(bench.registry.database)
        try:
            seen = standing(bench, bench.slots())
            assert seen.limit.most == most - there - 1 - 4
            assert (
                f"max_replication_slots {most}, {there + 1} in use by others, 4 kept free" in seen.limit.why
            )
            assert [(u.tenant, u.units) for u in seen.by] == [(None, 1)]
            assert standing(
                bench, Resource(scope=Scope.SERVER, name=address, what=What.CONNECTIONS)
            ).limit.why.startswith("max_connections")
        finally:
            bench.close()
            for name in (ours, "somebody_elses"):
                connection.execute("select pg_drop_replication_slot(%s)", (name,))


def test_what_a_move_needs_follows_from_its_stores(bench: Bench, address: str) -> None:
    """Both cells are on one server: it gets both ends of the link, and a table and the marks are copied at once."""
    tenant, blue, green = TenantId("gold-1"), CellName("blue"), CellName("green")
    asked = bench.capacity.request("migrate", tenant, blue, green, linked=False)
    assert asked is not None

    def on_server(what: What) -> Resource:
        return Resource(scope=Scope.SERVER, name=address, what=what)

    assert asked.needs == {
        Resource(scope=Scope.CELL, name="blue", what=What.MOVES): Need(units=1),
        Resource(scope=Scope.CELL, name="green", what=What.MOVES): Need(units=1),
        Resource(scope=Scope.STORE, name="green/postgres", what=What.MOVES): Need(units=1),
        on_server(What.SLOTS): Need(units=4, kept=2),
        on_server(What.WORKERS): Need(units=4, kept=2),
        on_server(What.CONNECTIONS): Need(units=16),
    }
    again = bench.capacity.request("migrate", tenant, blue, green, linked=True)
    assert again is not None
    assert on_server(What.SLOTS) not in again.needs
    back = bench.capacity.request("rollback", tenant, green, blue, linked=True)
    assert back is not None
    assert back.at_once
    for kind in ("complete", "expire", "rehearse"):
        assert bench.capacity.request(kind, tenant, green, blue, linked=True) is None


def test_bandwidth_is_what_the_route_took_before_and_all_of_it_without_a_measurement(
    folder: Path, secrets: dict[str, str], address: str
) -> None:
    bench = Bench(write(folder, secrets, f'{{"{address}": {{bandwidth_mb_s: 10}}}}'))
    bandwidth = Resource(scope=Scope.SERVER, name=address, what=What.BANDWIDTH)
    tenant, blue, green = TenantId("gold-1"), CellName("blue"), CellName("green")

    def asked() -> int:
        request = bench.capacity.request("migrate", tenant, blue, green, linked=False)
        assert request is not None
        return request.needs[bandwidth].units

    try:
        assert asked() == 10_000_000
        for seconds in (1.0, 3.0):
            bench.registry.measurements.record(
                Measurement(
                    kind="copy",
                    route="blue->green",
                    store="postgres",
                    items=1,
                    bytes=5_000_000,
                    seconds=seconds,
                )
            )
        assert asked() == 2_500_000
        assert standing(bench, bandwidth).limit.most == 10_000_000
    finally:
        bench.close()


def test_what_can_never_be_had_is_refused_in_the_plan_and_keeps_nobody_out(
    folder: Path, secrets: dict[str, str], address: str
) -> None:
    bench = Bench(write(folder, secrets, f'{{"{address}": {{slots: 2}}, "elsewhere:5432": {{slots: 2}}}}'))
    try:
        _forget(bench.registry.database)
        tenant, blue, green = TenantId("gold-1"), CellName("blue"), CellName("green")
        asked = bench.capacity.request("migrate", tenant, blue, green, linked=False)
        (finding,) = bench.capacity.out_of_reach(asked, (blue, green))
        assert (finding.code, finding.where) == ("over_capacity", address)
        assert "needs 4 replication slots" in finding.message
        huge, small = bench.create("gold-1", slots=3), bench.create("bronze-1", slots=2)
        waits_for = bench.capacity.admit(huge)
        assert waits_for is not None
        assert waits_for.startswith("cannot begin: it needs 3 replication slots")
        assert bench.capacity.admit(small) is None
        assert bench.capacity.survey().unmatched == ("elsewhere:5432",)
    finally:
        bench.close()


def test_a_server_that_cannot_be_asked_lets_nobody_begin_and_says_so(
    folder: Path, secrets: dict[str, str]
) -> None:
    dead = "postgresql://tenure@127.0.0.1:1/x"
    bench = Bench(write(folder, {**secrets, "blue": dead}))
    try:
        _forget(bench.registry.database)
        waits_for = bench.capacity.admit(bench.create("gold-1"))
        assert waits_for is not None
        assert "at most 0 can be had (postgres in blue: " in waits_for
    finally:
        bench.close()
