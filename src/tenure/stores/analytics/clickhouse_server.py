"""ClickHouse as an engine of analytics, over HTTP. Rows go from server to server in ClickHouse's own format.

ClickHouse has no transaction that deletes and inserts. A unit is replaced in this order: its new rows are loaded into a
table of their own, the old ones are deleted, the new ones inserted in one statement. Between the last two a reader sees
the unit empty; the target's tenant has no readers then, since it is fenced and its users are elsewhere.
"""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import clickhouse_connect
import pyarrow as pa
from clickhouse_connect.driver.binding import quote_identifier
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError

from tenure.catalogue import AnalyticsTable, PartitionBy, QualifiedName
from tenure.errors import DeadlineExceeded, StoreRefused, StoreUnavailable, TenureError
from tenure.model.names import TenantId
from tenure.model.secret import Secret
from tenure.stores.analytics.composing import Quoted, composed, joined
from tenure.stores.analytics.engine import Allowed, Column, Hazard, Rows
from tenure.stores.analytics.units import Content

CONNECT_TIMEOUT_S: Final = 3
ANSWER_TIMEOUT_S: Final = 300
MUTATION_WAIT_S: Final = 300.0
"""How long a delete may take to be carried out. It is repeated by whoever tries again, and not asked for twice."""
POLL_S: Final = (0.002, 0.25)
PAGE: Final = 1000
BLOCK_BYTES: Final = 1 << 20
STAGE: Final = "tenure_stage_"
_OWN: Final = ("system", "information_schema", "INFORMATION_SCHEMA")
_COMPUTED: Final = ("MATERIALIZED", "ALIAS", "EPHEMERAL")
_MERGED: Final = ("Replacing", "Collapsing", "Summing", "Aggregating", "Coalescing", "Graphite")
"""Table engines whose rows are only what a query sees when they have been merged (`FINAL`)."""
_NO_ENTRY: Final = (516, 192, 193, 194)
"""AUTHENTICATION_FAILED, UNKNOWN_USER, WRONG_PASSWORD, REQUIRED_PASSWORD."""
_TEMPORARY: Final = (159, 202, 209, 210, 241, 242, 243, 252, 319, 999)
"""TIMEOUT_EXCEEDED, TOO_MANY_SIMULTANEOUS_QUERIES, SOCKET_TIMEOUT, NETWORK_ERROR, MEMORY_LIMIT_EXCEEDED,
TABLE_IS_READ_ONLY, NOT_ENOUGH_SPACE, TOO_MANY_PARTS, UNKNOWN_STATUS_OF_INSERT, KEEPER_EXCEPTION."""
_SETTINGS: Final = {
    "async_insert": 0,
    "insert_deduplicate": 0,
    "session_timezone": "UTC",
    "lightweight_deletes_sync": 0,
    "mutations_sync": 0,
    "lightweight_mutation_projection_mode": "rebuild",
}
"""Without the second, a replicated table would take a partition that is deleted and brought again for a duplicate."""


class ClickHouseServer:
    """One server. Implements `tenure.stores.analytics.engine.Engine`."""

    dialect: Final = "clickhouse"
    residue: Final = (
        "parts that were replaced, until ClickHouse removes them (old_parts_lifetime: 8 minutes by default)"
    )

    def __init__(
        self,
        *,
        url: str,
        user: str = "default",
        password: Secret | None = None,
        where: str,
        mutation_wait_s: float = MUTATION_WAIT_S,
    ) -> None:
        parts = urlsplit(url)
        self._secure: Final = parts.scheme == "https"
        self._host: Final = str(parts.hostname)
        self._port: Final = parts.port or (8443 if self._secure else 8123)
        self._user: Final = user
        self._password: Final = password or Secret("")
        self._where: Final = where
        self._mutation_wait_s: Final = mutation_wait_s
        self._lock: Final = threading.Lock()
        self._made: Client | None = None

    @property
    def where(self) -> str:
        return self._where

    @property
    def server(self) -> str:
        return f"{self._host}:{self._port}"

    def ping(self) -> None:
        with self._translated():
            client = self._connect(answer_timeout_s=CONNECT_TIMEOUT_S)
            try:
                client.command("select 1")
            finally:
                client.close()

    # -- connecting --------------------------------------------------------------------------------------------------

    def _connect(self, *, answer_timeout_s: int) -> Client:
        return clickhouse_connect.get_client(
            interface="https" if self._secure else "http",
            host=self._host,
            port=self._port,
            username=self._user,
            password=self._password.reveal(),
            connect_timeout=CONNECT_TIMEOUT_S,
            send_receive_timeout=answer_timeout_s,
            autogenerate_session_id=False,
            query_retries=0,
            settings=dict(_SETTINGS),
        )

    @contextmanager
    def _client(self) -> Iterator[Client]:
        """The client of this process: without a session, it serves several threads at once."""
        with self._translated():
            with self._lock:
                if self._made is None:
                    self._made = self._connect(answer_timeout_s=ANSWER_TIMEOUT_S)
                client = self._made
            yield client

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ClickHouseError as error:
            raise self._translate(error) from error

    def _translate(self, error: ClickHouseError) -> TenureError:
        code = getattr(error, "code", None)
        text = str(error).partition("\n")[0]
        if code in _NO_ENTRY:
            return StoreUnavailable(
                f"{self._where} refuses the login", hint="check the user and the password in tenure.yaml"
            )
        if not isinstance(error, DatabaseError) or code is None or code in _TEMPORARY:
            return StoreUnavailable(
                f"{self._where} cannot be reached, or not now: {text}",
                hint="check that the server runs at that address and has room",
            )
        return StoreRefused(f"{self._where}: {text}")

    def _select(self, query: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Sequence[Any]]:
        with self._client() as client:
            rows: Sequence[Sequence[Any]] = client.query(query, parameters=dict(parameters or {})).result_rows
            return rows

    def _do(self, statement: str, parameters: Mapping[str, Any] | None = None) -> None:
        with self._client() as client:
            client.command(statement, parameters=dict(parameters or {}))

    # -- looking -----------------------------------------------------------------------------------------------------

    def tables(
        self, schemas: Collection[str], *, everywhere: bool = False
    ) -> Mapping[QualifiedName, Sequence[Column]]:
        found = self._described(None)
        return {name: columns for name, columns in found.items() if everywhere or name.schema in schemas}

    def columns(self, table: QualifiedName) -> Sequence[Column]:
        return self._described(table).get(table, ())

    def _described(self, table: QualifiedName | None) -> dict[QualifiedName, list[Column]]:
        found: dict[QualifiedName, list[Column]] = {}
        rows = self._select(
            "select c.database, c.table, c.name, c.type, c.default_kind, c.comment from system.columns c"
            " join system.tables t on t.database = c.database and t.name = c.table"
            " where c.database not in {own:Array(String)} and not t.is_temporary and t.engine not like '%View'"
            " and not startsWith(c.table, {stage:String}) and not startsWith(c.table, '.inner')"
            " and ({all:Bool} or (c.database = {schema:String} and c.table = {name:String}))"
            " order by c.database, c.table, c.position",
            {
                "own": list(_OWN),
                "stage": STAGE,
                "all": table is None,
                "schema": table.schema if table else "",
                "name": table.name if table else "",
            },
        )
        for schema, name, column, kind, default, comment in rows:
            found.setdefault(QualifiedName(schema=schema, name=name), []).append(
                Column(name=column, type=kind, computed=default in _COMPUTED, comment=comment)
            )
        return found

    def hazards(self, table: AnalyticsTable) -> Sequence[Hazard]:
        found = []
        engine, views = self._facts(table.name)
        if "MergeTree" not in engine:
            found.append(
                Hazard(
                    table=table.name,
                    code="analytics_engine",
                    message=f"{table.name} is of the table engine {engine}, in which ClickHouse deletes nothing",
                    fix="use a MergeTree engine",
                    refuses=True,
                )
            )
        if views:
            found.append(
                Hazard(
                    table=table.name,
                    code="analytics_view_fires",
                    message=f"rows that a copy brings into {table.name} pass through {', '.join(views)} once more",
                    fix="name the views' own tables in the catalogue, so that they are compared, or drop the views in "
                    "the target until the switch",
                )
            )
        return found

    def _facts(self, table: QualifiedName) -> tuple[str, Sequence[str]]:
        """The table's engine, and the materialized views that it feeds."""
        rows = self._select(
            "select engine, arrayMap((d, t) -> d || '.' || t, dependencies_database, dependencies_table)"
            " from system.tables where database = {schema:String} and name = {name:String}",
            {"schema": table.schema, "name": table.name},
        )
        if not rows:
            raise StoreRefused(f"{self._where} has no table {table}")
        return str(rows[0][0]), [str(view) for view in rows[0][1]]

    def _from(self, table: QualifiedName) -> Quoted:
        """The table as queries see it when its rows are merged."""
        engine, _ = self._facts(table)
        return Quoted(_name(table) + (" final" if any(kind in engine for kind in _MERGED) else ""))

    def partitions(self, table: AnalyticsTable, tenant: TenantId) -> Mapping[str, int]:
        columns = self.columns(table.name)
        query = composed(
            "select $partition as part, count() from $table where $tenant group by part order by part",
            partition=_partition(table, columns),
            table=self._from(table.name),
            tenant=_tenant(table, columns),
        )
        return {str(part): int(rows) for part, rows in self._select(query, {"tenant": tenant})}

    def contents(
        self, table: AnalyticsTable, tenant: TenantId, partitions: Collection[str]
    ) -> Mapping[str, Content]:
        """The digest of a row is the SipHash of its binary form, so every bit of every value counts."""
        columns = self.columns(table.name)
        query = composed(
            "select $partition as part, count(), sum(length(row)),"
            " sum(reinterpretAsUInt128(sipHash128(formatRow('RowBinary', $columns) as row)))"
            " from $table where $tenant and part in {parts:Array(String)} group by part",
            partition=_partition(table, columns),
            columns=_written(columns),
            table=self._from(table.name),
            tenant=_tenant(table, columns),
        )
        return {
            str(part): Content(rows=int(rows), size_bytes=int(size), digest=int(digest))
            for part, rows, size, digest in self._select(query, {"tenant": tenant, "parts": list(partitions)})
        }

    # -- moving ------------------------------------------------------------------------------------------------------

    @contextmanager
    def rows(self, table: AnalyticsTable, tenant: TenantId, partition: str) -> Iterator[ClickHouseRows]:
        columns = self.columns(table.name)
        query = composed(
            "select $columns from $table where $rows",
            columns=_written(columns),
            table=self._from(table.name),
            rows=_rows_of(table, columns),
        )
        bound = {"tenant": tenant, "part": partition}
        count = int(
            self._select(
                composed(
                    "select count() from $table where $rows",
                    table=self._from(table.name),
                    rows=_rows_of(table, columns),
                ),
                bound,
            )[0][0]
        )
        yield ClickHouseRows(self, query, bound, [c.name for c in columns if not c.computed], count)

    def stream(self, query: str, parameters: Mapping[str, Any], form: str) -> Generator[bytes, None, None]:
        """The answer in that form. The server makes all of it before it begins to send: an answer that breaks off is an
        error and not a short answer."""
        with self._client() as client:
            stream = client.raw_stream(
                query, parameters=dict(parameters), fmt=form, settings={"wait_end_of_query": 1}
            )
            assert isinstance(stream, io.IOBase)
            with stream:
                while block := stream.read(BLOCK_BYTES):
                    yield block

    def replace(
        self, table: AnalyticsTable, tenant: TenantId, partition: str, rows: Rows, allowed: Allowed
    ) -> None:
        """See above: prepared beside the table, and then exchanged by two statements."""
        columns = self.columns(table.name)
        stage = self._stage(table, tenant, partition)
        self._do(composed("drop table if exists $stage sync", stage=stage))
        if rows.count:
            self._do(
                composed(
                    "create table $stage engine = MergeTree order by tuple() as"
                    " select $columns from $table limit 0",
                    stage=stage,
                    columns=_written(columns),
                    table=_name(table.name),
                )
            )
            self._load(stage, rows)
            staged = int(self._select(composed("select count() from $stage", stage=stage))[0][0])
            if staged != rows.count:
                raise StoreUnavailable(
                    f"{self._where}: {staged} of {rows.count} rows of {table.name} arrived",
                    hint="the source has changed meanwhile, or the connection broke off: try again",
                )
        allowed()
        statement = composed(
            "delete from $table where $rows", table=_name(table.name), rows=_rows_of(table, columns)
        )
        self._mutate(table.name, statement, {"tenant": tenant, "part": partition})
        allowed()
        if rows.count:
            names = joined([_quoted(name) for name in rows.columns])
            self._do(
                composed(
                    "insert into $table ($names) select $names from $stage",
                    table=_name(table.name),
                    names=names,
                    stage=stage,
                )
            )
            self._do(composed("drop table if exists $stage sync", stage=stage))

    def _load(self, stage: Quoted, rows: Rows) -> None:
        with self._client() as client:
            if isinstance(rows, ClickHouseRows):
                client.raw_insert(
                    stage, column_names=list(rows.columns), insert_block=rows.native(), fmt="Native"
                )
                return
            for batch in rows.batches():
                client.insert_arrow(stage, pa.Table.from_batches([batch]))

    def _stage(self, table: AnalyticsTable, tenant: TenantId, partition: str) -> Quoted:
        unit = hashlib.blake2b(f"{table.name}/{partition}".encode(), digest_size=8).hexdigest()
        return _name(QualifiedName(schema=table.name.schema, name=f"{_stages_of(tenant)}{unit}"))

    def _mutate(self, table: QualifiedName, statement: str, parameters: Mapping[str, Any]) -> None:
        """Ask for a deletion and wait until it is carried out; on a replicated table, on all replicas."""
        engine, _ = self._facts(table)
        replicas = 2 if engine.startswith("Replicated") else 0
        with self._client() as client:
            client.command(
                statement,
                parameters=dict(parameters),
                settings={"lightweight_deletes_sync": replicas, "mutations_sync": replicas},
            )
        self._await(table, str(parameters["tenant"]))

    def _await(self, table: QualifiedName, tenant: str) -> None:
        deadline = time.monotonic() + self._mutation_wait_s
        pause_s, longest_s = POLL_S
        while waiting := self._mutations(table, tenant):
            if time.monotonic() > deadline:
                why = next((reason for reason in waiting if reason), "")
                raise DeadlineExceeded(
                    f"{self._where}: {len(waiting)} deletions in {table} are still to be carried out"
                    f"{': ' if why else ''}{why.partition(chr(10))[0]}",
                    hint="system.mutations says what keeps them; SYSTEM START MERGES if somebody has stopped these",
                )
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, longest_s)

    def _mutations(self, table: QualifiedName, tenant: str, kind: str = "") -> list[str]:
        """For each deletion of the tenant's rows that is under way (or each of that kind), why it last failed ('' if it
        has not)."""
        rows = self._select(
            "select latest_fail_reason from system.mutations where database = {schema:String}"
            " and table = {name:String} and not is_done and not is_killed and position(command, {tenant:String}) > 0"
            " and position(command, {kind:String}) > 0",
            {"schema": table.schema, "name": table.name, "tenant": f"'{tenant}'", "kind": kind},
        )
        return [str(reason) for (reason,) in rows]

    def erase(self, table: AnalyticsTable, tenant: TenantId, progress: Callable[[int], None]) -> int:
        """By a mutation that writes the parts with these rows anew. Rows that a lightweight delete has only hidden
        (the copy's own are) go from the disk as well."""
        columns = self.columns(table.name)
        (count,) = self._select(
            composed(
                "select count() from $table where $tenant",
                table=_name(table.name),
                tenant=_tenant(table, columns),
            ),
            {"tenant": tenant},
        )[0]
        if self._mutations(table.name, tenant, "DELETE WHERE"):
            self._await(table.name, tenant)
        elif count:
            statement = composed(
                "alter table $table delete where $tenant",
                table=_name(table.name),
                tenant=_tenant(table, columns),
            )
            self._mutate(table.name, statement, {"tenant": tenant})
        if self._select(
            "select count() from system.parts where database = {schema:String} and table = {name:String}"
            " and active and has_lightweight_delete",
            {"schema": table.name.schema, "name": table.name.name},
        )[0][0]:
            self._unmask(table.name)
        progress(int(count))
        return int(count)

    def _unmask(self, table: QualifiedName) -> None:
        """Have hidden rows removed from the disk; whose they are does not matter."""
        with self._client() as client:
            client.command(
                composed("alter table $table apply deleted mask", table=_name(table)),
                settings={"mutations_sync": 2},
            )

    def sweep(self, tenant: TenantId) -> None:
        stages = self._select(
            "select database, name from system.tables where startsWith(name, {stages:String})",
            {"stages": _stages_of(tenant)},
        )
        for schema, name in stages:
            stage = _name(QualifiedName(schema=str(schema), name=str(name)))
            self._do(composed("drop table if exists $stage sync", stage=stage))

    # -- searching ---------------------------------------------------------------------------------------------------

    def texts(
        self, table: QualifiedName, columns: Sequence[str], needles: Sequence[str]
    ) -> Iterator[Sequence[tuple[Any, ...]]]:
        texts = [composed("ifNull(toString($column), '')", column=_quoted(c)) for c in columns]
        anywhere = [
            composed("arrayExists(needle -> position($text, needle) > 0, {needles:Array(String)})", text=t)
            for t in texts
        ]
        rows = self._select(
            composed(
                "select $texts from $table where $anywhere",
                texts=joined(texts),
                table=_name(table),
                anywhere=joined(anywhere, " or "),
            ),
            {"needles": list(needles) or [""]},
        )
        for start in range(0, len(rows), PAGE):
            yield [tuple(row) for row in rows[start : start + PAGE]]

    def count(self, table: QualifiedName) -> tuple[int, int]:
        rows = self._select(
            "select sum(rows), sum(data_uncompressed_bytes) from system.parts"
            " where database = {schema:String} and table = {name:String} and active",
            {"schema": table.schema, "name": table.name},
        )
        return int(rows[0][0]), int(rows[0][1])

    def close(self) -> None:
        with self._lock:
            client, self._made = self._made, None
        if client is not None:
            client.close()


class ClickHouseRows:
    """Rows that are read when they are asked for. Implements `tenure.stores.analytics.engine.Rows`."""

    def __init__(
        self,
        server: ClickHouseServer,
        query: str,
        parameters: Mapping[str, Any],
        columns: Sequence[str],
        count: int,
    ) -> None:
        self._server = server
        self._query = query
        self._parameters = parameters
        self.columns: Final = tuple(columns)
        self.count: Final = count

    def native(self) -> Generator[bytes, None, None]:
        """In ClickHouse's own format, which loses nothing of any type."""
        return self._server.stream(self._query, self._parameters, "Native")

    def batches(self) -> Iterator[pa.RecordBatch]:
        content = b"".join(self._server.stream(self._query, self._parameters, "ArrowStream"))
        if content:
            with pa.ipc.open_stream(content) as reader:
                yield from reader


# -- statements ------------------------------------------------------------------------------------------------------


def _quoted(name: str) -> Quoted:
    return Quoted(quote_identifier(name))


def _name(table: QualifiedName) -> Quoted:
    return Quoted(f"{quote_identifier(table.schema)}.{quote_identifier(table.name)}")


def _stages_of(tenant: TenantId) -> str:
    return f"{STAGE}{hashlib.blake2b(tenant.encode(), digest_size=8).hexdigest()}_"


def _written(columns: Sequence[Column]) -> Quoted:
    return joined([_quoted(c.name) for c in columns if not c.computed])


def _type_of(columns: Sequence[Column], name: str) -> str:
    return next((c.type for c in columns if c.name == name), "")


def _tenant(table: AnalyticsTable, columns: Sequence[Column]) -> Quoted:
    """That a row is the tenant's; so that the primary key can be used where the column is text."""
    assert table.tenant_column is not None
    column = _quoted(table.tenant_column)
    plain = "String" in _type_of(columns, table.tenant_column)
    return composed(
        "$column = {tenant:String}" if plain else "toString($column) = {tenant:String}", column=column
    )


def _partition(table: AnalyticsTable, columns: Sequence[Column]) -> Quoted:
    """The partition that a row is in, as text."""
    if table.partition is None:
        return Quoted("''")
    column = _quoted(table.partition.column)
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


def _rows_of(table: AnalyticsTable, columns: Sequence[Column]) -> Quoted:
    return composed(
        "$tenant and $partition = {part:String}",
        tenant=_tenant(table, columns),
        partition=_partition(table, columns),
    )
