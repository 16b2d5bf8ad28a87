"""One tenant's records kept equal in a second index: what `JournaledCopy` needs to know of records."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from tenure.errors import UsageError
from tenure.model.finding import Finding
from tenure.model.names import TenantId
from tenure.stores.contract import Journal
from tenure.stores.journaled import Allowed, Item, JournaledCopy
from tenure.stores.pinecone.backup import COLLECTION, names_record
from tenure.stores.pinecone.comparison import Comparer
from tenure.stores.pinecone.freshness import Moments
from tenure.stores.pinecone.preflight import findings
from tenure.stores.pinecone.records import Record
from tenure.stores.pinecone.store import PineconeStore

BATCH: Final = 200
COPIERS: Final = 4
_ITEM: Final[Item[str]] = Item(version="")
"""A listing shows ids and nothing of their state."""


class PineconeCopy(JournaledCopy[PineconeStore, str]):
    """The live copy of one tenant between two indexes. The journal says what changes: no listing can."""

    def __init__(
        self,
        *,
        link: str,
        tenant: TenantId,
        source: PineconeStore,
        target: PineconeStore,
        source_journal: Journal | None,
        target_journal: Journal | None,
    ) -> None:
        if source_journal is None or target_journal is None:
            raise UsageError(f"{source.name} cannot be moved without a journal")
        moments = Moments()
        super().__init__(
            link=link,
            tenant=tenant,
            source=source,
            target=target,
            source_journal=source_journal,
            target_journal=target_journal,
            source_record=source.link_record(tenant),
            target_record=target.link_record(tenant),
            listing=_Listing(source, target, tenant, moments),
            comparer=Comparer(source, target, tenant, moments),
            transfer=lambda allowed: _Transfer(source, target, tenant, moments, allowed),
            batch=BATCH,
            workers=COPIERS,
            handover_s=target.handover_s,
        )

    def preflight(self) -> Sequence[Finding]:
        return findings(self._tenant, self._source, self._target)

    def fingerprint(self) -> Mapping[str, str]:
        shape = self._source.client.shape()
        return {
            "namespace": self._source.template.text,
            "dimension": str(shape.dimension),
            "metric": str(shape.metric),
            "vectors": str(shape.vector_type),
        }

    def turned(self) -> PineconeCopy:
        return PineconeCopy(
            link=self._link,
            tenant=self._tenant,
            source=self._target,
            target=self._source,
            source_journal=self._target_journal,
            target_journal=self._journal,
        )


class _Listing:
    def __init__(
        self, source: PineconeStore, target: PineconeStore, tenant: TenantId, moments: Moments
    ) -> None:
        self._moments = moments
        self._source = source
        self._target = target
        self._tenant = tenant

    def source(self) -> Mapping[str, Item[str]]:
        return self._listed(self._source)

    def target(self) -> Mapping[str, Item[str]]:
        return self._listed(self._target)

    def _listed(self, store: PineconeStore) -> Mapping[str, Item[str]]:
        store.freshness(self._tenant).catch_up()
        return {one: _ITEM for page in store.ids(self._tenant) for one in page}

    def current(self, source: Item[str], target: Item[str]) -> bool:  # noqa: ARG002
        return False

    def mine(self, key: str) -> bool:
        """Whatever may be an id: the namespace is the tenant's own."""
        self._moments.named = time.monotonic()
        return names_record(key)

    def collection(self, key: str) -> str:  # noqa: ARG002
        return COLLECTION


class _Transfer:
    """Fetches from the source what it shows once it has caught up with the journal, and upserts it as it is.

    What a pass over everything has listed was written before the listing began, and that had caught up; only what was
    named since has to be waited for.

    The target's records are looked at only where a pass over everything has found them there already, so that a copy
    that is resumed writes what differs and nothing else.
    """

    def __init__(
        self,
        source: PineconeStore,
        target: PineconeStore,
        tenant: TenantId,
        moments: Moments,
        allowed: Allowed,
    ) -> None:
        self._source = source
        self._target = target
        self._tenant = tenant
        self._moments = moments
        self._allowed = allowed
        self._lock = threading.Lock()
        self._there: set[str] = set()

    def expect(self, target: Mapping[str, Item[str]], keys: Iterable[str]) -> None:
        with self._lock:
            self._there = {key for key in keys if key in target}

    def copy(self, keys: Sequence[str]) -> int:
        self._source.freshness(self._tenant).catch_up(since=self._moments.named)
        found = self._source.fetch(self._tenant, keys)
        equal = self._equal(found)
        wanted = [record for key, record in found.items() if key not in equal]
        gone = [key for key in keys if key not in found]
        namespace = self._target.namespace(self._tenant)
        # What is gone first: the number of the last write is then that of an upsert, which alone tells its number.
        if gone:
            self._target.client.delete(namespace, gone, allowed=self._still_allowed)
        lsn = self._target.client.upsert(namespace, wanted, allowed=self._still_allowed) if wanted else None
        if gone or wanted:
            self._moments.wrote(lsn)
        return sum(record.size_bytes for record in wanted)

    def _equal(self, found: Mapping[str, Record]) -> set[str]:
        """The ids of those that the target has in the same state, and that this copy has not written yet: of what it
        has written, a read might still show an older state."""
        with self._lock:
            known = [key for key in found if key in self._there]
            self._there.difference_update(known)
        theirs = self._target.fetch(self._tenant, known) if known else {}
        return {key for key, record in theirs.items() if record.canonical == found[key].canonical}

    def _still_allowed(self) -> None:
        self._allowed(0.0)
