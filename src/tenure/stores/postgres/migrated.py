"""Brings a backup from the schema it was taken at to the schema that is live: in a scratch database, by the app's own
migrations. What comes out is a backup again, which is compared and loaded like any other; the live tenant is only read.

The scratch database gets the backup's schema from the app's migrations up to that version, then the backup's rows,
whose digests must be those that the backup names; then the app's migrations up to the live version. There the tables
must be what the live ones are, and every row must keep every rule of the live ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from tenure.backups.contract import Part, Source, Stream
from tenure.catalogue.evolution import Migrations
from tenure.errors import DataDiffers, DeadlineExceeded, StoreRefused
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.schema_version import SchemaVersion
from tenure.model.secret import Secret
from tenure.stores.postgres import capture, migrating, streams
from tenure.stores.postgres.home import Home
from tenure.stores.postgres.rules import NAMED, Broken, broken, rules_of, unlike
from tenure.stores.postgres.schema_version import schema_version
from tenure.stores.postgres.scratch import Scratch
from tenure.stores.postgres.staged_source import StagedSource, count
from tenure.stores.postgres.tables import Table, TenantTable, describe, require

Reach = Callable[[str], None]
"""Told the names of the points that staging comes to."""
_MEND: Final = (
    "the live tenant is as it was; restore the other tables only, or restore under another name into a cell with the "
    "older schema and mend the rows there"
)
_NO_POINT: Reach = lambda _name: None  # noqa: E731


@dataclass(frozen=True, kw_only=True)
class Staged:
    """What is in a scratch database that was staged: `loaded` rows at the backup's version, `items` at the live one."""

    loaded: int
    items: int
    calls: int
    """How often the app's command ran."""


class Staging:
    """The staging of one backup for one PostgreSQL store and what rides with it.

    `home` is that of the tenant that it is for, `owners` are all tables as the catalogue writes them and the stores
    that they are of, `purpose` is the operation or the plan. The rows keep the name that they have in the backup,
    `source.tenant`.
    """

    def __init__(
        self,
        *,
        name: StoreName,
        tenant: TenantId,
        home: Home,
        owners: Mapping[TenantTable, StoreName],
        migrations: Migrations,
        source: Source,
        scratch_dsn: Secret,
        purpose: str,
    ) -> None:
        self._name: Final = name
        self._home: Final = home
        self._migrations: Final = migrations
        self._source: Final = source
        self._stores: Final = frozenset({name, *owners.values()})
        self._live: Final = tuple(t.of(tenant) for t in owners)
        self._owners: Final = {t.of(source.tenant): owner for t, owner in owners.items()}
        self._here: Final = dict(zip(self._live, self._owners, strict=True))
        self.scratch: Final = _scratch(scratch_dsn, name, home.cell, purpose)

    def stage(self, backup: SchemaVersion, live: SchemaVersion, *, reach: Reach = _NO_POINT) -> Staged:
        """Load, migrate and check. Repeating it begins anew; a staging that was finished by another process is kept.

        Raises `StoreRefused` where no migrations lead from one version to the other, or where the outcome is not what
        live is, with the rows named that break a rule; `DataDiffers` if the backup's rows are not what it says they
        are.
        """
        scratch, source = self.scratch, self._source
        described = f"{source.tenant} of {source.point.isoformat()}, {backup} to {live}"
        if scratch.ready() == described:
            return Staged(loaded=0, items=self._items(), calls=0)
        scratch.create()
        reach("stage.created")
        calls = self._to_backup(backup)
        loaded = self._load()
        reach("stage.loaded")
        calls += self._to_live(live)
        reach("stage.migrated")
        self._require_like_live(live)
        self._require_rules()
        scratch.note_ready(described)
        reach("stage.checked")
        return Staged(loaded=loaded, items=self._items(), calls=calls)

    def staged(self) -> StagedSource:
        """The backup as it is after `stage`: read out of the scratch database whenever it is read."""
        return StagedSource(self._source, self.scratch.pool, self._tables(), self._owners, self._stores)

    def drop(self) -> None:
        """Remove the scratch database. Idempotent, also in a process that has staged nothing."""
        self.scratch.drop()

    def close(self) -> None:
        self.scratch.close()

    # -- to the backup's version -------------------------------------------------------------------------------------

    def _to_backup(self, wanted: SchemaVersion) -> int:
        calls = self._migrate(wanted, "nothing leads to the version at which the backup was taken")
        found = schema_version(self.scratch.pool, self._migrations)
        if set(found.applied) != set(wanted.applied):
            raise StoreRefused(
                f"the app's migrations do not lead to {wanted}, at which the backup was taken: an empty database comes"
                f" to {found}",
                hint="restore with a release of the app that has the migrations of that time",
            )
        return calls

    def _load(self) -> int:
        pool, source = self.scratch.pool, self._source
        loaded = 0
        for stream in self._of_backup():
            table = self._table_of(stream)
            columns = [str(c["name"]) for c in stream.header["columns"]]
            lacking = sorted(set(columns) - {c.name for c in table.stored})
            if lacking:
                raise StoreRefused(
                    f"{pool.where}: the app's migrations up to the backup's version give {table.collection} no column"
                    f" {', '.join(lacking)}, and the backup has it",
                    hint="find out who changed the schema past the app's migrations",
                )
            with pool.transaction() as connection:
                connection.execute("set local session_replication_role = replica")
                rows = streams.of_tenant(table, source.read(stream), source.tenant, source.tenant)
                loaded += streams.copy_in(connection, table.spec.sql, columns, rows)
        self._require_digests()
        return loaded

    def _of_backup(self) -> Iterator[Stream]:
        for stream in self._source.streams():
            if stream.store not in self._stores:
                continue
            if stream.header.get("format") != streams.FORMAT or stream.part is not Part.BASE:
                raise StoreRefused(
                    f"the backup's stream of {stream.collection} is {stream.header.get('format')}, and this Tenure "
                    f"reads {streams.FORMAT}",
                    hint="restore with the release that the backup names",
                )
            yield stream

    def _table_of(self, stream: Stream) -> Table:
        header = stream.header
        spec = TenantTable(
            schema=str(header["schema"]), name=str(header["table"]), tenant_column=header["tenant_column"]
        )
        found = describe(self.scratch.pool, [spec])
        if not found:
            raise StoreRefused(
                f"{self.scratch.pool.where}: the app's migrations up to the backup's version do not make"
                f" {spec.collection}, and the backup has it",
                hint="find out who changed the schema past the app's migrations",
            )
        return found[0]

    def _require_digests(self) -> None:
        """The rows are those that were captured: a backup is sealed byte by byte, and this looks at the values."""
        facts = {f.collection: f for f in self._source.collections() if f.store in self._stores}
        differing = []
        with self.scratch.pool.connection() as connection:
            for stream in self._of_backup():
                said = facts.get(stream.collection)
                found = capture.digest(connection, self._table_of(stream), self._source.tenant)
                if said is not None and said.digest is not None and said.digest != found:
                    differing.append(f"{stream.collection} ({said.digest}, staged {found})")
        if differing:
            raise DataDiffers(
                f"the rows of the backup are not what it says they are: {', '.join(differing)}",
                hint="verify the backup; restore another one",
            )

    # -- to the live version -----------------------------------------------------------------------------------------

    def _to_live(self, wanted: SchemaVersion) -> int:
        try:
            calls = self._migrate(wanted, f"the backup does not get to {wanted}, which is live")
        except migrating.MigrationFailed as error:
            rows = list(islice(self._broken(), NAMED))
            if not rows:
                raise
            raise StoreRefused(
                f"rows of the backup break rules of the live schema, so the app's migrations end with an error:"
                f" {_listed(rows)}. They said: {error.words}",
                hint=_MEND,
            ) from error
        found = schema_version(self.scratch.pool, self._migrations)
        if set(found.applied) != set(wanted.applied):
            raise StoreRefused(
                f"the app's migrations leave the backup at {found}, and live is {wanted}: it is newer than that, or of "
                "another branch",
                hint="bring the target to the backup's release first",
            )
        return calls

    def _require_like_live(self, live: SchemaVersion) -> None:
        here = {self._here[t.spec]: t for t in require(self._home.pool, self._live)}
        found = unlike([(t, here[t.spec]) for t in self._tables()])
        if found:
            raise StoreRefused(
                f"after the app's migrations to {live} the tables are not what the live ones are: {'; '.join(found)}",
                hint="find out who changed the live schema past the app's migrations",
            )

    def _require_rules(self) -> None:
        rows = list(islice(self._broken(), NAMED))
        if rows:
            raise StoreRefused(
                f"rows of the backup break rules of the live schema: {_listed(rows)}",
                hint=_MEND,
            )

    def _broken(self) -> Iterator[Broken]:
        """By the rules of the live tables, said of the tables here."""
        places = {(t.schema, t.name): here for t, here in self._here.items()}
        rules = [
            replace(
                rule,
                table=self._here[rule.table],
                parent=None
                if rule.parent is None
                else places.get((rule.parent.schema, rule.parent.name), rule.parent),
            )
            for rule in rules_of(self._home.pool, self._live)
        ]
        return broken(self.scratch.pool, rules)

    def _migrate(self, wanted: SchemaVersion, problem: str) -> int:
        command = self._migrations.migrate
        if command is None:
            raise StoreRefused(
                f"nothing is known that migrates {self._name}",
                hint="name the app's command in catalogue.yaml",
            )
        targets = wanted.targets()
        for target in targets:
            try:
                migrating.run(command, self.scratch.dsn, {**target, "tenant": self._source.tenant})
            except migrating.MigrationFailed as error:
                raise migrating.MigrationFailed(
                    f"{problem}: {error.message}", words=error.words, hint=error.hint
                ) from error
            except DeadlineExceeded as error:
                raise StoreRefused(error.message, hint=error.hint) from error
        return len(targets)

    # -- the tables --------------------------------------------------------------------------------------------------

    def _tables(self) -> tuple[Table, ...]:
        return require(self.scratch.pool, tuple(self._owners))

    def _items(self) -> int:
        with self.scratch.pool.connection() as connection:
            return sum(count(connection, t) for t in self._tables())


def _scratch(dsn: Secret, name: StoreName, cell: CellName, purpose: str) -> Scratch:
    return Scratch(dsn, f"{name} in {cell}", purpose, cell, name)


class Leftover:
    """What a staging has left, for whoever has to remove it without the backup. Implements `Stage` as far as that."""

    def __init__(self, scratch_dsn: Secret, name: StoreName, cell: CellName, purpose: str) -> None:
        self._scratch: Final = _scratch(scratch_dsn, name, cell, purpose)

    def drop(self) -> None:
        self._scratch.drop()

    def close(self) -> None:
        self._scratch.close()


def _listed(rows: Sequence[Broken]) -> str:
    return "; ".join(map(str, rows))
