"""What must agree between the parts of a catalogue. Looks at whatever of the file can be understood, so
that these findings come together with those about single settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tenure.catalogue.catalogue import Isolation
from tenure.catalogue.classes import DataClass
from tenure.catalogue.patterns import PLACEHOLDER, KeyPattern, Template
from tenure.catalogue.qualified_name import QualifiedName
from tenure.document import Block, Document, Path
from tenure.document.problems import did_you_mean, shown
from tenure.document.reading import Value, block_at, text_at
from tenure.errors import UsageError

KEYED: Final = frozenset({"redis", "s3"})
"""Kinds of stores whose `ignore` has patterns of keys."""
_NO_COLUMN: Final = "is not needed: every row is the tenant's own there"


@dataclass(frozen=True, kw_only=True)
class StoreSketch:
    """As much of a store's entry as can be understood, in the catalogue or in a cell."""

    path: Path
    entry: dict[str, Value]
    kind: str | None
    rides_with: str | None


def sketch_stores(stores: Value, path: Path) -> dict[str, StoreSketch]:
    """The stores under that path of a document, by name."""
    sketches = {}
    for name, value in block_at(stores).items():
        entry = block_at(value)
        sketches[name] = StoreSketch(
            path=(*path, name),
            entry=entry,
            kind=text_at(entry.get("kind")),
            rides_with=text_at(entry.get("rides_with")),
        )
    return sketches


def check_catalogue(document: Document) -> None:
    """Report references to stores that are not there, tables that do not fit how their store keeps tenants apart,
    tables listed twice, patterns that can never match."""
    stores = sketch_stores(block_at(document.root).get("stores"), ("stores",))
    for store in stores.values():
        for reference in ("rides_with", "journal", "fenced_with"):
            check_reference(document, stores, store, reference)
        _check_tables(document, store, isolation_of(store, stores))
        _check_keys(document, store)
        _check_person(document, store)
        _check_groups(document, store)
    _check_homes(document, stores)
    _check_schemas(document, stores)


def isolation_of(store: StoreSketch, stores: dict[str, StoreSketch]) -> str | None:
    """How the store keeps tenants apart, or the one it rides with does; None where that cannot be understood."""
    home = stores.get(store.rides_with) if store.rides_with else store
    given = home.entry.get("isolation", Isolation.SHARED.value) if home else None
    return given if isinstance(given, str) and given in set(Isolation) else None


def check_reference(
    document: Document, stores: dict[str, StoreSketch], store: StoreSketch, setting: str
) -> None:
    """Report a reference of the store to something that is no PostgreSQL store beside it."""
    named = text_at(store.entry.get(setting))
    if named is None:
        return
    path = (*store.path, setting)
    if named not in stores:
        document.report(path, f"there is no store {shown(named)} here{did_you_mean(named, stores)}")
    elif stores[named].kind not in {"postgresql", None}:
        document.report(
            path, f"must name a store of kind postgresql; {named} is {shown(stores[named].kind or '')}"
        )


def _needs_schema(isolation: str | None) -> str:
    return f"{PLACEHOLDER} needs isolation: schema; here it is {isolation}"


def _check_tables(document: Document, store: StoreSketch, isolation: str | None) -> None:
    default = text_at(store.entry.get("tenant_column"))
    if default is not None and isolation == Isolation.DATABASE:
        document.report((*store.path, "tenant_column"), _NO_COLUMN)
    ignored = store.entry.get("ignore")
    for n, name in enumerate(ignored if isinstance(ignored, tuple) else ()):
        if not isinstance(name, str) or PLACEHOLDER not in name:
            continue
        if store.kind in KEYED:
            document.report(
                (*store.path, "ignore", n), f"these keys are no tenant's: {PLACEHOLDER} says otherwise"
            )
        elif isolation in {Isolation.SHARED, Isolation.DATABASE}:
            document.report((*store.path, "ignore", n), _needs_schema(isolation))
    for table, value in block_at(store.entry.get("tables")).items():
        path = (*store.path, "tables", table)
        if PLACEHOLDER in table and isolation in {Isolation.SHARED, Isolation.DATABASE}:
            document.report(path, _needs_schema(isolation), key=True)
        if not isinstance(value, Block) or not isinstance(value.get("columns"), Block):
            continue
        if PLACEHOLDER in table or isolation == Isolation.DATABASE:
            if value.get("tenant_column") is not None:
                document.report((*path, "tenant_column"), _NO_COLUMN)
            continue
        column = text_at(value.get("tenant_column")) or default
        if value.get("tenant_column") is None and store.entry.get("tenant_column") is None:
            document.report(path, "tenant_column: missing, here and for the whole store")
        if column is not None:
            _check_tenant_column(document, path, block_at(value["columns"]), column)
            _check_partition(document, path, value, column)


def _check_tenant_column(document: Document, path: Path, columns: dict[str, Value], column: str) -> None:
    here = (*path, "columns")
    if column not in columns:
        known = did_you_mean(column, columns)
        document.report(here, f"the tenant column {shown(column)} is not among them{known}")
    elif isinstance(columns[column], str) and columns[column] != DataClass.TENANT:
        document.report((*here, column), "is the tenant column, so its class must be tenant")
    for name, held in columns.items():
        if held == DataClass.TENANT and name != column:
            document.report((*here, name), f"only the tenant column ({shown(column)}) has the class tenant")


def _check_partition(document: Document, path: Path, table: Block, tenant_column: str) -> None:
    """Report a partition by a column that the table does not list, or by the one that is always the same."""
    named = text_at(block_at(table.get("partition")).get("column"))
    if named is None:
        return
    here, columns = (*path, "partition", "column"), block_at(table["columns"])
    if named not in columns:
        document.report(here, f"{shown(named)} is none of the columns{did_you_mean(named, columns)}")
    elif named == tenant_column:
        document.report(here, "is the tenant column: all of a tenant's rows would be one partition")


def _check_schemas(document: Document, stores: dict[str, StoreSketch]) -> None:
    """A store with schemas of the tenants' own has such a table, and no schema can be two tenants'."""
    for name, store in stores.items():
        if store.kind != "postgresql" or isolation_of(store, stores) != Isolation.SCHEMA:
            continue
        parts = [store, *(s for s in stores.values() if s.rides_with == name)]
        found: dict[str, Path] = {}
        for part in parts:
            for table in block_at(part.entry.get("tables")):
                schema = _own_schema(table)
                if schema is not None:
                    found.setdefault(schema.text, (*part.path, "tables", table))
        if not found:
            document.report(
                (*store.path, "isolation"), f"schema: but no table has {PLACEHOLDER} in its schema's name"
            )
        templates = [Template.name(text) for text in found]
        for n, template in enumerate(templates):
            other = next((t for t in templates[:n] if t.meets(template)), None)
            if other is not None:
                document.report(
                    found[template.text],
                    f"the schema {shown(template.text)} of one tenant can be {shown(other.text)} of another, since"
                    f" ids may contain what tells them apart: put it in front of {PLACEHOLDER}",
                    key=True,
                )


def _own_schema(table: str) -> Template | None:
    try:
        name = QualifiedName.parse(table)
    except UsageError:
        return None
    return Template.name(name.schema) if name.own_schema else None


def _check_keys(document: Document, store: StoreSketch) -> None:
    above: list[KeyPattern] = []
    for pattern in block_at(store.entry.get("keys")):
        here = KeyPattern(pattern=pattern, data_class=DataClass.PLAIN)
        for earlier in above:
            if earlier.covers(here):
                path = (*store.path, "keys", pattern)
                document.report(
                    path, f"is never reached: {shown(earlier.pattern)} above it matches all of it", key=True
                )
                break
        above.append(here)


def _check_person(document: Document, store: StoreSketch) -> None:
    """The fields that identify a person are classified."""
    fields, person = block_at(store.entry.get("fields")), store.entry.get("person")
    for n, name in enumerate(person if isinstance(person, tuple) else ()):
        if store.kind == "pinecone" and isinstance(name, str) and name not in fields:
            document.report((*store.path, "person", n), f"is none of the fields{did_you_mean(name, fields)}")


def _check_groups(document: Document, store: StoreSketch) -> None:
    """A log group is each tenant's own or says whose its streams are; no group can be two tenants'."""
    seen: list[Template] = []
    for name, value in block_at(store.entry.get("groups")).items():
        path = (*store.path, "groups", name)
        streams = block_at(value).get("streams")
        if PLACEHOLDER in name and streams is not None:
            document.report(
                (*path, "streams"), "is not needed: every stream of the group is the tenant's own"
            )
        if PLACEHOLDER not in name:
            if isinstance(value, Block) and streams is None:
                document.report(path, f"streams: missing, since the group has no {PLACEHOLDER} in its name")
            continue
        try:
            here = Template.name(name.rstrip("*"))
        except UsageError:
            continue
        other = next((t for t in seen if t.meets(here)), None)
        if other is not None:
            document.report(
                path,
                f"the group {shown(name)} of one tenant can be {shown(other.text)} of another, since ids may contain"
                f" what tells them apart: put it in front of {PLACEHOLDER}",
                key=True,
            )
        seen.append(here)


def _check_homes(document: Document, stores: dict[str, StoreSketch]) -> None:
    """Every table of a database is listed once: by one store, as holding tenants' data or not."""
    homes: dict[tuple[str, QualifiedName], str] = {}
    for name, store in stores.items():
        database = store.rides_with or name
        tables = [(t, (*store.path, "tables", t)) for t in block_at(store.entry.get("tables"))]
        ignore = store.entry.get("ignore")
        listed = ignore if isinstance(ignore, tuple) else ()
        ignored = [(t, (*store.path, "ignore", n)) for n, t in enumerate(listed) if isinstance(t, str)]
        for text, path in [*tables, *ignored]:
            try:
                table = QualifiedName.parse(text)
            except UsageError:
                continue
            part = ".".join(str(p) for p in path[:3])
            if (database, table) in homes:
                document.report(path, f"is listed already under {homes[database, table]}", key=True)
            homes.setdefault((database, table), part)
