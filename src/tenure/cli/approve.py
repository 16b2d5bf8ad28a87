"""`tenure op approve`: the second person looks at a proposed operation's plan and agrees to exactly that."""

from __future__ import annotations

import click

from tenure.cli.context import Context, json_option, pass_context
from tenure.cli.erase import show_erase_plan
from tenure.cli.output import emit_json, show_plan
from tenure.errors import Declined
from tenure.plan.erase import ErasePlan


@click.command()
@click.argument("operation_id")
@click.option("--digest", metavar="DIGEST", help="The plan's digest, for scripts; otherwise it is asked for.")
@json_option
@pass_context
def approve(context: Context, operation_id: str, digest: str | None) -> None:
    """Approve the plan of an operation that somebody else has asked for. It begins when it is resumed."""
    with context.service() as service:
        plan = service.plan_to_approve(operation_id)
        if not context.as_json:
            click.echo(show_erase_plan(plan) if isinstance(plan, ErasePlan) else show_plan(plan))
        given = digest if digest is not None else _typed(operation_id, plan.digest)
        approval = service.approve(operation_id, plan, digest=given)
    steps = (f"tenure op resume {operation_id}",)
    if context.as_json:
        value = {
            "operation": operation_id,
            "plan_digest": approval.plan_digest,
            "approver": approval.approver,
            "approved_as": approval.approved_as,
            "at": approval.at.isoformat(),
            "expires_at": approval.expires_at.isoformat(),
            "plan": plan.as_dict(),
        }
        emit_json("approval", value, steps)
        return
    click.echo(
        f"{plan.kind} {operation_id} is approved by {approval.approver}: it may begin until "
        f"{approval.expires_at:%Y-%m-%d %H:%M} UTC"
    )
    for step in steps:
        click.echo(f"next: {step}")


def _typed(operation_id: str, digest: str) -> str:
    """What the approver types. Raises `Declined` if that is nothing or nobody is there."""
    try:
        typed: str = click.prompt(
            "Type the plan's digest to approve it", err=True, default="", show_default=False
        )
    except click.Abort:
        typed = ""
    if not typed:
        raise Declined(
            f"{operation_id} was not approved",
            hint=f"tenure op approve {operation_id} --digest {digest} approves it in scripts",
        )
    return typed
