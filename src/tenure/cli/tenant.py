"""`tenure tenant`: register tenants and see where they are."""

from __future__ import annotations

import click

from tenure.cli.context import Context, json_option, pass_context
from tenure.cli.output import emit_json, table
from tenure.model.tenancy import Tenant, TenantState


@click.group()
def tenant() -> None:
    """Register tenants and see where they are."""


@tenant.command("add")
@click.argument("name")
@click.option("--cell", required=True, help="The cell that serves it.")
@click.option("--tier", required=True)
@click.option(
    "--host", help="The host name that the gateway routes by; the default follows the estate's domain."
)
@click.option("--residency", help="A residency rule of tenure.yaml.")
@json_option
@pass_context
def add(context: Context, name: str, cell: str, tier: str, host: str | None, residency: str | None) -> None:
    """Register a tenant that a cell serves already. Its data is not touched."""
    with context.service() as service:
        placement = service.add_tenant(name, cell=cell, tier=tier, host=host, residency=residency)
    steps = (f"tenure tenant show {placement.tenant}",)
    if context.as_json:
        emit_json(
            "placement", {"tenant": placement.tenant, "cell": placement.cell, "epoch": placement.epoch}, steps
        )
    else:
        click.echo(f"{placement.tenant} is served by {placement.cell} (epoch {placement.epoch}).")


@tenant.command("list")
@json_option
@pass_context
def list_(context: Context) -> None:
    """All tenants and the cells that serve them."""
    with context.service() as service:
        rows = service.tenants()
    if context.as_json:
        emit_json(
            "tenants", {"tenants": [{**_as_dict(t), "cell": p.cell, "epoch": p.epoch} for t, p in rows]}
        )
    else:
        click.echo(
            table(
                ("tenant", "tier", "cell", "epoch", "host"),
                [(t.id, t.tier, p.cell, p.epoch, t.host) for t, p in rows],
            )
        )


@tenant.command("show")
@click.argument("name")
@json_option
@pass_context
def show(context: Context, name: str) -> None:
    """Where a tenant's reads and writes go now, and what can be done next."""
    with context.service() as service:
        status = service.status(name)
        route = service.observed_route(name)
    if context.as_json:
        value = {
            **_as_dict(status.tenant),
            "cell": status.placement.cell,
            "epoch": status.placement.epoch,
            "sentence": status.sentence,
            "link": None
            if status.link is None
            else {
                "cells": [status.link.cell_a, status.link.cell_b],
                "state": str(status.link.state),
                "soak_until": status.link.soak_until,
                "expired_because": status.link.expired_because,
            },
            "rollback": None
            if status.outlook is None
            else {
                "hold_ms": status.outlook.hold_ms,
                "prepare_s": status.outlook.prepare_s,
                "lag_bytes": status.outlook.lag_bytes,
                "loses_nothing": status.outlook.loses_nothing,
                "basis": status.outlook.basis,
                "problems": list(status.outlook.problems),
            },
            "operation": None if status.active is None else status.active.id,
            "proposed": None if status.proposed is None else status.proposed.id,
            "waits_for": status.waits_for,
            "gateway": {
                "cell": route.cell,
                "gated": route.gated,
                "held": route.held,
                "waiting": route.waiting,
                "canary": route.canary,
                "canary_share": route.canary_share,
            },
        }
        emit_json("tenant", value, status.next_steps)
        return
    click.echo(status.sentence)
    if route.canary is not None:
        click.echo(f"A canary: {route.canary_share:.0%} of its reads go to {route.canary}.")
    if route.cell != status.placement.cell:
        click.echo(f"The gateway sends it to {route.cell}: that is not where it is placed.")
    for step in status.next_steps:
        click.echo(f"next: {step}")


@tenant.command("tier")
@click.argument("name")
@click.argument("tier")
@json_option
@pass_context
def tier_(context: Context, name: str, tier: str) -> None:
    """Change a tenant's tier."""
    with context.service() as service:
        _say(context, service.set_tier(name, tier))


@tenant.command("suspend")
@click.argument("name")
@json_option
@pass_context
def suspend(context: Context, name: str) -> None:
    """Mark a tenant as suspended."""
    with context.service() as service:
        _say(context, service.set_state(name, TenantState.SUSPENDED))


@tenant.command("resume")
@click.argument("name")
@json_option
@pass_context
def resume(context: Context, name: str) -> None:
    """Mark a tenant as active again."""
    with context.service() as service:
        _say(context, service.set_state(name, TenantState.ACTIVE))


@tenant.command("hold")
@click.argument("name")
@click.option("--reason", help="Why its data must stay where it is.")
@click.option("--release", is_flag=True, help="Lift the legal hold.")
@json_option
@pass_context
def hold(context: Context, name: str, reason: str | None, release: bool) -> None:
    """Put a tenant on legal hold (nothing of it is moved or destroyed), or lift it."""
    if release == (reason is not None):
        raise click.UsageError("give either --reason TEXT or --release")
    with context.service() as service:
        _say(context, service.set_legal_hold(name, reason))


def _as_dict(tenant_: Tenant) -> dict[str, object]:
    return {
        "tenant": tenant_.id,
        "tier": tenant_.tier,
        "host": tenant_.host,
        "residency": tenant_.residency,
        "state": str(tenant_.state),
        "legal_hold": tenant_.legal_hold,
    }


def _say(context: Context, tenant_: Tenant) -> None:
    if context.as_json:
        emit_json("tenant", _as_dict(tenant_))
    else:
        held = f", on legal hold: {tenant_.legal_hold}" if tenant_.legal_hold else ""
        click.echo(f"{tenant_.id}: {tenant_.tier}, {tenant_.state}{held}")
