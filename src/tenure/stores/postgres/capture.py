"""A tenant's rows for a backup: one snapshot, fixed while the tenant is fenced, and every table copied out of it by the
server afterwards, while the tenant writes. Nothing is noted while the tenant works, and nothing stays behind: the
snapshot is kept by a transaction, which ends with its connection."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from tenure.backups.contract import CollectionFacts, Part, Sink
from tenure.catalogue.evolution import Migrations
from tenure.errors import FenceRefused, StoreRefused, StoreUnavailable
from tenure.model.finding import Finding
from tenure.model.names import StoreName, TenantId
from tenure.stores.backup import Captured, Estimate
from tenure.stores.contract import Fence, Pace, unhurried
from tenure.stores.postgres import catalog_checks, cell_schema, home_checks, names, references, streams
from tenure.stores.postgres import fence as fences
from tenure.stores.postgres.compare import Side, expected_rows
from tenure.stores.postgres.connect import Connection, Pool, translate
from tenure.stores.postgres.findings import refusal, warning
from tenure.stores.postgres.home import Home
from tenure.stores.postgres.schema_version import SCHEMA_VERSION, version_in
from tenure.stores.postgres.tables import Table, TenantTable, describe, require

WORKERS: Final = 4
ROW_OVERHEAD_BYTES: Final = 4
PIN_S: Final = 0.02
"""About what it takes to fix a snapshot and to look at the sequences."""
READER: Final = "backup"
"""By which the fence knows a capture: as long as there is one, what the fence needs stays when it lifts."""
START_S: Final = 10.0
IDLE_S: Final = 900
"""For how long a transaction that keeps the snapshot may have nothing to do before the server ends it."""
OBSTACLES: Final = frozenset(
    (
        "generated_key",
        "inheritance",
        "no_primary_key",
        "not_owner",
        "row_level_security",
        "sequence_descends",
        "tenant_column_missing",
    )
)
"""What stands in the way of a move and of a backup alike."""
_KEEP: Final = "set idle_in_transaction_session_timeout = '{}s'"


@dataclass(frozen=True, kw_only=True)
class _Point:
    """A snapshot that a transaction of this connection keeps; what was drawn from sequences then; and in which files
    the rows lay (`files`, by the table's schema and name, and in it by the table or partition): after a TRUNCATE, or an
    ALTER TABLE that writes a table anew, an older snapshot finds the table empty, and after a DETACH without that
    partition's rows."""

    connection: Connection
    snapshot: str
    numbers: Sequence[streams.Drawn]
    files: Mapping[tuple[str, str], Mapping[int, int]]


class PostgresCapture:
    """Implements `tenure.stores.backup.Capture` for one tenant's home. `server` leads to the server even where the
    tenant's database does not exist; `owners`: whose its tables are, this store's or of one that rides with it."""

    def __init__(
        self,
        *,
        name: StoreName,
        tenant: TenantId,
        server: Pool,
        home: Home,
        owners: Mapping[TenantTable, StoreName],
        migrations: Migrations | None = None,
    ) -> None:
        self.migrations: Final = migrations
        """Where the version of the schema is recorded: backups carry it."""
        self._name: Final = name
        self._server: Final = server
        self._tenant: Final = tenant
        self._home: Final = home
        self._owners: Final = owners
        self._point: _Point | None = None

    def preflight(self) -> Sequence[Finding]:
        if home_checks.database_missing(self._server, self._home):
            return [
                refusal(
                    "database_missing",
                    self._home.pool.where,
                    "the tenant's database is not there",
                    "create it",
                )
            ]
        return list(dict.fromkeys(_findings(self._home, self._tenant)))

    def estimate(self) -> Estimate:
        items = size = 0
        for table in describe(self._home.pool, self._home.all_tables):
            rows, width = expected_rows(Side(pool=self._home.pool, table=table), self._tenant)
            items += rows
            size += rows * (width + ROW_OVERHEAD_BYTES)
        return Estimate(items=items, size_bytes=size, pin_s=PIN_S)

    def start(self, fence: Fence) -> None:
        """There is nothing to note, since a snapshot needs no changes. But the means of fencing are put in place now,
        and stay until `close`: in the hold, neither fencing nor opening waits for a lock on a table."""
        pool = self._home.pool
        fences.enrol(pool, self._home.all_tables, fence)
        fences.add_reader(pool, fence, self._name, READER, deadline_s=START_S)

    def first_pass(self, sink: Sink, progress: Pace = unhurried) -> None:
        """Takes nothing: a snapshot has everything."""

    def settle(self, sink: Sink) -> int:  # noqa: ARG002
        return 0

    def pin(self, sink: Sink, fence: Fence) -> None:  # noqa: ARG002
        """See `Capture.pin`. Whether the fence is down is looked at after the snapshot: one that had lapsed by then is
        open now."""
        pool = self._home.pool
        self._forget()
        connection = pool.connect()
        try:
            connection.execute(sql.SQL(_KEEP).format(sql.Literal(IDLE_S)))
            connection.execute("begin isolation level repeatable read read only")
            row: Any = connection.execute("select pg_export_snapshot()").fetchone()
            fences.claim(pool, fence)
            state = fences.state(pool, self._tenant)
            if state.writable:
                raise FenceRefused(
                    f"{pool.where}: {self._tenant} is not fenced here, so this is no point of a backup",
                    hint="fence the store first",
                )
            numbers = streams.drawn(pool, self._home.all_tables)
            files = _files(connection, self._home.all_tables, _LEAVES_THEN)
        except psycopg.Error as error:
            connection.close()
            raise translate(error, pool.where) from error
        except BaseException:
            connection.close()
            raise
        self._point = _Point(connection=connection, snapshot=str(row[0]), numbers=numbers, files=files)

    def rest(self, sink: Sink, progress: Pace = unhurried) -> Captured:
        """Several tables at once, the largest first. The bytes go from the server's COPY to the sink."""
        point = self._point
        if point is None:
            raise StoreRefused(f"{self._home.pool.where}: the point of this capture was never fixed")
        try:
            return _Work(self, point, sink, progress, require(self.pool, self._home.all_tables)).done()
        finally:
            self._forget()

    def close(self, fence: Fence) -> None:
        """A snapshot goes with its connection; the means of fencing go with the last one who needs them."""
        self._forget()
        if home_checks.database_missing(self._server, self._home):
            return
        pool = self._home.pool
        fences.remove_reader(pool, fence, self._name, READER)
        if cell_schema.installed(pool):
            fences.leave(pool, fence)

    def _forget(self) -> None:
        point, self._point = self._point, None
        if point is not None:
            point.connection.close()

    @property
    def pool(self) -> Pool:
        return self._home.pool

    @property
    def tenant(self) -> TenantId:
        return self._tenant

    def owner(self, table: Table) -> StoreName:
        """The store that the table is of: this one or one that rides with it."""
        return self._owners[table.spec]


class _Work:
    """Copies all tables out of one snapshot, by threads with a connection each."""

    def __init__(
        self,
        capture: PostgresCapture,
        point: _Point,
        sink: Sink,
        progress: Pace,
        tables: Sequence[Table],
    ) -> None:
        self._capture = capture
        self._point = point
        self._sink = sink
        self._progress = progress
        self._lock = threading.Lock()
        self._stopped = False
        self._left = sorted(tables, key=self._size)
        """The largest last: they are taken from the end."""

    def _size(self, table: Table) -> int:
        rows, width = expected_rows(Side(pool=self._capture.pool, table=table), self._capture.tenant)
        return rows * width

    def done(self) -> Captured:
        facts = self._facts()
        workers = min(WORKERS, len(self._left)) or 1
        with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="capture") as threads:
            running = [threads.submit(self._take_some) for _ in range(workers)]
            found = [facts for one in running for facts in one.result()]
        return Captured(collections=sorted(found, key=lambda f: (f.store, f.collection)), facts=facts)

    def _facts(self) -> Mapping[str, Any]:
        """The version of the schema in the snapshot."""
        migrations = self._capture.migrations
        if migrations is None:
            return {}
        try:
            return {SCHEMA_VERSION: version_in(self._point.connection, migrations).as_dict()}
        except psycopg.Error as error:
            raise translate(error, self._capture.pool.where) from error

    def _take_some(self) -> list[CollectionFacts]:
        """Take table after table until none is left."""
        pool = self._capture.pool
        found: list[CollectionFacts] = []
        try:
            with closing(pool.connect()) as connection:
                self._join(connection)
                while (table := self._next()) is not None:
                    found.append(self._take(connection, table))
        except psycopg.Error as error:
            self._stopped = True
            raise translate(error, pool.where) from error
        except BaseException:
            self._stopped = True
            raise
        return found

    def _join(self, connection: Connection) -> None:
        connection.execute(sql.SQL(_KEEP).format(sql.Literal(IDLE_S)))
        streams.prepare(connection)
        connection.execute("begin isolation level repeatable read read only")
        connection.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(self._point.snapshot)))

    def _next(self) -> Table | None:
        with self._lock:
            return None if self._stopped or not self._left else self._left.pop()

    def _take(self, connection: Connection, table: Table) -> CollectionFacts:
        tenant, store = self._capture.tenant, self._capture.owner(table)
        about = streams.header(connection, table, tenant, self._point.numbers)
        size = 0
        with self._sink.stream(store, table.collection, Part.BASE, about) as writer:

            def take(block: bytes) -> None:
                nonlocal size
                writer.write(block)
                size += len(block)
                self._progress(items=0, size_bytes=len(block))

            rows = streams.copy_out(connection, streams.select_rows(table, tenant), take)
            self._require_same_files(connection, table)
            writer.close(items=rows)
        self._progress(items=rows, size_bytes=0)
        return CollectionFacts(
            store=store,
            collection=table.collection,
            items=rows,
            size_bytes=size,
            digest=digest(connection, table, tenant),
            fingerprint=fingerprint(table),
        )

    def _require_same_files(self, connection: Connection, table: Table) -> None:
        """Asked when the rows were read: this transaction has a lock on the table since."""
        place = (table.spec.schema, table.spec.name)
        if _files(connection, [table.spec], _LEAVES_NOW).get(place) != self._point.files.get(place):
            raise StoreUnavailable(
                f"{self._capture.pool.where}: {table.collection} was emptied, or written anew by an ALTER TABLE, or got"
                " or lost a partition, between the backup's point and its copy",
                hint="take the backup again, when the migration is over",
            )


_FILES: Final = """
select w.schema, w.name, l.relation::int8, pg_relation_filenode(l.relation)::int8
from unnest(%(schemas)s::text[], %(names)s::text[]) w (schema, name)
join pg_namespace s on s.nspname = w.schema join pg_class c on c.relnamespace = s.oid and c.relname = w.name
cross join lateral ({leaves}) l
"""
_LEAVES_THEN: Final = """
with recursive t as (
    select c.oid as relation, c.relkind as kind
    union all
    select p.oid, p.relkind
    from t join pg_inherits i on i.inhparent = t.relation join pg_class p on p.oid = i.inhrelid
    where t.kind = 'p'
)
select t.relation from t where t.kind = 'r'
"""
"""As the transaction's snapshot has them, without a lock: in the hold nobody waits for one."""
_LEAVES_NOW: Final = """
select c.oid as relation where c.relkind = 'r' union select t.relid from pg_partition_tree(c.oid) t where t.isleaf
"""
"""As they are now, whatever the snapshot; locks each."""


def _files(
    connection: Connection, specs: Sequence[TenantTable], leaves: LiteralString
) -> dict[tuple[str, str], dict[int, int]]:
    """The file of each of these tables, or of each of its partitions."""
    wanted = {"schemas": [t.schema for t in specs], "names": [t.name for t in specs]}
    found: dict[tuple[str, str], dict[int, int]] = {}
    for schema, name, relation, file in connection.execute(_FILES.format(leaves=leaves), wanted):
        found.setdefault((schema, name), {})[int(relation)] = int(file)
    return found


def digest(connection: Connection, table: Table, tenant: TenantId) -> str:
    """As `Store.inventory` has it, of what this connection sees."""
    row: Any = connection.execute(
        sql.SQL("select count(*), coalesce(sum({}), 0) from {} where {}").format(
            table.row_hash, table.spec.sql, table.of_tenant(tenant)
        )
    ).fetchone()
    return f"{int(row[0]):x}:{int(row[1]) % (1 << 128):032x}"


def fingerprint(table: Table) -> str:
    """Equal on tables that can hold each other's rows and compare equal, whatever they are called."""
    return names.short(*(part for item in sorted(table.description.items()) for part in item))


def _findings(home: Home, tenant: TenantId) -> Sequence[Finding]:
    tables = describe(home.pool, home.all_tables)
    there = {t.spec for t in tables}
    found = [
        refusal(
            "table_missing",
            f"{home.pool.where}, {spec.collection}",
            "the table is not there",
            "create it, or correct catalogue.yaml",
        )
        for spec in home.all_tables
        if spec not in there
    ]
    found += [f for f in catalog_checks.findings(home, tables) if f.code in OBSTACLES]
    found += [_left_out(f) for f in references.outside(home, elsewhere=None)]
    found += [_left_out(f) for f in catalog_checks.unknown_tables(home, tenant, elsewhere=None)]
    found += [_left_out(f) for f in home_checks.unknown(home, tenant, elsewhere=None)]
    found += catalog_checks.large_objects(home.pool, tables, tenant)
    if fences.linked(home.pool, tenant):
        found.append(
            warning(
                "linked",
                home.pool.where,
                f"a link of {tenant} is there: the backup is of this cell, and none is restored until the link ends",
                "complete or roll back the move first, if you want to restore soon",
            )
        )
    return found


def _left_out(found: Finding) -> Finding:
    """What a move says of rows that stay behind, said of a backup."""
    message = found.message.replace("would stay behind", "would be in no backup").replace(
        "do not move along", "are in no backup"
    )
    return Finding(
        severity=found.severity,
        code=found.code,
        where=found.where,
        message=message,
        fix=found.fix,
        command=found.command,
    )
