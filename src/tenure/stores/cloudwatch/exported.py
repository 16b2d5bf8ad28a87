"""Log events in a backup, for a portable export: a row for each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from tenure.backups.contract import Source
from tenure.model.names import StoreName
from tenure.stores.exports import Column, Kind, Row, Rows, lines
from tenure.stores.records import latest

FORM: Final = "log-events/1"
_COLUMNS: Final = (Column(name="time", kind=Kind.MOMENT), Column(name="message", kind=Kind.TEXT))


def events_of(source: Source, store: StoreName, collection: str) -> Rows:
    def rows() -> Iterator[Row]:
        for record in latest(source, store, collection, FORM, str(store)):
            for line in lines(record.body, f"{store}, {collection}"):
                event = json.loads(line)
                at = datetime.fromtimestamp(event["timestamp"] / 1000, UTC)
                yield Row(values={"time": at.isoformat(timespec="milliseconds"), "message": event["message"]})

    return Rows(columns=_COLUMNS, rows=rows())
