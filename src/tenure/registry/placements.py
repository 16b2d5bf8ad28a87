"""Which cell serves each tenant, and the compare-and-swap that is an operation's point of no return."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from tenure.errors import StoreRefused, UnknownName
from tenure.model.names import CellName, TenantId
from tenure.model.operation import Lease
from tenure.model.tenancy import Placement
from tenure.registry.database import Connection, Database, TupleRow, class_row

_LOCK_TIMEOUT_MS: Final = 500
"""How long the swap may wait for each of its locks; nobody keeps one for longer than a commit, and users wait."""


@dataclass(frozen=True, kw_only=True)
class PlacementChange:
    """One line of a tenant's placement history. `operation` and `token` are None where the tenant was added."""

    tenant: TenantId
    cell: CellName
    epoch: int
    since: datetime
    operation: str | None
    token: int | None


class Placements:
    """Reads placements, and changes them only by `compare_and_swap`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, tenant: TenantId) -> Placement:
        """Give the tenant's placement; `UnknownName` if it has none."""
        with (
            self._database.connection() as connection,
            connection.cursor(row_factory=class_row(Placement)) as cursor,
        ):
            cursor.execute(
                "select tenant, cell, epoch, since from registry.placements where tenant = %s", (tenant,)
            )
            found = cursor.fetchone()
        if found is None:
            raise UnknownName(
                f"the tenant {tenant} is placed in no cell",
                hint="`tenure tenant list` shows the tenants there are",
            )
        return found

    def list(self) -> tuple[Placement, ...]:
        """List all placements by tenant."""
        with (
            self._database.connection() as connection,
            connection.cursor(row_factory=class_row(Placement)) as cursor,
        ):
            cursor.execute("select tenant, cell, epoch, since from registry.placements order by tenant")
            return tuple(cursor)

    def history(self, tenant: TenantId) -> tuple[PlacementChange, ...]:
        """List every placement the tenant ever had, the first one first."""
        with (
            self._database.connection() as connection,
            connection.cursor(row_factory=class_row(PlacementChange)) as cursor,
        ):
            cursor.execute(
                """
                select tenant, cell, epoch, since, operation, token from registry.placement_history
                where tenant = %s order by epoch
                """,
                (tenant,),
            )
            return tuple(cursor)

    def compare_and_swap(
        self, lease: Lease, tenant: TenantId, *, expected_epoch: int, to_cell: CellName, actor: str
    ) -> Placement:
        """Give the tenant to `to_cell` with the next epoch: the point of no return of the lease's operation.

        One transaction, one round trip: the placement, its history, the operation's `committed_at` and the
        event `placement_changed` change together or not at all. Repeating it after it happened returns the
        same placement. Raises `LeaseLost` (someone took the step over), `PlanStale` (another epoch, operation
        not running), `Cancelled` or `DeadlineExceeded` (another transaction kept a lock): then nothing has
        changed.
        """
        with self._database.connection() as connection:
            return _commit(
                connection, lease, tenant, expected_epoch=expected_epoch, to_cell=to_cell, actor=actor
            )

    def rehearse(
        self, lease: Lease, tenant: TenantId, *, expected_epoch: int, to_cell: CellName, actor: str
    ) -> None:
        """Do what `compare_and_swap` does and take it back: raises what that would raise now.

        Called just before a hold it also leaves a connection whose plans are made, so that the hold pays for
        neither.
        """
        with self._database.connection() as connection, connection.transaction(force_rollback=True):
            _commit(connection, lease, tenant, expected_epoch=expected_epoch, to_cell=to_cell, actor=actor)


def place(connection: Connection[TupleRow], tenant: TenantId, cell: CellName) -> Placement:
    """Write a tenant's first placement within the caller's transaction."""
    with connection.cursor(row_factory=class_row(Placement)) as cursor:
        cursor.execute(
            """
            insert into registry.placements (tenant, cell, epoch)
            select %(tenant)s, %(cell)s, coalesce(max(epoch), 0) + 1
            from registry.placement_history where tenant = %(tenant)s
            returning tenant, cell, epoch, since
            """,
            {"tenant": tenant, "cell": cell},
        )
        return _given(cursor.fetchone())


def _commit(
    connection: Connection[TupleRow],
    lease: Lease,
    tenant: TenantId,
    *,
    expected_epoch: int,
    to_cell: CellName,
    actor: str,
) -> Placement:
    with connection.cursor(row_factory=class_row(Placement)) as cursor:
        cursor.execute(
            """
            select tenant, cell, epoch, since
            from registry.commit_placement(
                %(operation)s::text, %(position)s::integer, %(token)s::bigint,
                %(tenant)s::text, %(expected_epoch)s::bigint, %(cell)s::text, %(actor)s::text,
                %(lock_timeout_ms)s::integer)
            """,
            {
                "operation": lease.operation,
                "position": lease.position,
                "token": lease.token,
                "tenant": tenant,
                "expected_epoch": expected_epoch,
                "cell": to_cell,
                "actor": actor,
                "lock_timeout_ms": _LOCK_TIMEOUT_MS,
            },
        )
        return _given(cursor.fetchone())


def _given(placement: Placement | None) -> Placement:
    if placement is None:
        raise StoreRefused("the control database returned no placement for its own change")
    return placement
