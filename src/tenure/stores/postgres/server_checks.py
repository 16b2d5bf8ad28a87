"""Whether a server lets a tenant's rows be replicated: its settings, what is left of its limits, rights, and room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tenure.errors import StoreRefused
from tenure.model.finding import Finding
from tenure.model.names import TenantId
from tenure.stores.postgres.compare import Side, expected_rows
from tenure.stores.postgres.connect import Pool
from tenure.stores.postgres.findings import info, refusal, warning
from tenure.stores.postgres.home import Home
from tenure.stores.postgres.store import ROW_OVERHEAD_BYTES
from tenure.stores.postgres.tables import Table

OLDEST_SERVER: Final = 160000
LOGS_CONFLICTS: Final = 180000
LONG_TRANSACTION_S: Final = 60
ROOM_PER_BYTE: Final = 3.0
"""Bytes of disk for a byte of rows: the rows, about as much again for indexes, and the WAL of both."""

_SETTINGS: Final = """
select current_setting('server_version_num')::int, current_setting('wal_level'), pg_is_in_recovery(),
    pg_size_bytes(current_setting('max_slot_wal_keep_size')), current_setting('track_commit_timestamp')::bool
"""

_LIMITS: Final = """
select 'max_replication_slots', current_setting('max_replication_slots')::int,
    (select count(*)::int from pg_replication_slots), 4
union all select 'max_wal_senders', current_setting('max_wal_senders')::int,
    (select count(*)::int from pg_stat_replication), 4
union all select 'max_logical_replication_workers', current_setting('max_logical_replication_workers')::int,
    (select count(*)::int from pg_stat_activity where backend_type like 'logical replication%%'), 3
union all select 'max_active_replication_origins', current_setting('max_active_replication_origins')::int,
    (select count(*)::int from pg_replication_origin), 4
    where current_setting('max_active_replication_origins', true) is not null
"""

_ORIGINS: Final = (
    "pg_replication_origin_create",
    "pg_replication_origin_drop",
    "pg_replication_origin_session_setup",
    "pg_replication_origin_session_is_setup",
)
"""What tells Tenure's own repairs from what the app writes, also within the functions of the schema `tenure`."""

_RIGHTS: Final = """
select why, replace(command, '$ROLE', quote_ident(current_user)) from (
    select 'it must make replication slots' as why, 'alter role $ROLE replication' as command
        where not (select rolreplication from pg_roles where rolname = current_user)
            and not exists (select from pg_roles where rolname = 'rds_replication' and pg_has_role(oid, 'usage'))
    union all select 'it must create subscriptions', 'grant pg_create_subscription to $ROLE'
        where not pg_has_role('pg_create_subscription', 'usage')
    union all select 'it must create publications and a schema of its own',
        format('grant create on database %%I to $ROLE', current_database())
        where not has_database_privilege(current_database(), 'create')
    union all select 'the schema tenure is another role''s', format('grant %%s to $ROLE', n.nspowner::regrole)
        from pg_namespace n where n.nspname = 'tenure' and not pg_has_role(n.nspowner, 'usage')
    union all select 'it must see the transactions of others', 'grant pg_read_all_stats to $ROLE'
        where not pg_has_role('pg_read_all_stats', 'usage')
    union all select 'its repairs must not fire the app''s triggers',
        'grant set on parameter session_replication_role to $ROLE'
        where not has_parameter_privilege('session_replication_role', 'set')
    union all select 'its repairs must bear an origin',
        format('grant execute on function %%s to $ROLE', p.oid::regprocedure)
        from pg_proc p where p.pronamespace = 'pg_catalog'::regnamespace and p.proname = any(%(origins)s::name[])
            and not has_function_privilege(p.oid, 'execute')
) lacking
"""
"""What Tenure's role lacks on this server, and what gives it. A superuser lacks nothing."""

_PASSWORDS_LOGGED: Final = """
select string_agg(name, ', ' order by name) from pg_settings
where name in ('log_statement', 'log_min_duration_statement', 'log_min_error_statement')
    and not has_parameter_privilege(name, 'set')
"""
LIMITS: Final = frozenset(
    {
        "few_replication_slots",
        "few_wal_senders",
        "few_logical_replication_workers",
        "few_active_replication_origins",
    }
)
"""Findings about what is left of the server's limits. A link that is there has what it needs."""

_LONG: Final = """
select coalesce(a.usename, '?') || ', pid ' || a.pid || ', open for ' || date_trunc('second', now() - a.xact_start)
from pg_stat_activity a where a.datname is not null and a.pid <> pg_backend_pid() and a.backend_type = 'client backend'
    and a.xact_start < now() - make_interval(secs => %(seconds)s)
"""


def findings(pool: Pool, most_wal_bytes: int | None) -> Iterator[Finding]:
    """Everything about the server itself. `most_wal_bytes`: what Tenure itself ends a link for, where it looks."""
    where = pool.where
    version, wal_level, standby, keep, timestamps = pool.rows(_SETTINGS)[0]
    if version < OLDEST_SERVER:
        yield refusal(
            "server_too_old",
            where,
            f"PostgreSQL {version // 10000} has no `origin = none` for subscriptions (16 has): what comes back over the"
            " reverse link could not be told from what the app writes, and would go round for ever",
            "upgrade the server to PostgreSQL 16 or newer: both the cell that is left and the one that is entered"
            " need it",
        )
        return
    if standby:
        yield refusal(
            "standby", where, "the server is a standby", "give Tenure the primary's connection string"
        )
    if wal_level != "logical":
        yield refusal(
            "wal_level",
            where,
            f"wal_level is {wal_level}",
            "set it to logical and restart the server",
            "alter system set wal_level = logical",
        )
    if timestamps and version >= LOGS_CONFLICTS:
        yield warning(
            "conflicts_logged",
            where,
            "track_commit_timestamp is on: for every change of a row that the first copy brought, this server logs a"
            " conflict together with the row's contents",
            "switch it off and restart the server, or see to it that nobody reads the log who may not read the rows",
            "alter system set track_commit_timestamp = off",
        )
    yield _wal_kept(where, keep, most_wal_bytes)
    yield from _rights(pool)
    for (gid,) in pool.rows("select gid from pg_prepared_xacts where database = current_database()"):
        yield refusal(
            "prepared_transaction",
            where,
            f"the prepared transaction {gid!r} could commit after the fence is down",
            f"commit prepared or rollback prepared '{gid}'",
        )
    for (about,) in pool.rows(_LONG, {"seconds": LONG_TRANSACTION_S}):
        yield warning(
            "long_transaction",
            where,
            f"a transaction has been open for long ({about}): slots and triggers have to wait for it",
            "end it, or wait",
        )


def _wal_kept(where: str, keep: int, most: int | None) -> Finding:
    """`keep`: bytes, negative for no limit."""
    fix, command = "set it to what the disk can spare, with ALTER SYSTEM and pg_reload_conf()", ""
    if most is not None:
        fix = "set it to what a link may make the server keep"
        command = (
            f"alter system set max_slot_wal_keep_size = '{most // 1024**2}MB';\nselect pg_reload_conf();"
        )
    if keep < 0:
        return warning(
            "slot_wal_unlimited",
            where,
            "max_slot_wal_keep_size is -1: a copy that stands still retains WAL until the disk is full",
            fix,
            command,
        )
    if most is not None and keep > most:
        return warning(
            "slot_wal_over_bound",
            where,
            f"max_slot_wal_keep_size is {keep} bytes, more than the {most} that a link may make the server keep",
            fix,
            command,
        )
    return info(
        "slot_wal_limit",
        where,
        f"max_slot_wal_keep_size is {keep} bytes: a copy that falls further behind is lost and has to start anew",
        "raise it if the tenant's copy takes long",
    )


def _rights(pool: Pool) -> Iterator[Finding]:
    role = sql.Identifier(pool.value("select current_user::text")).as_string()
    lacking = pool.rows(_RIGHTS, {"origins": list(_ORIGINS)})
    for why, command in lacking:
        yield refusal(
            "rights",
            pool.where,
            f"Tenure's role {role} lacks a right: {why}",
            "let a superuser grant it",
            command,
        )
    if settings := pool.value(_PASSWORDS_LOGGED):
        yield warning(
            "passwords_logged",
            pool.where,
            f"Tenure's role may not set {settings}: where the server logs its statements, `create subscription` shows"
            " the other cell's password there",
            "let it keep these statements out of the log, or see to it that nobody reads the log who may not know it",
            f"grant set on parameter {settings} to {role}",
        )
    if lacking:
        return
    for setting, limit, used, needed in pool.rows(_LIMITS):
        if limit - used < needed:
            wanted = used + needed
            yield refusal(
                f"few_{setting.removeprefix('max_')}",
                pool.where,
                f"{limit - used} of {setting} are free, {needed} are needed",
                f"raise {setting} (and max_worker_processes with the workers) and restart the server, or end other"
                " links first",
                f"alter system set {setting} = {wanted}",
            )


def password(publisher: Home, subscriber: Pool) -> Iterator[Finding]:
    """PostgreSQL lets a role without superuser rights subscribe with a password only, which the publisher asks for."""
    given = conninfo_to_dict(publisher.dsn_from_cells.reveal())
    if not given.get("password") and not subscriber.value("select current_setting('is_superuser')::bool"):
        yield refusal(
            "password_missing",
            subscriber.where,
            f"Tenure's role is no superuser here, and the way to {publisher.cell} (`dsn_from_cells`) has no password:"
            " PostgreSQL allows it no subscription",
            f"put a password into the connection string, and let {publisher.cell} ask for it",
        )


def extensions(source: Home, target: Home) -> Iterator[Finding]:
    """What the source's database has and the target's lacks."""
    query: Final = "select extname::text, extversion from pg_extension where extname <> 'plpgsql'"
    mine: dict[str, str] = dict(source.pool.rows(query))
    theirs: dict[str, str] = dict(target.pool.rows(query))
    where = target.pool.where
    for name in sorted(mine.keys() - theirs.keys()):
        create = f"create extension {sql.Identifier(name).as_string()}"
        yield warning(
            "extension_missing",
            where,
            f"the extension {name} {mine[name]} of {source.cell} is not there",
            "create it, if the tenants' tables need it",
            create,
        )
    for name in sorted(mine.keys() & theirs.keys()):
        if mine[name] != theirs[name]:
            yield info(
                "extension_version",
                where,
                f"extension {name} is {mine[name]} in {source.cell} and {theirs[name]} in {target.cell}",
                f"alter extension {name} update, where it is older",
            )


def room(source: Pool, tables: Sequence[Table], target: Pool, tenant: TenantId) -> Iterator[Finding]:
    """Whether the target's disk takes the tenant, by the planner's estimate of its rows."""
    size = 0
    for table in tables:
        rows, width = expected_rows(Side(pool=source, table=table), tenant)
        size += rows * (width + ROW_OVERHEAD_BYTES)
    needed, free = round(size * ROOM_PER_BYTE), _free_bytes(target)
    if free is None:
        yield info(
            "disk_room_unknown",
            target.where,
            f"the server does not say how much room its disk has; {needed:,} bytes are needed",
            "look for yourself before a large tenant is moved",
        )
    elif needed > free:
        yield refusal(
            "disk_room",
            target.where,
            f"about {needed:,} bytes are needed (rows, indexes, WAL), and {free:,} are free",
            "enlarge the disk, or move the tenant elsewhere",
        )


def _free_bytes(pool: Pool) -> int | None:
    """What `df` says of the disk of the data directory (a server's working directory); None if it may not be asked."""
    try:
        with pool.transaction() as connection:
            connection.execute("create temporary table tenure_room (line text) on commit drop")
            connection.execute(r"copy pg_temp.tenure_room from program 'df -Pk .' with (delimiter e'\x01')")
            lines = connection.execute("select line from pg_temp.tenure_room").fetchall()
    except StoreRefused:
        return None
    fields = lines[-1][0].split() if lines else []
    return int(fields[3]) * 1024 if len(fields) > 3 and fields[3].isdigit() else None
