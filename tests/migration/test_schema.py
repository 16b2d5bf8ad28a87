"""The schema of the control database: built by its migrations, pinned, never used by a Tenure that does not know it.

A change of the schema is a new migration; `expected_schema.txt` is then written anew by
`python -m tests.migration.describe DSN` from a freshly migrated database.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tenure.errors import ConfigurationError
from tenure.model.secret import Secret
from tenure.registry import migrations
from tenure.registry.database import Database
from tests.migration.describe import describe

EXPECTED = Path(__file__).with_name("expected_schema.txt")


@pytest.fixture
def database(fresh_database: Callable[..., str]) -> Iterator[Database]:
    database = Database(Secret(fresh_database("control")))
    yield database
    database.close()


def test_the_migrations_from_empty_give_the_pinned_schema(database: Database) -> None:
    assert migrations.migrate(database) == tuple(m.name for m in migrations.known())
    assert describe(database) == EXPECTED.read_text("utf-8")
    migrations.check_version(database)


def test_migrating_again_changes_nothing(database: Database) -> None:
    migrations.migrate(database)
    assert migrations.migrate(database) == ()
    assert describe(database) == EXPECTED.read_text("utf-8")


def test_each_migration_can_run_twice_at_its_place(database: Database) -> None:
    with database.dedicated() as connection:
        for migration in migrations.known():
            migrations.apply(connection, migration)
            once = describe(database)
            migrations.apply(connection, migration)
            assert describe(database) == once, migration.name
    assert describe(database) == EXPECTED.read_text("utf-8")


def test_processes_that_migrate_at_the_same_time_do_it_once(database: Database) -> None:
    applied: list[str] = []
    threads = [
        threading.Thread(target=lambda: applied.extend(migrations.migrate(database))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert applied == [m.name for m in migrations.known()]


def test_a_newer_schema_is_refused_and_left_alone(database: Database) -> None:
    migrations.migrate(database)
    newest = len(migrations.known()) + 1
    with database.connection() as connection:
        connection.execute(
            "insert into registry.migrations (version, name, digest) values (%s, 'from_the_future', '')",
            (newest,),
        )
    for refuses in (migrations.migrate, migrations.check_version):
        with pytest.raises(
            ConfigurationError, match=f"schema version {newest}, this Tenure knows up to"
        ) as error:
            refuses(database)
        assert "newer Tenure" in (error.value.hint or "")


def test_an_older_schema_is_refused_with_what_to_do(database: Database) -> None:
    with pytest.raises(ConfigurationError, match=r"lacks \d+ migration") as error:
        migrations.check_version(database)
    assert "tenure estate init" in (error.value.hint or "")


def test_a_migration_that_was_edited_after_it_was_applied_is_refused(database: Database) -> None:
    migrations.migrate(database)
    with database.connection() as connection:
        connection.execute("update registry.migrations set digest = 'another' where version = 1")
    with pytest.raises(ConfigurationError, match="was built by another 0001_registry"):
        migrations.check_version(database)


def test_a_migration_that_fails_leaves_nothing_of_itself(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = migrations.Migration(
        version=len(migrations.known()) + 1,
        name="9999_bad",
        sql="create table registry.half (n int); select 1/0;",
    )
    everything = (*migrations.known(), bad)
    monkeypatch.setattr(migrations, "known", lambda: everything)
    with pytest.raises(Exception, match="division by zero"):
        migrations.migrate(database)
    assert describe(database) == EXPECTED.read_text("utf-8")
