"""`tenure capacity`: what there is for moves in cells, stores and servers, who takes it, and who waits."""

from __future__ import annotations

import click

from tenure.cli.context import Context, json_option, pass_context
from tenure.cli.output import emit_json, table
from tenure.model.capacity import Scope
from tenure.operations.capacity import CapacityReport, Standing

_NAMED = 3


@click.command()
@json_option
@pass_context
def capacity(context: Context) -> None:
    """What may be under way at once in every cell, store and server: the limit, who takes it, who waits, who is next.

    Asks every server. What waits is listed in the order in which it is served.
    """
    with context.service() as service:
        report = service.capacity()
    if context.as_json:
        value = {
            "resources": [standing.as_dict() for standing in report.standings],
            "waiting": [admission.as_dict() for admission in report.waiting],
            "unmatched": list(report.unmatched),
        }
        emit_json("capacity", value)
        return
    _show(report)


def _show(report: CapacityReport) -> None:
    of = {admission.operation: admission.tenant or admission.operation for admission in report.waiting}
    rows = [
        (
            s.resource.name if s.resource.scope is not Scope.SERVER else f"server {s.resource.name}",
            str(s.resource.what),
            s.resource.amount(s.limit.most),
            s.resource.amount(s.used),
            _by(s),
            len(s.waiting),
            of[s.waiting[0]] if s.waiting else "",
        )
        for s in report.standings
    ]
    click.echo(table(("where", "what", "limit", "in use", "by", "waiting", "next"), rows))
    for admission in report.waiting:
        waits_for = admission.waits_for or "has just asked"
        click.echo(
            f"{admission.tenant} ({admission.tier}), {admission.waited_s:.0f} s: {admission.operation} {waits_for}"
            + ("" if admission.wanted else "; nobody waits for it now")
        )
    for server in report.unmatched:
        click.echo(
            f"tenure.yaml limits the server {server}, and no store is there: compare it with the names above"
        )


def _by(standing: Standing) -> str:
    names = list(dict.fromkeys(use.tenant or "links that have ended" for use in standing.by))
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
