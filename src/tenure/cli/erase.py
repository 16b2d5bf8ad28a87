"""`tenure erase`: a tenant from every store of every cell, its backups included; and the board of requests."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import click

from tenure.cli.context import Context, confirm_by_name, here_option, json_option, pass_context
from tenure.cli.move import apply_option, operation_dict, plan_option, raise_unless_successful, show_outcome
from tenure.cli.output import emit_json, size, table
from tenure.model.operation import Operation, OperationState
from tenure.operations.erase.request import GROUNDS, ROLES
from tenure.operations.erasing import Wish
from tenure.plan.erase import CLOSING, STEPS, ErasePlan
from tenure.service import Service


@click.group()
def erase() -> None:
    """Erase a tenant from every store and its backups, prove it, and see which requests are due."""


@erase.command("tenant")
@click.argument("tenant")
@click.option(
    "--request", metavar="REF", help="The reference of the request, such as a ticket's. No person's name."
)
@click.option(
    "--role", type=click.Choice(ROLES), default="processor", show_default=True, help="As what you erase it."
)
@click.option(
    "--ground",
    type=click.Choice(list(GROUNDS)),
    default="end-of-contract",
    show_default=True,
    help="On which ground of the GDPR.",
)
@click.option(
    "--received", type=click.DateTime(["%Y-%m-%d"]), help="The day the request was received. Default: today."
)
@click.option(
    "--due",
    type=click.DateTime(["%Y-%m-%d"]),
    help="The day it is due. Default: a month after it was received.",
)
@plan_option
@apply_option
@click.option("--yes", metavar="NAME", help="The tenant's id again, for scripts.")
@here_option
@json_option
@pass_context
def tenant_(
    context: Context,
    tenant: str,
    request: str | None,
    role: str,
    ground: str,
    received: datetime | None,
    due: datetime | None,
    only_plan: bool,
    digest: str | None,
    yes: str | None,
    here: bool,
) -> None:
    """Erase everything of a tenant, for good, and hand over a signed certificate.

    It is closed first, then deleted from every store of every cell; the keys of its backups are destroyed; then every
    store is searched, documented places and others. Anything found withholds the certificate.
    """
    with context.service() as service:
        plan = service.erasures.plan(tenant)
        if only_plan:
            _show_plan(context, plan, request)
            return
        if request is None:
            raise click.UsageError("--request REF is needed: the reference under which the request is known")
        confirm_by_name(plan.tenant, yes, _what(plan))
        wish = Wish(
            request=request,
            tenant=tenant,
            role=role,
            ground=ground,
            received=None if received is None else received.date(),
            due=None if due is None else due.date(),
        )
        done = service.erasures.erase(wish, apply=digest, observer=context.observer(), here=here)
        waits = _show_done(context, service, done)
    if not waits:
        raise_unless_successful(done)


@erase.command("status")
@click.argument("request", required=False)
@json_option
@pass_context
def status(context: Context, request: str | None) -> None:
    """The requests, those that are open first, by the day they are due."""
    with context.service() as service:
        found = service.erasures.board(request)
    if context.as_json:
        emit_json("erasures", {"requests": [one.as_dict() for one in found]})
        return
    for one in found:
        click.echo(one.sentence)
    if not found:
        click.echo("nobody has asked for an erasure")


@erase.command("recheck")
@click.argument("request")
@json_option
@pass_context
def recheck(context: Context, request: str) -> None:
    """Search once more for a tenant that was erased. Deletes nothing.

    What is found revokes the certificate and is named. If nothing is, a certificate that was revoked gets its corrected
    one, and an interim one whose date has come a final one. Exits with 5 if something is found.
    """
    with context.service() as service:
        done = service.erasures.recheck(request, observer=context.observer())
        status = service.erasures.board(request)[0]
    steps = [f"tenure certificate show {status.certificate.id}"] if status.certificate is not None else []
    if context.as_json:
        emit_json("operation", {**operation_dict(done), "sentence": status.sentence}, steps)
    else:
        show_outcome(done)
        click.echo(status.sentence)
        for step in steps:
            click.echo(f"next: {step}")
    raise_unless_successful(done)


@erase.command("cancel")
@click.argument("request")
@json_option
@pass_context
def cancel(context: Context, request: str) -> None:
    """Withdraw a request that has not begun to delete; the tenant goes on as it was."""
    with context.service() as service:
        operation = service.erasures.open_request(request).operation
        done = service.cancel(operation.id, context.observer())
        _show_done(context, service, done)
    if done.state is not OperationState.ABORTED:
        raise_unless_successful(done)


@erase.command("hold")
@click.argument("tenant")
@click.option("--because", required=True, metavar="TEXT", help="Why: a case, a claim (Article 17(3)(e)).")
@json_option
@pass_context
def hold(context: Context, tenant: str, because: str) -> None:
    """Put a tenant on legal hold: nothing of it is erased, and none of its backups is pruned."""
    with context.service() as service:
        held = service.erasures.hold(tenant, because)
    _show_hold(context, held.id, held.legal_hold)


@erase.command("release")
@click.argument("tenant")
@json_option
@pass_context
def release(context: Context, tenant: str) -> None:
    """Lift a tenant's legal hold. An erasure that was postponed by it goes on by itself."""
    with context.service() as service:
        held = service.erasures.hold(tenant, None)
    _show_hold(context, held.id, held.legal_hold)


def _show_hold(context: Context, tenant: str, because: str | None) -> None:
    if context.as_json:
        emit_json("legal_hold", {"tenant": tenant, "because": because})
    else:
        click.echo(f"{tenant} is on legal hold: {because}" if because else f"{tenant} is on no legal hold")


def _what(plan: ErasePlan) -> str:
    return (
        f"This destroys {plan.items:,} items and {plan.backups} backup(s) of {plan.tenant} in every store of every "
        "cell. Nobody can bring them back."
    )


def _show_plan(context: Context, plan: ErasePlan, request: str | None) -> None:
    steps: tuple[str, ...] = ()
    if not plan.refusals:
        reference = request or "REF"
        steps = (
            f"tenure erase tenant {plan.tenant} --request {reference} --apply {plan.digest} --yes {plan.tenant}",
        )
    if context.as_json:
        emit_json("plan", plan.as_dict(), steps)
    else:
        click.echo(show_erase_plan(plan))
        for step in steps:
            click.echo(f"next: {step}")
    if plan.refusals:
        sys.exit(4)


def show_erase_plan(plan: ErasePlan) -> str:
    """The plan as people read it."""
    lines = [
        f"erase {plan.tenant}, served by {plan.cell}   (plan {plan.digest}, epoch {plan.epoch})",
        "",
        "Steps:",
    ]
    for number, (name, does) in enumerate(STEPS, 1):
        lines.append(f"  {number}. {name:<8} {does}")
        if name == CLOSING:
            lines.append("     ---- the point of no return lies in the step above ----")
    rows = [(p.store, p.kind, p.cell, p.items, size(p.size_bytes), p.becomes) for p in plan.parts]
    lines += ["", table(("store", "kind", "cell", "items", "size", "becomes"), rows), ""]
    lines.append(f"{plan.items:,} items in all, and {plan.backups} backup(s).")
    if plan.cooling_off_h:
        lines.append(
            f"It waits {plan.cooling_off_h:g} h first, as its tier {plan.tier} says, and can be cancelled until then; "
            "nothing else is done with the tenant meanwhile, backups included."
        )
    if plan.lapses_at is not None:
        lines.append(f"The certificate is interim until {plan.lapses_at:%Y-%m-%d}: until then copies stay.")
    if plan.findings:
        lines += ["", "Findings:"]
        for f in plan.findings:
            lines.append(f"  {f.severity:<8} {f.where}: {f.message}. Fix: {f.cure}")
    if plan.refusals:
        lines.append("This plan is refused: mend the findings above and plan again.")
    return "\n".join(lines)


def _show_done(context: Context, service: Service, done: Operation) -> bool:
    """Show how it went; True where it only waits for the end of its cooling-off period."""
    status = next(s for s in service.erasures.board(str(done.request["id"])) if s.operation.id == done.id)
    cooling = done.state is OperationState.PARKED and not done.committed
    steps = []
    if cooling:
        steps = [f"tenure erase cancel {status.order.id}", f"tenure op resume {done.id}"]
    elif done.state is OperationState.AWAITING:
        steps = [f"tenure op confirm {done.id}"]
    elif done.needs_resume:
        steps = [f"tenure op resume {done.id}"]
    elif status.certificate is not None:
        steps = [f"tenure certificate show {status.certificate.id}"]
    if context.as_json:
        emit_json("operation", {**operation_dict(done), "sentence": status.sentence}, steps)
        return cooling
    show_outcome(done)
    click.echo(status.sentence)
    if cooling:
        until = done.created_at.astimezone(UTC)
        click.echo(f"it waits for {status.order.cooling_off_h:g} h from {until:%Y-%m-%d %H:%M} UTC on")
    for step in steps:
        click.echo(f"next: {step}")
    return cooling
