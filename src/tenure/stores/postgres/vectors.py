"""pgvector: vectors in tables of a cell's PostgreSQL, carried by that store's live copy and covered by its fence."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final

from tenure.errors import StoreRefused
from tenure.model.comparison import Comparison, Difference
from tenure.model.finding import Finding, Severity
from tenure.model.inventory import Inventory
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import FindPage, Search, Survey
from tenure.stores.backup import Capture, Restoring, refused
from tenure.stores.contract import (
    Capabilities,
    CopyProgress,
    Fence,
    FenceState,
    Mark,
    Pace,
    Room,
    Standing,
    Take,
    unhurried,
)
from tenure.stores.postgres import fence as fences
from tenure.stores.postgres import find as finds
from tenure.stores.postgres import names
from tenure.stores.postgres.erasing import erase_tables
from tenure.stores.postgres.home_checks import database_missing
from tenure.stores.postgres.store import PostgresStore, inventory
from tenure.stores.postgres.tables import TenantTable, describe, describe_all, in_both
from tenure.stores.postgres.verification import Verification


class PgVectorStore:
    """Tables with vectors in the database of `carrier`. Implements `tenure.stores.contract.Store`.

    `carrier` must list these tables in `carried`. The fence is the carrier's: setting it here sets it there.
    """

    def __init__(
        self, *, name: StoreName, cell: CellName, carrier: PostgresStore, tables: Sequence[TenantTable]
    ) -> None:
        strays = [t.collection for t in tables if t not in carrier.carried]
        if strays:
            raise StoreRefused(f"{name} in {cell}: {carrier.name} does not carry {', '.join(strays)}")
        self.name: Final = name
        self.cell: Final = cell
        self.carrier: Final = carrier
        self.tables: Final = tuple(tables)
        self.server: Final = carrier.server
        self.capabilities: Final = Capabilities(
            fence_enforced=True,
            fence_drains=False,
            fence_expires=True,
            rides_with=carrier.name,
            fenced_with=carrier.name,
        )

    def room(self) -> Sequence[Room]:
        return self.carrier.room()

    def ping(self) -> None:
        self.carrier.ping()

    def inventory(self, tenant: TenantId) -> Inventory:
        return inventory(self.carrier.home(tenant).pool, self.name, self.own_tables(tenant), tenant)

    def survey(self, tenants: Collection[TenantId], *, pace: Pace = unhurried) -> Survey:
        """Only of these tables: what no entry names is the carrier's to survey."""
        return self.carrier.survey_of(self.name, self.tables, tenants, everything=False, pace=pace)

    def find(
        self, search: Search, *, cursor: str | None = None, pace: Pace = unhurried
    ) -> Iterator[FindPage]:
        """Only in these tables, whatever the search says: the carrier looks everywhere else."""
        carried = frozenset(t.collection for t in self.tables)
        return finds.find(self.carrier.searched(self.name, search, carried), search, cursor, pace)

    def own_tables(self, tenant: TenantId) -> tuple[TenantTable, ...]:
        """This store's tables by the names that they have for that tenant."""
        return tuple(table.of(tenant) for table in self.tables)

    def claim(self, fence: Fence) -> None:
        self.carrier.claim(fence)

    def fence(self, fence: Fence, *, expires_in_s: float | None, drain_s: float) -> None:
        """A no-op where the carrier's fence is down already in the same way."""
        state = self.fence_state(fence.tenant)
        if state.writable or state.token != fence.token or state.expires != (expires_in_s is not None):
            self.carrier.fence(fence, expires_in_s=expires_in_s, drain_s=drain_s)
        else:
            self.carrier.claim(fence)

    def open(self, fence: Fence) -> None:
        self.carrier.open(fence)

    def fence_state(self, tenant: TenantId) -> FenceState:
        return self.carrier.fence_state(tenant)

    def erase(self, fence: Fence, *, progress: Callable[[int], None] = lambda _items: None) -> int:
        home = self.carrier.home(fence.tenant)
        return erase_tables(home.pool, self.own_tables(fence.tenant), home.all_tables, fence, progress)

    def retire(self, fence: Fence) -> None:
        """Changes nothing, since the fence is the carrier's, which retires it. Refuses what the carrier refuses."""
        fences.require_unlinked(self.carrier.home(fence.tenant).pool, fence)

    def capture(self, tenant: TenantId) -> Capture:  # noqa: ARG002
        """Raises `StoreRefused`: the carrier's capture takes these tables."""
        raise refused(self.name, self.cell, f"it rides with {self.carrier.name}")

    def restoring(self, tenant: TenantId, origin: TenantId) -> Restoring:  # noqa: ARG002
        """Raises `StoreRefused`: the carrier restores these tables."""
        raise refused(self.name, self.cell, f"it rides with {self.carrier.name}")

    def close(self) -> None:
        """The connections are the carrier's: it closes them."""


class PgVectorLiveCopy:
    """The vectors' part of a link whose PostgreSQL copy carries them. Implements `tenure.stores.contract.LiveCopy`.

    Copying, following, marks and the way back are the carrier's; comparing and repairing are done here. `link` is the
    carrier's.
    """

    def __init__(self, *, link: str, source: PgVectorStore, target: PgVectorStore, tenant: TenantId) -> None:
        self.source: Final = source
        self.target: Final = target
        self.link: Final = link
        self.tenant: Final = tenant
        self._verification: Final = Verification(
            store=source.name,
            source=source.carrier.home(tenant).pool,
            target=target.carrier.home(tenant).pool,
            specs=in_both(source.own_tables(tenant), target.own_tables(tenant)),
            tenant=tenant,
            direction=names.direction(tenant, link, source.carrier.name, source.cell, target.cell),
        )

    def preflight(self) -> Sequence[Finding]:
        """The tables are checked by the carrier; this checks the extension."""
        return [
            Finding(
                severity=Severity.REFUSAL,
                code="extension_missing",
                where=f"{store.name} in {store.cell}",
                message="the extension vector is not there",
                fix="create it",
                command="create extension vector",
            )
            for store in (self.source, self.target)
            if not database_missing(store.carrier.pool, store.carrier.home(self.tenant))
            and not store.carrier.home(self.tenant).pool.value(
                "select exists (select from pg_extension where extname = 'vector')"
            )
        ]

    def takes(self) -> Sequence[Take]:
        """The carrier's copy takes what there is to take."""
        return ()

    def fingerprint(self) -> Mapping[str, str]:
        home = self.source.carrier.home(self.tenant)
        if database_missing(self.source.carrier.pool, home):
            return {}
        return describe_all(describe(home.pool, self.source.own_tables(self.tenant)))

    def start(self, fence: Fence) -> None:
        """Nothing to do: the carrier's live copy brings these tables."""

    def progress(self) -> CopyProgress:
        """Always following: the carrier's progress includes these tables."""
        return CopyProgress(items_done=0, items_total=0, bytes_done=0, bytes_total=0, following=True)

    def hurry(self, workers: int) -> int:  # noqa: ARG002
        """The carrier's one worker."""
        return 1

    def standing(self) -> Standing:
        """The carrier's copy says it for these tables as well."""
        return Standing()

    def arm_reverse(self, fence: Fence) -> PgVectorLiveCopy:  # noqa: ARG002
        return PgVectorLiveCopy(link=self.link, source=self.target, target=self.source, tenant=self.tenant)

    def mark(self) -> Mark:
        """A mark of no feed: the carrier's mark covers these tables."""
        return Mark(link=self.link, n=0)

    def seal(self, mark: Mark, *, timeout_s: float) -> None:
        """Nothing to do: the carrier's seal covers these tables."""

    def compare(self, *, progress: Callable[[int], None] = lambda _items: None) -> Comparison:
        return self._verification.compare(progress)

    def compare_changed(self) -> Comparison:
        return self._verification.compare_changed()

    def repair(self, differences: Sequence[Difference], fence: Fence) -> int:
        return self._verification.repair(differences, fence, workers=1)

    def resync(self, fence: Fence, *, workers: int) -> None:
        self._verification.resync(fence, workers=workers)

    def detach(self) -> None:
        for store in (self.source, self.target):
            store.carrier.home(self.tenant).pool.close()
            store.carrier.pool.close()

    def stop(self, fence: Fence) -> None:
        """Nothing to do: the carrier's stop removes the link."""
