"""The triggers that make a tenant's writes ask for a permit while a move is on, and their removal.

Statement triggers with transition tables: they see every way to write (COPY, MERGE, ON CONFLICT, cascades, both sides
of an update of the tenant column), fire under `session_replication_role = replica`, and skip what replication applies.
Partitions have their own, for writes that name a partition. TRUNCATE is refused: it is not replicated.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from psycopg import errors, sql

from tenure.errors import DeadlineExceeded
from tenure.model.names import TenantId
from tenure.stores.contract import Fence
from tenure.stores.postgres import names
from tenure.stores.postgres.connect import Connection, Pool
from tenure.stores.postgres.tables import SETTLED_KEY_TYPES, Table, TenantTable

DDL_DEADLINE_S: Final = 30.0
LOCK_WAIT_MS: Final = (40, 400)
"""How long an attempt may queue for a table's lock, with neighbours' writes behind it: at first, and at most."""

EVENTS: Final = {
    "insert": "after insert on {table} referencing new table as new_rows",
    "update": "after update on {table} referencing new table as new_rows old table as old_rows",
    "delete": "after delete on {table} referencing old table as old_rows",
    "truncate": "before truncate on {table}",
}

_FUNCTION: Final = """
create or replace function tenure.{name}() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp {settings} as {body}
"""

_BODY: Final = """
begin
    if pg_replication_origin_session_is_setup() then
        return null;
    elsif tg_op = 'TRUNCATE' then
        raise exception 'a tenant of this table is being moved: TRUNCATE would not be replicated'
            using errcode = '55006', hint = 'Delete the rows, or wait until the move is over.';
    elsif tg_op = 'INSERT' then
        if exists (select from new_rows where {mine}) and tenure.permit({tenant}) then
            insert into tenure.touched select {tenant}, {relation}, key, nextval('tenure.touched_version')
                from (select {key} as key from new_rows where {mine} group by 1 order by 1) k
                on conflict (tenant_id, relation, key) do update set version = excluded.version;
        end if;
    elsif tg_op = 'DELETE' then
        if exists (select from old_rows where {mine}) and tenure.permit({tenant}) then
            insert into tenure.touched select {tenant}, {relation}, key, nextval('tenure.touched_version')
                from (select {key} as key from old_rows where {mine} group by 1 order by 1) k
                on conflict (tenant_id, relation, key) do update set version = excluded.version;
        end if;
    else
        if (exists (select from new_rows where {mine}) or exists (select from old_rows where {mine}))
            and tenure.permit({tenant})
        then
            insert into tenure.touched select {tenant}, {relation}, key, nextval('tenure.touched_version')
                from (select {key} as key from new_rows where {mine}
                      union select {key} from old_rows where {mine} order by 1) k
                on conflict (tenant_id, relation, key) do update set version = excluded.version;
        end if;
    end if;
    return null;
end
"""

_SETTINGS: Final = (
    "set datestyle = 'ISO,YMD' set timezone = 'UTC' set intervalstyle = 'postgres'"
    " set extra_float_digits = 1 set bytea_output = 'hex'"
)

_GUARDED: Final = """
select n.nspname::text, c.relname::text, array_agg(t.tgname::text)
from pg_trigger t join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace
where starts_with(t.tgname::text, %(prefix)s) and not t.tgisinternal
group by 1, 2 order by 1, 2
"""

_FUNCTIONS: Final = """
select proname::text from pg_proc
where pronamespace = to_regnamespace('tenure') and starts_with(proname::text, %(prefix)s)
"""

_HOLDERS: Final = """
select coalesce('pid ' || l.pid || ' (' || coalesce(a.usename, '?') || ', ' || coalesce(a.application_name, '') || ', '
    || coalesce(a.state, '?') || ', transaction open for ' || date_trunc('second', now() - a.xact_start) || ')',
    'a prepared transaction')
from pg_locks l left join pg_stat_activity a on a.pid = l.pid
where l.granted and l.locktype = 'relation' and l.relation = to_regclass(%(table)s)
    and l.pid is distinct from pg_backend_pid()
    and l.database = (select oid from pg_database where datname = current_database())
"""


def guarded(specs: Sequence[TenantTable], tenant: TenantId) -> dict[str, list[str]]:
    """The parameters of `tenure.unguarded`: which triggers are to be on which tables."""
    return {
        "schemas": [t.schema for t in specs],
        "tables": [t.name for t in specs],
        "triggers": [names.trigger(tenant, event) for event in EVENTS],
    }


def unguarded(pool: Pool, specs: Sequence[TenantTable], tenant: TenantId) -> list[tuple[str, str]]:
    """Tables and partitions on which some trigger of the tenant is missing or switched off."""
    rows = pool.rows(
        "select * from tenure.unguarded(%(schemas)s, %(tables)s, %(triggers)s::name[])",
        guarded(specs, tenant),
    )
    return [(schema, name) for schema, name in rows]


def _function(table: Table, tenant: TenantId) -> sql.Composed:
    key_types = {table.column(k).type_name.partition("(")[0] for k in table.key}
    body = sql.SQL(_BODY).format(
        mine=table.of_tenant(tenant),
        tenant=sql.Literal(str(tenant)),
        relation=sql.Literal(table.collection),
        key=table.key_text,
    )
    return sql.SQL(_FUNCTION).format(
        name=sql.Identifier(names.guard(tenant, table.collection)),
        settings=sql.SQL("" if key_types <= SETTLED_KEY_TYPES else _SETTINGS),
        body=sql.Literal(body.as_string()),
    )


def _create_triggers(
    relation: tuple[str, str], function: str, tenant: TenantId, connection: Connection
) -> None:
    table = sql.Identifier(*relation)
    for event, clause in EVENTS.items():
        trigger = sql.Identifier(names.trigger(tenant, event))
        connection.execute(
            sql.SQL("create or replace trigger {} {} for each statement execute function tenure.{}()").format(
                trigger, sql.SQL(clause).format(table=table), sql.Identifier(function)
            )
        )
        connection.execute(sql.SQL("alter table {} enable always trigger {}").format(table, trigger))


def with_short_locks(pool: Pool, relation: tuple[str, str], change: Callable[[Connection], None]) -> None:
    """Run `change` in a transaction that gives up queueing for locks quickly and tries again, so that nobody waits long
    behind it. Raises `DeadlineExceeded` that names who holds the table."""
    deadline = time.monotonic() + DDL_DEADLINE_S
    wait_ms, longest_ms = LOCK_WAIT_MS
    while True:
        try:
            with pool.connection() as connection:
                try:
                    with connection.transaction():
                        connection.execute(
                            "select set_config('lock_timeout', %(ms)s, true)", {"ms": f"{wait_ms}ms"}
                        )
                        change(connection)
                    return
                except (errors.LockNotAvailable, errors.DeadlockDetected):
                    pass
        except DeadlineExceeded:
            pass
        if time.monotonic() > deadline:
            raise DeadlineExceeded(
                f"{pool.where}: no lock on {'.'.join(relation)} within {DDL_DEADLINE_S:g} s; it is held by "
                + "; ".join(holders(pool, relation)),
                hint="end or wait for these transactions, then resume",
            )
        time.sleep(wait_ms / 1000 * random.uniform(1, 2))  # noqa: S311
        wait_ms = min(wait_ms * 2, longest_ms)


def holders(pool: Pool, relation: tuple[str, str]) -> list[str]:
    """Who holds locks on a relation, in words."""
    quoted = sql.Identifier(*relation).as_string()
    return [str(row[0]) for row in pool.rows(_HOLDERS, {"table": quoted})] or ["nobody any more"]


def install(pool: Pool, tables: Sequence[Table], tenant: TenantId) -> None:
    """Put the tenant's triggers on each table and partition that lacks one. Idempotent, a short lock per relation."""
    lacking = set(unguarded(pool, [t.spec for t in tables], tenant))
    for table in tables:
        relations = [(table.spec.schema, table.spec.name), *_partitions(pool, table)]
        wanted = [r for r in dict.fromkeys(relations) if r in lacking]
        if not wanted:
            continue
        with pool.transaction() as connection:
            connection.execute("select pg_advisory_xact_lock(hashtextextended('tenure install', 7))")
            connection.execute(_function(table, tenant))
        function = names.guard(tenant, table.collection)
        for relation in wanted:
            with_short_locks(pool, relation, partial(_create_triggers, relation, function, tenant))


def _partitions(pool: Pool, table: Table) -> list[tuple[str, str]]:
    rows = pool.rows(
        "select n.nspname::text, c.relname::text from pg_partition_tree(%(oid)s::oid::regclass) t"
        " join pg_class c on c.oid = t.relid join pg_namespace n on n.oid = c.relnamespace",
        {"oid": table.oid},
    )
    return [(schema, name) for schema, name in rows]


def remove(pool: Pool, fence: Fence) -> None:
    """Take all of the tenant's triggers and their functions away, on whatever tables they are. Idempotent.

    Each transaction makes sure anew that no newer holder, who may need them, has begun.
    """
    prefix = {"prefix": f"{names.tenant_prefix(fence.tenant)}_"}
    for schema, name, triggers in pool.rows(_GUARDED, prefix):
        with_short_locks(pool, (schema, name), partial(_drop_triggers, (schema, name), triggers, fence))
    for (function,) in pool.rows(_FUNCTIONS, prefix):
        with pool.transaction() as connection:
            _claim(connection, fence)
            connection.execute(
                sql.SQL("drop function if exists tenure.{}()").format(sql.Identifier(function))
            )


def _claim(connection: Connection, fence: Fence) -> None:
    connection.execute(
        "select tenure.claim(%(tenant)s, %(token)s)", {"tenant": fence.tenant, "token": fence.token}
    )


def _drop_triggers(
    relation: tuple[str, str], triggers: Sequence[str], fence: Fence, connection: Connection
) -> None:
    _claim(connection, fence)
    for trigger in triggers:
        connection.execute(
            sql.SQL("drop trigger if exists {} on {}").format(
                sql.Identifier(trigger), sql.Identifier(*relation)
            )
        )
