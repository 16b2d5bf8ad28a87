"""One Pinecone index of a cell as a `Store`: a tenant's data is the namespace that the template names."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from tenure.catalogue import DataClass, KeyPattern, Template
from tenure.errors import DeadlineExceeded, StoreRefused, UsageError
from tenure.model.inventory import Collection as Counted
from tenure.model.inventory import Inventory
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import FindPage, Search, Survey
from tenure.model.secret import Secret
from tenure.stores.backup import Capture, Restoring
from tenure.stores.contract import Fence, Pace, Room, TenantFence, unhurried
from tenure.stores.journaled import Anchored, JournaledCapture, JournaledRestoring
from tenure.stores.pinecone import find, survey
from tenure.stores.pinecone.backup import COLLECTION, RecordItems, RecordUnpacking
from tenure.stores.pinecone.client import ON_ITS_WAY_S, IndexClient, Project, all_matching
from tenure.stores.pinecone.errors import Absent
from tenure.stores.pinecone.freshness import Freshness
from tenure.stores.pinecone.limiter import Limiter
from tenure.stores.pinecone.listing import listed
from tenure.stores.pinecone.records import Record

WORKERS: Final = 4
ERASED_VISIBLE_S: Final = 300.0
"""How long the deletion of a whole namespace may take to become visible."""
GONE_POLL_S: Final = 0.1
BATCH: Final = 400
_MASK: Final = (1 << 128) - 1


@dataclass(frozen=True, kw_only=True)
class Login:
    """Where an index is: at `host`, or as `index` of the project that `control` (None: the vendor's) knows."""

    host: str | None
    index: str | None
    control: str | None
    api_key: Secret


class PineconeStore(Anchored):
    """The namespaces of one index. Implements `tenure.stores.contract.Store`. Thread-safe.

    Pinecone cannot refuse a tenant's writes: the fence is that of `anchor`, and the app writes under its permit.
    `fields` are the metadata fields that the catalogue names, `person` those that identify a person, `ignore` patterns
    of namespaces that hold no tenant's data. `siblings` are names and hosts of indexes that are stores of the estate
    themselves. A request that writes may be on its way for `handover_s`.
    """

    def __init__(
        self,
        *,
        name: StoreName,
        cell: CellName,
        login: Login,
        namespace: Template,
        anchor: TenantFence,
        limiter: Limiter,
        fields: Mapping[str, DataClass],
        person: Sequence[str] = (),
        ignore: Sequence[KeyPattern] = (),
        siblings: Collection[str] = (),
        handover_s: float = ON_ITS_WAY_S,
    ) -> None:
        super().__init__(name, anchor)
        self._cell = cell
        self._login = login
        self.template: Final = namespace
        self.fields: Final = fields
        self.person: Final = tuple(person)
        self.ignore: Final = tuple(ignore)
        self.siblings: Final = frozenset(siblings)
        self.handover_s: Final = handover_s
        self._limiter = limiter
        self._lock = threading.Lock()
        self._client: IndexClient | None = None
        self._fresh: dict[str, Freshness] = {}
        self.pool: Final = ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix=f"pinecone-{cell}")

    @property
    def cell(self) -> CellName:
        return self._cell

    @property
    def where(self) -> str:
        """How messages name this store."""
        return f"{self.name} of {self._cell}"

    @property
    def client(self) -> IndexClient:
        """The index. Where it is known by its name only, the project is asked for its host once."""
        with self._lock:
            if self._client is None:
                self._client = self.client_at(self._login.host or self._host())
            return self._client

    def client_at(self, host: str) -> IndexClient:
        """Another index of the project, with the same key and within the same limits. The caller closes it."""
        return IndexClient(host=host, api_key=self._login.api_key, where=self.where, limiter=self._limiter)

    def _host(self) -> str:
        if self._login.index is None:
            raise UsageError(f"{self.where} has neither a host nor the name of an index")
        project = self.project()
        try:
            return project.host(self._login.index)
        finally:
            project.close()

    def project(self) -> Project:
        """The indexes beside this one. The caller closes it."""
        return Project(control=self._login.control, api_key=self._login.api_key, where=self.where)

    @property
    def has_project(self) -> bool:
        """Whether it is known where to ask for the project's other indexes."""
        return self._login.index is not None or self._login.control is not None

    @property
    def server(self) -> str:
        host = self._login.host
        return urlsplit(host).netloc if host else f"pinecone index {self._login.index}"

    def room(self) -> Sequence[Room]:
        return ()

    def ping(self) -> None:
        self.client.ping()

    def namespace(self, tenant: TenantId) -> str:
        return self.template.expand(tenant)

    def ignores(self, namespace: str) -> bool:
        """Whether the catalogue says that the namespace holds no tenant's data."""
        return any(pattern.matches(namespace) for pattern in self.ignore)

    def freshness(self, tenant: TenantId) -> Freshness:
        """Waiting for the tenant's namespace, shared by all who use this store."""
        namespace, client = self.namespace(tenant), self.client
        with self._lock:
            return self._fresh.setdefault(namespace, Freshness(client, namespace))

    def inventory(self, tenant: TenantId) -> Inventory:
        """The digest covers ids, values to the bit, weights and metadata, whatever order they come in."""
        self.freshness(tenant).catch_up()
        items = size = total = 0
        for records in self.records(tenant):
            items += len(records)
            size += sum(record.size_bytes for record in records)
            total += sum(record.digest for record in records)
        counted = Counted(items=items, size_bytes=size, digest=f"{total & _MASK:032x}")
        return Inventory(store=self.name, tenant=tenant, collections={COLLECTION: counted})

    def ids(self, tenant: TenantId, *, after: str = "") -> Iterator[list[str]]:
        """The tenant's ids in their order, page by page; as fresh as reads are."""
        return listed(self.client, self.namespace(tenant), after=after)

    def records(self, tenant: TenantId) -> Iterator[list[Record]]:
        """The tenant's records, batch by batch, in the order of their ids."""
        for batch in batched(self.ids(tenant), BATCH):
            yield list(self.fetch(tenant, batch).values())

    def fetch(self, tenant: TenantId, ids: Sequence[str]) -> dict[str, Record]:
        return self.client.fetch(self.namespace(tenant), ids)

    # -- erasing -----------------------------------------------------------------------------------------------------

    def erase(self, fence: Fence, *, progress: Callable[[int], None] = lambda _items: None) -> int:
        """Empties the namespace, makes sure by a log sequence number that reads see it empty, then deletes it.

        What the vendor keeps of deleted data (up to 90 days), nobody can read or shorten.
        """
        self.require_erasable(fence)
        namespace = self.namespace(fence.tenant)
        self.freshness(fence.tenant).catch_up()
        erased = 0
        for page in self.ids(fence.tenant):
            erased += len(page)
            progress(erased)
        self.require_erasable(fence)
        try:
            self.client.delete_all(namespace)
        except Absent:
            self._await_gone(fence.tenant)
            return erased
        if self.freshness(fence.tenant).catch_up(timeout_s=ERASED_VISIBLE_S):
            left = next(self.ids(fence.tenant), None)
            if left:
                raise StoreRefused(
                    f"{self.where} still shows records of {fence.tenant} after all were deleted"
                )
            self.client.drop(namespace)
        self._await_gone(fence.tenant)
        return erased

    def _await_gone(self, tenant: TenantId) -> None:
        """Wait until neither the namespace nor a record of it is shown any more."""
        deadline = time.monotonic() + ERASED_VISIBLE_S
        while next(self.ids(tenant), None) or self.client.exists(self.namespace(tenant)):
            if time.monotonic() > deadline:
                raise DeadlineExceeded(
                    f"{self.where} still shows the namespace of {tenant}", hint="run the erasure again later"
                )
            time.sleep(GONE_POLL_S)

    def erase_person(self, fence: Fence, values: Collection[str]) -> int:
        """Delete the tenant's records of one person: those that have one of these values in a field that the catalogue
        names under `person`. Return how many there were; repeating returns 0.

        Works while the tenant is served; the app must not write records of the person meanwhile. Raises `StoreRefused`
        while a link holds the store, and where the catalogue names no such field.
        """
        if not self.person:
            raise UsageError(
                f"the catalogue names no metadata field of {self.name} that identifies a person",
                hint=f"name it under stores.{self.name}.person",
            )
        self.anchor.require_unlinked(fence, self.name)
        namespace, wanted = self.namespace(fence.tenant), sorted(values)
        if not wanted or not self.freshness(fence.tenant).catch_up():
            return 0
        filter_ = {"$or": [{field: {"$in": wanted}} for field in self.person]}
        found = sum(map(len, all_matching(self.client, namespace, filter_)))
        if found:
            self.client.delete_matching(namespace, filter_)
            self.freshness(fence.tenant).catch_up(timeout_s=ERASED_VISIBLE_S)
            if any(all_matching(self.client, namespace, filter_)):
                raise StoreRefused(f"{self.where} still shows records of the person after they were deleted")
        return found

    # -- what is there -----------------------------------------------------------------------------------------------

    def survey(self, tenants: Collection[TenantId], *, pace: Pace = unhurried) -> Survey:
        return survey.surveyed(self, tenants, pace)

    def find(
        self, search: Search, *, cursor: str | None = None, pace: Pace = unhurried
    ) -> Iterator[FindPage]:
        return find.found(self, search, cursor, pace)

    # -- backups -----------------------------------------------------------------------------------------------------

    def capture(self, tenant: TenantId) -> Capture:
        """Reads under the rate limits that all of Tenure's processes share."""
        items = RecordItems(self, tenant)
        return JournaledCapture(store=self, tenant=tenant, journal=self.anchor.journal, packing=items)

    def restoring(self, tenant: TenantId, origin: TenantId) -> Restoring:
        return JournaledRestoring(
            store=self, tenant=tenant, origin=origin, unpacking=RecordUnpacking(self, tenant, origin)
        )

    def close(self) -> None:
        self.pool.shutdown(wait=False)
        self._limiter.close()
        with self._lock:
            client, self._client = self._client, None
            self._fresh.clear()
        if client is not None:
            client.close()


def batched(pages: Iterator[list[str]], size: int) -> Iterator[list[str]]:
    """The ids of all pages, so many at once."""
    batch: list[str] = []
    for page in pages:
        batch += page
        while len(batch) >= size:
            yield batch[:size]
            batch = batch[size:]
    if batch:
        yield batch
