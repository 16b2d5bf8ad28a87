"""Backups in the control database: what was taken, where it is kept, and when it was last found whole.

Rows are never deleted, and what a complete backup is never changes. Writers hold the lease of their step.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from tenure.errors import PlanStale, UnknownName
from tenure.model.backup import BackupCopy, BackupRecord, BackupState, CopyState, Depth, DrillRecord
from tenure.model.names import CellName, TenantId
from tenure.model.operation import Lease
from tenure.registry.database import Connection, Database, DictRow, TupleRow, dict_row
from tenure.registry.document import document
from tenure.registry.leases import held

_COPIES = """
    select backup, region, state, stored_at, contents, locked_until, verified_at, depth, whole, problems, deleted_at,
        deleted_because
    from registry.backup_copies where backup = any(%s) order by backup, stored_at, region
"""


@dataclass(frozen=True, kw_only=True)
class Latest:
    """A tenant's newest backup that is good in some region, those regions, and when one was last tried, good or not."""

    point_at: datetime | None
    regions: frozenset[str]
    tried_at: datetime | None


class Backups:
    """Keeps backups, their copies, and drills."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- writing -----------------------------------------------------------------------------------------------------

    def begin(
        self,
        lease: Lease,
        backup: str,
        *,
        tenant: TenantId,
        tier: str,
        cell: CellName,
        epoch: int,
        period: datetime | None = None,
    ) -> None:
        """Note that a backup is being taken, before anything of it is anywhere. Idempotent."""
        with held(self._database, lease) as connection:
            connection.execute(
                """
                insert into registry.backups (id, tenant, operation, tier, cell, epoch, period)
                values (%(id)s, %(tenant)s, %(operation)s, %(tier)s, %(cell)s, %(epoch)s, %(period)s)
                on conflict (id) do nothing
                """,
                {
                    "id": backup,
                    "tenant": tenant,
                    "operation": lease.operation,
                    "tier": tier,
                    "cell": cell,
                    "epoch": epoch,
                    "period": period,
                },
            )

    def complete(
        self,
        lease: Lease,
        backup: str,
        *,
        point_at: datetime,
        contents: str,
        key: str,
        items: int,
        size_bytes: int,
        region: str,
        stored_at: datetime,
        locked_until: datetime | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Note that its manifest stands in the vault of that region. Idempotent.

        Raises `PlanStale` if the backup is known as something else.
        """
        with held(self._database, lease) as connection:
            done = connection.execute(
                """
                update registry.backups set state = 'complete', point_at = %(point_at)s, contents = %(contents)s,
                    key = %(key)s, items = %(items)s, size_bytes = %(size_bytes)s, details = %(details)s
                where id = %(id)s and (state = 'taking' or (state = 'complete' and contents = %(contents)s
                    and point_at = %(point_at)s and key = %(key)s))
                """,
                {
                    "id": backup,
                    "point_at": point_at,
                    "contents": contents,
                    "key": key,
                    "items": items,
                    "size_bytes": size_bytes,
                    "details": document(details or {}),
                },
            ).rowcount
            if not done:
                raise PlanStale(f"backup {backup} is not being taken, or is another one")
            _store(connection, backup, region, stored_at, contents, locked_until)

    def abandon(self, lease: Lease, backup: str) -> None:
        """Note that it will never be complete. A no-op for one that is, or that was never begun."""
        with held(self._database, lease) as connection:
            connection.execute(
                "update registry.backups set state = 'abandoned' where id = %s and state = 'taking'",
                (backup,),
            )

    def store(
        self,
        lease: Lease,
        backup: str,
        region: str,
        *,
        stored_at: datetime,
        contents: str,
        locked_until: datetime | None = None,
    ) -> None:
        """Note that the vault of another region has it as well. Idempotent; `stored_at` stays what it was first."""
        with held(self._database, lease) as connection:
            _store(connection, backup, region, stored_at, contents, locked_until)

    def verified(
        self, lease: Lease | None, backup: str, region: str, *, depth: Depth, problems: Sequence[str]
    ) -> None:
        """Note what a verification has found: it is whole exactly if there is no problem. A sample that finds none says
        nothing against damage that was found before."""
        with held(self._database, lease) as connection:
            connection.execute(
                """
                update registry.backup_copies set verified_at = clock_timestamp(), depth = %s, whole = %s, problems = %s
                where backup = %s and region = %s and state <> 'deleted' and (whole is distinct from false or %s)
                """,
                (
                    *(depth, not problems, Jsonb(list(problems)), backup, region),
                    bool(problems) or depth is Depth.FULL,
                ),
            )

    def deleting(self, lease: Lease, backup: str, region: str, *, because: str) -> None:
        """Note, before it is done, that a copy is being deleted: from now on nobody counts on it. Idempotent."""
        with held(self._database, lease) as connection:
            connection.execute(
                """
                update registry.backup_copies set state = 'deleting', deleted_because = %s
                where backup = %s and region = %s and state = 'stored'
                """,
                (because, backup, region),
            )

    def deleted(self, lease: Lease, backup: str, region: str) -> None:
        """Note that a copy is gone. Idempotent. Raises `PlanStale` for one that nobody has begun to delete."""
        with held(self._database, lease) as connection:
            connection.execute(
                """
                update registry.backup_copies set state = 'deleted', deleted_at = clock_timestamp()
                where backup = %s and region = %s and state = 'deleting'
                """,
                (backup, region),
            )
            row = connection.execute(
                "select state from registry.backup_copies where backup = %s and region = %s", (backup, region)
            ).fetchone()
        if row is None or row[0] != CopyState.DELETED:
            raise PlanStale(f"nobody has begun to delete backup {backup} in {region}")

    def keep_after_all(self, lease: Lease, backup: str, region: str) -> None:
        """Take `deleting` back: the vault keeps the copy. Idempotent."""
        with held(self._database, lease) as connection:
            connection.execute(
                """
                update registry.backup_copies set state = 'stored', deleted_because = null
                where backup = %s and region = %s and state = 'deleting'
                """,
                (backup, region),
            )

    def drilled(self, lease: Lease, drill: DrillRecord) -> None:
        """Note how a drill went. Idempotent: the first note of an operation stays."""
        with held(self._database, lease) as connection:
            connection.execute(
                """
                insert into registry.drills
                    (operation, backup, tenant, tier, region, at, equal, recovery_s, recovery_point_s, details)
                values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) on conflict (operation) do nothing
                """,
                (
                    drill.operation,
                    drill.backup,
                    drill.tenant,
                    drill.tier,
                    drill.region,
                    drill.at,
                    drill.equal,
                    drill.recovery_s,
                    drill.recovery_point_s,
                    document(drill.details),
                ),
            )

    # -- reading -----------------------------------------------------------------------------------------------------

    def get(self, backup: str) -> BackupRecord:
        """The backup of that id. Raises `UnknownName`."""
        found = self._read("select * from registry.backups where id = %s", (backup,))
        if not found:
            raise UnknownName(f"there is no backup {backup!r:.80}", hint="`tenure backup list` shows them")
        return found[0]

    def list(
        self,
        *,
        tenant: TenantId | None = None,
        states: Collection[BackupState] = (BackupState.COMPLETE,),
        limit: int = 1000,
    ) -> tuple[BackupRecord, ...]:
        """Backups, the newest first; of one tenant or all."""
        return self._read(
            """
            select * from registry.backups
            where (%(tenant)s::text is null or tenant = %(tenant)s) and state = any(%(states)s)
            order by begun_at desc, id desc limit %(limit)s
            """,
            {"tenant": tenant, "states": [str(state) for state in states], "limit": limit},
        )

    def now(self) -> datetime:
        """The time by the control database's clock."""
        with self._database.connection() as connection:
            row = connection.execute("select clock_timestamp()").fetchone()
        assert row is not None
        value: datetime = row[0]
        return value

    def latest(self) -> Mapping[TenantId, Latest]:
        """For each tenant of which a backup was ever tried: its newest good backup, and the last attempt."""
        with self._database.connection() as connection:
            rows = connection.execute(
                """
                select t.tenant, g.point_at, coalesce(g.regions, '{}'), t.tried_at
                from (
                    select tenant, max(created_at) as tried_at from registry.operations
                    where kind = 'backup' and tenant is not null group by tenant
                ) t
                left join lateral (
                    select b.point_at, array_agg(c.region) as regions
                    from registry.backups b join registry.backup_copies c on c.backup = b.id
                    where b.tenant = t.tenant and b.state = 'complete' and c.state = 'stored' and c.whole
                    group by b.id order by b.point_at desc limit 1
                ) g on true
                """
            ).fetchall()
        return {
            TenantId(row[0]): Latest(point_at=row[1], regions=frozenset(row[2]), tried_at=row[3])
            for row in rows
        }

    def drills(self, *, tier: str | None = None, limit: int = 100) -> tuple[DrillRecord, ...]:
        """The drills, the newest first; of one tier or all."""
        with self._database.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(
                """
                select * from registry.drills where %(tier)s::text is null or tier = %(tier)s
                order by at desc, operation limit %(limit)s
                """,
                {"tier": tier, "limit": limit},
            )
            return tuple(_drill(row) for row in cursor)

    def _read(self, query: str, parameters: Any) -> tuple[BackupRecord, ...]:
        with self._database.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            rows = cursor.execute(query.encode(), parameters).fetchall()
            copies: dict[str, list[BackupCopy]] = {row["id"]: [] for row in rows}
            for row in cursor.execute(_COPIES, (list(copies),)):
                copies[row["backup"]].append(_copy(row))
        return tuple(_record(row, tuple(copies[row["id"]])) for row in rows)


def _store(
    connection: Connection[TupleRow],
    backup: str,
    region: str,
    stored_at: datetime,
    contents: str,
    locked_until: datetime | None,
) -> None:
    connection.execute(
        """
        insert into registry.backup_copies (backup, region, stored_at, contents, locked_until)
        values (%s, %s, %s, %s, %s)
        on conflict (backup, region) do update
        set locked_until = greatest(registry.backup_copies.locked_until, excluded.locked_until)
        """,
        (backup, region, stored_at, contents, locked_until),
    )


def _record(row: DictRow, copies: tuple[BackupCopy, ...]) -> BackupRecord:
    return BackupRecord(
        id=row["id"],
        tenant=TenantId(row["tenant"]),
        operation=row["operation"],
        tier=row["tier"],
        cell=CellName(row["cell"]),
        epoch=row["epoch"],
        state=BackupState(row["state"]),
        begun_at=row["begun_at"],
        period=row["period"],
        point_at=row["point_at"],
        contents=row["contents"],
        key=row["key"],
        items=row["items"],
        size_bytes=row["size_bytes"],
        details=row["details"],
        copies=copies,
    )


def _copy(row: DictRow) -> BackupCopy:
    return BackupCopy(
        region=row["region"],
        state=CopyState(row["state"]),
        stored_at=row["stored_at"],
        contents=row["contents"],
        locked_until=row["locked_until"],
        verified_at=row["verified_at"],
        depth=None if row["depth"] is None else Depth(row["depth"]),
        whole=row["whole"],
        problems=tuple(row["problems"]),
        deleted_at=row["deleted_at"],
        deleted_because=row["deleted_because"],
    )


def _drill(row: DictRow) -> DrillRecord:
    return DrillRecord(
        operation=row["operation"],
        backup=row["backup"],
        tenant=TenantId(row["tenant"]),
        tier=row["tier"],
        region=row["region"],
        at=row["at"],
        equal=row["equal"],
        recovery_s=row["recovery_s"],
        recovery_point_s=row["recovery_point_s"],
        details=row["details"],
    )
