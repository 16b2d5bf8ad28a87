"""How operations went, summed up per kind of route by the control database itself, from the journal's own rows.

What is read are the last operations of each kind of route, found by an index: the work does not grow with the journal.
"""

from __future__ import annotations

from typing import Any, Final, LiteralString

from tenure.errors import UnknownName
from tenure.model.record import OperationRecord, RouteKind, RouteRecord, Spread
from tenure.registry.database import Database, DictRow, class_row, dict_row

SUMMARY: Final[LiteralString] = """
    with routes as (
        select k.route_kind, first.at as initial_until
        from unnest(%(route_kinds)s::text[]) k (route_kind)
        cross join lateral (
            select max(f.finished_at) as at
            from (
                select o.finished_at
                from registry.operations o
                where o.kind = %(kind)s and o.route_kind = k.route_kind
                  and o.finished_at is not null and o.started_at is not null
                order by o.finished_at, o.id limit %(initial)s
            ) f
        ) first
    ), seen as (
        select r.*, %(initial)s = 0 or r.finished_at > routes.initial_until as judged
        from routes cross join lateral (
            select * from registry.records r
            where r.kind = %(kind)s and r.route_kind = routes.route_kind and r.finished_at is not null
            order by r.finished_at desc, r.id desc limit %(last)s
        ) r
        union all
        select r.*, true from registry.records r
        where r.kind = %(kind)s and r.route_kind = any(%(route_kinds)s::text[]) and r.outcome = 'stuck'
    )
    select
        routes.route_kind,
        count(seen.id) as number,
        count(*) filter (where outcome = 'succeeded') as succeeded,
        count(*) filter (where outcome = 'rolled_back') as rolled_back,
        count(*) filter (where outcome = 'aborted') as aborted,
        count(*) filter (where outcome = 'failed') as failed,
        count(*) filter (where outcome = 'stuck') as stuck,
        count(*) filter (where judged) as judged,
        count(*) filter (where judged and outcome = 'succeeded') as judged_succeeded,
        percentile_cont(array[0.5, 0.95]) within group (order by attempts) as attempts,
        percentile_cont(array[0.5, 0.95]) within group (order by duration_s)
            filter (where outcome in ('succeeded', 'rolled_back')) as duration_s,
        percentile_cont(array[0.5, 0.95]) within group (order by hold_ms) as hold_ms,
        percentile_cont(array[0.5, 0.95]) within group (order by cost)
            filter (where currency = %(currency)s) as cost,
        percentile_cont(0.5) within group (order by duration_s / nullif(estimated_s, 0))
            filter (where outcome in ('succeeded', 'rolled_back')) as stretch,
        (
            select percentile_cont(array[0.5, 0.95]) within group (order by back.switched_after_s)
            from (
                select r.switched_after_s from registry.records r
                where r.kind = 'rollback' and r.route_kind = routes.route_kind and r.finished_at is not null
                order by r.finished_at desc, r.id desc limit %(last)s
            ) back
        ) as rollback_s
    from routes left join seen using (route_kind)
    group by routes.route_kind
    order by array_position(%(route_kinds)s::text[], routes.route_kind)
"""


class Records:
    """Reads the success record. Operations from before it was kept, and those that never began, are not in it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def routes(
        self,
        kind: str,
        *,
        last: int,
        initial: int = 0,
        currency: str | None = None,
        route_kinds: tuple[RouteKind, ...] = tuple(RouteKind),
    ) -> tuple[RouteRecord, ...]:
        """Sum up the last `last` operations of that kind on each kind of route, those that are stuck besides.

        The first `initial` ones there ever were on a kind of route are not judged. Costs count in `currency` only.
        """
        given = {
            "kind": kind,
            "last": last,
            "initial": initial,
            "currency": currency,
            "route_kinds": [k.value for k in route_kinds],
        }
        with self._database.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(SUMMARY, given)
            return tuple(_route(row, kind, currency) for row in cursor)

    def of(self, operation: str) -> OperationRecord:
        """Give one operation's record; `UnknownName` for one that has not begun."""
        with (
            self._database.connection() as connection,
            connection.cursor(row_factory=class_row(OperationRecord)) as cursor,
        ):
            cursor.execute(
                """
                select id, kind, tenant, outcome, finished_at, duration_s, hold_ms, cost, currency, attempts
                from registry.records where id = %s
                """,
                (operation,),
            )
            found = cursor.fetchone()
        if found is None:
            raise UnknownName(f"no operation {operation} has begun", hint="`tenure op list` shows them")
        return found


def _route(row: DictRow, kind: str, currency: str | None) -> RouteRecord:
    made: dict[str, Any] = {
        name: _spread(row[name]) for name in ("attempts", "duration_s", "hold_ms", "rollback_s", "cost")
    }
    return RouteRecord(
        **{**row, **made, "route_kind": RouteKind(row["route_kind"])}, kind=kind, currency=currency
    )


def _spread(found: list[float] | None) -> Spread | None:
    return None if found is None or found[0] is None else Spread(p50=found[0], p95=found[1])
