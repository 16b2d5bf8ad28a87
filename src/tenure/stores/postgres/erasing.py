"""Erasing a tenant's rows of some tables, under its fence and with no link left."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tenure.errors import FenceRefused
from tenure.stores.contract import Fence
from tenure.stores.postgres import fence as fences
from tenure.stores.postgres import names
from tenure.stores.postgres.connect import Pool
from tenure.stores.postgres.repair import erase
from tenure.stores.postgres.tables import TenantTable, require


def erase_tables(
    pool: Pool,
    specs: Sequence[TenantTable],
    all_specs: Sequence[TenantTable],
    fence: Fence,
    progress: Callable[[int], None],
) -> int:
    """Delete the tenant's rows of `specs`; `all_specs` are all tables of the tenant in this database.

    Raises `StoreRefused` while a link of the tenant still reaches this database: what it brings would come after.
    """
    fences.claim(pool, fence)
    current = fences.state(pool, fence.tenant)
    if current.writable:
        raise FenceRefused(
            f"{pool.where}: {fence.tenant} is not fenced here, so nothing of it is erased",
            hint="fence the store first",
        )
    fences.require_unlinked(pool, fence)
    known = require(pool, all_specs)
    return erase(
        pool,
        [t for t in known if t.spec in specs],
        fence,
        known=known,
        origin=f"{names.tenant_prefix(fence.tenant)}_{names.short(pool.where, *(t.collection for t in specs))}_erase",
        progress=progress,
    )
