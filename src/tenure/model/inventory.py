"""What a store holds of a tenant: counts, sizes and digests, collection by collection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tenure.model.names import StoreName, TenantId


@dataclass(frozen=True, kw_only=True)
class Collection:
    """One table, key space or bucket prefix of a tenant.

    `items` counts rows, keys, objects or vectors; `size_bytes` is the engine's own figure or an estimate; `digest` is
    equal for equal contents, whatever the order, the server's version and its settings. An empty collection has
    `items=0` and the digest of nothing.
    """

    items: int
    size_bytes: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class Inventory:
    store: StoreName
    tenant: TenantId
    collections: Mapping[str, Collection]

    @property
    def items(self) -> int:
        return sum(c.items for c in self.collections.values())

    @property
    def size_bytes(self) -> int:
        return sum(c.size_bytes for c in self.collections.values())
