"""The rules that a database's tables have for their rows (constraints, and which columns must have a value), and which
rows of another database would break them: by their keys, so that somebody can mend them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from psycopg import errors, sql

from tenure.errors import StoreRefused
from tenure.stores.postgres.connect import Pool
from tenure.stores.postgres.tables import Table, TenantTable, describe

NAMED: Final = 20
"""Of the rows that break a rule, so many are named; all are counted."""

_CHECKS: Final = """
select k.conrelid::int8, k.conname::text, pg_get_expr(k.conbin, k.conrelid)
from pg_constraint k where k.contype = 'c' and k.conrelid = any(%(oids)s::oid[]) order by 1, 2
"""
_UNIQUE: Final = """
select i.indrelid::int8, c.relname::text, i.indnullsnotdistinct,
    array(select a.attname::text from unnest(i.indkey::int2[]) with ordinality u (attnum, n)
        join pg_attribute a on a.attrelid = i.indrelid and a.attnum = u.attnum where u.n <= i.indnkeyatts order by u.n)
from pg_index i join pg_class c on c.oid = i.indexrelid
where i.indisunique and i.indpred is null and i.indexprs is null and i.indrelid = any(%(oids)s::oid[]) order by 1, 2
"""
_FOREIGN: Final = """
select k.conrelid::int8, k.conname::text, n.nspname::text, p.relname::text, k.confmatchtype = 'f',
    array(select a.attname::text from unnest(k.conkey) with ordinality u (attnum, n)
        join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.attnum order by u.n),
    array(select a.attname::text from unnest(k.confkey) with ordinality u (attnum, n)
        join pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.attnum order by u.n)
from pg_constraint k join pg_class p on p.oid = k.confrelid join pg_namespace n on n.oid = p.relnamespace
where k.contype = 'f' and k.conparentid = 0 and k.conrelid = any(%(oids)s::oid[]) order by 1, 2
"""


class RuleKind(StrEnum):
    CHECK = "check"
    NOT_NULL = "not null"
    UNIQUE = "unique"
    FOREIGN_KEY = "foreign key"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule of a table. `expression` is a check's; `parent` what a foreign key refers to."""

    kind: RuleKind
    name: str
    table: TenantTable
    columns: tuple[str, ...] = ()
    expression: str = ""
    parent: TenantTable | None = None
    parent_columns: tuple[str, ...] = ()
    nulls_equal: bool = False

    def __str__(self) -> str:
        told = f"{self.table.collection}: {self.kind} {self.name}".rstrip()
        if self.kind is RuleKind.CHECK:
            return f"{told} ({self.expression})"
        if self.parent is not None:
            return f"{told} ({', '.join(self.columns)}) to {self.parent.collection}"
        return f"{told} ({', '.join(self.columns)})"


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A rule that rows do not keep: how many, and the keys of the first of them as JSON."""

    rule: Rule
    rows: int
    keys: tuple[str, ...]

    def __str__(self) -> str:
        more = f" and {self.rows - len(self.keys)} more" if self.rows > len(self.keys) else ""
        return f"{self.rows} rows break {self.rule}: {', '.join(self.keys)}{more}"


def rules_of(pool: Pool, specs: Sequence[TenantTable]) -> tuple[Rule, ...]:
    """The rules of these tables, as that database has them."""
    tables = {t.oid: t for t in describe(pool, specs)}
    given = {"oids": list(tables)}
    found = [
        Rule(kind=RuleKind.NOT_NULL, name="", table=t.spec, columns=(c.name,))
        for t in tables.values()
        for c in t.columns
        if c.not_null
    ]
    found += [
        Rule(kind=RuleKind.CHECK, name=name, table=tables[oid].spec, expression=expression)
        for oid, name, expression in pool.rows(_CHECKS, given)
    ]
    found += [
        Rule(
            kind=RuleKind.UNIQUE,
            name=name,
            table=tables[oid].spec,
            columns=tuple(columns),
            nulls_equal=nulls_equal,
        )
        for oid, name, nulls_equal, columns in pool.rows(_UNIQUE, given)
    ]
    for oid, name, schema, parent, _full, columns, parent_columns in pool.rows(_FOREIGN, given):
        found.append(
            Rule(
                kind=RuleKind.FOREIGN_KEY,
                name=name,
                table=tables[oid].spec,
                columns=tuple(columns),
                parent=TenantTable(schema=schema, name=parent),
                parent_columns=tuple(parent_columns),
            )
        )
    return tuple(found)


def broken(pool: Pool, rules: Sequence[Rule]) -> Iterator[Broken]:
    """Which of these rules the rows of this database do not keep.

    A rule about columns, tables or types that are not there, or not yet, is passed over. So is a foreign key into a
    table that is no tenant's: the scratch database does not have its rows.
    """
    known = {t.collection: t for t in describe(pool, sorted({r.table for r in rules}))}
    for rule in rules:
        table = known.get(rule.table.collection)
        if table is None or not set(rule.columns) <= {c.name for c in table.columns}:
            continue
        if rule.parent is not None and rule.parent.collection not in known:
            continue
        condition = _breaks(rule)
        try:
            rows = int(pool.value(_count(rule, condition)))
            if rows:
                keys = pool.rows(_named(rule, table, condition))
                yield Broken(rule=rule, rows=rows, keys=tuple(str(key) for (key,) in keys))
        except StoreRefused as error:
            if not isinstance(error.__cause__, _NOT_YET):
                raise


_NOT_YET: Final = (
    errors.UndefinedColumn,
    errors.UndefinedFunction,
    errors.UndefinedTable,
    errors.UndefinedObject,
)


def _count(rule: Rule, condition: sql.Composable) -> sql.Composed:
    return sql.SQL("select count(*) from {} c where {}").format(rule.table.sql, condition)


def _named(rule: Rule, table: Table, condition: sql.Composable) -> sql.Composed:
    """The keys of the first rows that break it, in the form in which comparisons name rows."""
    key = table.key_text if table.key else sql.SQL("to_jsonb(c)")
    order = sql.SQL(", ").join(sql.Identifier("c", name) for name in table.key) if table.key else sql.SQL("1")
    return sql.SQL("select ({})::text from {} c where {} order by {} limit {}").format(
        key, rule.table.sql, condition, order, sql.Literal(NAMED)
    )


def _breaks(rule: Rule) -> sql.Composed:
    """The condition that a row `c` breaks the rule."""
    columns = [sql.Identifier("c", name) for name in rule.columns]
    match rule.kind:
        case RuleKind.CHECK:
            return sql.SQL("({}) is false").format(sql.SQL(_spelled(rule.expression)))
        case RuleKind.NOT_NULL:
            return sql.SQL("{} is null").format(columns[0])
        case RuleKind.UNIQUE:
            same = "is not distinct from" if rule.nulls_equal else "="
            equal = sql.SQL(" and ").join(
                sql.SQL("{} {} {}").format(sql.Identifier("o", name), sql.SQL(same), mine)
                for name, mine in zip(rule.columns, columns, strict=True)
            )
            return sql.SQL(
                "exists (select from {} o where {} and (o.tableoid, o.ctid) <> (c.tableoid, c.ctid))"
            ).format(rule.table.sql, equal)
        case RuleKind.FOREIGN_KEY:
            assert rule.parent is not None
            match = sql.SQL(" and ").join(
                sql.SQL("p.{} = {}").format(sql.Identifier(theirs), mine)
                for theirs, mine in zip(rule.parent_columns, columns, strict=True)
            )
            present = sql.SQL(" and ").join(sql.SQL("{} is not null").format(mine) for mine in columns)
            return sql.SQL("{} and not exists (select from {} p where {})").format(
                present, rule.parent.sql, match
            )


def _spelled(expression: str) -> str:
    """An expression as the server's own `pg_get_expr` wrote it: safe to put into a statement as it is."""
    return expression


def unlike(pairs: Sequence[tuple[Table, Table]]) -> list[str]:
    """What tables and the live ones that they are to be like disagree on, in words."""
    found = []
    for table, live in pairs:
        here, there = table.description, live.description
        found += [
            f"{table.collection}, {item}: {here.get(item) or 'absent'}, live {there.get(item) or 'absent'}"
            for item in sorted(here.keys() | there.keys())
            if here.get(item) != there.get(item)
        ]
    return found
