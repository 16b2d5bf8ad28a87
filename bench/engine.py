"""What the engine itself costs, and how the control database answers when there are many tenants and operations.

usage: python -m bench.engine [--rounds 15] [--steps 20]

- Operations of empty steps, in process, in turn with bare PostgreSQL transactions (one row inserted and committed) in
  the same durable database: steps per second, milliseconds per step, and the ratio to a bare transaction.
- `op list`, what a plan asks the control database, and the scheduler's tick, with 100, 1,000 and 10,000 tenants,
  taken in turn. Each tenant has had a migration; twenty of them are in an operation that waits, or (a storm) all are
  in one that is due.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from rag_app.local import ALL
from tenure.catalogue import load_catalogue
from tenure.engine.engine import Engine
from tenure.engine.spec import Done, OperationSpec, StepSpec
from tenure.estate.local import EstateSpec, PostgresServer, RunningEstate, down, up
from tenure.model.names import TenantId
from tenure.model.operation import OperationState
from tenure.model.secret import Secret
from tenure.plan.move import MIGRATE_STEPS
from tenure.registry.registry import Registry

SIZES: Final = (100, 1_000, 10_000)
REPEATS: Final = 40
WARM: Final = 6
"""The driver prepares a statement at its sixth time."""
UNDER_WAY: Final = 20
STORES: Final = tuple(load_catalogue(ALL).stores)
"""Those of the sample app."""
PLAN_MEASUREMENTS: Final = 20
"""As `tenure.operations.observe` asks for."""

TENANTS: Final[LiteralString] = """
    insert into registry.tenants (id, tier, host)
    select 'tenant-' || n, 'gold', 'tenant-' || n || '.example' from generate_series(1, %(size)s::int) n;
"""
PLACEMENTS: Final[LiteralString] = """
    insert into registry.placements (tenant, cell, epoch)
    select 'tenant-' || n, 'blue', 1 from generate_series(1, %(size)s::int) n
"""
PAST: Final[LiteralString] = """
    insert into registry.operations (id, kind, tenant, state, plan, requested_by, created_at, finished_at)
    select 'op-past-' || n, 'migrate', 'tenant-' || n, 'completed',
           jsonb_build_object('findings', repeat('x', 2000)), 'bench',
           now() - make_interval(mins => n), now() - make_interval(mins => n - 1)
    from generate_series(1, %(size)s::int) n
"""
PAST_STEPS: Final[LiteralString] = """
    insert into registry.steps (operation, position, name, state, attempt)
    select 'op-past-' || n, p, 'step-' || p, 'done', 1
    from generate_series(1, %(size)s::int) n, generate_series(1, %(steps)s::int) p
"""
MEASUREMENTS: Final[LiteralString] = """
    insert into registry.measurements (kind, route, store, items, bytes, seconds, at)
    select k, 'blue->green', s, 1000, 1000000, 1.0, now() - make_interval(mins => n)
    from generate_series(1, %(size)s::int) n, unnest(array['copy', 'verify', 'hold']) k, unnest(%(stores)s::text[]) s
"""
ACTIVE: Final[LiteralString] = """
    insert into registry.operations (id, kind, tenant, state, requested_by)
    select 'op-active-' || n, 'migrate', 'tenant-' || n, 'running', 'bench'
    from generate_series(1, %(active)s::int) n
"""
ACTIVE_STEPS: Final[LiteralString] = """
    insert into registry.steps (operation, position, name, state, due_at)
    select 'op-active-' || n, p, 'step-' || p, case when p = 1 then 'done' else 'pending' end,
           case when p = 2 then now() + make_interval(secs => %(due_in_s)s + n) end
    from generate_series(1, %(active)s::int) n, generate_series(1, %(steps)s::int) p
"""


@contextmanager
def server() -> Iterator[RunningEstate]:
    """A durable PostgreSQL 18."""
    folder = Path(tempfile.mkdtemp(prefix="tenure-bench-"))
    folder.chmod(0o755)
    running = up(EstateSpec(folder=folder / "estate", servers=(PostgresServer(name="control"),)), owner=True)
    try:
        yield running
    finally:
        running.close()
        down(running.folder, remove=True)
        folder.rmdir()


@contextmanager
def registry_in(running: RunningEstate, name: str) -> Iterator[tuple[Registry, str]]:
    """A new control database and its DSN."""
    with psycopg.connect(running.dsn("control"), autocommit=True) as admin:
        admin.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    dsn = running.dsn("control", name)
    registry = Registry.connect(Secret(dsn))
    try:
        registry.migrate()
        yield registry, dsn
    finally:
        registry.close()


# -- the engine's own cost -------------------------------------------------------------------------------------------


def empty(steps: int) -> OperationSpec:
    return OperationSpec(
        kind="bench", steps=tuple(StepSpec(name=f"step-{n}", run=lambda _: Done()) for n in range(steps))
    )


def engine_ms(engine: Engine, steps: int) -> float:
    """Milliseconds per step of one operation."""
    spec = empty(steps)
    operation = engine.create(spec, tenant=None)
    began = time.perf_counter()
    ended = engine.run(operation.id, spec)
    took = (time.perf_counter() - began) * 1000 / steps
    if ended.state is not OperationState.SUCCEEDED:
        raise SystemExit(f"the operation ended {ended.state}: {ended.error}")
    return took


def bare_ms(connection: psycopg.Connection[Any], number: int) -> float:
    """Milliseconds per transaction that inserts one row."""
    began = time.perf_counter()
    for n in range(number):
        with connection.transaction():
            connection.execute("insert into bare (n, text) values (%s, %s)", (n, "a line of a journal"))
    return (time.perf_counter() - began) * 1000 / number


def cost(running: RunningEstate, rounds: int, steps: int) -> dict[str, Any]:
    with registry_in(running, "cost") as (registry, dsn), psycopg.connect(dsn, autocommit=True) as bare:
        bare.execute("create table bare (n integer not null, text text not null)")
        engine = Engine(registry, actor="bench")
        engine_ms(engine, steps)
        bare_ms(bare, steps)
        per_step, per_transaction = [], []
        for _ in range(rounds):
            per_step.append(engine_ms(engine, steps))
            per_transaction.append(bare_ms(bare, steps * 5))
    ratios = [step / transaction for step, transaction in zip(per_step, per_transaction, strict=True)]
    return {
        "steps_per_s": round(1000 / median(per_step), 1),
        "step_ms": spread(per_step),
        "bare_transaction_ms": spread(per_transaction),
        "step_to_bare_transaction": spread(ratios),
    }


# -- many tenants ----------------------------------------------------------------------------------------------------


def fill(dsn: str, size: int, *, active: int, due_in_s: float) -> None:
    given = {
        "size": size,
        "steps": len(MIGRATE_STEPS),
        "stores": list(STORES),
        "active": active,
        "due_in_s": due_in_s,
    }
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in (TENANTS, PLACEMENTS, PAST, PAST_STEPS, MEASUREMENTS, ACTIVE, ACTIVE_STEPS):
            connection.execute(statement, given)
        connection.execute("vacuum analyze")


def asked(registry: Registry, size: int) -> Mapping[str, Callable[[], object]]:
    """What is measured, by name."""
    tenant = TenantId(f"tenant-{size // 2}")

    def plan() -> None:
        registry.tenants.get(tenant)
        registry.operations.active_for(tenant)
        registry.placements.get(tenant)
        registry.links.active(tenant)
        for store in STORES:
            for kind in ("copy", "verify"):
                registry.measurements.recent(
                    kind=kind, route="blue->green", store=store, limit=PLAN_MEASUREMENTS
                )
        registry.measurements.recent(kind="hold", route="blue->green", limit=PLAN_MEASUREMENTS)

    return {
        "op list": lambda: registry.operations.list(limit=20),
        "op list --tenant": lambda: registry.operations.list(tenant=tenant, limit=20),
        "plan (its questions to the control database)": plan,
        "tick": registry.operations.due,
    }


def growth(running: RunningEstate, *, storm: bool) -> dict[str, Any]:
    """Milliseconds of each question at each size, and how much more the largest takes than the smallest."""
    with ExitStack() as stack:
        questions: dict[int, Mapping[str, Callable[[], object]]] = {}
        for size in SIZES:
            name = f"{'storm' if storm else 'calm'}_{size}"
            registry, dsn = stack.enter_context(registry_in(running, name))
            fill(dsn, size, active=size if storm else UNDER_WAY, due_in_s=-1e6 if storm else 3600.0)
            questions[size] = asked(registry, size)
        return {
            name: _grown({size: of[name] for size, of in questions.items()})
            for name in questions[SIZES[0]]
            if not storm or name == "tick"
        }


def _grown(questions: Mapping[int, Callable[[], object]]) -> dict[str, Any]:
    took: dict[int, list[float]] = {size: [] for size in questions}
    for repeat in range(WARM + REPEATS):
        for size, ask in questions.items():
            began = time.perf_counter()
            ask()
            if repeat >= WARM:
                took[size].append((time.perf_counter() - began) * 1000)
    smallest, *_, largest = took.values()
    return {
        "ms": {f"{size:,}": round(median(values), 3) for size, values in took.items()},
        "growth": round(median(largest) / median(smallest), 2),
    }


def spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(median(values), 3),
        "least": round(min(values), 3),
        "greatest": round(max(values), 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.engine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    with server() as running:
        report = {
            "in_process": cost(running, arguments.rounds, arguments.steps),
            "by_tenants": growth(running, storm=False),
            "by_operations_that_are_due": growth(running, storm=True),
        }
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
