"""One index through the vendor's SDK: every request waits its turn, is repeated where that can help, and is safe to
repeat. Besides `errors` and `answers`, the only module that imports `pinecone`.

The SDK repeats a request by itself, up to three times, on 408, 429 and 5xx, and waits as long as `Retry-After` says.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from pinecone import Index, Pinecone, SparseValues, Vector

from tenure.errors import StoreRefused, StoreUnavailable
from tenure.model.secret import Secret
from tenure.stores.pinecone.answers import describe_answers
from tenure.stores.pinecone.errors import Absent, LoginRefused, Throttled, TokenRefused, TooLarge, translated
from tenure.stores.pinecone.limiter import Limiter
from tenure.stores.pinecone.records import Record, fetches, upserts

T = TypeVar("T")

describe_answers()  # here, because one thread imports a module

TIMEOUT_S: Final = 10.0
WRITE_TIMEOUT_S: Final = 5.0
SDK_ATTEMPTS: Final = 4
SDK_PAUSES_S: Final = 10.0
"""The most that the SDK waits between its own attempts, where the service asks for nothing else."""
ON_ITS_WAY_S: Final = 5.0 + SDK_ATTEMPTS * WRITE_TIMEOUT_S + SDK_PAUSES_S
"""How long a request that writes may be on its way, after the process was found to be the one that copies."""
PING_TIMEOUT_S: Final = 1.5
PING_S: Final = 4.0
ATTEMPTS: Final = 4
BACK_OFF_S: Final = (0.1, 0.4, 1.6)
LONGEST_PAUSE_S: Final = 30.0
PAGE: Final = 100
METADATA_PAGE: Final = 200
TOKEN_REFUSALS: Final = 3
"""How often a listing is begun anew because a page token has expired, without having come any further."""
PER_INDEX: Final = frozenset({"fetch", "list", "describe_index_stats", "list_namespaces"})
"""Operations that the vendor counts per index; all others per namespace."""
BARRIER_FIELD: Final = "tenure"
_NOBODY: Final = {BARRIER_FIELD: {"$eq": "never"}}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What an index is: `dimension` None for one of sparse vectors."""

    dimension: int | None
    metric: str | None
    vector_type: str | None


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page of ids, in the order of their bytes, and the token of the next."""

    ids: Sequence[str]
    token: str | None


@dataclass(frozen=True, kw_only=True)
class RecordPage:
    """A page of records, and the token of the next."""

    records: Sequence[Record]
    token: str | None


class IndexClient:
    """One index of a cell, at `host`. `where` is how messages name it. Thread-safe."""

    def __init__(self, *, host: str, api_key: Secret, where: str, limiter: Limiter) -> None:
        self.host: Final = host
        self.where: Final = where
        self._key = api_key
        self._limiter = limiter
        self._index = Index(host=host, api_key=api_key.reveal(), timeout=TIMEOUT_S)
        self._shape: Shape | None = None

    @property
    def limited_alone(self) -> bool:
        """Whether this process keeps to the rate limits without knowing of the others."""
        return self._limiter.alone

    def close(self) -> None:
        self._index.close()

    # -- what it is --------------------------------------------------------------------------------------------------

    def ping(self) -> None:
        """Return if it answers and lets us in; raises `StoreUnavailable` within 5 seconds."""
        bounded(self._ping, PING_S, self.where)

    def _ping(self) -> None:
        with (
            translated(self.where),
            Index(host=self.host, api_key=self._key.reveal(), timeout=PING_TIMEOUT_S) as index,
        ):
            index.describe_index_stats()

    def shape(self) -> Shape:
        """Asked for once: it cannot change."""
        if self._shape is None:
            stats = self._call("describe_index_stats", "", self._index.describe_index_stats)
            self._shape = Shape(dimension=stats.dimension, metric=stats.metric, vector_type=stats.vector_type)
        return self._shape

    def namespaces(self, token: str | None = None) -> tuple[Mapping[str, int], str | None]:
        """A page of namespaces, with their record counts (which lag behind), and the token of the next."""
        page = self._call(
            "list_namespaces",
            "",
            lambda: self._index.list_namespaces_paginated(limit=PAGE, pagination_token=token),
            paging=token is not None,
        )
        return {one.name: one.record_count for one in page.namespaces}, _next(page.pagination)

    def filterable(self, namespace: str) -> frozenset[str] | None:
        """The metadata fields that the namespace indexes; None where it indexes all. Raises `Absent`."""
        found = self._call(
            "describe_namespace", namespace, lambda: self._index.describe_namespace(name=namespace)
        )
        return None if found.schema is None else frozenset(found.schema.fields)

    def exists(self, namespace: str) -> bool:
        try:
            self.filterable(namespace)
        except Absent:
            return False
        return True

    def count(self, namespace: str) -> int:
        """How many records the service says there are, which may be some while ago; 0 without such a namespace."""
        try:
            found = self._call(
                "describe_namespace", namespace, lambda: self._index.describe_namespace(name=namespace)
            )
        except Absent:
            return 0
        return int(found.record_count or 0)

    # -- reading -----------------------------------------------------------------------------------------------------

    def page(self, namespace: str, *, prefix: str = "", token: str | None = None) -> Page:
        """A page of ids. Raises `TokenRefused` where the token is no longer valid."""
        answer = self._call(
            "list",
            namespace,
            lambda: self._index.list_paginated(
                prefix=prefix or None, limit=PAGE, pagination_token=token, namespace=namespace
            ),
            paging=token is not None,
        )
        return Page(ids=[one.id for one in answer.vectors if one.id], token=_next(answer.pagination))

    def fetch(self, namespace: str, ids: Sequence[str]) -> dict[str, Record]:
        """Those of these records that are there."""
        found: dict[str, Record] = {}
        for batch in fetches(ids, most=self._most_fetched()):
            answer = self._call(
                "fetch", namespace, partial(self._index.fetch, ids=batch, namespace=namespace)
            )
            found.update({one: _record(vector) for one, vector in answer.vectors.items()})
        return found

    def _most_fetched(self) -> int:
        """So many that an answer stays a few megabytes."""
        return max(20, min(1000, 400_000 // max(1, self.shape().dimension or 1)))

    def matching(self, namespace: str, filter_: Mapping[str, Any], token: str | None = None) -> RecordPage:
        """A page of the records whose metadata fulfils the filter."""
        answer = self._call(
            "fetch",
            namespace,
            lambda: self._index.fetch_by_metadata(
                filter=filter_, namespace=namespace, limit=METADATA_PAGE, pagination_token=token
            ),
            paging=token is not None,
        )
        records = [_record(vector) for vector in answer.vectors.values()]
        return RecordPage(records=records, token=_next(answer.pagination))

    def indexed(self, namespace: str) -> int | None:
        """Up to which log sequence number queries see everything; None where the index does not say.

        The query is for records that do not exist, so that nothing has to be ranked for it.
        """
        shape = self.shape()
        asked: dict[str, Any] = (
            {"sparse_vector": SparseValues(indices=[0], values=[1.0])}
            if shape.dimension is None
            else {"vector": [1.0] + [0.0] * (shape.dimension - 1)}
        )
        answer = self._call(
            "query",
            namespace,
            lambda: self._index.query(top_k=1, namespace=namespace, filter=_NOBODY, **asked),
        )
        return None if answer.response_info is None else answer.response_info.lsn_reconciled

    # -- writing -----------------------------------------------------------------------------------------------------

    def upsert(
        self, namespace: str, records: Sequence[Record], *, allowed: Callable[[], None] = lambda: None
    ) -> int | None:
        """Write whole records; return the greatest log sequence number. Before each request `allowed` may raise.

        What one request cannot take goes in halves. An interruption leaves some of them written.
        """
        newest: int | None = None
        for batch in upserts(records):
            lsn = self._upsert(namespace, batch, allowed)
            newest = max((one for one in (newest, lsn) if one is not None), default=None)
        return newest

    def _upsert(self, namespace: str, batch: Sequence[Record], allowed: Callable[[], None]) -> int | None:
        vectors = [_vector(record) for record in batch]

        def send() -> int | None:
            allowed()
            answer = self._index.upsert(
                vectors=vectors, namespace=namespace, show_progress=False, timeout=WRITE_TIMEOUT_S
            )
            return None if answer.response_info is None else answer.response_info.lsn_committed

        self._limiter.wait("upsert_bytes", self._scope("upsert", namespace), sum(r.wire_bytes for r in batch))
        try:
            return self._call("upsert", namespace, send)
        except TooLarge:
            if len(batch) == 1:
                raise
        half = len(batch) // 2
        lsns = [self._upsert(namespace, part, allowed) for part in (batch[:half], batch[half:])]
        return max((lsn for lsn in lsns if lsn is not None), default=None)

    def delete(
        self, namespace: str, ids: Sequence[str], *, allowed: Callable[[], None] = lambda: None
    ) -> None:
        """Delete these records; those that are not there are passed over, and so is a namespace that is not."""
        for batch in fetches(ids):

            def send(batch: list[str] = batch) -> None:
                allowed()
                self._index.delete(ids=batch, namespace=namespace, timeout=WRITE_TIMEOUT_S)

            self._limiter.wait("delete_records", self._scope("delete", namespace), len(batch))
            try:
                self._call("delete", namespace, send)
            except Absent:
                return

    def delete_all(self, namespace: str) -> None:
        """Empty the namespace. Raises `Absent`."""
        self._call("delete", namespace, lambda: self._index.delete(delete_all=True, namespace=namespace))

    def delete_matching(self, namespace: str, filter_: Mapping[str, Any]) -> None:
        """Delete every record whose metadata fulfils the filter. Raises `Absent`."""
        self._limiter.wait("delete_by_metadata", self._scope("delete", namespace))
        self._call("delete", namespace, lambda: self._index.delete(filter=filter_, namespace=namespace))

    def drop(self, namespace: str) -> None:
        """Delete the namespace; nothing happens where there is none."""
        try:
            self._call("delete", namespace, lambda: self._index.delete_namespace(name=namespace))
        except Absent:
            return

    def barrier(self, namespace: str) -> int:
        """A log sequence number after every write that was acknowledged before. Raises `Absent`.

        It is that of an update of a record that does not exist, which changes nothing. `StoreRefused` where the index
        has no such numbers.
        """
        answer = self._call(
            "update",
            namespace,
            lambda: self._index.update(
                id=f"tenure-barrier-{uuid.uuid4().hex}",
                set_metadata={BARRIER_FIELD: True},
                namespace=namespace,
            ),
        )
        lsn = None if answer.response_info is None else answer.response_info.lsn_committed
        if lsn is None:
            raise StoreRefused(
                f"{self.where} gives no log sequence numbers, so nobody can tell when a write is visible",
                hint="use a serverless index",
            )
        return lsn

    # -- requests ----------------------------------------------------------------------------------------------------

    def _scope(self, operation: str, namespace: str) -> str:
        return self.host if operation in PER_INDEX else f"{self.host}/{namespace}"

    def _call(self, operation: str, namespace: str, request: Callable[[], T], *, paging: bool = False) -> T:
        """Make the request in its turn, and again where that may help; it must be safe to repeat."""
        scope = self._scope(operation, namespace)
        for attempt in range(ATTEMPTS):
            self._limiter.wait(operation, scope)
            try:
                with translated(self.where, paging=paging):
                    return request()
            except LoginRefused:
                raise
            except Throttled as error:
                pause = error.retry_after_s or _back_off(attempt)
                self._limiter.penalise(operation, scope, min(pause, LONGEST_PAUSE_S))
                if attempt == ATTEMPTS - 1:
                    raise
            except StoreUnavailable:
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(_back_off(attempt))
        raise AssertionError("the last attempt returns or raises")


class Project:
    """The indexes of the project that the key belongs to."""

    def __init__(self, *, control: str | None, api_key: Secret, where: str) -> None:
        self._client = Pinecone(api_key=api_key.reveal(), host=control, timeout=TIMEOUT_S)
        self._where = where

    def hosts(self) -> Mapping[str, str]:
        """The hosts of all its indexes that have one, by name."""
        with translated(self._where):
            return {index.name: index.host for index in self._client.indexes.list() if index.host is not None}

    def host(self, name: str) -> str:
        """The host of that index. Raises `Absent`."""
        with translated(f"{self._where}, index {name}"):
            host = self._client.indexes.describe(name).host
        if host is None:
            raise StoreUnavailable(f"{self._where}: the index {name} is not ready yet")
        return host

    def close(self) -> None:
        self._client.close()


def bounded(work: Callable[[], None], seconds: float, where: str) -> None:
    """Do the work, and raise what it raises; `StoreUnavailable` if it has not ended by then (it ends by itself)."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  (raised again below)
            raised.append(error)

    thread = threading.Thread(target=run, name="ping", daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    if thread.is_alive():
        raise StoreUnavailable(
            f"{where} cannot be reached: no answer within {seconds:g} s",
            hint="is the service up, and the index's host right?",
        )


def _back_off(attempt: int) -> float:
    return BACK_OFF_S[min(attempt, len(BACK_OFF_S) - 1)] * random.uniform(1.0, 1.5)  # noqa: S311


def _next(pagination: Any) -> str | None:
    return None if pagination is None else pagination.next or None


def _record(vector: Vector) -> Record:
    sparse = vector.sparse_values
    pairs = () if sparse is None else tuple(sorted(zip(sparse.indices, sparse.values, strict=True)))
    return Record(id=vector.id, values=vector.values, sparse=pairs, metadata=vector.metadata or {})


def _vector(record: Record) -> Vector:
    sparse = None
    if record.sparse:
        sparse = SparseValues(indices=[i for i, _ in record.sparse], values=[v for _, v in record.sparse])
    return Vector(
        id=record.id,
        values=list(record.values),
        sparse_values=sparse,
        metadata=dict(record.metadata) if record.metadata else None,
    )


def all_namespaces(client: IndexClient) -> Iterator[Mapping[str, int]]:
    """Every namespace of the index, page by page, each once; begun anew where the token of a page has expired."""
    yield from _each_once(client.namespaces)


def all_matching(
    client: IndexClient, namespace: str, filter_: Mapping[str, Any]
) -> Iterator[Sequence[Record]]:
    """Every record whose metadata fulfils the filter, page by page, as `all_namespaces` gives namespaces."""

    def page(token: str | None) -> tuple[Mapping[str, Record], str | None]:
        found = client.matching(namespace, filter_, token)
        return {record.id: record for record in found.records}, found.token

    for records in _each_once(page):
        yield tuple(records.values())


def _each_once(
    page_of: Callable[[str | None], tuple[Mapping[str, T], str | None]],
) -> Iterator[Mapping[str, T]]:
    given: set[str] = set()
    token: str | None = None
    refusals = 0
    while True:
        try:
            page, token = page_of(token)
        except TokenRefused:
            if refusals == TOKEN_REFUSALS:
                raise
            refusals, token = refusals + 1, None
            continue
        fresh = {name: one for name, one in page.items() if name not in given}
        given |= fresh.keys()
        if fresh:
            refusals = 0
            yield fresh
        if token is None:
            return
