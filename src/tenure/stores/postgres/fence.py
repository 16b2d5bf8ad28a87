"""A tenant's fence in one cell's PostgreSQL: the row in tenure.fence, and the triggers that make writers look at it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from psycopg import errors

from tenure.errors import DeadlineExceeded, FenceRefused, StoreRefused
from tenure.model.names import StoreName, TenantId
from tenure.stores.contract import Fence, FenceState
from tenure.stores.postgres import cell_schema, guard, names
from tenure.stores.postgres.connect import Pool
from tenure.stores.postgres.tables import TenantTable, require

_NOT_INSTALLED: Final = (errors.UndefinedFunction, errors.InvalidSchemaName)
RECORD_WAIT_MS: Final = 200
"""How long switching recording on may make the tenant's writes wait, per attempt."""

_CLAIM: Final = "select tenure.claim(%(tenant)s, %(token)s)"

_STATE: Final = """
select writable or coalesce(until <= clock_timestamp(), false), epoch, token,
    not writable and until > clock_timestamp()
from tenure.fence where tenant_id = %(tenant)s
"""

_HOLDERS: Final = """
select coalesce('pid ' || l.pid || ' (' || coalesce(a.usename, '?') || ', ' || coalesce(a.application_name, '') || ', '
    || coalesce(a.state, '?') || ', transaction open for ' || date_trunc('second', now() - a.xact_start) || ')',
    'a prepared transaction')
from pg_locks l left join pg_stat_activity a on a.pid = l.pid
where l.granted and l.locktype = 'advisory' and l.objsubid = 1
    and (l.classid::int8 << 32) | l.objid::int8 = tenure.lock_key(%(tenant)s)
    and l.database = (select oid from pg_database where datname = current_database())
"""

_LINKED: Final = """
select pubname::text from pg_publication where starts_with(pubname::text, %(prefix)s)
union select subname::text from pg_subscription where starts_with(subname::text, %(prefix)s)
    and subdbid = (select oid from pg_database where datname = current_database())
union select slot_name::text from pg_replication_slots where starts_with(slot_name::text, %(prefix)s)
    and database = current_database()
"""

_COPIERS: Final = """
union select 'the copy of ' || store || ' over ' || link from tenure.copier where tenant_id = %(tenant)s
"""

_READERS: Final = """
union select 'the ' || reader || ' of ' || store from tenure.journal_reader where tenant_id = %(tenant)s
"""


def linked(pool: Pool, tenant: TenantId) -> list[str]:
    """Names of the publications, subscriptions and slots of the tenant's links in this database, of the copies of
    stores whose fence is here, and of who reads the journal besides."""
    parameters = {"tenant": tenant, "prefix": f"{names.tenant_prefix(tenant)}_"}
    for known in (_COPIERS + _READERS, _COPIERS):
        try:
            return [str(row[0]) for row in pool.rows(_LINKED + known, parameters)]
        except StoreRefused as error:  # an older cell.sql, which knows no readers, or no copies; or none yet
            if not isinstance(error.__cause__, errors.UndefinedTable):
                raise
    return [str(row[0]) for row in pool.rows(_LINKED, parameters)]


def holders(pool: Pool, tenant: TenantId) -> list[str]:
    """The tenant's open transactions that hold a permit, in words."""
    return [str(r[0]) for r in pool.rows(_HOLDERS, {"tenant": tenant})] or ["nobody any more"]


def claim(pool: Pool, fence: Fence) -> None:
    """Have holders of smaller tokens refused here from now on; raises `FenceRefused` if we are one of them.

    A no-op where cell.sql is not installed: no token was ever used there.
    """
    try:
        pool.rows(_CLAIM, {"tenant": fence.tenant, "token": fence.token})
    except StoreRefused as error:
        if not isinstance(error.__cause__, _NOT_INSTALLED):
            raise


def ensure(pool: Pool, specs: Sequence[TenantTable], tenant: TenantId) -> None:
    """cell.sql and the tenant's triggers are there.

    If a trigger was missing, changes may have gone unrecorded: what was compared before no longer counts.
    """
    cell_schema.install(pool)
    tables = require(pool, specs)
    if guard.unguarded(pool, specs, tenant):
        guard.install(pool, tables, tenant)
        pool.rows(
            "update tenure.fence set compared = '{}' where tenant_id = %(tenant)s returning epoch",
            {"tenant": tenant},
        )


_LOWER: Final = """
select tenure.lower_fence(%(tenant)s, %(epoch)s, %(token)s, %(expires)s, %(drain)s, %(schemas)s, %(tables)s,
    %(triggers)s::name[])
"""


def lower(
    pool: Pool, specs: Sequence[TenantTable], fence: Fence, *, expires_in_s: float | None, drain_s: float
) -> None:
    """See `Store.fence`. One round trip where everything is in place."""
    began = time.monotonic()
    answer = _lower(pool, specs, fence, expires_in_s, drain_s)
    if answer == "unguarded":
        ensure(pool, specs, fence.tenant)
        left_s = None if expires_in_s is None else expires_in_s - (time.monotonic() - began)
        answer = _lower(pool, specs, fence, left_s, drain_s)
    if answer == "lapsed":
        if expires_in_s is None:
            moment = "before it was made permanent"
        else:
            moment = f"after {expires_in_s:g} s, before it was down"
        raise DeadlineExceeded(
            f"{pool.where}: the fence of {fence.tenant} had lifted itself {moment}",
            hint="the tenant is writing here again: start the switch anew",
        )
    if answer != "ok":
        raise StoreRefused(
            f"{pool.where}: tables change while the fence of {fence.tenant} goes down ({answer})"
        )


def _lower(
    pool: Pool, specs: Sequence[TenantTable], fence: Fence, expires_in_s: float | None, drain_s: float
) -> str:
    parameters = {
        "tenant": fence.tenant,
        "epoch": fence.epoch,
        "token": fence.token,
        "expires": expires_in_s,
        "drain": max(1, round(drain_s * 1000)),
        **guard.guarded(specs, fence.tenant),
    }
    try:
        return str(pool.value(_LOWER, parameters))
    except DeadlineExceeded as error:
        raise DeadlineExceeded(
            f"{pool.where}: open transactions of {fence.tenant} did not end within {drain_s:g} s: "
            + "; ".join(holders(pool, fence.tenant)),
            hint="the tenant goes on as before; try again when these transactions are over",
        ) from error
    except StoreRefused as error:
        if isinstance(error.__cause__, _NOT_INSTALLED):
            return "unguarded"
        raise


def state(pool: Pool, tenant: TenantId) -> FenceState:
    """See `Store.fence_state`."""
    rows = pool.rows(_STATE, {"tenant": tenant}) if cell_schema.installed(pool) else []
    if not rows:
        return FenceState(writable=True, epoch=0, token=0)
    writable, epoch, token, expires = rows[0]
    return FenceState(writable=writable, epoch=epoch, token=token, expires=bool(expires))


def lift(pool: Pool, fence: Fence) -> None:
    """See `Store.open`. Where no link of the tenant is left in this database, row and triggers go as well."""
    try:
        pool.rows(
            "select tenure.lift_fence(%(tenant)s, %(epoch)s, %(token)s)",
            {"tenant": fence.tenant, "epoch": fence.epoch, "token": fence.token},
        )
    except StoreRefused as error:
        if isinstance(error.__cause__, _NOT_INSTALLED):
            return
        raise
    if not linked(pool, fence.tenant):
        forget(pool, fence)


def forget(pool: Pool, fence: Fence, *, deadline_s: float = 30.0) -> None:
    """Remove triggers, functions, fence row and records of the tenant; only its newest token stays known.

    Idempotent; raises `DeadlineExceeded`, and `FenceRefused` if a newer holder has begun meanwhile.
    """
    guard.remove(pool, fence)
    parameters = {"tenant": fence.tenant, "token": fence.token, "wait": RECORD_WAIT_MS}
    _between_transactions(
        pool,
        fence.tenant,
        lambda: pool.rows("select tenure.forget(%(tenant)s, %(token)s, %(wait)s)", parameters),
        deadline_s=deadline_s,
    )


def leave(pool: Pool, fence: Fence) -> None:
    """A link is gone from this database: with the last one what it has made here goes too.

    An open tenant leaves no trace; one that is fenced stays so, and nothing of it is recorded any more. Idempotent.
    """
    if linked(pool, fence.tenant):
        return
    if state(pool, fence.tenant).writable:
        forget(pool, fence)
    else:
        stop_recording(pool, fence)


def require_unlinked(pool: Pool, fence: Fence) -> None:
    """Raise `StoreRefused` while a link of the tenant reaches this database, `FenceRefused` if we are outdated."""
    claim(pool, fence)
    left = linked(pool, fence.tenant)
    if left:
        raise StoreRefused(
            f"{pool.where}: a link of {fence.tenant} is still there ({', '.join(left)})",
            hint="stop the link first",
        )


def retire(pool: Pool, fence: Fence, *, deadline_s: float = 30.0) -> None:
    """See `Store.retire`. The fence goes down before the triggers go: from then on it is the app's permits that look at
    it, and writes without one pass."""
    cell_schema.install(pool)
    require_unlinked(pool, fence)
    parameters = {
        "tenant": fence.tenant,
        "epoch": fence.epoch,
        "token": fence.token,
        "wait": RECORD_WAIT_MS,
    }
    _between_transactions(
        pool,
        fence.tenant,
        lambda: pool.rows("select tenure.retire(%(tenant)s, %(epoch)s, %(token)s, %(wait)s)", parameters),
        deadline_s=deadline_s,
    )
    guard.remove(pool, fence)


def enrol(pool: Pool, specs: Sequence[TenantTable], fence: Fence) -> None:
    """Put the means of fencing in place and leave the tenant writable. Idempotent; keeps a fence that is down."""
    cell_schema.install(pool)
    claim(pool, fence)
    ensure(pool, specs, fence.tenant)
    pool.rows(
        "select tenure.enrol(%(tenant)s, true, %(epoch)s, %(token)s)",
        {"tenant": fence.tenant, "epoch": fence.epoch, "token": fence.token},
    )


def record(pool: Pool, tenant: TenantId, *, deadline_s: float) -> None:
    """Have the tenant's changes recorded from now on. A no-op if they are; raises `DeadlineExceeded`."""
    if recording(pool, tenant):
        return

    def begin() -> None:
        if not pool.value(
            "select tenure.record_changes(%(tenant)s, %(wait)s)", {"tenant": tenant, "wait": RECORD_WAIT_MS}
        ):
            raise FenceRefused(f"{pool.where}: no link of {tenant} has been started here")

    _between_transactions(pool, tenant, begin, deadline_s=deadline_s)


def _between_transactions(
    pool: Pool, tenant: TenantId, work: Callable[[], object], *, deadline_s: float
) -> None:
    """Do what needs the tenant's lock exclusively.

    Each attempt makes new writes of the tenant wait for at most `RECORD_WAIT_MS`, then lets them go on for as long.
    """
    deadline = time.monotonic() + deadline_s
    while True:
        try:
            work()
        except DeadlineExceeded as error:
            if time.monotonic() > deadline:
                raise DeadlineExceeded(
                    f"{pool.where}: open transactions of {tenant} did not end within {deadline_s:g} s: "
                    + "; ".join(holders(pool, tenant)),
                    hint="end or wait for these transactions, then resume",
                ) from error
            time.sleep(RECORD_WAIT_MS / 1000)
        else:
            return


def add_reader(pool: Pool, fence: Fence, store: StoreName, reader: str, *, deadline_s: float) -> None:
    """Have what changes in that store kept for this reader from now on. Raises `DeadlineExceeded`."""
    parameters = {
        "tenant": fence.tenant,
        "store": store,
        "reader": reader,
        "token": fence.token,
        "wait": RECORD_WAIT_MS,
    }

    def begin() -> None:
        if not pool.value(
            "select tenure.add_reader(%(tenant)s, %(store)s, %(reader)s, %(token)s, %(wait)s)", parameters
        ):
            raise FenceRefused(f"{pool.where}: another process has forgotten {fence.tenant} meanwhile")

    _between_transactions(pool, fence.tenant, begin, deadline_s=deadline_s)


def remove_reader(pool: Pool, fence: Fence, store: StoreName, reader: str) -> None:
    """Forget the reader and its rows. Idempotent; a no-op where cell.sql knows of none."""
    if pool.value("select to_regclass('tenure.journal_reader') is not null"):
        pool.rows(
            "select tenure.remove_reader(%(tenant)s, %(store)s, %(reader)s, %(token)s)",
            {"tenant": fence.tenant, "store": store, "reader": reader, "token": fence.token},
        )


def recording(pool: Pool, tenant: TenantId) -> bool:
    """Whether the tenant's changes are being recorded."""
    return bool(
        cell_schema.installed(pool)
        and pool.value("select recording from tenure.fence where tenant_id = %(tenant)s", {"tenant": tenant})
    )


def stop_recording(pool: Pool, fence: Fence) -> None:
    """Forget what was recorded for the tenant, and record no more. The fence stays as it is. Idempotent."""
    with pool.transaction() as connection:
        for statement in (
            _CLAIM,
            "select tenure.shut_gate(%(tenant)s)",
            "update tenure.fence set recording = false, compared = '{}' where tenant_id = %(tenant)s",
            "delete from tenure.touched where tenant_id = %(tenant)s",
            "delete from tenure.touched_log where tenant_id = %(tenant)s",
            "delete from tenure.touched_in_bulk where tenant_id = %(tenant)s",
            "delete from tenure.journal where tenant_id = %(tenant)s",
            "delete from tenure.journal_reader where tenant_id = %(tenant)s",
        ):
            connection.execute(statement, {"tenant": fence.tenant, "token": fence.token})
