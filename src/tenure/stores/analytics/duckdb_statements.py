"""The statements of the DuckDB engine, over a file that is attached as `file` to a database in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import duckdb
import pyarrow as pa

from tenure.catalogue import AnalyticsTable, PartitionBy, QualifiedName
from tenure.model.names import TenantId
from tenure.stores.analytics.composing import Quoted, composed, double_quoted, joined
from tenure.stores.analytics.engine import Allowed, Column, Rows
from tenure.stores.analytics.units import MASK, Content

Connection = duckdb.DuckDBPyConnection

FILE: Final = Quoted("file")
"""The name by which a file is attached."""
HELD: Final = Quoted("memory.main.tenure_rows")
"""Rows that rest in memory."""
_OWN_SCHEMAS: Final = ("information_schema", "pg_catalog")


def number(hub: Connection, statement: Quoted, values: list[Any] | None = None) -> int:
    """The one number that the statement gives. A result that is not read to its end would stand in the way."""
    rows = hub.execute(statement, values or []).fetchall()
    return int(rows[0][0])


def name_of(table: QualifiedName) -> Quoted:
    return composed(
        "$file.$schema.$name", file=FILE, schema=double_quoted(table.schema), name=double_quoted(table.name)
    )


def tenant_column(table: AnalyticsTable) -> str:
    assert table.tenant_column is not None
    return table.tenant_column


def partition_of(table: AnalyticsTable) -> Quoted:
    """The partition that a row is in, as text."""
    if table.partition is None:
        return Quoted("''")
    column = double_quoted(table.partition.column)
    match table.partition.by:
        case PartitionBy.VALUE:
            return composed("coalesce($column::varchar, '')", column=column)
        case PartitionBy.DAY:
            return composed("coalesce($column::date::varchar, '')", column=column)
        case PartitionBy.MONTH:
            return composed("coalesce(strftime($column::date, '%Y-%m'), '')", column=column)


def rows_of(table: AnalyticsTable) -> Quoted:
    return composed(
        "$tenant = ? and $partition in (select unnest(?::varchar[]))",
        tenant=double_quoted(tenant_column(table)),
        partition=partition_of(table),
    )


def partitions(hub: Connection, table: AnalyticsTable, tenant: TenantId) -> dict[str, int]:
    statement = composed(
        "select $partition as part, count(*) from $table where $tenant = ? group by part order by part",
        partition=partition_of(table),
        table=name_of(table.name),
        tenant=double_quoted(tenant_column(table)),
    )
    return dict(hub.execute(statement, [tenant]).fetchall())


def batches(partitions: Mapping[str, int], rows: int) -> Iterator[list[str]]:
    """The partitions in batches of about so many rows."""
    batch: list[str] = []
    held = 0
    for partition, count in partitions.items():
        if batch and held + count > rows:
            yield batch
            batch, held = [], 0
        batch.append(partition)
        held += count
    if batch:
        yield batch


def contents(
    hub: Connection,
    table: AnalyticsTable,
    columns: Sequence[Column],
    tenant: TenantId,
    partitions: list[str],
    *,
    held: bool = False,
) -> dict[str, Content]:
    """The digest of a row is the MD5 of all its values as text, each with its length before it. With `held`, of the
    rows of the table that rest in memory."""
    statement = composed(
        "select part, count(*), sum(octet_length(encode(row))), sum(md5_number_upper(row)::hugeint),"
        " sum(md5_number_lower(row)::hugeint) from"
        " (select $partition as part, $row as row from $table"
        " where $tenant = ? and part in (select unnest(?::varchar[]))) group by part",
        partition=partition_of(table),
        row=joined([text_of(c) for c in columns if not c.computed], " || "),
        table=HELD if held else name_of(table.name),
        tenant=double_quoted(tenant_column(table)),
    )
    return {
        part: Content(rows=rows, size_bytes=size, digest=((upper << 64) + lower) & MASK)
        for part, rows, size, upper, lower in hub.execute(statement, [tenant, partitions]).fetchall()
    }


def _is_union(column: Column) -> bool:
    """Whether each of its values is of one of several types, and says which."""
    return column.type.startswith("UNION(") and column.type.endswith(")")


def ambiguous(column: Column) -> bool:
    """Whether values of different types in it can have one text: a type is not said below the top of a value."""
    unions = column.type.count("UNION(") - _is_union(column)
    return unions > 0 or "VARIANT" in column.type


def text_of(column: Column) -> Quoted:
    """A value so that equal texts mean equal values. The session's time zone is UTC."""
    name = double_quoted(column.name)
    text = "$name::varchar"
    if column.type == "BLOB":
        text = "hex($name)"
    elif _is_union(column):
        text = "union_tag($name)::varchar || '=' || $name::varchar"
    value = composed(text, name=name)
    return composed(
        "case when $name is null then '~' else strlen($value) || ':' || $value end", name=name, value=value
    )


def swap(
    hub: Connection,
    table: AnalyticsTable,
    tenant: TenantId,
    partitions: Sequence[str],
    columns: Sequence[str],
    allowed: Allowed,
) -> None:
    names = joined([double_quoted(c) for c in columns])
    hub.execute("begin transaction")
    hub.execute(
        composed("delete from $table where $rows", table=name_of(table.name), rows=rows_of(table)),
        [tenant, list(partitions)],
    )
    hub.execute(
        composed(
            "insert into $table ($names) select $names from $held",
            table=name_of(table.name),
            names=names,
            held=HELD,
        )
    )
    allowed()
    hub.execute("commit")


def described(hub: Connection, table: QualifiedName | None = None) -> dict[QualifiedName, list[Column]]:
    """The columns of this table, or of every table."""
    found: dict[QualifiedName, list[Column]] = {}
    rows = hub.execute(
        "select schema_name, table_name, column_name, data_type, is_generated, coalesce(comment, '')"
        " from duckdb_columns()"
        " where database_name = 'file' and not internal"
        " and (?::varchar is null or (schema_name = ? and table_name = ?))"
        " and (schema_name, table_name) in"
        " (select (schema_name, table_name) from duckdb_tables() where database_name = 'file')"
        " order by schema_name, table_name, column_index",
        [table and table.schema, table and table.schema, table and table.name],
    ).fetchall()
    for schema, name, column, kind, computed, comment in rows:
        if schema not in _OWN_SCHEMAS:
            found.setdefault(QualifiedName(schema=schema, name=name), []).append(
                Column(name=column, type=kind, computed=computed, comment=comment)
            )
    return found


def bring(hub: Connection, rows: Rows) -> None:
    """Rows from another kind of engine, into memory."""
    made = False
    for batch in rows.batches():
        hub.register("tenure_brought", pa.Table.from_batches([batch]))
        verb = composed("insert into $held" if made else "create table $held as", held=HELD)
        hub.execute(composed("$verb select * from tenure_brought", verb=verb))
        hub.unregister("tenure_brought")
        made = True
    if not made:
        nothing = [composed("null as $name", name=double_quoted(c)) for c in rows.columns]
        hub.execute(
            composed("create table $held as select $nothing limit 0", held=HELD, nothing=joined(nothing))
        )
