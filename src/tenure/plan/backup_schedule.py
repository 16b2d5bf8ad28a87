"""Which tenants are to be backed up now. Pure: the control database says what time it is and what there is."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from tenure.model.names import TenantId

_STEPS: Final = 1 << 64
AGAIN_AFTER: Final = timedelta(minutes=30)
"""A backup that did not come about is tried again after that."""


@dataclass(frozen=True, kw_only=True)
class Timetable:
    """A tier's schedule at this moment: the period that it is now began at `period`."""

    rank: int
    period: datetime
    window: timedelta
    copy_to: str | None = None


@dataclass(frozen=True, kw_only=True)
class Past:
    """A tenant's newest good backup and the regions that have it, and when a backup of it was last begun."""

    point_at: datetime | None = None
    regions: Collection[str] = ()
    tried_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class DueBackup:
    """A backup that is due since `slot`."""

    tenant: TenantId
    tier: str
    rank: int
    period: datetime
    slot: datetime


def slot_of(tenant: TenantId, table: Timetable) -> datetime:
    """The tenant's own place in the window: always the same share of it, whoever computes it."""
    share = int.from_bytes(hashlib.sha256(tenant.encode()).digest()[:8], "big") / _STEPS
    return table.period + table.window * share


def due(
    tenants: Sequence[tuple[TenantId, str]],
    tables: Mapping[str, Timetable],
    past: Mapping[TenantId, Past],
    *,
    now: datetime,
) -> tuple[DueBackup, ...]:
    """The backups that are due, the highest tier first, then by their places in the window.

    Of the periods that have passed without one only the present one is made up for: a tenant has one due backup or
    none. One whose copy in another region is lacking has not come about.
    """
    found = _due(tenants, tables, past, now)
    return tuple(sorted(found, key=lambda one: (one.rank, one.slot, one.tenant)))


def _due(
    tenants: Sequence[tuple[TenantId, str]],
    tables: Mapping[str, Timetable],
    past: Mapping[TenantId, Past],
    now: datetime,
) -> Iterator[DueBackup]:
    for tenant, tier in tenants:
        table = tables.get(tier)
        if table is None:
            continue
        slot = slot_of(tenant, table)
        before = past.get(tenant, Past())
        done = (
            before.point_at is not None
            and before.point_at >= table.period
            and (table.copy_to is None or table.copy_to in before.regions)
        )
        tried = before.tried_at is not None and now - before.tried_at < AGAIN_AFTER
        # Who was never backed up does not wait for the next window.
        begins = slot if before.point_at is not None else min(slot, now)
        if begins <= now and not done and not tried:
            yield DueBackup(tenant=tenant, tier=tier, rank=table.rank, period=table.period, slot=slot)
