"""Rows in a form that does not depend on the engine: what two engines of different kinds are compared by, and which
types they have in common."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import pyarrow as pa

from tenure.catalogue import AnalyticsTable
from tenure.errors import StoreRefused
from tenure.model.names import TenantId
from tenure.stores.analytics.engine import Engine
from tenure.stores.analytics.units import MASK, Content

DIGEST_BYTES: Final = 16
_COMMON: Final = re.compile(
    r"(?:Nullable\()?(?:LowCardinality\()?(?:Nullable\()?"
    r"(?:bool(?:ean)?|u?(?:tiny|small|big)?int(?:eger)?(?:8|16|32|64)?|hugeint"
    r"|float(?:32|64)?|double(?: precision|_precision)?|real"
    r"|(?:decimal|numeric)(?:\(\d+, ?\d+\))?|varchar(?:\(\d+\))?|text|string|char\(\d+\)"
    r"|date(?:32)?|datetime(?:64)?(?:\([^)]*\))?|timestamp(?:_ntz|_tz)?(?:\(\d\))?(?: with(?:out)? time zone)?"
    r"|blob|bytea|binary|varbinary|uuid)\)*",
    re.IGNORECASE,
)


def portable(type_name: str) -> bool:
    """Whether a column of that type, in the words of any engine, can be carried to an engine of another kind."""
    return _COMMON.fullmatch(type_name) is not None


def portable_contents(
    engine: Engine, table: AnalyticsTable, tenant: TenantId, partitions: Collection[str]
) -> Mapping[str, Content]:
    """As `Engine.contents`, but equal for equal rows of any engine. Reads every row."""
    found = {}
    for partition in partitions:
        with engine.rows(table, tenant, [partition]) as rows:
            content = contents_of(rows.columns, (row for batch in rows.batches() for row in values_of(batch)))
        if content.rows:
            found[partition] = content
    return found


def contents_of(
    columns: Sequence[str], rows: Iterator[Sequence[Any]], *, only: Collection[str] | None = None
) -> Content:
    """The content of these rows, of all columns or of these `only`; their order does not count."""
    counting = Counting(columns, only=only)
    for row in rows:
        counting.add(row)
    return counting.content


class Counting:
    """What rows amount to that come one by one."""

    def __init__(self, columns: Sequence[str], *, only: Collection[str] | None = None) -> None:
        named = [n for n in range(len(columns)) if only is None or columns[n] in only]
        self._order: Final = sorted(named, key=columns.__getitem__)
        self._rows = self._size = self._digest = 0

    def add(self, row: Sequence[Any]) -> None:
        text = b"".join(_part(canonical(row[n])) for n in self._order)
        self._rows += 1
        self._size += len(text)
        self._digest += int.from_bytes(hashlib.blake2b(text, digest_size=DIGEST_BYTES).digest(), "big")

    @property
    def content(self) -> Content:
        return Content(rows=self._rows, size_bytes=self._size, digest=self._digest & MASK)


def values_of(batch: pa.RecordBatch) -> Iterator[Sequence[Any]]:
    """The rows of a batch as Python values; times keep their nanoseconds."""
    columns = [_values(column) for column in batch.columns]
    return iter(list(zip(*columns, strict=True)))


def _values(column: pa.Array) -> list[Any]:
    kind = column.type
    if pa.types.is_timestamp(kind):
        # As whole nanoseconds of UTC: Python's own type knows no finer unit than microseconds.
        per_unit = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}[kind.unit]
        numbers = column.cast(pa.int64()).to_pylist()
        zone = kind.tz is not None
        return [None if n is None else Moment(n * per_unit, zone=zone) for n in numbers]
    values: list[Any] = column.to_pylist()
    return values


class Moment:
    """A point in time, in nanoseconds since 1970 in UTC."""

    def __init__(self, ns: int, *, zone: bool) -> None:
        self.ns: Final = ns
        self.zone: Final = zone

    def as_datetime(self) -> datetime:
        """In Python's form. Raises `StoreRefused` if that cannot be exact."""
        if self.ns % 1000:
            raise StoreRefused(
                "a time in nanoseconds cannot be carried to a warehouse that knows only microseconds"
            )
        at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self.ns // 1000)
        return at if self.zone else at.replace(tzinfo=None)


def _part(text: bytes) -> bytes:
    return len(text).to_bytes(8, "big") + text


def canonical(value: Any) -> bytes:  # noqa: PLR0912  (a table of types)
    """Equal for equal values, whichever engine they come from; different for different ones.

    Numbers count by their value, whether whole or decimal; NaN is one value, and -0.0 is not 0.0. A time without a zone
    is taken as UTC's.
    """
    match value:
        case None:
            return b"~"
        case bool():
            return b"n1" if value else b"n0"
        case int():
            return b"n%d" % value
        case Decimal():
            return b"n" + _number(value)
        case float():
            return b"f" + (b"nan" if math.isnan(value) else repr(value).encode())
        case str():
            return b"s" + value.encode("utf-8", "surrogatepass")
        case UUID():
            return b"s" + str(value).encode()
        case bytes() | bytearray() | memoryview():
            return b"b" + bytes(value)
        case Moment():
            return b"t%d" % value.ns
        case datetime():
            return b"t%d" % _nanoseconds(value)
        case date():
            return b"d" + value.isoformat().encode()
        case time():
            return b"c" + value.isoformat().encode()
        case Mapping():
            pairs = sorted(_part(canonical(k)) + _part(canonical(v)) for k, v in value.items())
            return b"m" + b"".join(pairs)
        case Sequence():
            return b"l" + b"".join(_part(canonical(v)) for v in value)
        case _:
            return b"?" + repr(value).encode()


def _number(value: Decimal) -> bytes:
    if not value.is_finite():
        return str(value).lower().encode()
    if value == value.to_integral_value():
        return b"%d" % int(value)
    return str(value.normalize()).encode()


def _nanoseconds(value: datetime) -> int:
    there = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    since = there - datetime(1970, 1, 1, tzinfo=UTC)
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1_000
