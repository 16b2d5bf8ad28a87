"""Units of a DuckDB table in a backup: a stream of Arrow's IPC format each, with DuckDB's own types as extensions of
Arrow's (`arrow_lossless_conversion`), so that every value comes back as it was."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, Final

import duckdb
import pyarrow as pa

from tenure.catalogue import AnalyticsTable
from tenure.errors import StoreRefused
from tenure.model.names import TenantId
from tenure.stores.analytics import duckdb_statements as statements
from tenure.stores.analytics.composing import Quoted, composed, double_quoted, joined
from tenure.stores.analytics.duckdb_statements import HELD, Connection
from tenure.stores.analytics.engine import Column
from tenure.stores.analytics.packs import Columns, Pack, Spool, others_of, require_form

FORM: Final = "duckdb-arrow-ipc/1"
BATCH_ROWS: Final = 20_000
BROUGHT: Final = "tenure_brought"
_AS_TEXT: Final = (
    "HUGEINT",
    "UHUGEINT",
    "BIGNUM",
    "BIT",
    "INTERVAL",
    "DATE",
    "TIME",
    "TIME WITH TIME ZONE",
    "TIMESTAMP",
    "TIMESTAMP_S",
    "TIMESTAMP_MS",
    "TIMESTAMP_NS",
    "TIMESTAMP WITH TIME ZONE",
)
"""Types with values that Python's own cannot hold."""


def packed(
    hub: Connection,
    table: AnalyticsTable,
    columns: Sequence[Column],
    tenant: TenantId,
    partitions: Sequence[str],
) -> Iterator[Pack]:
    """The units of the rows that rest in memory."""
    wanted = list(partitions)
    others = others_of(table, [c.name for c in columns])
    contents = statements.contents(hub, table, columns, tenant, wanted, held=True)
    without = statements.contents(
        hub, table, [c for c in columns if c.name in others], tenant, wanted, held=True
    )
    for partition in wanted:
        if partition in contents:
            yield Pack(
                partition=partition,
                form=FORM,
                columns=[(c.name, c.type) for c in columns],
                content=contents[partition],
                others=without[partition],
                body=_body(hub, table, columns, tenant, partition),
            )


def _body(
    hub: Connection, table: AnalyticsTable, columns: Sequence[Column], tenant: TenantId, partition: str
) -> Iterator[bytes]:
    hub.execute("set arrow_lossless_conversion = true")
    rows = hub.sql(
        composed(
            "select $columns from $held where $rows",
            columns=joined([double_quoted(c.name) for c in columns]),
            held=HELD,
            rows=statements.rows_of(table),
        ),
        params=[tenant, [partition]],
    )
    reader = rows.to_arrow_reader(BATCH_ROWS)
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()
    hub.execute("reset arrow_lossless_conversion")


def prepare(hub: Connection, table: AnalyticsTable, columns: Sequence[Column]) -> None:
    """Room in memory for rows of the table, with its types."""
    hub.execute(
        composed(
            "create table $held as select $columns from $table limit 0",
            held=HELD,
            columns=joined([double_quoted(c.name) for c in columns]),
            table=statements.name_of(table.name),
        )
    )


class DuckDbBrought:
    """Rows from a backup that rest in a database in memory. Implements `Brought`."""

    def __init__(self, hub: Connection, table: AnalyticsTable, tenant: TenantId, where: str) -> None:
        self.hub: Final = hub
        self._table: Final = table
        self._tenant: Final = tenant
        self._where: Final = where
        self._columns: tuple[str, ...] | None = None
        self.count = 0

    @property
    def columns(self) -> Sequence[str]:
        """Those of the units that were added; all that there are where none was."""
        if self._columns is None:
            described = self.hub.execute(composed("describe $held", held=HELD)).fetchall()
            return tuple(str(row[0]) for row in described)
        return self._columns

    def add(self, form: str, columns: Columns, rows: int, body: Iterable[bytes]) -> None:
        require_form(form, FORM, self._where)
        names = tuple(name for name, _ in columns)
        if self._columns not in (None, names):
            raise StoreRefused(f"{self._where}: units of {self._table.name} differ in their columns")
        self._columns = names
        spool = Spool(body)
        try:
            self._read(spool, names)
        finally:
            spool.close()
        self.count += rows
        found = statements.number(self.hub, composed("select count(*) from $held", held=HELD))
        if found != self.count:
            raise StoreRefused(f"{self._where}: {found} rows came out of the backup, and not {self.count}")

    def _read(self, spool: Spool, names: Sequence[str]) -> None:
        quoted = joined([double_quoted(name) for name in names])
        insert = composed(
            "insert into $held ($names) select $names from $brought",
            held=HELD,
            names=quoted,
            brought=double_quoted(BROUGHT),
        )
        with pa.ipc.open_stream(spool.file) as reader:
            for batch in reader:
                self.hub.register(BROUGHT, pa.Table.from_batches([batch]))
                self.hub.execute(insert)
                self.hub.unregister(BROUGHT)
        self.hub.execute(
            composed(
                "update $held set $tenant = ? where $tenant::varchar <> ?",
                held=HELD,
                tenant=double_quoted(statements.tenant_column(self._table)),
            ),
            [self._tenant, self._tenant],
        )


def unpacked_rows(body: Iterable[bytes], columns: Columns) -> Iterator[Sequence[Any]]:
    """The rows of a pack as Python values, without the file. What neither Arrow nor Python has a type for comes as
    text, what is nested as JSON has it."""
    shown = joined([_shown(name, kind) for name, kind in columns])
    with closing(Spool(body)) as spool, closing(duckdb.connect(":memory:")) as hub:
        hub.execute("set TimeZone = 'UTC'")
        with pa.ipc.open_stream(spool.file) as reader:
            for batch in reader:
                hub.register(BROUGHT, pa.Table.from_batches([batch]))
                select = composed("select $shown from $brought", shown=shown, brought=double_quoted(BROUGHT))
                rows = [column.to_pylist() for column in hub.sql(select).to_arrow_table().columns]
                hub.unregister(BROUGHT)
                for row in zip(*rows, strict=True):
                    yield [
                        json.loads(value) if value is not None and _nested(kind) else value
                        for value, (_, kind) in zip(row, columns, strict=True)
                    ]


def _nested(kind: str) -> bool:
    return "(" in kind.removeprefix("DECIMAL(").removeprefix("ENUM(") or kind.endswith("]") or kind == "JSON"


def _shown(name: str, kind: str) -> Quoted:
    column = double_quoted(name)
    if _nested(kind):
        return composed("to_json($column)::varchar as $column", column=column)
    if kind in _AS_TEXT:
        return composed("$column::varchar as $column", column=column)
    return column
