"""Backups as the control database knows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from tenure.model.names import CellName, TenantId


class BackupState(StrEnum):
    """`ABANDONED`: it was begun and is not there."""

    TAKING = "taking"
    COMPLETE = "complete"
    ABANDONED = "abandoned"


class CopyState(StrEnum):
    """`DELETING`: somebody has begun to, so that nobody counts on it."""

    STORED = "stored"
    DELETING = "deleting"
    DELETED = "deleted"


class Depth(StrEnum):
    """How closely a backup was looked at: some of its chunks, or every byte."""

    SAMPLE = "sample"
    FULL = "full"


@dataclass(frozen=True, kw_only=True)
class BackupCopy:
    """A backup in the vault of one region. `stored_at` is the vault's clock, `contents` the digest of the list of its
    chunks there. `whole` is what the last verification found; None without one."""

    region: str
    state: CopyState
    stored_at: datetime
    contents: str
    locked_until: datetime | None = None
    verified_at: datetime | None = None
    depth: Depth | None = None
    whole: bool | None = None
    problems: tuple[str, ...] = ()
    deleted_at: datetime | None = None
    deleted_because: str | None = None

    @property
    def good(self) -> bool:
        """It is there and was found whole."""
        return self.state is CopyState.STORED and self.whole is True


@dataclass(frozen=True, kw_only=True)
class BackupRecord:
    """`period`: the beginning of the time of a schedule that it was made for; None where somebody asked for it.
    `contents` is the digest of its list of chunks, `details` what else its operation told."""

    id: str
    tenant: TenantId
    operation: str
    tier: str
    cell: CellName
    epoch: int
    state: BackupState
    begun_at: datetime
    period: datetime | None = None
    point_at: datetime | None = None
    contents: str | None = None
    key: str | None = None
    items: int | None = None
    size_bytes: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    copies: tuple[BackupCopy, ...] = ()

    def copy_in(self, region: str) -> BackupCopy | None:
        """The copy in the vault of that region, if there is or was one."""
        return next((copy for copy in self.copies if copy.region == region), None)

    @property
    def there(self) -> tuple[BackupCopy, ...]:
        """The copies that nobody has begun to delete."""
        return tuple(copy for copy in self.copies if copy.state is CopyState.STORED)


@dataclass(frozen=True, kw_only=True)
class DrillRecord:
    """`recovery_s`: from the beginning until the restored data was found equal. `recovery_point_s`: how old the point
    of the newest good backup was then, which is what would have been lost."""

    operation: str
    backup: str
    tenant: TenantId
    tier: str
    region: str
    at: datetime
    equal: bool
    recovery_s: float
    recovery_point_s: float
    details: Mapping[str, Any] = field(default_factory=dict)
