"""Log events: reading those of a stream to the end, whatever becomes of a page token, and writing them as they were.

The limits are those of PutLogEvents (CloudWatch Logs API reference, PutLogEvents): a batch is in chronological order,
has at most 10,000 events, 1,048,576 bytes (each message in UTF-8 plus 26) and 24 hours; events more than 2 hours in the
future, older than 14 days or older than the group's retention are rejected while the others are taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from botocore.exceptions import ClientError

from tenure.errors import StoreUnavailable
from tenure.stores.cloudwatch.errors import BAD_PARAMETER, NOT_FOUND, code_of
from tenure.stores.contract import Pace, unhurried

OVERHEAD_BYTES: Final = 26
BATCH_EVENTS: Final = 10_000
BATCH_BYTES: Final = 1_048_576
BATCH_SPAN_MS: Final = 24 * 3_600_000
ACCEPTED_AGE: Final = timedelta(days=14)
HOUR_MS: Final = 3_600_000
TOKEN_FAILURES: Final = 3
_MASK: Final = (1 << 128) - 1


@dataclass(frozen=True, slots=True, order=True)
class Event:
    """One event as it was put: its time in milliseconds since 1970, and its message. `ingested`: when CloudWatch Logs
    took it, by its own clock; no part of what makes events equal."""

    timestamp: int
    message: str
    ingested: int = field(default=0, compare=False)

    @property
    def size_bytes(self) -> int:
        """What CloudWatch Logs counts it as."""
        return len(self.message.encode("utf-8", "surrogatepass")) + OVERHEAD_BYTES

    @property
    def digest(self) -> int:
        content = f"{self.timestamp}\0{self.message}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(content, digest_size=16).digest(), "little")


@dataclass(frozen=True, order=True)
class Stream:
    """A stream by its names, the group's without what all groups of the cell begin with."""

    group: str
    name: str

    def __str__(self) -> str:
        return f"{self.group}:{self.name}"


@dataclass(slots=True)
class Sum:
    """Count, bytes and digest of events in any order."""

    events: int = 0
    size_bytes: int = 0
    total: int = 0

    def add(self, event: Event) -> None:
        self.events += 1
        self.size_bytes += event.size_bytes
        self.total = (self.total + event.digest) & _MASK

    @property
    def digest(self) -> str:
        return f"{self.total:032x}"


def read(
    client: Any,
    group: str,
    stream: str,
    *,
    start: int = 0,
    end: int | None = None,
    pace: Pace = unhurried,
) -> Iterator[Event]:
    """The stream's events from `start` on and before `end`, in the order of their times; none where it does not exist.

    The events of one millisecond are given out together, once the next one has come: so if a page token is refused (it
    expires after 24 hours), reading goes on at that millisecond and neither leaves out nor repeats anything.
    """
    held: list[Event] = []
    token: str | None = None
    failures = 0
    bounds = {} if end is None else {"endTime": end}
    while True:
        position = {} if token is None else {"nextToken": token}
        try:
            page = client.get_log_events(
                logGroupName=group,
                logStreamName=stream,
                startTime=start,
                startFromHead=True,
                **bounds,
                **position,
            )
        except ClientError as error:
            if code_of(error) == NOT_FOUND:
                return
            if token is None or code_of(error) != BAD_PARAMETER or failures == TOKEN_FAILURES:
                raise
            failures += 1
            start, token = (held[0].timestamp if held else start), None
            held.clear()
            continue
        events = [Event(e["timestamp"], e["message"], e.get("ingestionTime", 0)) for e in page["events"]]
        pace(items=len(events), size_bytes=sum(e.size_bytes for e in events))
        for event in events:
            if end is not None and event.timestamp >= end:
                continue
            if held and held[0].timestamp != event.timestamp:
                failures = 0
                yield from held
                held.clear()
            held.append(event)
        if page["nextForwardToken"] == token:  # empty pages do not end a stream; the same token again does
            yield from held
            return
        token = page["nextForwardToken"]


def batches(events: Iterable[Event]) -> Iterator[list[Event]]:
    """The events, in the order of their times, in as many requests as PutLogEvents takes."""
    batch: list[Event] = []
    size = 0
    for event in sorted(events, key=lambda e: e.timestamp):
        if batch and (
            len(batch) == BATCH_EVENTS
            or size + event.size_bytes > BATCH_BYTES
            or event.timestamp - batch[0].timestamp >= BATCH_SPAN_MS
        ):
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += event.size_bytes
    if batch:
        yield batch


@dataclass(frozen=True, kw_only=True)
class Put:
    """What became of a batch. `taken` were accepted for certain; of the others, those up to `too_old` (a time) never
    will be."""

    taken: Sequence[Event]
    too_old: int | None = None


def put(client: Any, group: str, stream: str, batch: Sequence[Event]) -> Put:
    """Send one batch, once: a repeated request would put its events twice, so whoever gets no answer looks first.

    Raises `StoreUnavailable` if events were refused as too far in the future: they are taken later.
    """
    answer = client.put_log_events(
        logGroupName=group,
        logStreamName=stream,
        logEvents=[{"timestamp": e.timestamp, "message": e.message} for e in batch],
    )
    rejected = answer.get("rejectedLogEventsInfo") or {}
    if "tooNewLogEventStartIndex" in rejected:
        raise StoreUnavailable(f"events of {group}:{stream} are too far in the future for CloudWatch Logs")
    old = [rejected[k] for k in ("tooOldLogEventEndIndex", "expiredLogEventEndIndex") if k in rejected]
    if not old:
        return Put(taken=batch)
    # The index is exclusive by the reference, and inclusive in some answers: the event at it may be either.
    last = min(max(old), len(batch) - 1)
    return Put(taken=batch[last + 1 :], too_old=batch[max(last - 1, 0)].timestamp)
