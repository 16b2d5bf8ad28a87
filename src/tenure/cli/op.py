"""`tenure op`: look at operations, carry interrupted ones on, or end them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import click

from tenure.cli.approve import approve
from tenure.cli.context import Context, here_option, json_option, pass_context
from tenure.cli.move import operation_dict, raise_unless_successful, show_operation, show_outcome, status_of
from tenure.cli.output import emit_json, emit_line, table
from tenure.cli.progress import progress_text
from tenure.cli.stats import stats
from tenure.model.approval import Approval
from tenure.model.operation import Operation, OperationState, Step, StepState
from tenure.operations.follow import Teller
from tenure.operations.status import TenantStatus
from tenure.service import event_dict


@click.group()
def op() -> None:
    """Look at operations, carry interrupted ones on, or end them."""


op.add_command(approve)
op.add_command(stats)


@op.command("list")
@click.option("--tenant", help="Only this tenant's.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000))
@json_option
@pass_context
def list_(context: Context, tenant: str | None, limit: int) -> None:
    """The latest operations."""
    with context.service() as service:
        operations = service.operations(tenant=tenant, limit=limit)
    if context.as_json:
        emit_json("operations", {"operations": [operation_dict(o) for o in operations]})
    else:
        rows = [
            (o.id, o.kind, o.tenant or "", str(o.state), o.phase or "", f"{o.created_at:%Y-%m-%d %H:%M:%S}")
            for o in operations
        ]
        click.echo(table(("operation", "kind", "tenant", "state", "phase", "created (UTC)"), rows))


@op.command("show")
@click.argument("operation_id")
@json_option
@pass_context
def show(context: Context, operation_id: str) -> None:
    """One operation: its steps and how far they are, its timeline, and where its tenant's traffic goes now."""
    with context.service() as service:
        operation, steps = service.operation(operation_id)
        events = service.events(operation_id)
        status = status_of(service, operation)
        look = service.look(operation)
        approvals = service.approvals(operation_id)
        record = service.record(operation)
        admission = service.admission(operation_id)
        proposed = operation.state is OperationState.PROPOSED
        next_steps = list(service.proposal(operation)[1]) if proposed else _next_steps(operation, status)
    if context.as_json:
        value = operation_dict(operation)
        value["sentence"] = status.sentence if status is not None else ""
        value["steps"] = [_step_dict(step) for step in steps]
        value["events"] = list(events)
        value["look"] = look.as_dict() if look is not None else None
        value["record"] = asdict(record) if record is not None else None
        value["capacity"] = admission.as_dict() if admission is not None else None
        value["approvals"] = [
            {**asdict(a), "at": a.at.isoformat(), "expires_at": a.expires_at.isoformat()} for a in approvals
        ]
        emit_json("operation", value, next_steps)
        return
    show_outcome(operation)
    if status is not None:
        click.echo(status.sentence)
    if look is not None:
        click.echo("Look at this before you confirm:")
        for line in look.saw:
            click.echo(f"  {line}")
        for difference in look.differences:
            click.echo(f"  differs: {difference.message}. Fix: {difference.fix}")
    if record is not None and record.duration_s is not None:
        click.echo(
            f"{record.outcome} after {record.duration_s:.1f} s, in {record.attempts} attempts of its steps"
        )
    for approval in approvals:
        click.echo(_approval_line(approval))
    rows = [(s.name, str(s.state), s.attempt, s.holder or "") for s in steps]
    click.echo(table(("step", "state", "attempt", "run by"), rows))
    for step in steps:
        if step.state is StepState.RUNNING:
            for what, progress in sorted(step.progress.items()):
                click.echo(f"  {progress_text(what, progress)}")
    for event in sorted(events, key=lambda e: str(e["at"])):
        click.echo(_line(event))
    for next_step in next_steps:
        click.echo(f"next: {next_step}")


@op.command("watch")
@click.argument("operation_id")
@click.option(
    "--poll",
    "poll_s",
    default=0.5,
    show_default=True,
    type=click.FloatRange(0.1),
    help="Seconds between looks.",
)
@json_option
@pass_context
def watch(context: Context, operation_id: str, poll_s: float) -> None:
    """Follow an operation until it ends: its events, and how far each store is. Ctrl-C ends only the watching.

    With --json every line says its `kind`: `event`, `progress` (only what has changed), and last the `operation`.
    """
    told: dict[str, object] = {}
    teller = Teller(context.observer())
    with context.service() as service:
        for look in service.follow(operation_id, poll_s=poll_s):
            if context.as_json:
                for event in look.events:
                    emit_line({"kind": "event", **event_dict(event)})
                for what, progress in look.progress().items():
                    if told.get(what) != progress:
                        told[what] = progress
                        emit_line({"kind": "progress", "what": what, **progress})
            else:
                for event in look.events:
                    click.echo(_line(event_dict(event)))
                teller.tell(replace(look, events=()))
            operation = look.operation
        status = status_of(service, operation)
    next_steps = _next_steps(operation, status)
    if context.as_json:
        sentence = status.sentence if status is not None else ""
        last = {"kind": "operation", **operation_dict(operation), "sentence": sentence}
        emit_line({**last, "next_steps": next_steps})
    else:
        if status is not None:
            click.echo(status.sentence)
        for next_step in next_steps:
            click.echo(f"next: {next_step}")
    raise_unless_successful(operation)


@op.command("resume")
@click.argument("operation_id")
@here_option
@json_option
@pass_context
def resume(context: Context, operation_id: str, here: bool) -> None:
    """Carry an interrupted operation on: in a worker if one lives that may, otherwise here and now."""
    with context.service() as service:
        operation = service.resume(operation_id, context.observer(), here=here)
        show_operation(context, service, operation)
    raise_unless_successful(operation)


@op.command("confirm")
@click.argument("operation_id")
@json_option
@pass_context
def confirm(context: Context, operation_id: str) -> None:
    """Say that you have looked (`op show`): Tenure looks again and carries the operation on."""
    with context.service() as service:
        operation = service.confirm(operation_id, context.observer())
        show_operation(context, service, operation)
    raise_unless_successful(operation)


@op.command("cancel")
@click.argument("operation_id")
@json_option
@pass_context
def cancel(context: Context, operation_id: str) -> None:
    """End an operation before its point of no return; everything is as it was."""
    with context.service() as service:
        operation = service.cancel(operation_id, context.observer())
        show_operation(context, service, operation)
    if operation.state.unfinished:
        raise_unless_successful(operation)


def _line(event: Mapping[str, Any]) -> str:
    return f"{event['at']}  {event['action']}  {json.dumps(event['data'], default=str)}"


def _approval_line(approval: Approval) -> str:
    until = f"{'good' if approval.stands else 'was good'} until {approval.expires_at:%Y-%m-%d %H:%M} UTC"
    return f"approved by {approval.approver} as {approval.approved_as}: plan {approval.plan_digest}, {until}"


def _step_dict(step: Step) -> dict[str, Any]:
    return {
        "name": step.name,
        "state": str(step.state),
        "attempt": step.attempt,
        "holder": step.holder,
        "due_in_s": round(step.due_in_s, 1) if step.state is StepState.PENDING else 0.0,
        "result": step.result,
        "error": step.error,
        "progress": step.progress,
    }


def _next_steps(operation: Operation, status: TenantStatus | None) -> list[str]:
    """What can be done about the operation itself while it is under way, and about its tenant afterwards."""
    if not operation.state.active:
        return list(status.next_steps) if status is not None else []
    if operation.state is OperationState.AWAITING:
        return [f"tenure op confirm {operation.id}"]
    steps = [f"tenure op {'resume' if operation.needs_resume else 'watch'} {operation.id}"]
    if not operation.committed:
        steps.append(f"tenure op cancel {operation.id}")
    return steps
