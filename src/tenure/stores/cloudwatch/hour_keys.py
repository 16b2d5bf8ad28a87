"""The keys of hours of log streams, as the app touches them, copies compare them and backups name them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from tenure.stores.cloudwatch.events import Stream

EDGE: Final = timedelta(minutes=5)
"""Events so close to the oldest that PutLogEvents takes are left out: they would be too old when they arrive."""
_HOUR: Final = "%Y-%m-%dT%H"


def key_of(stream: Stream, timestamp: int) -> str:
    """The key of the hour in which an event of that time lies: `GROUP:STREAM:2026-11-23T15`, in UTC."""
    return f"{stream}:{datetime.fromtimestamp(timestamp / 1000, UTC).strftime(_HOUR)}"


def parsed(key: str) -> tuple[Stream, int | None] | None:
    """The stream of a key and the beginning of its hour, None for the whole stream; None if it is no such key."""
    group, _, rest = key.partition(":")
    name, _, hour = rest.partition(":")
    if not group or not name:
        return None
    if not hour:
        return Stream(group, name), None
    try:
        began = datetime.strptime(hour, _HOUR).replace(tzinfo=UTC)
    except ValueError:
        return None
    return Stream(group, name), round(began.timestamp()) * 1000
