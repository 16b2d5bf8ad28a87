"""Who holds a tenant in a vault: a small object outside the tenant's part. While it is held, no backup of the tenant
can be begun or completed, and only its holder, or a newer one, may erase."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Final

from tenure.errors import FenceRefused, StoreUnavailable
from tenure.model.names import TenantId
from tenure.stores.buckets.listing import delete_versions
from tenure.stores.contract import Fence, FenceState
from tenure.stores.vault.access import ABSENT_NOW, Access

RESERVED: Final = ".tenure/"
_ATTEMPTS: Final = 10


@dataclass(frozen=True, kw_only=True)
class Holder:
    """What the object says."""

    epoch: int
    token: int
    held: bool


class Holding:
    """One tenant's holder in one vault. Every change is a conditional write: of two at once, one begins anew."""

    def __init__(self, access: Access, tenant: TenantId) -> None:
        self._access = access
        self._tenant = tenant
        self.key: Final = f"{RESERVED}vault/{tenant}"

    def state(self) -> FenceState:
        holder, _ = self._read()
        if holder is None:
            return FenceState(writable=True, epoch=0, token=0)
        return FenceState(writable=not holder.held, epoch=holder.epoch, token=holder.token)

    def hold(self, fence: Fence) -> None:
        """Raises `FenceRefused` if a newer holder has been here. Idempotent."""
        self._change(fence, Holder(epoch=fence.epoch, token=fence.token, held=True))

    def claim(self, fence: Fence) -> None:
        """Refuse smaller tokens from now on, if anybody holds the tenant."""
        holder, _ = self._read()
        if holder is not None:
            self._change(fence, replace(holder, epoch=fence.epoch, token=fence.token))

    def let_go(self, fence: Fence) -> None:
        """Forget the holder. Idempotent. Raises `FenceRefused` if a newer one is here."""
        for _ in range(_ATTEMPTS):
            holder, etag = self._read()
            if holder is None or etag is None:
                break
            self._check(holder, fence)
            if self._access.delete_if(self.key, etag):
                break
        # What a bucket with versions keeps beneath; never what somebody has written since.
        old = [v for v in self._access.versions(self.key) if v.key == self.key and (v.marker or not v.latest)]
        delete_versions(self._access.client, self._access.bucket, old)

    def require(self, fence: Fence) -> None:
        """Raise `FenceRefused` unless the tenant is held, and not by a newer holder."""
        holder, _ = self._read()
        if holder is None or not holder.held:
            raise FenceRefused(
                f"nobody holds {self._tenant} in the vault",
                hint="hold the tenant (fence) before it is erased",
            )
        self._check(holder, fence)

    def _change(self, fence: Fence, changed: Holder) -> None:
        for _ in range(_ATTEMPTS):
            holder, etag = self._read()
            if holder is not None:
                self._check(holder, fence)
            if holder == changed:
                return
            condition = ABSENT_NOW if etag is None else {"IfMatch": etag}
            if self._access.swap(self.key, json.dumps(asdict(changed)).encode(), condition):
                return
        raise StoreUnavailable(f"who holds {self._tenant} is being changed all the time", hint="try again")

    def _check(self, holder: Holder, fence: Fence) -> None:
        if holder.token > fence.token:
            raise FenceRefused(
                f"{self._tenant} is held in the vault by a newer holder ({holder.token} > {fence.token})",
                hint="another process has taken this operation over",
            )

    def _read(self) -> tuple[Holder | None, str | None]:
        found = self._access.read(self.key)
        return (None, None) if found is None else (Holder(**json.loads(found.body)), found.etag)
