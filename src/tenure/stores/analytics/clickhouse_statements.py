"""The statements of the ClickHouse engine: names by its own quoting, everything else bound."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from clickhouse_connect.driver.binding import format_str, quote_identifier

from tenure.catalogue import AnalyticsTable, PartitionBy, QualifiedName
from tenure.model.names import TenantId
from tenure.stores.analytics.composing import Quoted, composed, joined
from tenure.stores.analytics.engine import Column

STAGE: Final = "tenure_stage_"
"""How the tables begin in which rows are prepared."""


def quoted(name: str) -> Quoted:
    return Quoted(quote_identifier(name))


def name_of(table: QualifiedName) -> Quoted:
    return Quoted(f"{quote_identifier(table.schema)}.{quote_identifier(table.name)}")


def stages_of(tenant: TenantId) -> str:
    return f"{STAGE}{hashlib.blake2b(tenant.encode(), digest_size=8).hexdigest()}_"


def written(columns: Sequence[Column]) -> Quoted:
    return joined([quoted(c.name) for c in columns if not c.computed])


def _type_of(columns: Sequence[Column], name: str) -> str:
    return next((c.type for c in columns if c.name == name), "")


def is_tenant(table: AnalyticsTable, columns: Sequence[Column]) -> Quoted:
    """That a row is the tenant's; so that the primary key can be used where the column is text."""
    assert table.tenant_column is not None
    column = quoted(table.tenant_column)
    plain = "String" in _type_of(columns, table.tenant_column)
    return composed(
        "$column = {tenant:String}" if plain else "toString($column) = {tenant:String}", column=column
    )


def partition_of(table: AnalyticsTable, columns: Sequence[Column]) -> Quoted:
    """The partition that a row is in, as text."""
    if table.partition is None:
        return Quoted("''")
    column = quoted(table.partition.column)
    day = composed("toDate32($column, 'UTC')", column=column)
    if "DateTime" not in _type_of(columns, table.partition.column):
        day = composed("toDate32($column)", column=column)
    match table.partition.by:
        case PartitionBy.VALUE:
            return composed("ifNull(toString($column), '')", column=column)
        case PartitionBy.DAY:
            return composed("ifNull(toString($day), '')", day=day)
        case PartitionBy.MONTH:
            return composed("ifNull(formatDateTime($day, '%Y-%m'), '')", day=day)


def rows_of(table: AnalyticsTable, columns: Sequence[Column]) -> Quoted:
    return composed(
        "$tenant and $partition in {parts:Array(String)}",
        tenant=is_tenant(table, columns),
        partition=partition_of(table, columns),
    )


def value_of(name: str, table: AnalyticsTable, columns: Sequence[Column], *, own: bool) -> Quoted:
    """What is inserted into that column of a row that was staged; with `own`, the tenant's id into the tenant's."""
    if not own or name != table.tenant_column:
        return quoted(name)
    kind = _type_of(columns, name)
    return composed("cast({tenant:String}, $kind) as $name", kind=Quoted(format_str(kind)), name=quoted(name))
