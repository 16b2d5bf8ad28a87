"""Tenure's side of the gate's control listener."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tenure.errors import FenceRefused, StoreRefused, StoreUnavailable
from tenure.model.names import CellName, TenantId
from tenure.routing.contract import HoldReport
from tenure.routing.envoy.connection import Connection
from tenure.routing.envoy.options import GateEndpoint


@dataclass(frozen=True, kw_only=True)
class GateStatus:
    """What the gate does with a gated tenant. `waiting` counts the requests it has and has not answered,
    `asked` all of them since its process began."""

    cell: CellName
    token: int
    held: bool
    waiting: int
    timed_out: bool
    asked: int
    canary: CellName | None = None
    canary_share: float = 0.0


class GateClient:
    """Calls raise `StoreUnavailable`, `FenceRefused` (a newer token) and `StoreRefused`; all may be
    repeated."""

    def __init__(self, endpoint: GateEndpoint, *, timeout_s: float) -> None:
        headers = {"Authorization": f"Bearer {endpoint.token.reveal()}", "Content-Type": "application/json"}
        self._connection = Connection(endpoint.control, what="the gate", timeout_s=timeout_s, headers=headers)

    def ping(self) -> None:
        """Return if the gate answers and accepts the token."""
        self._call("GET", "/ping")

    def status(self, tenant: TenantId) -> GateStatus | None:
        """What the gate does with the tenant; None if it is not behind the gate."""
        found = self._call("GET", f"/tenants/{tenant}", missing_ok=True)
        if found is None:
            return None
        canary = found["canary"] or {}
        return GateStatus(
            canary=canary.get("cell"),
            canary_share=canary.get("share", 0.0),
            cell=CellName(found["cell"]),
            token=found["token"],
            held=found["held"],
            waiting=found["waiting"],
            timed_out=found["timed_out"],
            asked=found["asked"],
        )

    def put(self, tenant: TenantId, *, cell: CellName, token: int) -> None:
        """Make the gate answer for the tenant."""
        self._call("PUT", f"/tenants/{tenant}", {"cell": cell, "token": token})

    def canary(self, tenant: TenantId, *, token: int, cell: CellName, share: float, ttl_s: float) -> None:
        """When this returns, that share of the tenant's new reads goes to the cell."""
        body = {"token": token, "cell": cell, "share": share, "ttl_s": ttl_s}
        self._call("POST", f"/tenants/{tenant}/canary", body)

    def hold(self, tenant: TenantId, *, token: int, budget_s: float, fallback: CellName) -> None:
        """When this returns, every new request waits."""
        body = {"token": token, "budget_s": budget_s, "fallback": fallback}
        self._call("POST", f"/tenants/{tenant}/hold", body)

    def throttle(
        self, tenant: TenantId, *, token: int, writes_per_s: float, longest_delay_s: float, for_s: float
    ) -> None:
        """From now on writing requests wait for their turn."""
        body = {
            "token": token,
            "writes_per_s": writes_per_s,
            "longest_delay_s": longest_delay_s,
            "for_s": for_s,
        }
        self._call("POST", f"/tenants/{tenant}/throttle", body)

    def release(self, tenant: TenantId, *, token: int, cell: CellName) -> HoldReport:
        """Open the gate towards the cell. Does nothing for a tenant that is not behind the gate."""
        body = {"token": token, "cell": cell}
        report = self._call("POST", f"/tenants/{tenant}/release", body, missing_ok=True)
        if report is None:
            return HoldReport(
                hold_ms=0.0, requests_held=0, longest_wait_ms=0.0, released_to=cell, timed_out=False
            )
        return HoldReport(
            hold_ms=report["hold_ms"],
            requests_held=report["requests_held"],
            longest_wait_ms=report["longest_wait_ms"],
            released_to=CellName(report["released_to"]),
            timed_out=report["timed_out"],
        )

    def remove(self, tenant: TenantId, *, forget: bool = False) -> None:
        """Make the gate stop answering for the tenant. Refused during a hold, unless the tenant is
        forgotten."""
        self._call("DELETE", f"/tenants/{tenant}{'?forget=1' if forget else ''}")

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()

    def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, missing_ok: bool = False
    ) -> dict[str, Any] | None:
        answer = self._connection.request(
            method, path, json.dumps(body).encode() if body is not None else None
        )
        try:
            found = json.loads(answer.body)
        except ValueError as error:
            raise StoreUnavailable(
                f"{self._connection.address} does not answer like a gate",
                hint="is its port taken by something else?",
            ) from error
        if answer.status == 200 and isinstance(found, dict):
            return found
        message = f"the gate refuses: {found.get('message') if isinstance(found, dict) else found}"
        if answer.status == 404 and missing_ok:
            return None
        if answer.status in (409, 423):
            raise FenceRefused(message, hint="another operation holds this tenant: `tenure op list`")
        if answer.status == 404:
            raise StoreRefused(message, hint="gate the tenant first")
        if answer.status == 401:
            raise StoreUnavailable(message, hint="gate and Tenure must read the same token file")
        if answer.status >= 500:
            raise StoreUnavailable(message, hint="look at the gate's log")
        raise StoreRefused(message)
