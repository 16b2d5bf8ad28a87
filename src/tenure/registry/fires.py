"""The fire times of schedules: each is dealt with once, in the transaction that inserts its operations, or is noted as
missed.

Every function works within a transaction of the leader's session (`Election.transaction`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from tenure.model.names import TenantId
from tenure.model.operation import JsonObject, Operation
from tenure.registry import events, operations
from tenure.registry.database import Connection, TupleRow

KEPT: Final = timedelta(days=30)
"""How long fire times are kept; the newest one of a schedule always is."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """An operation that a schedule asks for."""

    kind: str
    tenant: TenantId
    steps: tuple[str, ...]
    request: JsonObject


@dataclass(frozen=True, kw_only=True)
class Clock:
    """The database's time, and the newest fire time that was dealt with."""

    now: datetime
    last: datetime | None


def look(connection: Connection[TupleRow], schedule: str) -> Clock:
    """The time by the database's clock: those of the hosts do not matter."""
    row = connection.execute(
        "select clock_timestamp(), (select max(fire_at) from registry.fires where schedule = %s)", (schedule,)
    ).fetchone()
    assert row is not None
    return Clock(now=row[0], last=row[1])


def note_missed(
    connection: Connection[TupleRow], schedule: str, missed: Sequence[datetime], *, term: int, actor: str
) -> None:
    """Note fire times at which nothing was done and nothing will be; one event tells of all of them. Idempotent."""
    noted = connection.execute(
        """
        insert into registry.fires (schedule, fire_at, missed, term)
        select %s, unnest(%s::timestamptz[]), true, %s on conflict do nothing
        """,
        (schedule, list(missed), term),
    ).rowcount
    if noted:
        told = {"schedule": schedule, "count": noted, "first": missed[0], "last": missed[-1]}
        events.append(connection, "fires_missed", actor=actor, data=told)


def fire(
    connection: Connection[TupleRow],
    schedule: str,
    fire_at: datetime,
    wanted: Sequence[Wanted],
    *,
    term: int,
    actor: str,
) -> tuple[Operation, ...] | None:
    """Insert what the schedule wants at that time; None, and nothing is inserted, if that was done before.

    A tenant that is in another operation gets none.
    """
    first = connection.execute(
        """
        insert into registry.fires (schedule, fire_at, missed, term) values (%s, %s, false, %s)
        on conflict do nothing returning true
        """,
        (schedule, fire_at, term),
    ).fetchone()
    if first is None:
        return None
    inserted = [
        operations.insert(
            connection,
            kind=one.kind,
            tenant=one.tenant,
            steps=one.steps,
            request={**one.request, "schedule": schedule, "fire_at": fire_at.isoformat()},
            requested_by=actor,
        )
        for one in wanted
    ]
    created = tuple(operation for operation in inserted if operation is not None)
    for operation in created:  # last, for nobody else writes events meanwhile
        operations.announce(connection, operation)
    connection.execute(
        "update registry.fires set operations = %s where schedule = %s and fire_at = %s",
        ([o.id for o in created], schedule, fire_at),
    )
    connection.execute(
        "delete from registry.fires where schedule = %s and fire_at < %s", (schedule, fire_at - KEPT)
    )
    return created
