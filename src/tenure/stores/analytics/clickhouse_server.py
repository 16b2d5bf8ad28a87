"""ClickHouse as an engine of analytics, over HTTP. Rows go from server to server in ClickHouse's own format.

ClickHouse has no transaction that deletes and inserts. A unit is replaced in this order: its new rows are loaded into a
table of their own, the old ones are deleted, the new ones inserted in one statement. Between the last two a reader sees
the unit empty; the target's tenant has no readers then, since it is fenced and its users are elsewhere.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast

import pyarrow as pa

from tenure.catalogue import AnalyticsTable, QualifiedName
from tenure.errors import DeadlineExceeded, StoreRefused, StoreUnavailable
from tenure.model.names import TenantId
from tenure.model.secret import Secret
from tenure.stores.analytics.clickhouse_client import ClickHouseClient
from tenure.stores.analytics.clickhouse_packs import ClickHouseBrought, packed
from tenure.stores.analytics.clickhouse_statements import (
    STAGE,
    is_tenant,
    name_of,
    partition_of,
    quoted,
    rows_of,
    stages_of,
    value_of,
    written,
)
from tenure.stores.analytics.composing import Quoted, composed, joined
from tenure.stores.analytics.engine import Allowed, Column, Hazard, Rows
from tenure.stores.analytics.packs import Brought, Pack
from tenure.stores.analytics.units import Content

MUTATION_WAIT_S: Final = 300.0
"""How long a delete may take to be carried out. It is repeated by whoever tries again, and not asked for twice."""
POLL_S: Final = (0.002, 0.25)
PAGE: Final = 1000
_OWN: Final = ("system", "information_schema", "INFORMATION_SCHEMA")
_COMPUTED: Final = ("MATERIALIZED", "ALIAS", "EPHEMERAL")
_REPLICATED: Final = ("Replicated", "Shared")
"""How the names of table engines begin whose rows several servers take."""
_MERGED: Final = ("Replacing", "Collapsing", "Summing", "Aggregating", "Coalescing", "Graphite")
"""Table engines whose rows are only what a query sees when they have been merged (`FINAL`)."""


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
        self._http: Final = ClickHouseClient(url=url, user=user, password=password or Secret(""), where=where)
        self._where: Final = where
        self._mutation_wait_s: Final = mutation_wait_s

    @property
    def where(self) -> str:
        return self._where

    @property
    def server(self) -> str:
        return self._http.server

    def ping(self) -> None:
        self._http.ping()

    # -- looking -----------------------------------------------------------------------------------------------------

    def tables(
        self, schemas: Collection[str], *, everywhere: bool = False
    ) -> Mapping[QualifiedName, Sequence[Column]]:
        found = self._described(None)
        return {name: columns for name, columns in found.items() if everywhere or name.schema in schemas}

    def views(self) -> Mapping[QualifiedName, str]:
        rows = self._http.select(
            "select database, name, create_table_query from system.tables where engine like '%View'"
            " and database not in {own:Array(String)} and not is_temporary",
            {"own": list(_OWN)},
        )
        return {QualifiedName(schema=str(s), name=str(n)): str(text or "") for s, n, text in rows}

    def columns(self, table: QualifiedName) -> Sequence[Column]:
        return self._described(table).get(table, ())

    def _described(self, table: QualifiedName | None) -> dict[QualifiedName, list[Column]]:
        found: dict[QualifiedName, list[Column]] = {}
        rows = self._http.select(
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
        rows = self._http.select(
            "select engine, arrayMap((d, t) -> d || '.' || t, dependencies_database, dependencies_table)"
            " from system.tables where database = {schema:String} and name = {name:String}",
            {"schema": table.schema, "name": table.name},
        )
        if not rows:
            raise StoreRefused(f"{self._where} has no table {table}")
        return str(rows[0][0]), [str(view) for view in rows[0][1]]

    def _caught_up(self, table: QualifiedName) -> str:
        """Return when this replica has what the others have taken before; the table's engine."""
        engine, _ = self._facts(table)
        if engine.startswith(_REPLICATED):
            self._http.do(composed("system sync replica $table", table=name_of(table)))
        return engine

    def _from(self, table: QualifiedName) -> Quoted:
        """The table as queries see it when its rows are merged, on a replica that is up to date."""
        engine = self._caught_up(table)
        return Quoted(name_of(table) + (" final" if any(kind in engine for kind in _MERGED) else ""))

    def partitions(self, table: AnalyticsTable, tenant: TenantId) -> Mapping[str, int]:
        columns = self.columns(table.name)
        query = composed(
            "select $partition as part, count() from $table where $tenant group by part order by part",
            partition=partition_of(table, columns),
            table=self._from(table.name),
            tenant=is_tenant(table, columns),
        )
        return {str(part): int(rows) for part, rows in self._http.select(query, {"tenant": tenant})}

    def contents(
        self,
        table: AnalyticsTable,
        tenant: TenantId,
        partitions: Collection[str],
        *,
        only: Collection[str] | None = None,
    ) -> Mapping[str, Content]:
        """The digest of a row is the SipHash of its binary form, so every bit of every value counts."""
        columns = self.columns(table.name)
        counted = [c for c in columns if only is None or c.name in only]
        query = composed(
            "select $partition as part, count(), sum(length(row)),"
            " sum(reinterpretAsUInt128(sipHash128(formatRow('RowBinary', $columns) as row)))"
            " from $table where $tenant and part in {parts:Array(String)} group by part",
            partition=partition_of(table, columns),
            columns=written(counted),
            table=self._from(table.name),
            tenant=is_tenant(table, columns),
        )
        return {
            str(part): Content(rows=int(rows), size_bytes=int(size), digest=int(digest))
            for part, rows, size, digest in self._http.select(
                query, {"tenant": tenant, "parts": list(partitions)}
            )
        }

    # -- moving ------------------------------------------------------------------------------------------------------

    @contextmanager
    def rows(
        self, table: AnalyticsTable, tenant: TenantId, partitions: Sequence[str]
    ) -> Iterator[ClickHouseRows]:
        columns = self.columns(table.name)
        query = composed(
            "select $columns from $table where $rows",
            columns=written(columns),
            table=self._from(table.name),
            rows=rows_of(table, columns),
        )
        bound = {"tenant": tenant, "parts": list(partitions)}
        count = int(
            self._http.select(
                composed(
                    "select count() from $table where $rows",
                    table=self._from(table.name),
                    rows=rows_of(table, columns),
                ),
                bound,
            )[0][0]
        )
        yield ClickHouseRows(self._http, query, bound, [c.name for c in columns if not c.computed], count)

    def replace(
        self,
        table: AnalyticsTable,
        tenant: TenantId,
        partitions: Sequence[str],
        rows: Rows | Brought,
        allowed: Allowed,
    ) -> None:
        """See above: prepared beside the table, and then exchanged by two statements."""
        columns = self.columns(table.name)
        stage = self._stage(table, tenant, partitions)
        self._http.do(composed("drop table if exists $stage sync", stage=stage))
        if rows.count:
            self._http.do(
                composed(
                    "create table $stage engine = MergeTree order by tuple() as"
                    " select $columns from $table limit 0",
                    stage=stage,
                    columns=written(columns),
                    table=name_of(table.name),
                )
            )
            self._load(stage, rows)
            staged = int(self._http.select(composed("select count() from $stage", stage=stage))[0][0])
            if staged != rows.count:
                raise StoreUnavailable(
                    f"{self._where}: {staged} of {rows.count} rows of {table.name} arrived",
                    hint="the source has changed meanwhile, or the connection broke off: try again",
                )
        allowed()
        statement = composed(
            "delete from $table where $rows", table=name_of(table.name), rows=rows_of(table, columns)
        )
        self._mutate(table.name, statement, {"tenant": tenant, "parts": list(partitions)})
        allowed()
        if rows.count:
            brought = isinstance(rows, ClickHouseBrought)
            self._http.do(
                composed(
                    "insert into $table ($names) select $values from $stage",
                    table=name_of(table.name),
                    names=joined([quoted(name) for name in rows.columns]),
                    values=joined([value_of(name, table, columns, own=brought) for name in rows.columns]),
                    stage=stage,
                ),
                {"tenant": tenant} if brought else {},
            )
            self._http.do(composed("drop table if exists $stage sync", stage=stage))

    def _load(self, stage: Quoted, rows: Rows | Brought) -> None:
        with self._http.client() as client:
            if isinstance(rows, ClickHouseBrought):
                for block in rows.natives():
                    client.raw_insert(
                        stage, column_names=list(rows.columns), insert_block=block, fmt="Native"
                    )
                return
            if isinstance(rows, ClickHouseRows):
                client.raw_insert(
                    stage, column_names=list(rows.columns), insert_block=rows.native(), fmt="Native"
                )
                return
            for batch in cast(Rows, rows).batches():
                client.insert_arrow(stage, pa.Table.from_batches([batch]))

    def _stage(self, table: AnalyticsTable, tenant: TenantId, partitions: Sequence[str]) -> Quoted:
        units = repr((str(table.name), sorted(partitions))).encode()
        unit = hashlib.blake2b(units, digest_size=8).hexdigest()
        return name_of(QualifiedName(schema=table.name.schema, name=f"{stages_of(tenant)}{unit}"))

    def _mutate(self, table: QualifiedName, statement: str, parameters: Mapping[str, Any]) -> None:
        """Ask for a deletion and wait until it is carried out; on a replicated table, on all replicas."""
        engine, _ = self._facts(table)
        replicas = 2 if engine.startswith(_REPLICATED) else 0
        with self._http.client() as client:
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
        rows = self._http.select(
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
        self._caught_up(table.name)
        (count,) = self._http.select(
            composed(
                "select count() from $table where $tenant",
                table=name_of(table.name),
                tenant=is_tenant(table, columns),
            ),
            {"tenant": tenant},
        )[0]
        if self._mutations(table.name, tenant, "DELETE WHERE"):
            self._await(table.name, tenant)
        elif count:
            statement = composed(
                "alter table $table delete where $tenant",
                table=name_of(table.name),
                tenant=is_tenant(table, columns),
            )
            self._mutate(table.name, statement, {"tenant": tenant})
        if self._http.select(
            "select count() from system.parts where database = {schema:String} and table = {name:String}"
            " and active and has_lightweight_delete",
            {"schema": table.name.schema, "name": table.name.name},
        )[0][0]:
            self._unmask(table.name)
        progress(int(count))
        return int(count)

    def _unmask(self, table: QualifiedName) -> None:
        """Have hidden rows removed from the disk; whose they are does not matter."""
        with self._http.client() as client:
            client.command(
                composed("alter table $table apply deleted mask", table=name_of(table)),
                settings={"mutations_sync": 2},
            )

    def packs(self, table: AnalyticsTable, tenant: TenantId, partitions: Sequence[str]) -> Iterator[Pack]:
        """Each in ClickHouse's own format, in the order of the sorting key. A unit that changes while it is read is
        read again, and given up (`Changed`) if it never rests."""
        columns, read_from = self.columns(table.name), self._from(table.name)
        return packed(self._http, table, columns, read_from, tenant, partitions)

    @contextmanager
    def bring(self, table: AnalyticsTable, tenant: TenantId) -> Iterator[ClickHouseBrought]:  # noqa: ARG002
        brought = ClickHouseBrought(table, self._where)
        try:
            yield brought
        finally:
            brought.close()

    def sweep(self, tenant: TenantId) -> None:
        stages = self._http.select(
            "select database, name from system.tables where startsWith(name, {stages:String})",
            {"stages": stages_of(tenant)},
        )
        for schema, name in stages:
            stage = name_of(QualifiedName(schema=str(schema), name=str(name)))
            self._http.do(composed("drop table if exists $stage sync", stage=stage))

    # -- searching ---------------------------------------------------------------------------------------------------

    def texts(
        self, table: QualifiedName, columns: Sequence[str], needles: Sequence[str]
    ) -> Iterator[Sequence[tuple[Any, ...]]]:
        texts = [composed("ifNull(toString($column), '')", column=quoted(c)) for c in columns]
        anywhere = [
            composed("arrayExists(needle -> position($text, needle) > 0, {needles:Array(String)})", text=t)
            for t in texts
        ]
        self._caught_up(table)
        rows = self._http.select(
            composed(
                "select $texts from $table where $anywhere",
                texts=joined(texts),
                table=name_of(table),
                anywhere=joined(anywhere, " or "),
            ),
            {"needles": list(needles) or [""]},
        )
        for start in range(0, len(rows), PAGE):
            yield [tuple(row) for row in rows[start : start + PAGE]]

    def count(self, table: QualifiedName) -> tuple[int, int]:
        rows = self._http.select(
            "select sum(rows), sum(data_uncompressed_bytes) from system.parts"
            " where database = {schema:String} and table = {name:String} and active",
            {"schema": table.schema, "name": table.name},
        )
        return int(rows[0][0]), int(rows[0][1])

    def close(self) -> None:
        self._http.close()


class ClickHouseRows:
    """Rows that are read when they are asked for. Implements `tenure.stores.analytics.engine.Rows`."""

    def __init__(
        self,
        http: ClickHouseClient,
        query: str,
        parameters: Mapping[str, Any],
        columns: Sequence[str],
        count: int,
    ) -> None:
        self._http = http
        self._query = query
        self._parameters = parameters
        self.columns: Final = tuple(columns)
        self.count: Final = count

    def native(self) -> Generator[bytes, None, None]:
        """In ClickHouse's own format, which loses nothing of any type."""
        return self._http.stream(self._query, self._parameters, "Native")

    def batches(self) -> Iterator[pa.RecordBatch]:
        content = b"".join(self._http.stream(self._query, self._parameters, "ArrowStream"))
        if content:
            with pa.ipc.open_stream(content) as reader:
                yield from reader
