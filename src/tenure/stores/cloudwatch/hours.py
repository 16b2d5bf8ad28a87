"""A tenant's events on both sides of a link, hour by hour of each stream: listed, compared, and brought together."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Final, NamedTuple

from tenure.model.comparison import DifferenceKind
from tenure.model.names import TenantId
from tenure.stores.cloudwatch.errors import translated
from tenure.stores.cloudwatch.events import ACCEPTED_AGE, HOUR_MS, Event, Stream, Sum
from tenure.stores.cloudwatch.hour_keys import EDGE, key_of, parsed
from tenure.stores.cloudwatch.putting import bring
from tenure.stores.cloudwatch.store import LogsStore
from tenure.stores.journaled import Allowed, Item, Tally

RETENTION_KNOWN_S: Final = 60.0

Events = Counter[Event]


class Version(NamedTuple):
    """What tells two states of an hour apart."""

    events: int
    digest: str


def missing(here: Events, there: Events) -> Events:
    """What `there` lacks of `here`, as often as it lacks it."""
    return here - there


def strange(here: Events, there: Events) -> Events:
    """What only `there` has. Another copy of an event that is here as well is not strange."""
    return Counter({event: n for event, n in there.items() if event not in here})


class Hours:
    """The events of one tenant that can be copied between these two stores, in either direction."""

    def __init__(self, source: LogsStore, target: LogsStore, tenant: TenantId) -> None:
        self.source: Final = source
        self.target: Final = target
        self.tenant: Final = tenant
        self._lock = threading.Lock()
        self._retention: dict[str, tuple[float, int | None]] = {}
        self._floor: dict[str, int] = {}
        self._copied: dict[str, int] = {}

    # -- which events there are ---------------------------------------------------------------------------------------

    def mine(self, key: str) -> bool:
        found = parsed(key)
        return found is not None and self.source.groups.owner(found[0]) == self.tenant

    def streams(self, *stores: LogsStore) -> list[Stream]:
        found: set[Stream] = set()
        for store in stores:
            with translated(store.where):
                found.update(store.groups.of(self.tenant))
        return sorted(found)

    def oldest(self, group: str) -> int:
        """The time of the oldest events that PutLogEvents takes on both sides, and a little: older ones are neither
        copied nor compared."""
        now = datetime.now(UTC)
        days = self.retention_days(group)
        age = ACCEPTED_AGE if days is None else min(ACCEPTED_AGE, timedelta(days=days))
        with self._lock:
            floor = self._floor.get(group, 0)
        return max(round((now - age + EDGE).timestamp() * 1000), floor)

    def retention_days(self, group: str) -> int | None:
        """The shorter retention of both sides' groups."""
        with self._lock:
            at, known = self._retention.get(group, (-RETENTION_KNOWN_S, None))
        if time.monotonic() - at < RETENTION_KNOWN_S:
            return known
        days = []
        for store in (self.source, self.target):
            with translated(store.where):
                found = store.groups.group(group)
            days += [found.retention_days] if found is not None and found.retention_days is not None else []
        with self._lock:
            self._retention[group] = time.monotonic(), min(days, default=None)
        return min(days, default=None)

    def leave_out(self, group: str, newest: int) -> None:
        """Events up to this time were refused as too old: they stay where they are."""
        with self._lock:
            self._floor[group] = max(self._floor.get(group, 0), newest + 1)

    def note_copied(self, key: str, ours: Events) -> None:
        """These are the source's events of the hour that are about to be on the target."""
        with self._lock:
            self._copied[key] = max((event.ingested for event in ours), default=0)

    def _were_there(self, key: str, ours: Events) -> Events:
        """Of the source's events those that were there when the hour was last copied; all where it was not."""
        with self._lock:
            until = self._copied.get(key)
        return ours if until is None else Counter({e: n for e, n in ours.items() if e.ingested <= until})

    def events(self, store: LogsStore, stream: Stream, start: int, *, oldest: int) -> Events:
        """The events of the hour that begins then, from `oldest` on."""
        with translated(store.where):
            return Counter(store.events(stream, start=max(start, oldest), end=start + HOUR_MS))

    def both(self, stream: Stream, start: int) -> tuple[Events, Events]:
        """That hour of both sides as far as it can be copied, read at the same time and from the same instant on."""
        oldest = self.oldest(stream.group)
        theirs = self.target.pool.submit(self.events, self.target, stream, start, oldest=oldest)
        return self.events(self.source, stream, start, oldest=oldest), theirs.result()

    def by_hour(self, store: LogsStore, stream: Stream, since: int) -> Iterator[tuple[int, Events]]:
        """Every hour with events, from `since` on, in order."""
        with translated(store.where):
            for hour, events in groupby(
                store.events(stream, start=since), key=lambda e: e.timestamp // HOUR_MS * HOUR_MS
            ):
                yield hour, Counter(events)

    # -- comparing ----------------------------------------------------------------------------------------------------

    def paired(self, stream: Stream, since: int) -> Iterator[tuple[int, Events, Events]]:
        """Every hour that has events on either side, with both sides' events."""
        ours = self.by_hour(self.source, stream, since)
        theirs = self.by_hour(self.target, stream, since)
        here, there = next(ours, None), next(theirs, None)
        while here is not None or there is not None:
            hour = min(found[0] for found in (here, there) if found is not None)
            ours_now = here[1] if here is not None and here[0] == hour else Counter[Event]()
            theirs_now = there[1] if there is not None and there[0] == hour else Counter[Event]()
            yield hour, ours_now, theirs_now
            if here is not None and here[0] == hour:
                here = next(ours, None)
            if there is not None and there[0] == hour:
                there = next(theirs, None)

    def compare(self, stream: Stream, since: int | None = None) -> Tally:
        """The stream as far as it can be copied, from `since` on."""
        tally = Tally()
        oldest = self.oldest(stream.group)
        for hour, ours, theirs in self.paired(stream, max(oldest, since or 0)):
            _compare(tally, key_of(stream, hour), ours, theirs, wanted=ours)
        return tally

    def compare_hour(self, stream: Stream, start: int, *, late: bool) -> Tally:
        """One hour; `late`: with what shippers have delivered since it was copied, which a later pass brings."""
        tally, key = Tally(), key_of(stream, start)
        ours, theirs = self.both(stream, start)
        if ours or theirs:
            _compare(tally, key, ours, theirs, wanted=ours if late else self._were_there(key, ours))
        return tally

    def differing(self, *, since_hours: int) -> list[str]:
        """The hours that differ, of the last so many."""
        since = round(time.time() * 1000) - since_hours * HOUR_MS
        return [
            key
            for stream in self.streams(self.source, self.target)
            for key in self.compare(stream, since).differing
        ]


def _compare(tally: Tally, key: str, ours: Events, theirs: Events, *, wanted: Events) -> None:
    """`wanted`: those of ours that have to be there already."""
    tally.processed.add(key)
    tally.bytes_read += sum(e.size_bytes * n for events in (ours, theirs) for e, n in events.items())
    if wanted and not theirs:
        tally.differing[key] = DifferenceKind.MISSING
    elif not ours:
        tally.differing[key] = DifferenceKind.EXTRA
    elif missing(wanted, theirs) or strange(ours, theirs):
        tally.differing[key] = DifferenceKind.MISMATCHED


class Listing:
    """Lists by reading: CloudWatch Logs neither tells how many events a stream has nor, safely, when the last was."""

    def __init__(self, hours: Hours) -> None:
        self._hours = hours

    def source(self) -> Mapping[str, Item[Version]]:
        return self._listed(self._hours.source)

    def target(self) -> Mapping[str, Item[Version]]:
        return self._listed(self._hours.target)

    def _listed(self, store: LogsStore) -> dict[str, Item[Version]]:
        streams = self._hours.streams(store)
        return {
            key: item
            for some in store.pool.map(lambda s: self._items(store, s), streams)
            for key, item in some
        }

    def _items(self, store: LogsStore, stream: Stream) -> list[tuple[str, Item[Version]]]:
        found = []
        for hour, events in self._hours.by_hour(store, stream, self._hours.oldest(stream.group)):
            total = Sum()
            for event in events.elements():
                total.add(event)
            version = Version(total.events, total.digest)
            found.append((key_of(stream, hour), Item(version=version, size=total.size_bytes)))
        return found

    def current(self, source: Item[Version], target: Item[Version]) -> bool:
        return source.version == target.version

    def mine(self, key: str) -> bool:
        return self._hours.mine(key)

    def collection(self, key: str) -> str:
        found = parsed(key)
        return self._hours.source.collection(found[0].group) if found is not None else key


class Comparer:
    def __init__(self, hours: Hours) -> None:
        self._hours = hours

    def everything(self, progress: Callable[[int], None]) -> Tally:
        hours = self._hours
        streams = hours.streams(hours.source, hours.target)
        tally = Tally()
        for part in hours.source.pool.map(hours.compare, streams):
            _add(tally, part)
            progress(len(tally.processed))
        return tally

    def these(self, keys: Collection[str], *, thorough: bool = True) -> Tally:
        """Not `thorough` while users wait: what shippers have delivered since the seal is left to a later pass."""
        tally = Tally()
        for part in self._hours.source.pool.map(lambda key: self._one(key, late=thorough), sorted(keys)):
            _add(tally, part)
        return tally

    def _one(self, key: str, *, late: bool) -> Tally:
        found = parsed(key)
        if found is None:
            return Tally()
        stream, start = found
        return (
            self._hours.compare(stream)
            if start is None
            else self._hours.compare_hour(stream, start, late=late)
        )


def _add(tally: Tally, part: Tally) -> None:
    tally.processed |= part.processed
    tally.differing |= part.differing
    tally.bytes_read += part.bytes_read


class Transfer:
    """Brings what one side of an hour lacks to it, with the times it had. Never removes an event."""

    def __init__(self, hours: Hours, allowed: Allowed) -> None:
        self._hours = hours
        self._allowed = allowed

    def expect(self, target: Mapping[str, Item[Version]], keys: Iterable[str]) -> None:
        """Each hour is read again right before it is copied."""

    def copy(self, keys: Sequence[str]) -> int:
        moved = 0
        for key in keys:
            found = parsed(key)
            if found is None:
                continue
            stream, start = found
            if start is not None:
                moved += self._bring_together(stream, start, *self._hours.both(stream, start))
            else:
                for hour, ours, theirs in self._hours.paired(stream, self._hours.oldest(stream.group)):
                    moved += self._bring_together(stream, hour, ours, theirs)
        return moved

    def _bring_together(self, stream: Stream, hour: int, ours: Events, theirs: Events) -> int:
        hours = self._hours
        hours.note_copied(key_of(stream, hour), ours)
        return self._put(hours.target, stream, missing(ours, theirs)) + self._put(
            hours.source, stream, strange(ours, theirs)
        )

    def _put(self, store: LogsStore, stream: Stream, events: Events) -> int:
        return bring(
            store,
            stream,
            events,
            retention_days=lambda: self._hours.retention_days(stream.group),
            allowed=lambda: self._allowed(0.0),
            too_old=lambda newest: self._hours.leave_out(stream.group, newest),
        )
