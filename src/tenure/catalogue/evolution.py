"""How the app's schema changes from release to release: where its version is recorded, and the app's own command that
migrates a database to a version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tenure.catalogue.qualified_name import QualifiedName
from tenure.model.schema_version import MigrationTool

TABLES: Final[Mapping[MigrationTool, str]] = {
    MigrationTool.ALEMBIC: "public.alembic_version",
    MigrationTool.DJANGO: "public.django_migrations",
}
PLACEHOLDERS: Final[Mapping[MigrationTool, tuple[str, ...]]] = {
    MigrationTool.ALEMBIC: ("version",),
    MigrationTool.DJANGO: ("app", "migration"),
    MigrationTool.SQL: ("version",),
}
"""What a command must have in it so that it can be told where to stop."""


@dataclass(frozen=True, kw_only=True)
class MigrateCommand:
    """The app's own command: its arguments, never a shell's; `url_variable` is the environment variable that tells it
    which database."""

    command: tuple[str, ...]
    folder: Path | None = None
    url_variable: str = "DATABASE_URL"
    url_scheme: str = "postgresql"
    timeout_s: float = 900.0
    environment: Mapping[str, str] = field(default_factory=dict)

    def arguments(self, values: Mapping[str, str]) -> tuple[str, ...]:
        """The command for these values of its placeholders."""
        found = list(self.command)
        for name, value in values.items():
            found = [argument.replace(f"{{{name}}}", value) for argument in found]
        return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Migrations:
    """Where the schema's version is recorded (`query`, or `column` of `table`), and what migrates, if anything does."""

    tool: MigrationTool
    table: QualifiedName | None = None
    column: str = "version"
    query: str | None = None
    migrate: MigrateCommand | None = None
