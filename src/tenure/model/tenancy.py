"""Tenants and where they are served."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from tenure.model.names import CellName, TenantId


class TenantState(StrEnum):
    ACTIVE = "active"
    SUSPENDED = "suspended"


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """A customer. `host` is the name the gateway routes by; `residency` names a rule of `tenure.yaml`, or nothing."""

    id: TenantId
    tier: str
    host: str
    residency: str | None = None
    state: TenantState = TenantState.ACTIVE
    legal_hold: str | None = None


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Which cell serves a tenant. `epoch` grows by one with every change, and never goes back."""

    tenant: TenantId
    cell: CellName
    epoch: int
    since: datetime
