"""Foreign keys that do not hold after rows came past them: sessions that write as replication does check none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from psycopg import sql

from tenure.errors import StoreRefused
from tenure.model.names import TenantId
from tenure.stores.postgres.connect import Connection, Pool
from tenure.stores.postgres.references import ForeignKey
from tenure.stores.postgres.tables import Table

NAMED: Final = 5


def references(
    connection: Connection,
    keys: Sequence[ForeignKey],
    tables: Mapping[str, Table],
    tenant: TenantId,
    *,
    among: Mapping[str, sql.Composable] | None = None,
) -> Iterator[str]:
    """Rows of the tenant in these tables that refer to what does not exist, each foreign key in a sentence. `among`:
    only rows `c` for which that condition of their table holds."""
    for key in keys:
        child = tables.get(key.child)
        if child is None or (among is not None and key.child not in among):
            continue
        only = sql.SQL("true") if among is None else among[key.child]
        condition = sql.SQL("{} and {} and {}").format(child.of_tenant(tenant, "c"), only, key.present)
        yield from _said(connection, key, child.spec.sql, condition)


def referring(
    connection: Connection, keys: Sequence[ForeignKey], gone: Mapping[str, sql.Composable]
) -> Iterator[str]:
    """Rows of any table that refer to rows which were there before, and are no more. `gone`: by table, a relation that
    holds these rows as they were."""
    for key in keys:
        if key.parent in gone:
            condition = sql.SQL("{} and exists (select from {} p where {})").format(
                key.present, gone[key.parent], _match(key)
            )
            yield from _said(connection, key, sql.Identifier(*key.child_relation), condition)


def _said(
    connection: Connection, key: ForeignKey, child: sql.Composable, condition: sql.Composable
) -> Iterator[str]:
    values = sql.SQL(", ").join(sql.SQL("c.{}::text").format(sql.Identifier(n)) for n in key.child_columns)
    statement = sql.SQL(
        "select array[{}], count(*), sum(count(*)) over () from {} c where {} and not exists"
        " (select from {} p where {}) group by 1 order by 1 limit {}"
    ).format(values, child, condition, sql.Identifier(*key.parent_relation), _match(key), sql.Literal(NAMED))
    found: list[Any] = connection.execute(statement).fetchall()
    if found:
        named = ", ".join("(" + ", ".join(row[0]) + ")" for row in found)
        yield (
            f"{found[0][2]} rows of {key.child} refer ({key.name}) to rows of {key.parent} that do not exist:"
            f" ({', '.join(key.child_columns)}) = {named}"
        )


def _match(key: ForeignKey) -> sql.Composed:
    return sql.SQL(" and ").join(
        sql.SQL("p.{} = c.{}").format(sql.Identifier(theirs), sql.Identifier(mine))
        for mine, theirs in zip(key.child_columns, key.parent_columns, strict=True)
    )


def refuse(pool: Pool, said: Sequence[str]) -> None:
    """Raise `StoreRefused` with all of it, if there is anything."""
    if said:
        raise StoreRefused(
            f"{pool.where}: what the backup holds does not fit: " + "; ".join(said),
            hint="restore the tables that these rows refer to as well, or bring the missing rows there first",
        )
