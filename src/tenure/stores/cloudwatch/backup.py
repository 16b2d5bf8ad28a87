"""Log events as they go into a backup and come back: what `JournaledCapture` and `JournaledRestoring` need to know.

A collection is a stream, an item an hour of it; its body is a line of JSON for each event, with `timestamp`
(milliseconds since 1970) and `message`, in the order of their times. The stamp is the number of events with their
digest.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from typing import IO, TYPE_CHECKING, Any, Final

from tenure.backups.contract import Source
from tenure.backups.contract import Stream as BackupStream
from tenure.catalogue import LogPlace, NamePattern
from tenure.catalogue.patterns import PLACEHOLDER
from tenure.errors import StoreRefused, StoreUnavailable
from tenure.model.finding import Finding, Severity
from tenure.model.names import TenantId
from tenure.stores.cloudwatch.errors import translated
from tenure.stores.cloudwatch.events import ACCEPTED_AGE, HOUR_MS, Event, Stream, Sum
from tenure.stores.cloudwatch.hour_keys import EDGE, key_of, parsed
from tenure.stores.cloudwatch.putting import bring
from tenure.stores.journaled import Packed, Place
from tenure.stores.journaled.backup_ports import ALL, STAMP, Allowed
from tenure.stores.records import Record, records

if TYPE_CHECKING:
    from tenure.stores.cloudwatch.store import LogsStore

LATE_HOURS: Final = 2
LATE_EVERY_S: Final = 30.0
"""How often the last hours are looked through for what shippers have delivered late."""
KEPT_BYTES: Final = 16 << 20
"""So many bytes of hours are kept from when they were listed until they are packed, and of one hour in memory."""
BLOCK: Final = 1 << 20
ATTEMPTS: Final = 6
PAUSE_S: Final = 0.2
"""Before an hour is looked at again; twice as long each time."""
ABOUT_BYTES: Final = 200
"""What an event is taken to hold, where nobody has looked."""


class _Hour:
    """The events of one hour as they are written, in memory, or in a file without a name where they are many."""

    def __init__(self) -> None:
        self.sum: Final = Sum()
        self._lines = bytearray()
        self._file: IO[bytes] | None = None

    def add(self, event: Event) -> None:
        self.sum.add(event)
        self._lines += line_of(event)
        if len(self._lines) > KEPT_BYTES:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115
            self._file.write(self._lines)
            self._lines.clear()

    @property
    def in_memory(self) -> bool:
        return self._file is None

    @property
    def stamp(self) -> str:
        return stamp_of(self.sum)

    def blocks(self) -> Iterator[bytes]:
        """Once."""
        if self._file is not None:
            self._file.seek(0)
            while block := self._file.read(BLOCK):
                yield block
            self.close()
        yield bytes(self._lines)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def stamp_of(total: Sum) -> str:
    return f"{total.events}:{total.digest}"


def line_of(event: Event) -> bytes:
    return json.dumps({"timestamp": event.timestamp, "message": event.message}).encode() + b"\n"


def events_of(record: Record) -> Counter[Event]:
    """The events of an hour in a backup, each as often as it is there."""
    events: Counter[Event] = Counter()
    rest = b""
    for block in record.body:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            fields = json.loads(line)
            events[Event(fields["timestamp"], fields["message"])] += 1
    return events


class HourItems:
    """Implements `Packing`: one tenant's hours with events, of the streams that are its own."""

    form: Final = "log-events/1"

    def __init__(self, store: LogsStore, tenant: TenantId) -> None:
        self._store: Final = store
        self._tenant: Final = tenant
        self._kept: Final[dict[str, _Hour]] = {}
        self._kept_bytes = 0
        self._looked_at = 0.0

    def fresh(self) -> None:
        """What CloudWatch Logs shows is what there is; nothing says when it has shown everything."""

    def collections(self) -> Sequence[str]:
        with translated(self._store.where):
            return [str(stream) for stream in self._store.groups.of(self._tenant)]

    def keys(self, collection: str) -> Iterator[Sequence[str]]:
        """Nothing lists hours: reads the stream, and keeps what it has read for `pack`, as far as that is little."""
        self._kept.clear()
        self._kept_bytes = 0
        stream = stream_of(collection)
        events = self._store.events(stream)
        grouped = groupby(events, key=lambda event: event.timestamp // HOUR_MS)
        while True:
            with translated(self._store.where):
                found = next(grouped, None)
                if found is None:
                    return
                key = key_of(stream, found[0] * HOUR_MS)
                hour = _Hour()
                for event in found[1]:
                    hour.add(event)
            self._keep(key, hour)
            yield [key]

    def _keep(self, key: str, hour: _Hour) -> None:
        if hour.in_memory and self._kept_bytes + hour.sum.size_bytes <= KEPT_BYTES:
            self._kept[key] = hour
            self._kept_bytes += hour.sum.size_bytes
        else:
            hour.close()

    def _read(self, key: str) -> _Hour | None:
        """The hour as it is now; None where it has no events."""
        stream, start = hour_of(key)
        hour = _Hour()
        with translated(self._store.where):
            for event in self._store.events(stream, start=start, end=start + HOUR_MS):
                hour.add(event)
        return hour if hour.sum.events else None

    def stamps(self, collection: str, keys: Sequence[str]) -> Mapping[str, str]:  # noqa: ARG002
        sums = self._store.pool.map(self._sum, keys)
        return {key: stamp_of(total) for key, total in zip(keys, sums, strict=True) if total.events}

    def _sum(self, key: str) -> Sum:
        total = Sum()
        stream, start = hour_of(key)
        with translated(self._store.where):
            for event in self._store.events(stream, start=start, end=start + HOUR_MS):
                total.add(event)
        return total

    def named(self, key: str) -> Iterable[Place]:
        found = parsed(key)
        if found is None or self._store.groups.owner(found[0]) != self._tenant:
            return ()
        return (Place(str(found[0]), ALL if found[1] is None else key),)

    def suspects(self) -> Iterable[Place]:
        """The last hours, from time to time: shippers deliver after the app's transaction."""
        if time.monotonic() - self._looked_at < LATE_EVERY_S:
            return
        self._looked_at = time.monotonic()
        now = round(time.time() * 1000)
        for collection in self.collections():
            for ago in range(LATE_HOURS + 1):
                yield Place(collection, key_of(stream_of(collection), now - ago * HOUR_MS))

    def pack(self, collection: str, keys: Sequence[str]) -> Iterator[Packed]:  # noqa: ARG002
        kept = {key: self._kept.pop(key) for key in keys if key in self._kept}
        self._kept_bytes -= sum(hour.sum.size_bytes for hour in kept.values())
        for key in keys:
            hour = kept.pop(key, None) or self._read(key)
            if hour is not None:
                yield self._packed(key, hour)

    @staticmethod
    def _packed(key: str, hour: _Hour) -> Packed:
        return Packed(
            key=key,
            head={STAMP: hour.stamp, "events": hour.sum.events},
            body=hour.blocks(),
            items=hour.sum.events,
            size_bytes=hour.sum.size_bytes,
            digest=hour.sum.total,
        )

    def fingerprint(self, collection: str) -> None:  # noqa: ARG002
        """Events have no schema."""
        return

    def facts(self) -> Mapping[str, Any]:
        with translated(self._store.where):
            groups = self._store.groups.groups_of(self._tenant)
        return {"retention_days": {group.name: group.retention_days for group in groups}}

    def findings(self) -> Sequence[Finding]:
        found = []
        with translated(self._store.where):
            groups, shared = self._store.groups.groups_of(self._tenant), self._store.groups.shared()
        for group in groups:
            if group.masks:
                found.append(
                    self._finding(
                        Severity.REFUSAL,
                        "events_are_masked",
                        group.name,
                        "a data protection policy hides parts of the events from Tenure: a backup would lack them",
                        "suspend the policy while the backup is taken",
                    )
                )
        for group in shared:
            found.append(
                self._finding(
                    Severity.WARNING,
                    "shared_streams_stay",
                    group.name,
                    "tenants share the streams of this group: its events are in no tenant's backup",
                    "log into a group or stream of each tenant's own",
                )
            )
        return found

    def _finding(self, severity: Severity, code: str, name: str, message: str, fix: str) -> Finding:
        return Finding(
            severity=severity, code=code, where=f"{self._store.where}, {name}", message=message, fix=fix
        )

    def amount(self) -> tuple[int, int]:
        """By what CloudWatch Logs says the groups hold, which lags behind and counts others' streams in them."""
        with translated(self._store.where):
            size_bytes = sum(group.stored_bytes for group in self._store.groups.groups_of(self._tenant))
        return size_bytes // ABOUT_BYTES, size_bytes


class HourUnpacking(HourItems):
    """Implements `Unpacking`. Events are added and never removed: CloudWatch Logs could not remove one alone, and what
    was logged after the backup is no difference. Hours older than PutLogEvents takes stay in the backup."""

    removes: Final = False

    def __init__(self, store: LogsStore, tenant: TenantId, origin: TenantId) -> None:
        super().__init__(store, tenant)
        self._origin: Final = origin
        self._retention: dict[str, int | None] = {}
        self._live: Final[dict[str, str | None]] = {}
        """Stamps of hours that were compared, until they are asked for."""

    def about(self, source: Source) -> None:
        kept = source.facts(self._store.name).get("retention_days", {})
        self._retention = {
            self._renamed(self._place_of(group).group, group): days
            for group, days in kept.items()
            if self._store.groups.place_of(group) is not None
        }
        with translated(self._store.where):
            groups = self._store.groups.groups_of(self._tenant)
        self._retention.update({group.name: group.retention_days for group in groups})

    def _place_of(self, group: str) -> LogPlace:
        place = self._store.groups.place_of(group)
        if place is None:
            raise StoreRefused(
                f"{self._store.where}: the catalogue names no log group {group}, which the backup has",
                hint="name it in the catalogue, or leave it out of what is restored",
            )
        return place

    def here(self, place: Place) -> Place:
        stream = stream_of(place.collection)
        named = self._place_of(stream.group)
        group = self._renamed(named.group, stream.group)
        name = stream.name if named.streams is None else self._renamed(named.streams, stream.name)
        there = Stream(group, name)
        if self._store.groups.owner(there) != self._tenant:
            raise StoreRefused(f"{self._store.where}: {there} would not be {self._tenant}'s")
        hour = place.key.rpartition(":")[2]
        return Place(str(there), f"{there}:{hour}" if place.key else "")

    def _renamed(self, pattern: NamePattern, name: str) -> str:
        before, own, _ = pattern.text.partition(PLACEHOLDER)
        if not own or not name.startswith(before + self._origin):
            return name
        return before + self._tenant + name[len(before) + len(self._origin) :]

    def oldest(self, group: str) -> datetime:
        """Whatever is older is not taken: by the limits of PutLogEvents, and some minutes for the way."""
        days = self._retention.get(group)
        age = ACCEPTED_AGE if days is None else min(ACCEPTED_AGE, timedelta(days=days))
        return datetime.now(UTC) - age + EDGE

    def takes(self, place: Place) -> bool:
        """Not where a part of the hour is too old."""
        stream, start = hour_of(place.key)
        return start >= self.oldest(stream.group).timestamp() * 1000

    def stamp(self, record: Record) -> str:
        """That of the hour as it is here, if it lacks nothing of the backup's."""
        key = self.here(Place(record.key.decode().rpartition(":")[0], record.key.decode())).key
        live = self._live_events(key)
        total = Sum()
        for event in live.elements():
            total.add(event)
        self._live[key] = stamp_of(total) if live else None
        return "lacks events" if events_of(record) - live else stamp_of(total)

    def stamps(self, collection: str, keys: Sequence[str]) -> Mapping[str, str]:
        known = {key: self._live.pop(key) for key in keys if key in self._live}
        found = super().stamps(collection, [key for key in keys if key not in known])
        return {**found, **{key: stamp for key, stamp in known.items() if stamp is not None}}

    def _live_events(self, key: str) -> Counter[Event]:
        stream, start = hour_of(key)
        with translated(self._store.where):
            return Counter(self._store.events(stream, start=start, end=start + HOUR_MS))

    def write(self, records: Iterator[tuple[Place, Record]], allowed: Allowed) -> Iterator[tuple[int, int]]:
        """Adds what each hour lacks. What was not answered is looked at again, so that nothing is there twice. Raises
        `StoreRefused` for events that are refused as too old nevertheless."""
        for place, record in records:
            wanted = events_of(record)
            for attempt in range(ATTEMPTS):
                try:
                    yield 1, self._add(place, wanted, allowed)
                    break
                except StoreUnavailable:
                    if attempt == ATTEMPTS - 1:
                        raise
                time.sleep(PAUSE_S * 2**attempt)

    def _add(self, place: Place, wanted: Counter[Event], allowed: Allowed) -> int:
        def too_old(newest: int) -> None:
            at = datetime.fromtimestamp(newest / 1000, UTC)
            raise StoreRefused(
                f"{self._store.where}: events of {place.key} up to {at:%H:%M:%S} UTC were refused as too old",
                hint="the group's retention has become shorter: restore again, which leaves them out and says so",
            )

        stream = stream_of(place.collection)
        return bring(
            self._store,
            stream,
            wanted - self._live_events(place.key),
            retention_days=partial(self._retention.get, stream.group),
            allowed=allowed,
            too_old=too_old,
        )

    def remove(self, collection: str, keys: Sequence[str], allowed: Allowed) -> None:  # noqa: ARG002
        raise StoreRefused(f"{self._store.where} cannot delete single events")

    def backup_findings(self, source: Source) -> Sequence[Finding]:
        """Looks at the first hour of each stream of the backup."""
        old: dict[str, datetime] = {}
        for stream in source.streams(self._store.name):
            here = self.here(Place(stream.collection, ""))
            group = stream_of(here.collection).group
            first = _first_hour(source, stream)
            if first is not None and first < self.oldest(group):
                old[group] = min(first, old.get(group, first))
        return [
            self._finding(
                Severity.WARNING,
                "events_too_old",
                group,
                f"the backup has events from {first:%Y-%m-%d %H:%M} UTC on, and CloudWatch Logs takes none from before"
                f" {self.oldest(group):%Y-%m-%d %H:%M} UTC (14 days, or the retention): these hours are left out",
                "export the backup to have them: they stay in it",
            )
            for group, first in sorted(old.items())
        ]


def _first_hour(source: Source, stream: BackupStream) -> datetime | None:
    first = next(records(source.read(stream), stream.collection), None)
    return None if first is None else datetime.fromtimestamp(hour_of(first.key.decode())[1] / 1000, UTC)


def hour_of(key: str) -> tuple[Stream, int]:
    """The stream and the beginning of the hour that the key of an item names."""
    found = parsed(key)
    if found is None or found[1] is None:
        raise StoreRefused(f"{key!r} names no hour of a log stream")
    return found[0], found[1]


def stream_of(collection: str) -> Stream:
    group, _, name = collection.partition(":")
    return Stream(group, name)
