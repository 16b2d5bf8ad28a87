"""A search through a PostgreSQL server: every database that the login may enter, in each first the names and
definitions, then the large objects, then the rows of every table in the order of their oids.

Nothing is kept on the server between pages; a cursor is a database, a table, and a number of a block in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tenure.catalogue.patterns import Template
from tenure.errors import DeadlineExceeded, StoreRefused, StoreUnavailable
from tenure.model.names import StoreName, TenantId
from tenure.model.search import FindPage, Place, PlaceKind, Search
from tenure.stores.contract import Pace
from tenure.stores.finds import Tally, resumed
from tenure.stores.postgres.connect import Pool
from tenure.stores.postgres.contents import FOREIGN, Chart, Relation, relations, tenures_schemas
from tenure.stores.postgres.find_names import Database, large_objects, names
from tenure.stores.postgres.find_rows import Rows

NAMES, OBJECTS, ROWS = "names", "objects", "rows"
MOST_MEASURED: Final = 64
"""The size of so many databases is asked for in advance; with more, the total stays unknown."""
_STATE: Final = re.compile(r"SQLSTATE \w{5}")

_DATABASES: Final = """
select datname::text, has_database_privilege(oid, 'connect') from pg_database where datallowconn order by datname
"""


@dataclass(frozen=True, kw_only=True)
class Where:
    """What a store gives its search: its own connection, and the catalogue. `chart` says how that applies to a database
    of that owner; `database` is the template of tenants' databases. `carried`: the tables are those of a store that
    rides with another one, and nothing else is looked at."""

    store: StoreName
    pool: Pool
    chart: Callable[[TenantId | None], Chart]
    database: Template | None
    tenants: frozenset[TenantId]
    carried: frozenset[str] | None = None
    others: frozenset[str] = frozenset()
    """Databases of other stores, which search them themselves."""

    def tenant_of(self, database: str) -> TenantId | None:
        found = self.database.tenant_of(database) if self.database is not None else None
        return found if found in self.tenants else None


def find(where: Where, search: Search, cursor: str | None, pace: Pace) -> Iterator[FindPage]:
    """See `Store.find`."""
    tally, at = resumed(search, cursor)
    own = str(where.pool.database)
    targets = _targets(where, search)
    _measure(where, tally, targets, search)
    if not targets:
        yield tally.page(None)
    for n, (name, allowed) in enumerate(targets):
        if at and (name != own, name) < (at["database"] != own, at["database"]):
            continue
        begun = at if at.get("database") == name else {}
        last = n == len(targets) - 1
        if not allowed:
            tally.skip(Place(kind=PlaceKind.DATABASE, name=name), "the login may not enter it")
        else:
            yield from _database(where, tally, name, begun, pace)
        yield tally.page(None if last else {"database": targets[n + 1][0]})


def _targets(where: Where, search: Search) -> list[tuple[str, bool]]:
    """The databases to look into, the store's own first, with whether the login may."""
    own = str(where.pool.database)
    listed = where.pool.rows(_DATABASES)
    found = [
        (str(name), bool(allowed)) for name, allowed in listed if name == own or name not in where.others
    ]
    if not search.everywhere or where.carried is not None:
        catalogued = [its for its in found if where.tenant_of(its[0]) is not None]
        found = catalogued if where.database is not None else [its for its in found if its[0] == own]
    return sorted(found, key=lambda its: (its[0] != own, its[0]))


def _entered(where: Where, name: str) -> tuple[Pool, str, Chart]:
    """The connection to that database, what stands before its places' names, and the catalogue for it."""
    tenant = where.tenant_of(name)
    own = name == where.pool.database
    documented = tenant is not None or (own and where.database is None)
    chart = where.chart(tenant) if documented else Chart()
    pool = where.pool if own else where.pool.beside(name)
    return pool, "" if documented else f"{name}: ", chart


def _measure(where: Where, tally: Tally, targets: Sequence[tuple[str, bool]], search: Search) -> None:
    if len(targets) > MOST_MEASURED:
        return
    items = size = 0
    for name, allowed in targets:
        if not allowed:
            continue
        pool, _, chart = _entered(where, name)
        try:
            looked = [r for r in relations(pool) if _is_looked_at(where, search, chart, r)]
        except (StoreRefused, StoreUnavailable):
            if pool is where.pool:
                raise
            continue
        finally:
            if pool is not where.pool:
                pool.close()
        items += sum(r.rows for r in looked)
        size += sum(r.size_bytes for r in looked)
    tally.items_total, tally.bytes_total = items, size


def _is_looked_at(where: Where, search: Search, chart: Chart, relation: Relation) -> bool:
    known = chart.known(*relation.root)
    if not relation.has_rows:
        return False
    if where.carried is not None:
        return known is not None and known.spec.collection in where.carried
    if known is not None and known.carried:
        return False
    return search.everywhere or (known is not None and not known.ignored)


def _database(where: Where, tally: Tally, name: str, begun: dict[str, Any], pace: Pace) -> Iterator[FindPage]:
    pool, label, chart = _entered(where, name)
    try:
        found = relations(pool)
        database = Database(pool=pool, chart=chart, label=label, tenures=tenures_schemas(found))
        everything = tally.search.everywhere and where.carried is None
        if everything and begun.get("step", NAMES) == NAMES:
            names(database, tally, shared=pool is where.pool, own_database=where.tenant_of, pace=pace)
            yield tally.page({"database": name, "step": OBJECTS, "oid": 0})
        if everything and begun.get("step", OBJECTS) in {NAMES, OBJECTS}:
            for oid in large_objects(database, tally, int(begun.get("oid", 0)), pace):
                yield tally.page({"database": name, "step": OBJECTS, "oid": oid})
        yield from _rows(
            where, database, tally, name, found, begun if begun.get("step") == ROWS else {}, pace
        )
    except (StoreRefused, StoreUnavailable):
        if pool is where.pool:
            raise
        tally.skip(Place(kind=PlaceKind.DATABASE, name=name), "it cannot be entered")
    finally:
        if pool is not where.pool:
            pool.close()


def _rows(
    where: Where,
    database: Database,
    tally: Tally,
    name: str,
    found: Sequence[Relation],
    begun: dict[str, Any],
    pace: Pace,
) -> Iterator[FindPage]:
    for relation in found:
        if relation.oid < begun.get("oid", 0) or not _is_looked_at(
            where, tally.search, database.chart, relation
        ):
            continue
        place = database.place(PlaceKind.TABLE, tally.clean(database.chart.name_of(*relation.root)))
        reason = _unreadable(relation)
        if reason:
            tally.skip(place, reason, items=relation.rows, size_bytes=relation.size_bytes)
            continue
        same = relation.oid == begun.get("oid") and relation.filenode == begun.get("node")
        rows = Rows(database, relation, tally, where.chart(None).usual_columns)
        at = {"database": name, "step": ROWS, "oid": relation.oid, "node": relation.filenode}
        try:
            for block in rows.pages(int(begun["block"]) if same else 0, pace, where.store):
                yield tally.page({**at, "block": block})
        except (StoreRefused, DeadlineExceeded) as error:
            if _exists(database.pool, relation):
                state = _STATE.search(error.message)
                reason = f"the server gives an error{f' ({state[0]})' if state else ''}"
                tally.skip(place, reason, items=relation.rows, size_bytes=relation.size_bytes)


def _unreadable(relation: Relation) -> str:
    if not relation.readable:
        return "the login may not read it"
    if relation.kind == FOREIGN:
        return "a foreign table: its server is to be searched by itself"
    return "" if relation.method == "heap" else f"kept by another access method ({relation.method})"


def _exists(pool: Pool, relation: Relation) -> bool:
    return bool(pool.value("select exists (select from pg_class where oid = %(oid)s)", {"oid": relation.oid}))
