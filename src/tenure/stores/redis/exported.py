"""Keys in a backup, for a portable export: each value as JSON, whatever its type. The forms of bodies are described in
`backup_values`."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from tenure.backups.contract import Source
from tenure.model.names import StoreName
from tenure.stores.exports import Column, Kind, Row, Rows, text_or_bytes
from tenure.stores.records import latest
from tenure.stores.redis.backup_values import FORM

_LENGTH: Final = 4
_COLUMNS: Final = (
    Column(name="key", kind=Kind.JSON),
    Column(name="type", kind=Kind.TEXT),
    Column(name="expires_at", kind=Kind.MOMENT),
    Column(name="value", kind=Kind.JSON),
)


def keys_of(source: Source, store: StoreName, collection: str) -> Rows:
    """Texts are JSON strings; what is no UTF-8 is `{"hex": ...}`. A stream's consumer groups are left out: they are the
    app's place in it, and no data of anybody."""

    def rows() -> Iterator[Row]:
        for record in latest(source, store, collection, FORM, str(store)):
            expires = record.head.get("expires_at")
            yield Row(
                values={
                    "key": text_or_bytes(record.key),
                    "type": record.head["type"],
                    "expires_at": None if expires is None else _moment(int(expires)),
                    "value": value_of(record.head, record.whole()),
                }
            )

    return Rows(columns=_COLUMNS, rows=rows())


def value_of(head: Mapping[str, Any], body: bytes) -> Any:
    match head["type"]:
        case "string":
            return text_or_bytes(body)
        case "list" | "set":
            return [text_or_bytes(each) for each in _elements(body)]
        case "hash":
            parts = _elements(body)
            expiries = {place: _moment(at) for place, at in head.get("fields_expire", ())}
            return [
                {"field": text_or_bytes(field), "value": text_or_bytes(value)}
                | ({"expires_at": expiries[n]} if n in expiries else {})
                for n, (field, value) in enumerate(zip(parts[::2], parts[1::2], strict=True))
            ]
        case "zset":
            parts = _elements(body)
            return [
                {"member": text_or_bytes(member), "score": score.decode()}
                for member, score in zip(parts[::2], parts[1::2], strict=True)
            ]
        case "stream":
            return list(_entries(_elements(body)[1:]))
    return {"dump": base64.b64encode(body).decode()}


def _entries(parts: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    at = 0
    while at < len(parts):
        identifier, count = parts[at], 2 * int(parts[at + 1])
        fields = parts[at + 2 : at + 2 + count]
        yield {
            "id": identifier.decode(),
            "fields": [
                [text_or_bytes(n), text_or_bytes(v)] for n, v in zip(fields[::2], fields[1::2], strict=True)
            ],
        }
        at += 2 + count


def _elements(body: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(body):
        length = int.from_bytes(body[at : at + _LENGTH], "little")
        found.append(body[at + _LENGTH : at + _LENGTH + length])
        at += _LENGTH + length
    return found


def _moment(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
