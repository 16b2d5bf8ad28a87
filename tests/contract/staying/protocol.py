"""What the suite of stores that stay needs to know of one kind: a real server, and how items come into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tenure.model.names import TenantId
from tenure.stores.contract import Store


class StayingRig(Protocol):
    """One store of a kind that a move leaves where it is. Made afresh for every test."""

    @property
    def kind(self) -> str: ...
    @property
    def erases(self) -> bool:
        """Whether the store can delete a tenant's data at all."""

    def store(self) -> Store:
        """A new `Store` object, as another process would make it. The rig closes it after the test."""

    def write(self, tenant: TenantId, item: str) -> None:
        """Bring one item of the tenant into the store, as it comes there in practice. Another item each time."""

    def plant(self, text: str) -> None:
        """Write this text where the catalogue names nothing."""

    def leftovers(self) -> Sequence[str]:
        """Everything that Tenure keeps in the store for itself now (holders, marks), each by name."""

    def unreachable(self) -> Store:
        """A store whose server does not exist."""

    def wrong_password(self) -> Store:
        """A store whose server does not let us in."""

    def close(self) -> None:
        """Let go of everything the rig made, and empty its servers of it."""
