"""`tenure demo`: the main job on real servers, under load, with the evidence."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from tenure.cli.context import Context, json_option, pass_context
from tenure.cli.example import example
from tenure.cli.output import emit_json, size, table
from tenure.errors import OperationFailed, TenureError
from tenure.estate.local import cells
from tenure.estate.local.layout import MARKER
from tenure.estate.local.running import down, status

PREFIX = "tenure-demo-"


@click.command()
@click.option(
    "--evidence",
    "evidence_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the evidence as JSON.",
)
@click.option(
    "--data",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the estate's data in this folder.",
)
@click.option(
    "--documents",
    default=3000,
    show_default=True,
    type=click.IntRange(50, 1_000_000),
    help="Documents of the largest tenant.",
)
@json_option
@pass_context
def demo(context: Context, evidence_file: Path | None, folder: Path | None, documents: int) -> None:
    """Start the local estate, restore a damaged tenant, move three under load, roll one back, erase two: the evidence.

    Exits with 5 if any promise was not kept.
    """
    began = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    local, run = example("local"), example("demo").run
    sizes = example("seed").Sizes(documents=documents)
    _sweep()
    where = folder or _temporary_folder()
    try:
        app = local.RagApp()
        if not context.quiet:
            click.echo(f"starting three cells of real servers in {where}", err=True)
        estate = cells.start(where, app, owner=True)
        try:
            if not context.quiet:
                click.echo(f"up after {time.monotonic() - began:.1f} s, gateway {estate.gateway}", err=True)
            evidence = run(estate, app, observer=context.observer(), sizes=sizes, evidence_file=evidence_file)
        finally:
            estate.running.close()
    finally:
        down(where, remove=folder is None)
        if folder is None:
            shutil.rmtree(where, ignore_errors=True)
    if context.as_json:
        emit_json("evidence", evidence.as_dict())
    else:
        click.echo(show(evidence))
    if evidence.broken:
        raise OperationFailed(f"{len(evidence.broken)} promise(s) not kept: {'; '.join(evidence.broken)}")


def show(evidence: Any) -> str:
    """The evidence as one table: a column per move."""
    moves = evidence.moves
    compared = [sum(s["processed"] for s in m.stores.values()) for m in moves]
    differing = [
        n - sum(s["matching"] for s in m.stores.values()) for n, m in zip(compared, moves, strict=True)
    ]
    rows: list[tuple[object, ...]] = [
        ("requests", *(f"{m.requests:,}" for m in moves)),
        ("requests failed", *(m.requests_failed for m in moves)),
        ("of neighbours under load", *(m.neighbours_requests_failed for m in moves)),
        ("acknowledged writes", *(f"{m.acked_writes:,}" for m in moves)),
        ("acknowledged writes lost", *(m.acked_writes_lost for m in moves)),
        ("stale reads", *(m.stale_reads for m in moves)),
        ("hold, ms", *(f"{m.hold_ms:.1f}" for m in moves)),
        ("hold predicted, ms", *(f"{m.predicted['hold_ms']:.1f}" for m in moves)),
        ("longest wait of a request, ms", *(f"{m.longest_wait_ms:.1f}" for m in moves)),
        *(
            (f"added latency {which}, ms", *(f"{m.added_ms[which]:+.1f}" for m in moves))
            for which in ("p50", "p99", "max")
        ),
        ("whole move or rollback, s", *(f"{m.total_s:.1f}" for m in moves)),
        ("predicted, s", *(f"{m.predicted['total_s']:.1f}" for m in moves)),
        *(
            (f"{name}: compared / differing", *(_counts(m.stores.get(name)) for m in moves))
            for name in (moves[0].stores if moves else ())
        ),
        (
            "all stores: compared / differing",
            *(f"{n:,} / {d}" for n, d in zip(compared, differing, strict=True)),
        ),
        ("neighbours' digests changed", *(m.neighbours_changed for m in moves)),
        (f"cost, {moves[0].cost['currency']}", *(f"{m.cost['total']:.2f}" for m in moves)),
    ]
    verdict = "every promise kept" if not evidence.broken else "NOT KEPT: " + "; ".join(evidence.broken)
    legend = [f"  {i}  {m.kind} {m.tenant}, {m.source} -> {m.target}" for i, m in enumerate(moves, 1)]
    stays = [f"not moved: {store}: {why}" for store, why in evidence.stays.items()]
    columns = table(("", *(f"move {i}" for i in range(1, len(moves) + 1))), rows)
    return "\n".join(
        [
            "",
            *_backup(evidence.backup),
            "",
            *legend,
            "",
            columns,
            "",
            *(line for its in evidence.erasures for line in _erasure(its)),
            "",
            *stays,
            f"{verdict}; {evidence.seconds:.0f} s",
        ]
    )


def _backup(its: Any) -> list[str]:
    """What the backup, the restore and the drill did, in four lines."""
    damage = ", ".join(f"{n:,} {what}" for what, n in its.damage.items())
    return [
        f"backup of {its.tenant} under load: {its.items:,} items, {size(its.size_bytes)}, hold "
        f"{its.backup_hold_ms:.1f} ms, {its.acked_writes_lost} acknowledged writes lost",
        f"damage: {damage} deleted or overwritten by a faulty job, {its.damaged:,} items with what hung on them",
        f"restore in place under load: {its.still_damaged} of these still damaged after {its.restore_s:.1f} s, hold "
        f"{its.restore_hold_ms:.0f} ms, {its.discarded} documents written since discarded and named, "
        f"{its.unaccounted} unaccounted for; {its.requests:,} requests, {its.requests_failed} failed",
        f"drill in {its.drill_cell}: {'equal' if its.drill_equal else 'DIFFERENT'}, recovery time "
        f"{its.recovery_s:.1f} s, recovery point {its.recovery_point_s:.0f} s",
    ]


def _erasure(its: Any) -> list[str]:
    """What an erasure did and what its certificate says, in three lines."""
    until = f", the last copy goes by {its.lapses_at}" if its.lapses_at else ""
    residue = f"residue planted in {its.planted} undocumented places: {its.planted_found} found, certificate withheld; "
    return [
        f"erasure {its.request} of {its.tenant} from {len(its.systems)} systems ({', '.join(its.systems)}): "
        f"{its.items:,} items before, {its.items_left} left, {its.expiring} metrics expire by themselves",
        f"  {residue if its.planted else ''}{its.keys_destroyed} key(s) destroyed, {its.backups_unreadable} backup "
        f"copies shown to be unreadable; {its.searched:,} items searched, 0 found",
        f"  certificate {its.certificate} ({its.state}{until}), signature "
        f"{'genuine' if its.genuine else 'NOT GENUINE'}; {its.requests:,} requests of neighbours, "
        f"{its.requests_failed} failed, {its.neighbours_changed} digests changed; {its.seconds:.1f} s",
    ]


def _counts(seen: Any) -> str:
    return f"{seen['processed']:,} / {seen['processed'] - seen['matching']}" if seen else "-"


def _leave(number: int, _frame: object) -> None:
    """A closed terminal or a polite kill ends the demo as Ctrl-C does: everything stops, the folder goes."""
    raise SystemExit(128 + number)


def _sweep() -> None:
    """Remove what a demo that was killed has left behind: folders of our own whose estate does not run."""
    for old in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if (
            old.is_dir()
            and not old.is_symlink()
            and old.stat().st_uid == os.geteuid()
            and (old / MARKER).is_file()
        ):
            try:
                if not status(old).running:
                    down(old, remove=True)
            except TenureError as error:
                click.echo(f"{old} was left by an earlier demo and could not be removed: {error}", err=True)


def _temporary_folder() -> Path:
    """A new folder that the servers' account can enter."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    os.chmod(folder, 0o755 if os.geteuid() == 0 else 0o700)
    return folder
