"""What a PostgreSQL server has for links (slots, replication workers, connections), and what a link takes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tenure.model.capacity import Need, What
from tenure.stores.contract import Room, Take
from tenure.stores.postgres.connect import Pool

MOVE_CONNECTIONS: Final = 8
"""Sessions of Tenure itself on each server while a tenant moves: its pool, and what a comparison opens beside it."""

_OURS: Final = "^(tenure_[0-9a-f]{12}_[0-9a-f]{12}|pg_[0-9]+_sync_[0-9]+_[0-9]+)$"
"""The slots of links, and those in which the server copies one table. It does not say whose the latter are: they are
there for the time of a copy only."""

_ROOM: Final = """
with slots as (select count(*)::int as n, count(*) filter (where slot_name::text ~ %(ours)s)::int as ours
        from pg_replication_slots),
    senders as (select count(*)::int as n, count(*) filter (where application_name ~ %(ours)s)::int as ours
        from pg_stat_replication),
    workers as (select count(*)::int as n,
            count(*) filter (where pid in (
                select pid from pg_stat_subscription where subname::text ~ %(ours)s))::int as ours
        from pg_stat_activity where backend_type like 'logical replication%%worker'),
    clients as (select count(*)::int as n, count(*) filter (where application_name = 'tenure')::int as ours
        from pg_stat_activity where backend_type = 'client backend')
select 'slots', 'max_replication_slots', current_setting('max_replication_slots')::int, n - ours, ours from slots
union all select 'slots', 'max_wal_senders', current_setting('max_wal_senders')::int, n - ours, ours from senders
union all select 'workers', 'max_logical_replication_workers',
    current_setting('max_logical_replication_workers')::int, n - ours, ours from workers
union all select 'connections', 'max_connections', current_setting('max_connections')::int
    - current_setting('superuser_reserved_connections')::int
    - coalesce(current_setting('reserved_connections', true)::int, 0), n - ours, ours from clients
"""


def room(pool: Pool) -> Sequence[Room]:
    """What there is of each. Every slot needs a WAL sender: of these two the scarcer one counts."""
    found: dict[What, Room] = {}
    for what, setting, most, others, ours in pool.rows(_ROOM, {"ours": _OURS}):
        one = Room(what=What(what), most=most, others=others, ours=ours, setting=setting)
        scarcest = found.setdefault(one.what, one)
        if one.most - one.others < scarcest.most - scarcest.others:
            found[one.what] = one
    return tuple(found.values())


def takes(source: Pool, target: Pool, tables: int) -> Sequence[Take]:
    """A slot and a worker for each direction, kept as long as the link; and for the first copy as many of both again as
    the target copies tables at once; the table of the marks is one of them."""
    at_once = int(target.value("select current_setting('max_sync_workers_per_subscription')::int"))
    copying = min(at_once, tables + 1)
    return (
        Take(server=source.address, what=What.SLOTS, need=Need(units=1 + copying, kept=1)),
        Take(server=target.address, what=What.SLOTS, need=Need(units=1, kept=1)),
        Take(server=source.address, what=What.WORKERS, need=Need(units=1, kept=1)),
        Take(server=target.address, what=What.WORKERS, need=Need(units=1 + copying, kept=1)),
        Take(server=source.address, what=What.CONNECTIONS, need=Need(units=MOVE_CONNECTIONS)),
        Take(server=target.address, what=What.CONNECTIONS, need=Need(units=MOVE_CONNECTIONS)),
    )
