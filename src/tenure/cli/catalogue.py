"""`tenure catalogue`: whether the data map says everything, and where tenants' data lies that it does not name."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click
import yaml

from tenure.cli.context import Context, json_option, pass_context
from tenure.cli.exit_codes import FAILED
from tenure.cli.output import emit_json, size, table
from tenure.errors import UsageError
from tenure.operations.cataloguing import SAMPLE
from tenure.operations.scan_report import Judgement, ScanReport
from tenure.operations.survey import CheckReport, Wrong

MB = 1_000_000
_QUIET = frozenset({Judgement.OWN, Judgement.TENURE})
"""Findings that are counted and not listed."""


@click.group()
def catalogue() -> None:
    """Check the data map against what is there, and look for tenants' data that it does not name."""


@catalogue.command("check")
@click.option("--cell", help="Only this cell.")
@click.option("--allow-empty", is_flag=True, help="Pass patterns of keys under which nothing lies now.")
@json_option
@pass_context
def check(context: Context, cell: str | None, allow_empty: bool) -> None:
    """Compare every table, column, key pattern, namespace, prefix and log group that exists with the catalogue.

    Exits with 1 if one is not classified, or is classified and gone, or a store could not be looked at; says for each
    what to do, and proposes the catalogue's missing entries. Reads only.
    """
    with context.service() as service:
        found = service.catalogue.check(cell)
    wrong = [i for i in found.issues if not (allow_empty and i.wrong is Wrong.EMPTY)]
    if context.as_json:
        value = {
            "cells": list(found.cells),
            "places": found.places,
            "passed": not wrong,
            "issues": [i.as_dict() for i in found.issues],
            "proposal": {"stores": found.proposal} if found.proposal else None,
            "skipped": _skipped(found),
        }
        emit_json("catalogue_check", value, ("tenure catalogue scan --all",) if not wrong else ())
    else:
        _show_check(found)
    if wrong:
        sys.exit(FAILED)


def _show_check(found: CheckReport) -> None:
    if found.issues:
        rows = [
            (
                i.store,
                i.wrong,
                i.place,
                ", ".join(i.cells),
                "" if i.items is None else i.items,
                i.message,
                i.fix,
            )
            for i in found.issues
        ]
        click.echo(table(("store", "is", "place", "cells", "items", "because", "fix"), rows))
    else:
        click.echo(
            f"{found.places} places in {', '.join(found.cells)}: the catalogue names them all, and no other."
        )
    _show_proposal(found.proposal)
    for line in _skipped(found):
        click.echo(f"not looked at: {line['cell']} {line['store']}, {line['place']}: {line['reason']}")


@catalogue.command("scan")
@click.argument("tenant", required=False)
@click.option("--all", "everyone", is_flag=True, help="All tenants that are registered.")
@click.option("--cell", "cells", multiple=True, help="Only this cell (may be given several times).")
@click.option("--store", "stores", multiple=True, help="Only this store (may be given several times).")
@click.option(
    "--identifier",
    "identifiers",
    multiple=True,
    metavar="KIND=VALUE",
    help="What else to look for, such as email=ann@example.com. Neither kept nor shown.",
)
@click.option("--full", is_flag=True, help="Look at everything.")
@click.option(
    "--sample",
    type=click.FloatRange(0, 1, min_open=True),
    help=f"Look at this share of the items; the default is {SAMPLE:g}.",
)
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), help="At most so many MB per second of each store."
)
@click.option(
    "--body-limit",
    type=click.FloatRange(0, min_open=True),
    help="MB of one value or body to look at; the default is 8.",
)
@click.option("--resume", metavar="SCAN", help="Go on with a scan, or show the report of a finished one.")
@json_option
@pass_context
def scan(
    context: Context,
    tenant: str | None,
    everyone: bool,
    cells: tuple[str, ...],
    stores: tuple[str, ...],
    identifiers: tuple[str, ...],
    full: bool,
    sample: float | None,
    rate: float | None,
    body_limit: float | None,
    resume: str | None,
) -> None:
    """Look for tenants' identifiers in every store of every cell, also where the catalogue names nothing.

    Reports each undocumented place with a proposed entry, and data in a cell that does not serve its tenant. Ctrl-C
    keeps what was done; `--resume` goes on. Exits with 1 if something is undocumented, contradicts the catalogue or is
    misplaced, or if a store could not be searched to its end. Reads only.
    """
    if sum((tenant is not None, everyone, resume is not None)) != 1:
        raise UsageError("give a tenant, --all, or --resume SCAN", hint="tenure catalogue scan TENANT --full")
    if full and sample is not None:
        raise UsageError("--full and --sample contradict each other", hint="give one of them")
    rate_bytes_per_s = None if rate is None else rate * MB
    observer = context.observer()
    with context.service() as service:
        if resume is not None:
            found = service.catalogue.resume(
                resume, identifiers=identifiers, rate_bytes_per_s=rate_bytes_per_s, observer=observer
            )
        else:
            found = service.catalogue.scan(
                None if tenant is None else [tenant],
                cells=cells,
                stores=stores,
                identifiers=identifiers,
                sample=None if full else sample or SAMPLE,
                rate_bytes_per_s=rate_bytes_per_s,
                body_limit_bytes=None if body_limit is None else max(1, int(body_limit * MB)),
                observer=observer,
            )
    _show(context, found)
    if found.wrong or not found.complete:
        sys.exit(FAILED)


def _show(context: Context, found: ScanReport) -> None:
    steps = () if found.complete else (f"tenure catalogue scan --resume {found.scan.id}",)
    parts = found.scan.parts
    if context.as_json:
        value = {
            "scan": found.scan.id,
            "complete": found.complete,
            "sample": found.scan.request["sample"],
            "items": sum(p.items for p in parts),
            "size_bytes": sum(p.size_bytes for p in parts),
            "findings": [f.as_dict() for f in found.findings],
            "proposal": {"stores": found.proposal} if found.proposal else None,
            "skipped": _skipped(found),
            "failed": [{"cell": p.cell, "store": p.store, "problem": p.problem} for p in found.failed],
        }
        emit_json("catalogue_scan", value, steps)
        return
    listed = [f for f in found.findings if f.judgement not in _QUIET]
    if listed:
        rows = [
            (
                f.found.tenant,
                f.judgement,
                f"{f.cell} {f.store}",
                str(f.found.place),
                f.found.items,
                ", ".join((f.found.label.partition("=")[0], *f.found.encodings)),
                "; ".join(f.found.examples),
                f"{f.message}{f'. Fix: {f.fix}' if f.fix else ''}",
            )
            for f in listed
        ]
        click.echo(table(("tenant", "is", "store", "place", "items", "as", "such as", "meaning"), rows))
    own = sum(f.found.items for f in found.findings if f.judgement is Judgement.OWN)
    looked = (
        "everything"
        if found.scan.request["sample"] is None
        else f"{found.scan.request['sample']:.1%} of the items"
    )
    click.echo(
        f"scan {found.scan.id}: looked at {looked}, {sum(p.items for p in parts):,} items and "
        f"{size(sum(p.size_bytes for p in parts))}; {len(found.wrong)} place(s) to mend, {own:,} documented item(s)."
    )
    _show_proposal(found.proposal)
    for line in _skipped(found):
        where = f"{line['cell']} {line['store']}, {line['place']}"
        click.echo(f"not looked at: {where}: {line['items']:,} item(s), {line['reason']}")
    for part in found.failed:
        click.echo(f"failed: {part.cell} {part.store}: {part.problem}")
    for step in steps:
        click.echo(f"next: {step}")


def _skipped(found: CheckReport | ScanReport) -> list[dict[str, Any]]:
    return [
        {
            "cell": cell,
            "store": store,
            "place": str(its.place),
            "reason": its.reason,
            "items": its.items,
            "size_bytes": its.size_bytes,
        }
        for cell, store, its in found.skipped
    ]


def _show_proposal(proposal: Mapping[str, Any]) -> None:
    if proposal:
        click.echo("\nProposed for the catalogue, to be corrected by somebody who knows the data:\n")
        click.echo(yaml.safe_dump({"stores": _plain(proposal)}, sort_keys=False, allow_unicode=True))


def _plain(value: Any) -> Any:
    """As YAML's safe writer takes it."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return list(map(_plain, value)) if isinstance(value, list | tuple) else str(value)
