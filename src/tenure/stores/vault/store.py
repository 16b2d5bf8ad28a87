"""A vault as a `Store`: what it holds of a tenant, and how that is erased. Backups go through `VaultStore.vault`."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Final

from tenure.catalogue import Template
from tenure.catalogue.patterns import PLACEHOLDER
from tenure.errors import DeadlineExceeded, StoreRefused, UsageError
from tenure.model.inventory import Collection as Counted
from tenure.model.inventory import Inventory
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import FindPage, Search, Survey
from tenure.stores.backup import Capture, Restoring, refused
from tenure.stores.buckets.client import Bucket
from tenure.stores.buckets.errors import translated
from tenure.stores.buckets.listing import Kept, abort_uploads, delete_versions, upload_pages, version_pages
from tenure.stores.contract import Capabilities, Fence, FenceState, Pace, Room, unhurried
from tenure.stores.vault import searching
from tenure.stores.vault.access import Access
from tenure.stores.vault.holder import RESERVED, Holding
from tenure.stores.vault.layout import Layout
from tenure.stores.vault.vault import BucketVault
from tenure.stores.vault.writing import version_id

WORKERS: Final = 16
LOOKED_AT: Final = 200
"""How many of the objects that a server keeps are asked until when, for the message of an erasure."""
_MASK: Final = (1 << 128) - 1


class VaultStore:
    """Tenants' backups, each tenant's under `prefix`, in one bucket per region: cells of a region share it.

    There is no fence of the app's, which never writes here; instead a holder: while a tenant is held (`fence`), no
    backup of it is begun or completed, and only then, by the holder, may it be erased. Thread-safe.
    """

    def __init__(self, *, name: StoreName, cell: CellName, bucket: Bucket, prefix: Template | str) -> None:
        self._name = name
        self._cell = cell
        self._prefix = prefix if isinstance(prefix, Template) else Template.prefix(prefix)
        self._above = self._prefix.text.partition(PLACEHOLDER)[0]
        if self._above.startswith(RESERVED) or RESERVED.startswith(self._above + "x"):
            raise UsageError(
                f"the prefix {self._prefix.text!r} overlaps with {RESERVED!r}, which is Tenure's own"
            )
        self._bucket = bucket
        self._client = bucket.client(connections=2 * WORKERS)
        self._ping_client = bucket.ping_client()
        self._pool = ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix=f"vault-{cell}")
        self._access = Access(self._client, bucket.name, self._pool)
        self.vault: Final = BucketVault(
            access=self._access, layout=self.layout, where=self.where, above=self._above
        )

    @property
    def name(self) -> StoreName:
        return self._name

    @property
    def cell(self) -> CellName:
        return self._cell

    @property
    def bucket(self) -> str:
        return self._bucket.name

    @property
    def where(self) -> str:
        """How messages name this store."""
        return f"{self._name} of {self._cell}"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            fence_enforced=False,
            fence_drains=False,
            fence_expires=False,
            sealed=True,
            not_backed_up=BACKUPS,
            stays="backups stay where they were made; later ones are made in the cell that serves the tenant then",
        )

    @property
    def server(self) -> str:
        return self._bucket.server

    def room(self) -> Sequence[Room]:
        return ()

    def layout(self, tenant: TenantId) -> Layout:
        """Where that tenant's part is."""
        return Layout(prefix=self._prefix.expand(tenant))

    def ping(self) -> None:
        with translated(self.where):
            self._ping_client.list_objects_v2(Bucket=self._bucket.name, Prefix=RESERVED, MaxKeys=1)

    def inventory(self, tenant: TenantId) -> Inventory:
        """Counts every version and unfinished upload, by what it is for. Digests cover names, sizes and ETags, and the
        names of chunks their contents: nothing is read."""
        layout = self.layout(tenant)
        tally: dict[str, list[int]] = {part: [0, 0, 0] for part in (*_PARTS, _OTHER)}
        with translated(self.where):
            for page in version_pages(self._client, self._bucket.name, layout.prefix):
                for version in page:
                    rest = version.key.removeprefix(layout.prefix)
                    etag = "" if rest.startswith("chunks/") else version.etag
                    _count(tally, rest, version.size, json.dumps([rest, version.size, etag, version.marker]))
            for uploads in upload_pages(self._client, self._bucket.name, layout.prefix):
                for upload in uploads:
                    rest = upload["Key"].removeprefix(layout.prefix)
                    _count(tally, rest, 0, json.dumps([rest, upload["UploadId"]]))
        return Inventory(
            store=self._name,
            tenant=tenant,
            collections={
                part: Counted(items=items, size_bytes=size, digest=f"{total:032x}")
                for part, (items, size, total) in tally.items()
            },
        )

    def survey(self, tenants: Collection[TenantId], *, pace: Pace = unhurried) -> Survey:
        """Nothing but tenants' backups belongs into a vault's bucket: whatever else lies there is not classified."""
        with translated(self.where):
            return searching.survey(
                self._access, self._prefix, tenants, store=self._name, cell=self._cell, pace=pace
            )

    def find(
        self, search: Search, *, cursor: str | None = None, pace: Pace = unhurried
    ) -> Iterator[FindPage]:
        """Reads what is in the clear: names, and manifests' public parts. Chunks are ciphertext: they are skipped, and
        said to be."""
        with translated(self.where):
            yield from searching.find(self._access, self._prefix, search, cursor=cursor, pace=pace)

    # -- holding and erasing -----------------------------------------------------------------------------------------

    def claim(self, fence: Fence) -> None:
        with translated(self.where):
            Holding(self._access, fence.tenant).claim(fence)

    def fence(self, fence: Fence, *, expires_in_s: float | None, drain_s: float) -> None:  # noqa: ARG002
        """Hold the tenant, and end the backups of it that are being written: none of them can be completed."""
        deadline = time.monotonic() + drain_s
        with translated(self.where):
            Holding(self._access, fence.tenant).hold(fence)
        while unfinished := self.vault.shelf(fence.tenant).unfinished:
            for writer in unfinished:
                self.vault.end(fence.tenant, writer.id)
            if time.monotonic() >= deadline:
                raise DeadlineExceeded(f"{self.where}: backups of {fence.tenant} are still being written")

    def open(self, fence: Fence) -> None:
        with translated(self.where):
            Holding(self._access, fence.tenant).let_go(fence)

    def fence_state(self, tenant: TenantId) -> FenceState:
        with translated(self.where):
            return Holding(self._access, tenant).state()

    def erase(self, fence: Fence, *, progress: Callable[[int], None] = lambda _items: None) -> int:
        """Takes every version, delete marker and unfinished upload; counts keys. Manifests go first, so that no backup
        is listed of which a part is gone.

        Raises `StoreRefused` with how many objects the server keeps, and until when, after everything else has gone:
        a lock is never bypassed. Whoever holds the data key can make what is kept unreadable by destroying that.
        """
        layout = self.layout(fence.tenant)
        erased: set[str] = set()
        kept: list[Kept] = []
        with translated(self.where):
            Holding(self._access, fence.tenant).require(fence)
            for part in (layout.backups, layout.prefix):
                for page in version_pages(self._client, self._bucket.name, part):
                    refused = delete_versions(self._client, self._bucket.name, page)
                    erased.update({v.key for v in page} - {k.key for k in refused})
                    if part == layout.prefix:
                        kept += refused
                    progress(len(erased))
            abort_uploads(self._client, self._bucket.name, layout.prefix)
            if kept:
                raise StoreRefused(
                    f"{self.where} keeps {len(kept)} objects of {fence.tenant}{self._until(kept)}; "
                    f"{len(erased)} were erased",
                    hint="locked backups go when their lock has ended: erase again then",
                )
        return len(erased)

    def _until(self, kept: Sequence[Kept]) -> str:
        """When the last of these locks ends, as far as the first `LOOKED_AT` tell."""
        locks = self._access.each(
            lambda k: self._access.lock_of(k.key, version_id(k.version))[0], kept[:LOOKED_AT]
        )
        ends: list[datetime] = [lock.until for lock in locks if lock is not None]
        return f", locked until {max(ends):%Y-%m-%d %H:%M} UTC" if ends else f": {kept[0].code}"

    def retire(self, fence: Fence) -> None:
        """Forgets the holder: backups stay where they are."""
        self.open(fence)

    def capture(self, tenant: TenantId) -> Capture:  # noqa: ARG002
        """Raises `StoreRefused`: its data is in no backup."""
        raise refused(self._name, self._cell, BACKUPS)

    def restoring(self, tenant: TenantId, origin: TenantId) -> Restoring:  # noqa: ARG002
        """Raises `StoreRefused`: its data is in no backup."""
        raise refused(self._name, self._cell, BACKUPS)

    def close(self) -> None:
        self._pool.shutdown(wait=False)
        for client in (self._client, self._ping_client):
            client.close()


BACKUPS: Final = "it holds the backups"
_PARTS: Final = ("backups", "lists", "chunks", "condemned")
_OTHER: Final = "other"


def _count(tally: dict[str, list[int]], rest: str, size: int, item: str) -> None:
    part = rest.partition("/")[0]
    counted = tally[part if part in _PARTS else _OTHER]
    digest = hashlib.blake2b(item.encode(), digest_size=16).digest()
    counted[0] += 1
    counted[1] += size
    counted[2] = (counted[2] + int.from_bytes(digest, "little")) & _MASK
