"""A backup's stream beside the live rows: in a temporary table of the server, which compares and moves rows itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from psycopg import sql

from tenure.model.comparison import Difference, DifferenceKind
from tenure.model.names import TenantId
from tenure.stores.postgres import streams
from tenure.stores.postgres.compare import key_json
from tenure.stores.postgres.connect import Connection
from tenure.stores.postgres.tables import Table, TenantTable

PAGE: Final = 5_000
_CHECK: Final = """
select pg_get_expr(conbin, conrelid) from pg_constraint
where conrelid = %(oid)s::oid and conname = %(constraint)s and contype = 'c'
"""
_KINDS: Final = {"missing": DifferenceKind.MISSING, "extra": DifferenceKind.EXTRA}


@dataclass(frozen=True, kw_only=True)
class Staged:
    """One table's rows of a backup in a temporary table of a session. `live` is the table, cut down to the columns that
    the stream has; `columns` are these, in the stream's order."""

    connection: Connection
    live: Table
    columns: tuple[str, ...]
    name: str

    @property
    def rows(self) -> sql.Identifier:
        """The temporary table in a statement."""
        return sql.Identifier("pg_temp", self.name)

    @property
    def staged(self) -> Table:
        """The temporary table, as one whose rows are all the tenant's."""
        return replace(self.live, spec=TenantTable(schema="pg_temp", name=self.name))

    def beside(self, suffix: str) -> sql.Identifier:
        return sql.Identifier("pg_temp", f"{self.name}_{suffix}")

    def create(self, blocks: Iterable[bytes]) -> int:
        """Make the table and load the stream; return how many rows it has."""
        self.connection.execute(
            sql.SQL("create temporary table {} as select {} from {} with no data").format(
                sql.Identifier(self.name), streams.names_of(self.columns), self.live.spec.sql
            )
        )
        return streams.copy_in(self.connection, self.rows, self.columns, blocks)

    # -- comparing ---------------------------------------------------------------------------------------------------

    def differences(self, tenant: TenantId, keys: Sequence[str] | None) -> Iterator[Difference]:
        """What differs, by key; only of these keys, if any are given. Holds no transaction between pages."""
        self._keep("differences", self._differing(tenant, keys))
        after = 0
        while True:
            rows: list[Any] = self.connection.execute(
                sql.SQL(
                    "select n, kind, tenure_key from {} where n > %(after)s order by n limit %(page)s"
                ).format(self.beside("differences")),
                {"after": after, "page": PAGE},
            ).fetchall()
            for _, kind, key in rows:
                yield Difference(
                    collection=self.live.collection,
                    key=key_json(key),
                    kind=_KINDS.get(kind, DifferenceKind.MISMATCHED),
                )
            if len(rows) < PAGE:
                break
            after = rows[-1][0]
        self.connection.execute(sql.SQL("drop table {}").format(self.beside("differences")))

    def _keep(self, suffix: str, query: sql.Composable) -> None:
        self.connection.execute(
            sql.SQL("create temporary table {} as {}").format(sql.Identifier(f"{self.name}_{suffix}"), query)
        )

    def _differing(self, tenant: TenantId, keys: Sequence[str] | None) -> sql.Composed:
        if keys is None:
            only: sql.Composable = sql.SQL("true")
        else:
            self.begin_keys()
            self.add_keys(keys)
            only = sql.SQL("tenure_key in (select tenure_key from {})").format(self.beside("keys"))
        side = sql.SQL("select {}, {} as tenure_key, {} as tenure_hash from {} where {}")
        key = streams.names_of(self.live.key)
        staged = self.staged
        return sql.SQL(
            "select row_number() over (order by tenure_key) as n, * from ("
            "select case when there.tenure_key is null then 'missing' when here.tenure_key is null then 'extra'"
            " else 'mismatched' end as kind, coalesce(here.tenure_key, there.tenure_key) as tenure_key"
            " from ({here}) here full join ({there}) there using ({key})"
            " where here.tenure_hash is distinct from there.tenure_hash) d where {only}"
        ).format(
            here=side.format(key, staged.key_text, staged.row_hash, self.rows, sql.SQL("true")),
            there=side.format(
                key, self.live.key_text, self.live.row_hash, self.live.spec.sql, self.live.of_tenant(tenant)
            ),
            key=key,
            only=only,
        )

    def others_keys(self, tenant: TenantId, most: int) -> tuple[int, list[list[str]]]:
        """How many staged rows have keys that rows of other tenants have, and some of them."""
        match = sql.SQL(" and ").join(
            sql.SQL("r.{0} = s.{0}").format(sql.Identifier(k)) for k in self.live.key
        )
        rows: list[Any] = self.connection.execute(
            sql.SQL(
                "select {}, count(*) over () from {} s where exists"
                " (select from {} r where {} and not ({})) limit {}"
            ).format(
                self.staged.key_text,
                self.rows,
                self.live.spec.sql,
                match,
                self.live.of_tenant(tenant, "r"),
                sql.Literal(most),
            )
        ).fetchall()
        return (int(rows[0][1]), [row[0] for row in rows]) if rows else (0, [])

    # -- moving ------------------------------------------------------------------------------------------------------

    def begin_keys(self) -> None:
        """Have an empty table `keys`."""
        self.connection.execute(
            sql.SQL("create temporary table {} (tenure_key jsonb primary key)").format(
                sql.Identifier(f"{self.name}_keys")
            )
        )

    def add_keys(self, keys: Sequence[str]) -> None:
        """More keys of items to do, as `Difference.key` writes them."""
        self.connection.execute(
            sql.SQL(
                "insert into {} select k::jsonb from unnest(%(keys)s::text[]) k on conflict do nothing"
            ).format(self.beside("keys")),
            {"keys": list(keys)},
        )

    def chosen(self, row: str) -> sql.Composed:
        """The condition that a row of the live table is one of `keys`."""
        texts = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(row, k)) for k in self.live.key)
        return sql.SQL("jsonb_build_array({}) in (select tenure_key from {})").format(
            texts, self.beside("keys")
        )

    def replace_rows(self, tenant: TenantId) -> int:
        """Make the live rows of the table `keys` what is staged; return how many went, came or changed. Those that were
        there stay in the table `gone`, as they were."""
        live = self.live
        match = live.key_match("k", "r")
        self._keep(
            "gone",
            sql.SQL("select r.* from {} k join {} r on {} and {}").format(
                self.beside("keys"), live.spec.sql, match, live.of_tenant(tenant, "r")
            ),
        )
        deleted: list[Any] = self.connection.execute(
            sql.SQL("delete from {} r using {} k where {} and {} returning k.tenure_key").format(
                live.spec.sql, self.beside("keys"), match, live.of_tenant(tenant, "r")
            )
        ).fetchall()
        inserted = self._insert()
        return len({tuple(key) for (key,) in (*deleted, *inserted)})

    def _insert(self) -> list[Any]:
        """What only the live table has in its rows stays; rows that were not there get the defaults."""
        own = [c.name for c in self.live.unshared if not c.generated]
        chosen = sql.SQL("select {} from {} k join {} s on {}").format(
            _of("s", self.columns), self.beside("keys"), self.rows, self.live.key_match("k", "s")
        )
        into = sql.SQL("insert into {} ({}) overriding system value {} returning {}")
        text, live = self.live.key_text, self.live.spec.sql
        columns = streams.names_of(self.columns)
        if not own:
            return self.connection.execute(into.format(live, columns, chosen, text)).fetchall()
        key = streams.names_of(self.live.key)
        both = sql.SQL(" and ").join(
            sql.SQL("c.{0} = g.{0}").format(sql.Identifier(k)) for k in self.live.key
        )
        kept = sql.SQL("select {}, {} from ({}) c join {} g on {}").format(
            _of("c", self.columns), _of("g", own), chosen, self.beside("gone"), both
        )
        new = sql.SQL("select {} from ({}) c where ({}) not in (select {} from {})").format(
            columns, chosen, key, key, self.beside("gone")
        )
        wide = streams.names_of([*self.columns, *own])
        return [
            *self.connection.execute(into.format(live, wide, kept, text)).fetchall(),
            *self.connection.execute(into.format(live, columns, new, text)).fetchall(),
        ]

    # -- saying what is wrong ----------------------------------------------------------------------------------------

    def offenders(self, constraint: str | None, column: str | None, most: int) -> list[list[str]]:
        """Keys of chosen staged rows that break a check of the live table, or have no value in that column."""
        if column is not None:
            broken: sql.Composable = sql.SQL("s.{} is null").format(sql.Identifier(column))
        else:
            row = self.connection.execute(_CHECK, {"oid": self.live.oid, "constraint": constraint}).fetchone()
            if row is None:
                return []
            broken = sql.SQL("not ({})").format(sql.SQL(str(row[0])))
        rows: list[Any] = self.connection.execute(
            sql.SQL("select {} from {} s where {} and {} in (select tenure_key from {}) limit {}").format(
                self.staged.key_text,
                self.rows,
                broken,
                self.staged.key_text,
                self.beside("keys"),
                sql.Literal(most),
            )
        ).fetchall()
        return [row[0] for row in rows]


def _of(row: str, columns: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(row, c) for c in columns)
