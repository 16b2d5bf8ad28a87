"""What a restore needs of the rest: backups that can be opened, the way between schemas, and a backup of what is live
now. Made by the composition root."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from tenure.backups.contract import Source
from tenure.engine.context import StepContext
from tenure.model.erasure import Names
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.schema_version import SchemaVersion
from tenure.plan.restore import BackupFacts


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A backup whose manifest has been verified, and its contents."""

    facts: BackupFacts
    source: Source


class Archive(Protocol):
    """The estate's backups."""

    def open(self, backup: str) -> AbstractContextManager[Opened]:
        """Verify the backup's manifest and open it with the tenant's key; from whichever vault has it whole.

        Raises `UnknownName` for one that is not there, and what is wrong with one that is.
        """


class Stage(Protocol):
    """A scratch place in which a backup is brought to the live schema; see `stores.postgres.migrated`."""

    def stage(self, backup: SchemaVersion, live: SchemaVersion, *, reach: Callable[[str], None]) -> object: ...
    def staged(self) -> Source: ...
    def drop(self) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Versions:
    """Of one store: the schema's version in a backup and live, and whether the app's migrations can be run."""

    backup: SchemaVersion | None
    live: SchemaVersion | None
    migrates: bool
    no_program: str | None = None


class Schemas(Protocol):
    """The ways between schemas."""

    def stores(self) -> Sequence[StoreName]:
        """The stores that have schemas."""

    def versions(self, cell: CellName, store: StoreName, tenant: TenantId, source: Source) -> Versions: ...

    def staging(
        self, cell: CellName, store: StoreName, tenant: TenantId, source: Source, *, purpose: str
    ) -> Stage:
        """The scratch place of `purpose` for that store; nothing is there until it is told to `stage`."""

    def leftover(self, cell: CellName, store: StoreName, *, purpose: str) -> Stage:
        """The same, for dropping it only, where nothing is known of the backup any more."""


class Protect(Protocol):
    """Makes a backup of what is live, as a part of a step of another operation."""

    def __call__(self, ctx: StepContext, tenant: TenantId) -> str:
        """Take it, or carry it on; return its id when it is complete and verified. Raises what stands in the way."""


@dataclass(frozen=True, kw_only=True)
class RestorePorts:
    """`protect` is None where nothing can back up what is live; `names` where the estate has no key for the ledger."""

    archive: Archive
    schemas: Schemas
    protect: Protect | None = None
    names: Names | None = None
