"""The journal: what happened, in order, never changed afterwards.

Events become visible in the order of their `seq`, so `since` of the last one read misses none.
"""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event as Signal

from tenure.model.names import TenantId
from tenure.model.operation import Event, JsonObject, Lease
from tenure.registry.database import Connection, Database, DictRow, TupleRow, dict_row
from tenure.registry.document import document
from tenure.registry.leases import held

_BATCH = 1000


def append(
    connection: Connection[TupleRow],
    action: str,
    *,
    actor: str,
    operation: str | None = None,
    tenant: str | None = None,
    data: JsonObject | None = None,
    age_s: float = 0.0,
) -> int:
    """Write an event within the caller's transaction and return its `seq`. `age_s` is how long ago it happened.

    No other event can be written until the transaction ends: end it at once.
    """
    row = connection.execute(
        """
        insert into registry.events (operation, tenant, actor, action, data, at)
        values (%(operation)s, %(tenant)s, %(actor)s, %(action)s, %(data)s,
                clock_timestamp() - make_interval(secs => %(age_s)s))
        returning seq
        """,
        {
            "operation": operation,
            "tenant": tenant,
            "actor": actor,
            "action": action,
            "data": document(data or {}),
            "age_s": age_s,
        },
    ).fetchone()
    return int(row[0]) if row else 0


class Events:
    """Writes and reads the journal."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(
        self,
        action: str,
        *,
        actor: str,
        operation: str | None = None,
        tenant: str | None = None,
        data: JsonObject | None = None,
        lease: Lease | None = None,
        age_s: float = 0.0,
    ) -> int:
        """Write one event and return its `seq`. With a `lease` only if that is still held: `LeaseLost` otherwise."""
        with held(self._database, lease) as connection:
            return append(
                connection,
                action,
                actor=actor,
                operation=lease.operation if lease else operation,
                tenant=tenant,
                data=data,
                age_s=age_s,
            )

    def list(
        self, *, operation: str | None = None, tenant: str | None = None, since: int = 0, limit: int = 10_000
    ) -> tuple[Event, ...]:
        """List events in their order, those after number `since`, of one operation or tenant or of all."""
        with self._database.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(
                """
                select seq, at, operation, tenant, actor, action, data from registry.events
                where seq > %(since)s
                  and (%(operation)s::text is null or operation = %(operation)s)
                  and (%(tenant)s::text is null or tenant = %(tenant)s)
                order by seq limit %(limit)s
                """,
                {"since": since, "operation": operation, "tenant": tenant, "limit": limit},
            )
            return tuple(_event(row) for row in cursor)

    def last(self) -> int:
        """Say the number of the newest event, 0 if there is none: what to `follow` from to see only what is new."""
        with self._database.connection() as connection:
            row = connection.execute("select coalesce(max(seq), 0) from registry.events").fetchone()
        return int(row[0]) if row else 0

    def follow(
        self,
        *,
        since: int = 0,
        operation: str | None = None,
        tenant: str | None = None,
        poll_s: float = 1.0,
        stop: Signal | None = None,
    ) -> Iterator[Event]:
        """Yield events after `since` as they come, until `stop` is set (noticed within `poll_s`) or the
        caller stops.

        New ones are announced by the database; polling covers a lost announcement. Raises `StoreUnavailable`
        when the connection is lost: go on with `since` of the last event.
        """
        with self._database.dedicated() as connection:
            connection.execute("listen tenure_events")
            while stop is None or not stop.is_set():
                batch = self.list(operation=operation, tenant=tenant, since=since, limit=_BATCH)
                for event in batch:
                    since = event.seq
                    yield event
                if len(batch) < _BATCH:
                    for _ in connection.notifies(timeout=poll_s, stop_after=1):
                        pass


def _event(row: DictRow) -> Event:
    return Event(
        seq=row["seq"],
        at=row["at"],
        operation=row["operation"],
        tenant=TenantId(row["tenant"]) if row["tenant"] is not None else None,
        actor=row["actor"],
        action=row["action"],
        data=row["data"],
    )
