"""What it costs to let an operation begin: `python -m bench.capacity`.

With 100 and with 10,000 tenants, each with an operation that has ended, and with 10 and 1,000 operations that wait
(never more than there are tenants): one decision about one operation, one about all that wait (a scheduler's), and
beside them an empty transaction of the same control database. Prints medians in milliseconds, and ratios.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Final

from tenure.estate.local import EstateSpec, PostgresServer, down, up
from tests.integration.capacity.estate import Bench, write

TENANTS: Final = (100, 10_000)
WAITING: Final = (10, 1_000)
ROUNDS: Final = 15

_FILL: Final = """
insert into registry.tenants (id, tier, host)
    select 't' || n, (array['platinum', 'gold', 'bronze'])[1 + n %% 3], 't' || n || '.localhost'
    from generate_series(1, %(tenants)s) n;
insert into registry.operations (id, kind, tenant, state, requested_by, finished_at)
    select 'op_ended_' || n, 'sample', 't' || n, 'succeeded', 'bench', now() from generate_series(1, %(tenants)s) n;
insert into registry.admissions (operation, admitted_at)
    select 'op_ended_' || n, now() - make_interval(secs => n) from generate_series(1, %(tenants)s) n;
insert into registry.operations (id, kind, tenant, requested_by, request)
    select 'op_waits_' || n, 'sample', 't' || n, 'bench', '{"from": "blue", "to": "green"}'
    from generate_series(1, %(waiting)s) n;
insert into registry.admissions (operation, served_before)
    select 'op_waits_' || n, now() - make_interval(secs => n) from generate_series(1, %(waiting)s) n;
insert into registry.steps (operation, position, name)
    select 'op_waits_' || n, 1, 'take' from generate_series(1, %(waiting)s) n;
insert into registry.capacity_needs (operation, resource, units, kept)
    select o.id, r.key, 1, 0 from registry.operations o,
        unnest(array['cell blue moves', 'cell green moves', 'server ' || %(server)s || ' slots',
            'server ' || %(server)s || ' workers', 'server ' || %(server)s || ' connections']) as r (key);
"""


def measured_ms(work: Callable[[], object]) -> float:
    """The median time of one call."""
    work()
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        took.append((time.perf_counter() - began) * 1000)
    return median(took)


def measure(bench: Bench, tenants: int, waiting: int) -> tuple[float, float, float]:
    """One decision about one, one about all, and an empty transaction, in milliseconds. Nobody can begin: the cell is
    full, so that every round finds the same."""
    database = bench.registry.database
    with database.connection() as connection:
        connection.execute("set session_replication_role = replica")  # records that only grow, too
        connection.execute(
            "truncate registry.capacity_needs, registry.admissions, registry.steps, registry.wakes,"
            " registry.operations, registry.tenants cascade"
        )
        connection.execute("reset session_replication_role")
        for statement in _FILL.split(";")[:-1]:
            connection.execute(
                statement.encode(), {"tenants": tenants, "waiting": waiting, "server": bench.server}
            )
        connection.execute("analyze")
    for n in range(1, 5):
        bench.create(f"holder{n}", moves=1, at_once=True)
    last = bench.registry.operations.get(f"op_waits_{waiting}")

    def empty() -> None:
        with database.transaction() as connection:
            connection.execute("select 1")

    one = measured_ms(lambda: bench.capacity.admit(last))
    every = measured_ms(bench.capacity.admit_waiting)
    return one, every, measured_ms(empty)


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="tenure-bench-"))
    folder.chmod(0o755)
    servers = (PostgresServer(name="control"), PostgresServer(name="cells"))
    estate = up(EstateSpec(folder=folder / "estate", servers=servers), owner=True)
    secrets = {"control": estate.dsn("control"), "blue": estate.dsn("cells"), "green": estate.dsn("cells")}
    bench = Bench(write(folder, secrets))
    try:
        bench.registry.migrate()
        print("tenants  waiting  one decides, ms  all at once, ms  empty transaction, ms  one / empty")
        for waiting in WAITING:
            for tenants in TENANTS:
                fewer = min(waiting, tenants)
                one, every, empty = measure(bench, tenants, fewer)
                print(
                    f"{tenants:7,}  {fewer:7,}  {one:15.1f}  {every:15.1f}  {empty:21.2f}  {one / empty:11.1f}"
                )
    finally:
        bench.close()
        estate.close()
        down(estate.folder, remove=True)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
