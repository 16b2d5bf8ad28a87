"""`tenure audit`: what anybody has done, and whether the log of it is still what was written."""

from __future__ import annotations

import shlex
import sys
from datetime import UTC
from pathlib import Path

import click

from tenure.cli.context import Context, json_option, pass_context
from tenure.cli.exit_codes import EXIT_CODES
from tenure.cli.output import emit_json, show_error
from tenure.errors import AuditBroken, UsageError
from tenure.registry.audit import Head
from tenure.service import event_dict

_SHOWN = 10


@click.group()
def audit() -> None:
    """Show what anybody has done, and prove that the log of it is what was written."""


@audit.command("show")
@click.argument("tenant", required=False)
@click.option("--operation", metavar="ID", help="Only of this operation.")
@click.option(
    "--since", metavar="SEQ", type=click.IntRange(min=0), default=0, help="Only what came after this entry."
)
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=1_000, show_default=True, help="How many at most."
)
@json_option
@pass_context
def show(context: Context, tenant: str | None, operation: str | None, since: int, limit: int) -> None:
    """The log in its order: of one tenant, of one operation, or all of it."""
    with context.service() as service:
        found = service.audit_log(tenant, operation=operation, since=since, limit=limit)
    more = None
    if len(found) == limit:
        only = [tenant] if tenant else []
        only += ["--operation", operation] if operation else []
        more = shlex.join(
            ["tenure", "audit", "show", *only, "--since", str(found[-1].seq), "--limit", str(limit)]
        )
    if context.as_json:
        entries = [{**event_dict(e), "operation": e.operation, "tenant": e.tenant} for e in found]
        emit_json("audit", {"entries": entries}, [more] if more else [])
        return
    for e in found:
        at = f"{e.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
        click.echo(
            "  ".join(word for word in (f"{e.seq:>8}", at, e.actor, e.action, e.tenant, e.operation) if word)
        )
    if more:
        click.echo(f"next: {more}")


@audit.command("head")
@json_option
@pass_context
def head(context: Context) -> None:
    """The newest entry, by which the log can be checked later.

    Keep it where nobody can write who owns the control database."""
    with context.service() as service:
        found = service.audit.head()
    if context.as_json:
        emit_json("audit_head", {"head": None if found is None else str(found)})
    elif found is not None:
        click.echo(str(found))


@audit.command("verify")
@click.option(
    "--head", "heads", metavar="HEAD", multiple=True, help="A head that was kept (`tenure audit head`)."
)
@click.option(
    "--heads-from",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A file with a head on every line.",
)
@json_option
@pass_context
def verify(context: Context, heads: tuple[str, ...], heads_from: Path | None) -> None:
    """Compute every hash of the log again. With heads that were kept elsewhere also a log that was cut off, or written
    anew from its beginning, is seen. Exits with 5 and names each place where the log is not what was written."""
    kept = [Head.parse(text) for text in (*heads, *_lines(heads_from))]

    def shown(done: int, of: int) -> None:
        if not context.quiet and done < of:
            click.echo(f"{done:,} of {of:,} entries, {done * 100 // of} %", err=True)

    with context.service() as service:
        found = service.audit.verify(kept, progress=shown)
    if context.as_json:
        value = {
            "entries": found.entries,
            "head": None if found.head is None else str(found.head),
            "heads_compared": len(kept),
            "breaks": [{"seq": b.seq, "message": b.message} for b in found.breaks],
        }
        emit_json("audit_verification", value)
    elif not found.breaks:
        against = f", and agree with {len(kept)} kept head(s)" if kept else ""
        click.echo(f"{found.entries:,} entries are what was written{against}; head {found.head or 'none'}")
        if not kept:
            click.echo(
                "next: keep that head elsewhere: only against one does it show if the log's end is cut off"
            )
    if found.breaks:
        first = "; ".join(b.message for b in found.breaks[:_SHOWN])
        problem = AuditBroken(
            f"the audit log is not what was written, in {len(found.breaks)} place(s): {first}",
            hint="find out who could write to the control database; a backup of it has the entries as they were",
        )
        show_error(problem, as_json=False)
        sys.exit(EXIT_CODES[problem.code])


def _lines(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        found = [line for line in file.read_text("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is no text", hint="give a file with a head on every line") from error
    if not found:
        raise UsageError(f"{file} has no head", hint="`tenure audit head >> FILE` adds one")
    return found
