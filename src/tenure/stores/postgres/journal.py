"""Reads what the app said it changed in stores without a change feed (`tenure.touch`)."""

from __future__ import annotations

from collections.abc import Sequence

from tenure.model.names import StoreName, TenantId
from tenure.stores.contract import Fence
from tenure.stores.postgres import cell_schema
from tenure.stores.postgres import fence as fences
from tenure.stores.postgres.store import PostgresStore


class PostgresJournal:
    """The journal in one cell's PostgreSQL. Implements `tenure.stores.contract.Journal`."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store

    def begin(self, tenant: TenantId, fence: Fence, *, deadline_s: float = 10.0) -> None:
        """One query where recording is on, as it is after `PostgresLiveCopy.start`. It ends with the link."""
        home = self._store.home(tenant)
        if not fences.recording(home.pool, tenant):
            fences.enrol(home.pool, home.all_tables, fence)
            fences.record(home.pool, tenant, deadline_s=deadline_s)

    def pending(self, tenant: TenantId, store: StoreName) -> list[tuple[int, str]]:
        pool = self._store.home(tenant).pool
        if not cell_schema.installed(pool):
            return []
        rows = pool.rows(
            "select id, key from tenure.journal where tenant_id = %(tenant)s and store = %(store)s and reader = ''"
            " order by id",
            {"tenant": tenant, "store": store},
        )
        return [(number, key) for number, key in rows]

    def settle(self, tenant: TenantId, ids: Sequence[int]) -> None:
        if ids:
            self._store.home(tenant).pool.rows(
                "delete from tenure.journal where tenant_id = %(tenant)s and id = any(%(ids)s) returning id",
                {"tenant": tenant, "ids": list(ids)},
            )

    # -- readers beside the links ------------------------------------------------------------------------------------

    def subscribe(
        self, tenant: TenantId, store: StoreName, reader: str, fence: Fence, *, deadline_s: float = 10.0
    ) -> None:
        """Makes the app's writes wait for at most `fences.RECORD_WAIT_MS` at once."""
        home = self._store.home(tenant)
        fences.enrol(home.pool, home.all_tables, fence)
        fences.remove_reader(home.pool, fence, store, reader)
        fences.add_reader(home.pool, fence, store, reader, deadline_s=deadline_s)

    def unread(
        self, tenant: TenantId, store: StoreName, reader: str, *, most: int
    ) -> Sequence[tuple[int, str]]:
        rows = self._store.home(tenant).pool.rows(
            "select id, key from tenure.journal"
            " where tenant_id = %(tenant)s and store = %(store)s and reader = %(reader)s order by id limit %(most)s",
            {"tenant": tenant, "store": store, "reader": reader, "most": most},
        )
        return [(number, key) for number, key in rows]

    def unsubscribe(self, tenant: TenantId, store: StoreName, reader: str, fence: Fence) -> None:
        """With the last one who needs them, the fence row and the triggers go as well, where the tenant is open."""
        pool = self._store.home(tenant).pool
        fences.remove_reader(pool, fence, store, reader)
        if cell_schema.installed(pool):
            fences.leave(pool, fence)
