"""One bucket as a `Store`: a tenant's data are the objects under its prefix."""

from __future__ import annotations

import hashlib
import json
from collections import abc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tenure.catalogue import StoreKind, Template
from tenure.errors import FenceRefused, StoreRefused, UsageError
from tenure.model.inventory import Collection, Inventory
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import FindPage, Search, Survey
from tenure.model.secret import Secret
from tenure.stores.backup import Capture, Restoring
from tenure.stores.buckets.client import Bucket
from tenure.stores.buckets.errors import translated
from tenure.stores.buckets.listing import abort_uploads, delete_versions, version_pages
from tenure.stores.contract import Capabilities, Fence, FenceState, Journal, Mutex, Pace, Room, unhurried
from tenure.stores.journaled import JournaledCapture, JournaledRestoring
from tenure.stores.keyed import KeyMap, patterns
from tenure.stores.s3 import find as finds
from tenure.stores.s3.backup import OTHER, ObjectItems
from tenure.stores.s3.fencing import RESERVED, Fencing, policy_lock
from tenure.stores.s3.objects import Listed, Objects, is_md5
from tenure.stores.s3.unpacking import ObjectUnpacking

WORKERS: Final = 8
_MASK: Final = (1 << 128) - 1


class S3Store:
    """Objects `prefix` + anything in one bucket.

    `endpoint` None is AWS; empty keys mean AWS's own chain of credentials. `principal` is the app's IAM user (by name)
    or role (by ARN): the bucket's policy then refuses a fenced tenant's writes by it, and by nobody else. Without,
    Tenure only notes the fence. Uploads whose request had begun before the fence may still end after it, so the app
    has to write under a permit of the tenant's PostgreSQL (`tenure.client`), which drains them. The record of a fence,
    and with it its token, goes when a store without a link opens or retires: that no older holder comes back after that
    is up to the tenant's PostgreSQL, which never forgets a token and is asked first. Without `trust_etags`, comparisons
    read every object's contents. `others` gives the buckets that are those of other stores: a search leaves them to
    these. `journal` is the app's, in the cell's PostgreSQL: captures read it. Thread-safe.
    """

    def __init__(
        self,
        *,
        name: StoreName,
        cell: CellName,
        endpoint: str | None,
        bucket: str,
        region: str,
        access_key: Secret,
        secret_key: Secret,
        prefix: Template | str,
        principal: str | None,
        mutex: Mutex,
        collections: Sequence[str] = (),
        ignore: Sequence[str] = (),
        trust_etags: bool = True,
        others: Callable[[], frozenset[str]] = frozenset,
        journal: Journal | None = None,
    ) -> None:
        self._name = name
        self._cell = cell
        self.endpoint = endpoint
        self.bucket = bucket
        self.trust_etags = trust_etags
        self._place = Bucket(
            endpoint=endpoint, name=bucket, region=region, access_key=access_key, secret_key=secret_key
        )
        self._prefix = prefix if isinstance(prefix, Template) else Template.prefix(prefix)
        self.principal = principal
        self._lock = policy_lock(mutex, endpoint, bucket)
        self._patterns = patterns(collections)
        self._ignored = patterns(ignore)
        self._others = others
        self._journal = journal
        self.client = self._place.client(connections=4 * WORKERS)
        self._ping_client = self._place.ping_client()
        self.objects = Objects(self.client, bucket)
        self.pool = ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix=f"s3-{cell}")

    @property
    def name(self) -> StoreName:
        return self._name

    @property
    def cell(self) -> CellName:
        return self._cell

    @property
    def where(self) -> str:
        """How messages name this store."""
        return f"{self._name} of {self._cell}"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            fence_enforced=self.principal is not None, fence_drains=False, fence_expires=False
        )

    @property
    def server(self) -> str:
        return self._place.server

    def room(self) -> Sequence[Room]:
        return ()

    def ping(self) -> None:
        with translated(self.where):
            self._ping_client.list_objects_v2(Bucket=self.bucket, Prefix=RESERVED, MaxKeys=1)

    def inventory(self, tenant: TenantId) -> Inventory:
        """Digests cover keys, sizes and contents: by ETag where that is the contents' MD5, else by reading them."""
        tally: dict[str, list[int]] = {p.pattern: [0, 0, 0] for p in self._patterns} or {OTHER: [0, 0, 0]}
        prefix = self.prefix(tenant)
        with translated(self.where):
            for page in self.objects.listing(prefix):
                for found in page:
                    believed = self.trust_etags and is_md5(found.etag)
                    md5 = found.etag if believed else self.objects.md5(found.key)
                    item = hashlib.blake2b(
                        json.dumps([found.key, found.size, md5]).encode(), digest_size=16
                    ).digest()
                    counted = tally.setdefault(self.collection(tenant, found.key), [0, 0, 0])
                    counted[0] += 1
                    counted[1] += found.size
                    counted[2] = (counted[2] + int.from_bytes(item, "little")) & _MASK
        return Inventory(
            store=self._name,
            tenant=tenant,
            collections={
                name: Collection(items=items, size_bytes=size, digest=f"{total:032x}")
                for name, (items, size, total) in tally.items()
            },
        )

    def survey(self, tenants: abc.Collection[TenantId], *, pace: Pace = unhurried) -> Survey:
        """Of the keys of current objects: old versions and unfinished uploads are `find`'s."""
        return finds.survey(self._searched(), tenants, pace)

    def find(
        self, search: Search, *, cursor: str | None = None, pace: Pace = unhurried
    ) -> Iterator[FindPage]:
        return finds.find(self._searched(), search, cursor, pace)

    def _searched(self) -> finds.Where:
        keymap = KeyMap(
            store=self._name,
            kind=StoreKind.S3,
            prefix=self._prefix,
            patterns=self._patterns,
            ignored=self._ignored,
            reserved=RESERVED,
        )
        return finds.Where(
            cell=self._cell,
            client=self.client,
            bucket=self.bucket,
            keymap=keymap,
            pool=self.pool,
            others=self._others(),
            heads_show_tags=self.endpoint is None,
            translated=lambda: translated(self.where),
        )

    def claim(self, fence: Fence) -> None:
        with translated(self.where):
            self.fencing(fence.tenant).claim(fence)

    def fence(self, fence: Fence, *, expires_in_s: float | None, drain_s: float) -> None:  # noqa: ARG002
        with translated(self.where):
            self.fencing(fence.tenant).fence(fence)

    def open(self, fence: Fence) -> None:
        with translated(self.where):
            self.fencing(fence.tenant).open(fence)

    def fence_state(self, tenant: TenantId) -> FenceState:
        with translated(self.where):
            record, accepts = self.fencing(tenant).read()
        return FenceState(writable=accepts, epoch=record.epoch, token=record.token)

    def erase(self, fence: Fence, *, progress: Callable[[int], None] = lambda _items: None) -> int:
        """Takes every version, every delete marker and every unfinished upload; counts keys."""
        prefix = self.prefix(fence.tenant)
        with translated(self.where):
            self.require_erasable(fence)
            erased: set[str] = set()
            for page in version_pages(self.client, self.bucket, prefix):
                kept = delete_versions(self.client, self.bucket, page)
                if kept:
                    raise StoreRefused(
                        f"{self.where} kept {len(kept)} objects, the first one {kept[0].key}: {kept[0].code}",
                        hint="objects under retention or legal hold can only be erased when that has ended",
                    )
                erased.update(version.key for version in page)
                progress(len(erased))
            abort_uploads(self.client, self.bucket, prefix)
            return len(erased)

    def require_erasable(self, fence: Fence) -> None:
        """Raise `FenceRefused` unless the tenant is fenced and no newer holder has been here, `StoreRefused` while a
        link holds the store."""
        with translated(self.where):
            record, accepts = self.fencing(fence.tenant).read()
        if accepts:
            raise FenceRefused(
                f"{self.where} accepts writes of {fence.tenant}",
                hint="fence it before it is erased or restored",
            )
        if record.token > fence.token:
            raise FenceRefused(f"the fence of {fence.tenant} in {self.where} is a newer holder's")
        if record.link:
            raise StoreRefused(
                f"{fence.tenant} is still linked in {self.where}",
                hint="stop the copies of the link before erasing or restoring",
            )

    def retire(self, fence: Fence) -> None:
        """Lifts the fence and forgets the record: a bucket's policy has room for about fifty tenants only, so one that
        has left must not keep its place. The gate and the permit in PostgreSQL keep its writes out.
        """
        with translated(self.where):
            self.fencing(fence.tenant).retire(fence)

    def capture(self, tenant: TenantId) -> Capture:
        """Without a `journal`, what changes while it is taken is found by listings, the last of them in the hold."""
        items = ObjectItems(self, tenant)
        return JournaledCapture(store=self, tenant=tenant, journal=self._journal, packing=items)

    def restoring(self, tenant: TenantId, origin: TenantId) -> Restoring:
        return JournaledRestoring(
            store=self, tenant=tenant, origin=origin, unpacking=ObjectUnpacking(self, tenant, origin)
        )

    def close(self) -> None:
        self.pool.shutdown(wait=False)
        for client in (self.client, self._ping_client):
            client.close()

    # -- for the live copy -------------------------------------------------------------------------------------------

    def prefix(self, tenant: TenantId) -> str:
        prefix = self._prefix.expand(tenant)
        if prefix.startswith(RESERVED) or RESERVED.startswith(prefix):
            raise UsageError(
                f"the prefix {prefix!r} overlaps with {RESERVED!r}, where Tenure keeps its fences",
                hint="choose another prefix in the catalogue",
            )
        return prefix

    def listed(self, tenant: TenantId) -> dict[str, Listed]:
        """The tenant's objects by key."""
        with translated(self.where):
            return {found.key: found for page in self.objects.listing(self.prefix(tenant)) for found in page}

    def collection(self, tenant: TenantId, key: str) -> str:
        """The first pattern of the catalogue that matches the key."""
        rest = key.removeprefix(self.prefix(tenant))
        return next((p.pattern for p in self._patterns if p.matches(rest)), OTHER)

    @property
    def collections(self) -> tuple[str, ...]:
        return tuple(p.pattern for p in self._patterns)

    def fencing(self, tenant: TenantId) -> Fencing:
        return Fencing(
            self.client, self.bucket, tenant, self.prefix(tenant), self.principal, self._lock, self.pool
        )

    def same_server(self, other: S3Store) -> bool:
        """Whether the other bucket is of the same endpoint and reached with the same keys."""
        mine, theirs = self._place, other._place
        return (mine.endpoint, mine.access_key, mine.secret_key) == (
            theirs.endpoint,
            theirs.access_key,
            theirs.secret_key,
        )
