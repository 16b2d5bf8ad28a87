"""The contract of a gateway: direct routes for every tenant, and a gate for the few that are being moved.

Beside it those of the tenants' names in DNS, and of a request that finds out where users really get.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tenure.model.names import CellName, TenantId
from tenure.model.traffic import CellTraffic


@dataclass(frozen=True, kw_only=True)
class TenantAddress:
    """What a tenant's requests carry: the host name, or on the shared host the header `x-tenant-id: <id>`."""

    tenant: TenantId
    host: str


@dataclass(frozen=True, kw_only=True)
class RouteState:
    """What the gateway really does with a tenant's requests now (not what it was told)."""

    cell: CellName | None
    gated: bool
    held: bool
    waiting: int = 0
    canary: CellName | None = None
    """Where the reads of a canary go, `canary_share` of them."""
    canary_share: float = 0.0
    gate_answers: bool = True
    """False for a gated tenant of which the gate knows nothing, or while the gate cannot be asked."""
    parts: tuple[tuple[str, str], ...] = field(default=(), compare=False)
    """Each instance of the gateway, by address, and what it does in words."""


@dataclass(frozen=True, kw_only=True)
class HoldReport:
    """What a hold was like for users. `hold_ms` runs from closing to opening, `longest_wait_ms` is the worst."""

    hold_ms: float
    requests_held: int
    longest_wait_ms: float
    released_to: CellName
    timed_out: bool
    """The budget was used up before the release came: the gate opened by itself towards the fallback cell."""


class Router(Protocol):
    """A gateway. Every call is idempotent. Unreachable parts raise `StoreUnavailable`."""

    def ping(self) -> None:
        """Return if the gateway and its gate answer."""

    def route(self, address: TenantAddress, cell: CellName, *, epoch: int) -> None:
        """Send the tenant's requests straight to the cell, no gate in the path; return when the gateway does so.

        `epoch` is that of the placement which the caller acts on, and is kept with the route. One smaller than the
        kept one is refused with `FenceRefused` and changes nothing: a later placement has been routed already.
        """

    def gate(self, address: TenantAddress, cell: CellName, *, token: int, epoch: int) -> None:
        """Put the tenant's requests behind the gate, passing on to the cell; return when the gateway does so.

        If the gate's process should die, the gateway goes on sending the tenant to `cell`. A token smaller than the
        last one, or an epoch smaller than the one kept with the route, is refused with `FenceRefused` and changes
        nothing.
        """

    def canary(self, tenant: TenantId, *, token: int, cell: CellName, share: float, ttl_s: float) -> None:
        """Send that share (0 to 1) of a gated tenant's reads to `cell`, for `ttl_s` seconds unless called again.

        With a share of 0 all reads go back at once. So do `gate`, `hold` and `release`, and the gateway by itself
        when the time is over: nobody has to be alive for it. A token smaller than the last one is refused with
        `FenceRefused`.
        """

    def traffic(self, tenant: TenantId, cell: CellName) -> CellTraffic:
        """What a gated tenant's requests have met in the cell so far: a reading to subtract from a later one."""

    def hold(self, tenant: TenantId, *, token: int, budget_s: float, fallback: CellName) -> None:
        """From now on the tenant's requests wait, at most `budget_s`: then the gate opens towards `fallback` by itself.

        A token smaller than the last one is refused with `FenceRefused`.
        """

    def throttle(
        self, tenant: TenantId, *, token: int, writes_per_s: float, longest_delay_s: float, for_s: float
    ) -> None:
        """Delay the gated tenant's writing requests, so that about that many pass per second. None is refused, and none
        waits longer than `longest_delay_s`.

        It ends with the next `hold`, `release` or `route`, by itself after `for_s`, and with the gate's process. Token
        as in `hold`.
        """

    def drain(self, tenant: TenantId, cell: CellName, *, timeout_s: float) -> None:
        """Return when none of the tenant's requests is under way in the cell; raise `DeadlineExceeded` otherwise."""

    def release(self, tenant: TenantId, *, token: int, cell: CellName) -> HoldReport:
        """Let the waiting requests and all later ones go to the cell, at once. Without a hold it only sets the cell.

        For a tenant that is not behind the gate it does nothing, and the report is all zeros.
        """

    def observed(self, address: TenantAddress) -> RouteState:
        """What the gateway really does."""

    def survey(self, addresses: Sequence[TenantAddress]) -> Mapping[TenantId, RouteState]:
        """`observed` for many tenants, for little more than the price of one."""

    def asked(self, tenant: TenantId) -> int:
        """How many of the gated tenant's requests have come to the gate: grows with each, may start anew."""

    def renew(self) -> None:
        """Have every instance load all routes anew, those as well that it should have already."""

    def forget(self, tenant: TenantId) -> None:
        """Remove the tenant's routes and all that is kept with them, the epoch included."""

    def close(self) -> None:
        """Give connections back."""


class Names(Protocol):
    """The tenants' names in DNS. Calls raise `StoreUnavailable` and `StoreRefused`."""

    def manages(self, host: str) -> bool:
        """Whether the host's records can be changed here."""

    def lookup(self, host: str) -> tuple[str, ...]:
        """What the host's records hold now, at their origin and in no cache."""

    def addresses(self, target: str) -> tuple[str, ...]:
        """The addresses of a target that is a name, where they are known here; empty otherwise."""

    def point(self, host: str, target: str) -> tuple[str, ...]:
        """Have the host point to the target alone; return what it pointed to before. Idempotent.

        A change that somebody else makes at the same time is not overwritten: that raises `StoreRefused`.
        """


class Probe(Protocol):
    """A request such as users make."""

    def cell_at(self, url: str, host: str, addresses: Sequence[str] = ()) -> str | None:
        """The cell that says it answered for the host at the url (connecting to one of the addresses, if given)."""
