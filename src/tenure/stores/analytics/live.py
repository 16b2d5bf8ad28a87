"""One tenant's rows kept equal in a second warehouse, partition by partition: what to list, copy and compare."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Self

from tenure.catalogue import AnalyticsTable, QualifiedName
from tenure.model.comparison import DifferenceKind
from tenure.model.finding import Finding
from tenure.model.names import TenantId
from tenure.stores.analytics.portable import portable_contents
from tenure.stores.analytics.preflight import findings
from tenure.stores.analytics.store import AnalyticsStore
from tenure.stores.analytics.units import Content, Unit
from tenure.stores.contract import Fence, Journal
from tenure.stores.journaled import Allowed, Item, JournaledCopy, Tally

WORKERS: Final = 2
"""An engine uses several processors for each."""
BATCH: Final = 32
"""Units that a worker copies at once."""
FRESH_S: Final = 2.0
"""How old the answer may be to whether this process may write, before a partition is read."""
HANDOVER_S: Final = 2.0
"""How long what a displaced copier has sent off may take, from its last question whether it may write, right before it
commits, to the end of the commit (in ClickHouse, of the insert)."""


class Sides:
    """What both warehouses hold of the tenant, so that it can be compared."""

    def __init__(self, source: AnalyticsStore, target: AnalyticsStore, tenant: TenantId) -> None:
        self.source: Final = source
        self.target: Final = target
        self.tenant: Final = tenant
        self.alike: Final = source.engine.dialect == target.engine.dialect
        self.tables: Final = tuple(t for t in source.tables if t.name in target.units.tables)

    def partitions(self, store: AnalyticsStore, table: AnalyticsTable) -> Mapping[str, int]:
        return store.engine.partitions(table, self.tenant)

    def contents(
        self, store: AnalyticsStore, table: AnalyticsTable, partitions: Collection[str]
    ) -> Mapping[str, Content]:
        """By the engine's own digests where both understand them, else by reading the rows."""
        if not partitions:
            return {}
        if self.alike:
            return store.engine.contents(table, self.tenant, partitions)
        return portable_contents(store.engine, table, self.tenant, partitions)

    def keys(self, store: AnalyticsStore) -> dict[str, Item[tuple[int, int]]]:
        """Every unit of the store with its rows and digest."""
        found: dict[str, Item[tuple[int, int]]] = {}
        for table in self.tables:
            partitions = self.partitions(store, table)
            for partition, content in self.contents(store, table, partitions).items():
                key = store.units.key(Unit(table=table.name, partition=partition))
                found[key] = Item(version=(content.rows, content.digest), size=content.size_bytes)
        return found

    def units(self, keys: Iterable[str]) -> list[Unit]:
        """The units that the keys name; of a key that names a whole table, every one that either side has."""
        found: dict[Unit, None] = {}
        for key in keys:
            table = self.source.units.whole(key)
            unit = self.source.units.unit(key)
            if unit is not None:
                found[unit] = None
            elif table is not None:
                both = {**self.partitions(self.source, table), **self.partitions(self.target, table)}
                found.update({Unit(table=table.name, partition=partition): None for partition in both})
        return list(found)


class UnitListing:
    """Implements `Listing`: units by key; a version is the number of rows and their digest."""

    def __init__(self, sides: Sides) -> None:
        self._sides = sides

    def source(self) -> Mapping[str, Item[tuple[int, int]]]:
        return self._sides.keys(self._sides.source)

    def target(self) -> Mapping[str, Item[tuple[int, int]]]:
        return self._sides.keys(self._sides.target)

    def current(self, source: Item[tuple[int, int]], target: Item[tuple[int, int]]) -> bool:
        return source.version == target.version

    def mine(self, key: str) -> bool:
        units = self._sides.source.units
        return units.unit(key) is not None or units.whole(key) is not None

    def collection(self, key: str) -> str:
        unit = self._sides.source.units.unit(key)
        table = self._sides.source.units.whole(key) if unit is None else None
        return str(unit.table) if unit is not None else str(table.name) if table is not None else key


class UnitTransfer:
    """Implements `Transfer`: the target's rows of a unit are replaced by the source's, as one."""

    def __init__(self, sides: Sides, allowed: Allowed) -> None:
        self._sides = sides
        self._allowed = allowed

    def expect(self, target: Mapping[str, Item[tuple[int, int]]], keys: Iterable[str]) -> None:
        """A listing is of no use: a replacement needs no knowledge of what it replaces."""

    def copy(self, keys: Sequence[str]) -> int:
        """Those of one table together: an engine reads a table once for many partitions."""
        sides = self._sides
        wanted: dict[QualifiedName, list[str]] = {}
        for unit in sides.units(keys):
            wanted.setdefault(unit.table, []).append(unit.partition)
        for name, partitions in wanted.items():
            table = sides.source.units.tables[name]
            self._allowed(FRESH_S)
            with sides.source.engine.rows(table, sides.tenant, partitions) as rows:
                sides.target.engine.replace(table, sides.tenant, partitions, rows, lambda: self._allowed(0.0))
        return 0


class UnitComparer:
    """Implements `Comparer`: units whose rows or digests differ."""

    def __init__(self, sides: Sides) -> None:
        self._sides = sides

    def everything(self, progress: Callable[[int], None]) -> Tally:
        tally = Tally()
        for table in self._sides.tables:
            ours = self._sides.partitions(self._sides.source, table)
            theirs = self._sides.partitions(self._sides.target, table)
            self._compare(table, ours.keys() | theirs.keys(), tally)
            progress(len(tally.processed))
        return tally

    def these(self, keys: Collection[str], *, thorough: bool = True) -> Tally:  # noqa: ARG002
        tally = Tally()
        wanted: dict[QualifiedName, set[str]] = {}
        for unit in self._sides.units(keys):
            wanted.setdefault(unit.table, set()).add(unit.partition)
        for name, partitions in wanted.items():
            self._compare(self._sides.source.units.tables[name], partitions, tally)
        return tally

    def _compare(self, table: AnalyticsTable, partitions: Collection[str], tally: Tally) -> None:
        sides = self._sides
        with ThreadPoolExecutor(max_workers=1) as beside:
            theirs_later = beside.submit(sides.contents, sides.target, table, partitions)
            ours, theirs = sides.contents(sides.source, table, partitions), theirs_later.result()
        for partition in sorted(ours.keys() | theirs.keys()):
            key = sides.source.units.key(Unit(table=table.name, partition=partition))
            tally.processed.add(key)
            one, other = ours.get(partition), theirs.get(partition)
            tally.bytes_read += sum(c.size_bytes for c in (one, other) if c is not None)
            if other is None:
                tally.differing[key] = DifferenceKind.MISSING
            elif one is None:
                tally.differing[key] = DifferenceKind.EXTRA
            elif (one.rows, one.digest) != (other.rows, other.digest):
                tally.differing[key] = DifferenceKind.MISMATCHED


class AnalyticsCopy(JournaledCopy[AnalyticsStore, tuple[int, int]]):
    """The live copy of one tenant between two warehouses, of the link named `link`. Items are units (`units.py`)."""

    def __init__(
        self,
        *,
        link: str,
        tenant: TenantId,
        source: AnalyticsStore,
        target: AnalyticsStore,
        source_journal: Journal,
        target_journal: Journal,
    ) -> None:
        sides = Sides(source, target, tenant)
        self._journals: Final = (source_journal, target_journal)
        super().__init__(
            link=link,
            tenant=tenant,
            source=source,
            target=target,
            source_journal=source_journal,
            target_journal=target_journal,
            source_record=source.link_record(tenant),
            target_record=target.link_record(tenant),
            listing=UnitListing(sides),
            comparer=UnitComparer(sides),
            transfer=lambda allowed: UnitTransfer(sides, allowed),
            batch=BATCH,
            workers=WORKERS,
            handover_s=HANDOVER_S,
        )

    def preflight(self) -> Sequence[Finding]:
        linked = bool(self._target_record.read().link)
        return findings(self._tenant, self._source, self._target, linked=linked)

    def fingerprint(self) -> Mapping[str, str]:
        """Every column with its type; of a table that is not there, nothing."""
        return {
            f"{table.name}.{column.name}": column.type
            for table in self._source.tables
            for column in self._source.engine.columns(table.name)
            if not column.computed
        }

    def turned(self) -> Self:
        source_journal, target_journal = self._journals
        return type(self)(
            link=self._link,
            tenant=self._tenant,
            source=self._target,
            target=self._source,
            source_journal=target_journal,
            target_journal=source_journal,
        )

    def stop(self, fence: Fence) -> None:
        super().stop(fence)
        for store in (self._target, self._source):
            store.engine.sweep(self._tenant)
