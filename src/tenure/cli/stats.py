"""`tenure op stats`: the success record per kind of route, beside the targets."""

from __future__ import annotations

import click

from tenure.cli.context import Context, json_option, pass_context
from tenure.cli.output import emit_json, table
from tenure.model.record import RouteRecord, Spread
from tenure.service import RouteStats

KINDS = ("migrate", "rollback", "rehearse", "complete")


@click.command()
@click.option(
    "--last", default=100, show_default=True, type=click.IntRange(1, 10_000), help="Operations per route."
)
@click.option("--kind", default="migrate", show_default=True, type=click.Choice(KINDS), help="Of operations.")
@json_option
@pass_context
def stats(context: Context, last: int, kind: str) -> None:
    """How the last operations went per kind of route: outcomes, durations, holds and costs, beside the targets."""
    with context.service() as service:
        found = service.stats(kind, last=last)
    if context.as_json:
        routes = [
            {**f.record.as_dict(), "targets": {name: j.as_dict() for name, j in f.judged.items()}}
            for f in found
        ]
        emit_json("stats", {"operation_kind": kind, "last": last, "routes": routes})
        return
    click.echo(table(_HEADERS, [_row(f.record) for f in found]))
    for line in (line for f in found for line in _judged(f)):
        click.echo(line)


_HEADERS = (
    *("route", "ended", "succeeded", "rolled back", "aborted", "failed", "stuck", "rate"),
    *("duration, s", "hold, ms", "rollback, s", "cost", "attempts"),
)
"""Of what is spread: the median and the 95th percentile."""


def _row(record: RouteRecord) -> tuple[object, ...]:
    return (
        record.route_kind.replace("_", "-"),
        record.number,
        record.succeeded,
        record.rolled_back,
        record.aborted,
        record.failed,
        record.stuck,
        "-" if record.rate is None else f"{record.rate:.1%}",
        *(
            _shown(s)
            for s in (record.duration_s, record.hold_ms, record.rollback_s, record.cost, record.attempts)
        ),
    )


def _shown(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.p50:,.1f} / {spread.p95:,.1f}"


def _judged(found: RouteStats) -> list[str]:
    where = found.record.route_kind.replace("_", "-")
    return [
        f"{where}: {name} {'-' if j.actual is None else f'{j.actual:,.4g}'}, target {j.target:,.4g}: {j.verdict}"
        for name, j in found.judged.items()
        if found.record.number
    ]
