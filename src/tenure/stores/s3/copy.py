"""One tenant's objects kept equal in a second bucket: what `JournaledCopy` needs to know of objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from tenure.model.finding import Finding
from tenure.model.names import TenantId
from tenure.stores.contract import Copier, Fence, Journal
from tenure.stores.journaled import Allowed, Item, JournaledCopy
from tenure.stores.s3.comparison import Comparer
from tenure.stores.s3.errors import translated
from tenure.stores.s3.objects import Transfer
from tenure.stores.s3.preflight import findings
from tenure.stores.s3.store import S3Store


class Stamp(NamedTuple):
    """What a listing shows of an object's state."""

    etag: str
    modified: datetime


class S3Copy(JournaledCopy[S3Store, Stamp]):
    """The live copy of one tenant between two buckets. Without journals, a change of nothing but an object's tags is
    only seen by `compare`. An object is a request or more, so each worker takes one at a time."""

    def __init__(
        self,
        *,
        link: str,
        tenant: TenantId,
        source: S3Store,
        target: S3Store,
        source_journal: Journal | None,
        target_journal: Journal | None,
    ) -> None:
        super().__init__(
            link=link,
            tenant=tenant,
            source=source,
            target=target,
            source_journal=source_journal,
            target_journal=target_journal,
            source_record=_Record(source, tenant),
            target_record=_Record(target, tenant),
            listing=_Listing(source, target, tenant),
            comparer=Comparer(source, target, tenant),
            transfer=lambda allowed: _Transfer(source, target, allowed),
        )

    def preflight(self) -> Sequence[Finding]:
        return findings(self._tenant, self._source, self._target, journaled=self.journaled)

    def fingerprint(self) -> Mapping[str, str]:
        """What must be equal is the prefix and how keys are told apart; objects have no schema."""
        return {"prefix": self._source.prefix(self._tenant), "keys": ", ".join(self._source.collections)}

    def turned(self) -> S3Copy:
        return S3Copy(
            link=self._link,
            tenant=self._tenant,
            source=self._target,
            target=self._source,
            source_journal=self._target_journal,
            target_journal=self._journal,
        )


class _Listing:
    def __init__(self, source: S3Store, target: S3Store, tenant: TenantId) -> None:
        self._source = source
        self._target = target
        self._tenant = tenant

    def source(self) -> Mapping[str, Item[Stamp]]:
        return _listed(self._source, self._tenant)

    def target(self) -> Mapping[str, Item[Stamp]]:
        return _listed(self._target, self._tenant)

    def current(self, source: Item[Stamp], target: Item[Stamp]) -> bool:
        """Same contents in a source that is not newer: otherwise its headers or metadata may have been replaced.
        Listings show whole seconds."""
        same = (source.size, source.version.etag) == (target.size, target.version.etag)
        return same and target.version.modified > source.version.modified

    def mine(self, key: str) -> bool:
        return key.startswith(self._source.prefix(self._tenant))

    def collection(self, key: str) -> str:
        return self._source.collection(self._tenant, key)


def _listed(store: S3Store, tenant: TenantId) -> Mapping[str, Item[Stamp]]:
    return {
        key: Item(version=Stamp(found.etag, found.modified), size=found.size)
        for key, found in store.listed(tenant).items()
    }


class _Transfer:
    def __init__(self, source: S3Store, target: S3Store, allowed: Allowed) -> None:
        self._between = f"{source.where} to {target.cell}"
        self._objects = Transfer(
            source.objects, target.objects, server_side=source.same_server(target), allowed=allowed
        )

    def expect(self, target: Mapping[str, Item[Stamp]], keys: Iterable[str]) -> None:
        self._objects.expect({key: item.version.etag for key, item in target.items()}, keys)

    def copy(self, keys: Sequence[str]) -> int:
        moved = 0
        for key in keys:
            with translated(f"{self._between}, {key!r}"):
                moved += self._objects.copy(key) or 0
        return moved


class _Record:
    """The record of the fence, which is an object of the bucket (`Fencing`), says who copies."""

    def __init__(self, store: S3Store, tenant: TenantId) -> None:
        self._store = store
        self._tenant = tenant

    def read(self) -> Copier:
        with translated(self._store.where):
            record, accepts = self._store.fencing(self._tenant).read()
        return Copier(link=record.link, process=record.copier, accepts=accepts, token=record.token)

    def check(self, fence: Fence) -> None:
        with translated(self._store.where):
            self._store.fencing(self._tenant).check(fence)

    def join(self, fence: Fence, link: str, *, copier: str | None = None, fenced: bool = False) -> None:
        with translated(self._store.where):
            self._store.fencing(self._tenant).join(fence, link, copier=copier, fenced=fenced)

    def note(self, link: str, *, copier: str, passed: str) -> None:
        """The listings say what is current."""

    def release(self, fence: Fence, link: str) -> None:
        with translated(self._store.where):
            self._store.fencing(self._tenant).release(fence, link)
