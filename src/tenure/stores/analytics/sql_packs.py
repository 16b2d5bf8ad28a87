"""Units of a table of any SQL warehouse in a backup: a line of JSON for each row, an array of its columns' values.

Texts, true, false and null are themselves. Everything else is an object with one entry that says what it is: `int`,
`float` (as Python prints it), `decimal`, `datetime`, `date`, `time` (ISO 8601), `seconds` (of an interval), `uuid`,
`bytes` (base 64), `list`, and `map` (pairs).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from tenure.catalogue import AnalyticsTable
from tenure.errors import StoreRefused
from tenure.model.names import TenantId
from tenure.stores.analytics.packs import Columns, Pack, Spool, others_of, require_form
from tenure.stores.analytics.portable import Counting
from tenure.stores.analytics.units import Content

FORM: Final = "sql-rows-json/1"


def line_of(row: Sequence[Any]) -> bytes:
    return json.dumps([_noted(value) for value in row], separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )


def row_of(line: bytes) -> list[Any]:
    return [_read(value) for value in json.loads(line.decode("utf-8", "surrogatepass"))]


def _noted(value: Any) -> Any:  # noqa: PLR0912  (a table of types)
    match value:
        case None | bool() | str():
            return value
        case int():
            return {"int": str(value)}
        case float():
            return {"float": repr(value)}
        case Decimal():
            return {"decimal": str(value)}
        case datetime():
            return {"datetime": value.isoformat()}
        case date():
            return {"date": value.isoformat()}
        case time():
            return {"time": value.isoformat()}
        case timedelta():
            return {"seconds": [value.days, value.seconds, value.microseconds]}
        case UUID():
            return {"uuid": str(value)}
        case bytes() | bytearray() | memoryview():
            return {"bytes": base64.b64encode(bytes(value)).decode()}
        case Mapping():
            return {"map": [[_noted(k), _noted(v)] for k, v in value.items()]}
        case Sequence():
            return {"list": [_noted(v) for v in value]}
        case _:
            raise StoreRefused(f"a value of type {type(value).__name__} has no form in a backup")


_READ: Final[Mapping[str, Callable[[Any], Any]]] = {
    "int": int,
    "float": float,
    "decimal": Decimal,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "seconds": lambda parts: timedelta(days=parts[0], seconds=parts[1], microseconds=parts[2]),
    "uuid": UUID,
    "bytes": base64.b64decode,
    "map": lambda pairs: {_read(k): _read(v) for k, v in pairs},
    "list": lambda values: [_read(v) for v in values],
}


def _read(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    return _READ[kind](held)


def packed(
    table: AnalyticsTable,
    partition: str,
    rows: Iterable[Sequence[Any]],
    columns: Columns,
    in_engine: Callable[[Collection[str] | None], Mapping[str, Content]] | None,
) -> Iterator[Pack]:
    """The unit of these rows, if there are any. `in_engine` counts what of its columns, as of the same moment; without
    it the rows themselves are counted."""
    names = [name for name, _ in columns]
    others = others_of(table, names)
    counted = Counting(names), Counting(names, only=others)
    with closing(Spool()) as spool:
        for row in rows:
            spool.write(line_of(row) + b"\n")
            if in_engine is None:
                for counting in counted:
                    counting.add(row)
        if spool.empty:
            return
        content, without = (
            (counting.content for counting in counted)
            if in_engine is None
            else (in_engine(only)[partition] for only in (None, others))
        )
        yield Pack(
            partition=partition,
            form=FORM,
            columns=columns,
            content=content,
            others=without,
            body=spool.blocks(),
        )


class SqlBrought:
    """Rows from a backup. Implements `Brought`."""

    def __init__(self, table: AnalyticsTable, tenant: TenantId, where: str) -> None:
        self._table: Final = table
        self._tenant: Final = tenant
        self._where: Final = where
        self._spools: Final[list[Spool]] = []
        self.columns: Sequence[str] = ()
        self.count = 0

    def add(self, form: str, columns: Columns, rows: int, body: Iterable[bytes]) -> None:
        require_form(form, FORM, self._where)
        names = tuple(name for name, _ in columns)
        if self._spools and names != self.columns:
            raise StoreRefused(f"{self._where}: units of {self._table.name} differ in their columns")
        self.columns = names
        self._spools.append(Spool(body))
        self.count += rows

    def values(self) -> Iterator[Sequence[Any]]:
        """As a warehouse of the dialect takes them, each row the tenant's."""
        own = [n for n, name in enumerate(self.columns) if name == self._table.tenant_column]
        for spool in self._spools:
            for line in spool.file:
                row = row_of(line)
                for n in own:
                    row[n] = self._tenant
                yield row

    def close(self) -> None:
        while self._spools:
            self._spools.pop().close()
