"""The steps of operations: claimed by compare-and-set, held by leases, written only by their present holder.

All times are the database's, so the clocks of the hosts do not matter. Steps of an operation run one after
the other.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from psycopg import errors

from tenure.errors import NotAllowed
from tenure.model.operation import JsonObject, Lease, Operation, OperationState, Step, StepState
from tenure.registry import events
from tenure.registry.claims import Claim, claim, step_of
from tenure.registry.database import Connection, Database, TupleRow, dict_row
from tenure.registry.document import document
from tenure.registry.leases import held, lost
from tenure.registry.operations import ABORT_POSITION, ABORT_STEP, Operations, lock, move

AWAITING_PHASE = "awaiting_confirmation"
_BEGINS_FROM = frozenset({OperationState.PROPOSED, OperationState.PLANNED, OperationState.PARKED})
_CLAIMABLE_FROM = _BEGINS_FROM | {OperationState.RUNNING}


class Steps:
    """Claims steps and records how they go."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self, operation: str) -> tuple[Step, ...]:
        """List the steps of an operation in their order, the abort (if it came to that) last."""
        with self._database.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(
                """
                select *,
                    coalesce(extract(epoch from lease_until - clock_timestamp()), 0)::float8 as lease_left_s,
                    coalesce(extract(epoch from due_at - clock_timestamp()), 0)::float8 as due_in_s
                from registry.steps where operation = %s order by position
                """,
                (operation,),
            )
            return tuple(step_of(row) for row in cursor)

    def claim(
        self, seen: Step, *, holder: str, holder_is_gone: bool, ttl_s: float, phase: str | None, actor: str
    ) -> Claim | None:
        """Take the step as it was `seen`; None if it is not to be had (any more): look again.

        To be had are a pending step that is due, a running one whose lease has run out, and a running one of
        a holder of which the caller knows that it is gone. Earlier steps are all done and the operation goes
        that way: both are checked here, under the lock of the operation.

        Of a proposed operation it raises `ApprovalNeeded` without an approval that stands, and `TenantLocked` if the
        tenant is in another operation.
        """
        with self._database.transaction() as connection:
            operation = lock(connection, seen.operation)
            aborting = seen.position == ABORT_POSITION
            if aborting != (operation.state is OperationState.ABORTING):
                return None
            if not aborting and (
                operation.state not in _CLAIMABLE_FROM
                or (operation.cancel_requested and not operation.committed)
            ):
                return None
            claimed = claim(connection, seen, holder, holder_is_gone, ttl_s)
            if claimed is None:
                return None
            if operation.state in _BEGINS_FROM:
                operation = self._begin(connection, operation, actor)
            operation = _show(connection, operation, phase)
            taken_over = seen.state is StepState.RUNNING
            events.append(
                connection,
                "step_taken_over" if taken_over else "step_started",
                actor=actor,
                operation=seen.operation,
                tenant=operation.tenant,
                data={"step": seen.name, "attempt": claimed.attempt, "token": claimed.token, "holder": holder}
                | ({"from": seen.holder} if taken_over else {}),
            )
        lease = Lease(
            operation=seen.operation,
            position=seen.position,
            step=seen.name,
            attempt=claimed.attempt,
            token=claimed.token,
            holder=holder,
        )
        return Claim(lease=lease, step=claimed, operation=operation, taken_over=taken_over)

    def _begin(self, connection: Connection[TupleRow], operation: Operation, actor: str) -> Operation:
        try:
            return move(connection, operation, OperationState.RUNNING, actor=actor)
        except errors.UniqueViolation as error:
            taken = Operations(self._database).taken(operation.tenant, error.diag.constraint_name)
            raise (taken or error) from error

    def heartbeat(self, lease: Lease, *, ttl_s: float, progress: JsonObject | None = None) -> bool:
        """Extend the lease and say whether someone asked to cancel. Raises `LeaseLost` if the step was taken over.

        A lease that ran out but was not taken over is taken up again. The write is not waited for on disk:
        losing it in a crash of the server only shortens the lease.
        """
        with self._database.transaction() as connection:
            connection.execute("set local synchronous_commit = off")
            row = connection.execute(
                """
                update registry.steps s
                set lease_until = clock_timestamp() + make_interval(secs => %(ttl_s)s),
                    progress = coalesce(%(progress)s::jsonb, progress)
                from registry.operations o
                where s.operation = %(operation)s and s.position = %(position)s
                  and s.token = %(token)s and s.state = 'running' and o.id = s.operation
                returning o.cancel_requested and o.committed_at is null
                """,
                {
                    "operation": lease.operation,
                    "position": lease.position,
                    "token": lease.token,
                    "ttl_s": ttl_s,
                    "progress": document(progress),
                },
            ).fetchone()
        if row is None:
            raise lost(lease)
        return bool(row[0])

    def new_token(self) -> int:
        """A fencing token greater than all before it, for an act on a tenant that no operation is at."""
        with self._database.transaction() as connection:
            row = connection.execute("select nextval('registry.fencing_token')").fetchone()
        assert row is not None
        return int(row[0])

    def renew(self, lease: Lease) -> tuple[Lease, Operation]:
        """Exchange the lease's token for a new one, and give the operation as it is then. Raises `LeaseLost`.

        It waits for what the old token is doing; what comes later with the old token is refused.
        """
        with held(self._database, lease, with_operation=True) as connection:
            row = connection.execute(
                """
                update registry.steps set token = nextval('registry.fencing_token')
                where operation = %s and position = %s returning token
                """,
                (lease.operation, lease.position),
            ).fetchone()
            if row is None:
                raise lost(lease)
            return replace(lease, token=int(row[0])), lock(connection, lease.operation)

    def checkpoint(self, lease: Lease, values: JsonObject) -> None:
        """Keep what the step needs to carry on after a crash. Replaces what it had kept. Raises `LeaseLost`."""
        with held(self._database, lease) as connection:
            connection.execute(
                "update registry.steps set checkpoint = %s where operation = %s and position = %s",
                (document(values), lease.operation, lease.position),
            )

    def finish(self, lease: Lease, result: JsonObject, *, actor: str) -> None:
        """Note that the step is done. Raises `LeaseLost`."""
        with held(self._database, lease, with_operation=True) as connection:
            connection.execute(
                """
                update registry.steps
                set state = 'done', result = %s, error = null, lease_until = null,
                    finished_at = clock_timestamp()
                where operation = %s and position = %s
                """,
                (document(result), lease.operation, lease.position),
            )
            _journal(connection, lease, "step_done", actor, {})

    def retry(self, lease: Lease, *, after_s: float, error: JsonObject, actor: str) -> None:
        """Give the step back, to be tried again after that time. Raises `LeaseLost`."""
        with held(self._database, lease, with_operation=True) as connection:
            connection.execute(
                """
                update registry.steps
                set state = 'pending', error = %s, lease_until = null,
                    due_at = clock_timestamp() + make_interval(secs => %s)
                where operation = %s and position = %s
                """,
                (document(error), after_s, lease.operation, lease.position),
            )
            _journal(connection, lease, "step_retried", actor, {"after_s": after_s, "error": error})

    def park(self, lease: Lease, *, until: datetime, reason: str, actor: str) -> None:
        """Give the step back until a time; it got somewhere, so its attempts count anew. Raises `LeaseLost`."""
        with held(self._database, lease, with_operation=True) as connection:
            operation = lock(connection, lease.operation)
            connection.execute(
                """
                update registry.steps
                set state = 'pending', error = null, lease_until = null, due_at = %s, attempts_used = 0
                where operation = %s and position = %s
                """,
                (until, lease.operation, lease.position),
            )
            if operation.state is OperationState.RUNNING:
                move(connection, operation, OperationState.PARKED, actor=actor)
            _journal(connection, lease, "step_parked", actor, {"until": until, "reason": reason})

    def ask(self, lease: Lease, *, question: str, actor: str) -> None:
        """Give the step back until somebody confirms the question (`confirm`). Raises `LeaseLost`.

        A confirmation that the step has had before is spent.
        """
        with held(self._database, lease, with_operation=True) as connection:
            operation = lock(connection, lease.operation)
            connection.execute(
                """
                update registry.steps
                set state = 'pending', error = null, lease_until = null, due_at = null, attempts_used = 0
                where operation = %s and position = %s
                """,
                (lease.operation, lease.position),
            )
            connection.execute(
                "update registry.operations set phase = %s, data = (data - 'confirmed') || %s where id = %s",
                (AWAITING_PHASE, document({"question": question}), lease.operation),
            )
            move(connection, operation, OperationState.AWAITING, actor=actor)
            _journal(connection, lease, "confirmation_asked", actor, {"question": question})

    def confirm(self, operation: str, *, actor: str) -> Operation:
        """Note who confirmed what an operation asks for, and let it go on. Raises `NotAllowed` if it asks for nothing.

        Idempotent until the step has run again.
        """
        with self._database.transaction() as connection:
            locked = lock(connection, operation)
            if locked.state is OperationState.RUNNING and "confirmed" in locked.data:
                return locked
            if locked.state is not OperationState.AWAITING:
                raise NotAllowed(
                    f"{operation} is {locked.state}: it waits for nobody's confirmation",
                    hint=f"`tenure op show {operation}`",
                )
            connection.execute(
                "update registry.operations set data = data || %s where id = %s",
                (document({"confirmed": actor}), operation),
            )
            events.append(connection, "confirmed", actor=actor, operation=operation, tenant=locked.tenant)
            return move(connection, locked, OperationState.RUNNING, actor=actor)

    def release(self, lease: Lease, *, actor: str) -> None:
        """Give the step back as if this attempt had not been made. Raises `LeaseLost`."""
        with held(self._database, lease, with_operation=True) as connection:
            connection.execute(
                """
                update registry.steps
                set state = 'pending', lease_until = null, due_at = null,
                    attempts_used = greatest(attempts_used - 1, 0)
                where operation = %s and position = %s
                """,
                (lease.operation, lease.position),
            )
            _journal(connection, lease, "step_released", actor, {})

    def fail(
        self, lease: Lease, *, error: JsonObject, abortable: bool, actor: str, cancelled: bool = False
    ) -> Operation:
        """Note that the step failed for good, and send the operation where it then has to go. Raises `LeaseLost`.

        Before the point of no return that is `aborting` (or, with nothing to abort, `failed`, and `aborted`
        for one that was `cancelled`). After it, and when the abort itself failed, the operation stays as it
        is, stuck until someone resumes it.
        """
        with held(self._database, lease, with_operation=True) as connection:
            operation = lock(connection, lease.operation)
            stays = operation.committed or operation.state is OperationState.ABORTING
            state = StepState.ABANDONED if cancelled and not stays else StepState.FAILED
            connection.execute(
                """
                update registry.steps
                set state = %s, error = %s, lease_until = null, finished_at = clock_timestamp()
                where operation = %s and position = %s
                """,
                (state.value, document(error), lease.operation, lease.position),
            )
            _journal(connection, lease, f"step_{state.value}", actor, {"error": error})
            if stays:
                return _stick(connection, operation, error)
            if abortable:
                return abort(connection, operation, error=error, actor=actor)
            ended = OperationState.ABORTED if cancelled else OperationState.FAILED
            return move(connection, operation, ended, error=error, actor=actor)

    def cut_off(
        self, operation: str, *, gone_holders: frozenset[str], error: JsonObject, abortable: bool, actor: str
    ) -> Operation | None:
        """Start the abort of an operation that nobody runs; None if somebody does.

        A running step is cut off if its lease has run out or its holder is among the gone ones: its token is
        worth nothing from then on. An operation of which nothing ever ran is `aborted` at once.
        """
        with self._database.transaction() as connection:
            locked = lock(connection, operation)
            if locked.committed or locked.state not in _CLAIMABLE_FROM | {OperationState.AWAITING}:
                return locked
            busy = connection.execute(
                """
                select 1 from registry.steps
                where operation = %s and state = 'running'
                  and lease_until > clock_timestamp() and holder <> all(%s)
                for no key update
                """,
                (operation, sorted(gone_holders)),
            ).fetchone()
            if busy is not None:
                return None
            connection.execute(
                """
                update registry.steps
                set state = 'abandoned', lease_until = null, finished_at = clock_timestamp(),
                    token = nextval('registry.fencing_token')
                where operation = %s and state = 'running'
                """,
                (operation,),
            )
            if not abortable or locked.started_at is None:
                return move(connection, locked, OperationState.ABORTED, error=error, actor=actor)
            return abort(connection, locked, error=error, actor=actor)

    def revive(self, operation: str, *, actor: str) -> Operation:
        """Give the steps of an active operation a new set of attempts, a failed one of a stuck operation included.

        Idempotent; an operation that has ended, and a step that someone runs, go on as they are.
        """
        with self._database.transaction() as connection:
            locked = lock(connection, operation)
            if not locked.state.active:
                return locked
            connection.execute(
                """
                update registry.steps
                set attempts_used = 0,
                    state = case when state = 'failed' then 'pending' else state end,
                    due_at = case when state = 'failed' then null else due_at end,
                    finished_at = case when state = 'failed' then null else finished_at end
                where operation = %s and (position = %s) = %s
                  and (state in ('pending', 'running') or state = 'failed' and %s)
                """,
                (operation, ABORT_POSITION, locked.state is OperationState.ABORTING, locked.needs_resume),
            )
            events.append(
                connection, "resume_requested", actor=actor, operation=operation, tenant=locked.tenant
            )
            return _unstick(connection, locked)

    def conclude(self, operation: str, new: OperationState, *, actor: str) -> Operation:
        """End an operation whose steps (or whose abort) are done; whoever comes second changes nothing.

        It stays as it is if a step is not done, or if a cancel came first.
        """
        with self._database.transaction() as connection:
            locked = lock(connection, operation)
            aborting = locked.state is OperationState.ABORTING
            cancelled = locked.cancel_requested and not locked.committed and not aborting
            if not locked.state.active or cancelled or aborting != (new is OperationState.ABORTED):
                return locked
            open_step = connection.execute(
                """
                select 1 from registry.steps
                where operation = %s and state <> 'done' and (position = %s) = %s limit 1
                """,
                (operation, ABORT_POSITION, aborting),
            ).fetchone()
            if open_step is not None:
                return locked
            return move(connection, locked, new, actor=actor)


def abort(connection: Connection[TupleRow], locked: Operation, *, error: JsonObject, actor: str) -> Operation:
    """Send a locked operation into its abort, a step like the others, within the caller's transaction."""
    connection.execute(
        "insert into registry.steps (operation, position, name) values (%s, %s, %s) on conflict do nothing",
        (locked.id, ABORT_POSITION, ABORT_STEP),
    )
    return move(connection, locked, OperationState.ABORTING, error=error, actor=actor)


def _show(connection: Connection[TupleRow], operation: Operation, phase: str | None) -> Operation:
    connection.execute(
        "update registry.operations set phase = coalesce(%s, phase), stuck = false where id = %s",
        (phase, operation.id),
    )
    return lock(connection, operation.id)


def _stick(connection: Connection[TupleRow], locked: Operation, error: JsonObject) -> Operation:
    connection.execute(
        """
        update registry.operations
        set stuck = true, error = case when state = 'aborting' then error else %s end
        where id = %s
        """,
        (document(error), locked.id),
    )
    return lock(connection, locked.id)


def _unstick(connection: Connection[TupleRow], locked: Operation) -> Operation:
    connection.execute("update registry.operations set stuck = false where id = %s", (locked.id,))
    return lock(connection, locked.id)


def _journal(
    connection: Connection[TupleRow], lease: Lease, action: str, actor: str, data: dict[str, Any]
) -> None:
    row = connection.execute(
        "select tenant from registry.operations where id = %s", (lease.operation,)
    ).fetchone()
    events.append(
        connection,
        action,
        actor=actor,
        operation=lease.operation,
        tenant=row[0] if row else None,
        data={"step": lease.step, "attempt": lease.attempt, "token": lease.token, **data},
    )
