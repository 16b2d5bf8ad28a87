"""The tenants' tables as a server describes them: columns, keys, partitions, and the SQL that follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from psycopg import sql

from tenure.catalogue import QualifiedName
from tenure.catalogue.patterns import PLACEHOLDER, Template
from tenure.errors import StoreRefused
from tenure.model.names import TenantId
from tenure.stores.postgres.connect import Pool

# Key types whose text form depends on no setting: a writer's session and ours write the same key.
SETTLED_KEY_TYPES: Final = frozenset(
    ("bigint", "integer", "smallint", "text", "uuid", "boolean", "numeric", "oid", "character varying")
)
_FIRST_USER_OID: Final = 16384
_HASHED_BYTE_BY_BYTE: Final = frozenset((25, 1043))
"""`text` and `character varying`, with the collation "C"."""


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
        """The name as the catalogue writes it, so that no two tables have the same one, dots in them or not."""
        return collection_of(self.schema, self.name)

    @property
    def sql(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)


def collection_of(schema: str, name: str) -> str:
    """A table's name in messages, comparisons and the catalogue."""
    return str(QualifiedName(schema=schema, name=name))


@dataclass(frozen=True, kw_only=True)
class Column:
    """`type_name` is the server's own spelling with modifiers; `send` the type's binary output function, if any;
    `expression` its default, or what it is generated from."""

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
    def fills_itself(self) -> bool:
        """A row that says nothing about this column can be inserted."""
        return bool(not self.not_null or self.generated or self.identity or self.expression)

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
class Relation:
    """A table or partition, and what of an old row the server's log holds: `f`ull, `d`efault, `i`ndex, `n`othing."""

    name: tuple[str, str]
    leaf: bool
    """Rows are stored in it."""
    replica_identity: str
    identity: tuple[str, ...]

    def logs(self, column: str | None) -> bool:
        """Whether that column of an old row, or with None anything that tells the row, is in the log."""
        wanted = bool(self.identity) if column is None else column in self.identity
        return self.replica_identity == "f" or wanted


@dataclass(frozen=True, kw_only=True)
class Table:
    """One tenant table on one server. `key` is the primary key, or else the replica identity's columns."""

    spec: TenantTable
    oid: int
    kind: str
    persistence: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    relations: tuple[Relation, ...]
    """Its leaf partitions, if it has any, and last the table itself."""
    inherited_by: int
    unshared: tuple[Column, ...] = ()
    """Columns that the other cell's table does not have: neither copied, nor compared, nor published."""

    @property
    def collection(self) -> str:
        return self.spec.collection

    @property
    def row_image(self) -> frozenset[str] | None:
        """The columns of an old row that a publication of this table marks as its identity; None for all of them."""
        return None if self.relations[-1].replica_identity == "f" else frozenset(self.relations[-1].identity)

    def needs(self, relation: Relation) -> frozenset[str]:
        """The columns by which a row that arrives for `relation` is looked up there."""
        return frozenset(relation.identity or self.key)

    @property
    def pickable(self) -> bool:
        """Whether the tenant's rows can be asked for: what the catalogue calls the tenant column is there."""
        column = self.spec.tenant_column
        return column is None or any(c.name == column for c in self.columns)

    @property
    def partitioned(self) -> bool:
        return self.kind == "p"

    @property
    def leaves(self) -> tuple[tuple[str, str], ...]:
        return tuple(r.name for r in self.relations if r.leaf)

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
            f"{f' generated from {c.expression}' if c.generated else ''}"
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
        """What a publication of the tenant's rows says of this table.

        A list of columns only where the other cell lacks some: without one, columns that are added on both sides while
        the link exists are carried as well.
        """
        said: list[sql.Composable] = [self.spec.sql]
        if self.unshared:
            columns = sql.SQL(", ").join(sql.Identifier(c.name) for c in self.stored)
            said.append(sql.SQL(" ({})").format(columns))
        if self.spec.tenant_column is not None:
            said.append(sql.SQL(" where ({})").format(self.of_tenant(tenant)))
        return sql.Composed(said)

    @property
    def row_hash(self) -> sql.Composed:
        """A 64-bit hash over every byte of the row's values.

        Texts are hashed where they are, which takes an eighth less than copying them, everything else in its binary
        form: the types' own hashes call -0.0 and 0.0, or 1.0 and 1.00, the same, and fold 64 bits into 32. The whole is
        hashed once more, because a record's hash is linear in its columns': a sum of those over rows would not see two
        values change places.
        """
        as_they_are = [c for c in self.stored if c.type_oid in _HASHED_BYTE_BY_BYTE]
        others = [c.exact for c in self.stored if c.type_oid not in _HASHED_BYTE_BY_BYTE]
        parts: list[sql.Composable] = [
            sql.SQL('{} collate "C"').format(sql.Identifier(c.name)) for c in as_they_are
        ]
        if others:
            parts.append(sql.SQL("record_send(row({}))").format(sql.SQL(", ").join(others)))
        whole = sql.SQL("hash_record_extended(row({}), 0)").format(sql.SQL(", ").join(parts))
        if not as_they_are:
            return whole
        return sql.SQL("hash_record_extended(row(int8send({})), 0)").format(whole)

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
        """`key_text` of such parameters as an array, where neither the settings nor the search path are ours."""
        texts = (
            sql.SQL("{}::pg_catalog.text" if self._settled(name) else "tenure.plain({})").format(
                sql.Identifier(f"{prefix}{n}")
            )
            for n, name in enumerate(self.key)
        )
        return sql.SQL("array[{}]").format(sql.SQL(", ").join(texts))

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
select w.n, c.oid::int8, c.relkind::text, c.relpersistence::text,
    coalesce((select array_agg(a.attname::text order by k.n) from pg_index i,
        unnest(i.indkey::int2[]) with ordinality k (attnum, n) join pg_attribute a on a.attnum = k.attnum
        where i.indrelid = c.oid and i.indisprimary and a.attrelid = c.oid), '{}'),
    coalesce((select array_agg(a.attname::text order by k.n) from pg_index i,
        unnest(i.indkey::int2[]) with ordinality k (attnum, n) join pg_attribute a on a.attnum = k.attnum
        where i.indrelid = c.oid and a.attrelid = c.oid and k.n <= i.indnkeyatts
        and case c.relreplident when 'i' then i.indisreplident when 'd' then i.indisprimary else false end), '{}'),
    (select count(*)::int from pg_inherits h where h.inhparent = c.oid and c.relkind <> 'p')
from unnest(%(schemas)s::text[], %(names)s::text[]) with ordinality w (schema, name, n)
join pg_namespace s on s.nspname = w.schema
join pg_class c on c.relnamespace = s.oid and c.relname = w.name and c.relkind in ('r', 'p')
order by w.n
"""

_RELATIONS: Final = """
select r.oid::int8, n.nspname::text, c.relname::text, c.relkind <> 'p', c.relreplident::text,
    coalesce((select array_agg(a.attname::text order by k.n) from pg_index i,
        unnest(i.indkey::int2[]) with ordinality k (attnum, n) join pg_attribute a on a.attnum = k.attnum
        where i.indrelid = c.oid and a.attrelid = c.oid and k.n <= i.indnkeyatts
        and case c.relreplident when 'i' then i.indisreplident when 'd' then i.indisprimary else false end), '{}')
from unnest(%(oids)s::oid[]) r (oid)
cross join lateral (
    select r.oid as relation union select t.relid from pg_partition_tree(r.oid) t where t.isleaf
) l
join pg_class c on c.oid = l.relation join pg_namespace n on n.oid = c.relnamespace
order by 1, c.oid = r.oid, 2, 3
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
    oids = [row[1] for row in found]
    columns = pool.rows(_COLUMNS, {"oids": oids})
    relations = pool.rows(_RELATIONS, {"oids": oids})
    return tuple(
        Table(
            spec=specs[n - 1],
            oid=oid,
            kind=kind,
            persistence=persistence,
            columns=tuple(_column(c) for c in columns if c[0] == oid),
            key=tuple(primary or identity),
            relations=tuple(
                Relation(name=(schema, name), leaf=leaf, replica_identity=logged, identity=tuple(identity_of))
                for root, schema, name, leaf, logged, identity_of in relations
                if root == oid
            ),
            inherited_by=inherited_by,
        )
        for n, oid, kind, persistence, primary, identity, inherited_by in found
    )


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


def describe_all(tables: Sequence[Table]) -> dict[str, str]:
    """What must not change in any of these tables during a move, by table and item."""
    return {f"{t.collection}, {item}": about for t in tables for item, about in t.description.items()}


@dataclass(frozen=True, kw_only=True)
class Gap:
    """One item in which a table differs between two cells. A move goes on over it only without an `obstacle`."""

    item: str
    here: str
    there: str
    column: Column | None
    """The column, where one side has it and the other has not."""
    obstacle: str

    def __str__(self) -> str:
        return f"{self.item}: {self.here or 'absent'} here, {self.there or 'absent'} there"


def gaps(here: Table, there: Table) -> list[Gap]:
    """Every item in which the two differ.

    Of a column that one side alone has, nothing is copied: its rows get the default when they arrive, and keep what
    they have when they change. That works if the column fills itself and is in no row image that replication needs.
    """
    mine, theirs = here.description, there.description
    found = []
    for item in sorted(mine.keys() | theirs.keys()):
        if mine.get(item) == theirs.get(item):
            continue
        column, obstacle = None, "the two must be the same"
        if item not in mine or item not in theirs:
            newer = here if item in mine else there
            column = newer.column(item.removeprefix("column "))
            obstacle = _obstacle(newer, column)
        found.append(
            Gap(
                item=item,
                here=mine.get(item, ""),
                there=theirs.get(item, ""),
                column=column,
                obstacle=obstacle,
            )
        )
    return found


def _obstacle(newer: Table, column: Column) -> str:
    if not column.fills_itself:
        return "rows that come from the other cell would have no value for it"
    if any(r.replica_identity == "f" for r in newer.relations):
        return "with REPLICA IDENTITY FULL the way back would have to carry it, and the other cell cannot take it"
    if any(column.name in r.identity for r in newer.relations):
        return "it is part of the replica identity, so the way back would have to carry it"
    return ""


def shared(table: Table, other: Table) -> Table:
    """`table` with the columns that `other` has as well."""
    names = {c.name for c in other.columns}
    return replace(
        table,
        columns=tuple(c for c in table.columns if c.name in names),
        unshared=tuple(c for c in table.columns if c.name not in names),
    )


def in_both(specs: Sequence[TenantTable], others: Sequence[TenantTable]) -> tuple[TenantTable, ...]:
    """Those of `specs` that the catalogue has in the other cell as well."""
    known = set(others)
    return tuple(spec for spec in specs if spec in known)


def shared_tables(tables: Sequence[Table], others: Sequence[Table]) -> tuple[Table, ...]:
    """As `shared`, table by table, matched by name."""
    by_name = {t.collection: t for t in others}
    return tuple(shared(t, by_name[t.collection]) for t in tables)
