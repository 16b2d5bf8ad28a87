"""Plans the erasure of a tenant: what there is of it, what becomes of each part, and what stands in the way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from tenure.model.finding import Finding, Severity
from tenure.model.names import CellName, StoreName, TenantId

STEPS: Final = (
    ("admit", "wait for the end of the cooling-off period and of any hold; look again at what the plan says"),
    (
        "look",
        "search every store for the tenant's id: what the search does not see now it could not miss later",
    ),
    ("close", "refuse the tenant's requests and writes for good, and write it into the erasure ledger"),
    ("count", "count and digest everything of the tenant, store by store"),
    ("erase", "delete it from every store of every cell"),
    ("keys", "destroy the keys of its backups, show that none can be opened, and delete what no lock keeps"),
    ("verify", "count again, and search every store of every cell once more, documented or not"),
    ("certify", "sign what was shown, if nothing is missing"),
    ("leave", "take the tenant off the registry and the gateway"),
)
CLOSING: Final = "close"
"""The point of no return lies in this step."""


@dataclass(frozen=True, kw_only=True)
class PartToErase:
    """What one store of one cell has of the tenant. `becomes` says in words what is done with it."""

    cell: CellName
    store: StoreName
    kind: str
    items: int
    size_bytes: int
    becomes: str
    lapses_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class ErasePlan:
    """Equal digests: the same tenant at the same place, the same stores, the same catalogue and the same findings."""

    tenant: TenantId
    cell: CellName
    epoch: int
    tier: str
    cooling_off_h: float
    parts: tuple[PartToErase, ...]
    backups: int
    findings: tuple[Finding, ...]
    digest: str
    kind: str = "erase"

    @property
    def refusals(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity is Severity.REFUSAL)

    @property
    def items(self) -> int:
        return sum(part.items for part in self.parts)

    @property
    def lapses_at(self) -> datetime | None:
        """When the last copy that nobody can delete sooner has gone; None: at once."""
        return max((p.lapses_at for p in self.parts if p.lapses_at is not None), default=None)

    def as_dict(self) -> dict[str, Any]:
        """The plan as `--json` shows it and the registry keeps it."""
        return {
            "kind": self.kind,
            "tenant": self.tenant,
            "cell": self.cell,
            "epoch": self.epoch,
            "tier": self.tier,
            "cooling_off_h": self.cooling_off_h,
            "steps": [{"name": name, "does": does} for name, does in STEPS],
            "stores": [
                {
                    "cell": p.cell,
                    "store": p.store,
                    "kind": p.kind,
                    "items": p.items,
                    "size_bytes": p.size_bytes,
                    "becomes": p.becomes,
                    "lapses_at": None if p.lapses_at is None else p.lapses_at.isoformat(),
                }
                for p in self.parts
            ],
            "backups": self.backups,
            "lapses_at": None if self.lapses_at is None else self.lapses_at.isoformat(),
            "findings": [
                {
                    "severity": str(f.severity),
                    "code": f.code,
                    "where": f.where,
                    "message": f.message,
                    "fix": f.fix,
                    "command": f.command,
                }
                for f in self.findings
            ],
            "digest": self.digest,
        }


def plan_erase(
    *,
    tenant: TenantId,
    cell: CellName,
    epoch: int,
    tier: str,
    cooling_off_h: float,
    parts: Sequence[PartToErase],
    backups: int,
    findings: Sequence[Finding],
    catalogue_digest: str,
) -> ErasePlan:
    """The plan that this makes. Counts do not decide: a live tenant's grow while one reads the plan."""
    decisive = {
        "kind": "erase",
        "tenant": tenant,
        "cell": cell,
        "epoch": epoch,
        "cooling_off_h": cooling_off_h,
        "parts": sorted((p.cell, p.store, p.becomes) for p in parts),
        "findings": sorted((str(f.severity), f.code, f.where) for f in findings),
        "catalogue": catalogue_digest,
    }
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]
    return ErasePlan(
        tenant=tenant,
        cell=cell,
        epoch=epoch,
        tier=tier,
        cooling_off_h=cooling_off_h,
        parts=tuple(parts),
        backups=backups,
        findings=tuple(sorted(findings)),
        digest=digest,
    )
