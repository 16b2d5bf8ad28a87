"""The stand-in's memory: indexes, namespaces and records in one SQLite file, with a log of what reads do not see yet.

A write is acknowledged when it is in the file, and has the next log sequence number of its namespace then. Reads see it
when it has been applied, in the order of the log: at once, or as late as a test has asked for.
"""

from __future__ import annotations

import sqlite3
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import orjson

from tenure.estate.local.pinecone_stand_in.filters import matches

_SCHEMA: Final = """
create table if not exists indexes (
    name text primary key, port integer not null, description text not null) without rowid;
create table if not exists namespaces (
    index_name text not null, name text not null, lsn integer not null, present integer not null,
    primary key (index_name, name)) without rowid;
create table if not exists records (
    index_name text not null, namespace text not null, id text not null, body blob not null,
    primary key (index_name, namespace, id)) without rowid;
create table if not exists log (
    seq integer primary key autoincrement, index_name text not null, namespace text not null, lsn integer not null,
    at real not null, change blob not null);
create index if not exists log_of_namespace on log (index_name, namespace, seq);
"""

Body = dict[str, Any]
PARSED: Final = 20_000
"""So many records stay parsed: a search looks at every one of its namespace."""


def float32(values: Sequence[float]) -> list[float]:
    """The values as they are kept: of 32 bits. Raises `OverflowError`, `TypeError`."""
    return array("f", values).tolist()


@dataclass(frozen=True, kw_only=True)
class Index:
    """An index: the port of its data plane, and how the control plane describes it."""

    name: str
    port: int
    description: Body

    @property
    def vectors(self) -> Body:
        """Its one field of vectors, as its schema has it."""
        fields = self.description["schema"]["fields"]
        found: Body = next(f for f in fields.values() if f["type"] in ("dense_vector", "sparse_vector"))
        return found

    @property
    def dimension(self) -> int | None:
        dimension = self.vectors.get("dimension")
        return None if dimension is None else int(dimension)

    @property
    def metric(self) -> str:
        return str(self.vectors.get("metric", "dotproduct"))


class Records:
    """Everything the stand-in keeps. Used by one thread."""

    def __init__(self, file: Path, *, durable: bool) -> None:
        self._db = sqlite3.connect(file, isolation_level=None)
        self._db.execute("pragma journal_mode = wal")
        self._db.execute(f"pragma synchronous = {'full' if durable else 'off'}")
        self._db.executescript(_SCHEMA)
        self._waiting = bool(self._db.execute("select exists (select 1 from log)").fetchone()[0])

    def close(self) -> None:
        self._db.close()

    # -- indexes -----------------------------------------------------------------------------------------------------

    def indexes(self) -> list[Index]:
        rows = self._db.execute("select name, port, description from indexes order by name")
        return [Index(name=name, port=port, description=orjson.loads(text)) for name, port, text in rows]

    def put_index(self, index: Index) -> None:
        text = orjson.dumps(index.description).decode()
        self._db.execute("insert or replace into indexes values (?, ?, ?)", (index.name, index.port, text))

    def drop_index(self, name: str) -> None:
        with self._transaction():
            self._db.execute("delete from indexes where name = ?", (name,))
            for table in ("namespaces", "records", "log"):
                self._db.execute(f"delete from {table} where index_name = ?", (name,))  # noqa: S608

    # -- writing -----------------------------------------------------------------------------------------------------

    def upsert(self, index: str, namespace: str, records: Sequence[Body], *, late: bool) -> int:
        """Insert or replace whole records; return the log sequence number."""
        return self._write(index, namespace, {"upsert": records}, late=late, makes=True)

    def change(self, index: str, namespace: str, change: Body, *, late: bool) -> int:
        """Update or delete; return the log sequence number. The namespace must be there."""
        return self._write(index, namespace, change, late=late, makes=False)

    def drop_namespace(self, index: str, namespace: str, *, late: bool) -> int:
        with self._transaction():
            lsn = self._write(index, namespace, {"drop": True}, late=late, makes=False)
            self._db.execute(
                "update namespaces set present = 0 where index_name = ? and name = ?", (index, namespace)
            )
        return lsn

    def make_namespace(self, index: str, namespace: str) -> None:
        """An empty one."""
        self._write(index, namespace, {}, late=False, makes=True)

    def present(self, index: str, namespace: str) -> bool:
        """Whether writes find the namespace."""
        row = self._db.execute(
            "select present from namespaces where index_name = ? and name = ?", (index, namespace)
        ).fetchone()
        return bool(row and row[0])

    def _write(self, index: str, namespace: str, change: Body, *, late: bool, makes: bool) -> int:
        with self._transaction():
            row = self._db.execute(
                "insert into namespaces values (?, ?, 1, ?) on conflict (index_name, name) do update "
                "set lsn = lsn + 1, present = max(present, excluded.present) returning lsn",
                (index, namespace, int(makes)),
            ).fetchone()
            lsn = int(row[0])
            if late or (self._waiting and self._pending(index, namespace)):
                self._waiting = True
                self._db.execute(
                    "insert into log (index_name, namespace, lsn, at, change) values (?, ?, ?, ?, ?)",
                    (index, namespace, lsn, time.time(), orjson.dumps(change)),
                )
            else:
                self._apply(index, namespace, change)
        return lsn

    # -- what reads see ----------------------------------------------------------------------------------------------

    def settle(self, *, lag_s: float) -> None:
        """Let reads see every write that is older than that."""
        if not self._waiting:
            return
        with self._transaction():
            due = self._db.execute(
                "select seq, index_name, namespace, change from log where at <= ? order by seq",
                (time.time() - lag_s,),
            ).fetchall()
            for seq, index, namespace, change in due:
                self._apply(index, namespace, orjson.loads(change))
                self._db.execute("delete from log where seq = ?", (seq,))
        self._waiting = bool(self._db.execute("select exists (select 1 from log)").fetchone()[0])

    def _pending(self, index: str, namespace: str) -> int | None:
        """The first log sequence number that reads do not see."""
        row = self._db.execute(
            "select min(lsn) from log where index_name = ? and namespace = ?", (index, namespace)
        ).fetchone()
        return None if row[0] is None else int(row[0])

    def visible_lsn(self, index: str, namespace: str) -> int:
        """Up to which log sequence number reads see everything."""
        first = self._pending(index, namespace) if self._waiting else None
        if first is not None:
            return first - 1
        row = self._db.execute(
            "select lsn from namespaces where index_name = ? and name = ?", (index, namespace)
        ).fetchone()
        return int(row[0]) if row else 0

    def _apply(self, index: str, namespace: str, change: Body) -> None:
        here = (index, namespace)
        if "upsert" in change:
            self._put(here, change["upsert"])
        elif "ids" in change:
            self._db.executemany(
                "delete from records where index_name = ? and namespace = ? and id = ?",
                [(*here, one) for one in change["ids"]],
            )
        elif "all" in change or "drop" in change:
            self._db.execute("delete from records where index_name = ? and namespace = ?", here)
        elif "filter" in change and "set" in change:
            hit = list(self.matching(*here, lambda one: matches(change["filter"], one.get("metadata", {}))))
            self._put(
                here, [{**one, "metadata": {**one.get("metadata", {}), **change["set"]}} for one in hit]
            )
        elif "filter" in change:
            hit = list(self.matching(*here, lambda one: matches(change["filter"], one.get("metadata", {}))))
            self._apply(index, namespace, {"ids": [record["id"] for record in hit]})
        elif "update" in change:
            self._update(here, change)

    def _update(self, here: tuple[str, str], change: Body) -> None:
        found = self.fetch(*here, [change["update"]])
        if not found:
            return
        record = orjson.loads(found[0][1])
        for part in ("values", "sparseValues"):
            if part in change:
                record[part] = change[part]
        if "set" in change:
            record["metadata"] = {**record.get("metadata", {}), **change["set"]}
        self._put(here, [record])

    def _put(self, here: tuple[str, str], records: Iterable[Body]) -> None:
        self._db.executemany(
            "insert or replace into records values (?, ?, ?, ?)",
            [(*here, record["id"], orjson.dumps(record)) for record in records],
        )

    # -- reading -----------------------------------------------------------------------------------------------------

    def fetch(self, index: str, namespace: str, ids: Sequence[str]) -> list[tuple[str, bytes]]:
        """These records, as they are kept, those that are there."""
        found: list[tuple[str, bytes]] = []
        for one in ids:
            row = self._db.execute(
                "select id, body from records where index_name = ? and namespace = ? and id = ?",
                (index, namespace, one),
            ).fetchone()
            if row:
                found.append((row[0], row[1]))
        return found

    def ids(self, index: str, namespace: str, *, prefix: str, after: str, limit: int) -> list[str]:
        """Ids in the order of their bytes, those after `after`."""
        rows = self._db.execute(
            "select id from records where index_name = ? and namespace = ? and id > ? and id >= ? and id < ? "
            "order by id limit ?",
            # Ids are ASCII, so this comes after every id that begins so.
            (index, namespace, after, prefix, f"{prefix}\x80", limit),
        )
        return [row[0] for row in rows]

    def matching(self, index: str, namespace: str, keep: Callable[[Body], bool]) -> Iterator[Body]:
        """The records that `keep` wants, in the order of their ids. Not to be changed: they are kept for the next
        search."""
        rows = self._db.execute(
            "select body from records where index_name = ? and namespace = ? order by id", (index, namespace)
        )
        for (body,) in rows:
            record = _parsed(body)
            if keep(record):
                yield record

    def counts(self, index: str, *, shy: bool) -> Mapping[str, int]:
        """How many records each namespace has, for reads; a namespace that reads see nothing of counts as long as
        writes find it, or, if `shy`, when what was written to it becomes visible."""
        known = dict.fromkeys(
            (
                row[0]
                for row in self._db.execute(
                    "select name from namespaces where index_name = ? and present", (index,)
                )
            ),
            0,
        )
        rows = self._db.execute(
            "select namespace, count(*) from records where index_name = ? group by namespace", (index,)
        )
        shown = {name: int(n) for name, n in rows}
        waiting = {name for name in known if shy and self._waiting and self._pending(index, name)}
        return {**{name: n for name, n in known.items() if name not in waiting}, **shown}

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)


@lru_cache(maxsize=PARSED)
def _parsed(body: bytes) -> Body:
    record: Body = orjson.loads(body)
    return record


class _Transaction:
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._outer = db.in_transaction

    def __enter__(self) -> None:
        if not self._outer:
            self._db.execute("begin immediate")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if not self._outer:
            self._db.execute("commit" if kind is None else "rollback")
