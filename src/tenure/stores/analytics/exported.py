"""Rows of warehouses in a backup, for a portable export."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from tenure.backups.contract import Source
from tenure.errors import StoreRefused
from tenure.model.names import StoreName
from tenure.stores.analytics import duckdb_packs, sql_packs
from tenure.stores.exports import Column, Kind, Row, Rows, lines, text_or_bytes
from tenure.stores.records import Record, latest

FORM: Final = "analytics-units/1"
NATIVE: Final = "clickhouse-native/1"


def units_of(source: Source, store: StoreName, collection: str) -> Rows:
    """Every column as JSON: what JSON has no type for comes as text, bytes in base 64. Raises `StoreRefused` for rows
    in ClickHouse's form where its library is not installed."""
    records = latest(source, store, collection, FORM, str(store))
    first = next(records, None)
    if first is None:
        return Rows(columns=(), rows=iter(()))
    columns = tuple(Column(name=name, kind=Kind.JSON, type=type_) for name, type_ in first.head["columns"])
    where = f"{store}, {collection}"
    _reader(first, where)

    def rows() -> Iterator[Row]:
        yield from _rows(first, where)
        for record in records:
            yield from _rows(record, where)

    return Rows(columns=columns, rows=rows())


def _rows(record: Record, where: str) -> Iterator[Row]:
    names = [name for name, _ in record.head["columns"]]
    for row in _reader(record, where)(record, where):
        yield Row(values={name: plain(value) for name, value in zip(names, row, strict=True)})


def _reader(record: Record, where: str) -> Callable[[Record, str], Iterator[Sequence[Any]]]:
    form = record.head["form"]
    readers = {duckdb_packs.FORM: _arrow, sql_packs.FORM: _json, NATIVE: _native}
    if form not in readers:
        raise StoreRefused(f"{where}: its rows are in the form {form}, which this Tenure does not read")
    return readers[form]


def _arrow(record: Record, where: str) -> Iterator[Sequence[Any]]:  # noqa: ARG001
    return duckdb_packs.unpacked_rows(record.body, [(name, kind) for name, kind in record.head["columns"]])


def _native(record: Record, where: str) -> Iterator[Sequence[Any]]:
    try:
        from tenure.stores.analytics import clickhouse_packs
    except ImportError as error:
        raise StoreRefused(
            f"{where}: its rows are in ClickHouse's own form, and its library is not installed",
            hint="install Tenure with its extra `clickhouse`",
        ) from error
    for row in clickhouse_packs.unpacked_rows(record.body, where):
        yield [text_or_bytes(value) if isinstance(value, bytes) else value for value in row]


def _json(record: Record, where: str) -> Iterator[Sequence[Any]]:
    for line in lines(record.body, where):
        yield sql_packs.row_of(line)


def plain(value: Any) -> Any:
    """As JSON has it."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(bytes(value)).decode()
        case Decimal() | UUID():
            return str(value)
        case Mapping():
            return {str(k): plain(v) for k, v in value.items()}
        case Sequence():
            return [plain(v) for v in value]
    return str(value)
