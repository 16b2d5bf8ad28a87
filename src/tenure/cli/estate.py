"""`tenure estate`: the local estate of embedded servers."""

from __future__ import annotations

import getpass
import socket
import time
from pathlib import Path

import click

from tenure.cli.context import Context, json_option, pass_context
from tenure.cli.example import example
from tenure.cli.output import emit_json, table
from tenure.errors import DeadlineExceeded
from tenure.estate.config import Fleet, load_estate
from tenure.estate.local import cells
from tenure.estate.local.fleet import start_scheduler, start_workers
from tenure.estate.local.layout import default_folder
from tenure.estate.local.running import down as stop_estate
from tenure.estate.local.running import status as look_at
from tenure.operations.planning import rules_of
from tenure.registry.registry import Registry
from tenure.wiring import open_registry

NAME = "local"
WORKERS_WITHIN_S = 120.0

data_option = click.option(
    "--data",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=lambda: default_folder(NAME),
    show_default="/var/lib/tenure/local for root, ~/.local/state/tenure/local for others",
    help="The data folder.",
)


@click.group()
def estate() -> None:
    """Prepare an estate of your own (init), or run the local one: three cells of real servers on this machine."""


@estate.command("up")
@data_option
@click.option(
    "--workers",
    type=click.IntRange(0, 16),
    default=0,
    show_default=True,
    help="Run that many workers, with a broker and a scheduler.",
)
@json_option
@pass_context
def up(context: Context, folder: Path, workers: int) -> None:
    """Start PostgreSQL 16 and 18, Valkey, SeaweedFS, a stand-in for Pinecone, Envoy, the gate and the sample app;
    write tenure.yaml."""
    began = time.monotonic()
    app = example("local").RagApp()
    local = cells.start(folder, app, owner=False, fleet=workers > 0)
    described = load_estate(local.estate_file)
    registry = open_registry(described)
    try:
        registry.migrate()
        if workers:
            start_scheduler(local.running, local.estate_file)
            start_workers(local.running, local.estate_file, workers)
            _await_workers(registry, described.fleet, workers)
    finally:
        registry.close()
    steps = (
        f"export TENURE_CONFIG={local.estate_file}",
        "tenure tenant add NAME --cell blue --tier gold",
        f"tenure estate down --data {folder}",
    )
    if context.as_json:
        value = {
            "estate_file": str(local.estate_file),
            "gateway": local.gateway,
            "cells": list(local.cells),
            "workers": workers,
            "seconds": round(time.monotonic() - began, 2),
        }
        emit_json("estate", value, steps)
        return
    click.echo(
        f"the local estate is up after {time.monotonic() - began:.1f} s: "
        f"gateway {local.gateway}, described by {local.estate_file}"
        + (f", {workers} worker{'s' if workers > 1 else ''}" if workers else "")
    )
    for step in steps:
        click.echo(f"next: {step}")


def _await_workers(registry: Registry, fleet: Fleet, workers: int) -> None:
    """Wait until all of them are seen."""
    deadline = time.monotonic() + WORKERS_WITHIN_S
    while len(registry.workers.living(silent_s=fleet.silent_s, kind="worker")) < workers:
        if time.monotonic() > deadline:
            raise DeadlineExceeded(
                f"the {workers} workers were not all seen within {WORKERS_WITHIN_S:g} s",
                hint="their logs are beside those of the servers: tenure estate status",
            )
        time.sleep(0.1)


@estate.command("init")
@json_option
@pass_context
def init(context: Context) -> None:
    """Check tenure.yaml, its catalogue and every secret, and bring the control database's schema up to date."""
    described = load_estate(context.config)
    described.check_secrets()
    registry = open_registry(described)
    try:
        applied = registry.migrate()
        actor = f"{getpass.getuser()}@{socket.gethostname()}"
        published = registry.approvals.publish(rules_of(described), actor=actor)
    finally:
        registry.close()
    steps = ("tenure tenant add NAME --cell CELL --tier TIER",)
    if context.as_json:
        value = {
            "estate_file": str(described.path),
            "applied": list(applied),
            "approval_rules_published": published,
        }
        emit_json("estate_init", value, steps)
        return
    click.echo(
        f"{described.path} is in order; {len(applied) or 'no'} migration(s) applied to the control database"
        + ("; its rules for approvals are those of this file now" if published else "")
    )
    for step in steps:
        click.echo(f"next: {step}")


@estate.command("status")
@data_option
@json_option
@pass_context
def status(context: Context, folder: Path) -> None:
    """Which servers run, and where."""
    seen = look_at(folder)
    if context.as_json:
        servers = {
            n: {"state": str(s.state), "pid": s.pid, "ports": dict(s.ports), "log": str(s.log)}
            for n, s in seen.servers.items()
        }
        emit_json("estate_status", {"running": seen.running, "folder": str(folder), "servers": servers})
        return
    click.echo(f"the local estate in {folder} {'runs' if seen.running else 'does not run'}")
    if seen.servers:
        rows = [
            (n, str(s.state), s.pid or "", ", ".join(f"{k} {v}" for k, v in s.ports.items()))
            for n, s in seen.servers.items()
        ]
        click.echo(table(("server", "state", "pid", "ports"), rows))


@estate.command("down")
@data_option
@click.option("--remove", is_flag=True, help="Delete the data folder as well.")
@json_option
@pass_context
def down(context: Context, folder: Path, remove: bool) -> None:
    """Stop every server of the local estate, also what a killed owner left behind."""
    stop_estate(folder, remove=remove)
    if context.as_json:
        emit_json("estate_status", {"running": False, "folder": str(folder), "removed": remove})
    else:
        click.echo(f"the local estate in {folder} is down{' and its data is gone' if remove else ''}")
