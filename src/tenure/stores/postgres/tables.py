"""The tenants' tables as a server describes them: columns, keys, partitions, and the SQL that follows from them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from psycopg import sql

from tenure.catalogue.patterns import PLACEHOLDER, Template
from tenure.errors import StoreRefused
from tenure.model.names import TenantId
from tenure.stores.postgres.connect import Pool

# Key types whose text form depends on no setting: a writer's session and ours write the same key.
SETTLED_KEY_TYPES: Final = frozenset(
    ("bigint", "integer", "smallint", "text", "uuid", "boolean", "numeric", "oid", "character varying")
)
_FIRST_USER_OID: Final = 16384


@dataclass(frozen=True, kw_only=True, order=True)
class TenantTable:
    """What the catalogue says: a table, and the column that holds the tenant's id; None where every row is the
    tenant's. `schema` may be a template, of which `of` makes a tenant's own schema."""

    schema: str
    name: str
    tenant_column: str | None = None

    @property
    def own_schema(self) -> bool:
        """Whether each tenant has a schema of its own for this table."""
        return PLACEHOLDER in self.schema

    def of(self, tenant: TenantId) -> TenantTable:
        """The table by the name that it has for that tenant."""
        return replace(self, schema=Template.name(self.schema).expand(tenant)) if self.own_schema else self

    @property
    def collection(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def sql(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)


@dataclass(frozen=True, kw_only=True)
class Column:
    """`type_name` is the server's own spelling with modifiers; `send` the type's binary output function, if any."""

    name: str
    type_name: str
    type_oid: int
    type_kind: str
    is_array: bool
    send: tuple[str, str] | None
    not_null: bool
    generated: str
    identity: str
    expression: str | None

    @property
    def builtin(self) -> bool:
        return self.type_oid < _FIRST_USER_OID

    @property
    def exact(self) -> sql.Composable:
        """An expression of a built-in type that differs whenever the stored value does, equal on every server."""
        column = sql.Identifier(self.name)
        if self.builtin and self.send is not None:
            return column
        if self.send is not None and self.type_kind in "brm" and not self.is_array:
            return sql.SQL("{}({})").format(sql.Identifier(*self.send), column)
        return sql.SQL("{}::text").format(column)


@dataclass(frozen=True, kw_only=True)
class Table:
    """One tenant table on one server. `key` is the primary key, or else the replica identity's columns."""

    spec: TenantTable
    oid: int
    kind: str
    persistence: str
    replica_identity: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    identity: tuple[str, ...]
    leaves: tuple[tuple[str, str], ...]
    """Where rows are stored: the table itself, or its leaf partitions."""
    inherited_by: int

    @property
    def collection(self) -> str:
        return self.spec.collection

    def column(self, name: str) -> Column:
        return next(c for c in self.columns if c.name == name)

    @property
    def stored(self) -> tuple[Column, ...]:
        """The columns that are copied and compared: generated ones follow from them."""
        return tuple(c for c in self.columns if not c.generated)

    @property
    def description(self) -> dict[str, str]:
        """What must not change during a move, name by name."""
        about = {
            f"column {c.name}": f"{c.type_name}{' not null' if c.not_null else ''}"
            f"{f' generated {c.generated} ({c.expression})' if c.generated else ''}"
            for c in self.columns
        }
        return about | {"key": ", ".join(self.key), "tenant column": self.spec.tenant_column or "none"}

    def of_tenant(self, tenant: TenantId, row: str | None = None) -> sql.Composed:
        """The condition that picks the tenant's rows; a literal, because triggers and publications need one. `row` is
        the alias of the table's rows in the statement, if it has one."""
        if self.spec.tenant_column is None:
            return sql.Composed([sql.SQL("true")])
        names = (row, self.spec.tenant_column) if row else (self.spec.tenant_column,)
        return sql.SQL("{} = {}").format(sql.Identifier(*names), sql.Literal(str(tenant)))

    def published(self, tenant: TenantId) -> sql.Composed:
        """What a publication of the tenant's rows says of this table."""
        if self.spec.tenant_column is None:
            return sql.Composed([self.spec.sql])
        return sql.SQL("{} where ({})").format(self.spec.sql, self.of_tenant(tenant))

    @property
    def row_hash(self) -> sql.Composed:
        """A 64-bit hash over the binary form of the whole row.

        Not `hash_record_extended` of the row itself: that one is linear in the columns' hashes, so a sum over rows
        would not see two values change places, and it calls -0.0 and 0.0, or 1.0 and 1.00, the same.
        """
        columns = sql.SQL(", ").join(c.exact for c in self.stored)
        return sql.SQL("hash_record_extended(row(record_send(row({}))), 0)").format(columns)

    @property
    def key_hash(self) -> sql.Composed:
        columns = sql.SQL(", ").join(self.column(name).exact for name in self.key)
        return sql.SQL("hash_record_extended(row(record_send(row({}))), 0)").format(columns)

    @property
    def key_text(self) -> sql.Composed:
        """The key as a jsonb array of texts."""
        columns = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(k)) for k in self.key)
        return sql.SQL("jsonb_build_array({})").format(columns)

    def key_parameters(self, prefix: str) -> sql.Composed:
        """A function's parameters for the key: `prefix` and a number, with the columns' types."""
        return sql.SQL(", ").join(
            sql.SQL("{} {}").format(
                sql.Identifier(f"{prefix}{n}"), sql.SQL(_spelled(self.column(name).type_name))
            )
            for n, name in enumerate(self.key)
        )

    def settled_key(self, prefix: str) -> sql.Composed:
        """`key_text` of such parameters, where neither the settings nor the search path are ours."""
        texts = (
            sql.SQL("{}::pg_catalog.text" if self._settled(name) else "tenure.plain({})").format(
                sql.Identifier(f"{prefix}{n}")
            )
            for n, name in enumerate(self.key)
        )
        return sql.SQL("pg_catalog.jsonb_build_array({})").format(sql.SQL(", ").join(texts))

    def _settled(self, name: str) -> bool:
        return self.column(name).type_name.partition("(")[0] in SETTLED_KEY_TYPES

    def key_match(self, keys: str, row: str) -> sql.Composed:
        """The join condition of rows `row` with a relation `keys` whose column `tenure_key` is such an array."""
        return sql.SQL(" and ").join(
            sql.SQL("{}.{} = ({}.tenure_key ->> {})::{}").format(
                sql.Identifier(row),
                sql.Identifier(name),
                sql.Identifier(keys),
                sql.Literal(n),
                sql.SQL(_spelled(self.column(name).type_name)),
            )
            for n, name in enumerate(self.key)
        )


def _spelled(type_name: str) -> str:
    """A type as the server's `format_type` wrote it, quoted where needed: safe to put into a statement as it is."""
    return type_name


_TABLES: Final = """
select w.n, c.oid::int8, c.relkind::text, c.relpersistence::text, c.relreplident::text,
    coalesce((select array_agg(a.attname::text order by k.n) from pg_index i,
        unnest(i.indkey::int2[]) with ordinality k (attnum, n) join pg_attribute a on a.attnum = k.attnum
        where i.indrelid = c.oid and i.indisprimary and a.attrelid = c.oid), '{}'),
    coalesce((select array_agg(a.attname::text order by k.n) from pg_index i,
        unnest(i.indkey::int2[]) with ordinality k (attnum, n) join pg_attribute a on a.attnum = k.attnum
        where i.indrelid = c.oid and a.attrelid = c.oid and k.n <= i.indnkeyatts
        and case c.relreplident when 'i' then i.indisreplident when 'd' then i.indisprimary else false end), '{}'),
    coalesce((select jsonb_agg(jsonb_build_array(pn.nspname, pc.relname) order by pn.nspname, pc.relname)
        from pg_partition_tree(c.oid) t join pg_class pc on pc.oid = t.relid
        join pg_namespace pn on pn.oid = pc.relnamespace where t.isleaf and pc.oid <> c.oid), '[]'),
    (select count(*)::int from pg_inherits h where h.inhparent = c.oid and c.relkind <> 'p')
from unnest(%(schemas)s::text[], %(names)s::text[]) with ordinality w (schema, name, n)
join pg_namespace s on s.nspname = w.schema
join pg_class c on c.relnamespace = s.oid and c.relname = w.name and c.relkind in ('r', 'p')
order by w.n
"""

_COLUMNS: Final = """
select a.attrelid::int8, a.attname::text, format_type(a.atttypid, a.atttypmod), t.oid::int8, t.typtype::text,
    t.typelem <> 0 and t.typsubscript = 'array_subscript_handler'::regproc,
    pn.nspname::text, p.proname::text, a.attnotnull, a.attgenerated::text, a.attidentity::text,
    pg_get_expr(d.adbin, d.adrelid)
from pg_attribute a
join pg_type t on t.oid = a.atttypid
left join pg_proc p on p.oid = t.typsend
left join pg_namespace pn on pn.oid = p.pronamespace
left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
where a.attrelid = any(%(oids)s::oid[]) and a.attnum > 0 and not a.attisdropped
order by a.attrelid, a.attname
"""


def _column(row: Sequence[object]) -> Column:
    _, name, type_name, oid, kind, is_array, send_schema, send, not_null, generated, identity, expression = (
        row
    )
    return Column(
        name=str(name),
        type_name=str(type_name),
        type_oid=int(str(oid)),
        type_kind=str(kind),
        is_array=bool(is_array),
        send=None if send is None else (str(send_schema), str(send)),
        not_null=bool(not_null),
        generated=str(generated),
        identity=str(identity),
        expression=None if expression is None else str(expression),
    )


def describe(pool: Pool, specs: Sequence[TenantTable]) -> tuple[Table, ...]:
    """The tables of `specs` that exist there, in that order."""
    found = pool.rows(_TABLES, {"schemas": [t.schema for t in specs], "names": [t.name for t in specs]})
    columns = pool.rows(_COLUMNS, {"oids": [row[1] for row in found]})
    tables = []
    for n, oid, kind, persistence, replica_identity, primary, identity, leaves, inherited_by in found:
        spec = specs[n - 1]
        tables.append(
            Table(
                spec=spec,
                oid=oid,
                kind=kind,
                persistence=persistence,
                replica_identity=replica_identity,
                columns=tuple(_column(c) for c in columns if c[0] == oid),
                key=tuple(primary or identity),
                identity=tuple(identity),
                leaves=tuple((s, t) for s, t in leaves) if kind == "p" else ((spec.schema, spec.name),),
                inherited_by=inherited_by,
            )
        )
    return tuple(tables)


def require(pool: Pool, specs: Sequence[TenantTable]) -> tuple[Table, ...]:
    """All of `specs`, or `StoreRefused` with the names of those that do not exist or have no key."""
    tables = describe(pool, specs)
    there = {t.spec for t in tables}
    missing = [s.collection for s in specs if s not in there]
    if missing:
        raise StoreRefused(
            f"{pool.where}: no such table: {', '.join(missing)}",
            hint="create the tables there, or correct the catalogue",
        )
    for table in tables:
        column = table.spec.tenant_column
        if not table.key or (column is not None and column not in {c.name for c in table.columns}):
            lacking = "" if column is None else f"no column {column!r} or "
            raise StoreRefused(
                f"{pool.where}: {table.collection} has {lacking}no primary key",
                hint="`tenure catalogue check` shows what the catalogue and the tables disagree on",
            )
    return tables


def digest(tables: Sequence[Table]) -> str:
    """Equal where the tables' columns, types, nullability and keys are equal."""
    text = "\n".join(
        f"{t.collection}\t{name}\t{about}"
        for t in sorted(tables, key=lambda t: t.collection)
        for name, about in sorted(t.description.items())
    )
    return hashlib.sha256(text.encode()).hexdigest()
