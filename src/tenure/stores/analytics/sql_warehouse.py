"""Whatever SQLAlchemy has a driver for as an engine of analytics: Snowflake, BigQuery, Redshift, PostgreSQL.

A unit is replaced in one transaction. PostgreSQL computes digests itself; of other warehouses every row is read for
them, since no two of them hash alike.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, Final, cast

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy import types
from sqlalchemy.dialects.postgresql import BIT
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, NoSuchTableError, SQLAlchemyError
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.util import get_cls_kwargs

from tenure.catalogue import AnalyticsTable, PartitionBy, QualifiedName
from tenure.errors import StoreRefused, StoreUnavailable, TenureError
from tenure.model.names import TenantId
from tenure.model.secret import Secret
from tenure.stores.analytics.engine import Allowed, Column, Hazard, Rows
from tenure.stores.analytics.packs import Brought, Pack
from tenure.stores.analytics.portable import Moment, contents_of, values_of
from tenure.stores.analytics.sql_packs import SqlBrought, packed
from tenure.stores.analytics.units import MASK, Content

CHUNK: Final = 5000
PAGE: Final = 1000
_OWN: Final = ("information_schema", "pg_catalog", "sys", "tenure")
_UNTYPED: Final = ("sqlite",)
"""Dialects whose values have types and whose columns do not: values pass as they are."""
_HASHING: Final = ("postgresql", "redshift", "snowflake", "mysql", "mariadb")
"""Dialects whose `md5` of a text is that of its bytes, as hexadecimal digits."""
_AS_TEXT: Final = ("postgresql",)
"""Dialects that write every value as a text and read that text as the same value: it passes as text."""
_NO_ENTRY: Final = (
    "authentication failed",
    "password",
    "access denied",
    "incorrect username",
    "invalid username",
    "login failed",
    "role",
)
_POSTGRES: Final = {
    "options": "-c timezone=UTC -c datestyle=ISO,YMD -c intervalstyle=postgres -c extra_float_digits=1"
    " -c bytea_output=hex",
    "connect_timeout": 4,
    "application_name": "tenure",
}


class SqlWarehouse:
    """One warehouse. Implements `tenure.stores.analytics.engine.Engine`; `url` is SQLAlchemy's."""

    residue: Final = "the warehouse's files, until it vacuums or compacts them"

    def __init__(self, *, url: Secret, where: str) -> None:
        self._where: Final = where
        try:
            self._url: Final = sa.make_url(url.reveal())
            dialect = self._url.get_dialect()
        except (ArgumentError, NoSuchModuleError, ImportError) as error:
            reason = (
                "is malformed" if isinstance(error, ArgumentError) else "needs a driver that is not installed"
            )
            raise StoreRefused(f"{where}: the warehouse's URL {reason}") from None
        self.dialect: Final = f"sql ({dialect.name})"
        options: dict[str, Any] = {"pool_pre_ping": True, "hide_parameters": True}
        known = get_cls_kwargs(dialect)
        if {"json_serializer", "json_deserializer"} <= set(known):
            # JSON passes as the text that it is: whoever parses and prints it may change it.
            options |= {"json_serializer": _as_it_is, "json_deserializer": _as_it_is}
        if dialect.name == "postgresql":
            options["connect_args"] = _POSTGRES
        self._engine: Final[Engine] = sa.create_engine(self._url, **options)
        self._in_engine: Final = dialect.name == "postgresql"
        self._dialect: Final = dialect.name
        self._as_text: Final = dialect.name in _AS_TEXT
        self._tables: Final[dict[QualifiedName, sa.Table]] = {}
        self._lock: Final = threading.Lock()

    @property
    def where(self) -> str:
        return self._where

    @property
    def server(self) -> str:
        """Without user, password and options."""
        url = self._url
        return sa.URL.create(
            url.drivername, host=url.host, port=url.port, database=url.database
        ).render_as_string()

    def ping(self) -> None:
        with self._connected() as connection:
            connection.execute(sa.select(1))

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        with self._translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise self._translate(error) from error

    def _translate(self, error: SQLAlchemyError) -> TenureError:
        if isinstance(error, NoSuchTableError):
            return StoreRefused(f"{self._where} has no table {error}")
        origin = error.orig if isinstance(error, DBAPIError) else error
        text = str(origin).strip().partition("\n")[0]
        if isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError) or (
            isinstance(error, DBAPIError) and error.connection_invalidated
        ):
            if any(sign in text.lower() for sign in _NO_ENTRY):
                return StoreUnavailable(
                    f"{self._where} refuses the login: {text}", hint="check the URL of the warehouse"
                )
            return StoreUnavailable(
                f"{self._where} cannot be reached, or not now: {text}",
                hint="check that the warehouse runs and lets Tenure in",
            )
        return StoreRefused(f"{self._where}: {text}")

    # -- looking -----------------------------------------------------------------------------------------------------

    def tables(
        self,
        schemas: Collection[str],  # noqa: ARG002
        *,
        everywhere: bool = False,  # noqa: ARG002
    ) -> Mapping[QualifiedName, Sequence[Column]]:
        """All schemas of the database that the URL names."""
        found = {}
        with self._connected() as connection:
            looking = sa.inspect(connection)
            for schema in looking.get_schema_names():
                if schema.lower() not in _OWN:
                    for name in looking.get_table_names(schema=schema):
                        table = QualifiedName(schema=schema, name=name)
                        found[table] = _columns(looking, table)
        return found

    def views(self) -> Mapping[QualifiedName, str]:
        found = {}
        with self._connected() as connection:
            looking = sa.inspect(connection)
            for schema in looking.get_schema_names():
                if schema.lower() not in _OWN:
                    for name in looking.get_view_names(schema=schema):
                        found[QualifiedName(schema=schema, name=name)] = _definition(looking, schema, name)
        return found

    def columns(self, table: QualifiedName) -> Sequence[Column]:
        with self._lock:
            self._tables.pop(table, None)
        with self._connected() as connection:
            looking = sa.inspect(connection)
            if not looking.has_table(table.name, schema=table.schema):
                return ()
            return _columns(looking, table)

    def hazards(self, table: AnalyticsTable) -> Sequence[Hazard]:
        with self._connected() as connection:
            keys = sa.inspect(connection).get_foreign_keys(table.name.name, schema=table.name.schema)
        return [
            Hazard(
                table=table.name,
                code="analytics_foreign_key",
                message=f"{table.name} refers to {key['referred_table']}: rows are replaced by partition, "
                "in no order of the tables",
                fix="drop the constraint in both cells, if the warehouse enforces it",
            )
            for key in keys
        ]

    def _reflected(self, connection: Connection, name: QualifiedName) -> sa.Table:
        """The table with its columns' types, as they were when it was first looked at (or `columns` last)."""
        with self._lock:
            table = self._tables.get(name)
        if table is None:
            table = sa.Table(
                name.name, sa.MetaData(), schema=name.schema, autoload_with=connection, resolve_fks=False
            )
            if connection.dialect.name in _UNTYPED:
                for column in table.columns:
                    column.type = types.NullType()
            with self._lock:
                self._tables[name] = table
        return table

    def partitions(self, table: AnalyticsTable, tenant: TenantId) -> Mapping[str, int]:
        with self._connected() as connection:
            reflected = self._reflected(connection, table.name)
            part = self._partition(table, reflected).label("part")
            query = (
                sa.select(part, sa.func.count())
                .where(self._is_tenant(table, reflected, tenant))
                .group_by(part)
                .order_by(part)
            )
            return {str(value): int(rows) for value, rows in connection.execute(query)}

    def contents(
        self,
        table: AnalyticsTable,
        tenant: TenantId,
        partitions: Collection[str],
        *,
        only: Collection[str] | None = None,
    ) -> Mapping[str, Content]:
        with self._connected() as connection:
            return self._contents(connection, table, tenant, partitions, only)

    def _contents(
        self,
        connection: Connection,
        table: AnalyticsTable,
        tenant: TenantId,
        partitions: Collection[str],
        only: Collection[str] | None,
    ) -> dict[str, Content]:
        if not self._in_engine:
            return self._read_contents(connection, table, tenant, partitions, only)
        reflected = self._reflected(connection, table.name)
        part = self._partition(table, reflected)
        written = [c for c in reflected.columns if c.computed is None and (only is None or c.name in only)]
        rows = (
            sa.select(part.label("part"), sa.cast(sa.func.row(*written), sa.Text).label("content"))
            .where(self._is_tenant(table, reflected, tenant), part.in_(list(partitions)))
            .subquery()
        )
        upper, lower = (_half(sa.func.md5(rows.c.content), start) for start in (1, 17))
        query = sa.select(
            rows.c.part,
            sa.func.count(),
            sa.func.sum(sa.func.octet_length(rows.c.content)),
            sa.func.sum(upper),
            sa.func.sum(lower),
        ).group_by(rows.c.part)
        return {
            str(value): Content(
                rows=int(count), size_bytes=int(size), digest=((int(high) << 64) + int(low)) & MASK
            )
            for value, count, size, high, low in connection.execute(query)
        }

    def _read_contents(
        self,
        connection: Connection,
        table: AnalyticsTable,
        tenant: TenantId,
        partitions: Collection[str],
        only: Collection[str] | None,
    ) -> dict[str, Content]:
        found = {}
        for partition in partitions:
            rows = self._rows(connection, table, tenant, [partition])
            content = contents_of(rows.columns, rows.values(), only=only)
            if content.rows:
                found[partition] = content
        return found

    # -- moving ------------------------------------------------------------------------------------------------------

    @contextmanager
    def rows(self, table: AnalyticsTable, tenant: TenantId, partitions: Sequence[str]) -> Iterator[SqlRows]:
        with self._connected() as connection:
            yield self._rows(connection, table, tenant, partitions)

    def _rows(
        self, connection: Connection, table: AnalyticsTable, tenant: TenantId, partitions: Sequence[str]
    ) -> SqlRows:
        reflected = self._reflected(connection, table.name)
        written = [c for c in reflected.columns if c.computed is None]
        here = sa.and_(
            self._is_tenant(table, reflected, tenant), self._partition(table, reflected).in_(list(partitions))
        )
        count = connection.execute(sa.select(sa.func.count()).select_from(reflected).where(here)).scalar_one()
        exact = [sa.cast(c, sa.Text) if self._as_text else c for c in written]
        order = reflected.primary_key.columns
        return SqlRows(
            connection,
            exact=sa.select(*exact).where(here).order_by(*order),
            typed=sa.select(*written).where(here).order_by(*order),
            columns=[c.name for c in written],
            count=count,
        )

    def replace(
        self,
        table: AnalyticsTable,
        tenant: TenantId,
        partitions: Sequence[str],
        rows: Rows | Brought,
        allowed: Allowed,
    ) -> None:
        """In one transaction, where the warehouse has them: whoever looks sees the old rows or the new ones."""
        with self._translated(), self._engine.begin() as connection:
            reflected = self._reflected(connection, table.name)
            connection.execute(
                sa.delete(reflected).where(
                    self._is_tenant(table, reflected, tenant),
                    self._partition(table, reflected).in_(list(partitions)),
                )
            )
            insert = sa.insert(reflected)
            alike = isinstance(rows, SqlRows | SqlBrought)
            if alike and self._as_text:
                # Without types, the server takes each text for a value of its column.
                insert = sa.insert(
                    sa.table(reflected.name, *map(sa.column, rows.columns), schema=reflected.schema)
                )
            values = (
                rows.values() if isinstance(rows, SqlRows | SqlBrought) else _python_values(cast(Rows, rows))
            )
            for chunk in _chunks(values):
                connection.execute(insert, [dict(zip(rows.columns, row, strict=True)) for row in chunk])
            allowed()

    def erase(self, table: AnalyticsTable, tenant: TenantId, progress: Callable[[int], None]) -> int:
        """Partition by partition, each in a transaction of its own. Their bytes go when the warehouse says so."""
        erased = 0
        for partition in self.partitions(table, tenant):
            with self._translated(), self._engine.begin() as connection:
                reflected = self._reflected(connection, table.name)
                here = sa.and_(
                    self._is_tenant(table, reflected, tenant), self._partition(table, reflected) == partition
                )
                count = connection.execute(
                    sa.select(sa.func.count()).select_from(reflected).where(here)
                ).scalar_one()
                connection.execute(sa.delete(reflected).where(here))
            erased += int(count)
            progress(erased)
        return erased

    def packs(self, table: AnalyticsTable, tenant: TenantId, partitions: Sequence[str]) -> Iterator[Pack]:
        """In one transaction each; where its level of isolation does not say so, a unit may be torn that changes while
        it is read."""
        types_of = {c.name: c.type for c in self.columns(table.name)}
        for partition in partitions:
            with self._connected() as connection:
                if self._in_engine:
                    connection.execution_options(isolation_level="REPEATABLE READ")
                rows = self._rows(connection, table, tenant, [partition])
                yield from packed(
                    table,
                    partition,
                    rows.values(),
                    [(name, types_of[name]) for name in rows.columns],
                    partial(self._contents, connection, table, tenant, [partition])
                    if self._in_engine
                    else None,
                )

    @contextmanager
    def bring(self, table: AnalyticsTable, tenant: TenantId) -> Iterator[SqlBrought]:
        with closing(SqlBrought(table, tenant, self._where)) as brought:
            yield brought

    def sweep(self, tenant: TenantId) -> None:
        """Nothing: what is under way is in a transaction."""

    def _is_tenant(self, table: AnalyticsTable, reflected: sa.Table, tenant: TenantId) -> ColumnElement[bool]:
        """Byte by byte where the dialect can say so, whatever the column's type or collation takes for equal: `acme`
        is not `Acme`."""
        assert table.tenant_column is not None
        column = reflected.c[table.tenant_column]
        if not isinstance(column.type, types.String | types.NullType):
            return sa.cast(column, sa.String) == tenant
        if self._dialect in _HASHING:
            exactly = sa.func.md5(column) == hashlib.md5(tenant.encode(), usedforsecurity=False).hexdigest()
        elif self._dialect in _UNTYPED:
            exactly = sa.collate(column, "BINARY") == tenant
        else:
            return column == tenant
        return sa.and_(column == tenant, exactly)

    def _partition(self, table: AnalyticsTable, reflected: sa.Table) -> ColumnElement[str]:
        """The partition that a row is in, as text."""
        if table.partition is None:
            return sa.literal("", sa.String)
        column = reflected.c[table.partition.column]
        if table.partition.by is PartitionBy.VALUE:
            return sa.func.coalesce(sa.cast(column, sa.String), "")
        length = 10 if table.partition.by is PartitionBy.DAY else 7
        day: ColumnElement[Any] = sa.cast(sa.cast(column, sa.Date), sa.String)
        if self._engine.dialect.name in _UNTYPED:
            day = sa.func.date(column)
        elif self._engine.dialect.name == "postgresql":
            # The session's time zone is UTC.
            day = sa.func.to_char(column, "YYYY-MM-DD")
        return sa.func.coalesce(sa.func.substr(day, 1, length), "")

    # -- searching ---------------------------------------------------------------------------------------------------

    def texts(
        self, table: QualifiedName, columns: Sequence[str], needles: Sequence[str]
    ) -> Iterator[Sequence[tuple[Any, ...]]]:
        with self._connected() as connection:
            reflected = self._reflected(connection, table)
            chosen = [reflected.c[name] for name in columns]
            texts = [sa.cast(column, sa.String) for column in chosen]
            values = [
                column if self._may_be_bytes(column) else text
                for column, text in zip(chosen, texts, strict=True)
            ]
            anywhere = [text.contains(needle, autoescape=True) for text in texts for needle in needles]
            if anywhere:
                anywhere += [bytes_ for column in chosen if (bytes_ := self._is_bytes(column)) is not None]
            query = sa.select(*values).where(sa.or_(*anywhere)) if anywhere else sa.select(*values)
            result = connection.execution_options(yield_per=PAGE).execute(query)
            for page in result.partitions():
                yield [tuple(row) for row in page]

    def _may_be_bytes(self, column: sa.Column[Any]) -> bool:
        return self._dialect in _UNTYPED or isinstance(column.type, types.LargeBinary)

    def _is_bytes(self, column: sa.Column[Any]) -> ColumnElement[bool] | None:
        """That a value is bytes, which may be packed text: no engine looks into that, so every such row is read. None
        where the column has no such values."""
        if isinstance(column.type, types.LargeBinary):
            return column.is_not(None)
        return sa.func.typeof(column) == "blob" if self._dialect in _UNTYPED else None

    def count(self, table: QualifiedName) -> tuple[int, int]:
        with self._connected() as connection:
            reflected = self._reflected(connection, table)
            sizes = [
                sa.func.coalesce(sa.func.length(sa.cast(column, sa.String)), 0)
                for column in reflected.columns
            ]
            whole = sum(sizes[1:], sizes[0]) if sizes else sa.literal(0)
            query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(whole), 0)).select_from(reflected)
            rows, size = connection.execute(query).one()
        return int(rows), int(size)

    def close(self) -> None:
        self._engine.dispose()


class SqlRows:
    """Rows of a query that is running, which can be read once in one of two forms. Implements
    `tenure.stores.analytics.engine.Rows`."""

    def __init__(
        self,
        connection: Connection,
        *,
        exact: sa.Select[Any],
        typed: sa.Select[Any],
        columns: Sequence[str],
        count: int,
    ) -> None:
        self._connection = connection
        self._exact = exact
        self._typed = typed
        self.columns: Final = tuple(columns)
        self.count: Final = count

    def values(self) -> Iterator[Sequence[Any]]:
        """As another warehouse of this dialect takes them."""
        return self._read(self._exact)

    def batches(self) -> Iterator[pa.RecordBatch]:
        for rows in _chunks(self._read(self._typed)):
            columns = list(zip(*rows, strict=True))
            yield pa.RecordBatch.from_arrays([pa.array(c) for c in columns], names=list(self.columns))

    def _read(self, query: sa.Select[Any]) -> Iterator[Sequence[Any]]:
        result = self._connection.execution_options(yield_per=CHUNK).execute(query)
        for page in result.partitions():
            yield from page


def _python_values(rows: Rows) -> Iterator[Sequence[Any]]:
    """The rows of another kind of engine."""
    for batch in rows.batches():
        for row in values_of(batch):
            yield [value.as_datetime() if isinstance(value, Moment) else value for value in row]


def _chunks(rows: Iterator[Sequence[Any]]) -> Iterator[list[Sequence[Any]]]:
    chunk: list[Sequence[Any]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _as_it_is(text: Any) -> Any:
    return text


def _columns(looking: sa.Inspector, table: QualifiedName) -> list[Column]:
    return [
        Column(name=c["name"], type=str(c["type"]), computed="computed" in c, comment=c.get("comment") or "")
        for c in looking.get_columns(table.name, schema=table.schema)
    ]


def _definition(looking: sa.Inspector, schema: str, view: str) -> str:
    try:
        return str(looking.get_view_definition(view, schema=schema) or "")
    except NotImplementedError:  # not every dialect of SQLAlchemy can tell
        return ""


def _half(md5: ColumnElement[str], start: int) -> ColumnElement[int]:
    """Sixteen hexadecimal digits as a whole number."""
    digits = sa.literal("x", sa.Text).op("||")(sa.func.substr(md5, start, 16))
    return sa.cast(sa.cast(digits, BIT(64)), sa.BigInteger)
