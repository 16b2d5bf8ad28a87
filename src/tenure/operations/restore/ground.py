"""Where a restore works: the stores of a cell, what makes each of them equal to the backup, and the backup itself, at
the schema that is live there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Final, Self

from tenure.backups.contract import Source
from tenure.errors import StoreRefused
from tenure.model.finding import Finding, Severity
from tenure.model.names import CellName, StoreName, TenantId
from tenure.operations.backup.observe import backed_up, captured
from tenure.operations.deps import Deps
from tenure.operations.restore.archive import Opened
from tenure.operations.restore.ports import Stage, Versions
from tenure.operations.restore.request import Request
from tenure.operations.restore.spool import Spool
from tenure.operations.served import Crew, Served
from tenure.plan.restore import CollectionChange
from tenure.plan.schema_path import SchemaFacts, SchemaPath, Way, schema_path
from tenure.stores.backup import Restoring
from tenure.stores.contract import Store

SCHEMA_CODES: Final = frozenset({"schema_differs", "stream_unreadable", "newer_column", "not_in_backup"})
"""Findings of a store's preflight that speak of schemas: where the backup is migrated first, they are asked anew."""
DIFFERS: Final = frozenset({"schema_differs", "stream_unreadable", "newer_column"})
Reach = Callable[[str], None]


class Ground:
    """The stores of one cell for one restore, in one process. `close` gives back threads and connections; what is
    staged stays until `drop`."""

    def __init__(self, deps: Deps, request: Request, opened: Opened, *, cell: CellName, purpose: str) -> None:
        self.deps: Final = deps
        self.request: Final = request
        self.cell: Final = cell
        self.tenant: Final = request.tenant
        self.origin: Final[TenantId] = opened.facts.tenant
        self.backup: Final = opened
        self._purpose: Final = purpose
        self.source: Source = opened.source
        self._stages: dict[StoreName, Stage] = {}
        names = backed_up(deps, cell)
        self.crew: Final = Crew(f"restore-{request.tenant[:8]}", workers=2 * len(names))
        self.served: Final = Served(
            tenant=request.tenant, cell=cell, names=names, factory=deps.factory, crew=self.crew
        )
        held = {f.store for f in opened.source.collections()} | {s.store for s in opened.source.streams()}
        self.riders: Final = {
            name: deps.factory.store(cell, name).capabilities.rides_with
            for name in names
            if deps.factory.store(cell, name).capabilities.rides_with is not None
        }
        carriers = {self.riders.get(name, name) for name in held}
        self.stores: Final[tuple[StoreName, ...]] = tuple(
            name for name in captured(deps, cell) if name in carriers and request.selection(name) is not None
        )
        """What is restored; the stores that ride with one of them are in it."""
        self.absent: Final = sorted(held - set(names))
        """Stores that the backup has and this estate does not."""

    def store(self, name: StoreName) -> Store:
        return self.deps.factory.store(self.cell, name)

    def restoring(self, name: StoreName) -> Restoring:
        return self.store(name).restoring(self.tenant, self.origin)

    def owner(self, collection: str, store: StoreName) -> StoreName:
        """Whose a collection is, of those that come with `store`."""
        return self.owners.get(collection, store)

    @property
    def owners(self) -> Mapping[str, StoreName]:
        return {f.collection: f.store for f in self.source.collections() if f.store in self.riders}

    # -- schemas -----------------------------------------------------------------------------------------------------

    def versions(self) -> dict[StoreName, Versions]:
        schemas = self.deps.schemas
        if schemas is None:
            return {}
        return {
            name: schemas.versions(self.cell, name, self.tenant, self.backup.source)
            for name in schemas.stores()
            if name in self.stores
        }

    def paths(self, found: Mapping[StoreName, Sequence[Finding]]) -> tuple[SchemaPath, ...]:
        """The way of each store with a schema; `found` is what the stores' preflights said of the backup as it is."""
        return tuple(
            schema_path(
                SchemaFacts(
                    store=name,
                    backup=its.backup,
                    live=its.live,
                    changes=tuple(f"{f.where}: {f.message}" for f in found[name] if f.code in DIFFERS),
                    migrates=its.migrates,
                    no_program=its.no_program,
                )
            )
            for name, its in self.versions().items()
        )

    def stage(self, paths: Sequence[SchemaPath], reach: Reach) -> None:
        """Bring the backup to the live schemas, where they are others. `source` is that from then on."""
        schemas, versions = self.deps.schemas, self.versions()
        for path in paths:
            if path.way is not Way.MIGRATED:
                continue
            its = versions[path.store]
            if schemas is None or its.backup is None or its.live is None:
                raise StoreRefused(f"nothing is known that migrates {path.store}")
            stage = schemas.staging(self.cell, path.store, self.tenant, self.source, purpose=self._purpose)
            self._stages[path.store] = stage
            stage.stage(its.backup, its.live, reach=reach)
            self.source = stage.staged()

    def drop(self) -> None:
        """Remove everything that was staged, by this process or another one. Idempotent."""
        drop_staged(self.deps, self.cell, self._purpose)

    # -- looking -----------------------------------------------------------------------------------------------------

    def preflight(self) -> dict[StoreName, Sequence[Finding]]:
        """What every store says of the backup as it is now (`source`)."""
        return self.crew.each(lambda n: self.restoring(n).preflight(self.source), self.stores)

    def differences(self) -> dict[StoreName, Spool]:
        """The backup against what is live, store by store; each to be closed."""

        def one(name: StoreName) -> Spool:
            selection = self.request.selection(name)
            assert selection is not None
            spool = Spool(name)
            try:
                return spool.fill(self.restoring(name).differences(self.source, selection))
            except BaseException:
                spool.close()
                raise

        return self.crew.each(one, self.stores)

    def changes(self) -> tuple[CollectionChange, ...]:
        """As `differences`, counted."""
        with ExitStack() as stack:
            spools = [stack.enter_context(s) for s in self.differences().values()]
            return self.counted(spools)

    def counted(self, spools: Sequence[Spool]) -> tuple[CollectionChange, ...]:
        return tuple(change for spool in spools for change in spool.changes(self.source, self.owners))

    def close(self) -> None:
        for stage in self._stages.values():
            stage.close()
        self.crew.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def drop_staged(deps: Deps, cell: CellName, purpose: str) -> None:
    """Remove what a restore has staged, whoever staged it. Idempotent; needs no backup."""
    if deps.schemas is None:
        return
    for name in deps.schemas.stores():
        stage = deps.schemas.leftover(cell, name, purpose=purpose)
        try:
            stage.drop()
        finally:
            stage.close()


def refusals(found: Mapping[StoreName, Sequence[Finding]]) -> list[Finding]:
    return [f for of_store in found.values() for f in of_store if f.severity is Severity.REFUSAL]
