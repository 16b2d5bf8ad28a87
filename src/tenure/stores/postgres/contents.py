"""What there is in a database, whoever made it: tables with their columns and sizes, and which of them the catalogue
knows. Views hold nothing; a partition is part of its table."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tenure.catalogue.patterns import Template
from tenure.model.names import TenantId
from tenure.stores.postgres.connect import Pool
from tenure.stores.postgres.tables import TenantTable, collection_of

OWN_SCHEMA: Final = "tenure"
CONTROL_SCHEMA: Final = "registry"
MATVIEW: Final = "m"
FOREIGN: Final = "f"
PARTITIONED: Final = "p"
_NUMBERS: Final = frozenset(
    re.findall(r"\w+", "int2 int4 int8 float4 float8 numeric money oid xid xid8 cid tid bit varbit pg_lsn")
)
_NEVER_TEXT: Final = frozenset(
    re.findall(
        r"\w+",
        "bool date time timetz timestamp timestamptz interval point line lseg box path polygon circle "
        "vector halfvec sparsevec geometry geography raster box2d box3d "
        "daterange tsrange tstzrange datemultirange tsmultirange tstzmultirange",
    )
)

_RELATIONS: Final = """
select c.oid::int8, n.nspname::text, c.relname::text, c.relkind::text, coalesce(m.amname, '')::text,
    rn.nspname::text, r.relname::text, r.relkind::text, greatest(c.reltuples, 0)::int8,
    case when c.relkind in ('r', 'm') then pg_relation_size(c.oid) else 0 end,
    case when c.relkind in ('r', 'm') then pg_table_size(c.oid) else 0 end,
    coalesce(pg_relation_filenode(c.oid), 0)::int8, current_setting('block_size')::int,
    has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select'), row_security_active(c.oid)
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
join pg_class r on r.oid = case when c.relispartition then pg_partition_root(c.oid) else c.oid end
join pg_namespace rn on rn.oid = r.relnamespace
left join pg_am m on m.oid = c.relam
where c.relkind in ('r', 'm', 'f', 'p') and n.nspname not like 'pg\\_%%' and n.nspname <> 'information_schema'
order by 1
"""

_COLUMNS: Final = """
select a.attrelid::int8, a.attname::text, format_type(a.atttypid, a.atttypmod), e.typname::text,
    t.typcategory = 'A' or b.typcategory = 'A'
from pg_attribute a
join pg_class c on c.oid = a.attrelid and c.relkind in ('r', 'm', 'f', 'p')
join pg_namespace n on n.oid = c.relnamespace
join pg_type t on t.oid = a.atttypid
join pg_type b on b.oid = coalesce(nullif(t.typbasetype, 0), t.oid)
join pg_type e on e.oid = case when b.typcategory = 'A' and b.typelem <> 0 then b.typelem else b.oid end
where a.attnum > 0 and not a.attisdropped
    and n.nspname not like 'pg\\_%%' and n.nspname <> 'information_schema'
order by a.attrelid, a.attnum
"""


@dataclass(frozen=True, kw_only=True)
class Column:
    """`type_name` is the server's spelling; `element` the name of the base type, of an array that of its elements."""

    name: str
    type_name: str
    element: str
    is_array: bool

    @property
    def is_bytes(self) -> bool:
        return self.element == "bytea"

    def may_hold(self, values: Collection[str]) -> bool:
        """Whether one of these values could stand in it as text."""
        if self.element in _NEVER_TEXT:
            return False
        if self.element in _NUMBERS:
            return any(re.fullmatch(r"[-+.\d]+", value) for value in values)
        if self.element == "uuid":
            return any(re.fullmatch(r"[0-9a-f-]{36}", value) for value in values)
        return True


@dataclass(frozen=True, kw_only=True)
class Relation:
    """A table, partition, materialised view or foreign table, with the columns of it. `root` is the table that the
    catalogue would name."""

    oid: int
    schema: str
    name: str
    kind: str
    method: str
    root: tuple[str, str]
    root_kind: str
    rows: int
    heap_bytes: int
    size_bytes: int
    filenode: int
    block_bytes: int
    readable: bool
    filtered: bool
    """Row security hides some of it from this login."""
    columns: tuple[Column, ...]

    @property
    def blocks(self) -> int:
        return -(-self.heap_bytes // self.block_bytes)

    @property
    def is_partition(self) -> bool:
        return self.root != (self.schema, self.name)

    @property
    def has_rows(self) -> bool:
        return self.kind != PARTITIONED


def relations(pool: Pool) -> tuple[Relation, ...]:
    """Every relation of the database that can hold rows, partitioned tables as well, in the order of their oids."""
    columns: dict[int, list[Column]] = {}
    for oid, name, type_name, element, is_array in pool.rows(_COLUMNS, {}):
        columns.setdefault(oid, []).append(
            Column(name=name, type_name=type_name, element=element, is_array=bool(is_array))
        )
    return tuple(
        Relation(
            oid=row[0],
            schema=row[1],
            name=row[2],
            kind=row[3],
            method=row[4],
            root=(row[5], row[6]),
            root_kind=row[7],
            rows=row[8],
            heap_bytes=row[9],
            size_bytes=row[10],
            filenode=row[11],
            block_bytes=row[12],
            readable=row[13],
            filtered=row[14],
            columns=tuple(columns.get(row[0], ())),
        )
        for row in pool.rows(_RELATIONS, {})
    )


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the catalogue says of a table. `tenant` is whose all its rows are, where it is in a schema or database of a
    tenant's own; `columns` are those it names, None where that is not known here."""

    spec: TenantTable
    tenant: TenantId | None
    carried: bool = False
    ignored: bool = False
    columns: frozenset[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Chart:
    """The catalogue as it applies to one database. `tenant` is whose the database is, if it is one tenant's."""

    tables: Sequence[TenantTable] = ()
    carried: Sequence[TenantTable] = ()
    ignored: Sequence[TenantTable] = ()
    columns: Mapping[TenantTable, frozenset[str]] = field(default_factory=dict)
    tenants: frozenset[TenantId] = frozenset()
    tenant: TenantId | None = None

    def known(self, schema: str, name: str) -> Known | None:
        """What the catalogue says of that table; None if it does not name it."""
        for specs, carried, ignored in (
            (self.tables, False, False),
            (self.carried, True, False),
            (self.ignored, False, True),
        ):
            for spec in specs:
                if spec.name != name:
                    continue
                tenant = self._schema_tenant(spec, schema)
                if spec.schema == schema or tenant is not None:
                    return Known(
                        spec=spec,
                        tenant=tenant or (self.tenant if spec.tenant_column is None else None),
                        carried=carried,
                        ignored=ignored,
                        columns=self.columns.get(spec),
                    )
        return None

    def _schema_tenant(self, spec: TenantTable, schema: str) -> TenantId | None:
        tenant = Template.name(spec.schema).tenant_of(schema) if spec.own_schema else None
        return tenant if tenant in self.tenants else None

    def schema_tenant(self, schema: str) -> TenantId | None:
        """Whose own schema it is, or database; None if it is nobody's."""
        found = (self._schema_tenant(spec, schema) for spec in (*self.tables, *self.carried))
        return next((tenant for tenant in found if tenant is not None), self.tenant)

    def name_of(self, schema: str, name: str) -> str:
        """The table's name as the catalogue writes it, or would."""
        known = self.known(schema, name)
        if known is not None:
            return known.spec.collection
        return collection_of(self.template_of(schema), name)

    def template_of(self, schema: str) -> str:
        """The schema as the catalogue would write it."""
        for spec in (*self.tables, *self.carried):
            if self._schema_tenant(spec, schema) is not None:
                return spec.schema
        return schema

    @property
    def usual_columns(self) -> tuple[str, ...]:
        """How the catalogue's tables call their tenant column, the most usual first."""
        names = [t.tenant_column for t in (*self.tables, *self.carried) if t.tenant_column is not None]
        return tuple(sorted(set(names), key=lambda name: -names.count(name)))


def tenures_schemas(found: Collection[Relation]) -> frozenset[str]:
    """The schemas that are Tenure's own: of a cell, and of the control database, which a server may hold as well."""
    names = {(r.schema, r.name) for r in found}
    control = {(CONTROL_SCHEMA, name) for name in ("migrations", "operations", "placements")} <= names
    return frozenset({OWN_SCHEMA, CONTROL_SCHEMA} if control else {OWN_SCHEMA})
