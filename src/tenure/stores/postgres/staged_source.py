"""A backup whose streams of some stores come out of a scratch database, in the form in which a capture gives them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from typing import Any, Final

from psycopg import sql

from tenure.backups.contract import CollectionFacts, Part, Source, Stream
from tenure.model.names import StoreName, TenantId
from tenure.stores.postgres import capture, streams
from tenure.stores.postgres.connect import Connection, Pool
from tenure.stores.postgres.streams import Drawn
from tenure.stores.postgres.tables import Table, TenantTable


def count(connection: Connection, table: Table) -> int:
    """How many rows the table has."""
    row = connection.execute(sql.SQL("select count(*) from {}").format(table.spec.sql)).fetchone()
    return int(row[0]) if row is not None else 0


def _greatest(*numbers: int | None) -> int | None:
    return max((n for n in numbers if n is not None), default=None)


class StagedSource:
    """A backup whose streams of some stores come out of a scratch database; those of the others as they are.

    Implements `tenure.backups.contract.Source`.
    """

    def __init__(
        self,
        backup: Source,
        pool: Pool,
        tables: Sequence[Table],
        owners: Mapping[TenantTable, StoreName],
        stores: frozenset[StoreName],
    ) -> None:
        self._backup: Final = backup
        self._pool: Final = pool
        self._stores: Final = stores
        self._tables: Final = {(owners[t.spec], t.collection): t for t in tables}
        self._streams: tuple[Stream, ...] | None = None
        self._facts: tuple[CollectionFacts, ...] = ()

    @property
    def tenant(self) -> TenantId:
        return self._backup.tenant

    @property
    def point(self) -> datetime:
        return self._backup.point

    def streams(self, store: StoreName | None = None, collection: str | None = None) -> Sequence[Stream]:
        mine = [s for s in self._staged() if store in {None, s.store} and collection in {None, s.collection}]
        others = [s for s in self._backup.streams(store, collection) if s.store not in self._stores]
        return sorted([*mine, *others], key=lambda s: (s.store, s.collection, s.part is Part.LATE, s.n))

    def collections(self, store: StoreName | None = None) -> Sequence[CollectionFacts]:
        self._staged()
        mine = [f for f in self._facts if store in {None, f.store}]
        others = [f for f in self._backup.collections(store) if f.store not in self._stores]
        return sorted([*mine, *others], key=lambda f: (f.store, f.collection))

    def facts(self, store: StoreName) -> Mapping[str, Any]:
        return self._backup.facts(store)

    def read(self, stream: Stream, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        if stream.store not in self._stores:
            yield from self._backup.read(stream, start=start, length=length)
            return
        table = self._tables[stream.store, stream.collection]
        skip, left = start, length
        for given in self._rows(table):
            block = given[skip:]
            skip = max(0, skip - len(given))
            if left is not None:
                block = block[:left]
                left -= len(block)
            if block:
                yield block
            if left == 0:
                return

    def _staged(self) -> tuple[Stream, ...]:
        """The streams of the scratch database, whose sizes and digests take one reading of it, once."""
        if self._streams is None:
            numbers = self._numbers()
            found, facts = [], []
            with self._pool.connection() as connection:
                for (store, collection), table in sorted(self._tables.items()):
                    size, digest = 0, sha256()
                    for block in self._rows(table):
                        size += len(block)
                        digest.update(block)
                    items = count(connection, table)
                    found.append(
                        Stream(
                            store=store,
                            collection=collection,
                            part=Part.BASE,
                            n=0,
                            header=streams.header(connection, table, self.tenant, numbers),
                            size_bytes=size,
                            digest=digest.hexdigest(),
                            items=items,
                        )
                    )
                    facts.append(self._collection(connection, store, table, items, size))
            self._streams, self._facts = tuple(found), tuple(facts)
        return self._streams

    def _collection(
        self, connection: Connection, store: StoreName, table: Table, items: int, size: int
    ) -> CollectionFacts:
        return CollectionFacts(
            store=store,
            collection=table.collection,
            items=items,
            size_bytes=size,
            digest=capture.digest(connection, table, self.tenant),
            fingerprint=capture.fingerprint(table),
        )

    def _numbers(self) -> list[Drawn]:
        """What was drawn from sequences: by the app before the backup, or by the migrations here."""
        before = {
            (str(s.header["schema"]), str(s.header["table"]), column): int(last)
            for s in self._backup.streams()
            if s.store in self._stores
            for column, last in dict(s.header.get("sequences", {})).items()
        }
        return [
            replace(n, last=_greatest(n.last, before.get((*n.table, n.column))))
            for n in streams.drawn(self._pool, [t.spec for t in self._tables.values()])
        ]

    def _rows(self, table: Table) -> Iterator[bytes]:
        statement = streams.select_rows(table, self.tenant)
        with self._pool.connection() as connection, connection.transaction():
            streams.prepare(connection)
            parts, size = [], 0
            with connection.cursor() as cursor, cursor.copy(statement) as copy:
                for part in copy:
                    parts.append(bytes(part))
                    size += len(part)
                    if size >= streams.BLOCK_BYTES:
                        yield b"".join(parts)
                        parts, size = [], 0
            if parts:
                yield b"".join(parts)
