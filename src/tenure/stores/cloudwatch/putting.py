"""Events brought into a store with the times they had: a stream is made where there is none, and who returns has seen
what it has put."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from botocore.exceptions import ClientError

from tenure.errors import StoreUnavailable
from tenure.stores.cloudwatch.errors import NOT_FOUND, code_of, translated
from tenure.stores.cloudwatch.events import Event, Put, Stream, batches, put

if TYPE_CHECKING:
    from tenure.stores.cloudwatch.store import LogsStore

SHOWN_WITHIN_S: Final = 30.0
"""How long CloudWatch Logs may take to show an event it has accepted; ordinarily seconds."""
SHOWN_LOOK_S: Final = 0.1


def bring(
    store: LogsStore,
    stream: Stream,
    events: Counter[Event],
    *,
    retention_days: Callable[[], int | None],
    allowed: Callable[[], None],
    too_old: Callable[[int], None],
) -> int:
    """Put these events; return how many bytes were taken. A group that is made gets that retention. Events up to the
    time that `too_old` is told were refused."""
    moved = 0
    for batch in batches(events.elements()):
        allowed()
        with translated(store.where):
            done = _put_or_make(store, stream, batch, retention_days)
            _await_shown(store, stream, done.taken)
        if done.too_old is not None:
            too_old(done.too_old)
        moved += sum(event.size_bytes for event in done.taken)
    return moved


def _put_or_make(
    store: LogsStore, stream: Stream, batch: list[Event], retention_days: Callable[[], int | None]
) -> Put:
    group = store.groups.full(stream.group)
    try:
        return put(store.putter, group, stream.name, batch)
    except ClientError as error:
        if code_of(error) != NOT_FOUND:
            raise
    store.groups.make(stream, retention_days=retention_days())
    return put(store.putter, group, stream.name, batch)


def _await_shown(store: LogsStore, stream: Stream, taken: Sequence[Event]) -> None:
    """Return when the events can be read: whoever looks at the hour next must not take them for missing."""
    deadline = time.monotonic() + SHOWN_WITHIN_S
    wanted = Counter(taken)
    while taken:
        shown = Counter(store.events(stream, start=taken[0].timestamp, end=taken[-1].timestamp + 1))
        if not wanted - shown:
            return
        if time.monotonic() > deadline:
            raise StoreUnavailable(
                f"{store.where}: events that were accepted for {stream} cannot be read yet",
                hint="CloudWatch Logs shows them in a while; try again",
            )
        time.sleep(SHOWN_LOOK_S)
