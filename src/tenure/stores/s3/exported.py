"""Objects in a backup, for a portable export: a row about each, and its contents as a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tenure.backups.contract import Source
from tenure.model.names import StoreName
from tenure.stores.exports import Column, File, Kind, Row, Rows
from tenure.stores.records import latest

FORM: Final = "s3-objects/1"
_COLUMNS: Final = (
    Column(name="key", kind=Kind.TEXT),
    Column(name="size", kind=Kind.INTEGER),
    Column(name="headers", kind=Kind.JSON),
    Column(name="metadata", kind=Kind.JSON),
    Column(name="tags", kind=Kind.JSON),
)


def objects_of(source: Source, store: StoreName, collection: str) -> Rows:
    def rows() -> Iterator[Row]:
        for record in latest(source, store, collection, FORM, str(store)):
            key = record.key.decode()
            about = {name: dict(record.head.get(name, ())) for name in ("headers", "metadata", "tags")}
            yield Row(
                values={"key": key, "size": record.head["size"], **about},
                file=File(name=key, blocks=record.body),
            )

    return Rows(columns=_COLUMNS, rows=rows())
