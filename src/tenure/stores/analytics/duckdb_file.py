"""DuckDB as an engine of analytics: one file, which several processes use by opening it for as long as a piece of work
takes.

DuckDB lets one process write, or several read. So every use opens the file, works, and closes it; who finds it taken
tries again until a deadline. Rows on their way from one file to another rest in a database in memory (which DuckDB
spills to disk), so that no process ever has two files open.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import duckdb
import pyarrow as pa

from tenure.catalogue import AnalyticsTable, QualifiedName
from tenure.errors import DeadlineExceeded, StoreRefused, StoreUnavailable, TenureError
from tenure.model.names import TenantId
from tenure.model.secret import Secret
from tenure.stores.analytics import duckdb_statements as statements
from tenure.stores.analytics.composing import Quoted, composed, double_quoted, joined, literal
from tenure.stores.analytics.duckdb_packs import DuckDbBrought, packed, prepare
from tenure.stores.analytics.duckdb_statements import FILE, HELD, Connection
from tenure.stores.analytics.engine import Allowed, Column, Hazard, Rows
from tenure.stores.analytics.packs import Brought, Pack
from tenure.stores.analytics.units import Content

LOCK_WAIT_S: Final = 15.0
"""How long a use waits for others to close the file."""
PING_WAIT_S: Final = 3.0
PAUSE_S: Final = (0.002, 0.05)
"""Between two attempts to open a file: at first, and in the long run."""
DIGEST_ROWS: Final = 1_000_000
"""About how many rows are read while the file is kept open."""
ERASE_ROWS: Final = 500_000
PAGE: Final = 1000
_TAKEN: Final = ("could not set lock", "conflicting lock", "unique file handle conflict", "used by another")
_KEY: Final = ("encrypt", "decrypt", "cipher")


class _Turns:
    """One use of a file at a time in this process: DuckDB's lock tells processes apart, not threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: dict[str, threading.Lock] = {}

    def of(self, path: str) -> threading.Lock:
        with self._lock:
            return self._turns.setdefault(path, threading.Lock())


_TURNS: Final = _Turns()


class DuckDbFile:
    """One file. Implements `tenure.stores.analytics.engine.Engine`. `key` is what it is encrypted with, if it is."""

    dialect: Final = "duckdb"
    residue: Final = "free blocks of the file, until DuckDB writes over them or the file is compacted"

    def __init__(
        self, *, path: Path, where: str, key: Secret | None = None, wait_s: float = LOCK_WAIT_S
    ) -> None:
        self._path: Final = os.path.realpath(path)
        self._where: Final = where
        self._key: Final = key
        self._wait_s: Final = wait_s
        self._turn: Final = _TURNS.of(self._path)
        self._idle: Final[list[Connection]] = []

    @property
    def where(self) -> str:
        return self._where

    @property
    def server(self) -> str:
        return self._path

    def ping(self) -> None:
        with self.opened(wait_s=PING_WAIT_S) as hub:
            hub.execute("select 1")

    # -- opening -----------------------------------------------------------------------------------------------------

    @contextmanager
    def opened(self, *, write: bool = False, wait_s: float | None = None) -> Iterator[Connection]:
        """A connection of its own in which the file is attached as `file`, until the end of the block.

        Raises `StoreUnavailable` if others keep it longer than that, or the file is not there.
        """
        with self._hub() as hub, self.attached(hub, write=write, wait_s=wait_s):
            yield hub

    @contextmanager
    def _hub(self) -> Iterator[Connection]:
        """A database in memory that nobody else uses meanwhile. Making one takes longer than most that is done in it,
        so it is kept for the next use, unless something went wrong."""
        hub = self._idle_hub()
        try:
            with self._translated():
                yield hub
                hub.execute(composed("drop table if exists $held", held=HELD))
        except BaseException:
            hub.close()
            raise
        self._idle.append(hub)

    def _idle_hub(self) -> Connection:
        try:
            return self._idle.pop()
        except IndexError:
            hub = duckdb.connect(":memory:")
            hub.execute("set TimeZone = 'UTC'")
            return hub

    @contextmanager
    def attached(self, hub: Connection, *, write: bool, wait_s: float | None = None) -> Iterator[None]:
        """The file attached to that database as `file`, until the end of the block.

        What was written is then in the file itself. DuckDB removes its log after it has let go of the file, so the
        process that had it open before may remove this one's; and without its log a file is closed as it was opened.
        """
        deadline = time.monotonic() + (self._wait_s if wait_s is None else wait_s)
        if not self._turn.acquire(timeout=max(deadline - time.monotonic(), 0)):
            raise self._taken()
        try:
            self._attach(hub, write, deadline)
            try:
                yield
            except BaseException:
                # What went wrong matters more than what cannot be tidied after it.
                for statement in ("rollback", "detach file"):
                    with contextlib.suppress(duckdb.Error):
                        hub.execute(statement)
                raise
            if write:
                hub.execute("checkpoint file")
            hub.execute("detach file")
        finally:
            self._turn.release()

    def _attach(self, hub: Connection, write: bool, deadline: float) -> None:
        if not os.path.exists(self._path):
            raise StoreUnavailable(
                f"{self._where} cannot be reached: there is no file {self._path}",
                hint="let the app create it, or correct the path in tenure.yaml",
            )
        options = [Quoted("read_write" if write else "read_only")]
        if self._key is not None:
            options.append(Quoted(f"encryption_key {literal(self._key.reveal())}"))
        statement = composed(
            "attach $path as $file ($options)",
            path=literal(self._path),
            file=FILE,
            options=joined(options),
        )
        pause_s, longest_s = PAUSE_S
        while True:
            try:
                hub.execute(statement)
                return
            except duckdb.Error as error:
                text = str(error).lower()
                if any(sign in text for sign in _KEY):
                    raise StoreUnavailable(
                        f"{self._where} refuses the login: the file is not encrypted with the key that is given",
                        hint="check the encryption key in tenure.yaml",
                    ) from None
                if not any(sign in text for sign in _TAKEN):
                    raise self._translate(error) from error
                if time.monotonic() + pause_s > deadline:
                    raise self._taken() from error
            time.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads attempts, no secret
            pause_s = min(2 * pause_s, longest_s)

    def _taken(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self._where}: another process keeps {self._path} open",
            hint="DuckDB lets one process write at a time: the app must open the file only while it works with it",
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            raise self._translate(error) from error

    def _translate(self, error: duckdb.Error) -> TenureError:
        text = str(error).partition("\n")[0]
        if isinstance(error, duckdb.TransactionException):
            return DeadlineExceeded(
                f"{self._where}: {text}", hint="two transactions met there; the same call again can work"
            )
        if isinstance(error, duckdb.IOException | duckdb.OutOfMemoryException | duckdb.FatalException):
            return StoreUnavailable(
                f"{self._where}: {text}", hint="check the file, its folder and the room there"
            )
        return StoreRefused(f"{self._where}: {text}")

    # -- looking -----------------------------------------------------------------------------------------------------

    def tables(
        self,
        schemas: Collection[str],  # noqa: ARG002
        *,
        everywhere: bool = False,  # noqa: ARG002
    ) -> Mapping[QualifiedName, Sequence[Column]]:
        """The file is the store's own."""
        with self.opened() as hub:
            return statements.described(hub)

    def views(self) -> Mapping[QualifiedName, str]:
        with self.opened() as hub:
            rows = hub.execute(
                "select schema_name, view_name, sql from duckdb_views() where database_name = 'file' and not internal"
            ).fetchall()
        return {QualifiedName(schema=schema, name=name): str(text or "") for schema, name, text in rows}

    def columns(self, table: QualifiedName) -> Sequence[Column]:
        with self.opened() as hub:
            return statements.described(hub, table).get(table, ())

    def hazards(self, table: AnalyticsTable) -> Sequence[Hazard]:
        with self.opened() as hub:
            held = hub.execute(
                "select constraint_text from duckdb_constraints() where database_name = 'file' and schema_name = ?"
                " and table_name = ? and constraint_type = 'FOREIGN KEY'",
                [table.name.schema, table.name.name],
            ).fetchall()
            columns = statements.described(hub, table.name).get(table.name, ())
        return [
            *(
                Hazard(
                    table=table.name,
                    code="analytics_type_unseen",
                    message=f"{c.name} is of type {c.type}: values of different types in it can have one text, so that "
                    "a comparison does not tell them apart",
                    fix="use a type that says what is in it",
                    refuses=True,
                )
                for c in columns
                if statements.ambiguous(c)
            ),
        ] + [
            Hazard(
                table=table.name,
                code="analytics_foreign_key",
                message=f"{table.name} has a foreign key ({text}): its rows are replaced by partition, in no order of "
                "the tables",
                fix="drop the constraint in both cells",
                refuses=True,
            )
            for (text,) in held
        ]

    def partitions(self, table: AnalyticsTable, tenant: TenantId) -> Mapping[str, int]:
        with self.opened() as hub:
            return statements.partitions(hub, table, tenant)

    def contents(
        self,
        table: AnalyticsTable,
        tenant: TenantId,
        partitions: Collection[str],
        *,
        only: Collection[str] | None = None,
    ) -> Mapping[str, Content]:
        """Opens the file anew for about every million of rows, so that others get at it."""
        found: dict[str, Content] = {}
        wanted = {p: n for p, n in self.partitions(table, tenant).items() if p in partitions}
        for batch in statements.batches(wanted, DIGEST_ROWS):
            with self.opened() as hub:
                columns = [
                    c
                    for c in statements.described(hub, table.name)[table.name]
                    if only is None or c.name in only
                ]
                found |= statements.contents(hub, table, columns, tenant, batch)
        return found

    # -- moving ------------------------------------------------------------------------------------------------------

    @contextmanager
    def rows(
        self, table: AnalyticsTable, tenant: TenantId, partitions: Sequence[str]
    ) -> Iterator[DuckDbRows]:
        with self._hub() as hub:
            with self.attached(hub, write=False):
                columns = [
                    c.name for c in statements.described(hub, table.name)[table.name] if not c.computed
                ]
                hub.execute(
                    composed(
                        "create table $held as select $columns from $table where $rows",
                        held=HELD,
                        columns=joined([double_quoted(c) for c in columns]),
                        table=statements.name_of(table.name),
                        rows=statements.rows_of(table),
                    ),
                    [tenant, list(partitions)],
                )
            yield DuckDbRows(hub, columns)

    def replace(
        self,
        table: AnalyticsTable,
        tenant: TenantId,
        partitions: Sequence[str],
        rows: Rows | Brought,
        allowed: Allowed,
    ) -> None:
        """In one transaction: whoever looks sees the old rows or the new ones."""
        if isinstance(rows, DuckDbRows | DuckDbBrought):
            with self.attached(rows.hub, write=True), self._translated():
                statements.swap(rows.hub, table, tenant, partitions, rows.columns, allowed)
            return
        with self._hub() as hub:
            statements.bring(hub, cast(Rows, rows))
            with self.attached(hub, write=True):
                statements.swap(hub, table, tenant, partitions, rows.columns, allowed)

    def packs(self, table: AnalyticsTable, tenant: TenantId, partitions: Sequence[str]) -> Iterator[Pack]:
        """Opens the file once for about every million of rows."""
        counts = self.partitions(table, tenant)
        wanted = {p: counts[p] for p in partitions if p in counts}
        columns = [c for c in self.columns(table.name) if not c.computed]
        for batch in statements.batches(wanted, DIGEST_ROWS):
            with self.rows(table, tenant, batch) as rows, self._translated():
                yield from packed(rows.hub, table, columns, tenant, batch)

    @contextmanager
    def bring(self, table: AnalyticsTable, tenant: TenantId) -> Iterator[DuckDbBrought]:
        with self._hub() as hub:
            with self.attached(hub, write=False):
                columns = [c for c in statements.described(hub, table.name)[table.name] if not c.computed]
                prepare(hub, table, columns)
            yield DuckDbBrought(hub, table, tenant, self._where)

    def erase(self, table: AnalyticsTable, tenant: TenantId, progress: Callable[[int], None]) -> int:
        """In transactions of about half a million rows each; every time the file is closed it is checkpointed."""
        erased = 0
        for batch in statements.batches(self.partitions(table, tenant), ERASE_ROWS):
            with self.opened(write=True) as hub:
                statement = composed(
                    "delete from $table where $tenant = ? and $partition in (select unnest(?::varchar[]))",
                    table=statements.name_of(table.name),
                    tenant=double_quoted(statements.tenant_column(table)),
                    partition=statements.partition_of(table),
                )
                erased += statements.number(hub, statement, [tenant, batch])
            progress(erased)
        return erased

    def sweep(self, tenant: TenantId) -> None:
        """Nothing: what is under way is in memory, or in a transaction."""

    # -- searching ---------------------------------------------------------------------------------------------------

    def texts(
        self, table: QualifiedName, columns: Sequence[str], needles: Sequence[str]
    ) -> Iterator[Sequence[tuple[Any, ...]]]:
        with self._hub() as hub:
            with self.attached(hub, write=False):
                types = {c.name: c.type for c in statements.described(hub, table)[table]}
                texts = [composed("$column::varchar", column=double_quoted(c)) for c in columns]
                values = [
                    double_quoted(c) if types[c] == "BLOB" else text
                    for c, text in zip(columns, texts, strict=True)
                ]
                # Bytes may be packed text, which DuckDB does not look into: every row with some is read.
                anywhere = [
                    composed("$column is not null", column=double_quoted(c))
                    if types[c] == "BLOB"
                    else composed("contains($text, needle)", text=text)
                    for c, text in zip(columns, texts, strict=True)
                ]
                hub.execute(
                    composed(
                        "create table $held as select $values from $table where exists"
                        " (select 1 from unnest(?::varchar[]) n (needle) where $anywhere)",
                        held=HELD,
                        values=joined(values),
                        table=statements.name_of(table),
                        anywhere=joined(anywhere, " or "),
                    ),
                    [list(needles) or [""]],
                )
            result = hub.execute(composed("select * from $held", held=HELD))
            while page := result.fetchmany(PAGE):
                yield page

    def count(self, table: QualifiedName) -> tuple[int, int]:
        with self.opened() as hub:
            sizes = [
                composed("coalesce(strlen($c::varchar), 0)", c=double_quoted(c.name))
                for c in statements.described(hub, table).get(table, ())
            ]
            rows = hub.execute(
                composed(
                    "select count(*), coalesce(sum($size), 0) from $table",
                    size=joined(sizes, " + "),
                    table=statements.name_of(table),
                )
            ).fetchall()
        return int(rows[0][0]), int(rows[0][1])

    def close(self) -> None:
        """The file is not kept open anyway."""
        while self._idle:
            self._idle.pop().close()


class DuckDbRows:
    """Rows that rest in a database in memory. Implements `tenure.stores.analytics.engine.Rows`."""

    def __init__(self, hub: Connection, columns: Sequence[str]) -> None:
        self.hub: Final = hub
        self.columns: Final = tuple(columns)

    @property
    def count(self) -> int:
        return statements.number(self.hub, composed("select count(*) from $h", h=HELD))

    def batches(self) -> Iterator[pa.RecordBatch]:
        yield from self.hub.sql(composed("select * from $h", h=HELD)).to_arrow_reader()
