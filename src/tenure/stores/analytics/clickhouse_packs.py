"""Units of a ClickHouse table in a backup: ClickHouse's own format, which loses nothing of any type."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, Final

from clickhouse_connect.driver.ctypes import RespBuffCls
from clickhouse_connect.driver.exceptions import ClickHouseError
from clickhouse_connect.driver.query import QueryContext
from clickhouse_connect.driver.transform import NativeTransform

from tenure.catalogue import AnalyticsTable
from tenure.errors import StoreRefused
from tenure.model.names import TenantId
from tenure.stores.analytics.clickhouse_client import ClickHouseClient
from tenure.stores.analytics.clickhouse_statements import is_tenant, partition_of, rows_of, written
from tenure.stores.analytics.composing import Quoted, composed
from tenure.stores.analytics.engine import Column
from tenure.stores.analytics.packs import Columns, Pack, Spool, others_of, require_form
from tenure.stores.analytics.units import Content
from tenure.stores.journaled.backup_ports import Changed

FORM: Final = "clickhouse-native/1"
READINGS: Final = 3
"""How often a unit is read that changes meanwhile, before it is given up."""
_SUMS: Final = (
    "select $partition as part, count(), sum(length(row)),"
    " sum(reinterpretAsUInt128(sipHash128(formatRow('RowBinary', $columns) as row))),"
    " sum(length(rest)), sum(reinterpretAsUInt128(sipHash128(formatRow('RowBinary', $others) as rest)))"
    " from $table where $tenant and part in {parts:Array(String)} group by part"
)
_SORTING_KEY: Final = (
    "select sorting_key from system.tables where database = {schema:String} and name = {name:String}"
)


def given_up() -> Iterator[bytes]:
    """The body of a unit that never rested: raises `Changed` where it is read."""

    def never() -> bytes:
        raise Changed

    return iter(never, b"")


def packed(
    http: ClickHouseClient,
    table: AnalyticsTable,
    columns: Sequence[Column],
    read_from: Quoted,
    tenant: TenantId,
    partitions: Sequence[str],
) -> Iterator[Pack]:
    """See `ClickHouseServer.packs`. `read_from` is the table as queries see it when its rows are merged."""
    units = _Units(http, table, columns, read_from, tenant)
    before = units.sums(partitions)
    for partition in partitions:
        now = before.get(partition)
        for attempt in range(READINGS):
            if now is None:
                break
            spool = Spool(units.native(partition))
            try:
                after = units.sums([partition]).get(partition)
                if after != now and attempt + 1 < READINGS:
                    now = after
                    continue
                yield Pack(
                    partition=partition,
                    form=FORM,
                    columns=[(c.name, c.type) for c in columns if not c.computed],
                    content=now[0],
                    others=now[1],
                    body=given_up() if after != now else spool.blocks(),
                )
                break
            finally:
                spool.close()


class _Units:
    """The tenant's units of one table, as they are read."""

    def __init__(
        self,
        http: ClickHouseClient,
        table: AnalyticsTable,
        columns: Sequence[Column],
        read_from: Quoted,
        tenant: TenantId,
    ) -> None:
        self._http: Final = http
        self._tenant: Final = tenant
        others = others_of(table, [c.name for c in columns if not c.computed])
        parts = {
            "partition": partition_of(table, columns),
            "columns": written(columns),
            "others": written([c for c in columns if c.name in others]),
            "table": read_from,
            "tenant": is_tenant(table, columns),
            "rows": rows_of(table, columns),
        }
        self._sums: Final = composed(_SUMS, **parts)
        (key,) = http.select(_SORTING_KEY, {"schema": table.name.schema, "name": table.name.name})[0]
        order = Quoted(f" order by {key}" if key else "")
        self._native: Final = composed("select $columns from $table where $rows$order", order=order, **parts)

    def sums(self, partitions: Sequence[str]) -> dict[str, tuple[Content, Content]]:
        """By partition, the content of all columns and that of all but the tenant's, as of one moment."""
        rows = self._http.select(self._sums, {"tenant": self._tenant, "parts": list(partitions)})
        return {
            str(part): (
                Content(rows=int(count), size_bytes=int(size), digest=int(digest)),
                Content(rows=int(count), size_bytes=int(less), digest=int(other)),
            )
            for part, count, size, digest, less, other in rows
        }

    def native(self, partition: str) -> Iterator[bytes]:
        return self._http.stream(self._native, {"tenant": self._tenant, "parts": [partition]}, "Native")


class ClickHouseBrought:
    """Rows from a backup. Implements `Brought`; they become the tenant's when they are inserted."""

    def __init__(self, table: AnalyticsTable, where: str) -> None:
        self._table: Final = table
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

    def natives(self) -> Iterator[Generator[bytes, None, None]]:
        """Each unit that was added."""
        return (spool.blocks() for spool in self._spools)

    def close(self) -> None:
        while self._spools:
            self._spools.pop().close()


class _Blocks:
    """Where the library reads an answer from."""

    last_message: Final = None
    exception_tag: Final = None

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self.gen: Final = iter(blocks)

    def close(self) -> None:
        """Nothing is open."""


def unpacked_rows(body: Iterable[bytes], where: str) -> Iterator[Sequence[Any]]:
    """The rows of a pack as Python values, without a server: texts as bytes, times to the microsecond."""
    context = QueryContext(query_formats={"String": "bytes"}, tz_mode="aware")
    buffer: Any = RespBuffCls
    try:
        result: Any = NativeTransform.parse_response(buffer(_Blocks(body)), context)
        with result.rows_stream as rows:
            yield from rows
    except ClickHouseError as error:
        raise StoreRefused(f"{where}: these are no rows in the form {FORM}: {error}") from error
