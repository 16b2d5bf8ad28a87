"""`tenure soak check`: what the links of moved tenants are like, and an end to those that are over."""

from __future__ import annotations

import click

from tenure.cli.context import Context, json_option, pass_context
from tenure.cli.move import raise_unless_successful
from tenure.cli.output import emit_json, table
from tenure.service import SoakReport


@click.group()
def soak() -> None:
    """Look after the time between a switch and its completion."""


@soak.command("check")
@click.argument("tenant", required=False)
@click.option("--plan", "only_plan", is_flag=True, help="Show what would be ended; change nothing.")
@json_option
@pass_context
def check(context: Context, tenant: str | None, only_plan: bool) -> None:
    """End every soak that is over, or whose copies keep more WAL than allowed. No data is destroyed.

    Without TENANT all of them are checked. What is ended cannot be rolled back any more, only completed.
    """
    with context.service() as service:
        reports = service.check_soaks(tenant, end=not only_plan, observer=context.observer())
    steps = tuple(f"tenure complete {r.state.link.tenant} --plan" for r in reports if r.ended is not None)
    if context.as_json:
        emit_json("soaks", {"soaks": [_as_dict(report) for report in reports]}, steps)
    else:
        rows = [
            (r.state.link.tenant, r.state.serves, r.state.follows, f"{r.state.retained_bytes:,}", _said(r))
            for r in reports
        ]
        click.echo(table(("tenant", "served by", "followed by", "WAL kept", "state"), rows))
        for step in steps:
            click.echo(f"next: {step}")
    for report in reports:
        if report.ended is not None:
            raise_unless_successful(report.ended)


def _said(report: SoakReport) -> str:
    state = report.state
    if report.ended is not None:
        return f"ended by {report.ended.id}: {state.link.expired_because}"
    if state.link.expired_because is not None:
        return f"over: {state.link.expired_because}"
    if state.over is not None:
        return f"to be ended: {state.over}" + (f" (in {report.busy.id} now)" if report.busy else "")
    return "; ".join(state.problems) or "follows"


def _as_dict(report: SoakReport) -> dict[str, object]:
    state = report.state
    return {
        "tenant": state.link.tenant,
        "serves": state.serves,
        "follows": state.follows,
        "state": str(state.link.state),
        "soak_until": state.link.soak_until,
        "retained_bytes": state.retained_bytes,
        "lag_bytes": state.lag_bytes,
        "problems": list(state.problems),
        "over": state.over,
        "ended_by": report.ended.id if report.ended else None,
        "left": list(report.ended.result.get("left", ())) if report.ended else [],
        "said": _said(report),
    }
