"""A backup taken at version 1 of the sample app's schema, brought to version 4 by the app's own migrations."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import psycopg
import pytest

import rag_app
from rag_app.migrate import migrate
from tenure.catalogue.evolution import MigrateCommand, Migrations
from tenure.catalogue.qualified_name import QualifiedName
from tenure.errors import DataDiffers, StoreRefused
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.schema_version import MigrationTool, SchemaVersion
from tenure.model.secret import Secret
from tenure.stores.backup import Preparing
from tenure.stores.contract import Fence
from tenure.stores.postgres import PostgresStore, TenantTable
from tenure.stores.postgres.migrated import Staging
from tenure.stores.postgres.schema_version import schema_version
from tests.backups import MemoryBackup, captured

ACME, NEIGHBOUR = TenantId("acme"), TenantId("globex")
POSTGRES, VECTORS = StoreName("postgres"), StoreName("vectors")
EMBEDDINGS = TenantTable(schema="public", name="embeddings", tenant_column="tenant_id")
COMMAND = MigrateCommand(
    command=(sys.executable, "-m", "rag_app.migrate", "{version}"),
    environment=MappingProxyType({"PYTHONPATH": str(Path(rag_app.__file__).parents[1])}),
    timeout_s=60,
)
MIGRATIONS = Migrations(
    tool=MigrationTool.SQL, table=QualifiedName(schema="public", name="schema_version"), migrate=COMMAND
)
ROWS = """
insert into documents (tenant_id, id, title, body, meta, created_at)
    select t, i, 'title ' || i, repeat('text ', i),
        jsonb_build_object('language', case i % 3 when 0 then 'de' else 'en' end),
        '2026-01-01 23:30:00+00'::timestamptz + i * '1 day'::interval
    from unnest(array['acme', 'globex']) t, generate_series(1, 40) i;
insert into chunks (tenant_id, id, document_id, seq, text)
    select tenant_id, id * 10 + n, id, n, E'tab\\there, line\\nthere ' || n from documents, generate_series(0, 2) n;
insert into embeddings select tenant_id, id, array_fill(0.25, array[32])::vector from chunks;
select setval(pg_get_serial_sequence('documents', 'id'), 500);
"""


def version(number: int) -> SchemaVersion:
    return SchemaVersion(tool=MigrationTool.SQL, applied=(str(number),))


def tables(*names: str) -> tuple[TenantTable, ...]:
    return tuple(TenantTable(schema="public", name=name, tenant_column="tenant_id") for name in names)


OLD, NEW = tables("documents", "chunks"), tables("documents", "document_bodies", "chunks")


def store(cell: str, dsn: str, own: tuple[TenantTable, ...]) -> PostgresStore:
    return PostgresStore(
        name=POSTGRES,
        cell=CellName(cell),
        dsn=Secret(dsn),
        tables=own,
        carried=(EMBEDDINGS,),
        riders={EMBEDDINGS: VECTORS},
        migrations=MIGRATIONS,
    )


def deploy(dsn: str, number: int, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        migrate(connection, number)
        for statement in statements:
            connection.execute(statement.encode())


def rows(dsn: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()


class Cells:
    """`old` is at version 1 and holds the rows; `new` is at version 4 and holds other rows of the same tenant."""

    def __init__(self, old_dsn: str, new_dsn: str) -> None:
        self.old_dsn, self.new_dsn = old_dsn, new_dsn
        self.old, self.new = store("old", old_dsn, OLD), store("new", new_dsn, NEW)
        self._stagings: list[Staging] = []

    def backup(self) -> MemoryBackup:
        return captured([(self.old, self.old.capture(ACME))], ACME)

    def staging(
        self, source: MemoryBackup, *, migrations: Migrations = MIGRATIONS, purpose: str = "test"
    ) -> Staging:
        made = Staging(
            name=POSTGRES,
            tenant=ACME,
            home=self.new.home(ACME),
            owners={**dict.fromkeys(NEW, POSTGRES), EMBEDDINGS: VECTORS},
            migrations=migrations,
            source=source,
            scratch_dsn=Secret(self.new_dsn),
            purpose=purpose,
        )
        self._stagings.append(made)
        return made

    def databases(self) -> list[str]:
        found = rows(self.new_dsn, "select datname from pg_database where datname like 'tenure_restore_%'")
        return [str(name) for (name,) in found]

    def close(self) -> None:
        for staging in self._stagings:
            staging.drop()
            staging.close()
        self.old.close()
        self.new.close()


@pytest.fixture
def cells(fresh_database: Callable[..., str]) -> Iterator[Cells]:
    made = Cells(fresh_database("pg16"), fresh_database("pg18a"))
    deploy(made.old_dsn, 1, ROWS)
    deploy(
        made.new_dsn,
        4,
        "insert into documents (tenant_id, id, title, size) values ('acme', 1, 'live', 4), ('globex', 1, 'other', 5)",
    )
    yield made
    made.close()


def test_the_version_is_read_where_the_catalogue_says(cells: Cells) -> None:
    assert schema_version(cells.old.home(ACME).pool, MIGRATIONS) == version(1)
    assert schema_version(cells.new.home(ACME).pool, MIGRATIONS) == version(4)
    asked = replace(MIGRATIONS, table=None, query="select version * 10 from public.schema_version")
    assert schema_version(cells.new.home(ACME).pool, asked) == version(40)


def test_a_backup_carries_the_version_of_its_schema(cells: Cells) -> None:
    said = cells.backup().facts(POSTGRES)["schema_version"]
    assert SchemaVersion.of(said) == version(1)


def test_what_is_prepared_is_undone_unless_the_block_ends(cells: Cells) -> None:
    source, restoring = cells.backup(), cells.old.restoring(ACME, ACME)
    assert isinstance(restoring, Preparing)
    deploy(cells.old_dsn, 1, "update documents set title = 'damaged' where tenant_id = 'acme'")
    damaged = rows(cells.old_dsn, "select * from documents order by 1, 2")
    fence = Fence(tenant=ACME, epoch=2, token=7)
    cells.old.fence(fence, expires_in_s=None, drain_s=5)
    differences = list(restoring.differences(source))
    with suppress(KeyboardInterrupt), restoring.prepared(source, differences, fence) as items:
        assert items == 40
        raise KeyboardInterrupt
    assert rows(cells.old_dsn, "select * from documents order by 1, 2") == damaged
    with restoring.prepared(source, differences, fence):
        assert rows(cells.old_dsn, "select * from documents order by 1, 2") == damaged
    assert list(restoring.differences(source)) == []
    cells.old.open(fence)


def test_a_backup_of_version_1_restores_into_version_4(cells: Cells) -> None:
    staging = cells.staging(cells.backup())
    staged = staging.stage(version(1), version(4))
    assert staged.loaded == 40 + 120 + 120
    assert staged.items == 40 + 40 + 120 + 120
    source, restoring = staging.staged(), cells.new.restoring(ACME, ACME)
    kinds = [d.kind for d in restoring.differences(source)]
    assert len(kinds) == 320  # document 1 differs, everything else is missing
    fence = Fence(tenant=ACME, epoch=2, token=7)
    cells.new.fence(fence, expires_in_s=None, drain_s=5)
    restoring.apply(source, list(restoring.differences(source)), fence)
    assert list(restoring.differences(source)) == []
    cells.new.open(fence)
    assert rows(
        cells.new_dsn,
        "select d.language, d.size, d.created_at::text, b.body from documents d join document_bodies b"
        " on (b.tenant_id, b.document_id) = (d.tenant_id, d.id) where d.tenant_id = 'acme' and d.id = 3",
    ) == [("de", 15, "2026-01-04", "text text text ")]
    assert rows(
        cells.new_dsn, "select position, content from chunks where tenant_id = 'acme' and id = 31"
    ) == [(1, "tab\there, line\nthere 1")]
    assert rows(cells.new_dsn, "select tenant_id, title from documents where tenant_id <> 'acme'") == [
        ("globex", "other")
    ]
    deploy(cells.new_dsn, 4, "insert into documents (tenant_id, title, size) values ('acme', 'next', 1)")
    assert rows(cells.new_dsn, "select id from documents where title = 'next'") == [(501,)]
    staging.drop()
    assert cells.databases() == []


def test_a_backup_that_breaks_a_new_constraint_is_refused_with_the_rows_named(cells: Cells) -> None:
    deploy(
        cells.old_dsn,
        1,
        "update documents set title = repeat('x', 300) where tenant_id = 'acme' and id in (7, 8)",
        "update chunks set seq = -1 where tenant_id = 'acme' and id = 90",
    )
    before = rows(cells.new_dsn, "select * from documents order by 1, 2")
    staging = cells.staging(cells.backup())
    with pytest.raises(StoreRefused) as refused:
        staging.stage(version(1), version(4))
    assert "2 rows break public.documents: check title_is_short" in refused.value.message
    assert '["acme", "7"], ["acme", "8"]' in refused.value.message
    assert "1 rows break public.chunks: check position_counts" in refused.value.message
    assert '["acme", "90"]' in refused.value.message
    assert rows(cells.new_dsn, "select * from documents order by 1, 2") == before
    staging.drop()


def test_a_rule_that_only_the_live_tables_have_is_kept_as_well(cells: Cells) -> None:
    deploy(cells.new_dsn, 4, "alter table documents add constraint no_thirteen check (id <> 13)")
    with pytest.raises(StoreRefused, match=r"no_thirteen.*\[\"acme\", \"13\"\]"):
        cells.staging(cells.backup()).stage(version(1), version(4))


def test_a_live_schema_that_the_migrations_do_not_lead_to_is_refused(cells: Cells) -> None:
    deploy(cells.new_dsn, 4, "alter table documents add column by_hand text")
    with pytest.raises(StoreRefused, match="column by_hand: absent, live text"):
        cells.staging(cells.backup()).stage(version(1), version(4))


def test_a_backup_newer_than_the_target_is_refused(cells: Cells, fresh_database: Callable[..., str]) -> None:
    """Also where nobody could know before: the scratch database is asked what it came to."""
    dsn = fresh_database("pg18a")
    deploy(dsn, 4, "insert into documents (tenant_id, id, title, size) values ('acme', 1, 'x', 1)")
    newer = store("newer", dsn, NEW)
    backup = captured([(newer, newer.capture(ACME))], ACME)
    newer.close()
    with pytest.raises(StoreRefused, match="leave the backup at 4, and live is 2"):
        cells.staging(backup).stage(version(4), version(2))


def test_a_version_that_nobody_can_get_to_is_refused(cells: Cells) -> None:
    with pytest.raises(
        StoreRefused, match=r"nothing leads to the version at which the backup was taken.*no version 7"
    ):
        cells.staging(cells.backup()).stage(version(7), version(4))


def test_rows_that_are_not_those_that_were_captured_are_found(cells: Cells) -> None:
    altered = cells.backup().altered("public.documents", b"title 5", b"title V")
    with pytest.raises(DataDiffers, match=r"public\.documents"):
        cells.staging(altered).stage(version(1), version(4))


def test_a_staging_that_was_finished_is_not_done_again(cells: Cells) -> None:
    backup = cells.backup()
    assert cells.staging(backup).stage(version(1), version(4)).calls == 2
    points: list[str] = []
    again = cells.staging(backup).stage(version(1), version(4), reach=points.append)
    assert again.calls == 0
    assert points == []
    assert cells.staging(backup, purpose="another").scratch.ready() is None
    cells.staging(backup).drop()


def test_a_command_that_does_not_end_is_ended_with_all_that_it_has_started(cells: Cells) -> None:
    sleeping = replace(COMMAND, command=("sh", "-c", "sleep 600 & wait # {version}"), timeout_s=0.5)
    with pytest.raises(StoreRefused, match=r"did not end within 0\.5 s"):
        cells.staging(cells.backup(), migrations=replace(MIGRATIONS, migrate=sleeping)).stage(
            version(1), version(4)
        )


def test_a_command_that_fails_is_quoted_without_the_password(cells: Cells) -> None:
    telling = replace(COMMAND, command=("sh", "-c", 'echo "$DATABASE_URL {version}"; exit 3'))
    staging = cells.staging(cells.backup(), migrations=replace(MIGRATIONS, migrate=telling))
    with pytest.raises(StoreRefused) as refused:
        staging.stage(version(1), version(4))
    assert "status 3" in refused.value.message
    assert staging.scratch.name in refused.value.message
    password = psycopg.conninfo.conninfo_to_dict(cells.new_dsn).get("password")
    assert not password or str(password) not in refused.value.message
