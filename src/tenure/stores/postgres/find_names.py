"""Identifiers in what a database is made of: names, comments, definitions, settings, and large objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from tenure.errors import StoreRefused
from tenure.model.names import TenantId
from tenure.model.search import Coverage, Place, PlaceKind
from tenure.stores import bodies
from tenure.stores.contract import Pace
from tenure.stores.finds import Tally
from tenure.stores.postgres.connect import Pool
from tenure.stores.postgres.contents import Chart

LARGE_OBJECTS_AT_ONCE: Final = 50

_NAMES: Final = """
with own as (select n.oid, n.nspname::text as schema from pg_namespace n
    where n.nspname not like 'pg\\_%%' and n.nspname <> 'information_schema')
select 'schema', schema, schema, schema from own
union all
select 'table', schema, c.relname::text, c.relname::text from pg_class c join own on own.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'm', 'f', 'v', 'S')
union all
select 'column', schema, c.relname::text || '.' || a.attname::text, a.attname::text
    from pg_attribute a join pg_class c on c.oid = a.attrelid join own on own.oid = c.relnamespace
    where a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'p', 'm', 'f', 'v')
union all
select 'definition', schema, 'view ' || c.relname::text, pg_get_viewdef(c.oid)
    from pg_class c join own on own.oid = c.relnamespace where c.relkind in ('v', 'm')
union all
select 'definition', schema, 'function ' || p.proname::text, p.proname::text || ' ' || p.prosrc
    from pg_proc p join own on own.oid = p.pronamespace
union all
select 'definition', schema, 'type ' || t.typname::text, t.typname::text || ' ' || coalesce(e.enumlabel::text, '')
    from pg_type t join own on own.oid = t.typnamespace left join pg_enum e on e.enumtypid = t.oid
    where t.typtype in ('e', 'd') or exists (select from pg_class c where c.oid = t.typrelid and c.relkind = 'c')
union all
select 'definition', schema, 'default of ' || c.relname::text || '.' || a.attname::text, pg_get_expr(d.adbin, d.adrelid)
    from pg_attrdef d join pg_class c on c.oid = d.adrelid join own on own.oid = c.relnamespace
    join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
union all
select 'definition', schema, 'check ' || k.conname::text, k.conname::text || ' ' || pg_get_expr(k.conbin, k.conrelid)
    from pg_constraint k join own on own.oid = k.connamespace where k.contype = 'c'
union all
select 'definition', schema, 'index ' || i.relname::text,
    concat_ws(' ', i.relname::text, pg_get_expr(x.indpred, x.indrelid), pg_get_expr(x.indexprs, x.indrelid))
    from pg_index x join pg_class i on i.oid = x.indexrelid join own on own.oid = i.relnamespace
union all
select 'definition', schema, 'policy ' || p.polname::text, concat_ws(' ', p.polname::text,
        pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
    from pg_policy p join pg_class c on c.oid = p.polrelid join own on own.oid = c.relnamespace
union all
select 'definition', schema, 'trigger ' || t.tgname::text, pg_get_triggerdef(t.oid)
    from pg_trigger t join pg_class c on c.oid = t.tgrelid join own on own.oid = c.relnamespace
    where not t.tgisinternal
union all
select 'definition', schema, 'rule ' || r.rulename::text, pg_get_ruledef(r.oid)
    from pg_rewrite r join pg_class c on c.oid = r.ev_class join own on own.oid = c.relnamespace
    where r.rulename <> '_RETURN'
union all
select 'definition', schema, 'partition ' || c.relname::text, pg_get_expr(c.relpartbound, c.oid)
    from pg_class c join own on own.oid = c.relnamespace where c.relpartbound is not null
union all
select 'definition', '', 'publication ' || p.pubname::text, concat_ws(' ', p.pubname::text,
        (select string_agg(pg_get_expr(r.prqual, r.prrelid), ' ') from pg_publication_rel r where r.prpubid = p.oid))
    from pg_publication p
union all
select 'definition', '', 'extension ' || e.extname::text, e.extname::text from pg_extension e
union all
select 'definition', '', 'foreign server ' || s.srvname::text,
    concat_ws(' ', s.srvname::text, array_to_string(s.srvoptions, ' '))
    from pg_foreign_server s
union all
select 'comment', coalesce(schema, ''), d.classoid::regclass::text || ' ' || coalesce(schema || '.', '')
        || coalesce(c.relname::text, f.proname::text, t.typname::text, ''), d.description
    from pg_description d
    left join pg_class c on d.classoid = 'pg_class'::regclass and c.oid = d.objoid
    left join pg_proc f on d.classoid = 'pg_proc'::regclass and f.oid = d.objoid
    left join pg_type t on d.classoid = 'pg_type'::regclass and t.oid = d.objoid
    left join own on own.oid = coalesce(c.relnamespace, f.pronamespace, t.typnamespace,
        case when d.classoid = 'pg_namespace'::regclass then d.objoid end)
    where d.objoid >= 16384 or own.oid is not null
"""
"""(kind of place, schema, name, the text to search)."""

_SHARED: Final = """
select 'database', '', d.datname::text, d.datname::text from pg_database d
union all
select 'role', '', r.rolname::text, r.rolname::text from pg_roles r where r.rolname not like 'pg\\_%%'
union all
select 'definition', '', 'tablespace ' || t.spcname::text, t.spcname::text from pg_tablespace t
union all
select 'definition', '', 'settings of ' || coalesce(r.rolname::text, d.datname::text, ''),
    array_to_string(s.setconfig, ' ')
    from pg_db_role_setting s left join pg_roles r on r.oid = s.setrole left join pg_database d on d.oid = s.setdatabase
union all
select 'definition', '', 'subscription ' || s.subname::text,
    s.subname::text || ' ' || array_to_string(s.subpublications, ' ')
    from pg_subscription s
union all
select 'definition', '', 'replication slot ' || s.slot_name::text, s.slot_name::text from pg_replication_slots s
union all
select 'definition', '', 'replication origin ' || o.roname, o.roname from pg_replication_origin o
union all
select 'comment', '', 'pg_database ' || coalesce(b.datname::text, r.rolname::text, ''), d.description
    from pg_shdescription d
    left join pg_database b on d.classoid = 'pg_database'::regclass and b.oid = d.objoid
    left join pg_roles r on d.classoid = 'pg_authid'::regclass and r.oid = d.objoid
"""
"""What all databases of a server share."""

_LARGE_OBJECTS: Final = """
select oid::int8 from pg_largeobject_metadata where oid > %(after)s::oid order by oid limit %(most)s
"""
_TENURES: Final = "tenure"


@dataclass(frozen=True, kw_only=True)
class Database:
    """A database in which is searched. `label` stands before the names of its places; empty for the store's own."""

    pool: Pool
    chart: Chart
    label: str
    tenures: frozenset[str]

    def place(self, kind: PlaceKind, name: str) -> Place:
        return Place(kind=kind, name=f"{self.label}{name}")


def names(
    database: Database,
    tally: Tally,
    *,
    shared: bool,
    own_database: Callable[[str], TenantId | None],
    pace: Pace,
) -> None:
    """Look at the names, comments and definitions; with `shared` also at those of the whole server. `own_database` says
    whose a database is by its name."""
    rows = database.pool.rows(_NAMES, {})
    if shared:
        rows += database.pool.rows(_SHARED, {})
    size = 0
    for kind, schema, name, text in rows:
        size += len(text or "")
        matches = tally.matcher.in_text(text or "")
        if not matches:
            continue
        place_kind = PlaceKind(kind)
        its = own_database(name) if place_kind is PlaceKind.DATABASE else None
        owner = its or (database.chart.schema_tenant(schema) if schema else None)
        tenures = schema in database.tenures or _is_tenures(place_kind, name)
        shown = database.chart.template_of(schema) if schema and place_kind is not PlaceKind.COMMENT else ""
        full = name if place_kind is PlaceKind.SCHEMA else f"{shown}.{name}" if shown else name
        if place_kind is PlaceKind.SCHEMA:
            full = shown
        tally.add(
            matches,
            database.place(place_kind, tally.clean(full)),
            partial(_coverage, owner=owner, tenures=tenures),
        )
    tally.looked(0, size)
    pace(items=len(rows), size_bytes=size)


def _is_tenures(kind: PlaceKind, name: str) -> bool:
    """Publications, slots, triggers and the like that a link of Tenure's is made of."""
    return kind is PlaceKind.DEFINITION and name.rpartition(" ")[2].startswith(_TENURES)


def _coverage(tenant: TenantId, owner: TenantId | None, tenures: bool) -> Coverage:
    if tenures:
        return Coverage.TENURE
    if owner is None:
        return Coverage.UNDOCUMENTED
    return Coverage.OWN if owner == tenant else Coverage.NEIGHBOUR


def large_objects(database: Database, tally: Tally, after: int, pace: Pace) -> Iterator[int]:
    """Look into large objects, page by page, from the one after `after`; gives the last one of each page."""
    limit = tally.search.body_limit_bytes
    place = database.place(PlaceKind.LARGE_OBJECT, "large objects")
    while True:
        page = database.pool.rows(_LARGE_OBJECTS, {"after": after, "most": LARGE_OBJECTS_AT_ONCE})
        if not page:
            return
        size = 0
        for (oid,) in page:
            after = int(oid)
            if not tally.chosen(f"lo:{oid}"):
                continue
            try:
                body = bytes(
                    database.pool.value(
                        "select lo_get(%(oid)s::oid, 0, %(most)s)", {"oid": oid, "most": limit + 1}
                    )
                )
            except StoreRefused:
                tally.skip(place, "the login may not read it")
                continue
            reading = bodies.read(tally.matcher, body, size=len(body), limit=limit)
            tally.add(reading.matches, place, lambda _: Coverage.UNDOCUMENTED, item=str(oid))
            for reason in reading.unseen:
                tally.skip(place, reason)
            size += len(body)
            tally.looked(1, len(body))
        pace(items=len(page), size_bytes=size)
        yield after
