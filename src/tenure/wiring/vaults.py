"""The vaults of an estate, one per region, found among the stores of its cells."""

from __future__ import annotations

from collections.abc import Sequence

from tenure.errors import NotAllowed
from tenure.estate.config import Estate, VaultSettings
from tenure.model.names import CellName, StoreName
from tenure.operations.session import StoreFactory
from tenure.stores.vault import VaultStore
from tenure.stores.vault.contract import Vault


class RegionVaults:
    """Implements `tenure.operations.deps.Vaults`. Cells of one region share a vault, so any of them leads to it."""

    def __init__(self, estate: Estate, stores: StoreFactory) -> None:
        self._stores = stores
        self._where: dict[str, tuple[CellName, StoreName]] = {}
        for name, cell in estate.cells.items():
            for store, settings in cell.stores.items():
                if isinstance(settings, VaultSettings):
                    self._where.setdefault(cell.region, (name, StoreName(store)))

    def regions(self) -> Sequence[str]:
        return sorted(self._where)

    def vault(self, region: str) -> Vault:
        where = self._where.get(region)
        if where is None:
            raise NotAllowed(
                f"no cell of {region} has a vault",
                hint=f"the regions with one are {', '.join(self.regions()) or 'none'}",
            )
        store = self._stores.store(*where)
        assert isinstance(store, VaultStore)
        return store.vault
