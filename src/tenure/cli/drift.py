"""`tenure drift`: what is routed against what should be, and mending it."""

from __future__ import annotations

import sys

import click

from tenure.cli.context import Context, json_option, pass_context
from tenure.cli.exit_codes import EXIT_CODES
from tenure.cli.output import emit_json, table
from tenure.errors import RouteDrifted
from tenure.operations.drift import Survey


@click.command()
@click.argument("tenant", required=False)
@click.option(
    "--repair", is_flag=True, help="Route what differs as it is placed, and lead names to the gateway again."
)
@json_option
@pass_context
def drift(context: Context, tenant: str | None, repair: bool) -> None:
    """Look at what really happens to the requests of one tenant, or of all, and name what differs, with the fix.

    Asks every instance of the gateway, the name server, and a request such as users make. Exits with 5 if anything
    differs. Tenants in the middle of an operation are listed and not looked at.
    """
    with context.service() as service:
        found = service.drift(tenant)
        if repair:
            chosen = [look.tenant for look in found.looks if look.differences]
            if chosen:
                service.repair(chosen)
            found = service.drift(tenant)
    _show(context, found)
    if any(look.differences for look in found.looks):
        sys.exit(EXIT_CODES[RouteDrifted.code])


def _show(context: Context, found: Survey) -> None:
    differing = [(look, d) for look in found.looks for d in look.differences]
    fixes = tuple(dict.fromkeys(d.fix for _, d in differing))
    if context.as_json:
        value = {
            "tenants": [look.as_dict() for look in found.looks],
            "moving": {str(t): what for t, what in found.moving.items()},
        }
        emit_json("drift", value, tuple(fix for fix in fixes if fix.startswith("tenure ")))
        return
    if differing:
        rows = [(look.tenant, look.cell, d.where, d.message, d.fix) for look, d in differing]
        click.echo(table(("tenant", "placed in", "where", "differs", "fix"), rows))
    else:
        click.echo(f"{len(found.looks)} tenant(s) looked at: all are routed as they are placed.")
    for moving, what in found.moving.items():
        click.echo(f"{moving}: not looked at, it is in {what}")
