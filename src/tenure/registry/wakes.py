"""Which operations somebody should be told to look at: what is due and has been left lying, and who was told already.

Both functions work within a transaction of the leader's session. Telling twice does no harm.
"""

from __future__ import annotations

from collections.abc import Sequence

from tenure.model.operation import Operation
from tenure.registry.database import Connection, TupleRow, dict_row
from tenure.registry.operations import operation_of


def lying(
    connection: Connection[TupleRow], *, quiet_s: float, again_after_s: float, limit: int
) -> tuple[Operation, ...]:
    """The operations that are due and at which nothing has happened for `quiet_s`, the oldest first.

    One at which nothing has happened since it was woken is left out for `again_after_s`. Notes of operations that have
    ended are forgotten.
    """
    connection.execute(
        "delete from registry.wakes w using registry.operations o where o.id = w.operation and not o.active"
    )
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            """
            select o.* from registry.due d join registry.operations o on o.id = d.operation
            left join registry.wakes w on w.operation = d.operation and w.at > d.since
                and w.at > clock_timestamp() - make_interval(secs => %(again_after_s)s)
            where w.operation is null and d.admitted
                and d.since <= clock_timestamp() - make_interval(secs => %(quiet_s)s)
            order by d.since limit %(limit)s
            """,
            {"quiet_s": quiet_s, "again_after_s": again_after_s, "limit": limit},
        )
        return tuple(operation_of(row) for row in cursor)


def note(connection: Connection[TupleRow], woken: Sequence[str]) -> None:
    """Note that these operations were woken now."""
    connection.execute(
        """
        insert into registry.wakes (operation) select unnest(%s::text[])
        on conflict (operation) do update set at = clock_timestamp()
        """,
        (list(woken),),
    )
