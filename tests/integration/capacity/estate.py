"""An estate whose two cells have nothing but PostgreSQL, and an operation that takes what it was admitted for.

`python -m tests.integration.capacity.estate CONFIG OPERATION...` runs these operations, each in a thread of its own,
and prints `state id` for each.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from tenure.engine.context import StepContext
from tenure.engine.engine import Engine
from tenure.engine.settings import EngineSettings
from tenure.engine.spec import Done, OperationSpec, StepOutcome, StepSpec
from tenure.estate.config import Estate, load_estate
from tenure.model.capacity import CapacityRequest, Need, Resource, Scope, What
from tenure.model.names import CellName, TenantId
from tenure.model.operation import Operation, OperationState
from tenure.operations.capacity import Capacity
from tenure.operations.deps import Deps
from tenure.operations.session import Sessions
from tenure.registry.links import Link
from tenure.registry.registry import Registry
from tenure.wiring import Stores, open_registry, open_router

QUICK = EngineSettings(poll_s=0.05)
ESTATE = """\
version: 1
catalogue: catalogue.yaml
control: {{dsn: {{file: control}}}}
gateway:
  kind: envoy
  listen: http://127.0.0.1:1
  admin: ["http://127.0.0.1:1"]
  config_dir: envoy
  gate: {{check: "http://127.0.0.1:1", control: "http://127.0.0.1:1", token: {{file: token}}}}
  domain: localhost
cells:
  blue:
    region: here
    infrastructure: v1
    app: http://127.0.0.1:1
    stores: {{postgres: {{kind: postgresql, dsn: {{file: blue}}}}}}
  green:
    region: here
    infrastructure: v2
    app: http://127.0.0.1:2
    stores: {{postgres: {{kind: postgresql, dsn: {{file: green}}}}}}
tiers: {{platinum: {{rank: 1}}, gold: {{rank: 2}}, bronze: {{rank: 3}}}}
capacity:
  moves: 4
  cells: {{green: {{stores: {{postgres: 3}}}}}}
  {servers}
"""
CATALOGUE = """\
version: 1
stores:
  postgres:
    kind: postgresql
    tenant_column: tenant_id
    tables: {public.notes: {columns: {tenant_id: tenant, id: key, text: content}}}
"""


def write(folder: Path, secrets: Mapping[str, str], servers: str = "") -> Estate:
    """Write the estate's files, and read them. `servers` is the block `capacity.servers`."""
    for name, value in {"token": "t", **secrets}.items():
        (folder / name).write_text(value, "utf-8")
    (folder / "catalogue.yaml").write_text(CATALOGUE, "utf-8")
    chosen = f"servers: {servers}" if servers else ""
    (folder / "tenure.yaml").write_text(ESTATE.format(servers=chosen), "utf-8")
    return load_estate(folder / "tenure.yaml")


class Bench:
    """An estate in this process: its registry, its capacity, and an engine that asks for it."""

    def __init__(self, estate: Estate) -> None:
        self.estate = estate
        self.registry: Registry = open_registry(estate)
        self.stores = Stores(estate, self.registry.mutex)
        self.deps = Deps(
            estate=estate,
            registry=self.registry,
            router=open_router(estate),
            factory=self.stores,
            sessions=Sessions(self.stores),
        )
        self.capacity = Capacity(self.deps, actor="test")
        self.engine = Engine(self.registry, actor="test", settings=QUICK, admission=self.capacity.admit)

    def close(self) -> None:
        self.deps.sessions.close()
        self.stores.close()
        self.deps.router.close()
        self.registry.close()

    @property
    def server(self) -> str:
        """Where both cells' databases are."""
        return self.stores.store(CellName("blue"), self.stores.names()[0]).server

    def slots(self) -> Resource:
        return Resource(scope=Scope.SERVER, name=self.server, what=What.SLOTS)

    def create(
        self, tenant: str, *, slots: int = 1, kept: int = 0, moves: int = 0, at_once: bool = False
    ) -> Operation:
        """An operation that needs so much."""
        needs = {
            self.slots(): Need(units=slots, kept=kept),
            Resource(scope=Scope.CELL, name="blue", what=What.MOVES): Need(units=moves),
        }
        return self.engine.create(
            SPEC,
            tenant=TenantId(tenant),
            request={"from": "blue", "to": "green"},
            capacity=CapacityRequest(needs=needs, at_once=at_once),
        )

    def waits_for(self, operation: Operation) -> str | None:
        admission = self.registry.admissions.get(operation.id)
        assert admission is not None
        return admission.waits_for


def _take(context: StepContext) -> StepOutcome:
    """Take what was asked for, for a moment; note how much all together then have."""
    with context.registry.database.transaction() as connection:
        connection.execute("lock table public.taken in exclusive mode")
        connection.execute(
            "insert into public.taken select operation, resource, units from registry.capacity_needs"
            " where operation = %s",
            (context.lease.operation,),
        )
        connection.execute(
            "insert into public.peaks (operation, resource, units)"
            " select %s, resource, sum(units) from public.taken group by resource",
            (context.lease.operation,),
        )
    context.wait(0.1)
    with context.registry.database.connection() as connection:
        connection.execute("delete from public.taken where operation = %s", (context.lease.operation,))
    return Done()


def _link(context: StepContext) -> StepOutcome:
    tenant = context.operation.tenant
    assert tenant is not None
    context.registry.links.create(
        Link(
            tenant=tenant,
            name=f"{tenant}:blue:green",
            cell_a=CellName("blue"),
            cell_b=CellName("green"),
            source=CellName("blue"),
            created_by=context.operation.id,
        ),
        lease=context.lease,
    )
    return Done()


SPEC = OperationSpec(
    kind="sample",
    steps=(StepSpec(name="take", run=_take), StepSpec(name="link", run=_link)),
    abort=lambda context: None,
    ends_in=OperationState.SOAKING,
)


def main() -> None:
    bench = Bench(load_estate(Path(sys.argv[1])))
    ended: list[Operation] = []
    threads = [
        threading.Thread(target=lambda o=operation: ended.append(bench.engine.run(o, SPEC)))
        for operation in sys.argv[2:]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for operation in ended:
        print(operation.state, operation.id)
    bench.close()


if __name__ == "__main__":
    main()
