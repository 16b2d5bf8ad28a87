"""Erased stays erased: what the ledger says of a backup's tenant since the backup's point refuses its restore.

A backup that is older than an erasure has what was erased. The ledger names nobody, so what a person had in it cannot
be taken out again by the ledger alone: such a backup is refused as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from tenure.model.erasure import Names, Scope
from tenure.model.finding import Finding, Severity
from tenure.model.names import TenantId
from tenure.plan.restore import BackupFacts
from tenure.registry.erasures import Erasures


def erasures_of(
    ledger: Erasures, names: Names | None, tenant: TenantId, backup: BackupFacts
) -> Sequence[Finding]:
    """What refuses the restore: each erasure after the backup's point, of the tenant whose it is and of the one that it
    is to become; or that it cannot be known."""
    keys = ledger.keys()
    if not keys:
        return ()
    if names is None or not keys <= {names.key_id}:
        unknown = sorted(keys - ({names.key_id} if names is not None else set()))
        return (
            Finding(
                severity=Severity.REFUSAL,
                code="ledger_unreadable",
                where="the erasure ledger",
                message=f"it was written under keys that are not here ({', '.join(unknown)}), so nobody can know "
                f"whether {backup.tenant} was erased",
                fix="give `backups.ledger_key` in tenure.yaml the key under which it was written",
            ),
        )
    found = []
    for who in dict.fromkeys((backup.tenant, tenant)):
        for erasure in ledger.of(names.tenant(who), after=backup.point):
            when = f"{erasure.erased_at:%Y-%m-%d %H:%M} UTC"
            if erasure.scope is Scope.TENANT:
                message = f"{who} was erased on {when} ({erasure.request}), after this backup was taken"
                fix = "there is none: what was erased stays erased"
            else:
                message = (
                    f"a person of {who} was erased on {when} ({erasure.request}), after this backup was taken: it "
                    "still has that person's data"
                )
                fix = "restore a backup that was taken after the erasure"
            found.append(
                Finding(
                    severity=Severity.REFUSAL,
                    code="erased",
                    where=f"{who}, {erasure.request}",
                    message=message,
                    fix=fix,
                )
            )
    return tuple(found)
