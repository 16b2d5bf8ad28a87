"""`tenure backup`: take backups of a tenant, see what there is, verify it, and let go of what may go."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from tenure.cli import backup_output as shown
from tenure.cli.context import Context, here_option, json_option, pass_context
from tenure.cli.exit_codes import EXIT_CODES
from tenure.cli.move import apply_option, operation_dict, plan_option, raise_unless_successful, show_outcome
from tenure.cli.output import emit_json, show_error, size
from tenure.errors import OperationFailed, VaultDamaged
from tenure.model.operation import Operation, OperationState


@click.group()
def backup() -> None:
    """Take backups of a tenant over all its stores, see what there is, verify it, and prune it."""


@backup.command("create")
@click.argument("tenant")
@plan_option
@apply_option
@here_option
@json_option
@pass_context
def create(context: Context, tenant: str, only_plan: bool, digest: str | None, here: bool) -> None:
    """Back a live tenant up at one point over all its stores. Its users wait for some milliseconds."""
    with context.service() as service:
        if only_plan:
            plan = service.backups.plan(tenant)
            steps = () if plan.refusals else (f"tenure backup create {tenant} --apply {plan.digest}",)
            _show_plan(context, shown.show_backup_plan(plan), plan.as_dict(), steps)
            if plan.refusals:
                sys.exit(4)
            return
        done = service.backups.create(tenant, apply=digest, observer=context.observer(), here=here)
    _show_operation(context, done)
    result = done.result or {}
    if not context.as_json and "backup" in result:
        click.echo(
            f"backup {result['backup']}: point {result['point_at']}, {result['items']:,} items, "
            f"{size(result['size_bytes'])}" + _sent(result.get("sent_bytes"))
        )
        click.echo(f"next: tenure backup verify {result['backup']}")
    raise_unless_successful(done)


@backup.command("list")
@click.argument("tenant", required=False)
@click.option("--all", "every", is_flag=True, help="Those that were given up or pruned as well.")
@json_option
@pass_context
def list_(context: Context, tenant: str | None, every: bool) -> None:
    """The backups of a tenant, or of all, the newest first. Torn ones are never listed as good."""
    with context.service() as service:
        found = service.backups.list(tenant, every=every)
    if context.as_json:
        emit_json("backups", {"backups": [shown.backup_dict(one) for one in found]})
    else:
        click.echo(shown.show_backups(found, datetime.now(UTC)))


@backup.command("show")
@click.argument("backup_", metavar="BACKUP")
@json_option
@pass_context
def show(context: Context, backup_: str) -> None:
    """Everything that is known of a backup; of a tenant's newest one where BACKUP is a tenant."""
    with context.service() as service:
        found = service.backups.get(backup_)
    steps = [f"tenure backup verify {found.id} --full"] if found.there else []
    if context.as_json:
        emit_json("backup", shown.backup_dict(found), steps)
        return
    click.echo(shown.show_backup(found))
    for step in steps:
        click.echo(f"next: {step}")


@backup.command("verify")
@click.argument("backup_", metavar="BACKUP")
@click.option("--full", is_flag=True, help="Every byte. Default: that every chunk is there, and a sample.")
@click.option("--region", help="Only in this region's vault.")
@click.option("--without-key", is_flag=True, help="Open nothing: compare with what the estate has signed.")
@json_option
@pass_context
def verify(context: Context, backup_: str, full: bool, region: str | None, without_key: bool) -> None:
    """Look whether a backup could be restored, without the tenant's cell; a tenant's newest one where BACKUP is a
    tenant."""
    with context.service() as service:
        record, found = service.backups.verify(
            backup_, region=region, full=full, with_key=not without_key, observer=context.observer()
        )
    if context.as_json:
        emit_json("verification", shown.checked_dict(record, found))
    else:
        click.echo(shown.show_checked(record, found))
    bad = [one for one in found if one.problems]
    if bad:
        where = ", ".join(one.region for one in bad)
        number = sum(len(one.problems) for one in bad)
        problem = VaultDamaged(
            f"backup {record.id} of {record.tenant} is not good in {where}: {number} problem(s)",
            hint=f"take a new one: tenure backup create {record.tenant}",
        )
        show_error(problem, as_json=False)
        sys.exit(EXIT_CODES[problem.code])


@backup.command("export")
@click.argument("backup_", metavar="BACKUP")
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="A folder that is new or empty.",
)
@click.option("--region", help="Rather from this region's vault.")
@json_option
@pass_context
def export(context: Context, backup_: str, folder: Path, region: str | None) -> None:
    """Write a backup as files that anybody reads (GDPR, Article 20): JSON Lines and Parquet, objects as they were; a
    tenant's newest one where BACKUP is a tenant.

    The files are readable for their owner only. `export.json`, written last, lists them with their digests.
    """
    with context.service() as service:
        record, done = service.backups.export(backup_, folder, region=region, observer=context.observer())
    rows, files = (sum(getattr(one, what) for one in done.collections) for what in ("rows", "files"))
    if context.as_json:
        emit_json("export", shown.export_dict(record, done))
    else:
        click.echo(
            f"{record.tenant} as it was at {done.point.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC: {rows:,} rows of "
            f"{len(done.collections)} collections and {files:,} files in {folder}"
        )
    if not done.complete:
        named = "; ".join(f"{one.store} {one.collection}: {one.reason}" for one in done.left_out)
        problem = OperationFailed(
            f"{len(done.left_out)} collection(s) of backup {record.id} could not be exported: {named}",
            hint="everything else is in the folder, and export.json says what is not",
        )
        show_error(problem, as_json=False)
        sys.exit(EXIT_CODES[problem.code])


@backup.command("prune")
@click.argument("tenant")
@plan_option
@apply_option
@here_option
@json_option
@pass_context
def prune(context: Context, tenant: str, only_plan: bool, digest: str | None, here: bool) -> None:
    """Delete the backups that the tenant's tier keeps no longer, and what nobody needs any more.

    Good ones that are always kept, locked ones, and everything under a legal hold stay.
    """
    with context.service() as service:
        if only_plan:
            plan = service.backups.plan_prune(tenant)
            steps = (f"tenure backup prune {tenant} --apply {plan.digest}",) if plan.deletes else ()
            _show_plan(context, shown.show_prune_plan(plan), plan.as_dict(), steps)
            return
        done = service.backups.prune(tenant, apply=digest, observer=context.observer(), here=here)
    _show_operation(context, done)
    result = done.result or {}
    if not context.as_json and done.state is OperationState.SUCCEEDED:
        freed = sum(its["size_bytes"] for its in result.get("collected", {}).values())
        click.echo(f"{len(result.get('deleted', ()))} deleted, {size(freed)} freed")
        for region, its in result.get("collected", {}).items():
            if "because" in its:
                click.echo(f"nothing freed in {region}: {its['because']}", err=True)
        for one in result.get("kept", ()):
            click.echo(f"kept {one['backup']} in {one['region']}: {one['because']}")
    raise_unless_successful(done)


@backup.command("drill")
@click.argument("backup_", metavar="[BACKUP]", required=False)
@click.option(
    "--in",
    "cell",
    metavar="CELL",
    help="Where to restore it. Default: a cell that has nothing of the tenant.",
)
@click.option("--region", help="From this region's vault.")
@here_option
@json_option
@pass_context
def drill(context: Context, backup_: str | None, cell: str | None, region: str | None, here: bool) -> None:
    """Restore a backup into a scratch place, compare it with what it was, measure, and remove it again; a tenant's
    newest one where BACKUP is a tenant.

    Without BACKUP: the last drills, with the time and the point of recovery that each has measured.
    """
    with context.service() as service:
        if backup_ is None:
            found = service.backups.drills()
            if context.as_json:
                emit_json("drills", {"drills": [shown.drill_dict(one) for one in found]})
            else:
                click.echo(shown.show_drills(found))
            return
        done = service.backups.drill(
            backup_, cell=cell, region=region, observer=context.observer(), here=here
        )
    _show_operation(context, done)
    result = done.result or {}
    if not context.as_json and "recovery_s" in result:
        click.echo(
            f"recovery time {result['recovery_s']:.1f} s, recovery point {result['recovery_point_s']:.0f} s ago, data "
            + ("equal" if result["equal"] else "DIFFERS")
        )
        for problem in result["problems"]:
            click.echo(f"  {problem}")
    raise_unless_successful(done)


def _sent(sent_bytes: int | None) -> str:
    return "" if sent_bytes is None else f", of which {size(sent_bytes)} were not in the vault yet"


def _show_plan(context: Context, text: str, value: dict[str, object], steps: tuple[str, ...]) -> None:
    if context.as_json:
        emit_json("plan", value, steps)
        return
    click.echo(text)
    for step in steps:
        click.echo(f"next: {step}")


def _show_operation(context: Context, done: Operation) -> None:
    steps = [f"tenure op resume {done.id}"] if done.needs_resume else []
    if context.as_json:
        emit_json("operation", operation_dict(done), steps)
        return
    show_outcome(done)
    for step in steps:
        click.echo(f"next: {step}")
