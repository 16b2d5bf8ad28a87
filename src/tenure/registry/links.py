"""Links between two cells: the live copies of a tenant's stores in both directions, from a migration to its
completion.

A tenant has at most one active link.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from psycopg import errors

from tenure.errors import TenantLocked, UnknownName
from tenure.model.names import CellName, TenantId
from tenure.model.operation import Lease
from tenure.registry.database import Database, DictRow, dict_row
from tenure.registry.leases import held


class LinkState(StrEnum):
    ACTIVE = "active"
    EXPIRED = "expired"
    """The soak is over: nothing follows any more and there is no way back. `complete` removes the outdated copy."""
    ENDING = "ending"
    """Being taken apart by `complete`: it can only be finished."""
    REMOVED = "removed"


@dataclass(frozen=True, kw_only=True)
class Link:
    """`source` is the cell that is copied from now, one of both; `soak_until` says when the link ought to be ended, and
    `expired_because` why it was, if nobody did so in time."""

    tenant: TenantId
    name: str
    cell_a: CellName
    cell_b: CellName
    source: CellName
    state: LinkState = LinkState.ACTIVE
    created_by: str | None = None
    soak_until: datetime | None = None
    expired_at: datetime | None = None
    expired_because: str | None = None

    @property
    def target(self) -> CellName:
        """The cell that follows."""
        return self.cell_b if self.source == self.cell_a else self.cell_a


class Links:
    """Keeps which links there are. With a `lease`, a change is made only while that is held (`LeaseLost`)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, link: Link, *, lease: Lease | None = None) -> Link:
        """Note the link and return it as it is kept: an active one of that name stays, a removed one is made anew.

        Raises `TenantLocked` if the tenant has another active link.
        """
        with held(self._database, lease) as connection, connection.cursor(row_factory=dict_row) as cursor:
            try:
                cursor.execute(
                    """
                    insert into registry.links 
                        (name, tenant, cell_a, cell_b, source, state, created_by, soak_until)
                    values (%s, %s, %s, %s, %s, %s, %s, %s)
                    on conflict (name) do update set
                        cell_a = excluded.cell_a, cell_b = excluded.cell_b, source = excluded.source,
                        state = excluded.state, created_by = excluded.created_by, soak_until = excluded.soak_until,
                        expired_at = null, expired_because = null
                    where links.state = 'removed'
                    """,
                    (
                        link.name,
                        link.tenant,
                        link.cell_a,
                        link.cell_b,
                        link.source,
                        link.state.value,
                        link.created_by,
                        link.soak_until,
                    ),
                )
            except errors.UniqueViolation as error:
                raise TenantLocked(
                    f"{link.tenant} is linked to another cell already",
                    hint=f"`tenure complete {link.tenant}` removes the link and erases the passive copy",
                ) from error
            cursor.execute("select * from registry.links where name = %s", (link.name,))
            return _found(cursor.fetchone(), link.name)

    def get(self, name: str) -> Link:
        """Give the link of that name, removed ones too; `UnknownName` if there never was one."""
        with self._database.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            return _found(
                cursor.execute("select * from registry.links where name = %s", (name,)).fetchone(), name
            )

    def active(self, tenant: TenantId) -> Link | None:
        """Give the tenant's link that is not removed, if it has one."""
        with self._database.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute("select * from registry.links where tenant = %s and state <> 'removed'", (tenant,))
            row = cursor.fetchone()
        return None if row is None else _link(row)

    def list(self, *, state: LinkState | None = LinkState.ACTIVE) -> tuple[Link, ...]:
        """List the links in that state, or all, by tenant."""
        with self._database.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(
                """
                select * from registry.links where %(state)s::text is null or state = %(state)s
                order by tenant, created_at
                """,
                {"state": state.value if state else None},
            )
            return tuple(_link(row) for row in cursor)

    def uncompared(
        self, kinds: Collection[str], *, well_within_s: float, tried_within_s: float
    ) -> tuple[tuple[Link, CellName], ...]:
        """List the soaking links, each with the cell that serves, that no operation is at and that none of these kinds
        has compared: none that ended well within the one time, and none at all within the other."""
        with self._database.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(
                """
                select l.*, p.cell as serves from registry.links l join registry.placements p using (tenant)
                where l.state = 'active' and l.soak_until is not null and not exists (
                    select 1 from registry.operations o
                    where o.tenant = l.tenant and (o.active or o.kind = any(%(kinds)s) and (
                        o.finished_at > clock_timestamp() - make_interval(secs => %(tried)s)
                        or o.finished_at > clock_timestamp() - make_interval(secs => %(well)s)
                           and o.state not in ('aborted', 'failed'))))
                order by tenant
                """,
                {"kinds": list(kinds), "well": well_within_s, "tried": tried_within_s},
            )
            return tuple((_link(row), CellName(row["serves"])) for row in cursor)

    def set_source(self, name: str, source: CellName, *, lease: Lease | None = None) -> Link:
        """Note which of its two cells is copied from now. Idempotent."""
        with held(self._database, lease) as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(
                "update registry.links set source = %s where name = %s returning *", (source, name)
            )
            return _found(cursor.fetchone(), name)

    def set_soak(self, name: str, until: datetime | None, *, lease: Lease | None = None) -> Link:
        """Note until when the link may stay. Idempotent."""
        with held(self._database, lease) as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(
                "update registry.links set soak_until = %s where name = %s returning *", (until, name)
            )
            return _found(cursor.fetchone(), name)

    def expire(self, name: str, because: str, *, lease: Lease | None = None) -> Link:
        """Note that nothing follows any more, and why; the first time and reason stay. A link that is being taken apart
        or removed stays what it is. Idempotent."""
        with held(self._database, lease) as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(
                """
                update registry.links set state = 'expired', expired_at = clock_timestamp(), expired_because = %s
                where name = %s and state = 'active'
                """,
                (because, name),
            )
            cursor.execute("select * from registry.links where name = %s", (name,))
            return _found(cursor.fetchone(), name)

    def end(self, name: str, *, lease: Lease | None = None) -> Link:
        """Note that the link is being taken apart: from now on it can only be finished. Idempotent."""
        with held(self._database, lease) as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(
                "update registry.links set state = 'ending' where name = %s and state <> 'removed' returning *",
                (name,),
            )
            return _found(cursor.fetchone(), name)

    def remove(self, name: str, *, lease: Lease | None = None) -> Link:
        """Note that everything the link had created is gone. Idempotent."""
        with held(self._database, lease) as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute("update registry.links set state = 'removed' where name = %s returning *", (name,))
            return _found(cursor.fetchone(), name)


def _found(row: DictRow | None, name: str) -> Link:
    if row is None:
        raise UnknownName(f"there is no link {name}", hint="`tenure estate status` shows the links there are")
    return _link(row)


def _link(row: DictRow) -> Link:
    return Link(
        tenant=TenantId(row["tenant"]),
        name=row["name"],
        cell_a=CellName(row["cell_a"]),
        cell_b=CellName(row["cell_b"]),
        source=CellName(row["source"]),
        state=LinkState(row["state"]),
        created_by=row["created_by"],
        soak_until=row["soak_until"],
        expired_at=row["expired_at"],
        expired_because=row["expired_because"],
    )
