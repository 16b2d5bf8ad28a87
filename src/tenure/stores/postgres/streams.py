"""A tenant's rows of one table as a stream of a backup: what its header says, and bytes out of and into a server.

The bytes are those of `COPY ... TO STDOUT` in text form: a line per row in the order of the key, the columns as the
header lists them, the tenant column first. So a tenant's rows become those of another one by a change of how lines
begin, and no row passes Python singly: a newline within a value is written as a backslash and an n.
"""

from __future__ import annotations

import re
import select
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import errors, pq, sql

from tenure.backups.contract import Header
from tenure.errors import StoreRefused
from tenure.model.names import TenantId
from tenure.stores.postgres.connect import Connection, Pool
from tenure.stores.postgres.tables import Column, Table, TenantTable

FORMAT: Final = "postgresql-copy-text/1"
BLOCK_BYTES: Final = 256 * 1024
_SETTINGS: Final = ("set lc_monetary = 'C'", "set row_security = off")
"""Text forms of `money` depend on the first, and on nothing else that the sessions do not settle. With the second, rows
that a policy hides from Tenure's role are an error, and not left out."""
_LINE: Final = re.compile(r"line (\d+)")

_CONSTRAINTS: Final = """
select c.conname::text, pg_get_constraintdef(c.oid) from pg_constraint c
where c.conrelid = %(oid)s::oid and c.contype <> 'n' order by 1
"""

_DRAWN: Final = """
select distinct on (1, 2, 3) w.schema, w.name, a.attname::text, format('%%I.%%I.%%I', w.schema, w.name, a.attname),
    pg_sequence_last_value(q.seqrelid)
from unnest(%(schemas)s::text[], %(tables)s::text[]) w (schema, name)
join pg_namespace s on s.nspname = w.schema join pg_class r on r.relnamespace = s.oid and r.relname = w.name
join pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
cross join lateral (
    select d.objid as oid from pg_depend d where d.classid = 'pg_class'::regclass
        and d.refclassid = 'pg_class'::regclass and d.refobjid = r.oid and d.refobjsubid = a.attnum
        and d.deptype in ('a', 'i')
    union
    select d.refobjid from pg_attrdef f join pg_depend d on d.classid = 'pg_attrdef'::regclass and d.objid = f.oid
        and d.refclassid = 'pg_class'::regclass where f.adrelid = r.oid and f.adnum = a.attnum
) o
join pg_sequence q on q.seqrelid = o.oid and q.seqincrement > 0
order by 1, 2, 3, q.seqrelid
"""


def prepare(connection: Connection) -> None:
    """To be called in every session that reads or writes rows of a backup."""
    for setting in _SETTINGS:
        connection.execute(setting)


def in_stream(table: Table) -> tuple[Column, ...]:
    """The columns of a stream of this table, in its order."""
    tenant = table.spec.tenant_column
    return tuple(sorted(table.stored, key=lambda c: (c.name != tenant, c.name)))


def names_of(columns: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The last number drawn from the sequence behind a column; `name` is what `tenure.raise_sequences` calls it."""

    table: tuple[str, str]
    column: str
    name: str
    last: int | None


def drawn(pool: Pool, specs: Sequence[TenantTable]) -> list[Drawn]:
    """For each column of these tables that draws from a sequence."""
    rows = pool.rows(_DRAWN, {"schemas": [t.schema for t in specs], "tables": [t.name for t in specs]})
    return [
        Drawn(table=(schema, table), column=column, name=name, last=last)
        for schema, table, column, name, last in rows
    ]


def header(connection: Connection, table: Table, tenant: TenantId, numbers: Sequence[Drawn]) -> Header:
    """What it takes to read the stream, and to make a table that can hold it. `numbers`: as they were when the backup's
    point was fixed."""
    return {
        "format": FORMAT,
        "tenant": tenant,
        "tenant_column": table.spec.tenant_column,
        "schema": table.spec.schema,
        "table": table.spec.name,
        "columns": [_described(c) for c in in_stream(table)],
        "generated": [_described(c) for c in table.columns if c.generated],
        "key": list(table.key),
        "constraints": {
            str(name): str(definition)
            for name, definition in connection.execute(_CONSTRAINTS, {"oid": table.oid})
        },
        "sequences": {
            n.column: n.last
            for n in numbers
            if n.table == (table.spec.schema, table.spec.name) and n.last is not None
        },
    }


def _described(column: Column) -> dict[str, Any]:
    about = {
        "name": column.name,
        "type": column.type_name,
        "not_null": column.not_null,
        "identity": column.identity,
        "expression": column.expression,
    }
    return {name: value for name, value in about.items() if value or name in {"name", "type"}}


def select_rows(table: Table, tenant: TenantId) -> sql.Composed:
    """The statement that a stream is made with."""
    return sql.SQL("copy (select {} from {} where {} order by {}) to stdout").format(
        names_of(c.name for c in in_stream(table)),
        table.spec.sql,
        table.of_tenant(tenant),
        names_of(table.key),
    )


def copy_out(connection: Connection, statement: sql.Composed, take: Callable[[bytes], None]) -> int:
    """Give what a COPY ... TO STDOUT sends in blocks of about `BLOCK_BYTES`; return how many rows it were.

    The server sends a message for each row, and libpq gives each of them out alone. So messages are put together as
    fast as Python can: nothing else here is done row by row.
    """
    server = connection.pgconn
    server.send_query(statement.as_bytes(connection))
    _begun(server)
    parts: list[Any] = []
    size = rows = 0
    get, keep = server.get_copy_data, parts.append
    while True:
        length, data = get(1)
        if length > 0:
            keep(data)
            size += length
            if size >= BLOCK_BYTES:
                take(b"".join(parts))
                rows += len(parts)
                parts.clear()
                size = 0
        elif length == 0:
            _readable(server)
        else:
            break
    if parts:
        take(b"".join(parts))
        rows += len(parts)
    while (result := server.get_result()) is not None:
        if result.status != pq.ExecStatus.COMMAND_OK:
            raise errors.error_from_result(result)
    return rows


def _begun(server: pq.abc.PGconn) -> None:
    while server.flush():
        select.select([], [server.socket], [])
    while server.is_busy():
        _readable(server)
    result = server.get_result()
    if result is None or result.status != pq.ExecStatus.COPY_OUT:
        while server.get_result() is not None:
            pass
        if result is None:
            raise StoreRefused("the server gave no answer to a COPY")
        raise errors.error_from_result(result)


def _readable(server: pq.abc.PGconn) -> None:
    select.select([server.socket], [], [])
    server.consume_input()


def copy_in(
    connection: Connection, target: sql.Composable, columns: Sequence[str], blocks: Iterable[bytes]
) -> int:
    """Load a stream into a table; return how many rows it were."""
    statement = sql.SQL("copy {} ({}) from stdin").format(target, names_of(columns))
    with connection.cursor() as cursor:
        with cursor.copy(statement) as copy:
            for block in blocks:
                copy.write(block)
        return cursor.rowcount


def of_tenant(table: Table, blocks: Iterable[bytes], origin: TenantId, tenant: TenantId) -> Iterator[bytes]:
    """The stream of a table that tenants share, line by line the rows of `tenant` instead of `origin`.

    Raises `StoreRefused` where a line is of neither: what a backup holds of others is loaded for nobody.
    """
    if table.spec.tenant_column is None:
        yield from blocks
        return
    old, new = f"\n{origin}\t".encode(), f"\n{tenant}\t".encode()
    left = b""
    for block in blocks:
        whole, newline, left = (left + block).rpartition(b"\n")
        if not newline:
            continue
        lines = b"\n" + whole
        if lines.count(b"\n") != lines.count(old):
            raise StoreRefused(f"the backup's stream of {table.collection} has a row that is not of {origin}")
        yield (lines if old == new else lines.replace(old, new))[1:] + newline
    if left:
        raise StoreRefused(f"the backup's stream of {table.collection} ends in the middle of a row")


def line_of(error: psycopg.Error) -> int:
    """The line of a COPY at which the server refused it; 0 where it does not say."""
    found = _LINE.search(error.diag.context or "")
    return int(found[1]) if found else 0


def row_at(blocks: Iterable[bytes], line: int) -> bytes:
    """That line of a stream, counted from 1; nothing where there is none."""
    left = b""
    for block in blocks:
        count = block.count(b"\n")
        if count < line:
            line -= count
            left = block.rpartition(b"\n")[2] if count else left + block
            continue
        return (left + block).split(b"\n", line)[line - 1]
    return b""


def key_in(row: bytes, columns: Sequence[str], key: Sequence[str]) -> str:
    """The key of a row of a stream, in words."""
    values = dict(zip(columns, row.decode(errors="replace").split("\t"), strict=False))
    return ", ".join(f"{name} = {values[name]}" for name in key if name in values)
