"""Gathers the evidence of an erasure from what its steps have kept, and has a certificate drawn from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from tenure import __version__
from tenure.certificates.certificate import draw, lapses
from tenure.certificates.envelope import seal
from tenure.certificates.evidence import (
    BackupGone,
    Counted,
    Evidence,
    KeyGone,
    Looked,
    Part,
    PartName,
    Request,
)
from tenure.engine.context import StepContext
from tenure.model.names import TenantId
from tenure.model.operation import Operation
from tenure.operations.deps import Deps
from tenure.operations.erase.parts import Parts, digest_of
from tenure.operations.erase.request import GROUNDS, Order
from tenure.operations.erase.searching import looked, mentions, residue, unseen
from tenure.registry.certificates import Issued
from tenure.registry.scans import Scan


def certify(deps: Deps, ctx: StepContext, parts: Parts, order: Order) -> Issued:
    """The certificate of this operation: the one that it has, or one drawn and signed now."""
    issued = deps.registry.certificates.of_operation(ctx.operation.id)
    if issued is not None:
        return issued
    return _issue(deps, ctx, order, gather(deps, ctx.operation, parts, order))


def certify_again(
    deps: Deps, ctx: StepContext, parts: Parts, order: Order, former: Issued, operation: Operation
) -> Issued | None:
    """A certificate in the place of a former one, drawn from that erasure's evidence and what this operation has seen
    since: of one that was revoked, or was interim and has nothing left to lapse. None where there is no cause."""
    issued = deps.registry.certificates.of_operation(ctx.operation.id)
    if issued is not None:
        return issued
    newer = {name: ctx.operation.data[name] for name in ("verified", "after")}
    evidence = gather(
        deps, operation, parts, order, newer=newer, erased_at=former.issued_at, supersedes=former.id
    )
    if former.revoked is None and (former.final or lapses(evidence) is not None):
        return None
    return _issue(deps, ctx, order, evidence)


def _issue(deps: Deps, ctx: StepContext, order: Order, evidence: Evidence) -> Issued:
    now = deps.registry.backups.now()
    id = f"cert_{ctx.operation.id.removeprefix('op_')}"
    certificate = draw(evidence, id=id, issued_at=now)
    ctx.reach("certify.drawn")
    _, sealing = deps.backups()
    until = certificate["lapses_at"]
    return deps.registry.certificates.issue(
        ctx.lease,
        id=id,
        request=order.id,
        tenant=order.tenant,
        supersedes=evidence.supersedes,
        envelope=seal(certificate, sealing.signer),
        lapses_at=None if until is None else datetime.fromisoformat(until),
        actor=ctx.operation.requested_by,
    )


def gather(
    deps: Deps,
    operation: Operation,
    parts: Parts,
    order: Order,
    *,
    newer: Mapping[str, Any] | None = None,
    erased_at: datetime | None = None,
    supersedes: str | None = None,
) -> Evidence:
    """Everything that is known. What is not known is None, and withholds the certificate.

    `newer` is what was seen after the operation, with `erased_at` (None: now): what nobody can delete lapses from then.
    """
    operation = replace(operation, data={**operation.data, **(newer or {})})
    data, head = operation.data, deps.registry.audit.head()
    before, after = _scan(deps, data.get("looked")), _scan(deps, data.get("verified"))
    names = deps.ledger
    in_ledger = names is not None and any(
        erasure.request == order.id
        for erasure in deps.registry.erasures.of(
            names.tenant(order.tenant), after=operation.created_at - timedelta(days=1)
        )
    )
    closed_at = data.get("closed_at")
    now = deps.registry.backups.now()
    since = now if erased_at is None else erased_at
    return Evidence(
        request=Request(
            id=order.id,
            tenant=order.tenant,
            role=order.role,
            ground=GROUNDS[order.ground],
            received=order.received.isoformat(),
            due=order.due.isoformat(),
        ),
        operation=operation.id,
        version=__version__,
        expected=frozenset(parts.all),
        parts={
            name: _part(deps, parts, name, operation, before, after, since=since, now=now)
            for name in parts.all
        },
        keys=tuple(
            KeyGone(reference=reference, proof=its["proof"], leaves=its["leaves"])
            for reference, its in sorted(data.get("keys", {}).items())
        ),
        backups=tuple(
            BackupGone(
                id=one["id"],
                region=one["region"],
                proof=one["proof"],
                kept_until=None if one["kept_until"] is None else datetime.fromisoformat(one["kept_until"]),
            )
            for one in data.get("backups", ())
        ),
        mentions=tuple(mentions(after, parts.undeletable())) if after is not None else (),
        unseen=tuple(unseen(after)) if after is not None else (),
        in_ledger=in_ledger,
        inventory_digest=digest_of(data.get("inventory") or {}),
        journaled_inventory_digest=_journaled(deps, operation.id),
        catalogue_digest=deps.estate.catalogue.digest,
        audit_head=None if head is None else str(head),
        previous=deps.registry.certificates.head(),
        supersedes=supersedes,
        closed_at=None if closed_at is None else datetime.fromisoformat(closed_at),
    )


def _part(
    deps: Deps,
    parts: Parts,
    name: PartName,
    operation: Operation,
    before: Scan | None,
    after: Scan | None,
    *,
    since: datetime,
    now: datetime,
) -> Part:
    can, data = parts.store(name).capabilities, operation.data
    counted_before, counted_after = _counted(data.get("inventory"), name), _counted(data.get("after"), name)
    lapses_at, locked = None, 0
    seen_there = [one for one in (residue(after) if after is not None else ()) if one.part == name]
    held = counted_before is not None and counted_before.items
    if can.lapses_after_days and (held or (can.undeletable is not None and seen_there)):
        lapses_at = since + timedelta(days=can.lapses_after_days)
        if lapses_at <= now and not (counted_after is not None and counted_after.items):
            lapses_at = None
    region = deps.estate.cell(name.cell).region
    if can.sealed:
        lapses_at, locked = _locked(deps, region, TenantId(str(operation.tenant)))
    return Part(
        name=name,
        region=region,
        kind=str(deps.estate.catalogue.store(name.store).kind),
        before=counted_before,
        seen_before=_looked(before, name),
        erased=_erased(data, name, sealed=can.sealed, undeletable=can.undeletable is not None),
        after=counted_after,
        seen_after=_looked(after, name),
        residue=sum(
            not (can.undeletable is not None or (can.sealed and one.documented)) for one in seen_there
        ),
        sealed=can.sealed,
        undeletable=can.undeletable,
        locked=locked,
        lapses_at=lapses_at,
        leaves=can.residue,
        carried_by=can.rides_with,
    )


def _erased(data: Mapping[str, Any], name: PartName, *, sealed: bool, undeletable: bool) -> bool:
    if sealed:
        return "keys" in data
    return undeletable or name.store in data.get("erased", {}).get(name.cell, ())


def _locked(deps: Deps, region: str, tenant: TenantId) -> tuple[datetime | None, int]:
    """How many objects the region's vault keeps, whoever asks, and until when the last of them."""
    vaults, _ = deps.backups()
    held = vaults.vault(region).locked(tenant)
    return max((lock.until for _, lock in held if lock is not None), default=None), len(held)


def _counted(inventory: Mapping[str, Any] | None, name: PartName) -> Counted | None:
    found = ((inventory or {}).get(name.cell) or {}).get(name.store)
    if found is None:
        return None
    return Counted(
        items=sum(its[0] for its in found.values()), size_bytes=sum(its[1] for its in found.values())
    )


def _looked(scan: Scan | None, name: PartName) -> Looked | None:
    return None if scan is None else looked(scan).get(name)


def _scan(deps: Deps, id: object) -> Scan | None:
    return None if id is None else deps.registry.scans.get(str(id))


def _journaled(deps: Deps, operation: str) -> str | None:
    """What the audit log says the last inventory was."""
    said = [e for e in deps.registry.events.list(operation=operation) if e.action == "inventoried"]
    return str(said[-1].data["sha256"]) if said else None
