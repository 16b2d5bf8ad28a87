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
            "select id, key from tenure.journal where tenant_id = %(tenant)s and store = %(store)s order by id",
            {"tenant": tenant, "store": store},
        )
        return [(number, key) for number, key in rows]

    def settle(self, tenant: TenantId, ids: Sequence[int]) -> None:
        if ids:
            self._store.home(tenant).pool.rows(
                "delete from tenure.journal where tenant_id = %(tenant)s and id = any(%(ids)s) returning id",
                {"tenant": tenant, "ids": list(ids)},
            )
