"""A tenant's keys made equal to a backup's. Every write is a script that checks the fence first, and makes keys by
commands that any server knows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from tenure.backups.contract import Source
from tenure.errors import FenceRefused, StoreRefused
from tenure.model.comparison import Difference, DifferenceKind
from tenure.model.finding import Finding, Severity
from tenure.model.names import TenantId
from tenure.stores.backup import EVERYTHING, Restored, Selection
from tenure.stores.contract import Fence, Pace, unhurried
from tenure.stores.records import Record, latest
from tenure.stores.redis import backup_values, canonical
from tenure.stores.redis.backup_index import Keys
from tenure.stores.redis.backup_values import FORM, Command, commands
from tenure.stores.redis.canonical import NO_EXPIRY, Value
from tenure.stores.redis.keyspace import Keyspace
from tenure.stores.redis.transfer import GUARD, PORTION_BYTES, Writer, portions

if TYPE_CHECKING:
    from tenure.stores.redis.store import RedisStore

BATCH: Final = 256
MAKE: Final = (
    GUARD
    + """
local i = 3
while i <= #ARGV do
  local n = tonumber(ARGV[i])
  redis.call(unpack(ARGV, i + 1, i + n))
  i = i + n + 1
end
return 1
"""
)
_RDB: Final = """
local key = redis.call('RANDOMKEY')
return key and redis.call('DUMP', key)
"""


class RedisRestoring:
    """Implements `tenure.stores.backup.Restoring`. Keys whose time has come since the backup are not brought back."""

    def __init__(self, store: RedisStore, tenant: TenantId, origin: TenantId) -> None:
        self._store: Final = store
        self._tenant: Final = tenant
        self._origin: Final = origin
        self._keys: Final[Keyspace] = store.keyspace(tenant)
        self._make: Any = None

    def preflight(self, source: Source) -> Sequence[Finding]:
        said = []
        try:
            self._collections(source)
        except StoreRefused as error:
            said.append(self._refusal("stream_unreadable", error.message, error.hint or ""))
        if reason := self._too_old(source):
            said.append(self._refusal("server_too_old", reason, "upgrade the server"))
        with self._store.translated():
            link = self._store.fencing(self._tenant).read().record.link
        if link:
            said.append(
                self._refusal(
                    "linked",
                    f"a link of {self._tenant} is there: it would carry, or lose, what is restored",
                    "complete or roll back the move first",
                )
            )
        return said

    def _refusal(self, code: str, message: str, fix: str) -> Finding:
        return Finding(
            severity=Severity.REFUSAL, code=code, where=self._store.where, message=message, fix=fix
        )

    def _too_old(self, source: Source) -> str:
        """Why values that are kept as a server serialised them cannot be loaded here; '' where they can, or where there
        are none, or where nothing tells."""
        wanted = int(source.facts(self._store.name).get("rdb_version", 0))
        if not wanted:
            return ""
        with self._store.translated():
            payload = self._store.nodes.current().masters[0].client.eval(_RDB, 0)
        known = backup_values.rdb_version(payload) if payload else wanted
        if known >= wanted:
            return ""
        return (
            f"the backup holds streams or values of modules in version {wanted} of the server's format,"
            f" and this server knows up to {known}"
        )

    # -- reading the backup ------------------------------------------------------------------------------------------

    def _collections(self, source: Source) -> list[str]:
        """Raises `StoreRefused` for streams of anybody else."""
        streams = source.streams(self._store.name)
        for stream in streams:
            if stream.header.get("items") != FORM or stream.header.get("tenant") != self._origin:
                raise StoreRefused(
                    f"{self._store.where}: the backup's stream of {stream.collection} is not {FORM} of {self._origin}",
                    hint="restore with the release that the backup names",
                )
        return list(dict.fromkeys(stream.collection for stream in streams))

    def _records(self, source: Source, selection: Selection) -> Iterator[tuple[str, bytes, Record]]:
        """Collection, key and record of what was chosen and has not expired."""
        now_ms = self._now_ms()
        for stored in self._collections(source):
            for record in latest(source, self._store.name, stored, FORM, self._store.where):
                key = self._keys.prefix + record.key
                name = self._keys.collection(key)
                if not self._keys.owns(key) or not selection.has_collection(name):
                    continue
                keys = selection.keys(name)
                if keys is not None and self._keys.text(key) not in keys:
                    continue
                if not _expired(record.head, now_ms):
                    yield name, key, record

    def _now_ms(self) -> int:
        """By the server's clock."""
        with self._store.translated():
            seconds, micros = self._store.nodes.seed.time()
        return int(seconds) * 1000 + int(micros) // 1000

    # -- comparing ---------------------------------------------------------------------------------------------------

    def differences(self, source: Source, selection: Selection = EVERYTHING) -> Iterator[Difference]:
        seen = Keys()
        try:
            records = self._records(source, selection)
            while batch := [(name, key, record.head) for name, key, record in islice(records, BATCH)]:
                seen.add((name, key) for name, key, _ in batch)
                live = self._live([key for _, key, _ in batch])
                looked_at_ms = self._now_ms()
                for name, key, head in batch:
                    kind = _differs(head, live[key])
                    if kind is None or (live[key] is None and _expired(head, looked_at_ms)):
                        continue
                    yield Difference(collection=name, key=self._keys.text(key), kind=kind)
            yield from self._extra(selection, seen)
        finally:
            seen.close()

    def _live(self, keys: Sequence[bytes]) -> dict[bytes, Value | None]:
        found: dict[bytes, Value | None] = {}
        with self._store.translated():
            for portion in portions(self._store.nodes, keys):
                found.update(zip(portion, self._store.nodes.gather(canonical.values, portion), strict=True))
        return found

    def _extra(self, selection: Selection, seen: Keys) -> Iterator[Difference]:
        with self._store.translated():
            for keys in self._keys.scan(self._store.nodes):
                for key in keys:
                    name = self._keys.collection(key)
                    chosen = selection.keys(name)
                    text = self._keys.text(key)
                    if not selection.has_collection(name) or (chosen is not None and text not in chosen):
                        continue
                    if not seen.has(name, key):
                        seen.add([(name, key)])
                        yield Difference(collection=name, key=text, kind=DifferenceKind.EXTRA)

    # -- writing -----------------------------------------------------------------------------------------------------

    def load(
        self, source: Source, fence: Fence, selection: Selection = EVERYTHING, progress: Pace = unhurried
    ) -> Restored:
        self._require(source, fence)
        with self._store.translated():
            for keys in self._keys.scan(self._store.nodes):
                taken = [k for k in keys if selection.has_collection(self._keys.collection(k))]
                if taken:
                    raise StoreRefused(
                        f"{self._store.where} has keys of {self._tenant}, such as {self._keys.text(taken[0])}: a backup"
                        " is loaded only where there is nothing of the tenant",
                        hint="restore the differences instead, or erase what is there",
                    )
        counts = dict.fromkeys(filter(selection.has_collection, self._collections(source)), 0)
        for name, written in self._written(self._records(source, selection), fence, progress):
            counts[name] = counts.get(name, 0) + written
        return Restored(collections=counts)

    def apply(self, source: Source, differences: Iterable[Difference], fence: Fence) -> int:
        self._require(source, fence)
        wanted, gone = Keys(), Keys()
        try:
            for difference in differences:
                key = self._keys.key(difference.key)
                chosen = gone if difference.kind is DifferenceKind.EXTRA else wanted
                chosen.add([(difference.collection, key)])
            total = len(wanted) + len(gone)
            records = (
                found for found in self._records(source, EVERYTHING) if wanted.discard(found[0], found[1])
            )
            for _ in self._written(records, fence, unhurried):
                pass
            writer = Writer(self._store.nodes, self._keys)
            # What is still wanted has expired since, or was never there: so it is not there.
            for left in (gone, wanted):
                while keys := left.take(BATCH):
                    with self._store.translated():
                        writer.delete(keys, token=fence.token)
            return total
        finally:
            wanted.close()
            gone.close()

    def _require(self, source: Source, fence: Fence) -> None:
        """Nothing is written by an older holder, while the tenant writes, while a link holds the store, or of a backup
        that cannot be loaded here."""
        with self._store.translated():
            held = self._store.fencing(self._tenant).read()
        if held.writable:
            raise FenceRefused(
                f"{self._store.where} accepts writes of {self._tenant}", hint="fence it before it is restored"
            )
        if held.record.token > fence.token:
            raise FenceRefused(f"the fence of {self._tenant} in {self._store.where} is a newer holder's")
        if held.record.link:
            raise StoreRefused(
                f"{self._tenant} is still linked in {self._store.where}",
                hint="complete or roll back the move first",
            )
        self._collections(source)
        if reason := self._too_old(source):
            raise StoreRefused(f"{self._store.where}: {reason}", hint="upgrade the server")

    def _written(
        self, records: Iterable[tuple[str, bytes, Record]], fence: Fence, progress: Pace
    ) -> Iterator[tuple[str, int]]:
        """Write them in portions; gives how many of which collection."""
        portion: list[tuple[bytes, list[Command]]] = []
        counts: dict[str, int] = {}
        size = 0
        for name, key, record in records:
            body = record.whole()
            portion.append((key, list(commands(key, record.head, body))))
            counts[name] = counts.get(name, 0) + 1
            size += len(body)
            if len(portion) >= BATCH or size >= PORTION_BYTES:
                self._send(portion, fence)
                progress(items=len(portion), size_bytes=size)
                yield from counts.items()
                portion, counts, size = [], {}, 0
        if portion:
            self._send(portion, fence)
            progress(items=len(portion), size_bytes=size)
            yield from counts.items()

    def _send(self, portion: Sequence[tuple[bytes, list[Command]]], fence: Fence) -> None:
        with self._store.translated():
            if self._make is None:
                self._make = self._store.nodes.seed.register_script(MAKE)
            for node, its in self._store.nodes.current().by_master(portion, lambda one: one[0]):
                arguments: list[Any] = ["", fence.token]
                for _, made in its:
                    for command in made:
                        arguments += [len(command), *command]
                self._make(keys=[self._keys.record(node.tag)], args=arguments, client=node.client)


def _expired(head: Mapping[str, Any], now_ms: int) -> bool:
    expires_at = int(head.get("expires_at", NO_EXPIRY))
    return expires_at != NO_EXPIRY and expires_at <= now_ms


def _differs(head: Any, live: Value | None) -> DifferenceKind | None:
    if live is None:
        return DifferenceKind.MISSING
    same = backup_values.digest_of(head) == live.digest
    same = same and int(head.get("expires_at", NO_EXPIRY)) == live.expires_at
    return None if same else DifferenceKind.MISMATCHED
