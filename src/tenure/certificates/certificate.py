"""Draws a certificate from evidence, or refuses: it never says more than the evidence, and nothing of an erasure that
left anything undone.

The words are those of NIST SP 800-88 where it has them (clear, purge, destroy are levels of media; these are of data).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from tenure.certificates.evidence import Evidence, Part
from tenure.errors import CertificateWithheld

FORMAT: Final = "tenure-erasure-certificate/1"
LOGICAL: Final = "logical"
"""The engine was told to delete it, and gives it to nobody any more."""
CRYPTOGRAPHIC: Final = "cryptographic"
"""Its keys are destroyed: what is left of its bytes cannot be read."""
EXPIRES: Final = "expires"
"""Nobody can delete it; it goes at the date that is named."""


def draw(evidence: Evidence, *, id: str, issued_at: datetime) -> dict[str, Any]:
    """The certificate's contents, as JSON. Raises `CertificateWithheld` with every reason why there is none."""
    reasons = tuple(withholding(evidence))
    if reasons:
        raise CertificateWithheld(
            f"no certificate for {evidence.request.id}: {'; '.join(reasons[:5])}"
            + (f"; and {len(reasons) - 5} more" if len(reasons) > 5 else ""),
            hint=f"tenure op show {evidence.operation}",
        )
    until = lapses(evidence)
    return {
        "format": FORMAT,
        "id": id,
        "issued_at": _moment(issued_at),
        "state": "final" if until is None else "interim",
        "lapses_at": _moment(until),
        "supersedes": evidence.supersedes,
        "previous_sha256": evidence.previous,
        "request": {
            "id": evidence.request.id,
            "scope": "tenant",
            "tenant": evidence.request.tenant,
            "role": evidence.request.role,
            "ground": evidence.request.ground,
            "received": evidence.request.received,
            "due": evidence.request.due,
        },
        "performed_by": {"tool": "Tenure", "version": evidence.version, "operation": evidence.operation},
        "closed_at": _moment(evidence.closed_at),
        "stores": [_part(evidence.parts[name]) for name in sorted(evidence.parts)],
        "keys_destroyed": [{"key": k.reference, "proof": k.proof, "leaves": k.leaves} for k in evidence.keys],
        "backups": [
            {
                "backup": b.id,
                "region": b.region,
                "proof": b.proof,
                "bytes": "deleted" if b.kept_until is None else f"kept by lock until {_moment(b.kept_until)}",
            }
            for b in evidence.backups
        ],
        "remaining": [
            {
                "cell": m.part.cell,
                "store": m.part.store,
                "kind": m.kind,
                "place": m.name,
                "items": m.items,
                "why": m.why,
            }
            for m in evidence.mentions
        ],
        "not_looked_at": [
            {
                "cell": u.part.cell,
                "store": u.part.store,
                "kind": u.kind,
                "place": u.name,
                "reason": u.reason,
                "items": u.items,
                "size_bytes": u.size_bytes,
            }
            for u in evidence.unseen
        ],
        "inventory_sha256": evidence.inventory_digest,
        "catalogue": evidence.catalogue_digest,
        "audit_head": evidence.audit_head,
        "notes": list(evidence.notes),
    }


def withholding(evidence: Evidence) -> Iterator[str]:
    """Every reason why these parts do not make an erasure."""
    for name in sorted(evidence.expected - evidence.parts.keys()):
        yield f"nothing is known of {name}"
    for name in sorted(evidence.parts):
        yield from _open_ends(evidence, evidence.parts[name])
    for key in evidence.keys:
        if not key.proof:
            yield f"it was not shown that the key {key.reference} is gone"
    for backup in evidence.backups:
        if not backup.proof:
            yield f"it was not shown that backup {backup.id} in {backup.region} cannot be opened"
    if not evidence.in_ledger:
        yield "the erasure ledger does not have it: a restore could bring the tenant back"
    if evidence.inventory_digest != evidence.journaled_inventory_digest:
        yield "the inventory is not the one that the audit log names"
    if evidence.closed_at is None:
        yield "the tenant was never closed"


def _open_ends(evidence: Evidence, part: Part) -> Iterator[str]:
    name, before, after = part.name, part.before, part.after
    if before is None:
        yield f"{name} was not counted before"
    if not part.erased:
        yield f"{name} was not erased"
    if after is None:
        yield f"{name} was not counted afterwards"
    elif after.items and not _accounted(evidence, part, after.items):
        yield f"{name} still holds {after.items} items"
    if part.seen_after is None or not part.seen_after.done:
        yield f"{name} was not searched to its end afterwards"
    if part.residue:
        yield f"{part.residue} places of {name} still hold data of the tenant"
    carrier = (
        part if part.carried_by is None else evidence.parts.get(part.name._replace(store=part.carried_by))
    )
    seen = carrier.seen_before if carrier is not None else None
    if before is not None and before.items and (seen is None or not seen.done or not seen.own):
        yield f"the search cannot be trusted in {name}: it did not see what was there before"


def _accounted(evidence: Evidence, part: Part, items: int) -> bool:
    """What is left is known to go by a date, and if it is sealed nobody can read it."""
    if part.lapses_at is None:
        return False
    if part.sealed:
        return items <= part.locked and all(key.proof for key in evidence.keys)
    return part.undeletable is not None


def lapses(evidence: Evidence) -> datetime | None:
    """When the last copy that nobody can delete sooner has gone; None: nothing is left to lapse."""
    ends = [p.lapses_at for p in evidence.parts.values() if p.lapses_at is not None]
    ends += [b.kept_until for b in evidence.backups if b.kept_until is not None]
    return max(ends, default=None)


def _part(part: Part) -> dict[str, Any]:
    assert part.before is not None
    assert part.after is not None
    assert part.seen_after is not None
    level, method = LOGICAL, "deleted"
    if part.sealed:
        level, method = CRYPTOGRAPHIC, "keys destroyed, then deleted"
        if part.after.items:
            method = "keys destroyed; a lock keeps some bytes, which nobody can read"
    elif part.undeletable is not None:
        level, method = EXPIRES, part.undeletable
    return {
        "cell": part.name.cell,
        "region": part.region,
        "store": part.name.store,
        "kind": part.kind,
        "level": level,
        "method": method,
        "before": {"items": part.before.items, "size_bytes": part.before.size_bytes},
        "after": {"items": part.after.items, "size_bytes": part.after.size_bytes},
        "searched": {
            "scan": part.seen_after.scan,
            "items": part.seen_after.items,
            "size_bytes": part.seen_after.size_bytes,
            "found": 0,
        },
        "lapses_at": _moment(part.lapses_at),
        "leaves": part.leaves,
    }


def _moment(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
