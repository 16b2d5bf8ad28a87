"""Identifiers in the body of an object or a binary value, also in the containers that Python opens by itself.

Opened: gzip, bzip2, xz, zlib, and ZIP, and with it the office formats, one level deep. Everything else is looked at as
the bytes that it is; where those are known to be compressed, that is said instead of passing for clean.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import string
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from tenure.model.matching import Match, Matcher

TOO_LONG: Final = "longer than the limit: only the beginning was looked at"
UNREADABLE: Final = "a damaged or encrypted container"
MOST_MEMBERS: Final = 10_000
BLOCK_BYTES: Final = 1 << 16
_CLOSED: Final = (
    (b"PAR1", "Parquet"),
    (b"ORC", "ORC"),
    (b"Obj\x01", "Avro"),
    (b"%PDF-", "PDF"),
    (b"\x28\xb5\x2f\xfd", "Zstandard"),
    (b"\x04\x22\x4d\x18", "LZ4"),
    (b"\xff\x06\x00\x00sNaPpY", "Snappy"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (b"Rar!\x1a\x07", "RAR"),
)
_MAGICS: Final = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"PK\x03\x04", b"\x78\x01", b"\x78\x9c", b"\x78\xda")
MAGICS: Final = (*_MAGICS, *(magic for magic, _ in _CLOSED))
"""How bodies begin whose bytes do not show what is in them."""
_WORDS: Final = f"{string.ascii_letters}{string.digits}_.-".encode()
_ZLIB: Final = (b"\x78\x01", b"\x78\x9c", b"\x78\xda")
_FAILURES: Final = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a body contains. `unseen` says what was not looked at, if anything."""

    matches: frozenset[Match]
    unseen: tuple[str, ...] = ()


def read(matcher: Matcher, body: bytes, *, size: int, limit: int) -> Reading:
    """Look for the identifiers in a body of `size` bytes, of which `body` is the beginning, at least up to `limit`.

    What is unpacked counts towards the limit as well, all parts together.
    """
    unseen = [TOO_LONG] if size > limit else []
    matches = set(matcher.in_bytes(cut(body, limit, size)))
    for magic, name in _CLOSED:
        if body.startswith(magic):
            unseen.append(f"{name}: compressed inside, only names and what is uncompressed was looked at")
    try:
        for part in _unpacked(body, limit):
            matches |= matcher.in_bytes(part)
    except _Limit:
        unseen.append(TOO_LONG)
    except _FAILURES:
        if TOO_LONG not in unseen:
            unseen.append(UNREADABLE)
    except RuntimeError:  # what zipfile raises for an encrypted member
        unseen.append(UNREADABLE)
    return Reading(matches=frozenset(matches), unseen=tuple(dict.fromkeys(unseen)))


def cut(content: bytes, limit: int, size: int) -> bytes:
    """The first `limit` bytes of so many, without a word at their end that goes on: half an id could be another one."""
    return content if size <= limit else content[:limit].rstrip(_WORDS)


class _Stream(Protocol):
    def read1(self, size: int, /) -> bytes: ...


class _Limit(Exception):
    """More has been unpacked than may be."""


def _unpacked(body: bytes, limit: int) -> Iterator[bytes]:
    """What is in the container, one part after the other; nothing if the body is none. What can be read of a damaged
    one comes before the error."""
    if body.startswith(b"PK\x03\x04"):
        yield from _members(body, limit)
    elif body[:2] in _ZLIB:
        yield from _inflated(body, limit)
    elif body.startswith(b"\x1f\x8b"):
        with gzip.GzipFile(fileobj=io.BytesIO(body)) as zipped:
            yield from _blocks(zipped, limit)
    elif body.startswith(b"BZh"):
        with bz2.BZ2File(io.BytesIO(body)) as zipped:
            yield from _blocks(zipped, limit)
    elif body.startswith(b"\xfd7zXZ\x00"):
        with lzma.LZMAFile(io.BytesIO(body)) as zipped:
            yield from _blocks(zipped, limit)


def _blocks(stream: _Stream, limit: int) -> Iterator[bytes]:
    content = bytearray()
    try:
        while len(content) <= limit:
            block = stream.read1(BLOCK_BYTES)
            if not block:
                break
            content += block
    finally:
        yield cut(bytes(content), limit, len(content))
    if len(content) > limit:
        raise _Limit


def _inflated(body: bytes, limit: int) -> Iterator[bytes]:
    """Text may begin like this too: then it is no container, and has been looked at as it is."""
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(body, limit + 1)
        yield cut(content, limit, len(content))
    except zlib.error:
        return
    if inflater.unconsumed_tail:
        raise _Limit


def _members(body: bytes, limit: int) -> Iterator[bytes]:
    left = limit
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        for n, member in enumerate(archive.infolist()):
            if n >= MOST_MEMBERS or left <= 0:
                raise _Limit
            yield member.filename.encode("utf-8", "surrogateescape")
            with archive.open(member) as stream:
                content = stream.read(left + 1)
            yield cut(content, left, len(content))
            left -= len(content)
    if left < 0:
        raise _Limit
