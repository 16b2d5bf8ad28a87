"""The settings of `catalogue.yaml` about the versions of a database's schema."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from tenure.catalogue.evolution import PLACEHOLDERS, TABLES, MigrateCommand, Migrations
from tenure.catalogue.qualified_name import QualifiedName
from tenure.catalogue.words import Identifier, TableName
from tenure.document import Described, Settings, read_only, refuse, setting
from tenure.model.schema_version import MigrationTool

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+]*")


def _variable(text: str) -> str:
    if not _VARIABLE.fullmatch(text):
        raise refuse("is not the name of an environment variable")
    return text


def _scheme(text: str) -> str:
    if not _SCHEME.fullmatch(text):
        raise refuse("is not the beginning of a URL, such as postgresql+psycopg")
    return text


def _folder(text: str, info: ValidationInfo) -> str:
    if not text:
        raise refuse("must not be empty")
    folder: Path = (info.context or {}).get("folder", Path())
    return str((folder / text).absolute())


Variable = Annotated[str, AfterValidator(_variable), Described(words="name of an environment variable")]
Folder = Annotated[str, AfterValidator(_folder), Described(words="path")]
Words = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
Environment = Annotated[Mapping[Variable, str], AfterValidator(read_only)]


class MigrateSettings(Settings):
    """The app's own command that migrates a database. It runs against a scratch database, on the machine on which the
    restore runs, as Tenure's own user and never through a shell."""

    title: ClassVar[str] = "stores.NAME.migrations.migrate"
    command: Words = setting(
        "The program and its arguments. `{version}` stands for the version to stop at (`alembic` and `sql`), `{app}` "
        "and `{migration}` for an app and the migration of it to stop at (`django`: the command runs once for each "
        "app), `{tenant}` for the tenant's id."
    )
    folder: Folder | None = setting(
        "The folder in which it runs; not set: the one in which Tenure runs.", default=None
    )
    url_variable: Variable = setting(
        "The environment variable in which it finds the scratch database's URL.", default="DATABASE_URL"
    )
    url_scheme: Annotated[str, AfterValidator(_scheme)] = setting(
        "What that URL begins with, such as `postgresql+psycopg` for SQLAlchemy.", default="postgresql"
    )
    timeout_s: Annotated[float, Field(gt=0, le=86_400)] = setting(
        "After how long it is ended, with everything that it has started.", default=900.0, unit="s"
    )
    environment: Environment = setting(
        "More of its environment, which otherwise has only `PATH`, `HOME`, `LANG`, `TZ`, `TMPDIR` and "
        "`PYTHONPATH` of Tenure's. No secrets.",
        default={},
        validate_default=True,
    )

    def value(self) -> MigrateCommand:
        return MigrateCommand(
            command=self.command,
            folder=None if self.folder is None else Path(self.folder),
            url_variable=self.url_variable,
            url_scheme=self.url_scheme,
            timeout_s=self.timeout_s,
            environment=MappingProxyType(dict(self.environment)),
        )


class MigrationsSettings(Settings):
    """Which version the schema has, and how the app migrates it. Backups carry the version; an older one is migrated
    before it is restored."""

    title: ClassVar[str] = "stores.NAME.migrations"
    tool: Literal["alembic", "django", "sql"] = setting(
        "Who records the version. `alembic`: the heads in `alembic_version`. `django`: the migrations in "
        "`django_migrations`. `sql`: a number or a name that sorts, of which the last one counts."
    )
    table: TableName | None = setting(
        "The table with the version; not set: `public.alembic_version` or `public.django_migrations`. `sql` needs it, "
        "or `query`.",
        default=None,
    )
    column: Identifier | None = setting(
        "The column of that table with the version; only with `sql`, and not set: `version`.", default=None
    )
    query: Annotated[str, Field(min_length=1)] | None = setting(
        "A query that gives the version instead, in one column: one row, or one for each migration that was applied, "
        "in that order. It runs in a transaction that only reads.",
        default=None,
    )
    migrate: MigrateSettings | None = setting(
        "The app's own command that migrates. Without it, backups are restored only to the version they were taken at.",
        default=None,
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        tool = MigrationTool(self.tool)
        if self.query is None and self.table is None and tool not in TABLES:
            raise refuse("needs `table` or `query`, to know where the version is")
        if self.query is not None and (self.table is not None or self.column is not None):
            raise refuse("has a `query`, so it needs neither `table` nor `column`")
        if self.column is not None and tool is not MigrationTool.SQL:
            raise refuse(f"the column of {tool} is known: `column` is for `sql` only")
        if self.migrate is not None:
            said = " ".join(self.migrate.command)
            missing = [f"{{{name}}}" for name in PLACEHOLDERS[tool] if f"{{{name}}}" not in said]
            if missing:
                raise refuse(
                    f"the command cannot be told where to stop: it has no {' and no '.join(missing)}"
                )
        return self

    def value(self) -> Migrations:
        tool = MigrationTool(self.tool)
        table = self.table if self.query is None else None
        if self.query is None and table is None:
            table = TABLES[tool]
        return Migrations(
            tool=tool,
            table=None if table is None else QualifiedName.parse(table),
            column=self.column or "version",
            query=self.query,
            migrate=None if self.migrate is None else self.migrate.value(),
        )
