"""A vault: one bucket per region in which tenants' backups are kept. `contract.py` is what a backup asks of it."""

from tenure.stores.vault.store import VaultStore
from tenure.stores.vault.vault import BucketVault

__all__ = ["BucketVault", "VaultStore"]
