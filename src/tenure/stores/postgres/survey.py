"""The tables and columns of a store against the catalogue, in the one database it has or in each tenant's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tenure.catalogue.guesses import table_entry, tenant_column
from tenure.errors import StoreRefused
from tenure.model.names import CellName, StoreName
from tenure.model.search import Entry, Gone, Place, PlaceKind, Skipped, Survey, Surveyed
from tenure.stores.contract import Pace
from tenure.stores.postgres.connect import Pool
from tenure.stores.postgres.contents import (
    FOREIGN,
    MATVIEW,
    Chart,
    Known,
    Relation,
    relations,
    tenures_schemas,
)
from tenure.stores.postgres.tables import TenantTable

LARGE_OBJECTS = "large objects"
_LARGE_OBJECTS = "select count(*) from pg_largeobject_metadata"


@dataclass(kw_only=True)
class Seen:
    """What the databases of one store have shown so far."""

    store: StoreName
    riders: Mapping[TenantTable, StoreName]
    """The store of each table that another one's entry names."""
    places: dict[Place, Surveyed] = field(default_factory=dict)
    present: dict[str, set[str]] = field(default_factory=dict)
    """Of tables that the catalogue names, the columns that were there in each schema or database."""
    lacking: set[tuple[str, str]] = field(default_factory=set)
    skipped: dict[tuple[Place, str], Skipped] = field(default_factory=dict)

    def add(self, surveyed: Surveyed) -> None:
        before = self.places.get(surveyed.place)
        if before is not None:
            items = (before.items or 0) + (surveyed.items or 0)
            surveyed = Surveyed(
                place=before.place,
                classified=before.classified and surveyed.classified,
                items=items,
                entry=before.entry or surveyed.entry,
                remark=before.remark or surveyed.remark,
            )
        self.places[surveyed.place] = surveyed

    def skip(self, place: Place, reason: str, items: int) -> None:
        skipped = Skipped(place=place, reason=reason, items=items)
        before = self.skipped.get((place, reason))
        self.skipped[(place, reason)] = before.merged(skipped) if before else skipped


def survey(
    store: StoreName,
    cell: CellName,
    databases: Iterable[tuple[Pool, Chart]],
    *,
    own: Sequence[TenantTable],
    riders: Mapping[TenantTable, StoreName],
    everything: bool,
    pace: Pace,
) -> Survey:
    """The survey of a store whose tables are `own`. `everything`: also of what no entry names; else of these alone. A
    database that does not exist is skipped."""
    seen = Seen(store=store, riders=riders)
    for pool, chart in databases:
        try:
            found = relations(pool)
            large = pool.value(_LARGE_OBJECTS) if everything else 0
        except StoreRefused as error:
            seen.skip(Place(kind=PlaceKind.DATABASE, name=str(pool.database)), error.message, 0)
            continue
        pace(items=len(found), size_bytes=0)
        _look(seen, chart, found, own, everything)
        if large:
            place = Place(kind=PlaceKind.LARGE_OBJECT, name=LARGE_OBJECTS)
            seen.skip(
                place, "the catalogue has no way to name them; `tenure catalogue scan` looks into them", large
            )
    return Survey(
        store=store,
        cell=cell,
        places=tuple(sorted(seen.places.values(), key=lambda s: s.place)),
        gone=_gone(seen, own),
        skipped=tuple(seen.skipped.values()),
    )


def _look(
    seen: Seen, chart: Chart, found: Sequence[Relation], own: Sequence[TenantTable], everything: bool
) -> None:
    tenures = tenures_schemas(found)
    rows: dict[tuple[str, str], int] = {}
    for relation in found:
        rows[relation.root] = rows.get(relation.root, 0) + relation.rows
    for relation in found:
        if relation.is_partition or relation.schema in tenures:
            continue
        known = chart.known(relation.schema, relation.name)
        if known is None:
            if everything:
                seen.add(_unknown(seen, chart, relation, rows[relation.root]))
        elif known.spec in own or (everything and known.ignored):
            _known(seen, relation, known, rows[relation.root])


def _unknown(seen: Seen, chart: Chart, relation: Relation, rows: int) -> Surveyed:
    name = chart.name_of(relation.schema, relation.name)
    types = {c.name: c.type_name for c in relation.columns}
    owned = chart.schema_tenant(relation.schema) is not None
    entry: Entry
    if relation.kind == MATVIEW:
        entry, remark = {"ignore": [name]}, "a materialised view: what it holds goes when it is refreshed"
    elif relation.kind == FOREIGN:
        entry, remark = {"ignore": [name]}, "a foreign table: its rows are on another server"
    elif not owned and tenant_column(types, chart.usual_columns) is None:
        entry = {"ignore": [name]}
        remark = "no column tells whose a row is: only if it holds no tenant's data, it can be ignored"
    else:
        entry, remark = {"tables": {name: table_entry(types, chart.usual_columns, owned=owned)}}, ""
    return Surveyed(
        place=Place(kind=PlaceKind.TABLE, name=name),
        classified=False,
        items=rows,
        entry={seen.store: entry},
        remark=remark,
    )


def _known(seen: Seen, relation: Relation, known: Known, rows: int) -> None:
    name = known.spec.collection
    seen.add(Surveyed(place=Place(kind=PlaceKind.TABLE, name=name), classified=True, items=rows))
    if known.ignored:
        return
    there = {c.name for c in relation.columns}
    seen.present.setdefault(name, set()).update(there)
    if known.columns is None:
        return
    seen.lacking |= {(name, column) for column in known.columns - there}
    entry = table_entry({c.name: c.type_name for c in relation.columns}, owned=True)["columns"]
    classes = entry if isinstance(entry, Mapping) else {}
    for column in relation.columns:
        classified = column.name in known.columns
        proposal: Entry = {"tables": {name: {"columns": {column.name: classes[column.name]}}}}
        store = seen.riders.get(known.spec, seen.store)
        seen.add(
            Surveyed(
                place=Place(kind=PlaceKind.COLUMN, name=f"{name}.{column.name}"),
                classified=classified,
                entry=None if classified else {store: proposal},
            )
        )


def _gone(seen: Seen, own: Sequence[TenantTable]) -> tuple[Gone, ...]:
    """Tables that no database had, where there was one to look into, and columns that some table lacked."""
    tables = [
        Gone(
            place=Place(kind=PlaceKind.TABLE, name=spec.collection),
            where=f"tables.{spec.collection}",
            empty=spec.own_schema,
        )
        for spec in own
        if spec.collection not in seen.present
    ]
    columns = [
        Gone(
            place=Place(kind=PlaceKind.COLUMN, name=f"{table}.{column}"),
            where=f"tables.{table}.columns.{column}",
        )
        for table, column in sorted(seen.lacking)
    ]
    return (*tables, *columns)
