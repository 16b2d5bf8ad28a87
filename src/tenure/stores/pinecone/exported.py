"""Records of an index in a backup, for a portable export."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tenure.backups.contract import Source
from tenure.model.names import StoreName
from tenure.stores.exports import Column, Kind, Row, Rows
from tenure.stores.pinecone.backup import unpacked
from tenure.stores.records import latest

FORM: Final = "pinecone-records/1"
_COLUMNS: Final = (
    Column(name="id", kind=Kind.TEXT),
    Column(name="values", kind=Kind.JSON),
    Column(name="sparse", kind=Kind.JSON),
    Column(name="metadata", kind=Kind.JSON),
)


def records_of(source: Source, store: StoreName, collection: str) -> Rows:
    """Values as numbers of 64 bits that are those of 32 bits; sparse weights as pairs of index and weight."""

    def rows() -> Iterator[Row]:
        for frame in latest(source, store, collection, FORM, str(store)):
            record = unpacked(frame)
            yield Row(
                values={
                    "id": record.id,
                    "values": list(record.values),
                    "sparse": [list(pair) for pair in record.sparse],
                    "metadata": record.metadata,
                }
            )

    return Rows(columns=_COLUMNS, rows=rows())
