"""Stores that cannot refuse a tenant's writes: their fence, and what is known of their links, is in the PostgreSQL of
the same cell."""

from __future__ import annotations

from tenure.errors import FenceRefused
from tenure.model.names import StoreName, TenantId
from tenure.stores.contract import Capabilities, Copier, Fence, FenceState, TenantFence


class Anchored:
    """The fence's part of such a `Store`: setting the fence here sets it there. `anchor` outlives the store."""

    def __init__(self, name: StoreName, anchor: TenantFence) -> None:
        self._name = name
        self.anchor = anchor

    @property
    def name(self) -> StoreName:
        return self._name

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            fence_enforced=False, fence_drains=False, fence_expires=True, fenced_with=self.anchor.name
        )

    def claim(self, fence: Fence) -> None:
        self.anchor.claim(fence)

    def fence(self, fence: Fence, *, expires_in_s: float | None, drain_s: float) -> None:
        """A no-op where the fence is down already in the same way."""
        state = self.fence_state(fence.tenant)
        if state.writable or state.token != fence.token or state.expires != (expires_in_s is not None):
            self.anchor.fence(fence, expires_in_s=expires_in_s, drain_s=drain_s)
        else:
            self.anchor.claim(fence)

    def open(self, fence: Fence) -> None:
        self.anchor.open(fence)

    def fence_state(self, tenant: TenantId) -> FenceState:
        return self.anchor.fence_state(tenant)

    def retire(self, fence: Fence) -> None:
        """Changes nothing, since the fence is the anchor's, which retires it. Refuses while a link holds the store."""
        self.anchor.require_unlinked(fence, self._name)

    def require_erasable(self, fence: Fence) -> None:
        """Raise `FenceRefused` unless the tenant is fenced and no newer holder has been here, `StoreRefused` while a
        link holds the store. To be asked again before each batch: an erasure may be stopped halfway for long."""
        self.anchor.require_unlinked(fence, self._name)
        if self.anchor.fence_state(fence.tenant).writable:
            raise FenceRefused(
                f"{self._name} accepts writes of {fence.tenant}, so nothing of it is erased",
                hint=f"fence {self.anchor.name} of the same cell first: its fence is this one's too",
            )

    def link_record(self, tenant: TenantId) -> AnchoredRecord:
        """What is known of the tenant's link here."""
        return AnchoredRecord(self.anchor, self._name, tenant)


class AnchoredRecord:
    """Implements `LinkRecord` for one tenant of such a store."""

    def __init__(self, anchor: TenantFence, store: StoreName, tenant: TenantId) -> None:
        self._anchor = anchor
        self._store = store
        self._tenant = tenant

    def read(self) -> Copier:
        return self._anchor.copier(self._tenant, self._store)

    def check(self, fence: Fence) -> None:
        token = self.read().token
        if token > fence.token:
            raise FenceRefused(
                f"the fence of {fence.tenant} belongs to a newer holder ({token} > {fence.token})",
                hint="another process has taken this operation over",
            )

    def join(self, fence: Fence, link: str, *, copier: str | None = None, fenced: bool = False) -> None:
        self._anchor.join(fence, self._store, link, copier=copier, fenced=fenced)

    def note(self, link: str, *, copier: str, passed: str) -> None:
        self._anchor.note(self._tenant, self._store, link, copier=copier, passed=passed)

    def release(self, fence: Fence, link: str) -> None:
        self._anchor.release(fence, self._store, link)
