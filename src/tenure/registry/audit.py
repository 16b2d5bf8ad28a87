"""The audit log: the journal as a chain of hashes, and whether it is still what was written.

The control database chains the events when they are written (`schema/migrations/0009_audit.sql` says what is hashed);
here the chain is computed again, without it. A chain shows that something was changed, removed, added or reordered.
That its end was cut off, or that all of it was computed anew by somebody who may write to the database, shows only
against a head that was kept elsewhere.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from tenure.errors import UsageError
from tenure.registry.database import Database

_BATCH: Final = 5_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HEAD: Final = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})")


@dataclass(frozen=True, kw_only=True, order=True)
class Head:
    """The newest event at some time: its number, and the hash that stands for everything up to it."""

    seq: int
    hash: str

    @classmethod
    def parse(cls, text: str) -> Head:
        """Read what `str` gives: `4711:9f86d0...`. Raises `UsageError`."""
        found = _HEAD.fullmatch(text.strip())
        if found is None:
            raise UsageError(
                f"{text.strip()[:80]!r} is no head of an audit log",
                hint="a head is a number, a colon and 64 hexadecimal digits, as `tenure audit head` prints it",
            )
        return cls(seq=int(found[1]), hash=found[2])

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One event as it is hashed. `data` is the text of its JSON, as PostgreSQL writes it."""

    seq: int
    at: datetime
    operation: str | None
    tenant: str | None
    actor: str
    action: str
    data: str
    hash: bytes

    def follows(self, before: bytes) -> bool:
        """Whether the hash is that of this entry behind one with the hash `before`."""
        micros = (self.at - _EPOCH) // timedelta(microseconds=1)
        fields = (
            str(self.seq),
            str(micros),
            self.operation,
            self.tenant,
            self.actor,
            self.action,
            self.data,
        )
        return hashlib.sha256(before + b"".join(map(_chained, fields))).digest() == self.hash


def _chained(field: str | None) -> bytes:
    if field is None:
        return b"-"
    encoded = field.encode()
    return str(len(encoded)).encode() + b":" + encoded


def _shown(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


@dataclass(frozen=True, kw_only=True)
class Break:
    """Where the log is not what was written."""

    seq: int
    message: str


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a look at the whole log found."""

    entries: int
    head: Head | None
    breaks: Sequence[Break]


class Audit:
    """Reads the chain."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def head(self) -> Head | None:
        """The newest event; None of an empty log."""
        with self._database.connection() as connection:
            row = connection.execute(
                "select seq, hash from registry.events order by seq desc limit 1"
            ).fetchone()
        return None if row is None else Head(seq=int(row[0]), hash=bytes(row[1]).hex())

    def verify(
        self, heads: Sequence[Head] = (), *, progress: Callable[[int, int], None] = lambda _done, _of: None
    ) -> Checked:
        """Compute every hash again, and compare the log with heads that were kept elsewhere.

        What is written meanwhile is not looked at. `progress` gets the entries done and their number. After a break the
        chain is followed on from what stands there, so that every place is named.
        """
        end = self.head()
        total = self._count(end)
        kept: dict[int, set[str]] = {}
        for head in heads:
            kept.setdefault(head.seq, set()).add(head.hash)
        breaks: list[Break] = []
        before, last, done = b"", 0, 0
        for entry in self._entries(end):
            if not entry.follows(before):
                where = f"entry {last}" if last else "the beginning"
                breaks.append(
                    Break(
                        seq=entry.seq,
                        message=f"entry {entry.seq} ({entry.action}, {_shown(entry.at)}) does not follow "
                        f"{where}: it was changed or put there, or something between the two was removed",
                    )
                )
            if kept.pop(entry.seq, set()) - {entry.hash.hex()}:
                breaks.append(
                    Break(
                        seq=entry.seq,
                        message=f"the head {entry.seq} that was kept has another hash: the log up to entry {entry.seq} "
                        "is not what it was then",
                    )
                )
            before, last = entry.hash, entry.seq
            done += 1
            if done % _BATCH == 0:
                progress(done, total)
        breaks += [
            Break(seq=seq, message=f"entry {seq} is gone: it was there when its head was kept")
            for seq in kept
        ]
        progress(done, total)
        return Checked(entries=done, head=end, breaks=tuple(sorted(breaks, key=lambda b: b.seq)))

    def _count(self, end: Head | None) -> int:
        if end is None:
            return 0
        with self._database.connection() as connection:
            row = connection.execute(
                "select count(*) from registry.events where seq <= %s", (end.seq,)
            ).fetchone()
        return int(row[0]) if row else 0

    def _entries(self, end: Head | None) -> Iterator[Entry]:
        last = 0
        while end is not None:
            with self._database.connection() as connection:
                rows = connection.execute(
                    """
                    select seq, at, operation, tenant, actor, action, data::text, hash from registry.events
                    where seq > %s and seq <= %s order by seq limit %s
                    """,
                    (last, end.seq, _BATCH),
                ).fetchall()
            for row in rows:
                last = int(row[0])
                yield Entry(
                    seq=last,
                    at=row[1],
                    operation=row[2],
                    tenant=row[3],
                    actor=row[4],
                    action=row[5],
                    data=row[6],
                    hash=bytes(row[7]),
                )
            if len(rows) < _BATCH:
                return
