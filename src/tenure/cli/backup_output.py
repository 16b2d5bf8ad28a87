"""How backups, and the plans of backups and prunes, look to people and to programs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tenure.cli.output import size, table
from tenure.model.backup import BackupCopy, BackupRecord, CopyState, DrillRecord
from tenure.operations.backing_up import Checked
from tenure.plan.backup import BackupPlan
from tenure.plan.prune import PrunePlan
from tenure.plan.retention import Fate

if TYPE_CHECKING:
    from tenure.backups.export import Export

PROBLEMS_SHOWN = 20


def show_backup_plan(plan: BackupPlan) -> str:
    """The plan as people read it."""
    keeping, seen = plan.keeping, plan.prediction
    kept = "for ever" if keeping.keep_days is None else f"for {keeping.keep_days:g} days"
    copied = f", copied to {keeping.copy_to}" if keeping.copy_to is not None else ""
    locked = (
        f", locked ({keeping.lock}) until {keeping.locked_until:%Y-%m-%d}"
        if keeping.locked_until is not None
        else ""
    )
    lines = [
        f"backup {plan.tenant} in {plan.cell}   (plan {plan.digest}, placement epoch {plan.epoch})",
        f"into the vault of {keeping.region}{copied}; {keeping.tier} keeps it {kept}{locked}",
        "",
        "Steps:",
        *(f"  {number}. {step.name:<10} {step.does}" for number, step in enumerate(plan.steps, 1)),
        "",
        table(
            ("store", "kind", "items", "size", "fence", "with it"),
            [
                (
                    s.store,
                    s.kind,
                    s.items,
                    size(s.size_bytes),
                    "enforced" if s.fence_enforced else "gate and client only",
                    ", ".join(s.carries) or "-",
                )
                for s in plan.stores
            ],
        ),
        "",
    ]
    if plan.left_out:
        lines.append("Not in the backup:")
        lines += [f"  {s.store} ({s.kind}): {s.why}" for s in plan.left_out]
        lines.append("")
    told = [f for f in plan.findings if f.code != "not_backed_up"]
    if told:
        lines.append("Findings:")
        for f in told:
            lines.append(f"  {f.severity:<8} {f.where}: {f.message}. Fix: {f.fix}")
            lines += [f"           $ {line}" for line in f.command.splitlines()]
        lines.append("")
    lines += [
        f"Predicted: hold {seen.hold_ms:.0f} ms, in all {seen.total_s:.1f} s, {size(seen.size_bytes)}, of which "
        f"{size(seen.sent_bytes)} go to the vault, {seen.cost.total:.2f} {seen.cost.currency}",
        f"  ({seen.basis})",
    ]
    if plan.refusals:
        lines.append("This plan is refused: mend the findings above and plan again.")
    return "\n".join(lines)


def show_prune_plan(plan: PrunePlan) -> str:
    """What goes, and why everything else stays."""
    rows = [
        (region, d.backup, _time(d.stored_at), size(d.size_bytes), str(d.fate), d.because)
        for region, its in plan.decisions.items()
        for d in its
    ]
    lines = [f"prune {plan.tenant}   (plan {plan.digest})", ""]
    lines.append(table(("region", "backup", "stored", "size", "fate", "because"), rows))
    lines.append("")
    freed = sum(d.size_bytes for its in plan.decisions.values() for d in its if d.fate is Fate.DELETE)
    lines.append(
        f"{len(plan.deletes)} to delete, at most {size(freed)}: what other backups share stays"
        if plan.deletes
        else "nothing to delete"
    )
    if plan.lost:
        lines.append(f"{len(plan.lost)} are lost: find out who deleted them")
    if plan.foreign:
        lines.append(f"{len(plan.foreign)} are not this estate's: nothing here deletes them")
    return "\n".join(lines)


def show_backups(records: Sequence[BackupRecord], now: datetime) -> str:
    """One line per backup."""
    rows = [
        (
            one.id,
            one.tenant,
            one.tier,
            _time(one.point_at),
            _age(now, one.point_at),
            size(one.size_bytes or 0),
            ", ".join(_copy(copy) for copy in one.copies) or str(one.state),
        )
        for one in records
    ]
    return table(("backup", "tenant", "tier", "point", "age", "size", "where"), rows)


def show_backup(one: BackupRecord) -> str:
    """Everything that is known of a backup."""
    details = one.details
    lines = [
        f"backup {one.id} of {one.tenant} ({one.tier}): {one.state}",
        f"point {_time(one.point_at)}, taken in {one.cell} at placement epoch {one.epoch} by {one.operation}",
    ]
    if one.items is not None and one.size_bytes is not None:
        lines.append(f"{one.items:,} items, {size(one.size_bytes)}, sealed with {one.key}")
    if "hold_ms" in details:
        lines.append(f"hold {details['hold_ms']:.1f} ms, {details['requests_held']} requests waited")
    taken = details.get("taken", {})
    if taken:
        rows = [(name, its["items"], size(its["size_bytes"])) for name, its in taken.items()]
        lines += ["", table(("store", "items", "size"), rows), ""]
    for name, why in details.get("left_out", {}).items():
        lines.append(f"not in it: {name}: {why}")
    for copy in one.copies:
        lines.append(f"{copy.region}: {_copy(copy)}, stored {_time(copy.stored_at)}")
        if copy.locked_until is not None:
            lines.append(f"  locked until {_time(copy.locked_until)}")
        lines += [f"  {problem}" for problem in copy.problems[:PROBLEMS_SHOWN]]
    return "\n".join(lines)


def show_checked(record: BackupRecord, found: Sequence[Checked]) -> str:
    """What a verification has found, region by region."""
    lines = [f"backup {record.id} of {record.tenant}"]
    for one in found:
        seen = one.verification
        if seen is not None:
            what = "every byte" if seen.whole else "a sample"
            how = "opened with the tenant's key" if seen.opened else "without the tenant's key"
            lines.append(
                f"{one.region}: {'good' if not one.problems else 'NOT GOOD'}; {what}, {how}: "
                f"{seen.chunks_looked_at:,} of {seen.chunks_of:,} chunks, {size(seen.bytes_looked_at)}, "
                f"{seen.streams_checked:,} streams to their digests"
            )
        else:
            lines.append(f"{one.region}: NOT GOOD")
        lines += [f"  {problem}" for problem in one.problems[:PROBLEMS_SHOWN]]
        if len(one.problems) > PROBLEMS_SHOWN:
            lines.append(f"  and {len(one.problems) - PROBLEMS_SHOWN} more")
    return "\n".join(lines)


def show_drills(drills: Sequence[DrillRecord]) -> str:
    """The last drills, the newest first."""
    rows = [
        (
            d.tier,
            d.tenant,
            d.backup,
            _time(d.at),
            f"{d.recovery_s:.1f}",
            _span(d.recovery_point_s),
            "equal" if d.equal else "DIFFERS",
        )
        for d in drills
    ]
    headers = ("tier", "tenant", "backup", "when", "recovery time, s", "recovery point", "data")
    return table(headers, rows)


def backup_dict(one: BackupRecord) -> dict[str, Any]:
    return {
        "backup": one.id,
        "tenant": one.tenant,
        "tier": one.tier,
        "state": str(one.state),
        "cell": one.cell,
        "epoch": one.epoch,
        "operation": one.operation,
        "begun_at": one.begun_at.isoformat(),
        "period": one.period.isoformat() if one.period else None,
        "point_at": one.point_at.isoformat() if one.point_at else None,
        "contents": one.contents,
        "key": one.key,
        "items": one.items,
        "size_bytes": one.size_bytes,
        "details": dict(one.details),
        "copies": [
            {
                "region": copy.region,
                "state": str(copy.state),
                "stored_at": copy.stored_at.isoformat(),
                "locked_until": copy.locked_until.isoformat() if copy.locked_until else None,
                "verified_at": copy.verified_at.isoformat() if copy.verified_at else None,
                "depth": str(copy.depth) if copy.depth else None,
                "whole": copy.whole,
                "problems": list(copy.problems),
                "deleted_at": copy.deleted_at.isoformat() if copy.deleted_at else None,
                "deleted_because": copy.deleted_because,
            }
            for copy in one.copies
        ],
    }


def checked_dict(record: BackupRecord, found: Sequence[Checked]) -> dict[str, Any]:
    return {
        "backup": record.id,
        "tenant": record.tenant,
        "good": not any(one.problems for one in found),
        "regions": [
            {
                "region": one.region,
                "good": not one.problems,
                "problems": list(one.problems),
                "every_byte": seen.whole if (seen := one.verification) is not None else False,
                "opened": seen.opened if seen is not None else False,
                "chunks": seen.chunks_of if seen is not None else 0,
                "chunks_looked_at": seen.chunks_looked_at if seen is not None else 0,
                "bytes_looked_at": seen.bytes_looked_at if seen is not None else 0,
                "streams_checked": seen.streams_checked if seen is not None else 0,
            }
            for one in found
        ],
    }


def drill_dict(drill: DrillRecord) -> dict[str, Any]:
    return {
        "operation": drill.operation,
        "backup": drill.backup,
        "tenant": drill.tenant,
        "tier": drill.tier,
        "region": drill.region,
        "at": drill.at.isoformat(),
        "equal": drill.equal,
        "recovery_s": round(drill.recovery_s, 3),
        "recovery_point_s": round(drill.recovery_point_s, 1),
        "details": dict(drill.details),
    }


def _copy(copy: BackupCopy) -> str:
    if copy.state is CopyState.DELETED:
        return f"{copy.region} (pruned)"
    if copy.state is CopyState.DELETING:
        return f"{copy.region} (being pruned)"
    if copy.whole is None:
        return f"{copy.region} (not verified)"
    return f"{copy.region} ({'good' if copy.whole else 'NOT GOOD'}, {copy.depth})"


def _time(at: datetime | None) -> str:
    return "-" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _age(now: datetime, at: datetime | None) -> str:
    return "-" if at is None else _span((now - at).total_seconds())


def _span(seconds: float) -> str:
    for unit, length in (("days", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def export_dict(record: BackupRecord, done: Export) -> dict[str, Any]:
    """What was exported, and what was not."""
    return {
        "backup": record.id,
        "tenant": record.tenant,
        "folder": str(done.folder),
        "complete": done.complete,
        "collections": [
            {"store": one.store, "collection": one.collection, "rows": one.rows, "files": one.files}
            for one in done.collections
        ],
        "left_out": [
            {"store": one.store, "collection": one.collection, "reason": one.reason} for one in done.left_out
        ],
    }
