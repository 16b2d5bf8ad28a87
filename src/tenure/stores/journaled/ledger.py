"""What a capture has taken, item by item, and which keys a restoring has seen: in files of their own that vanish with
them, so that memory is bounded whatever the tenant has."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from tenure.stores.journaled.backup_ports import STAMP, Packed, Place

_MASK: Final = (1 << 128) - 1
_DIGEST_BYTES: Final = 16
_PAGE: Final = 2_000


class _Vanishing(AbstractContextManager["_Vanishing"]):
    """A table in a file without a name. For one thread at a time."""

    def __init__(self, statement: str) -> None:
        self._rows: Final = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._rows.execute("pragma journal_mode = off")
        self._rows.execute(statement)
        self._rows.execute("begin")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        self._rows.close()


@dataclass(kw_only=True)
class Totals:
    """What a collection amounts to: as `Store.inventory` counts it."""

    items: int = 0
    size_bytes: int = 0
    total: int = 0

    @property
    def digest(self) -> str:
        return f"{self.total & _MASK:032x}"


class Ledger(_Vanishing):
    """The state in which each item was taken last, and what they amount to by collection."""

    def __init__(self) -> None:
        super().__init__(
            "create table taken (collection text, key text, stamp text, items integer, size integer, digest blob,"
            " primary key (collection, key)) without rowid"
        )
        self.totals: Final[dict[str, Totals]] = {}

    def know(self, collection: str) -> None:
        """There is such a collection, maybe without items."""
        self.totals.setdefault(collection, Totals())

    def put(self, collection: str, packed: Packed) -> None:
        """The item is as this from now on."""
        self.forget(Place(collection, packed.key))
        digest = (packed.digest if isinstance(packed.digest, int) else packed.digest()) & _MASK
        self._rows.execute(
            "insert into taken values (?, ?, ?, ?, ?, ?)",
            (
                collection,
                packed.key,
                packed.head[STAMP],
                packed.items,
                packed.size_bytes,
                digest.to_bytes(_DIGEST_BYTES, "big"),
            ),
        )
        self._add(collection, packed.items, packed.size_bytes, digest)

    def forget(self, place: Place) -> bool:
        """The item is gone; whether it was there."""
        row = self._rows.execute(
            "delete from taken where collection = ? and key = ? returning items, size, digest", place
        ).fetchone()
        if row is None:
            self.know(place.collection)
            return False
        items, size, digest = row
        self._add(place.collection, -items, -size, -int.from_bytes(digest, "big"))
        return True

    def stamps(self, collection: str, keys: Sequence[str]) -> dict[str, str]:
        """The stamps of those of these items that were taken."""
        marks = ", ".join("?" * len(keys))
        rows = self._rows.execute(
            f"select key, stamp from taken where collection = ? and key in ({marks})",  # noqa: S608 - marks only
            (collection, *keys),
        )
        return dict(rows.fetchall())

    def keys(self, collection: str) -> Iterator[str]:
        """All keys that were taken of a collection, in order; what changes meanwhile may be seen or not."""
        last = ""
        first = True
        while True:
            rows = self._rows.execute(
                "select key from taken where collection = ? and (? or key > ?) order by key limit ?",
                (collection, first, last, _PAGE),
            ).fetchall()
            if not rows:
                return
            yield from (key for (key,) in rows)
            last, first = rows[-1][0], False

    def _add(self, collection: str, items: int, size_bytes: int, digest: int) -> None:
        totals = self.totals.setdefault(collection, Totals())
        totals.items += items
        totals.size_bytes += size_bytes
        totals.total += digest


class Places(_Vanishing):
    """A set of items, each with a word about it."""

    def __init__(self) -> None:
        super().__init__(
            "create table places (collection text, key text, word text, primary key (collection, key)) without rowid"
        )

    def add(self, places: Iterable[Place], word: str = "") -> None:
        self._rows.executemany(
            "insert or replace into places values (?, ?, ?)",
            ((place.collection, place.key, word) for place in places),
        )

    def discard(self, place: Place) -> None:
        self._rows.execute("delete from places where collection = ? and key = ?", place)

    def word(self, place: Place) -> str | None:
        """What was said of the item; None where it is not in the set."""
        row = self._rows.execute("select word from places where collection = ? and key = ?", place).fetchone()
        return None if row is None else str(row[0])

    def count(self, *, word: str) -> int:
        return int(self._rows.execute("select count(*) from places where word = ?", (word,)).fetchone()[0])

    def collections(self, *, word: str) -> frozenset[str]:
        """Those that have items with that word."""
        rows = self._rows.execute("select distinct collection from places where word = ?", (word,))
        return frozenset(collection for (collection,) in rows)

    def batches(self, *, word: str, size: int) -> Iterator[tuple[str, list[str]]]:
        """The items with that word, in order, each batch of one collection. The set must not change meanwhile."""
        rows = self._rows.execute(
            "select collection, key from places where word = ? order by collection, key", (word,)
        )
        collection, batch = "", list[str]()
        for found, key in rows:
            if batch and (found != collection or len(batch) == size):
                yield collection, batch
                batch = []
            collection = found
            batch.append(key)
        if batch:
            yield collection, batch

    def __len__(self) -> int:
        return int(self._rows.execute("select count(*) from places").fetchone()[0])
