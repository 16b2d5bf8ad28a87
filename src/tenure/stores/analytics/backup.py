"""Units as they go into a backup and come back: what `JournaledCapture` and `JournaledRestoring` need to know of them.

A collection is a table, an item what it holds of the tenant in one partition. Its head says how many rows these are, in
which `form` its body has them (`packs`), the `dialect` that reads it, and the columns with their types.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from tenure.backups.contract import Source
from tenure.catalogue import AnalyticsTable
from tenure.errors import DeadlineExceeded, StoreRefused, StoreUnavailable
from tenure.model.finding import Finding, Severity
from tenure.model.names import TenantId
from tenure.stores.analytics.packs import Brought, Pack, head_of, others_of, stamp_of
from tenure.stores.analytics.units import Unit
from tenure.stores.journaled import Packed, Place
from tenure.stores.journaled.backup_ports import ALL, STAMP, Allowed
from tenure.stores.records import Record

if TYPE_CHECKING:
    from tenure.stores.analytics.store import AnalyticsStore

ABOUT_BYTES: Final = 100
"""What a row is taken to hold, where nobody has looked."""
ROWS_AT_ONCE: Final = 250_000
UNITS_AT_ONCE: Final = 64
"""A restoring replaces about so many at once."""
ATTEMPTS: Final = 4
PAUSE_S: Final = 0.5
"""Before a replacement is repeated; twice as long each time."""
_TYPE_UNSEEN: Final = "analytics_type_unseen"


class UnitItems:
    """Implements `Packing`: one tenant's units in one warehouse."""

    form: Final = "analytics-units/1"

    def __init__(self, store: AnalyticsStore, tenant: TenantId) -> None:
        self._store: Final = store
        self._tenant: Final = tenant
        self._tables: Final = {str(table.name): table for table in store.tables}
        self._columns: Final[dict[str, list[list[str]]]] = {}
        """Of each table, as they are written; of a backup that is restored, as it has them."""

    def fresh(self) -> None:
        """Queries see what was acknowledged."""

    def collections(self) -> Sequence[str]:
        self._store.require_tables()
        return sorted(self._tables)

    def keys(self, collection: str) -> Iterator[Sequence[str]]:
        table = self._tables[collection]
        yield sorted(self._key(table, p) for p in self._store.engine.partitions(table, self._tenant))

    def _key(self, table: AnalyticsTable, partition: str) -> str:
        return self._store.units.key(Unit(table=table.name, partition=partition))

    def _partitions(self, keys: Sequence[str]) -> list[str]:
        units = [self._store.units.unit(key) for key in keys]
        return [unit.partition for unit in units if unit is not None]

    def stamps(self, collection: str, keys: Sequence[str]) -> Mapping[str, str]:
        table = self._tables[collection]
        columns = [name for name, _ in self._columns.get(collection) or self._written(table)]
        contents = self._store.engine.contents(
            table, self._tenant, self._partitions(keys), only=others_of(table, columns)
        )
        return {self._key(table, partition): stamp_of(content) for partition, content in contents.items()}

    def _written(self, table: AnalyticsTable) -> list[list[str]]:
        return [[c.name, c.type] for c in self._store.engine.columns(table.name) if not c.computed]

    def named(self, key: str) -> Iterable[Place]:
        whole = self._store.units.whole(key)
        if whole is not None:
            return (Place(str(whole.name), ALL),)
        unit = self._store.units.unit(key)
        return () if unit is None else (Place(str(unit.table), self._store.units.key(unit)),)

    def suspects(self) -> Iterable[Place]:
        return ()

    def pack(self, collection: str, keys: Sequence[str]) -> Iterator[Packed]:
        """Raises `StoreRefused` where the columns are others than they were for the units before."""
        table = self._tables[collection]
        for pack in self._store.engine.packs(table, self._tenant, self._partitions(keys)):
            self._require_columns(collection, pack)
            yield Packed(
                key=self._key(table, pack.partition),
                head=head_of(pack, self._store.engine.dialect),
                body=pack.body,
                items=pack.content.rows,
                size_bytes=pack.content.size_bytes,
                digest=pack.content.digest,
            )

    def _require_columns(self, collection: str, pack: Pack) -> None:
        found = [list(column) for column in pack.columns]
        if self._columns.setdefault(collection, found) != found:
            raise StoreRefused(
                f"{self._store.where}: the columns of {collection} have changed while it was backed up",
                hint="begin the backup anew when the schema's migration is over",
            )

    def fingerprint(self, collection: str) -> str:
        text = json.dumps(self.facts()["tables"][collection])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def facts(self) -> Mapping[str, Any]:
        return {
            "dialect": self._store.engine.dialect,
            "tables": {
                name: self._columns.get(name) or self._written(table) for name, table in self._tables.items()
            },
        }

    def findings(self) -> Sequence[Finding]:
        return [
            _finding(
                Severity.WARNING, hazard.code, f"{self._store.where}, {name}", hazard.message, hazard.fix
            )
            for name, table in self._tables.items()
            for hazard in self._store.engine.hazards(table)
            if hazard.code == _TYPE_UNSEEN
        ]

    def amount(self) -> tuple[int, int]:
        rows = sum(
            sum(self._store.engine.partitions(table, self._tenant).values())
            for table in self._tables.values()
        )
        return rows, rows * ABOUT_BYTES


class UnitUnpacking(UnitItems):
    """Implements `Unpacking`: a unit is replaced as one."""

    removes: Final = True

    def about(self, source: Source) -> None:
        """Compare by the backup's columns: those that came later are no difference."""
        self._columns.clear()
        self._columns.update(
            {
                name: columns
                for name, columns in source.facts(self._store.name).get("tables", {}).items()
                if name in self._tables
            }
        )

    def here(self, place: Place) -> Place:
        return place

    def takes(self, place: Place) -> bool:  # noqa: ARG002
        return True

    def stamp(self, record: Record) -> str:
        return str(record.head[STAMP])

    def write(self, records: Iterator[tuple[Place, Record]], allowed: Allowed) -> Iterator[tuple[int, int]]:
        """Some units of a table at once. Each is compared with the backup when it is there."""
        first = next(records, None)
        live: dict[str, list[list[str]]] = {}
        while first is not None:
            table = self._table(first[0].collection)
            live.setdefault(str(table.name), self._written(table))
            first, written = self._write_some(table, live[str(table.name)], first, records, allowed)
            yield written

    def _write_some(
        self,
        table: AnalyticsTable,
        live: Sequence[Sequence[str]],
        first: tuple[Place, Record],
        records: Iterator[tuple[Place, Record]],
        allowed: Allowed,
    ) -> tuple[tuple[Place, Record] | None, tuple[int, int]]:
        """Write units of that table; give back the first record that is not written yet."""
        stamps: dict[str, str] = {}
        size = 0
        following: tuple[Place, Record] | None = first
        with self._store.engine.bring(table, self._tenant) as brought:
            while following is not None:
                place, record = following
                if self._table(place.collection) is not table:
                    break
                head = record.head
                self._require_readable(table, live, head)
                brought.add(
                    str(head["form"]),
                    [(name, kind) for name, kind in head["columns"]],
                    int(head["rows"]),
                    record.body,
                )
                stamps[place.key] = self.stamp(record)
                following = next(records, None)
                if brought.count >= ROWS_AT_ONCE or len(stamps) >= UNITS_AT_ONCE:
                    break
            partitions = self._partitions(list(stamps))
            self._replace(table, partitions, brought, allowed)
            size = brought.count * ABOUT_BYTES
        self._require_arrived(table, stamps)
        return following, (len(stamps), size)

    def _table(self, collection: str) -> AnalyticsTable:
        table = self._tables.get(collection)
        if table is None:
            raise StoreRefused(
                f"{self._store.where} has no table {collection}, which the backup has",
                hint="name it in the catalogue, or leave it out of what is restored",
            )
        return table

    def _require_readable(
        self, table: AnalyticsTable, live: Sequence[Sequence[str]], head: Mapping[str, Any]
    ) -> None:
        different = _different(head["columns"], live)
        if head["dialect"] != self._store.engine.dialect or different:
            raise StoreRefused(
                f"{self._store.where}: the backup of {table.name} is not as the table is here: "
                f"{head['dialect']} for {self._store.engine.dialect}, columns {', '.join(different) or 'alike'}"
            )

    def _require_arrived(self, table: AnalyticsTable, stamps: Mapping[str, str]) -> None:
        found = self.stamps(str(table.name), list(stamps))
        wrong = [key for key, stamp in stamps.items() if found.get(key) != stamp]
        if wrong:
            raise StoreRefused(
                f"{self._store.where}: {len(wrong)} units are not as in the backup when they are there,"
                f" the first one {wrong[0]}",
                hint="look for triggers, views or defaults that change rows on their way in",
            )

    def remove(self, collection: str, keys: Sequence[str], allowed: Allowed) -> None:
        table = self._table(collection)
        with self._store.engine.bring(table, self._tenant) as nothing:
            self._replace(table, self._partitions(keys), nothing, allowed)

    def _replace(
        self, table: AnalyticsTable, partitions: Sequence[str], brought: Brought, allowed: Allowed
    ) -> None:
        """A replacement is repeated that a server did not answer, or that met another transaction."""
        for attempt in range(ATTEMPTS):
            try:
                self._store.engine.replace(table, self._tenant, partitions, brought, allowed)
                return
            except (StoreUnavailable, DeadlineExceeded):
                if attempt == ATTEMPTS - 1:
                    raise
            time.sleep(PAUSE_S * 2**attempt)

    def backup_findings(self, source: Source) -> Sequence[Finding]:
        facts = source.facts(self._store.name)
        dialect = facts.get("dialect")
        found: list[Finding] = []
        if dialect != self._store.engine.dialect:
            found.append(
                _finding(
                    Severity.REFUSAL,
                    "analytics_dialect_differs",
                    self._store.where,
                    f"the backup is of {dialect}, and this is {self._store.engine.dialect}",
                    "restore into a warehouse of the kind that was backed up, or export the backup",
                )
            )
        for name, columns in sorted(facts.get("tables", {}).items()):
            found += self._table_findings(name, columns)
        return found

    def _table_findings(self, name: str, columns: Sequence[Sequence[str]]) -> Iterator[Finding]:
        where = f"{self._store.where}, {name}"
        table = self._tables.get(name)
        live = self._written(table) if table is not None else []
        if table is None or not live:
            yield _finding(
                Severity.REFUSAL,
                "analytics_table_missing",
                where,
                "the table is not there",
                "create it, with the same columns as in the backup",
            )
            return
        different = _different(columns, live)
        if different:
            yield _finding(
                Severity.REFUSAL,
                "analytics_columns_differ",
                where,
                f"the columns {', '.join(different)} are not as in the backup",
                "bring the table to the backup's columns and types, restore, and migrate it then",
            )
        for hazard in self._store.engine.hazards(table):
            severity = Severity.REFUSAL if hazard.refuses else Severity.WARNING
            yield _finding(severity, hazard.code, where, hazard.message, hazard.fix)


def _different(backup: Sequence[Sequence[str]], live: Sequence[Sequence[str]]) -> list[str]:
    """The backup's columns that are not there, or of another type. What the table has besides gets its default."""
    there = [tuple(column) for column in live]
    return sorted(column[0] for column in backup if tuple(column) not in there)


def _finding(severity: Severity, code: str, where: str, message: str, fix: str) -> Finding:
    return Finding(severity=severity, code=code, where=where, message=message, fix=fix)
