"""Operations in the control database: every change of state is a compare-and-set on the old one, and is journaled.

At most one operation of a tenant is active; a unique index makes sure of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from psycopg import errors

from tenure.errors import NotAllowed, PlanStale, TenantLocked, UnknownName
from tenure.model.names import TenantId
from tenure.model.operation import (
    JsonObject,
    Lease,
    Operation,
    OperationState,
    may_become,
    new_operation_id,
)
from tenure.registry import events
from tenure.registry.database import Connection, Database, DictRow, TupleRow, dict_row
from tenure.registry.document import document
from tenure.registry.leases import held

ABORT_STEP = "abort"
ABORT_POSITION = 1000


class Operations:
    """Creates, finds and moves operations on."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        *,
        kind: str,
        tenant: TenantId | None,
        steps: Sequence[str],
        requested_by: str,
        request: JsonObject | None = None,
        plan: JsonObject | None = None,
        plan_digest: str = "",
    ) -> Operation:
        """Write a new operation with its steps, none of them begun.

        Raises `TenantLocked` if the tenant is in another operation; the message names it, its state and who
        holds it.
        """
        operation = new_operation_id()
        with self._database.transaction() as connection, connection.cursor(row_factory=dict_row) as cursor:
            try:
                cursor.execute(
                    """
                    insert into registry.operations
                        (id, kind, tenant, request, plan, plan_digest, requested_by)
                    values (%s, %s, %s, %s, %s, %s, %s) returning *
                    """,
                    (
                        operation,
                        kind,
                        tenant,
                        document(request or {}),
                        document(plan or {}),
                        plan_digest,
                        requested_by,
                    ),
                )
            except errors.UniqueViolation as error:
                if tenant is None or error.diag.constraint_name != "one_active_operation_per_tenant":
                    raise
                raise self._locked(tenant) from error
            created = operation_of(_given(cursor.fetchone()))
            cursor.executemany(
                "insert into registry.steps (operation, position, name) values (%s, %s, %s)",
                [(operation, position, name) for position, name in enumerate(steps, start=1)],
            )
            events.append(
                connection,
                "operation_created",
                actor=requested_by,
                operation=operation,
                tenant=tenant,
                data={"kind": kind, "plan_digest": plan_digest},
            )
        return created

    def get(self, operation: str) -> Operation:
        """Give the operation; `UnknownName` if there is none of that id."""
        with self._database.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            row = cursor.execute("select * from registry.operations where id = %s", (operation,)).fetchone()
        if row is None:
            raise UnknownName(f"there is no operation {operation}", hint="`tenure op list` shows them")
        return operation_of(row)

    def list(
        self,
        *,
        tenant: TenantId | None = None,
        kind: str | None = None,
        states: Collection[OperationState] = (),
        limit: int = 100,
    ) -> tuple[Operation, ...]:
        """List operations, the newest first; of one tenant, of one kind, in some states, or all."""
        with self._database.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(
                """
                select * from registry.operations
                where (%(tenant)s::text is null or tenant = %(tenant)s)
                  and (%(kind)s::text is null or kind = %(kind)s)
                  and (cardinality(%(states)s::text[]) = 0 or state = any(%(states)s))
                order by created_at desc, id desc limit %(limit)s
                """,
                {"tenant": tenant, "kind": kind, "states": [s.value for s in states], "limit": limit},
            )
            return tuple(operation_of(row) for row in cursor)

    def active_for(self, tenant: TenantId) -> Operation | None:
        """Give the operation the tenant is in now, if any."""
        with self._database.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute("select * from registry.operations where tenant = %s and active", (tenant,))
            row = cursor.fetchone()
        return None if row is None else operation_of(row)

    def due(self, *, limit: int = 100) -> tuple[str, ...]:
        """List the operations that a worker could move on now: something is due, or its holder's lease has
        run out. The oldest first, so that only as many are looked at as are asked for."""
        with self._database.connection() as connection:
            rows = connection.execute(
                """
                select o.id from registry.operations o
                left join lateral (
                    select s.* from registry.steps s
                    where s.operation = o.id and s.state <> 'done'
                      and (o.state <> 'aborting' or s.position = %(abort)s)
                    order by s.position limit 1
                ) s on true
                where o.active and not o.stuck and o.state <> 'awaiting'
                  and (s.state is null
                       or s.state = 'pending' and coalesce(s.due_at, '-infinity') <= clock_timestamp()
                       or s.state = 'running' and s.lease_until <= clock_timestamp())
                order by o.created_at, o.id limit %(limit)s
                """,
                {"abort": ABORT_POSITION, "limit": limit},
            ).fetchall()
        return tuple(str(row[0]) for row in rows)

    def transition(
        self,
        operation: str,
        old: OperationState,
        new: OperationState,
        *,
        actor: str,
        data: JsonObject | None = None,
    ) -> Operation:
        """Take the operation from `old` to `new`, or raise `PlanStale` if it is not in `old` (any more).

        Repeating a transition that happened returns the operation and changes nothing. Raises `NotAllowed`
        for a transition that no operation may make.
        """
        with self._database.transaction() as connection:
            locked = lock(connection, operation)
            if locked.state is new:
                return locked
            if not may_become(old, new, committed=locked.committed):
                raise NotAllowed(
                    f"an operation that is {old} cannot become {new}", hint=f"`tenure op show {operation}`"
                )
            if locked.state is not old:
                raise PlanStale(
                    f"{operation} is {locked.state}, not {old}",
                    hint=f"`tenure op show {operation}` says what happened",
                )
            return move(connection, locked, new, actor=actor, data=data)

    def request_cancel(self, operation: str, *, actor: str) -> Operation:
        """Ask for the operation to be cancelled; whoever runs it ends it. Idempotent.

        Raises `NotAllowed` once its placement change is committed, or if it has ended in anything but `aborted`.
        """
        with self._database.transaction() as connection:
            locked = lock(connection, operation)
            if locked.state is OperationState.ABORTED or locked.cancel_requested:
                return locked
            if not locked.state.active and not locked.committed:
                raise NotAllowed(
                    f"{operation} has ended already: it is {locked.state}",
                    hint=f"`tenure op show {operation}`",
                )
            if locked.committed:
                raise NotAllowed(
                    f"{operation} is past its point of no return: {locked.tenant} is served by its new cell",
                    hint=f"`tenure op resume {operation}` ends it, then `tenure rollback {locked.tenant}`"
                    if locked.state.active
                    else f"`tenure rollback {locked.tenant}`",
                )
            with connection.cursor(row_factory=dict_row) as cursor:
                cursor.execute(
                    "update registry.operations set cancel_requested = true where id = %s returning *",
                    (operation,),
                )
                changed = operation_of(_given(cursor.fetchone()))
            events.append(
                connection, "cancel_requested", actor=actor, operation=operation, tenant=locked.tenant
            )
            return changed

    def merge(
        self,
        lease: Lease,
        *,
        data: JsonObject | None = None,
        result: JsonObject | None = None,
        cost: JsonObject | None = None,
    ) -> Operation:
        """Add keys to the operation's working notes, result or cost while the lease is held; `LeaseLost`
        otherwise."""
        with (
            held(self._database, lease, with_operation=True) as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            cursor.execute(
                """
                update registry.operations
                set data = data || %(data)s, result = result || %(result)s, cost = cost || %(cost)s
                where id = %(id)s returning *
                """,
                {
                    "id": lease.operation,
                    "data": document(data or {}),
                    "result": document(result or {}),
                    "cost": document(cost or {}),
                },
            )
            return operation_of(_given(cursor.fetchone()))

    def set_phase(self, lease: Lease, phase: str, *, actor: str, age_s: float = 0.0) -> None:
        """Show people another phase, and journal it, while the lease is held; `LeaseLost` otherwise."""
        with held(self._database, lease, with_operation=True) as connection:
            row = connection.execute(
                "update registry.operations set phase = %s where id = %s and phase <> %s returning tenant",
                (phase, lease.operation, phase),
            ).fetchone()
            if row is not None:
                events.append(
                    connection,
                    "phase_changed",
                    actor=actor,
                    operation=lease.operation,
                    tenant=row[0],
                    data={"phase": phase},
                    age_s=age_s,
                )

    def _locked(self, tenant: TenantId) -> TenantLocked:
        with self._database.connection() as connection:
            row = connection.execute(
                """
                select o.id, o.kind, o.state, o.requested_by, s.holder
                from registry.operations o
                left join registry.steps s on s.operation = o.id and s.state = 'running'
                where o.tenant = %s and o.active
                """,
                (tenant,),
            ).fetchone()
        if row is None:
            return TenantLocked(f"{tenant} was in another operation a moment ago", hint="try again")
        operation, kind, state, requested_by, holder = row
        who = f"run by {holder}" if holder else "not being run by anyone now"
        return TenantLocked(
            f"{tenant} is in the operation {operation} ({kind}, {state}, asked for by {requested_by}, {who})",
            hint=f"`tenure op resume {operation}` or `tenure op cancel {operation}`",
        )


def lock(connection: Connection[TupleRow], operation: str) -> Operation:
    """Lock the operation's row until the caller's transaction ends, and give it as it is now."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute("select * from registry.operations where id = %s for no key update", (operation,))
        row = cursor.fetchone()
    if row is None:
        raise UnknownName(f"there is no operation {operation}", hint="`tenure op list` shows them")
    return operation_of(row)


def move(
    connection: Connection[TupleRow],
    locked: Operation,
    new: OperationState,
    *,
    actor: str,
    error: JsonObject | None = None,
    data: JsonObject | None = None,
) -> Operation:
    """Change the state of an operation that the caller's transaction has locked, and journal it.

    An `error` given stays with the operation; one it had is kept while it aborts and is forgotten if it ends well.
    """
    if not may_become(locked.state, new, committed=locked.committed):
        raise NotAllowed(
            f"{locked.id} is {locked.state} and cannot become {new}", hint=f"`tenure op show {locked.id}`"
        )
    ended = not new.active
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            """
            update registry.operations
            set state = %(new)s,
                phase = case when %(ended)s or %(new)s = 'aborting' then %(new)s else phase end,
                stuck = false,
                error = case when %(new)s in ('aborting', 'aborted', 'failed')
                             then coalesce(%(error)s::jsonb, error) end,
                started_at = case when %(new)s = 'running' then coalesce(started_at, clock_timestamp())
                                  else started_at end,
                finished_at = case when %(ended)s then coalesce(finished_at, clock_timestamp()) end
            where id = %(id)s and state = %(old)s returning *
            """,
            {
                "id": locked.id,
                "old": locked.state.value,
                "new": new.value,
                "ended": ended,
                "error": document(error),
            },
        )
        changed = operation_of(_given(cursor.fetchone()))
    if ended or new is OperationState.ABORTING:
        why: dict[str, Any] = {"error": changed.error} if changed.error else {}
        events.append(
            connection,
            f"operation_{new.value}",
            actor=actor,
            operation=locked.id,
            tenant=locked.tenant,
            data={**why, **(data or {})},
        )
    return changed


def operation_of(row: DictRow) -> Operation:
    """Make the value of a row of `registry.operations`."""
    fields: Mapping[str, Any] = {key: value for key, value in row.items() if key not in {"active", "state"}}
    return Operation(state=OperationState(row["state"]), **fields)


def _given(row: DictRow | None) -> DictRow:
    if row is None:
        raise PlanStale("the operation changed under a lock", hint="`tenure op list`")
    return row
