"""What an erasure has shown, part by part. A certificate is drawn from this and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from tenure.model.names import CellName, StoreName, TenantId


class PartName(NamedTuple):
    """One store of one cell."""

    cell: CellName
    store: StoreName

    def __str__(self) -> str:
        return f"{self.store} of {self.cell}"


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What the store itself counts in its places for the tenant."""

    items: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Looked:
    """One part of a scan: how much it looked at, and how much of that was the tenant's own. `done`: all of it."""

    scan: str
    done: bool
    items: int
    size_bytes: int
    own: int


@dataclass(frozen=True, kw_only=True)
class Mention:
    """The tenant's id in a place that is not erased, and why that stays. `name` is a place's, never a value."""

    part: PartName
    kind: str
    name: str
    items: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Unseen:
    """What the scan could not look at."""

    part: PartName
    kind: str
    name: str
    reason: str
    items: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """What was done to one store of one cell, and what was seen before and afterwards. None: it was not looked at."""

    name: PartName
    region: str
    kind: str
    before: Counted | None
    seen_before: Looked | None
    erased: bool
    after: Counted | None
    seen_after: Looked | None
    residue: int = 0
    sealed: bool = False
    """Without the tenant's keys nobody can read what it holds."""
    undeletable: str | None = None
    """Why nobody can delete what it holds."""
    locked: int = 0
    """So many objects the server keeps, whoever asks, until `lapses_at`."""
    lapses_at: datetime | None = None
    """When the last copy that nobody can delete sooner has gone."""
    leaves: str | None = None
    """Where bytes may lie until the engine writes over them."""
    carried_by: StoreName | None = None
    """The store of the same cell in which a scan sees what this one holds."""


@dataclass(frozen=True, kw_only=True)
class KeyGone:
    """A key that was destroyed. `proof` says how opening it, or a backup sealed with it, failed."""

    reference: str
    proof: str | None
    leaves: str


@dataclass(frozen=True, kw_only=True)
class BackupGone:
    """A backup of the tenant: that it could not be opened any more, and whether its bytes are there still."""

    id: str
    region: str
    proof: str | None
    kept_until: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """Who asked for what, as far as a certificate says it: references and roles, no person."""

    id: str
    tenant: TenantId
    role: str
    ground: str
    received: str
    due: str


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that is known of one erasure. `expected` are all stores of the estate, whatever was done to them."""

    request: Request
    operation: str
    version: str
    expected: frozenset[PartName]
    parts: Mapping[PartName, Part]
    keys: tuple[KeyGone, ...]
    backups: tuple[BackupGone, ...]
    mentions: tuple[Mention, ...]
    unseen: tuple[Unseen, ...]
    in_ledger: bool
    inventory_digest: str
    journaled_inventory_digest: str | None
    """What the audit log says the inventory was."""
    catalogue_digest: str
    audit_head: str | None
    previous: str | None
    """The SHA-256 of the certificate that was issued before this one, by this estate."""
    supersedes: str | None = None
    closed_at: datetime | None = None
    """Since when nothing of the tenant has been served or accepted."""
    notes: tuple[str, ...] = field(default=())
