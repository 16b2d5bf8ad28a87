"""The fleet as the control database sees it: which workers and schedulers live, and what they serve.

Nothing depends on it but the choice of who is woken: a row says that its process was alive a moment ago, no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from tenure.registry.database import Database, dict_row


@dataclass(frozen=True, kw_only=True)
class Worker:
    """One process of the fleet. `id` is its own for its lifetime; `queues` are their full names at the broker."""

    id: str
    kind: str
    host: str
    pid: int
    queues: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    slots: int = 1
    """How many operations it carries on at a time."""


@dataclass(frozen=True, kw_only=True)
class Presence(Worker):
    """A worker that was seen, `age_s` seconds ago."""

    since: datetime
    age_s: float


class Workers:
    """Notes and finds the living. All times are the database's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def beat(self, worker: Worker, *, gone_after_s: float) -> None:
        """Note that the worker lives, and forget those that were silent for `gone_after_s`."""
        with self._database.transaction() as connection:
            connection.execute(
                """
                insert into registry.workers (id, kind, host, pid, queues, regions, slots)
                values (%(id)s, %(kind)s, %(host)s, %(pid)s, %(queues)s, %(regions)s, %(slots)s)
                on conflict (id) do update set seen_at = clock_timestamp()
                """,
                {
                    "id": worker.id,
                    "kind": worker.kind,
                    "host": worker.host,
                    "pid": worker.pid,
                    "queues": list(worker.queues),
                    "regions": list(worker.regions),
                    "slots": worker.slots,
                },
            )
            connection.execute(
                "delete from registry.workers where seen_at < clock_timestamp() - make_interval(secs => %s)",
                (gone_after_s,),
            )

    def leave(self, worker: str) -> None:
        """Forget a worker that takes nothing more. Idempotent."""
        with self._database.transaction() as connection:
            connection.execute("delete from registry.workers where id = %s", (worker,))

    def living(
        self, *, silent_s: float, kind: str | None = None, queue: str | None = None
    ) -> tuple[Presence, ...]:
        """List those that were heard of in the last `silent_s`; of one kind, those that serve one queue, or all."""
        with (
            self._database.connection() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            cursor.execute(
                """
                select id, kind, host, pid, queues, regions, slots, since,
                    extract(epoch from clock_timestamp() - seen_at)::float8 as age_s
                from registry.workers
                where seen_at >= clock_timestamp() - make_interval(secs => %(silent_s)s)
                  and (%(kind)s::text is null or kind = %(kind)s)
                  and (%(queue)s::text is null or queues @> array[%(queue)s::text])
                order by since, id
                """,
                {"silent_s": silent_s, "kind": kind, "queue": queue},
            )
            return tuple(
                Presence(**{**row, "queues": tuple(row["queues"]), "regions": tuple(row["regions"])})
                for row in cursor
            )

    def note_wake(self, operation: str, *, again_after_s: float) -> bool:
        """Note that an operation is announced to its queue; False if it was in the last `again_after_s` and nobody has
        looked at it since.

        It keeps a queue whose workers are all busy from filling with the same operations, tick after tick.
        """
        with self._database.transaction() as connection:
            row = connection.execute(
                """
                insert into registry.wakes (operation) values (%(operation)s)
                on conflict (operation) do update set at = clock_timestamp()
                    where wakes.at <= clock_timestamp() - make_interval(secs => %(again_after_s)s)
                returning 1
                """,
                {"operation": operation, "again_after_s": again_after_s},
            ).fetchone()
        return row is not None

    def drop_wake(self, operation: str) -> None:
        """Note that somebody looks at the operation, or that it could not be announced. Idempotent."""
        with self._database.transaction() as connection:
            connection.execute("delete from registry.wakes where operation = %s", (operation,))
