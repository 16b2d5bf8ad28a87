"""`tenure worker`: carries operations on as a member of the fleet."""

from __future__ import annotations

import sys

import click

from tenure.cli.context import Context, pass_context
from tenure.estate.config import load_estate
from tenure.operations.queues import Purpose
from tenure.wiring import open_registry, open_service


def _names(_ctx: click.Context, _param: click.Parameter, text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text else ()


@click.command()
@click.option(
    "--queues",
    "purposes",
    callback=_names,
    metavar="PURPOSE,...",
    help=f"Which queues: of {', '.join(Purpose)}. Default: all.",
)
@click.option(
    "--region",
    "regions",
    callback=_names,
    metavar="REGION,...",
    help="Only operations that write to cells in these regions. Default: all regions of the estate.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    help="How many operations it carries on at a time, each in a process of its own.",
)
@pass_context
def worker(context: Context, purposes: tuple[str, ...], regions: tuple[str, ...], concurrency: int) -> None:
    """Carry operations on until told to stop. SIGTERM gives them back, and another worker goes on."""
    # Here, because no other command needs Celery.
    from tenure.worker import process

    estate = load_estate(context.config)
    registry = open_registry(estate)
    try:
        registry.check()
        sys.exit(
            process.run(
                estate,
                registry,
                lambda stopping: open_service(context.config, stopping=stopping),
                purposes=purposes,
                regions=regions,
                concurrency=concurrency,
            )
        )
    finally:
        registry.close()
