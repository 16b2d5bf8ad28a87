"""What a restore needs of the rest besides the stores and the backups: the way between schemas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tenure.backups.contract import Source
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.schema_version import SchemaVersion


class Dropped(Protocol):
    """A scratch place that is only to be removed."""

    def drop(self) -> None:
        """Remove it. Idempotent, in any process."""

    def close(self) -> None: ...


class Stage(Dropped, Protocol):
    """A scratch place in which a backup is brought to the live schema; see `stores.postgres.migrated`."""

    def stage(self, backup: SchemaVersion, live: SchemaVersion, *, reach: Callable[[str], None]) -> object:
        """Load, migrate and check; what another process has finished is kept. Changes nothing live.

        Raises `StoreRefused` where no migrations lead there or rows break a rule, which it names; `DataDiffers`.
        """

    def staged(self) -> Source:
        """The backup as it is after `stage`."""


@dataclass(frozen=True, kw_only=True)
class Versions:
    """Of one store: the schema's version in a backup and live, and whether the app's migrations can be run here."""

    backup: SchemaVersion | None
    live: SchemaVersion | None
    migrates: bool
    no_program: str | None = None


class Schemas(Protocol):
    """The ways between schemas."""

    def stores(self) -> Sequence[StoreName]:
        """The stores whose schemas have versions."""

    def versions(self, cell: CellName, store: StoreName, tenant: TenantId, source: Source) -> Versions:
        """Reads only."""

    def staging(
        self, cell: CellName, store: StoreName, tenant: TenantId, source: Source, *, purpose: str
    ) -> Stage:
        """The scratch place of `purpose` for that store; nothing is there until it is told to `stage`."""

    def leftover(self, cell: CellName, store: StoreName, *, purpose: str) -> Dropped:
        """The same for dropping only, where the backup is not at hand."""
