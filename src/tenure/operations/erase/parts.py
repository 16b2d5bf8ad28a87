"""The parts that an erasure is made of: every store of every cell, and how each is erased and counted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from tenure.certificates.evidence import PartName
from tenure.model.inventory import Inventory
from tenure.model.names import CellName, StoreName, TenantId
from tenure.operations.deps import Deps
from tenure.operations.served import Crew, Served
from tenure.stores.contract import Store

R = TypeVar("R")
WORKERS: Final = 16


class Parts:
    """Every store of every cell once. Cells of one region share what holds sealed data, so that counts once as well."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self.all: tuple[PartName, ...] = tuple(self._named())

    def _named(self) -> Iterator[PartName]:
        seen: set[tuple[str, StoreName]] = set()
        for cell in self._deps.estate.cells:
            for name in self._deps.factory.names():
                if self._deps.factory.store(cell, name).capabilities.sealed:
                    key = (self._deps.estate.cell(cell).region, name)
                    if key in seen:
                        continue
                    seen.add(key)
                yield PartName(cell, name)

    def store(self, part: PartName) -> Store:
        return self._deps.factory.store(part.cell, part.store)

    def sealed(self) -> tuple[PartName, ...]:
        return tuple(part for part in self.all if self.store(part).capabilities.sealed)

    def undeletable(self) -> dict[PartName, str]:
        """Those whose contents nobody can delete, and why."""
        whys = {part: self.store(part).capabilities.undeletable for part in self.all}
        return {part: why for part, why in whys.items() if why is not None}

    def open(self) -> tuple[PartName, ...]:
        """Those whose data `Store.erase` deletes, and anybody can read until then."""
        others = {*self.sealed(), *self.undeletable()}
        return tuple(part for part in self.all if part not in others)

    def cells(self) -> Sequence[CellName]:
        return tuple(dict.fromkeys(part.cell for part in self.all))

    @contextmanager
    def served(self, tenant: TenantId, cell: CellName) -> Iterator[Served]:
        """The parts of a cell that are fenced and erased together."""
        names = [part.store for part in self.open() if part.cell == cell]
        crew = Crew(f"erase-{tenant[:8]}", workers=2 * len(names))
        try:
            yield Served(tenant=tenant, cell=cell, names=names, factory=self._deps.factory, crew=crew)
        finally:
            crew.close()

    def each(
        self, work: Callable[[PartName], R], parts: Sequence[PartName] | None = None
    ) -> dict[PartName, R]:
        """`work` for these parts, all of them by default, in parallel. Waits for all, then raises the first error."""
        chosen = self.all if parts is None else tuple(parts)
        with ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="parts") as pool:
            futures = {part: pool.submit(work, part) for part in chosen}
        return {part: future.result() for part, future in futures.items()}

    def count(self, tenant: TenantId) -> dict[PartName, Inventory]:
        """Everything of the tenant, as the stores themselves count it."""
        return self.each(lambda part: self.store(part).inventory(tenant))


Kept = Mapping[str, Mapping[str, Mapping[str, Sequence[Any]]]]
"""Of cell, store and collection: items, bytes, digest."""


def kept(counted: Mapping[PartName, Inventory], before: Kept | None = None) -> dict[str, Any]:
    """Inventories as an operation keeps them; what is in `before` already stays as it is there."""
    found: dict[str, dict[str, dict[str, Sequence[Any]]]] = {}
    for part, inventory in counted.items():
        earlier = ((before or {}).get(part.cell) or {}).get(part.store) or {}
        its = {name: [c.items, c.size_bytes, c.digest] for name, c in inventory.collections.items()}
        found.setdefault(part.cell, {})[part.store] = {**its, **earlier}
    return found


def digest_of(inventory: Mapping[str, Any]) -> str:
    """The SHA-256 of an inventory, in the one way in which it is written."""
    text = json.dumps(inventory, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
