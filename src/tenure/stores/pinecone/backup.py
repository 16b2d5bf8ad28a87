"""Records as they go into a backup and come back: what `JournaledCapture` and `JournaledRestoring` need to know.

The body of a record is its values, the indices of its sparse weights (8 bytes each), these weights, and its metadata as
JSON. Numbers are little-endian, values and weights in 32 bits as the service keeps them. The head says how many of each
(`values`, `sparse`); its stamp is the digest by which records are compared.
"""

from __future__ import annotations

import json
import sys
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any, Final

from tenure.backups.contract import Source
from tenure.catalogue import DataClass
from tenure.errors import StoreRefused
from tenure.model.finding import Finding, Severity
from tenure.model.names import TenantId
from tenure.stores.journaled import STAMP, Packed, Place
from tenure.stores.journaled.backup_ports import Allowed
from tenure.stores.pinecone.records import Record, bits
from tenure.stores.records import Record as Frame

if TYPE_CHECKING:
    from tenure.stores.pinecone.store import PineconeStore

COLLECTION: Final = "records"
ID_LENGTH: Final = 512
FETCHED: Final = 100
"""Records of one fetch; so many fetches are under way at once as the store has workers."""
WRITTEN: Final = 1_000
WRITTEN_BYTES: Final = 8_000_000
AHEAD: Final = 4
ABOUT_BYTES: Final = 300
"""What a record is taken to hold besides its values, where nobody has looked."""
SHAPE: Final = ("dimension", "metric", "vectors")


def names_record(key: str) -> bool:
    """Whether the key may be an id: the namespace is the tenant's own."""
    return 0 < len(key) <= ID_LENGTH and key.isascii() and "\0" not in key


def packed(record: Record) -> Packed:
    indices = array("Q", [index for index, _ in record.sparse])
    if sys.byteorder == "big":
        indices.byteswap()
    body = b"".join(
        (
            bits(record.values),
            indices.tobytes(),
            bits([weight for _, weight in record.sparse]),
            json.dumps(record.metadata, separators=(",", ":"), sort_keys=True).encode(),
        )
    )
    head = {STAMP: f"{record.digest:032x}", "values": len(record.values), "sparse": len(record.sparse)}
    return Packed(
        key=record.id,
        head=head,
        body=body,
        items=1,
        size_bytes=record.size_bytes,
        digest=record.digest,
    )


def unpacked(frame: Frame) -> Record:
    values, sparse = int(frame.head["values"]), int(frame.head["sparse"])
    body = frame.whole()
    at = (4 * values, 4 * values + 8 * sparse, 4 * values + 12 * sparse)
    indices = array("Q", body[at[0] : at[1]])
    if sys.byteorder == "big":
        indices.byteswap()
    weights = _floats(body[at[1] : at[2]])
    return Record(
        id=frame.key.decode(),
        values=_floats(body[: at[0]]),
        sparse=tuple(zip(indices, weights, strict=True)),
        metadata=json.loads(body[at[2] :]),
    )


def _floats(packed_bits: bytes) -> list[float]:
    numbers = array("f", packed_bits)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


class RecordItems:
    """Implements `Packing`: one tenant's records in one index, in the order of their ids."""

    form: Final = "pinecone-records/1"

    def __init__(self, store: PineconeStore, tenant: TenantId) -> None:
        self._store: Final = store
        self._tenant: Final = tenant

    def fresh(self) -> None:
        self._store.freshness(self._tenant).catch_up()

    def collections(self) -> Sequence[str]:
        return (COLLECTION,)

    def keys(self, collection: str) -> Iterator[Sequence[str]]:  # noqa: ARG002
        return self._store.ids(self._tenant)

    def stamps(self, collection: str, keys: Sequence[str]) -> Mapping[str, str]:  # noqa: ARG002
        return {record.id: f"{record.digest:032x}" for record in self._records(keys)}

    def named(self, key: str) -> Iterable[Place]:
        return (Place(COLLECTION, key),) if names_record(key) else ()

    def suspects(self) -> Iterable[Place]:
        return ()

    def pack(self, collection: str, keys: Sequence[str]) -> Iterator[Packed]:  # noqa: ARG002
        return (packed(record) for record in self._records(keys))

    def _records(self, keys: Sequence[str]) -> Iterator[Record]:
        """Those that are there, in the order of the keys; some fetches ahead."""
        waiting: deque[tuple[Sequence[str], Future[dict[str, Record]]]] = deque()
        for start in range(0, len(keys), FETCHED):
            part = keys[start : start + FETCHED]
            waiting.append((part, self._store.pool.submit(self._store.fetch, self._tenant, part)))
            if len(waiting) > AHEAD:
                yield from _fetched(*waiting.popleft())
        while waiting:
            yield from _fetched(*waiting.popleft())

    def fingerprint(self, collection: str) -> str:  # noqa: ARG002
        return json.dumps(self.facts(), sort_keys=True)

    def facts(self) -> Mapping[str, Any]:
        shape = self._store.client.shape()
        return dict(zip(SHAPE, (shape.dimension, shape.metric, shape.vector_type), strict=True))

    def findings(self) -> Sequence[Finding]:
        return (
            Finding(
                severity=Severity.INFO,
                code="pinecone_freshness",
                where=self._store.where,
                message="the hold waits until Pinecone shows what was written last, which takes it up to some seconds",
                fix="back up tenants that write vectors all the time at a quieter time, or give `hold.budget_ms` some"
                " seconds more",
            ),
        )

    def amount(self) -> tuple[int, int]:
        """By the service's own count, which lags behind."""
        count = self._store.client.count(self._store.namespace(self._tenant))
        return count, count * (4 * (self._store.client.shape().dimension or 0) + ABOUT_BYTES)


def _fetched(keys: Sequence[str], found: Future[dict[str, Record]]) -> Iterator[Record]:
    records = found.result()
    return (records[key] for key in keys if key in records)


class RecordUnpacking(RecordItems):
    """Implements `Unpacking`. Ids stay as they are; metadata that the catalogue calls the tenant's id is rewritten."""

    removes: Final = True

    def __init__(self, store: PineconeStore, tenant: TenantId, origin: TenantId) -> None:
        super().__init__(store, tenant)
        self._origin: Final = origin
        self._named_by: Final = [field for field, of in store.fields.items() if of is DataClass.TENANT]

    def about(self, source: Source) -> None:
        """Its streams say everything."""

    def here(self, place: Place) -> Place:
        return place

    def takes(self, place: Place) -> bool:  # noqa: ARG002
        return True

    def stamp(self, record: Frame) -> str:
        if self._origin == self._tenant or not self._named_by:
            return str(record.head[STAMP])
        return f"{self._record(record).digest:032x}"

    def _record(self, frame: Frame) -> Record:
        record = unpacked(frame)
        changed = {
            field: self._tenant for field in self._named_by if record.metadata.get(field) == self._origin
        }
        if self._origin == self._tenant or not changed:
            return record
        return Record(
            id=record.id,
            values=record.values,
            sparse=record.sparse,
            metadata={**record.metadata, **changed},
        )

    def write(self, records: Iterator[tuple[Place, Frame]], allowed: Allowed) -> Iterator[tuple[int, int]]:
        """Some batches are under way at once; when this ends, however it ends, none is any more."""
        under_way: deque[Future[tuple[int, int]]] = deque()
        try:
            for batch in _batches(self._record(frame) for _, frame in records):
                under_way.append(self._store.pool.submit(self._upsert, batch, allowed))
                if len(under_way) > AHEAD:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for left in under_way:
                left.cancel()
            # A batch that is still on its way would be written after an erasure that follows the failure.
            wait(under_way)

    def _upsert(self, batch: Sequence[Record], allowed: Allowed) -> tuple[int, int]:
        self._store.client.upsert(self._store.namespace(self._tenant), batch, allowed=allowed)
        return len(batch), sum(record.size_bytes for record in batch)

    def remove(self, collection: str, keys: Sequence[str], allowed: Allowed) -> None:  # noqa: ARG002
        wrong = [key for key in keys if not names_record(key)]
        if wrong:
            raise StoreRefused(f"{wrong[0]!r} is no record of {self._tenant}")
        self._store.client.delete(self._store.namespace(self._tenant), keys, allowed=allowed)

    def backup_findings(self, source: Source) -> Sequence[Finding]:
        theirs, ours = source.facts(self._store.name), self.facts()
        different = [name for name in SHAPE if name in theirs and theirs[name] != ours[name]]
        if not different:
            return ()
        return (
            Finding(
                severity=Severity.REFUSAL,
                code="index_differs",
                where=self._store.where,
                message="the index is not as the one that was backed up: "
                + ", ".join(f"{name} {ours[name]} for {theirs[name]}" for name in different),
                fix="restore into an index with the same dimension, metric and kind of vectors",
            ),
        )


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    """So many that a few of them are no burden for the memory."""
    batch: list[Record] = []
    size = 0
    for record in records:
        batch.append(record)
        size += record.wire_bytes
        if len(batch) == WRITTEN or size > WRITTEN_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
