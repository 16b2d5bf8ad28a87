"""Items in a stream of a backup, for stores whose data passes through Python: a key, a small head, and a body.

The stream is frames, one after another. A frame is 13 bytes, then key, head and body:

    kind     1 byte   `I` item, `L` item with a long body, `T` the item had gone, `E` end of the stream
    key      4 bytes  length of the key, little-endian, as are all numbers
    head     4 bytes  length of the head
    body     4 bytes  length of the body; 0 in `L`, `T` and `E`

The body of `L` follows in segments, each after 4 bytes with its length; length 0 ends it, and 0xFFFFFFFF says that it
could not be read to its end: then the frame is no item, and one that counts follows. `E` has the number of frames
before it, in decimal digits, as its key: a stream without it is torn. Key and head are the store's; heads are JSON.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from struct import Struct
from types import TracebackType
from typing import Any, Final, Self

from tenure.backups.contract import Part, Source, StreamWriter
from tenure.errors import StoreRefused
from tenure.model.names import StoreName

FORMAT: Final = "tenure-records/1"
"""The `format` of a stream's header. What keys, heads and bodies are, is in `items`, as the store calls it."""
MOST_WHOLE: Final = 1024 * 1024
"""Longer bodies come in segments, of about as much."""
_FRAME: Final = Struct("<cIII")
_SEGMENT: Final = Struct("<I")
_END: Final = 0
_ABANDONED: Final = 0xFFFFFFFF
_BUFFER: Final = 256 * 1024


class Abandoned(Exception):
    """The body that is being read was not read to its end when the backup was made. The item follows later on."""


class RecordWriter:
    """Writes one stream. For one thread at a time."""

    def __init__(self, stream: StreamWriter) -> None:
        self._stream: Final = stream
        self._frames = 0
        self._pending = bytearray()
        self.size_bytes = 0

    def item(self, key: bytes, head: Mapping[str, Any], body: bytes) -> None:
        """An item whose body is at hand."""
        if len(body) > MOST_WHOLE:
            self.long(key, head, (body[n : n + MOST_WHOLE] for n in range(0, len(body), MOST_WHOLE)))
        else:
            self._put(_head(b"I", key, head, len(body)), body)

    def long(self, key: bytes, head: Mapping[str, Any], body: Iterable[bytes]) -> None:
        """An item whose body comes in parts. Where these end with an error, the stream stays sound and the item counts
        as not written."""
        self._put(_head(b"L", key, head, 0))
        try:
            for block in body:
                for n in range(0, len(block), MOST_WHOLE):
                    part = block[n : n + MOST_WHOLE]
                    self._put(_SEGMENT.pack(len(part)), part, frame=False)
        except BaseException:
            self._put(_SEGMENT.pack(_ABANDONED), frame=False)
            raise
        self._put(_SEGMENT.pack(_END), frame=False)

    def gone(self, key: bytes) -> None:
        """The item does not exist any more."""
        self._put(_head(b"T", key, None, 0))

    def close(self, *, items: int | None = None) -> None:
        """End the stream. `items`: as `StreamWriter.close` has it; every frame is one if it is not said."""
        digits = str(self._frames).encode()
        self._put(_FRAME.pack(b"E", len(digits), 0, 0), digits)
        self._flush()
        self._stream.close(items=self._frames - 1 if items is None else items)

    def _put(self, *parts: bytes, frame: bool = True) -> None:
        self._frames += frame
        for part in parts:
            self._pending += part
        if len(self._pending) >= _BUFFER:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            self.size_bytes += len(self._pending)
            self._stream.write(bytes(self._pending))
            self._pending.clear()


def _head(kind: bytes, key: bytes, head: Mapping[str, Any] | None, body: int) -> bytes:
    text = b"" if head is None else json.dumps(head, separators=(",", ":"), sort_keys=True).encode()
    return _FRAME.pack(kind, len(key), len(text), body) + key + text


@dataclass(frozen=True, kw_only=True)
class Record:
    """An item, or with `gone` the word that there is none. `body` is read once, before the next record is asked for; it
    raises `Abandoned` where the backup had to give up on it."""

    key: bytes
    head: Mapping[str, Any]
    body: Iterator[bytes]
    gone: bool = False

    def whole(self) -> bytes:
        return b"".join(self.body)


def records(blocks: Iterator[bytes], where: str) -> Iterator[Record]:
    """The records of a stream, in bounded memory: what of a body is not read is passed over. Raises `StoreRefused` for
    what is no such stream, and where it ends too early."""
    reader = _Reader(blocks, where)
    frames = 0
    while True:
        kind, key_length, head_length, body_length = _FRAME.unpack(reader.take(_FRAME.size))
        key = reader.take(key_length)
        if kind == b"E":
            if key != str(frames).encode():
                raise reader.torn(f"{frames} frames, and its end speaks of {key!r}")
            return
        head = json.loads(reader.take(head_length)) if head_length else {}
        frames += 1
        if kind == b"T":
            yield Record(key=key, head=head, body=iter(()), gone=True)
            continue
        if kind not in {b"I", b"L"}:
            raise reader.torn(f"a frame of kind {kind!r}")
        body = iter((reader.take(body_length),)) if kind == b"I" else reader.segments()
        yield Record(key=key, head=head, body=body)
        if kind == b"L":
            _drain(body)


def _drain(body: Iterator[bytes]) -> None:
    try:
        for _ in body:
            pass
    except Abandoned:
        pass


class _Reader:
    """Takes bytes off blocks."""

    def __init__(self, blocks: Iterator[bytes], where: str) -> None:
        self._blocks = blocks
        self._where = where
        self._block = b""
        self._at = 0

    def torn(self, what: str) -> StoreRefused:
        return StoreRefused(f"{self._where}: this is not a whole stream of records: {what}")

    def take(self, length: int) -> bytes:
        taken = self._block[self._at : self._at + length]
        self._at += len(taken)
        if len(taken) == length:
            return taken
        parts = [taken]
        missing = length - len(taken)
        while missing:
            block = next(self._blocks, None)
            if block is None:
                raise self.torn("it ends in the middle")
            self._block, self._at = block, min(missing, len(block))
            parts.append(block[: self._at])
            missing -= self._at
        return b"".join(parts)

    def segments(self) -> Iterator[bytes]:
        while True:
            (length,) = _SEGMENT.unpack(self.take(_SEGMENT.size))
            if length == _END:
                return
            if length == _ABANDONED:
                raise Abandoned
            if length > MOST_WHOLE:
                raise self.torn(f"a segment of {length} bytes")
            yield self.take(length)


class Latest:
    """Which record of a `base` and a `late` stream counts for each key. Keeps keys in a file of its own that vanishes
    with it, so memory is bounded whatever changed while the backup was made. For one thread; close it."""

    def __init__(self) -> None:
        self._rows: Final = sqlite3.connect("", isolation_level=None)
        self._rows.execute("pragma journal_mode = off")
        self._rows.execute("create table late (key blob primary key, n integer) without rowid")
        self._rows.execute("begin")
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rows.close()

    def merged(
        self, base: Callable[[], Iterator[Record]], late: Callable[[], Iterator[Record]]
    ) -> Iterator[Record]:
        """Every item at the backup's point exactly once: those that did not change meanwhile first, in the order of
        `base`. Both are called for a fresh reading, `late` twice, which gives all late streams one after the other."""
        self._note(late())
        for record in base():
            if not self._count or self._last(record.key) is None:
                yield record
        for n, record in enumerate(late() if self._count else ()):
            if not record.gone and self._last(record.key) == n:
                yield record

    def _note(self, late: Iterator[Record]) -> None:
        for n, record in enumerate(late):
            self._count += 1
            try:
                for _ in record.body:
                    pass
            except Abandoned:
                continue
            self._rows.execute("insert or replace into late values (?, ?)", (record.key, n))

    def _last(self, key: bytes) -> int | None:
        row = self._rows.execute("select n from late where key = ?", (key,)).fetchone()
        return None if row is None else int(row[0])


def latest(source: Source, store: StoreName, collection: str, items: str, where: str) -> Iterator[Record]:
    """Every item of a collection at the backup's point, once, in bounded memory. Raises `StoreRefused` for streams that
    hold something else than such `items`."""
    streams = source.streams(store, collection)
    for stream in streams:
        found = stream.header.get("format"), stream.header.get("items")
        if found != (FORMAT, items):
            raise StoreRefused(
                f"{where}: the backup's stream of {collection} is {found[0]} of {found[1]}, and this Tenure reads"
                f" {FORMAT} of {items}",
                hint="restore with the release that the backup names",
            )

    def read(part: Part) -> Iterator[Record]:
        for stream in streams:
            if stream.part is part:
                yield from records(source.read(stream), where)

    with Latest() as index:
        yield from index.merged(lambda: read(Part.BASE), lambda: read(Part.LATE))


def digest(*parts: bytes) -> bytes:
    """Sixteen bytes that stand for these parts."""
    state = blake2b(digest_size=16)
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()
