"""The fence of stores that take no part in a move and can neither refuse a tenant's writes nor remember that they
should: only noted, in this process. The gate and `tenure.client` keep the writes out."""

from __future__ import annotations

import threading

from tenure.errors import FenceRefused
from tenure.model.names import StoreName, TenantId
from tenure.stores.contract import Fence, FenceState


class NotedFence:
    """The fence's part of such a `Store`. It is gone with the process: a step that erases fences first."""

    def __init__(self, store: StoreName) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._noted: dict[TenantId, FenceState] = {}

    def claim(self, fence: Fence) -> None:
        """Raises `FenceRefused` for an older holder. Notes the token where a fence is noted, and nothing elsewhere."""
        with self._lock:
            known = self._refuse_older(fence)
            if known is not None:
                self._noted[fence.tenant] = FenceState(
                    writable=known.writable, epoch=known.epoch, token=fence.token
                )

    def fence(self, fence: Fence, *, expires_in_s: float | None, drain_s: float) -> None:  # noqa: ARG002
        with self._lock:
            self._refuse_older(fence)
            self._noted[fence.tenant] = FenceState(writable=False, epoch=fence.epoch, token=fence.token)

    def open(self, fence: Fence) -> None:
        with self._lock:
            self._refuse_older(fence)
            self._noted.pop(fence.tenant, None)

    def retire(self, fence: Fence) -> None:
        self.open(fence)

    def fence_state(self, tenant: TenantId) -> FenceState:
        with self._lock:
            return self._noted.get(tenant, FenceState(writable=True, epoch=0, token=0))

    def require_erasable(self, fence: Fence) -> None:
        """Raise `FenceRefused` unless the tenant is noted as fenced, and not by a newer holder."""
        with self._lock:
            known = self._refuse_older(fence)
        if known is None or known.writable:
            raise FenceRefused(
                f"{self._store} accepts writes of {fence.tenant}, so nothing of it is erased",
                hint="fence it before it is erased",
            )

    def _refuse_older(self, fence: Fence) -> FenceState | None:
        known = self._noted.get(fence.tenant)
        if known is not None and known.token > fence.token:
            raise FenceRefused(
                f"the fence of {fence.tenant} in {self._store} belongs to a newer holder "
                f"({known.token} > {fence.token})",
                hint="another process has taken this operation over",
            )
        return known
