"""The tenant's fence for stores beside a cell's PostgreSQL that cannot refuse writes, and who copies into them."""

from __future__ import annotations

from typing import Final

from psycopg import errors

from tenure.errors import FenceRefused, StoreRefused
from tenure.model.names import StoreName, TenantId
from tenure.stores.contract import Copier, Fence, FenceState, Journal
from tenure.stores.postgres import cell_schema
from tenure.stores.postgres import fence as fences
from tenure.stores.postgres.connect import Pool
from tenure.stores.postgres.journal import PostgresJournal
from tenure.stores.postgres.store import PostgresStore

_CLAIM: Final = "select tenure.claim(%(tenant)s, %(token)s)"

_COPIER: Final = """
select coalesce(c.link, ''), coalesce(c.process, ''), coalesce(c.passed, ''),
    coalesce(f.writable or f.until <= clock_timestamp(), f.tenant_id is null), coalesce(n.token, 0)
from (values (%(tenant)s, %(store)s)) asked (tenant_id, store)
left join tenure.copier c using (tenant_id, store)
left join tenure.fence f on f.tenant_id = asked.tenant_id
left join tenure.newest_token n on n.tenant_id = asked.tenant_id
"""

_HOLDS_FENCE: Final = "select tenure.holds_fence(%(tenant)s, %(token)s)"

_JOIN: Final = """
insert into tenure.copier as c (tenant_id, store, link, process)
values (%(tenant)s, %(store)s, %(link)s, coalesce(%(copier)s::text, ''))
on conflict (tenant_id, store) do update
set link = excluded.link, process = coalesce(%(copier)s::text, c.process),
    passed = case when c.link = excluded.link and %(copier)s::text is distinct from '' then c.passed else '' end
"""

_NOTE: Final = """
update tenure.copier set passed = %(passed)s
where tenant_id = %(tenant)s and store = %(store)s and link = %(link)s and process = %(copier)s returning passed
"""

_RELEASE: Final = (
    "delete from tenure.copier where tenant_id = %(tenant)s and store = %(store)s and link = %(link)s"
)

_HELD: Final = "select link from tenure.copier where tenant_id = %(tenant)s and store = %(store)s"


class PostgresTenantFence:
    """The fence of one cell's PostgreSQL. Implements `tenure.stores.contract.TenantFence`; safe for several threads.

    Who copies is a row of `tenure.copier`, changed together with the newest token, so that of two processes the one
    with the greater token stays.
    """

    def __init__(self, store: PostgresStore) -> None:
        self._store = store

    @property
    def name(self) -> StoreName:
        return self._store.name

    @property
    def journal(self) -> Journal:
        return PostgresJournal(self._store)

    def claim(self, fence: Fence) -> None:
        self._store.claim(fence)

    def fence(self, fence: Fence, *, expires_in_s: float | None, drain_s: float) -> None:
        self._store.fence(fence, expires_in_s=expires_in_s, drain_s=drain_s)

    def open(self, fence: Fence) -> None:
        self._store.open(fence)

    def fence_state(self, tenant: TenantId) -> FenceState:
        return self._store.fence_state(tenant)

    def require_unlinked(self, fence: Fence, store: StoreName) -> None:
        self._store.claim(fence)
        pool = self._pool(fence.tenant)
        if not _installed(pool):
            return
        link = pool.value(_HELD, {"tenant": fence.tenant, "store": store})
        if link is not None:
            raise StoreRefused(
                f"{store} of {self._store.cell}: {fence.tenant} is still linked ({link})",
                hint="stop the link first",
            )

    def copier(self, tenant: TenantId, store: StoreName) -> Copier:
        """One round trip: a copy that follows asks again and again."""
        try:
            row = self._pool(tenant).rows(_COPIER, {"tenant": tenant, "store": store})[0]
        except StoreRefused as error:
            if not isinstance(error.__cause__, errors.UndefinedTable):
                raise
            state = self._store.fence_state(tenant)
            return Copier(accepts=state.writable, token=state.token)
        link, process, passed, accepts, token = row
        return Copier(link=link, process=process, passed=passed, accepts=accepts, token=token)

    def join(
        self, fence: Fence, store: StoreName, link: str, *, copier: str | None = None, fenced: bool = False
    ) -> None:
        pool = self._pool(fence.tenant)
        cell_schema.install(pool)
        parameters = {
            "tenant": fence.tenant,
            "token": fence.token,
            "store": store,
            "link": link,
            "copier": copier,
        }
        with pool.transaction() as connection:
            connection.execute(_CLAIM, parameters)
            down = connection.execute(_HOLDS_FENCE, parameters).fetchone() if fenced else (True,)
            if down != (True,):
                raise FenceRefused(
                    f"{fence.tenant} is not fenced in {pool.where}, and so not in {store} either",
                    hint="fence the target before the copy starts",
                )
            connection.execute(_JOIN, parameters)

    def note(self, tenant: TenantId, store: StoreName, link: str, *, copier: str, passed: str) -> None:
        parameters = {"tenant": tenant, "store": store, "link": link, "copier": copier, "passed": passed}
        self._pool(tenant).rows(_NOTE, parameters)

    def release(self, fence: Fence, store: StoreName, link: str) -> None:
        pool = self._pool(fence.tenant)
        if not _installed(pool):
            return
        parameters = {"tenant": fence.tenant, "token": fence.token, "store": store, "link": link}
        with pool.transaction() as connection:
            connection.execute(_CLAIM, parameters)
            connection.execute(_RELEASE, parameters)
        fences.leave(pool, fence)

    def _pool(self, tenant: TenantId) -> Pool:
        return self._store.home(tenant).pool


def _installed(pool: Pool) -> bool:
    """Whether a cell.sql is there that knows of copiers."""
    return bool(pool.value("select to_regclass('tenure.copier') is not null"))
