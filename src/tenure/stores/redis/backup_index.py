"""Keys noted on the way of a capture or a restoring, in a file without a name: memory stays bounded."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from tenure.stores.redis.canonical import NO_EXPIRY, fingerprint

_MASK: Final = (1 << 128) - 1


class Keys:
    """A set of keys. Thread-safe."""

    def __init__(self) -> None:
        self._rows: Final = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._lock: Final = threading.Lock()
        self._rows.execute("pragma journal_mode = off")
        self._rows.execute(
            "create table keys (collection text, key blob, primary key (collection, key)) without rowid"
        )
        self._rows.execute("begin")

    def add(self, keys: Iterable[tuple[str, bytes]]) -> None:
        with self._lock:
            self._rows.executemany("insert or ignore into keys values (?, ?)", keys)

    def take(self, most: int) -> list[bytes]:
        """Some of the keys, in their order, which are in the set no more; all of one collection."""
        with self._lock:
            found = self._rows.execute(
                "select collection, key from keys order by 1, 2 limit ?", (most,)
            ).fetchall()
            some = [(name, key) for name, key in found if name == found[0][0]]
            self._rows.executemany("delete from keys where collection = ? and key = ?", some)
            return [key for _, key in some]

    def discard(self, collection: str, key: bytes) -> bool:
        """Whether it was in the set."""
        with self._lock:
            return (
                self._rows.execute(
                    "delete from keys where collection = ? and key = ?", (collection, key)
                ).rowcount
                > 0
            )

    def has(self, collection: str, key: bytes) -> bool:
        with self._lock:
            return (
                self._rows.execute(
                    "select 1 from keys where collection = ? and key = ?", (collection, key)
                ).fetchone()
                is not None
            )

    def __len__(self) -> int:
        with self._lock:
            return int(self._rows.execute("select count(*) from keys").fetchone()[0])

    def close(self) -> None:
        with self._lock:
            self._rows.close()


class Taken:
    """What was taken of each key last. For one thread at a time."""

    def __init__(self) -> None:
        self._rows: Final = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._rows.execute("pragma journal_mode = off")
        self._rows.execute(
            "create table taken (collection text, key blob, digest blob, expires_at integer,"
            " primary key (collection, key)) without rowid"
        )
        self._rows.execute("begin")

    def state(self, collection: str, key: bytes) -> tuple[bytes, int] | None:
        """The digest and the expiry of the key when it was taken; None if it was not, or had gone."""
        row: tuple[bytes, int] | None = self._rows.execute(
            "select digest, expires_at from taken where collection = ? and key = ?", (collection, key)
        ).fetchone()
        return row

    def put(self, collection: str, key: bytes, digest: bytes, expires_at: int) -> None:
        self._rows.execute(
            "insert or replace into taken values (?, ?, ?, ?)", (collection, key, digest, expires_at)
        )

    def forget(self, collection: str, key: bytes) -> None:
        self._rows.execute("delete from taken where collection = ? and key = ?", (collection, key))

    def keys(self, size: int) -> Iterator[Sequence[tuple[str, bytes]]]:
        cursor = self._rows.execute("select collection, key from taken")
        while rows := cursor.fetchmany(size):
            yield rows

    def totals(self, now_ms: int) -> dict[str, tuple[int, str]]:
        """By collection: how many keys, and the digest of `Store.inventory`, of those that have not expired then."""
        found: dict[str, tuple[int, int]] = {}
        for collection, key, digest, expires_at in self._rows.execute("select * from taken"):
            if expires_at != NO_EXPIRY and expires_at <= now_ms:
                continue
            one = fingerprint([key, digest, str(expires_at).encode()])
            count, total = found.get(collection, (0, 0))
            found[collection] = count + 1, (total + int.from_bytes(one, "little")) & _MASK
        return {
            name: (count, fingerprint([total.to_bytes(16, "little"), str(count).encode()]).hex())
            for name, (count, total) in found.items()
        }

    def close(self) -> None:
        self._rows.close()
