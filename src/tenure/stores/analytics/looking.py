"""What a warehouse holds against the catalogue, and where identifiers appear in it: table by table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from tenure.catalogue import AnalyticsMap, AnalyticsTable, DataClass, QualifiedName
from tenure.errors import StoreRefused, UsageError
from tenure.model.matching import needles
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import (
    Coverage,
    Entry,
    FindPage,
    Gone,
    Place,
    PlaceKind,
    Search,
    Survey,
    Surveyed,
)
from tenure.stores.analytics.engine import Column, Engine
from tenure.stores.bodies import TOO_LONG, cut, read
from tenure.stores.contract import Pace
from tenure.stores.finds import Tally, resumed

Tables = Mapping[QualifiedName, Sequence[Column]]
UNREADABLE: Final = "Tenure's login may not read it, or the engine cannot give it as text"


def survey(store: StoreName, cell: CellName, where: AnalyticsMap, engine: Engine, pace: Pace) -> Survey:
    """Every table and column that the login can see, whatever schema or database it is in."""
    there = engine.tables(_schemas(where), everywhere=True)
    pace(items=len(there), size_bytes=0)
    here = {name: table for name, table in where.tables.items() if table.is_in(cell)}
    places: list[Surveyed] = []
    for name, columns in there.items():
        places += _surveyed(name, columns, where)
    return Survey(
        store=store,
        cell=cell,
        places=tuple(sorted(places, key=lambda p: p.place)),
        gone=tuple(_gone(here, where.ignore, there)),
        skipped=(),
    )


def _schemas(where: AnalyticsMap) -> set[str]:
    return {name.schema for name in (*where.tables, *where.ignore)}


def _surveyed(name: QualifiedName, columns: Sequence[Column], where: AnalyticsMap) -> Iterator[Surveyed]:
    table = where.tables.get(name)
    place = _table_place(name)
    if name in where.ignore:
        yield Surveyed(place=place, classified=True)
        return
    if table is None:
        yield Surveyed(place=place, classified=False, entry=_table_entry(name, columns, where))
        return
    yield Surveyed(place=place, classified=True)
    for column in columns:
        classified = column.name in table.columns
        yield Surveyed(
            place=_column_place(name, column.name),
            classified=classified,
            entry=None if classified else _column_entry(name, column.name, where),
        )


def _gone(
    here: Mapping[QualifiedName, AnalyticsTable], ignored: frozenset[QualifiedName], there: Tables
) -> Iterator[Gone]:
    for name, table in here.items():
        if name not in there:
            yield Gone(place=_table_place(name), where=f"tables.{name}")
            continue
        existing = {c.name for c in there[name]}
        for column in table.columns:
            if column not in existing:
                yield Gone(place=_column_place(name, column), where=f"tables.{name}.columns.{column}")
    for name in sorted(ignored - there.keys()):
        yield Gone(place=_table_place(name), where=f"ignore.{name}")


def _table_place(name: QualifiedName) -> Place:
    return Place(kind=PlaceKind.TABLE, name=str(name))


def _column_place(name: QualifiedName, column: str) -> Place:
    return Place(kind=PlaceKind.COLUMN, name=f"{name}.{column}")


def _table_entry(name: QualifiedName, columns: Sequence[Column], where: AnalyticsMap) -> Mapping[str, Entry]:
    """As tenants' data where it has a tenant column of the other tables, else as to be ignored."""
    known = {table.tenant_column for table in where.tables.values()}
    if not any(c.name in known for c in columns):
        return {where.name: {"ignore": [str(name)]}}
    classes = {c.name: (DataClass.TENANT if c.name in known else DataClass.CONTENT).value for c in columns}
    return {where.name: {"tables": {str(name): {"columns": classes}}}}


def _column_entry(name: QualifiedName, column: str, where: AnalyticsMap) -> Mapping[str, Entry]:
    return {where.name: {"tables": {str(name): {"columns": {column: DataClass.CONTENT.value}}}}}


@dataclass(frozen=True, kw_only=True)
class _Looked:
    """One table that is searched."""

    name: QualifiedName
    columns: Sequence[Column]
    where: AnalyticsMap
    elsewhere: bool
    """In a database that the catalogue does not name."""

    @property
    def table(self) -> AnalyticsTable | None:
        return self.where.tables.get(self.name)

    @property
    def ignored(self) -> bool:
        return self.name in self.where.ignore

    def place(self, kind: PlaceKind, name: str) -> Place:
        return Place(kind=kind, name=f"{self.name.schema}: {name}" if self.elsewhere else name)

    @property
    def whole(self) -> Place:
        return self.place(PlaceKind.TABLE, str(self.name))

    def column(self, name: str) -> Place:
        return self.place(PlaceKind.COLUMN, f"{self.name}.{name}")


def finds(
    where: AnalyticsMap, engine: Engine, search: Search, cursor: str | None, pace: Pace
) -> Iterator[FindPage]:
    """A page for each table, in the order of their names as text, so that a search is resumed at the next one. The
    engine looks for parts of the identifiers and gives only rows with such; what they contain is then decided as
    everywhere."""
    tally, at = resumed(search, cursor)
    schemas = _schemas(where)
    tables = [
        _Looked(name=name, columns=columns, where=where, elsewhere=name.schema not in schemas)
        for name, columns in sorted(
            engine.tables(schemas, everywhere=search.everywhere).items(), key=lambda one: str(one[0])
        )
        if search.everywhere or name in where.tables
    ]
    counts = {looked.name: engine.count(looked.name) for looked in tables}
    tally.items_total = sum(rows for rows, _ in counts.values())
    tally.bytes_total = sum(size for _, size in counts.values()) or None
    wanted = _needles(search)
    left = [looked for looked in tables if str(looked.name) > _after(at)]
    if search.everywhere and not left:
        _views(tally, where, engine)
    for n, looked in enumerate(left, 1):
        _names(tally, looked)
        try:
            for page in engine.texts(looked.name, [c.name for c in looked.columns], wanted):
                for row in page:
                    _row(tally, looked, row)
        except StoreRefused:
            tally.skip(looked.whole, UNREADABLE, items=counts[looked.name][0])
        rows, size = counts[looked.name]
        tally.looked(rows, size)
        pace(items=rows, size_bytes=size)
        if search.everywhere and n == len(left):
            _views(tally, where, engine)
        yield tally.page(None if n == len(left) else {"after": str(looked.name)})
    if not left:
        yield tally.page(None)


def _after(at: Mapping[str, Any]) -> str:
    after = at.get("after", "")
    if not isinstance(after, str):
        raise UsageError("this is not a cursor of a search of this store")
    return after


def _needles(search: Search) -> list[str]:
    """Empty: every row has to be read."""
    parts = [needles(identifier) for identifier in search.identifiers]
    return [] if any(not p for p in parts) else sorted({needle for p in parts for needle in p})


def _names(tally: Tally, looked: _Looked) -> None:
    """Identifiers in the names of tables and columns, and in what is noted about them."""
    for place, text, known in (
        (looked.whole, f"{looked.name.schema} {looked.name.name}", looked.table is not None),
        *(
            (
                looked.column(c.name),
                f"{c.name}\n{c.comment}",
                looked.table is not None and c.name in looked.table.columns,
            )
            for c in looked.columns
        ),
    ):
        matches = tally.matcher.in_text(text)
        if matches:
            documented = Coverage.NEIGHBOUR if known else Coverage.UNDOCUMENTED
            coverage = Coverage.IGNORED if looked.ignored else documented
            tally.add(
                matches,
                place,
                partial(_always, coverage),
                item=text.partition("\n")[0],
                entry=_entry(looked),
            )


def _views(tally: Tally, where: AnalyticsMap, engine: Engine) -> None:
    """Identifiers in what views are made of. What they show lies in tables."""
    for name, text in sorted(engine.views().items()):
        matches = tally.matcher.in_text(f"{name.schema} {name.name}\n{text}")
        if matches:
            coverage = Coverage.IGNORED if name in where.ignore else Coverage.UNDOCUMENTED
            place = Place(kind=PlaceKind.DEFINITION, name=f"{name.schema}.view {name.name}")
            tally.add(matches, place, partial(_always, coverage), item=str(name))


def _always(coverage: Coverage, _tenant: TenantId) -> Coverage:
    return coverage


def _row(tally: Tally, looked: _Looked, row: Sequence[Any]) -> None:
    if not tally.chosen(repr(row)):
        return
    named = looked.table.tenant_column if looked.table is not None else None
    owner = next((v for c, v in zip(looked.columns, row, strict=True) if c.name == named), None)
    item = _item(looked, row)
    limit = tally.search.body_limit_bytes
    for column, value in zip(looked.columns, row, strict=True):
        if value is None:
            continue
        place = looked.column(column.name)
        body = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
        if isinstance(value, bytes):
            reading = read(tally.matcher, body, size=len(body), limit=limit)
            matches = reading.matches
            for reason in reading.unseen:
                tally.skip(place, reason, size_bytes=max(len(body) - limit, 0))
        else:
            text = cut(body, limit, len(body)).decode("utf-8", "surrogateescape")
            matches = tally.matcher.in_text(text)
            if len(body) > limit:
                tally.skip(place, TOO_LONG, size_bytes=len(body) - limit)
        if matches:
            tally.add(
                matches,
                place,
                partial(_coverage, looked, owner),
                item=item,
                entry=_entry(looked),
            )


def _item(looked: _Looked, row: Sequence[Any]) -> str:
    """By which an operator can find the row: its keys, where the catalogue names some, else what comes first in it."""
    classes = looked.table.columns if looked.table is not None else {}
    named = list(zip(looked.columns, row, strict=True))
    keys = [(c, v) for c, v in named if classes.get(c.name) is DataClass.KEY] or named[:1]
    return "/".join(f"{c.name}:{v}" for c, v in keys)


def _coverage(looked: _Looked, owner: Any, tenant: TenantId) -> Coverage:
    """Also of a column that the catalogue does not name: its values are copied and erased with their rows."""
    if looked.ignored:
        return Coverage.IGNORED
    if looked.table is None:
        return Coverage.UNDOCUMENTED
    return Coverage.OWN if owner == tenant else Coverage.NEIGHBOUR


def _entry(looked: _Looked) -> Mapping[str, Entry] | None:
    if looked.table is not None or looked.ignored:
        return None
    return _table_entry(looked.name, looked.columns, looked.where)
