"""`tenure scheduler`: the process that wakes what was left lying and inserts what is due."""

from __future__ import annotations

import json
import signal
import threading
from datetime import UTC, datetime
from typing import Any

import click

from tenure.cli.context import Context, json_option, pass_context
from tenure.cli.output import emit_line
from tenure.estate.config import load_estate
from tenure.wiring import open_registry, service_of


@click.command()
@click.option("--once", is_flag=True, help="Do what is due now, and end: for cron.")
@json_option
@pass_context
def scheduler(context: Context, once: bool) -> None:
    """Lead, or stand by for the process that does: insert due operations, have those left lying carried on.

    Any number may run; one leads. Prints who leads and what it does, with --json one document a line. SIGTERM and
    Ctrl-C end it: a step that it carries on itself is given back first.
    """
    # Here, so that the other commands do not load APScheduler.
    from tenure.scheduler.process import SchedulerProcess

    estate = load_estate(context.config)
    registry = open_registry(estate)
    registry.check()
    service = service_of(estate, registry)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    process = SchedulerProcess(
        database=registry.database,
        service=service,
        settings=estate.fleet.scheduler,
        tell=Printer(as_json=context.as_json),
        observer=context.observer(),
    )
    try:
        if once:
            process.once()
        else:
            process.serve()
    finally:
        service.close()


class Printer:
    """Prints what the scheduler tells, a line each, as soon as it is told."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._lock = threading.Lock()

    def __call__(self, action: str, **data: Any) -> None:
        with self._lock:
            if self._as_json:
                emit_line({"action": action, **data})
            else:
                given = " ".join(
                    f"{name}={_said(value)}" for name, value in data.items() if value is not None
                )
                click.echo(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}  {action}  {given}".rstrip())


def _said(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    text = value if isinstance(value, str) else json.dumps(value)
    return text if " " not in text else json.dumps(text)
