"""Whether a tenant is free for an operation: asked early; the registry asks again when it is written."""

from __future__ import annotations

from tenure.errors import TenantLocked
from tenure.model.names import TenantId
from tenure.operations.deps import Deps


def require_free(deps: Deps, tenant: TenantId, *, but: str | None = None) -> None:
    """Raise `TenantLocked` if the tenant is in an operation, of any kind but `but`."""
    active = deps.registry.operations.active_for(tenant)
    if active is not None and active.kind != but:
        raise TenantLocked(
            f"{tenant} is in {active.kind} {active.id} ({active.phase or active.state})",
            hint=f"tenure op show {active.id}; if its process is gone: tenure op resume {active.id}, "
            f"or tenure op cancel {active.id}",
        )
