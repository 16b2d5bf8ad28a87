"""The compare-and-set by which a step is claimed."""

from __future__ import annotations

from dataclasses import dataclass

from tenure.model.operation import Lease, Operation, Step, StepState
from tenure.registry.database import Connection, DictRow, TupleRow, dict_row
from tenure.registry.operations import ABORT_POSITION


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A step that was claimed: its lease, the step and the operation as they are now."""

    lease: Lease
    step: Step
    operation: Operation
    taken_over: bool
    """An earlier attempt was cut off: some of its work may have been done."""


def claim(
    connection: Connection[TupleRow], seen: Step, holder: str, holder_is_gone: bool, ttl_s: float
) -> Step | None:
    """Claim a step within the caller's transaction, which has locked its operation; None if it is not to be had.

    To be had are what `Steps.claim` says, and only if the step is still as it was `seen`: same attempt, same state.
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            """
            update registry.steps s
            set state = 'running', attempt = attempt + 1, attempts_used = attempts_used + 1,
                token = nextval('registry.fencing_token'), holder = %(holder)s,
                lease_until = clock_timestamp() + make_interval(secs => %(ttl_s)s),
                due_at = null, progress = '{}',
                started_at = coalesce(started_at, clock_timestamp()), finished_at = null
            where operation = %(operation)s and position = %(position)s
              and attempt = %(attempt)s and state = %(state)s
              and (state = 'pending' and coalesce(due_at, '-infinity') <= clock_timestamp()
                   or state = 'running' and (lease_until <= clock_timestamp()
                                             or %(holder_is_gone)s and holder = %(seen_holder)s))
              and (position = %(abort)s or not exists (
                    select from registry.steps earlier
                    where earlier.operation = s.operation and earlier.position < s.position
                      and earlier.state <> 'done'))
            returning *, %(ttl_s)s::float8 as lease_left_s, 0::float8 as due_in_s
            """,
            {
                "operation": seen.operation,
                "position": seen.position,
                "attempt": seen.attempt,
                "state": seen.state.value,
                "seen_holder": seen.holder,
                "holder": holder,
                "holder_is_gone": holder_is_gone,
                "ttl_s": ttl_s,
                "abort": ABORT_POSITION,
            },
        )
        row = cursor.fetchone()
    return None if row is None else step_of(row)


def step_of(row: DictRow) -> Step:
    """Make the value of a row of `registry.steps`, with the seconds that are left of its lease and until it is due."""
    fields = {key: value for key, value in row.items() if key != "state"}
    return Step(state=StepState(row["state"]), **fields)
