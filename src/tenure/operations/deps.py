"""What the steps of operations work with: made by the composition root, handed down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from tenure.backups.backups import Backups
from tenure.errors import NotAllowed, UnknownName
from tenure.estate.config import Estate
from tenure.estate.settings import Canary, Tier
from tenure.model.erasure import Names as LedgerNames
from tenure.model.names import TenantId
from tenure.model.operation import Operation
from tenure.operations.restore.ports import Schemas
from tenure.operations.session import Sessions, StoreFactory
from tenure.plan.bounds import Bounds
from tenure.plan.canary import CanaryPlan
from tenure.registry.registry import Registry
from tenure.routing.contract import Names, Probe, Router, TenantAddress
from tenure.stores.contract import Fence
from tenure.stores.exports import Exporter
from tenure.stores.vault.contract import Vault


class Dispatcher(Protocol):
    """Has workers look at operations. It only ever says *when*: what there is to do is in the journal."""

    def queue(self, operation: Operation) -> str:
        """The queue the operation belongs to."""

    def living(self, queue: str) -> int:
        """How many workers that live serve the queue, as the control database knows it; busy or not."""

    def wake(self, operation: Operation, *, again: bool = False) -> bool:
        """Have a worker look at the operation; whether one was told.

        Nobody is told if no worker that lives serves its queue, or if that has been done a moment ago (not heeded with
        `again`). Harmless to repeat. Raises `StoreUnavailable` if the broker does not take it.
        """

    def close(self) -> None:
        """Give the connections back. Idempotent."""


class TenantLocks(Protocol):
    """Keeps two executors off one tenant at little cost. Correctness never depends on it, only on fencing tokens."""

    def held(self, tenant: TenantId) -> bool:
        """Whether somebody else is at the tenant now, as far as is known; False where nobody can say."""

    def hold(
        self, tenant: TenantId, token: int, *, renewed_while: Callable[[], bool]
    ) -> AbstractContextManager[None]:
        """Keep others away until the end of the block, as far as possible. Never waits for them and never raises.

        Of two that want it the greater token has it. One whose token may be worth nothing any more lets it run out.
        """

    def close(self) -> None:
        """Give the connections back. Idempotent."""


class Vaults(Protocol):
    """The vaults of the estate, one per region."""

    def regions(self) -> Sequence[str]:
        """The regions that have one, in the order of their names."""

    def vault(self, region: str) -> Vault:
        """That region's. Raises `NotAllowed` where it has none."""


@dataclass(frozen=True, kw_only=True)
class Deps:
    estate: Estate
    registry: Registry
    router: Router
    factory: StoreFactory
    sessions: Sessions
    names: Names | None = None
    probe: Probe | None = None
    dispatcher: Dispatcher | None = None
    """None where the estate has no fleet: everything runs in this process."""
    locks: TenantLocks | None = None
    vaults: Vaults | None = None
    sealing: Backups | None = None
    """None where the estate has no `backups:` section: nothing is backed up."""

    schemas: Schemas | None = None
    """The ways between the schemas of backups and live ones; None where nothing is known of any."""
    exporters: Callable[[], Mapping[str, Exporter]] = dict
    """Gives what reads the streams of backups for a portable export, by their form; takes its time."""
    ledger: LedgerNames | None = None
    """The key to the erasure ledger; None where the estate has none."""

    def backups(self) -> tuple[Vaults, Backups]:
        """What backups are made and read with. Raises `NotAllowed` where the estate has no such section."""
        if self.vaults is None or self.sealing is None:
            raise NotAllowed(
                "this estate makes no backups: tenure.yaml has no `backups` section",
                hint="say there which keys seal and sign them",
            )
        return self.vaults, self.sealing

    def address(self, tenant: TenantId) -> TenantAddress:
        return TenantAddress(tenant=tenant, host=self.registry.tenants.get(tenant).host)

    def tier(self, tenant: TenantId) -> Tier:
        """The tier of a tenant. Raises `UnknownName` if the estate no longer has it."""
        name = self.registry.tenants.get(tenant).tier
        found = self.estate.tiers.get(name)
        if found is None:
            raise UnknownName(
                f"{tenant} is of tier {name!r}, which the estate does not have",
                hint=f"tenure tenant tier {tenant} TIER, or add the tier to tenure.yaml",
            )
        return found

    def bounds(self, tenant: TenantId) -> Bounds:
        """What the tenant's tier calls healthy."""
        chosen = self.tier(tenant).bounds
        return Bounds(
            error_rate=chosen.error_rate,
            latency_ratio=chosen.latency_ratio,
            latency_margin_ms=chosen.latency_margin_ms,
            latency_ms=chosen.latency_p99_ms,
            min_requests=chosen.min_requests,
        )

    def canary(self, tenant: TenantId, wanted: bool | None) -> CanaryPlan | None:
        """The canary that a move of the tenant gets: the tier's, unless the caller wants one or none.

        One without shares where only a later watch needs to know what the source was like.
        """
        tier = self.tier(tenant)
        chosen = tier.canary or Canary()
        shares = chosen.shares if wanted or (wanted is None and tier.canary is not None) else ()
        if not shares and not tier.rollback_on_regression:
            return None
        return CanaryPlan(shares=shares, soak_s=chosen.soak_s, bounds=self.bounds(tenant))

    def fence(self, tenant: TenantId, token: int) -> Fence:
        """The fence that the holder of that token sets for the tenant as it is placed now."""
        return Fence(tenant=tenant, epoch=self.registry.placements.get(tenant).epoch, token=token)
