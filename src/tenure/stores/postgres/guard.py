"""The triggers that make a tenant's writes ask for a permit while a move is on, and their removal.

Row triggers whose condition names the tenant: what a neighbour writes costs one comparison of its tenant column, and
what the tenant writes asks `tenure.note`, in the condition itself, until that has nothing left to do in the
transaction: there the answer counts for the next row, while a trigger's own function runs after the statement. They see
every way to write (COPY, MERGE, ON CONFLICT, cascades, both sides of an update of the tenant column), fire under
`session_replication_role = replica`, and let pass what replication applies. They are on whatever holds rows: tables and
leaf partitions. TRUNCATE is refused: it is not replicated.
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
from tenure.stores.postgres.tables import Table, TenantTable

DDL_DEADLINE_S: Final = 30.0
LOCK_WAIT_MS: Final = (40, 400)
"""How long an attempt may queue for a table's lock, with neighbours' writes behind it: at first, and at most."""

MOST_LOGGED: Final = 10_000
"""Changes that go into `tenure.touched_log` between two comparisons. Beyond that each key has one row in
`tenure.touched`, however often it changes: that takes the app longer, and bounds the room it takes."""

ROWS: Final = {"insert": ("new",), "update": ("new", "old"), "delete": ("old",)}
"""The events of row triggers, and the rows that each of them has."""

_REFUSE_TRUNCATE: Final = """
create or replace trigger {trigger} before truncate on {table} for each statement
execute function tenure.refuse_truncate()
"""

# Each statement that writes, a neighbour's too, parses the condition: what can be said elsewhere is in the function.
_ROW: Final = """
create or replace trigger {trigger} after {event} on {table} for each row
when (({mine}) and tenure.{function}({keys})) execute function tenure.noted()
"""

_FUNCTION: Final = """
create or replace function {function}({parameters}, out fires boolean)
language plpgsql volatile security definer as {body}
"""

# Each expression costs a single-row transaction almost a microsecond: this is as few of them as it takes. Who may not
# pass the gate asks `tenure.note`; one draw in 64 counts the rows of its transaction. `fires` is never set.
_BODY: Final = """
begin
    if pg_catalog.current_setting({memory}, true)
        operator(pg_catalog.=) pg_catalog.pg_current_xact_id()::pg_catalog.text
    then
        return;
    end if;
    if pg_catalog.pg_replication_origin_session_is_setup()
        or pg_catalog.current_setting('transaction_isolation') operator(pg_catalog.<>) 'read committed'
        or pg_catalog.pg_advisory_xact_lock_shared({lock}) is null
        or pg_catalog.nextval({gate}::pg_catalog.regclass) operator(pg_catalog.>) {most}
    then
        fires := tenure.note({tenant}, {relation}, {memory}, pg_catalog.to_jsonb({key}), {former}, {gate});
        return;
    end if;
    insert into tenure.touched_log values ({tenant}, {relation}, {key}, pg_catalog.pg_current_xact_id());
    {also}
    if pg_catalog.currval({gate}::pg_catalog.regclass) operator(pg_catalog.%) 64 operator(pg_catalog.=) 0 then
        fires := tenure.note_many({tenant}, {relation}, {memory});
    end if;
end;
"""

_ALSO: Final = """
    if {former} operator(pg_catalog.<>) {key} then
        insert into tenure.touched_log values ({tenant}, {relation}, {former}, pg_catalog.pg_current_xact_id());
    end if;
"""

_GUARDED: Final = """
select n.nspname::text, c.relname::text, array_agg(t.tgname::text)
from pg_trigger t join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace
where starts_with(t.tgname::text, %(prefix)s) and not t.tgisinternal
group by 1, 2 order by 1, 2
"""

_FUNCTIONS: Final = """
select p.oid::regprocedure::text from pg_proc p
where pronamespace = to_regnamespace('tenure') and starts_with(proname::text, %(prefix)s)
"""

_GATE: Final = """
select relname::text from pg_class
where relnamespace = to_regnamespace('tenure') and relname = 'gate_' || to_hex(tenure.lock_key(%(tenant)s))
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
        "triggers": [names.trigger(tenant, event) for event in ("truncate", *ROWS)],
    }


def unguarded(pool: Pool, specs: Sequence[TenantTable], tenant: TenantId) -> list[tuple[str, str]]:
    """Tables and partitions on which some trigger of the tenant is missing or switched off."""
    rows = pool.rows(
        "select * from tenure.unguarded(%(schemas)s, %(tables)s, %(triggers)s::name[])",
        guarded(specs, tenant),
    )
    return [(schema, name) for schema, name in rows]


def _functions(table: Table, tenant: TenantId, connection: Connection) -> None:
    """What the conditions call: with a row's key, and for updates with the keys after and before."""
    connection.execute("select pg_advisory_xact_lock(hashtextextended('tenure install', 7))")
    row = connection.execute(
        "select tenure.make_gate(%(tenant)s), tenure.lock_key(%(tenant)s)", {"tenant": tenant}
    ).fetchone()
    if row is None:
        raise AssertionError("one row per select")
    about = {
        "memory": sql.Literal(names.memory(tenant, table.collection)),
        "tenant": sql.Literal(str(tenant)),
        "relation": sql.Literal(table.collection),
        "gate": sql.Literal(str(row[0])),
        "lock": sql.Literal(int(row[1])),
        "most": sql.Literal(MOST_LOGGED),
        "key": table.settled_key("n"),
    }
    for former in (None, "o"):
        given = ["n"] if former is None else ["n", former]
        before = sql.SQL("null") if former is None else table.settled_key(former)
        body = sql.SQL(_BODY).format(
            **about,
            former=before if former is None else sql.SQL("pg_catalog.to_jsonb({})").format(before),
            also=sql.SQL("" if former is None else _ALSO).format(**about, former=before),
        )
        function = sql.Identifier("tenure", names.guard(tenant, table.collection))
        parameters = sql.SQL(", ").join(table.key_parameters(p) for p in given)
        connection.execute(
            sql.SQL(_FUNCTION).format(
                function=function, parameters=parameters, body=sql.Literal(body.as_string())
            )
        )
        connection.execute(sql.SQL("grant execute on function {}({}) to public").format(function, parameters))


def _row_trigger(
    table: Table, relation: tuple[str, str], tenant: TenantId, event: str, rows: Sequence[str]
) -> sql.Composed:
    """The trigger of one event. Of an update, the keys after and before are recorded, whosever the rows are."""
    return sql.SQL(_ROW).format(
        trigger=sql.Identifier(names.trigger(tenant, event)),
        event=sql.SQL(event),
        table=sql.Identifier(*relation),
        mine=sql.SQL(" or ").join(table.of_tenant(tenant, row) for row in rows),
        function=sql.Identifier(names.guard(tenant, table.collection)),
        keys=sql.SQL(", ").join(sql.Identifier(row, column) for row in rows for column in table.key),
    )


def _create_triggers(
    relation: tuple[str, str], table: Table, tenant: TenantId, connection: Connection
) -> None:
    on = sql.Identifier(*relation)
    statements = {
        "truncate": sql.SQL(_REFUSE_TRUNCATE).format(
            trigger=sql.Identifier(names.trigger(tenant, "truncate")), table=on
        )
    }
    if relation in table.leaves:
        for event, rows in ROWS.items():
            statements[event] = _row_trigger(table, relation, tenant, event, rows)
    for event, statement in statements.items():
        connection.execute(statement)
        connection.execute(
            sql.SQL("alter table {} enable always trigger {}").format(
                on, sql.Identifier(names.trigger(tenant, event))
            )
        )


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
            _functions(table, tenant, connection)
        for relation in wanted:
            with_short_locks(pool, relation, partial(_create_triggers, relation, table, tenant))


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
            connection.execute(sql.SQL("drop function if exists {}").format(sql.SQL(function)))
    for (gate,) in pool.rows(_GATE, {"tenant": fence.tenant}):
        with_short_locks(pool, ("tenure", gate), partial(_drop_gate, gate, fence))


def _claim(connection: Connection, fence: Fence) -> None:
    connection.execute(
        "select tenure.claim(%(tenant)s, %(token)s)", {"tenant": fence.tenant, "token": fence.token}
    )


def _drop_gate(gate: str, fence: Fence, connection: Connection) -> None:
    _claim(connection, fence)
    connection.execute(sql.SQL("drop sequence if exists {}").format(sql.Identifier("tenure", gate)))


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
