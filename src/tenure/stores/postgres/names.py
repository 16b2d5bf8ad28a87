"""Names of what Tenure creates in PostgreSQL, derived so that any process finds what another one has made."""

from __future__ import annotations

import hashlib
from typing import Final

from tenure.model.names import CellName, StoreName, TenantId

PREFIX: Final = "tenure"


def short(*parts: str) -> str:
    """Twelve hexadecimal digits that stand for `parts`."""
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=6).hexdigest()


def tenant_prefix(tenant: TenantId) -> str:
    """Every publication, subscription, slot, trigger and origin of the tenant begins with it."""
    return f"{PREFIX}_{short(tenant)}"


def direction(tenant: TenantId, link: str, store: StoreName, source: CellName, target: CellName) -> str:
    """The publication on the source, the subscription on the target and the slot between them.

    A slot's name is its server's, not its database's: two stores of a cell may be databases of one server.
    """
    return f"{tenant_prefix(tenant)}_{short(link, store, source, target)}"


def guard(tenant: TenantId, collection: str) -> str:
    """The function that the conditions of a table's triggers call."""
    return f"{tenant_prefix(tenant)}_{short(collection)}"


def memory(tenant: TenantId, collection: str) -> str:
    """The setting in which a transaction keeps what it has recorded of a table."""
    return f"{PREFIX}.t{short(tenant)}_{short(collection)}"


def trigger(tenant: TenantId, event: str) -> str:
    return f"{tenant_prefix(tenant)}_{event}"
