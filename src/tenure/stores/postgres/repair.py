"""Writing to a tenant's rows on one server in a way that replication does not carry to the other one.

Sessions with a replication origin: subscriptions with `origin = none` leave out what they write, and the fence lets
them pass. User triggers and foreign-key checks do not run, as they do not for replication itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

import psycopg
from psycopg import errors, sql
from psycopg.types.json import Jsonb

from tenure.errors import DeadlineExceeded, FenceRefused, StoreRefused
from tenure.model.names import TenantId
from tenure.stores.contract import Fence
from tenure.stores.postgres import fence as fences
from tenure.stores.postgres.compare import Key, Pair, Side, by_keys
from tenure.stores.postgres.connect import Connection, Pool, translate
from tenure.stores.postgres.tables import Table, collection_of

REPAIR_BATCH: Final = 500
ERASE_BATCH: Final = 5_000
LOCK_WAIT_MS: Final = 200
LOCK_DEADLINE_S: Final = 30.0
DROP_DEADLINE_S: Final = 10.0

_REFERRING: Final = """
select k.conname::text, n.nspname::text, c.relname::text, p.oid::int8,
    array(select a.attname::text from unnest(k.conkey) with ordinality u (attnum, n)
        join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.attnum order by u.n),
    array(select a.attname::text from unnest(k.confkey) with ordinality u (attnum, n)
        join pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.attnum order by u.n)
from pg_constraint k
join pg_class c on c.oid = k.conrelid join pg_namespace n on n.oid = c.relnamespace
join pg_class p on p.oid = k.confrelid
where k.contype = 'f' and k.conparentid = 0 and k.confrelid = any(%(oids)s::oid[])
    and k.conrelid <> all(%(known)s::oid[])
"""


@contextmanager
def unreplicated(pool: Pool, origin: str) -> Iterator[Connection]:
    """A connection of its own whose changes no subscription of a link takes over. Removes the origin at the end."""
    drop_origins(pool, origin)
    connection = pool.connect()
    try:
        connection.execute("select pg_replication_origin_create(%(o)s)", {"o": origin})
        connection.execute("select pg_replication_origin_session_setup(%(o)s)", {"o": origin})
        connection.execute("set session_replication_role = replica")
        yield connection
    except psycopg.Error as error:
        raise translate(error, pool.where) from error
    finally:
        connection.close()
        drop_origins(pool, origin)


def drop_origins(pool: Pool, prefix: str) -> None:
    """Remove the origins whose names begin so, once the sessions that used them are gone. Idempotent."""
    deadline = time.monotonic() + DROP_DEADLINE_S
    while True:
        try:
            pool.rows(
                "select pg_replication_origin_drop(o.roname) from pg_replication_origin o"
                " where starts_with(o.roname, %(prefix)s)",
                {"prefix": prefix},
            )
        except StoreRefused as error:
            if not isinstance(error.__cause__, errors.ObjectInUse) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


@contextmanager
def _writes_paused(pool: Pool, tenant: TenantId) -> Iterator[None]:
    """The tenant's transactions on this server wait at their next write until the end; none is under way."""
    deadline = time.monotonic() + LOCK_DEADLINE_S
    while True:
        connection = pool.connect()
        try:
            with connection.transaction():
                connection.execute(
                    "select set_config('lock_timeout', %(w)s, true)", {"w": f"{LOCK_WAIT_MS}ms"}
                )
                try:
                    connection.execute(
                        "select pg_advisory_xact_lock(tenure.lock_key(%(tenant)s))", {"tenant": tenant}
                    )
                except errors.LockNotAvailable as error:
                    if time.monotonic() > deadline:
                        raise DeadlineExceeded(
                            f"{pool.where}: open transactions of {tenant} did not end: "
                            + "; ".join(fences.holders(pool, tenant)),
                            hint="end or wait for these transactions, then resume",
                        ) from error
                    raise
                yield
                return
        except errors.LockNotAvailable:
            time.sleep(LOCK_WAIT_MS / 1000)
        finally:
            connection.close()


def repair(
    pair: Pair,
    fence: Fence,
    keys: Sequence[Key],
    *,
    origin: str,
    bring_into_step: Callable[[], None],
    workers: int = 1,
) -> int:
    """Make the rows of `keys` on the target equal to the source's; return how many rows were written or deleted.

    A batch at a time, the tenant's writes on the source wait, what is under way arrives (`bring_into_step`), and only
    then the rows are read and written: otherwise a newer change that replication has already applied could be undone.
    Raises `FenceRefused` if the target is not fenced, or a newer holder has been at work there.
    """
    tenant = fence.tenant
    done = 0
    slice_size = REPAIR_BATCH * max(1, workers)
    with ThreadPoolExecutor(max_workers=max(1, workers)) as threads:
        for start in range(0, len(keys), slice_size):
            part = keys[start : start + slice_size]
            batches = [part[n : n + REPAIR_BATCH] for n in range(0, len(part), REPAIR_BATCH)]
            with _writes_paused(pair.source.pool, tenant):
                bring_into_step()
                work = [
                    threads.submit(_replace, pair, fence, batch, f"{origin}_{n:03d}")
                    for n, batch in enumerate(batches)
                ]
                done += sum(w.result() for w in work)
                _remember(pair.source, tenant, part)
    return done


def _remember(side: Side, tenant: TenantId, keys: Sequence[Key]) -> None:
    """Have repaired rows compared again by the next `compare_changed`."""
    side.pool.rows(
        "insert into tenure.touched select %(tenant)s, %(relation)s, k.key::text, nextval('tenure.touched_version')"
        " from jsonb_array_elements(%(keys)s::jsonb) k (key)"
        " where exists (select from tenure.fence where tenant_id = %(tenant)s and recording)"
        " on conflict (tenant_id, relation, key) do update set version = excluded.version returning version",
        {"tenant": tenant, "relation": side.table.collection, "keys": Jsonb([list(k) for k in keys])},
    )


def _replace(pair: Pair, fence: Fence, keys: Sequence[Key], origin: str) -> int:
    tenant = fence.tenant
    wanted = {"keys": Jsonb([list(k) for k in keys])}
    names = [sql.Identifier(c.name) for c in pair.source.table.stored]
    columns = sql.SQL(", ").join(names)
    qualified = sql.SQL(", ").join(sql.SQL("r.{}").format(n) for n in names)
    target = pair.target.table
    with unreplicated(pair.target.pool, origin) as writer, writer.transaction():
        writer.execute(
            sql.SQL(
                "create temporary table tenure_rows on commit drop as select {} from {} with no data"
            ).format(columns, target.spec.sql)
        )
        with (
            pair.source.pool.connection() as reader,
            reader.cursor() as out,
            writer.cursor() as into,
            out.copy(_copy_out(pair.source.table, tenant, qualified), wanted) as rows,
            into.copy(sql.SQL("copy pg_temp.tenure_rows ({}) from stdin").format(columns)) as sink,
        ):
            for block in rows:
                sink.write(block)
        require_fence(writer, fence, pair.target.pool.where)
        _keep_unshared(writer, target, tenant, wanted)
        deleted = writer.execute(
            sql.SQL(
                "with k as materialized (select tenure_key from jsonb_array_elements(%(keys)s::jsonb) j (tenure_key))"
                " delete from {} r using k where {} and {} returning k.tenure_key"
            ).format(target.spec.sql, target.key_match("k", "r"), target.of_tenant(tenant, "r")),
            wanted,
        ).fetchall()
        inserted = _insert(writer, target, columns)
        return len({tuple(key) for (key,) in (*deleted, *inserted)})


def _kept(table: Table) -> list[sql.Identifier]:
    return [sql.Identifier(c.name) for c in table.unshared if not c.generated]


def _keep_unshared(writer: Connection, target: Table, tenant: TenantId, wanted: dict[str, Jsonb]) -> None:
    """Put aside what only the target knows of these rows."""
    if _kept(target):
        names = [sql.Identifier(k) for k in target.key] + _kept(target)
        rows = by_keys(target, tenant, sql.SQL(", ").join(sql.SQL("r.{}").format(n) for n in names))
        writer.execute(
            sql.SQL("create temporary table tenure_kept on commit drop as {}").format(rows), wanted
        )


def _insert(writer: Connection, target: Table, columns: sql.Composable) -> list[tuple[list[str]]]:
    """Insert what was copied, with what was put aside; rows that were not there get the defaults. Gives their keys."""
    plain = sql.SQL(
        "insert into {} ({}) overriding system value select {} from pg_temp.tenure_rows {} returning {}"
    )
    if not _kept(target):
        return writer.execute(
            plain.format(target.spec.sql, columns, columns, sql.SQL(""), target.key_text)
        ).fetchall()
    kept = sql.SQL(", ").join(_kept(target))
    key = sql.SQL(", ").join(sql.Identifier(k) for k in target.key)
    with_kept = writer.execute(
        sql.SQL(
            "insert into {} ({columns}, {kept}) overriding system value select {columns}, {kept}"
            " from pg_temp.tenure_rows join pg_temp.tenure_kept using ({key}) returning {text}"
        ).format(target.spec.sql, columns=columns, kept=kept, key=key, text=target.key_text)
    ).fetchall()
    others = sql.SQL("where ({}) not in (select {} from pg_temp.tenure_kept)").format(key, key)
    return (
        with_kept
        + writer.execute(plain.format(target.spec.sql, columns, columns, others, target.key_text)).fetchall()
    )


def _copy_out(table: Table, tenant: TenantId, columns: sql.Composable) -> sql.Composed:
    return sql.SQL("copy ({}) to stdout").format(by_keys(table, tenant, columns))


def erase(
    pool: Pool,
    tables: Sequence[Table],
    fence: Fence,
    *,
    known: Sequence[Table],
    origin: str,
    progress: Callable[[int], None],
) -> int:
    """Delete the tenant's rows of these tables in batches, each of them only while the fence is down and ours.

    `known` are all tables of the tenant in this database: their rows may refer to one another.
    """
    _refuse_if_referred_to(pool, tables, known, fence.tenant)
    done = 0
    with unreplicated(pool, origin) as connection:
        for table in tables:
            for leaf in table.leaves:
                statement = sql.SQL(
                    "delete from only {leaf} where ctid = any(array(select ctid from only {leaf} where {mine}"
                    " limit {batch}))"
                ).format(
                    leaf=sql.Identifier(*leaf),
                    mine=table.of_tenant(fence.tenant),
                    batch=sql.Literal(ERASE_BATCH),
                )
                while True:
                    with connection.transaction():
                        require_fence(connection, fence, pool.where)
                        deleted = connection.execute(statement).rowcount
                    if not deleted:
                        break
                    done += deleted
                    progress(done)
    return done


def require_fence(connection: Connection, fence: Fence, where: str) -> None:
    """The fence is down, and no newer holder has been at work, until this transaction ends."""
    row = connection.execute(
        "select tenure.holds_fence(%(tenant)s, %(token)s)", {"tenant": fence.tenant, "token": fence.token}
    ).fetchone()
    if row is None or not row[0]:
        raise FenceRefused(
            f"{where}: {fence.tenant} is not fenced here, so nothing of it is changed",
            hint="fence the store first",
        )


def _refuse_if_referred_to(
    pool: Pool, tables: Sequence[Table], known: Sequence[Table], tenant: TenantId
) -> None:
    """Foreign keys do not run while erasing, so rows that the catalogue does not know must not point at what goes."""
    by_oid = {t.oid: t for t in tables}
    roots = [t.oid for t in known]
    partitions = pool.rows(
        "select distinct t.relid::oid::int8 from unnest(%(oids)s::oid[]) o (oid), pg_partition_tree(o.oid) t",
        {"oids": roots},
    )
    parameters = {"oids": [t.oid for t in tables], "known": [*roots, *(int(r[0]) for r in partitions)]}
    for constraint, schema, name, oid, child_columns, parent_columns in pool.rows(_REFERRING, parameters):
        parent, child = by_oid[oid].spec, collection_of(schema, name)
        condition = sql.SQL(" and ").join(
            sql.SQL("c.{} = p.{}").format(sql.Identifier(c), sql.Identifier(p))
            for c, p in zip(child_columns, parent_columns, strict=True)
        )
        referring = pool.value(
            sql.SQL("select exists (select from {} c join {} p on {} where {})").format(
                sql.Identifier(schema, name),
                parent.sql,
                condition,
                by_oid[oid].of_tenant(tenant, "p"),
            )
        )
        if referring:
            raise StoreRefused(
                f"{pool.where}: rows of {child} refer to rows of {parent.collection} of {tenant} ({constraint}), and"
                " the catalogue does not know that table",
                hint=f"add {child} to catalogue.yaml, or delete these rows first",
            )
