"""`tenure migrate`, `rollback`, `complete`, `verify`: plans first, then what was agreed to."""

from __future__ import annotations

import sys
from typing import Any

import click

from tenure.cli.context import Context, confirm_by_name, here_option, json_option, pass_context
from tenure.cli.exit_codes import EXIT_CODES
from tenure.cli.output import emit_json, show_error, show_plan, table
from tenure.errors import (
    ApprovalNeeded,
    ConfirmationNeeded,
    OperationFailed,
    PlanStale,
    RolledBack,
    StillRunning,
    TargetUnfit,
    TenureError,
    UnknownName,
)
from tenure.model.operation import Operation, OperationState
from tenure.operations.status import TenantStatus
from tenure.operations.watch import Outcome, WatchReport
from tenure.plan.move import Plan
from tenure.service import Service

plan_option = click.option(
    "--plan", "only_plan", is_flag=True, help="Show the plan, its digest and predictions; change nothing."
)
apply_option = click.option(
    "--apply", "digest", metavar="DIGEST", help="Go on only if the plan still has this digest."
)


@click.command()
@click.argument("tenant")
@click.option("--to", "target", required=True, metavar="CELL", help="The cell to move to.")
@click.option(
    "--canary/--no-canary",
    default=None,
    help="Whether a growing share of the reads tries the target before the switch. Default: as the tenant's tier says.",
)
@plan_option
@apply_option
@here_option
@json_option
@pass_context
def migrate(
    context: Context,
    tenant: str,
    target: str,
    canary: bool | None,
    only_plan: bool,
    digest: str | None,
    here: bool,
) -> None:
    """Move a live tenant to another cell. Its former cell follows afterwards, so that it can be rolled back.

    Workers that live carry it on; this command then only follows it, and Ctrl-C ends the following.
    """
    with context.service() as service:
        if only_plan:
            plan = service.plan_migrate(tenant, target, canary=canary)
            chosen = "" if canary is None else " --canary" if canary else " --no-canary"
            _show_plan(context, plan, f"tenure migrate {tenant} --to {target}{chosen} --apply {plan.digest}")
            return
        operation = service.migrate(
            tenant, target, apply=digest, observer=context.observer(), canary=canary, here=here
        )
        _finish(context, service, operation)


@click.command()
@click.argument("tenant")
@plan_option
@apply_option
@click.option(
    "--rehearse", is_flag=True, help="Do everything but the switch, and say what the hold would take."
)
@json_option
@pass_context
def rollback(context: Context, tenant: str, only_plan: bool, digest: str | None, rehearse: bool) -> None:
    """Take a tenant back to the cell it came from. Nothing that was written since is lost.

    It runs in this process and at once, whatever the fleet, its broker or its queues are like.
    """
    if rehearse and (only_plan or digest is not None):
        raise click.UsageError("--rehearse goes with neither --plan nor --apply")
    with context.service() as service:
        if rehearse:
            _finish(context, service, service.rehearse_rollback(tenant, observer=context.observer()))
            return
        if only_plan:
            plan = service.plan_rollback(tenant)
            _show_plan(context, plan, f"tenure rollback {tenant} --apply {plan.digest}")
            return
        operation = service.rollback(tenant, apply=digest, observer=context.observer())
        _finish(context, service, operation)


@click.command()
@click.argument("tenant")
@plan_option
@apply_option
@click.option("--yes", metavar="NAME", help="The tenant's id again, for scripts.")
@here_option
@json_option
@pass_context
def complete(
    context: Context, tenant: str, only_plan: bool, digest: str | None, yes: str | None, here: bool
) -> None:
    """End a move: destroy the copy in the cell that no longer serves the tenant. There is no rollback after it."""
    with context.service() as service:
        plan = service.plan_complete(tenant)
        if only_plan:
            _show_plan(context, plan, f"tenure complete {tenant} --apply {plan.digest} --yes {tenant}")
            return
        items = sum(s.items for s in plan.stores)
        what = f"This destroys {items:,} items of {tenant} in {plan.target}; {plan.source} keeps serving it."
        confirm_by_name(tenant, yes, what)
        operation = service.complete(tenant, apply=digest, observer=context.observer(), here=here)
        _finish(context, service, operation)


@click.command()
@click.argument("tenant")
@click.option("--repair", is_flag=True, help="Make the side that does not serve equal to the one that does.")
@here_option
@json_option
@pass_context
def verify(context: Context, tenant: str, repair: bool, here: bool) -> None:
    """Compare every row, key, object and vector of a tenant on both sides of its move."""
    with context.service() as service:
        operation = service.verify(tenant, repair=repair, observer=context.observer(), here=here)
        _finish(context, service, operation)


@click.command()
@click.argument("tenant")
@click.option(
    "--for", "for_s", type=click.FloatRange(min=1), metavar="SECONDS", help="Default: until the soak ends."
)
@json_option
@pass_context
def watch(context: Context, tenant: str, for_s: float | None) -> None:
    """Watch what a moved tenant's users get; roll it back on a regression where its tier asks for that."""
    with context.service() as service:
        report = service.watch(tenant, for_s=for_s, observer=context.observer())
        status = service.status(tenant)
    if context.as_json:
        emit_json("watch", {**report.as_dict(), "sentence": status.sentence}, status.next_steps)
    else:
        _show_watch(report)
        click.echo(status.sentence)
        for step in status.next_steps:
            click.echo(f"next: {step}")
    problem = _watch_problem(report)
    if problem is not None:
        show_error(problem, as_json=False)
        sys.exit(EXIT_CODES[problem.code])


def _watch_problem(report: WatchReport) -> TenureError | None:
    """What makes a watch end with another code than 0; the report itself has been shown on stdout by then."""
    reasons = "; ".join(r for verdict in report.verdicts.values() for r in verdict.reasons)
    if report.outcome is Outcome.ROLLED_BACK:
        return RolledBack(
            f"{report.tenant} was rolled back from {report.cell}: {reasons}",
            hint=f"look at {report.cell}'s app, then migrate again",
        )
    if report.outcome is Outcome.REGRESSED:
        next_step = f"op show {report.rollback.id}" if report.rollback else f"rollback {report.tenant} --plan"
        return TargetUnfit(
            f"{report.cell} does not serve {report.tenant} well enough: {reasons}", hint=f"tenure {next_step}"
        )
    return None


def _show_watch(report: WatchReport) -> None:
    click.echo(f"{report.tenant} in {report.cell}: {report.outcome} after {report.seconds:.0f} s")
    rows = [
        (kind, str(v.state), v.seen.answered, v.seen.failed, f"{v.seen.quantile_ms(0.99):.0f}")
        for kind, v in report.verdicts.items()
    ]
    click.echo(table(("requests", "verdict", "answered", "failed", "p99, ms"), rows))


def _show_plan(context: Context, plan: Plan, command: str) -> None:
    steps = () if plan.refusals else (command,)
    if context.as_json:
        emit_json("plan", plan.as_dict(), steps)
    else:
        click.echo(show_plan(plan))
        for step in steps:
            click.echo(f"next: {step}")
    if plan.refusals:
        sys.exit(4)


def operation_dict(operation: Operation) -> dict[str, Any]:
    return {
        "operation": operation.id,
        "operation_kind": operation.kind,
        "tenant": operation.tenant,
        "state": str(operation.state),
        "phase": operation.phase,
        "request": dict(operation.request),
        "plan_digest": operation.plan_digest,
        "requested_by": operation.requested_by,
        "requested_as": operation.requested_as,
        "needs_approval": operation.approval_identity,
        "created_at": operation.created_at.isoformat(),
        "started_at": operation.started_at.isoformat() if operation.started_at else None,
        "committed_at": operation.committed_at.isoformat() if operation.committed_at else None,
        "finished_at": operation.finished_at.isoformat() if operation.finished_at else None,
        "result": dict(operation.result or {}),
        "error": dict(operation.error) if operation.error else None,
        "cost": dict(operation.cost or {}),
    }


def status_of(service: Service, operation: Operation) -> TenantStatus | None:
    """Where the operation's tenant is; None for one that has none, or whose tenant is not registered any more."""
    if operation.tenant is None:
        return None
    try:
        return service.status(operation.tenant)
    except UnknownName:
        return None


def show_operation(context: Context, service: Service, operation: Operation) -> None:
    """The outcome on stdout: what happened, the comparison, and one sentence on where traffic goes now."""
    status = status_of(service, operation)
    next_steps = list(status.next_steps) if status else []
    if operation.state is OperationState.PROPOSED:
        next_steps = list(service.proposal(operation)[1])
    if operation.needs_resume:
        next_steps.insert(0, f"tenure op resume {operation.id}")
    if context.as_json:
        value = operation_dict(operation)
        value["sentence"] = status.sentence if status else ""
        emit_json("operation", value, next_steps)
        return
    show_outcome(operation)
    if status:
        click.echo(status.sentence)
    for step in next_steps:
        click.echo(f"next: {step}")


def show_outcome(operation: Operation) -> None:
    """What has happened, as far as it has: state, hold, comparison, cost."""
    click.echo(f"{operation.kind} {operation.id}: {operation.state}")
    result = operation.result or {}
    if "hold_ms" in result:
        click.echo(
            f"hold {result['hold_ms']:.1f} ms, {result['requests_held']} requests waited, "
            f"the longest {result['longest_wait_ms']:.1f} ms"
        )
    if "predicted_hold_ms" in result:
        longest_first = sorted(result["parts_ms"].items(), key=lambda part: -part[1])
        parts = ", ".join(f"{name} {ms:.1f}" for name, ms in longest_first)
        click.echo(
            f"a rollback would hold requests for about {result['predicted_hold_ms']:.1f} ms ({parts}), "
            f"after {result['prepare_s']:.1f} s of preparation"
        )
    if result.get("stores"):
        rows = [
            (n, c["processed"], c["matching"], c["mismatched"], c["missing"], c["extra"])
            for n, c in result["stores"].items()
        ]
        click.echo(table(("store", "processed", "matching", "mismatched", "missing", "extra"), rows))
    for difference in result.get("differences", [])[:50]:
        click.echo(
            f"  {difference['kind']}: {difference['store']} {difference['collection']} {difference['key']}"
        )
    if operation.cost:
        click.echo(f"cost {operation.cost['total']:.2f} {operation.cost['currency']}")


def _finish(context: Context, service: Service, operation: Operation) -> None:
    show_operation(context, service, operation)
    raise_unless_successful(operation)


def raise_unless_successful(operation: Operation) -> None:
    """Exit with the documented code when the operation did not do what it was asked to.

    The operation itself has been shown on stdout by then; the reason goes to stderr.
    """
    problem = _problem(operation)
    if problem is None:
        return
    show_error(problem, as_json=False)
    sys.exit(EXIT_CODES[problem.code])


def _problem(operation: Operation) -> TenureError | None:
    error = dict(operation.error or {})
    message, hint = str(error.get("message", "")), error.get("hint")
    if operation.state in (OperationState.ABORTED, OperationState.FAILED):
        kind = PlanStale if error.get("code") == PlanStale.code else OperationFailed
        return kind(f"{operation.kind} {operation.id} {operation.state}: {message}", hint=hint)
    if operation.state is OperationState.PROPOSED:
        return ApprovalNeeded(
            f"{operation.kind} {operation.id} has not begun: its plan {operation.plan_digest} needs the approval of a "
            "second person",
            hint=f"tenure op show {operation.id}",
        )
    if operation.state is OperationState.AWAITING:
        return ConfirmationNeeded(
            f"{operation.kind} {operation.id} waits for somebody: {operation.data['question']}",
            hint=f"tenure op show {operation.id}",
        )
    if operation.state.active:
        return StillRunning(
            f"{operation.kind} {operation.id} stopped at {operation.phase}: {message}",
            hint=f"tenure op resume {operation.id}",
        )
    return None
