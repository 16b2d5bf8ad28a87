"""What the parts of `tenure.wiring` are given."""

from __future__ import annotations

from collections.abc import Callable

from tenure.model.names import CellName, StoreName
from tenure.stores.contract import Journal, TenantFence

Anchor = Callable[[CellName, StoreName], TenantFence]
"""The fence of stores of a cell that have none of their own, by the store that has it."""
Journals = tuple[Journal | None, Journal | None]
"""Where the apps of the source and of the target say what they change in such stores."""
