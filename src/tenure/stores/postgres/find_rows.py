"""Identifiers in the rows of one table, a range of its blocks at a time: no key is needed, nothing is read twice, and
the place to resume from is a number. The server looks for candidates, the matcher decides."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from psycopg import sql

from tenure.catalogue.guesses import table_entry
from tenure.model.matching import Match, needles
from tenure.model.names import TenantId
from tenure.model.search import TENANT_KIND, Coverage, Entry, Place, PlaceKind
from tenure.stores import bodies
from tenure.stores.contract import Pace
from tenure.stores.finds import Tally
from tenure.stores.postgres.contents import Column, Known, Relation
from tenure.stores.postgres.find_names import Database

FIRST_BLOCKS: Final = 64
MOST_BLOCKS: Final = 16_384
PAGE_S: Final = 0.5
SAMPLE_BLOCKS: Final = 16
"""A sample takes so many neighbouring blocks at a time; a table that is not larger is looked at as a whole."""
MOST_NEEDLES: Final = 96
"""More than so many are not given to the server: reading everything is faster than its search for them all."""
FEW_NEEDLES: Final = 16
BYTE_ARRAY: Final = "an array of bytes"
WORDS: Final = "".join(chr(c) for c in range(128) if chr(c).isalnum()) + "_.-"


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What the server looks for: a regular expression for texts and one for bytes in their escaped form; None where it
    gives every row. `parts` are the texts themselves, where they are so few that looking for each is faster."""

    text: str | None
    escaped: str | None
    parts: tuple[str, ...] = ()

    @classmethod
    def of(cls, tally: Tally) -> Filter:
        found = {needles(i) for i in tally.matcher.identifiers}
        flat = sorted({n for its in found for n in its})
        if not all(found) or len(flat) > MOST_NEEDLES:
            return cls(text=None, escaped=None)
        wide = [r"\\000".join(n) for n in sorted({its[0] for its in found})]
        return cls(
            text="|".join(map(re.escape, flat)),
            escaped="|".join([*map(re.escape, flat), *wide]),
            parts=tuple(flat) if len(flat) <= FEW_NEEDLES else (),
        )


class Rows:
    """The search in one relation. `entry` is what the catalogue could say of it, where it says nothing."""

    def __init__(self, database: Database, relation: Relation, tally: Tally, usual: Sequence[str]) -> None:
        self._database = database
        self._relation = relation
        self._tally = tally
        self._known: Known | None = database.chart.known(*relation.root)
        self._tenures = relation.schema in database.tenures
        self._filter = Filter.of(tally)
        values = [i.value for i in tally.matcher.identifiers]
        owner = (
            self._known.spec.tenant_column if self._known is not None and not self._known.ignored else None
        )
        self._owner = owner if owner in {c.name for c in relation.columns} else None
        self._columns = [
            c for c in relation.columns if c.may_hold(values) and c.name != self._owner and not _bytes(c)
        ]
        self._name = database.chart.name_of(*relation.root)
        self._entry = self._proposal(usual)
        self._tenants = sorted({i.tenant for i in tally.matcher.identifiers if i.kind == TENANT_KIND})
        self._only = self._tenants[0] if len(values) == len(self._tenants) == 1 else None

    def _proposal(self, usual: Sequence[str]) -> Entry:
        chart = self._database.chart
        owned = chart.schema_tenant(self._relation.root[0]) is not None
        return {
            "tables": {
                self._name: table_entry(
                    {c.name: c.type_name for c in self._relation.columns}, usual, owned=owned
                )
            }
        }

    def pages(self, start: int, pace: Pace, store: str) -> Iterator[int]:
        """Look at the blocks from `start` on; gives the block to go on at, after each page."""
        relation, tally = self._relation, self._tally
        for column in relation.columns:
            if _bytes(column) and start == 0:
                tally.skip(self._place(column.name), BYTE_ARRAY, items=relation.rows)
        if relation.filtered and start == 0:
            tally.skip(self._table, "row security hides rows from this login", items=0)
        at, blocks = start, FIRST_BLOCKS
        sampled = tally.search.sample is not None and relation.blocks > SAMPLE_BLOCKS
        while at < relation.blocks:
            if sampled:
                at -= at % SAMPLE_BLOCKS
                blocks = SAMPLE_BLOCKS
            end = min(at + blocks, relation.blocks)
            if not sampled or tally.chosen(f"{relation.filenode}:{at}"):
                began = time.monotonic()
                rows = self._range(at, end if end < relation.blocks else 1 << 32, store)
                size = relation.size_bytes * (end - at) // relation.blocks
                tally.looked(rows, size)
                pace(items=rows, size_bytes=size)
                took = time.monotonic() - began
                blocks = (
                    min(MOST_BLOCKS, blocks * 2)
                    if took < PAGE_S / 2
                    else max(1, blocks // 2)
                    if took > PAGE_S
                    else blocks
                )
                yield end
            at = end

    @property
    def _table(self) -> Place:
        return self._database.place(PlaceKind.TABLE, self._name)

    def _place(self, column: str) -> Place:
        return self._database.place(PlaceKind.COLUMN, self._tally.clean(f"{self._name}.{column}"))

    def _range(self, first: int, end: int, store: str) -> int:
        """Look at the rows in these blocks; return how many there are. The last block has no end: what was added since
        the size was asked for is there as well."""
        where = sql.SQL("ctid >= {}::tid and ctid < {}::tid").format(
            sql.Literal(f"({first},0)"), sql.Literal(f"({min(end, (1 << 32) - 1)},0)")
        )
        table = sql.SQL("from only {} r where ").format(
            sql.Identifier(self._relation.schema, self._relation.name)
        )
        pool = self._database.pool
        counted = pool.value(sql.SQL("select count(*) {}{}").format(table, where), {})
        if not counted:
            return 0
        self._own_rows(table, where, int(counted))
        if self._columns:
            with pool.connection() as connection, connection.cursor() as cursor:
                for row in cursor.stream(self._candidates(table, where), {}, size=100):
                    self._look(row, store)
        return int(counted)

    def _own_rows(self, table: sql.Composable, where: sql.Composable, counted: int) -> None:
        """The rows that are the tenants' by the catalogue, whatever is in them."""
        known, tally = self._known, self._tally
        if known is None or known.ignored or not self._tenants:
            return
        if known.tenant is not None:
            tally.own(known.tenant, self._table, counted)
        elif self._owner is not None:
            column = sql.Identifier("r", self._owner)
            query = sql.SQL("select {c}::text, count(*) {}{} and {c}::text = any({}) group by 1").format(
                table, where, sql.Literal(list(map(str, self._tenants))), c=column
            )
            for tenant, items in self._database.pool.rows(query, {}):
                tally.own(TenantId(tenant), self._place(self._owner), items)

    def _candidates(self, table: sql.Composable, where: sql.Composable) -> sql.Composed:
        shown: list[sql.Composable] = [
            sql.SQL("{}::text").format(sql.Identifier("r", self._owner))
            if self._owner
            else sql.SQL("null::text"),
            sql.SQL("r.ctid::text"),
        ]
        conditions = [self._condition(column) for column in self._columns]
        limit = sql.Literal(self._tally.search.body_limit_bytes)
        for column, condition in zip(self._columns, conditions, strict=True):
            beginning = "substring({v} from 1 for {n})" if column.is_bytes else "left({v}::text, {n})"
            length = "octet_length({v})" if column.is_bytes else "char_length({v}::text)"
            shown += [
                sql.SQL("case when {} then {} end").format(
                    condition, sql.SQL(beginning).format(v=sql.Identifier("r", column.name), n=limit)
                ),
                sql.SQL(length).format(v=sql.Identifier("r", column.name)),
            ]
        query = sql.SQL("select {} {}{} and ({})").format(
            sql.SQL(", ").join(shown), table, where, sql.SQL(" or ").join(conditions)
        )
        if self._only is not None and self._owner is not None:
            query += sql.SQL(" and {}::text is distinct from {}").format(
                sql.Identifier("r", self._owner), sql.Literal(str(self._only))
            )
        return query

    def _condition(self, column: Column) -> sql.Composed:
        value = sql.Identifier("r", column.name)
        if not column.is_bytes:
            if self._filter.text is None:
                return sql.SQL("{} is not null").format(value)
            # In the collation "C": others may not know such a search, or call different texts equal.
            text = sql.SQL('({}::text collate "C")').format(value)
            if self._filter.parts:
                parts = (
                    sql.SQL("strpos({}, {}) > 0").format(text, sql.Literal(n)) for n in self._filter.parts
                )
                return sql.SQL("({})").format(sql.SQL(" or ").join(parts))
            return sql.SQL("{} ~ {}").format(text, sql.Literal(self._filter.text))
        if self._filter.escaped is None:
            return sql.SQL("{} is not null").format(value)
        limit = self._tally.search.body_limit_bytes
        magics = sql.SQL(" or ").join(
            sql.SQL("substring({} from 1 for {}) = {}").format(value, sql.Literal(len(m)), sql.Literal(m))
            for m in bodies.MAGICS
        )
        return sql.SQL(
            "(octet_length({v}) > {} or {} or encode(substring({v} from 1 for {}), 'escape') ~ {})"
        ).format(sql.Literal(limit), magics, sql.Literal(limit), sql.Literal(self._filter.escaped), v=value)

    def _look(self, row: Sequence[Any], store: str) -> None:
        owner, ctid = row[0], row[1]
        tally, limit = self._tally, self._tally.search.body_limit_bytes
        for n, column in enumerate(self._columns):
            value, length = row[2 + 2 * n : 4 + 2 * n]
            if value is None:
                continue
            place = self._place(column.name)
            if column.is_bytes:
                reading = bodies.read(tally.matcher, bytes(value), size=length, limit=limit)
                matches = reading.matches
                for reason in reading.unseen:
                    tally.skip(place, reason)
            else:
                matches = tally.matcher.in_text(value if length <= limit else value.rstrip(WORDS))
                if length > limit:
                    tally.skip(place, bodies.TOO_LONG, size_bytes=length - limit)
            matches = frozenset(m for m in matches if not self._counted(m, owner))
            if matches:
                entry = {store: self._entry} if not self._database.label else self._elsewhere()
                tally.add(
                    matches, place, partial(self._coverage, owner=owner), item=f"row {ctid}", entry=entry
                )

    def _counted(self, match: Match, owner: str | None) -> bool:
        """Whether the row is the tenant's anyway, and counted as such."""
        whose = None if self._known is None or self._known.ignored else self._known.tenant or owner
        return match.identifier.kind == TENANT_KIND and match.identifier.tenant == whose

    def _elsewhere(self) -> dict[str, Entry]:
        """The entry of a store that the catalogue lacks altogether."""
        name = re.sub(r"[^a-z0-9_-]", "-", str(self._database.pool.database).lower()).strip("-_0123456789")[
            :31
        ]
        content = self._entry if isinstance(self._entry, dict) else {}
        return {name or "database": {"kind": "postgresql", **content}}

    def _coverage(self, tenant: TenantId, *, owner: str | None) -> Coverage:
        if self._tenures:
            return Coverage.TENURE
        known = self._known
        if known is None:
            return Coverage.UNDOCUMENTED
        if known.ignored:
            return Coverage.IGNORED
        whose = known.tenant or owner
        if whose == tenant:
            return Coverage.OWN
        return Coverage.NEIGHBOUR if whose is not None else Coverage.UNDOCUMENTED


def _bytes(column: Column) -> bool:
    return column.is_bytes and column.is_array
