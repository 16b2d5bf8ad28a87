"""One direction of a link: a publication and a slot on the publisher, a subscription on the subscriber.

The order of creation matters: what a slot decodes must find its publication in the catalogue of that moment. The slot
is made by us and not by CREATE SUBSCRIPTION, so that waiting for the publisher's running transactions is bounded,
leaves nothing when it is given up, and works between two databases of one server.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from psycopg import sql

from tenure.errors import DeadlineExceeded, StoreRefused, StoreUnavailable
from tenure.model.names import TenantId
from tenure.model.secret import Secret
from tenure.stores.postgres.connect import Connection, Pool
from tenure.stores.postgres.tables import Table, collection_of

SLOT_DEADLINE_S: Final = 60.0
DROP_DEADLINE_S: Final = 20.0
ERRORS_BEFORE_GIVING_UP: Final = 3
"""An apply or copy worker that failed that often and is not running has met something that repeating does not mend."""
ROOM: Final = "insert into pg_temp.room select repeat('x', 1000) from generate_series(1, 1000)"
"""A megabyte that has to find room, and that nobody else sees."""

_SUBSCRIPTION: Final = """
select s.oid::int8, s.subenabled, {conninfo},
    (select count(*) from pg_subscription_rel r where r.srsubid = s.oid and r.srsubstate <> 'r'),
    coalesce((select bool_or(t.pid is not null) from pg_stat_subscription t where t.subid = s.oid), false),
    to_jsonb(e) - 'subid' - 'subname' - 'stats_reset'
from pg_subscription s left join pg_stat_subscription_stats e on e.subid = s.oid
where s.subname = %(name)s and s.subdbid = (select oid from pg_database where datname = current_database())
"""

_RUNNING: Final = """
select coalesce('pid ' || pid || ' (' || coalesce(usename, '?') || ', ' || application_name || ', ' || state
    || ', open for ' || date_trunc('second', now() - xact_start) || ')', '')
from pg_stat_activity where backend_xid is not null and pid <> pg_backend_pid()
union all select 'prepared transaction ' || gid from pg_prepared_xacts
"""


@dataclass(frozen=True, kw_only=True)
class Subscription:
    """What the subscriber says about a subscription. `failures` counts what went wrong, by the server's own names."""

    oid: int
    enabled: bool
    conninfo: Secret
    """Empty where only a superuser may read it."""
    tables_left: int
    running: bool
    failures: dict[str, int]

    @property
    def errors(self) -> int:
        return sum(n for name, n in self.failures.items() if name.endswith("error_count"))


def publish(pool: Pool, name: str, tables: Sequence[Table], tenant: TenantId) -> None:
    """Create the publication of the tenant's rows. Idempotent."""
    if pool.rows("select 1 from pg_publication where pubname = %(name)s", {"name": name}):
        return
    targets = [t.published(tenant) for t in tables]
    mark = sql.SQL("tenure.mark where (tenant_id = {} and link = {})").format(
        sql.Literal(str(tenant)), sql.Literal(name)
    )
    with pool.connection() as connection:
        connection.execute(
            sql.SQL(
                "create publication {} for table {} with"
                " (publish = 'insert, update, delete', publish_via_partition_root = true)"
            ).format(sql.Identifier(name), sql.SQL(", ").join([*targets, mark]))
        )


def published(pool: Pool, name: str) -> dict[str, frozenset[str]]:
    """The columns that the publication carries, table by table; empty where it does not exist."""
    rows = pool.rows(
        "select schemaname::text, tablename::text, attnames::text[] from pg_publication_tables"
        " where pubname = %(name)s",
        {"name": name},
    )
    return {collection_of(schema, table): frozenset(columns) for schema, table, columns in rows}


def create_slot(pool: Pool, name: str) -> None:
    """Create the slot. Idempotent. Waits for the server's running transactions, at most `SLOT_DEADLINE_S`."""
    if pool.rows(
        "select 1 from pg_replication_slots where slot_name = %(name)s and database = current_database()",
        {"name": name},
    ):
        return
    try:
        with pool.transaction() as connection:
            connection.execute(
                "select set_config('statement_timeout', %(ms)s, true)", {"ms": f"{SLOT_DEADLINE_S:g}s"}
            )
            connection.execute(
                "select pg_create_logical_replication_slot(%(name)s, 'pgoutput', false, false)",
                {"name": name},
            )
    except DeadlineExceeded as error:
        raise DeadlineExceeded(
            f"{pool.where}: no replication slot within {SLOT_DEADLINE_S:g} s, because transactions run on: "
            + "; ".join(str(r[0]) for r in pool.rows(_RUNNING)),
            hint="end or wait for these transactions, then resume",
        ) from error


def subscribe(pool: Pool, name: str, publisher: Secret, *, copy_data: bool, binary: bool) -> None:
    """Create the subscription for an existing slot, or point an existing one at `publisher` and enable it."""
    there = subscription(pool, name)
    if there is not None and there.enabled and there.conninfo == publisher:
        return
    with pool.connection() as connection:
        _keep_out_of_logs(connection)
        try:
            if there is not None:
                connection.execute(
                    sql.SQL("alter subscription {} connection {}").format(
                        sql.Identifier(name), sql.Literal(publisher.reveal())
                    )
                )
                connection.execute(sql.SQL("alter subscription {} enable").format(sql.Identifier(name)))
                return
            connection.execute(
                sql.SQL(
                    "create subscription {name} connection {dsn} publication {name} with (create_slot = false,"
                    " slot_name = {slot}, origin = none, copy_data = {copy}, binary = {binary},"
                    " streaming = parallel)"
                ).format(
                    name=sql.Identifier(name),
                    dsn=sql.Literal(publisher.reveal()),
                    slot=sql.Literal(name),
                    copy=sql.Literal(copy_data),
                    binary=sql.Literal(binary),
                )
            )
        finally:
            if not connection.closed:
                _back_into_logs(connection)


_LOGGING: Final = {
    "log_min_error_statement": "panic",
    "log_statement": "none",
    "log_min_duration_statement": "-1",
}


def _keep_out_of_logs(connection: Connection) -> None:
    """The next statements hold a password: the server must not write them to its log, as far as Tenure's role may say
    so (preflight warns where it may not)."""
    for name, value in _LOGGING.items():
        connection.execute(
            "select set_config(%(name)s, %(value)s, false) where has_parameter_privilege(%(name)s, 'set')",
            {"name": name, "value": value},
        )


def _back_into_logs(connection: Connection) -> None:
    connection.execute(
        "select set_config(name, reset_val, false) from pg_settings"
        " where name = any(%(names)s) and has_parameter_privilege(name, 'set')",
        {"names": list(_LOGGING)},
    )


def subscription(pool: Pool, name: str) -> Subscription | None:
    readable = pool.value("select has_column_privilege('pg_subscription', 'subconninfo', 'select')")
    conninfo = sql.SQL("s.subconninfo" if readable else "''::text")
    rows = pool.rows(sql.SQL(_SUBSCRIPTION).format(conninfo=conninfo), {"name": name})
    if not rows:
        return None
    oid, enabled, conninfo, left, running, failures = rows[0]
    return Subscription(
        oid=oid,
        enabled=enabled,
        conninfo=Secret(conninfo),
        tables_left=left,
        running=running,
        failures={k: int(v) for k, v in (failures or {}).items() if v},
    )


def check(pool: Pool, name: str, *, failures_allowed: int = ERRORS_BEFORE_GIVING_UP) -> Subscription:
    """The subscription, or `StoreRefused` with the reason if it does not follow and will not by itself."""
    found = subscription(pool, name)
    if found is None:
        raise StoreRefused(
            f"{pool.where}: the subscription {name} is gone", hint="abort the move and start it anew"
        )
    if not found.enabled:
        raise StoreRefused(
            f"{pool.where}: the subscription {name} has been disabled", hint="resume to enable it"
        )
    if not found.running and found.errors >= failures_allowed:
        raise fails_again_and_again(pool, name, found)
    return found


def fails_again_and_again(pool: Pool, name: str, found: Subscription) -> StoreRefused:
    """What to raise for a worker that repeating does not help. Raises `StoreUnavailable` where the disk is full: that
    is the one reason that can be found out from here."""
    with pool.connection() as connection, connection.transaction(force_rollback=True):
        connection.execute("create temporary table room (taken text) on commit drop")
        connection.execute(ROOM)
    counts = ", ".join(f"{k} {n}" for k, n in sorted(found.failures.items()))
    return StoreRefused(
        f"{pool.where}: applying the changes fails again and again ({counts})",
        hint=f"the reason is in the server's log, at logical replication worker for subscription {name}",
    )


@dataclass(frozen=True, kw_only=True)
class Slot:
    """What the publisher says about a slot: WAL that is not confirmed, that is kept, and the position confirmed."""

    lost: bool
    lag_bytes: int | None
    retained_bytes: int
    confirmed: int | None


def slot(pool: Pool, name: str) -> Slot | None:
    """The slot, if there is one; an invalidated one is `lost` and keeps nothing."""
    rows = pool.rows(
        "select coalesce(wal_status = 'lost', false),"
        " pg_wal_lsn_diff(pg_current_wal_insert_lsn(), confirmed_flush_lsn)::int8,"
        " coalesce(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn), 0)::int8,"
        " pg_wal_lsn_diff(confirmed_flush_lsn, '0/0')::int8"
        " from pg_replication_slots where slot_name = %(name)s and database = current_database()",
        {"name": name},
    )
    if not rows:
        return None
    lost, lag, retained, confirmed = rows[0]
    return Slot(lost=lost, lag_bytes=lag, retained_bytes=0 if lost else retained, confirmed=confirmed)


def check_slot(pool: Pool, name: str) -> Slot:
    """The slot, or `StoreRefused` if it is gone or lost."""
    found = slot(pool, name)
    if found is None or found.lost:
        raise StoreRefused(
            f"{pool.where}: the replication slot {name} is {'invalidated' if found else 'gone'}",
            hint="abort the move and start it anew; max_slot_wal_keep_size may be too small",
        )
    return found


def unsubscribe(pool: Pool, name: str) -> int | None:
    """Drop the subscription without asking its publisher. Idempotent; gives its oid, if it was there."""
    found = subscription(pool, name)
    if found is None:
        return None
    with pool.connection() as connection:
        subscription_name = sql.Identifier(name)
        connection.execute(sql.SQL("alter subscription {} disable").format(subscription_name))
        connection.execute(sql.SQL("alter subscription {} set (slot_name = none)").format(subscription_name))
        connection.execute(sql.SQL("drop subscription {}").format(subscription_name))
    return found.oid


def unpublish(pool: Pool, name: str, *, sync_slots: Sequence[str] = ()) -> None:
    """Drop the publication, its slot, and the slots of interrupted table copies (patterns). Idempotent."""
    deadline = time.monotonic() + DROP_DEADLINE_S
    for pattern in (name, *sync_slots):
        _drop_slots(pool, pattern, deadline)
    with pool.connection() as connection:
        connection.execute(sql.SQL("drop publication if exists {}").format(sql.Identifier(name)))


def _drop_slots(pool: Pool, pattern: str, deadline: float) -> None:
    slots: dict[str, Any] = {"pattern": f"^{pattern}$"}
    while True:
        rows = pool.rows(
            "select slot_name::text, active_pid from pg_replication_slots"
            " where slot_name::text ~ %(pattern)s and database = current_database()",
            slots,
        )
        for slot, pid in rows:
            if pid is None:
                pool.rows(
                    "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
                    " where slot_name = %(slot)s and active_pid is null",
                    {"slot": slot},
                )
            else:
                pool.rows("select pg_terminate_backend(%(pid)s)", {"pid": pid})
        if not rows:
            return
        if time.monotonic() > deadline:
            raise StoreUnavailable(
                f"{pool.where}: the replication slot {rows[0][0]} is still in use and retains WAL",
                hint="resume: it is dropped as soon as its connection has ended",
            )
        time.sleep(0.02)


def system_identifier(pool: Pool) -> int:
    return int(pool.value("select system_identifier from pg_control_system()"))
