"""`tenure op`: look at operations, carry interrupted ones on, or end them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import click

from tenure.cli.context import Context, json_option, pass_context
from tenure.cli.move import operation_dict, raise_unless_successful, show_operation
from tenure.cli.output import emit_json, emit_line, table
from tenure.model.operation import OperationState


@click.group()
def op() -> None:
    """Look at operations, carry interrupted ones on, or end them."""


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
    """One operation: its steps, its timeline, and where its tenant's traffic goes now."""
    with context.service() as service:
        operation, steps = service.operation(operation_id)
        events = service.events(operation_id)
        sentence = service.status(str(operation.tenant)).sentence if operation.tenant else ""
        if context.as_json:
            value = operation_dict(operation)
            value["sentence"] = sentence
            value["steps"] = [
                {
                    "name": s.name,
                    "state": str(s.state),
                    "attempt": s.attempt,
                    "result": s.result,
                    "error": s.error,
                    "progress": s.progress,
                }
                for s in steps
            ]
            value["events"] = list(events)
            admission = service.admission(operation_id)
            value["capacity"] = admission.as_dict() if admission is not None else None
            look = service.look(operation)
            value["look"] = look.as_dict() if look is not None else None
            steps_next: tuple[str, ...] = (
                (f"tenure op resume {operation.id}",) if operation.needs_resume else ()
            )
            if look is not None:
                steps_next = (f"tenure op confirm {operation.id}",)
            emit_json("operation", value, steps_next)
            return
        show_operation(context, service, operation)
        look = service.look(operation)
        if look is not None:
            click.echo("Look at this before you confirm:")
            for line in look.saw:
                click.echo(f"  {line}")
            for difference in look.differences:
                click.echo(f"  differs: {difference.message}. Fix: {difference.fix}")
        click.echo(table(("step", "state", "attempt"), [(s.name, str(s.state), s.attempt) for s in steps]))
        for event in sorted(events, key=lambda e: str(e["at"])):
            click.echo(_line(event))


@op.command("watch")
@click.argument("operation_id")
@click.option("--poll", "poll_s", default=0.5, show_default=True, help="Seconds between looks.")
@json_option
@pass_context
def watch(context: Context, operation_id: str, poll_s: float) -> None:
    """Follow an operation's events until it ends. Ctrl-C stops watching, not the operation."""
    with context.service() as service:
        since = 0
        while True:
            operation, _ = service.operation(operation_id)
            for event in service.events(operation_id, since=since):
                since = event["seq"]
                if context.as_json:
                    emit_line(event)
                else:
                    click.echo(_line(event))
            if not operation.state.active or operation.state is OperationState.AWAITING:
                raise_unless_successful(operation)
                return
            time.sleep(poll_s)  # the watcher's own pace; Ctrl-C ends it


@op.command("resume")
@click.argument("operation_id")
@json_option
@pass_context
def resume(context: Context, operation_id: str) -> None:
    """Carry an interrupted operation on, here and now."""
    with context.service() as service:
        operation = service.resume(operation_id, context.observer())
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
    if operation.state.active:
        raise_unless_successful(operation)


def _line(event: Mapping[str, Any]) -> str:
    return f"{event['at']}  {event['action']}  {json.dumps(event['data'], default=str)}"
