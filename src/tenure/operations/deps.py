"""What the steps of operations work with: made by the composition root, handed down."""

from __future__ import annotations

from dataclasses import dataclass

from tenure.estate.config import Estate
from tenure.model.names import TenantId
from tenure.operations.session import Sessions, StoreFactory
from tenure.registry.registry import Registry
from tenure.routing.contract import Names, Probe, Router, TenantAddress
from tenure.stores.contract import Fence


@dataclass(frozen=True, kw_only=True)
class Deps:
    estate: Estate
    registry: Registry
    router: Router
    factory: StoreFactory
    sessions: Sessions
    names: Names | None = None
    probe: Probe | None = None

    def address(self, tenant: TenantId) -> TenantAddress:
        return TenantAddress(tenant=tenant, host=self.registry.tenants.get(tenant).host)

    def fence(self, tenant: TenantId, token: int) -> Fence:
        """The fence that the holder of that token sets for the tenant as it is placed now."""
        return Fence(tenant=tenant, epoch=self.registry.placements.get(tenant).epoch, token=token)
