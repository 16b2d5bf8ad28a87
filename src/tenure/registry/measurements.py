"""What moving data really took, for the predictions of the next plan."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from tenure.registry.database import Database, class_row


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One piece of work of a `kind` (copy, compare, hold, ...) on a `route` such as `blue->green`, in one store."""

    kind: str
    route: str
    store: str
    items: int
    bytes: int
    seconds: float
    at: datetime | None = None
    """When it was recorded; the database sets it."""

    @property
    def items_per_s(self) -> float | None:
        """None where the time was too short to measure."""
        return self.items / self.seconds if self.seconds > 0 else None

    @property
    def bytes_per_s(self) -> float | None:
        """None where the time was too short to measure."""
        return self.bytes / self.seconds if self.seconds > 0 else None


class Measurements:
    """Keeps measurements and gives the recent ones back."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, measurement: Measurement) -> None:
        """Keep one measurement."""
        with self._database.connection() as connection:
            connection.execute(
                """
                insert into registry.measurements (kind, route, store, items, bytes, seconds)
                values (%s, %s, %s, %s, %s, %s)
                """,
                (
                    measurement.kind,
                    measurement.route,
                    measurement.store,
                    measurement.items,
                    measurement.bytes,
                    measurement.seconds,
                ),
            )

    def recent(
        self, *, kind: str, route: str | None = None, store: str | None = None, limit: int = 20
    ) -> tuple[Measurement, ...]:
        """List the newest measurements of a kind, the newest first; of one route and store, or of all."""
        with (
            self._database.connection() as connection,
            connection.cursor(row_factory=class_row(Measurement)) as cursor,
        ):
            cursor.execute(
                """
                select kind, route, store, items, bytes, seconds, at from registry.measurements
                where kind = %(kind)s
                  and (%(route)s::text is null or route = %(route)s)
                  and (%(store)s::text is null or store = %(store)s)
                order by at desc, id desc limit %(limit)s
                """,
                {"kind": kind, "route": route, "store": store, "limit": limit},
            )
            return tuple(cursor)
