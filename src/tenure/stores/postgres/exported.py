"""Rows of a table in a backup, for a portable export: the text form of `COPY`, read by the types in its header."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from tenure.backups.contract import Source
from tenure.errors import StoreRefused
from tenure.model.names import StoreName
from tenure.stores.exports import Column, Kind, Row, Rows, form_of, lines
from tenure.stores.postgres.streams import FORMAT

_ESCAPE: Final = re.compile(rb"\\(.)", re.DOTALL)
_MEANING: Final = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_NULL: Final = b"\\N"
_KINDS: Final[Mapping[str, Kind]] = {
    **dict.fromkeys(("smallint", "integer", "bigint", "oid"), Kind.INTEGER),
    **dict.fromkeys(("real", "double precision"), Kind.FLOAT),
    "boolean": Kind.BOOLEAN,
    "bytea": Kind.BYTES,
    "numeric": Kind.EXACT,
    **dict.fromkeys(("json", "jsonb"), Kind.JSON),
    **dict.fromkeys(("date", "time", "timestamp"), Kind.MOMENT),
}
_READ: Final[Mapping[Kind, Callable[[str], Any]]] = {
    Kind.INTEGER: int,
    Kind.FLOAT: float,
    Kind.BOOLEAN: lambda text: text == "t",
    Kind.BYTES: lambda text: bytes.fromhex(text.removeprefix("\\x")),
    Kind.JSON: json.loads,
}


def rows_of(source: Source, store: StoreName, collection: str) -> Rows:
    """A table's rows. Types that are not among the simple ones (arrays, ranges, vectors) come as PostgreSQL writes
    them."""
    streams = source.streams(store, collection)
    if [form_of(stream) for stream in streams] != [FORMAT]:
        raise StoreRefused(f"{store}, {collection}: the backup has something else than one stream of rows")
    (stream,) = streams
    columns = tuple(
        Column(name=c["name"], kind=kind_of(c["type"]), type=c["type"]) for c in stream.header["columns"]
    )

    def rows() -> Iterator[Row]:
        for line in lines(source.read(stream), f"{store}, {collection}"):
            fields = line.split(b"\t")
            if len(fields) != len(columns):
                raise StoreRefused(f"{store}, {collection}: a row has {len(fields)} fields")
            yield Row(values={c.name: _value(c.kind, f) for c, f in zip(columns, fields, strict=True)})

    return Rows(columns=columns, rows=rows())


def kind_of(type_name: str) -> Kind:
    """Of a type as PostgreSQL writes it, with its modifiers."""
    if type_name.endswith("[]"):
        return Kind.TEXT
    plain = re.sub(r"\([^)]*\)| with(out)? time zone", "", type_name).strip()
    return _KINDS.get(plain, Kind.TEXT)


def _value(kind: Kind, field: bytes) -> Any:
    if field == _NULL:
        return None
    text = _ESCAPE.sub(lambda found: _MEANING.get(found[1], found[1]), field).decode()
    read = _READ.get(kind)
    return text if read is None else read(text)
