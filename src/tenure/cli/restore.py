"""`tenure restore`: a backup's state of a tenant, in place, into another cell, or under another name."""

from __future__ import annotations

import sys
from typing import Any

import click

from tenure.cli.context import Context, confirm_by_name, here_option, json_option, pass_context
from tenure.cli.move import (
    apply_option,
    operation_dict,
    plan_option,
    raise_unless_successful,
    show_outcome,
    status_of,
)
from tenure.cli.output import emit_json, size, table
from tenure.model.operation import Operation
from tenure.operations.restoring import Wish
from tenure.plan.restore import RestorePlan
from tenure.plan.restore_steps import Mode
from tenure.service import Service

SHOWN_KEYS = 5


@click.command()
@click.argument("backup")
@click.option(
    "--to",
    metavar="CELL",
    help="Restore into this cell, which has nothing of the tenant, and serve it there.",
)
@click.option(
    "--erase-former",
    is_flag=True,
    help="With --to: delete in the end what the cell that served the tenant has. Default: it stays there, closed.",
)
@click.option("--as", "name", metavar="NAME", help="Restore as a new tenant of this name.")
@click.option("--host", help="The new tenant's host name. Default: as the gateway's domain gives it.")
@click.option("--tier", help="The new tenant's tier. Default: the backup's.")
@click.option("--store", "stores", multiple=True, metavar="STORE", help="Only this store; may be repeated.")
@click.option(
    "--table",
    "tables",
    multiple=True,
    metavar="NAME",
    help="Only this table, or other collection, as plans name it; may be repeated.",
)
@click.option(
    "--row",
    "--object",
    "items",
    multiple=True,
    metavar="KEY",
    help="Only this row, key or object: its key as plans name it, or the last part of it; may be repeated.",
)
@plan_option
@apply_option
@click.option("--yes", metavar="NAME", help="The tenant's id again, for scripts.")
@here_option
@json_option
@pass_context
def restore(
    context: Context,
    backup: str,
    to: str | None,
    erase_former: bool,
    name: str | None,
    host: str | None,
    tier: str | None,
    stores: tuple[str, ...],
    tables: tuple[str, ...],
    items: tuple[str, ...],
    only_plan: bool,
    digest: str | None,
    yes: str | None,
    here: bool,
) -> None:
    """Restore a backup; a tenant's newest one where BACKUP is a tenant.

    Without --to and --as it is restored in place: what is live is backed up first, then made as in the backup while the
    tenant's requests wait. The plan shows what would be different.
    """
    if (host or tier) and name is None:
        raise click.UsageError("--host and --tier go with --as")
    wish = Wish(
        backup=backup,
        to=to,
        name=name,
        host=host,
        tier=tier,
        stores=stores,
        tables=tables,
        items=items,
        erase_former=erase_former,
    )
    with context.service() as service:
        if only_plan:
            _show(context, service.restores.plan(wish), _command(wish))
            return
        if digest is None and name is None:
            plan = service.restores.plan(wish)
            confirm_by_name(plan.tenant, yes, _what(plan))
            digest = plan.digest
        done = service.restores.restore(wish, apply=digest, observer=context.observer(), here=here)
        _show_done(context, service, done)
    raise_unless_successful(done)


def _what(plan: RestorePlan) -> str:
    removed = sum(c.removed for c in plan.changes)
    changed = sum(c.changed for c in plan.changes)
    where = "" if plan.mode is Mode.IN_PLACE else f", and makes {plan.target} serve it"
    return (
        f"This makes {plan.tenant} what it was on {plan.backup.point:%Y-%m-%d %H:%M:%S} UTC{where}: "
        f"{changed:,} items go back to what they were, {removed:,} that came since are discarded."
    )


def _command(wish: Wish) -> str:
    parts = [f"tenure restore {wish.backup}"]
    for option, value in (
        ("--to", wish.to),
        ("--as", wish.name),
        ("--host", wish.host),
        ("--tier", wish.tier),
    ):
        parts += [f"{option} {value}"] if value is not None else []
    parts += ["--erase-former"] if wish.erase_former else []
    for option, values in (("--store", wish.stores), ("--table", wish.tables), ("--row", wish.items)):
        parts += [f"{option} {_quoted(value)}" for value in values]
    return " ".join(parts)


def _quoted(value: str) -> str:
    return value if value.replace("_", "a").replace(".", "a").isalnum() else f"'{value}'"


def _show(context: Context, plan: RestorePlan, command: str) -> None:
    steps = () if plan.refusals else (f"{command} --apply {plan.digest}",)
    if context.as_json:
        emit_json("plan", plan.as_dict(), steps)
    else:
        click.echo(show_restore_plan(plan))
        for step in steps:
            click.echo(f"next: {step}")
    if plan.refusals:
        sys.exit(4)


def show_restore_plan(plan: RestorePlan) -> str:
    """The plan as people read it."""
    backup = plan.backup
    lines = [
        f"restore {backup.id} of {backup.tenant} ({backup.point:%Y-%m-%d %H:%M:%S} UTC, {backup.items:,} items, "
        f"{size(backup.size_bytes)}) for {plan.tenant}: {plan.mode.value}, {plan.target}   "
        f"(plan {plan.digest}, placement epoch {plan.epoch})",
        "",
        "Steps:",
    ]
    passed = False
    for number, step in enumerate(plan.steps, 1):
        if step.after_commit and not passed:
            lines.append("     ---- the point of no return lies in the step above ----")
            passed = True
        lines.append(f"  {number}. {step.name:<10} {step.does}")
    lines += ["", *_changes(plan), ""]
    lines += [f"Schema of {path.sentence}" for path in plan.schemas]
    if plan.findings:
        lines += ["", "Findings:"]
        for f in plan.findings:
            lines.append(f"  {f.severity:<8} {f.where}: {f.message}. Fix: {f.fix}")
            lines += [f"           $ {line}" for line in f.command.splitlines()]
    p = plan.prediction
    lines += [
        "",
        f"Predicted: staging {p.stage_s:.1f} s, loading {p.load_s:.1f} s, comparison {p.compare_s:.1f} s, hold "
        f"{p.hold_ms:.0f} ms, in all {p.total_s:.1f} s, {size(p.bytes_moved)}, {p.cost.total:.2f} {p.cost.currency}",
        f"  ({p.basis})",
    ]
    if plan.refusals:
        lines.append("This plan is refused: mend the findings above and plan again.")
    return "\n".join(lines)


def _changes(plan: RestorePlan) -> list[str]:
    changed = [c for c in plan.changes if c.items]
    if not changed:
        return ["Nothing would be different."]
    rows = [(c.store, c.collection, c.in_backup, c.added, c.changed, c.removed) for c in changed]
    lines = [table(("store", "collection", "in backup", "come back", "change", "go"), rows)]
    for change in changed:
        for kind, keys in (change.named or {}).items():
            more = f" and {getattr(change, kind) - len(keys[:SHOWN_KEYS])} more"
            if keys:
                shown = ", ".join(keys[:SHOWN_KEYS])
                lines.append(
                    f"  {change.collection} {kind}: {shown}{more if getattr(change, kind) > SHOWN_KEYS else ''}"
                )
    return lines


def _show_done(context: Context, service: Service, done: Operation) -> None:
    """The outcome, what it changed, and where traffic goes now; an aborted restore of a new tenant leaves none."""
    status = status_of(service, done)
    steps = [f"tenure op resume {done.id}"] if done.needs_resume else []
    steps += status.next_steps if status is not None else []
    sentence = status.sentence if status is not None else f"{done.tenant} is no tenant."
    if context.as_json:
        emit_json("operation", {**operation_dict(done), "sentence": sentence}, steps)
        return
    show_outcome(done)
    for line in _result(done.result or {}):
        click.echo(line)
    click.echo(sentence)
    for step in steps:
        click.echo(f"next: {step}")


def _result(result: dict[str, Any] | Any) -> list[str]:
    lines = []
    for change in result.get("changes", ()):
        lines.append(
            f"{change['store']} {change['collection']}: {change['added']} came back, {change['changed']} changed, "
            f"{change['removed']} went"
        )
    if "protected_by" in result:
        lines.append(f"what was live before is backup {result['protected_by']}")
    if "left_in" in result:
        lines.append(f"the former copy in {result['left_in']} stays there, closed to the tenant's writes")
    return lines
