"""Rows of warehouses in a backup, for a portable export."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import pyarrow as pa

from tenure.backups.contract import Source
from tenure.errors import StoreRefused
from tenure.model.names import StoreName
from tenure.stores.analytics import duckdb_packs, sql_packs
from tenure.stores.analytics.packs import Spool
from tenure.stores.exports import Column, Kind, Row, Rows, lines
from tenure.stores.records import Record, latest

FORM: Final = "analytics-units/1"


def units_of(source: Source, store: StoreName, collection: str) -> Rows:
    """Every column as JSON: what JSON has no type for comes as text, bytes in base 64. Raises `StoreRefused` for rows
    of an engine whose own form no library here reads (ClickHouse's)."""
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


def _reader(record: Record, where: str) -> Any:
    form = record.head["form"]
    readers = {duckdb_packs.FORM: _arrow, sql_packs.FORM: _json}
    if form not in readers:
        raise StoreRefused(
            f"{where}: its rows are in the form {form}, which has to be restored to be read",
            hint="restore the backup into a scratch cell and export from there",
        )
    return readers[form]


def _arrow(record: Record, where: str) -> Iterator[Sequence[Any]]:  # noqa: ARG001
    spool = Spool(record.body)
    try:
        with pa.ipc.open_stream(spool.file) as reader:
            for batch in reader:
                columns = [column.to_pylist() for column in batch.columns]
                yield from zip(*columns, strict=True)
    finally:
        spool.close()


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
