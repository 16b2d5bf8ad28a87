"""Versions of schemas, the ways between them, and what the catalogue says of both."""

from __future__ import annotations

from pathlib import Path

import pytest

from tenure.catalogue import PostgresMap, load_catalogue
from tenure.errors import ConfigurationError, StoreRefused
from tenure.model.names import StoreName
from tenure.model.schema_version import MigrationTool, SchemaVersion, Standing, latest
from tenure.model.secret import Secret
from tenure.plan.schema_path import SchemaFacts, Way, schema_path
from tenure.stores.postgres.migrating import url

CATALOGUE = """
version: 1
stores:
  postgres:
    kind: postgresql
    tenant_column: tenant_id
    tables:
      public.documents: {{columns: {{tenant_id: tenant, id: key}}}}
    migrations: {migrations}
"""


def sql(*applied: str) -> SchemaVersion:
    return SchemaVersion(tool=MigrationTool.SQL, applied=applied)


def django(*applied: str) -> SchemaVersion:
    return SchemaVersion(tool=MigrationTool.DJANGO, applied=applied)


def alembic(*heads: str) -> SchemaVersion:
    return SchemaVersion(tool=MigrationTool.ALEMBIC, applied=heads)


@pytest.mark.parametrize(
    ("mine", "theirs", "standing"),
    [
        (sql("9"), sql("10"), Standing.OLDER),
        (sql("0010_a"), sql("0009_z"), Standing.NEWER),
        (sql("20260101"), sql("20260101"), Standing.SAME),
        (sql(), sql("1"), Standing.OLDER),
        (django("a.1", "b.1"), django("a.1", "b.1", "a.2"), Standing.OLDER),
        (django("b.1", "a.1"), django("a.1", "b.1"), Standing.SAME),
        (django("a.1", "a.2"), django("a.1"), Standing.NEWER),
        (django("a.1", "a.2"), django("a.1", "a.3"), Standing.APART),
        (alembic("ae1"), alembic("ae1"), Standing.SAME),
        (alembic("ae1"), alembic("1b2"), Standing.UNKNOWN),
        (alembic(), alembic("1b2"), Standing.OLDER),
        (sql("1"), alembic("1"), Standing.APART),
    ],
)
def test_two_versions_stand_as_their_tool_knows(
    mine: SchemaVersion, theirs: SchemaVersion, standing: Standing
) -> None:
    assert mine.standing(theirs) is standing


def test_numbers_in_names_count_as_numbers() -> None:
    assert latest(["0009_last", "0010_new", "0002_old"]) == "0010_new"
    assert latest(["V2", "V10", "V9"]) == "V10"
    assert latest([]) is None


def test_a_version_says_where_each_call_of_the_command_stops() -> None:
    assert sql("4").targets() == ({"version": "4"},)
    assert alembic("a", "b").targets() == ({"version": "a"}, {"version": "b"})
    assert django("auth.0001", "core.0001_initial", "core.0002_next").targets() == (
        {"app": "auth", "migration": "0001"},
        {"app": "core", "migration": "0002_next"},
    )


def test_a_version_comes_back_from_a_backup() -> None:
    said = django("core.0001", "core.0002")
    assert SchemaVersion.of(said.as_dict()) == said
    with pytest.raises(StoreRefused):
        SchemaVersion.of({"tool": "liquibase", "applied": []})
    with pytest.raises(StoreRefused):
        SchemaVersion.of({"tool": "sql", "applied": "4"})


@pytest.mark.parametrize(
    ("backup", "live", "changes", "migrates", "no_program", "way", "reason"),
    [
        (None, None, (), False, None, Way.AS_IT_IS, ""),
        (sql("4"), sql("4"), (), False, None, Way.AS_IT_IS, ""),
        (sql("1"), sql("4"), ("x",), True, None, Way.MIGRATED, ""),
        (alembic("a"), alembic("b"), (), True, None, Way.MIGRATED, ""),
        (None, sql("4"), ("column a is gone",), True, None, Way.NONE, "its version is not known"),
        (sql("4"), sql("4"), ("column a is gone",), True, None, Way.NONE, "and yet they differ"),
        (sql("5"), sql("4"), (), True, None, Way.NONE, "newer than the target"),
        (django("a.1"), django("a.2"), (), True, None, Way.NONE, "no migrations lead from"),
        (sql("1"), sql("4"), (), False, None, Way.NONE, "nothing is known that migrates it"),
        (sql("1"), sql("4"), (), True, "there is no program 'x'", Way.NONE, "there is no program 'x'"),
    ],
)
def test_the_way_between_two_schemas(
    backup: SchemaVersion | None,
    live: SchemaVersion | None,
    changes: tuple[str, ...],
    migrates: bool,
    no_program: str | None,
    way: Way,
    reason: str,
) -> None:
    path = schema_path(
        SchemaFacts(
            store=StoreName("postgres"),
            backup=backup,
            live=live,
            changes=changes,
            migrates=migrates,
            no_program=no_program,
        )
    )
    assert path.way is way
    assert reason in path.reason
    assert bool(path.cure) is (way is Way.NONE)


def loaded(tmp_path: Path, migrations: str) -> PostgresMap:
    file = tmp_path / "catalogue.yaml"
    file.write_text(CATALOGUE.format(migrations=migrations), encoding="utf-8")
    found = load_catalogue(file).store(StoreName("postgres"))
    assert isinstance(found, PostgresMap)
    return found


@pytest.mark.parametrize(
    ("migrations", "table"),
    [
        ("{tool: alembic}", "public.alembic_version"),
        ("{tool: django}", "public.django_migrations"),
        ("{tool: sql, table: app.versions, column: number}", "app.versions"),
        ('{tool: sql, query: "select 1"}', "None"),
    ],
)
def test_the_catalogue_says_where_the_version_is(tmp_path: Path, migrations: str, table: str) -> None:
    found = loaded(tmp_path, migrations).migrations
    assert found is not None
    assert str(found.table) == table


def test_a_command_gets_its_arguments_and_a_folder_beside_the_catalogue(tmp_path: Path) -> None:
    text = "{tool: django, migrate: {folder: app, command: [python, manage.py, migrate, '{app}', '{migration}']}}"
    found = loaded(tmp_path, text).migrations
    assert found is not None
    assert found.migrate is not None
    assert found.migrate.folder == tmp_path / "app"
    assert found.migrate.arguments({"app": "core", "migration": "0002; rm -rf /"}) == (
        "python",
        "manage.py",
        "migrate",
        "core",
        "0002; rm -rf /",
    )


@pytest.mark.parametrize(
    ("migrations", "problem"),
    [
        ("{tool: sql}", "needs `table` or `query`"),
        ("{tool: alembic, column: x}", "`column` is for `sql` only"),
        ('{tool: sql, table: a.b, query: "select 1"}', "needs neither `table` nor `column`"),
        ("{tool: alembic, migrate: {command: [alembic, upgrade, head]}}", "has no {version}"),
        ("{tool: django, migrate: {command: [x, '{app}']}}", "has no {migration}"),
        ("{tool: alembic, migrate: {command: ['{version}'], url_variable: A-B}}", "environment variable"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, migrations: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        loaded(tmp_path, migrations)
    assert problem in "\n".join(refused.value.problems)


def test_where_the_schema_is_recorded_is_no_part_of_the_data_map(tmp_path: Path) -> None:
    plain = load_catalogue(_written(tmp_path, "{tool: alembic}")).digest
    assert load_catalogue(_written(tmp_path, "{tool: sql, table: a.b}")).digest == plain


def _written(tmp_path: Path, migrations: str) -> Path:
    file = tmp_path / "catalogue.yaml"
    file.write_text(CATALOGUE.format(migrations=migrations), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        (
            "host=db.example port=5433 user=me password='p@ss w/rd' dbname=x",
            "postgresql://me:p%40ss%20w%2Frd@db.example:5433/x",
        ),
        ("postgresql://me@[::1]/x?sslmode=require", "postgresql://me@[::1]/x?sslmode=require"),
        ("host=/run/pg user=me dbname=x port=5432", "postgresql://me@/x?host=%2Frun%2Fpg&port=5432"),
    ],
)
def test_a_connection_string_becomes_a_url(dsn: str, expected: str) -> None:
    assert url(Secret(dsn), "postgresql") == expected
