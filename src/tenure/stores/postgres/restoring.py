"""A tenant's rows made equal to a backup's. Whole tables come by the server's COPY, several at once; single rows by way
of a temporary table, in one transaction. Sessions write as replication does: they bear an origin, so the fence lets
them pass, and `session_replication_role` is `replica`, so no trigger of the app and no foreign key fires; foreign keys
are looked at afterwards, and what does not fit is refused by name."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Final

import psycopg
from psycopg import sql

from tenure.backups.contract import Source, Stream
from tenure.errors import FenceRefused, StoreRefused, TenureError
from tenure.model.comparison import Difference, DifferenceKind
from tenure.model.finding import Finding
from tenure.model.names import StoreName, TenantId
from tenure.stores.backup import EVERYTHING, Restored, Selection
from tenure.stores.contract import Fence, Pace, unhurried
from tenure.stores.postgres import broken, marks, names, restore_checks, streams
from tenure.stores.postgres import fence as fences
from tenure.stores.postgres.capture import digest, fingerprint
from tenure.stores.postgres.connect import Connection, Pool, translate
from tenure.stores.postgres.erasing import erase_tables
from tenure.stores.postgres.home import Home
from tenure.stores.postgres.references import foreign_keys
from tenure.stores.postgres.repair import drop_origins, require_fence, unreplicated
from tenure.stores.postgres.restore_checks import Part
from tenure.stores.postgres.staging import Staged
from tenure.stores.postgres.tables import TenantTable

WORKERS: Final = 4
KEYS_AT_ONCE: Final = 5_000
NAMED: Final = 5


class PostgresRestoring:
    """Implements `tenure.stores.backup.Restoring` for one tenant's home. `owners`: the tables as the catalogue
    writes them, and the stores that their streams are of. `server` leads to the server even where the tenant's database
    does not exist."""

    def __init__(
        self,
        *,
        tenant: TenantId,
        origin: TenantId,
        server: Pool,
        home: Home,
        owners: Mapping[TenantTable, StoreName],
    ) -> None:
        self._tenant: Final = tenant
        self._origin: Final = origin
        self._server: Final = server
        self._home: Final = home
        self._owners: Final = tuple(dict.fromkeys(owners.values()))
        self._specs: Final[Mapping[str, TenantTable]] = {
            spec.of(origin).collection: spec.of(tenant) for spec in owners
        }
        self._origins: Final = f"{names.tenant_prefix(tenant)}_{names.short(home.pool.where)}_restore"

    @property
    def pool(self) -> Pool:
        return self._home.pool

    # -- looking -----------------------------------------------------------------------------------------------------

    def preflight(self, source: Source) -> Sequence[Finding]:
        return restore_checks.findings(
            self._server, self._home, self._streams(source), self._specs, self._tenant, self._origin, source
        )

    def _streams(self, source: Source) -> list[Stream]:
        return [stream for store in self._owners for stream in source.streams(store)]

    def _parts(self, source: Source, selection: Selection) -> list[Part]:
        """What is to be restored. Raises `StoreRefused` where it does not fit."""
        found = restore_checks.parts(self.pool, self._home, self._streams(source), self._specs, self._origin)
        chosen = [p for p in found if selection.has_collection(p.live.collection)]
        if selection.items is not None:
            unknown = sorted(selection.items.keys() - {p.live.collection for p in found})
            if unknown:
                raise StoreRefused(
                    f"the backup has nothing of {', '.join(unknown)}",
                    hint="`tenure backup show` lists what it has",
                )
        problems = [f"{p.live.collection}: {problem}" for p in chosen for problem in p.problems]
        if problems:
            raise StoreRefused(
                f"{self.pool.where}: the tables are not those of the backup: {'; '.join(problems)}",
                hint="migrate the backup's schema in a scratch database first, or bring the tables to its version",
            )
        return chosen

    def differences(self, source: Source, selection: Selection = EVERYTHING) -> Iterator[Difference]:
        for part in self._parts(source, selection):
            keys = selection.keys(part.live.collection)
            with closing(self.pool.connect()) as connection, self._translated():
                streams.prepare(connection)
                if keys is None and self._same(connection, source, part):
                    continue
                staged = part.staged(connection, 0)
                staged.create(self._rows(source, part))
                yield from staged.differences(self._tenant, None if keys is None else sorted(keys))

    def _same(self, connection: Connection, source: Source, part: Part) -> bool:
        """Whether digests alone show that the table is as in the backup."""
        if self._origin != self._tenant or part.whole != part.live:
            return False
        return any(
            facts.collection == part.stream.collection
            and facts.fingerprint == fingerprint(part.whole)
            and facts.digest == digest(connection, part.whole, self._tenant)
            for facts in source.collections(part.stream.store)
        )

    def _rows(self, source: Source, part: Part) -> Iterator[bytes]:
        return streams.of_tenant(part.live, source.read(part.stream), self._origin, self._tenant)

    # -- loading whole tables ----------------------------------------------------------------------------------------

    def load(
        self, source: Source, fence: Fence, selection: Selection = EVERYTHING, progress: Pace = unhurried
    ) -> Restored:
        parts = self._parts(source, selection)
        self._require_ours(fence)
        self._require_empty(parts)
        whole = [p for p in parts if selection.keys(p.live.collection) is None]
        counts = dict.fromkeys((p.live.collection for p in parts), 0)
        try:
            counts |= self._copied(source, whole, fence, progress)
            single = [
                Difference(collection=p.live.collection, key=key, kind=DifferenceKind.MISSING)
                for p in parts
                for key in sorted(selection.keys(p.live.collection) or ())
            ]
            if single:
                counts |= self._replaced(source, single, fence)
            self._require_references(whole)
        except BaseException:
            self._erase(parts, fence)
            raise
        self._raise_sequences(parts)
        return Restored(collections=counts)

    def _require_empty(self, parts: Sequence[Part]) -> None:
        taken = [
            p.live.collection
            for p in parts
            if self.pool.value(
                sql.SQL("select exists (select from {} where {})").format(
                    p.live.spec.sql, p.live.of_tenant(self._tenant)
                )
            )
        ]
        if taken:
            raise StoreRefused(
                f"{self.pool.where} has rows of {self._tenant} in {', '.join(taken)}: a backup is loaded only where"
                " there is nothing of the tenant",
                hint="restore the differences instead, or erase what is there",
            )

    def _copied(self, source: Source, parts: Sequence[Part], fence: Fence, progress: Pace) -> dict[str, int]:
        """Load the tables, the largest first, each in a transaction in which the fence cannot be lifted."""
        left = sorted(parts, key=lambda p: p.stream.size_bytes)
        lock, stopped = threading.Lock(), threading.Event()

        def some(n: int) -> dict[str, int]:
            counts: dict[str, int] = {}
            with unreplicated(self.pool, f"{self._origins}_{n:03d}") as writer:
                streams.prepare(writer)
                while not stopped.is_set():
                    with lock:
                        if not left:
                            break
                        part = left.pop()
                    try:
                        counts[part.live.collection] = self._load(writer, source, part, fence, progress)
                    except BaseException:
                        stopped.set()
                        raise
            return counts

        if not parts:
            return {}
        workers = min(WORKERS, len(parts))
        with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="restore") as threads:
            running = [threads.submit(some, n) for n in range(workers)]
            return {name: count for one in running for name, count in one.result().items()}

    def _load(self, writer: Connection, source: Source, part: Part, fence: Fence, progress: Pace) -> int:
        try:
            with writer.transaction():
                require_fence(writer, fence, self.pool.where)
                rows = streams.copy_in(
                    writer, part.live.spec.sql, part.columns, _told(self._rows(source, part), progress)
                )
        except psycopg.errors.IntegrityError as error:
            line = streams.line_of(error)
            named = _key_said(error)
            if not named and line:
                row = streams.row_at(self._rows(source, part), line)
                named = streams.key_in(row, part.columns, part.live.key)
            raise self._broken(part, error, named) from error
        progress(items=rows, size_bytes=0)
        return rows

    def _broken(self, part: Part, error: psycopg.Error, named: str) -> StoreRefused:
        return StoreRefused(
            f"{self.pool.where}: what the backup holds does not fit into {part.live.collection}:"
            f" {error.diag.message_primary}{f': {named}' if named else ''}",
            hint="nothing was changed; mend the constraint or leave these rows out",
        )

    def _require_references(self, parts: Sequence[Part]) -> None:
        keys = foreign_keys(self.pool)
        tables = {p.live.collection: p.live for p in parts}
        with self.pool.connection() as connection:
            broken.refuse(self.pool, list(broken.references(connection, keys, tables, self._tenant)))

    def _erase(self, parts: Sequence[Part], fence: Fence) -> None:
        """Take away what was loaded. What stops that is not more important than what went wrong before."""
        with contextlib.suppress(TenureError):
            specs = [p.live.spec for p in parts]
            erase_tables(self.pool, specs, self._home.all_tables, fence, lambda _items: None)

    # -- single rows -------------------------------------------------------------------------------------------------

    def apply(self, source: Source, differences: Iterable[Difference], fence: Fence) -> int:
        """One transaction: all of it, or nothing."""
        self._require_ours(fence)
        return sum(self._replaced(source, differences, fence).values())

    def _replaced(self, source: Source, differences: Iterable[Difference], fence: Fence) -> dict[str, int]:
        parts = {p.live.collection: p for p in self._parts(source, EVERYTHING)}
        with unreplicated(self.pool, f"{self._origins}_000") as writer:
            streams.prepare(writer)
            staged = self._staged(writer, source, parts, differences)
            try:
                with writer.transaction():
                    require_fence(writer, fence, self.pool.where)
                    counts = {name: one.replace_rows(self._tenant) for name, one in staged.items()}
                    self._require_held(writer, staged)
            except psycopg.errors.IntegrityError as error:
                raise self._offending(staged, parts, error) from error
        self._raise_sequences([parts[name] for name in staged])
        return counts

    def _staged(
        self,
        writer: Connection,
        source: Source,
        parts: Mapping[str, Part],
        differences: Iterable[Difference],
    ) -> dict[str, Staged]:
        """The tables with something to do, as the backup has them, with the keys of what is to do."""
        staged: dict[str, Staged] = {}
        wanted: set[str] = set()
        given = iter(differences)
        while some := list(itertools.islice(given, KEYS_AT_ONCE)):
            keys: dict[str, list[str]] = {}
            for difference in some:
                keys.setdefault(difference.collection, []).append(difference.key)
                if difference.kind is not DifferenceKind.EXTRA:
                    wanted.add(difference.collection)
            for name, its in keys.items():
                if name not in parts:
                    raise StoreRefused(f"the backup has nothing of {name}")
                if name not in staged:
                    staged[name] = parts[name].staged(writer, len(staged))
                    staged[name].begin_keys()
                staged[name].add_keys(its)
        for name, one in staged.items():
            one.create(self._rows(source, parts[name]) if name in wanted else ())
        return staged

    def _require_held(self, writer: Connection, staged: Mapping[str, Staged]) -> None:
        keys = foreign_keys(self.pool)
        said = broken.references(
            writer,
            keys,
            {name: one.live for name, one in staged.items()},
            self._tenant,
            among={name: one.chosen("c") for name, one in staged.items()},
        )
        left = broken.referring(writer, keys, {name: one.beside("gone") for name, one in staged.items()})
        broken.refuse(self.pool, [*said, *left])

    def _offending(
        self, staged: Mapping[str, Staged], parts: Mapping[str, Part], error: psycopg.Error
    ) -> StoreRefused:
        """Which of the rows a constraint refused."""
        place = (error.diag.schema_name, error.diag.table_name)
        for name, one in staged.items():
            if place in {(one.live.spec.schema, one.live.spec.name), *one.live.leaves}:
                named = _key_said(error) or ", ".join(
                    str(key)
                    for key in one.offenders(
                        error.diag.constraint_name if error.diag.column_name is None else None,
                        error.diag.column_name,
                        NAMED,
                    )
                )
                return self._broken(parts[name], error, named)
        return StoreRefused(f"{self.pool.where}: {error.diag.message_primary}")

    # -- both --------------------------------------------------------------------------------------------------------

    def _require_ours(self, fence: Fence) -> None:
        """Nothing is written while a link could carry it elsewhere, or while the tenant writes."""
        fences.require_unlinked(self.pool, fence)
        if fences.state(self.pool, fence.tenant).writable:
            raise FenceRefused(
                f"{self.pool.where}: {fence.tenant} is not fenced here, so nothing of it is changed",
                hint="fence the store first",
            )
        drop_origins(self.pool, self._origins)

    def _raise_sequences(self, parts: Sequence[Part]) -> None:
        """No number that was drawn when the backup was made is drawn again. Sequences never go back."""
        specs = [p.live.spec for p in parts]
        wanted: dict[str, int] = {}
        for drawn in streams.drawn(self.pool, specs):
            for part in parts:
                last = part.stream.header.get("sequences", {}).get(drawn.column)
                if drawn.table == (part.live.spec.schema, part.live.spec.name) and last is not None:
                    wanted[drawn.name] = int(last)
        marks.raise_sequences(self.pool, specs, wanted)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise translate(error, self.pool.where) from error


def _told(blocks: Iterable[bytes], progress: Pace) -> Iterator[bytes]:
    for block in blocks:
        yield block
        progress(items=0, size_bytes=len(block))


def _key_said(error: psycopg.Error) -> str:
    """The key that a unique or exclusion constraint names; other details would show whole rows."""
    unique = isinstance(error, psycopg.errors.UniqueViolation | psycopg.errors.ExclusionViolation)
    return error.diag.message_detail or "" if unique else ""
