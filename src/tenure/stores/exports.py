"""What stores do for a portable export of a backup: each gives the items of its streams as rows that anybody reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tenure.backups.contract import Source, Stream
from tenure.errors import StoreRefused
from tenure.model.names import StoreName


class Kind(StrEnum):
    """Of a column's values, or null. `JSON` is anything that JSON has, `MOMENT` and `EXACT` are texts: ISO 8601, and a
    number that must not be rounded."""

    TEXT = "text"
    INTEGER = "integer"
    FLOAT = "float"
    BOOLEAN = "boolean"
    BYTES = "bytes"
    MOMENT = "moment"
    EXACT = "exact"
    JSON = "json"


@dataclass(frozen=True, kw_only=True)
class Column:
    """`type` is what the store calls it, where it has types."""

    name: str
    kind: Kind
    type: str = ""


@dataclass(frozen=True, kw_only=True)
class File:
    """Contents that become a file of their own. `name` is the item's, with `/` between folders; the blocks are read
    once, before the next row is asked for."""

    name: str
    blocks: Iterable[bytes]


@dataclass(frozen=True, kw_only=True)
class Row:
    values: Mapping[str, Any]
    file: File | None = None


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A collection as it was at the backup's point, each item once."""

    columns: tuple[Column, ...]
    rows: Iterator[Row]


Exporter = Callable[[Source, StoreName, str], Rows]
"""Reads the streams of a collection. Raises `StoreRefused` for those that it does not know."""


def form_of(stream: Stream) -> str:
    """What a stream holds: the `format` in its header, or the `items` of a stream of records."""
    return str(stream.header.get("items") or stream.header.get("format") or "")


def lines(blocks: Iterable[bytes], where: str) -> Iterator[bytes]:
    """The lines of a text, without their ends. Raises `StoreRefused` if the last one has none."""
    held = b""
    for block in blocks:
        *whole, held = (held + block).split(b"\n")
        yield from whole
    if held:
        raise StoreRefused(f"{where}: the stream ends in the middle of a line")


def text_or_bytes(value: bytes) -> Any:
    """Text where it is UTF-8; otherwise as hexadecimal digits, in an object that says so."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"hex": value.hex()}
