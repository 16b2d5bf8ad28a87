"""The ways between the schemas of backups and live ones: of PostgreSQL stores whose migrations the catalogue knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tenure.backups.contract import Source
from tenure.catalogue import PostgresMap
from tenure.errors import ConfigurationError
from tenure.estate.config import Estate
from tenure.estate.settings import PostgresSettings
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.schema_version import SchemaVersion
from tenure.model.secret import Secret
from tenure.operations.restore.ports import Stage, Versions
from tenure.stores.postgres import PostgresStore
from tenure.stores.postgres.migrated import Leftover, Staging
from tenure.stores.postgres.migrating import missing_program
from tenure.stores.postgres.schema_version import SCHEMA_VERSION, schema_version
from tenure.wiring.stores import Stores


class PostgresSchemas:
    """Implements `tenure.operations.restore.ports.Schemas`."""

    def __init__(self, estate: Estate, stores: Stores) -> None:
        self._estate: Final = estate
        self._stores: Final = stores

    def stores(self) -> Sequence[StoreName]:
        """All PostgreSQL stores: without a version, a backup's schema still has to be the live one."""
        return [n for n, where in self._estate.catalogue.stores.items() if isinstance(where, PostgresMap)]

    def versions(self, cell: CellName, store: StoreName, tenant: TenantId, source: Source) -> Versions:
        said: Mapping[str, Any] | None = source.facts(store).get(SCHEMA_VERSION)
        backup = None if said is None else SchemaVersion.of(said)
        there = self._store(cell, store)
        migrations = there.migrations
        if migrations is None:
            return Versions(backup=backup, live=None, migrates=False)
        live = schema_version(there.home(tenant).pool, migrations)
        command = migrations.migrate
        return Versions(
            backup=backup,
            live=live,
            migrates=command is not None,
            no_program=None if command is None else missing_program(command),
        )

    def staging(
        self, cell: CellName, store: StoreName, tenant: TenantId, source: Source, *, purpose: str
    ) -> Stage:
        there = self._store(cell, store)
        if there.migrations is None:
            raise ConfigurationError(f"the catalogue knows no migrations of {store}")
        return Staging(
            name=store,
            tenant=tenant,
            home=there.home(tenant),
            owners=there.owners,
            migrations=there.migrations,
            source=source,
            scratch_dsn=self._scratch(cell, store),
            purpose=purpose,
        )

    def leftover(self, cell: CellName, store: StoreName, *, purpose: str) -> Leftover:
        return Leftover(self._scratch(cell, store), store, cell, purpose)

    def _store(self, cell: CellName, name: StoreName) -> PostgresStore:
        found = self._stores.store(cell, name)
        if not isinstance(found, PostgresStore):
            raise ConfigurationError(f"{name} of {cell} is not PostgreSQL")
        return found

    def _scratch(self, cell: CellName, name: StoreName) -> Secret:
        settings = self._estate.cell(cell).stores[name]
        if not isinstance(settings, PostgresSettings):
            raise ConfigurationError(f"{name} of {cell} is not PostgreSQL")
        return (settings.scratch_dsn or settings.dsn).resolve()
