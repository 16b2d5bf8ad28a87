"""Plans a prune: what goes, and why everything else stays. Equal decisions give an equal digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tenure.model.names import CellName, TenantId
from tenure.plan.retention import Decision, Fate


@dataclass(frozen=True, kw_only=True)
class PrunePlan:
    """What becomes of each backup of a tenant, by region. `lost` ones are known and not there, `foreign` ones there and
    not known: neither is ever deleted here."""

    tenant: TenantId
    tier: str
    cell: CellName
    decisions: Mapping[str, Sequence[Decision]]
    digest: str
    kind: str = "prune"

    def _of(self, fate: Fate) -> list[tuple[str, str]]:
        return [(region, d.backup) for region, its in self.decisions.items() for d in its if d.fate is fate]

    @property
    def deletes(self) -> list[tuple[str, str]]:
        """Region and backup."""
        return self._of(Fate.DELETE)

    @property
    def lost(self) -> list[tuple[str, str]]:
        return self._of(Fate.LOST)

    @property
    def foreign(self) -> list[tuple[str, str]]:
        return self._of(Fate.FOREIGN)

    def as_dict(self) -> dict[str, Any]:
        """The plan as `--json` shows it and the registry keeps it."""
        return {
            "kind": self.kind,
            "tenant": self.tenant,
            "tier": self.tier,
            "cell": self.cell,
            "deletes": [{"region": region, "backup": backup} for region, backup in self.deletes],
            "backups": [
                {
                    "region": region,
                    "backup": d.backup,
                    "fate": str(d.fate),
                    "because": d.because,
                    "stored_at": d.stored_at.isoformat() if d.stored_at is not None else None,
                    "size_bytes": d.size_bytes,
                }
                for region, its in self.decisions.items()
                for d in its
            ],
            "digest": self.digest,
        }


def plan_prune(
    tenant: TenantId, tier: str, cell: CellName, decisions: Mapping[str, Sequence[Decision]]
) -> PrunePlan:
    """The plan that these decisions make."""
    decisive = {
        "kind": "prune",
        "tenant": tenant,
        "fates": sorted((region, d.backup, str(d.fate)) for region, its in decisions.items() for d in its),
    }
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]
    return PrunePlan(tenant=tenant, tier=tier, cell=cell, decisions=decisions, digest=digest)
