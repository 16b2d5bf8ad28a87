"""How results and errors look: JSON for programs (`--json`), plain lines for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from tenure.errors import ConfigurationError, NotAllowed, TenureError
from tenure.plan.move import Plan
from tenure.plan.observation import StoreObservation

SCHEMA_VERSION = 1


def emit_json(kind: str, value: Mapping[str, Any], next_steps: Sequence[str] = ()) -> None:
    """One JSON document on stdout: `schema_version`, `kind`, the value's own keys, `next_steps`."""
    document = {"schema_version": SCHEMA_VERSION, "kind": kind, **value, "next_steps": list(next_steps)}
    click.echo(json.dumps(document, indent=2, default=str))


def emit_line(value: Mapping[str, Any]) -> None:
    """One line of NDJSON."""
    click.echo(json.dumps({"schema_version": SCHEMA_VERSION, **value}, default=str))


def show_error(error: TenureError, *, as_json: bool) -> None:
    """The error on stderr: what is wrong, every finding, what to do. With --json also as a document on stdout."""
    details: tuple[str, ...] = ()
    if isinstance(error, ConfigurationError):
        details = error.problems
    elif isinstance(error, NotAllowed):
        details = error.findings
    if as_json:
        emit_json(
            "error",
            {
                "code": error.code,
                "message": error.message,
                "details": list(details),
                "hint": error.hint,
                "retryable": error.retryable,
            },
            (),
        )
    click.echo(f"error: {error.message}", err=True)
    for line in details:
        click.echo(f"  - {line}", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)
    sys.stderr.flush()


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns, numbers to the right."""
    cells = [[str(c) for c in row] for row in rows]
    widths = [max(len(h), *(len(r[i]) for r in cells)) if cells else len(h) for i, h in enumerate(headers)]
    numeric = [
        all(isinstance(row[i], int | float) for row in rows) and bool(rows) for i in range(len(headers))
    ]

    def line(row: Sequence[str]) -> str:
        return "  ".join(
            c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True)
        ).rstrip()

    return "\n".join([line(list(headers)), line(["-" * w for w in widths]), *(line(r) for r in cells)])


def size(count: float) -> str:
    """Bytes in the unit that reads best."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _fence_of(store: StoreObservation) -> str:
    """What keeps the tenant's writes out of the store during a switch."""
    if store.fence_enforced:
        return "enforced"
    return "gate and client only" if store.fenced_with is None else f"permit of {store.fenced_with}"


def show_plan(plan: Plan) -> str:
    """The plan as people read it."""
    lines = [
        f"{plan.kind} {plan.tenant}: {plan.source} -> {plan.target}   "
        f"(plan {plan.digest}, placement epoch {plan.epoch})",
        "",
        "Steps:",
    ]
    passed = False
    for number, step in enumerate(plan.steps, 1):
        if step.after_commit and not passed:
            lines.append("     ---- the point of no return lies in the step above ----")
            passed = True
        lines.append(f"  {number}. {step.name:<10} {step.does}")
    lines += [
        "",
        table(
            ("store", "kind", "items", "size", "fence"),
            [
                (
                    s.store,
                    s.kind,
                    s.items,
                    size(s.size_bytes),
                    _fence_of(s),
                )
                for s in plan.stores
            ],
        ),
        "",
    ]
    if plan.staying:
        lines.append("Not moved:")
        lines += [f"  {s.store} ({s.kind}): {s.why}" for s in plan.staying]
        lines.append("")
    if plan.findings:
        lines.append("Findings:")
        for f in plan.findings:
            lines.append(f"  {f.severity:<8} {f.where}: {f.message}. Fix: {f.fix}")
            lines += [f"           $ {line}" for line in f.command.splitlines()]
        lines.append("")
    p = plan.prediction
    lines += [
        f"Predicted: copy {p.copy_s:.1f} s, verification {p.verify_s:.1f} s, hold {p.hold_ms:.0f} ms, "
        f"in all {p.total_s:.1f} s, {p.cost.total:.2f} {p.cost.currency}; "
        f"a rollback {p.rollback_s:.1f} s, of which users wait {p.rollback_ms:.0f} ms",
        f"  ({p.basis})",
    ]
    if p.record is not None:
        chance = f"; the chance of this one: {p.record.chance:.0%}" if p.record.chance is not None else ""
        lines.append(f"Record: {p.record.sentence}{chance}")
    if plan.refusals:
        lines.append("This plan is refused: mend the findings above and plan again.")
    return "\n".join(lines)
