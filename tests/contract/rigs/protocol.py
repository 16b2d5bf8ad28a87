"""What the contract suite needs to know about one kind of store: a pair of real servers, and the app's way to write.

A rig is made afresh for every test and leaves nothing of a test behind in its servers. `item` is a short name such as
`"a"`; the rig turns it into a row, a key or an object of the tenant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from tenure.model.names import TenantId
from tenure.model.search import Coverage, Place
from tenure.stores.contract import LiveCopy, Store


class Side(StrEnum):
    """The two stores of a rig. The tenant lives on `BLUE` when a test begins, and `GREEN` is empty."""

    BLUE = "blue"
    GREEN = "green"


@dataclass(frozen=True, kw_only=True)
class Stray:
    """Where a text was put that the catalogue does not name: as `find` names the place and what it says of it, and as
    `survey` does."""

    place: Place
    coverage: Coverage
    surveyed: Place


class AppRefused(Exception):
    """The store refused the app's write: it is fenced. Nothing was written."""


class Rig(Protocol):
    """One pair of stores of one kind. Every method is synchronous, and raises on anything unexpected."""

    @property
    def kind(self) -> str:
        """Shown as the test's parameter: `redis`, `s3`, `postgres`, `pgvector`."""

    def store(self, side: Side) -> Store:
        """A new `Store` object, as another process would make it. The rig closes it after the test."""

    def copy(self, tenant: TenantId, source: Side, target: Side) -> LiveCopy:
        """A new live copy between two new stores, always of the same link of this tenant. The rig detaches it."""

    def write(self, side: Side, tenant: TenantId, item: str, value: str) -> None:
        """Insert or overwrite one item as the app does (through the fence). Raises `AppRefused`."""

    def delete(self, side: Side, tenant: TenantId, item: str) -> None:
        """Delete one item as the app does. Raises `AppRefused`."""

    def read(self, side: Side, tenant: TenantId) -> Mapping[str, str]:
        """Every item of the tenant and its value, read past all fences."""

    def plant(self, side: Side, tenant: TenantId, item: str, value: str | None) -> None:
        """Change one item (None: delete it) past the fence and past the change feed."""

    def stray(self, side: Side, text: str) -> Stray:
        """Put the text somewhere that the catalogue does not name: always the same place, a new item each time."""

    def difference_key(self, tenant: TenantId, item: str) -> tuple[str, str]:
        """The `(collection, key)` by which a `Difference` names this item."""

    def leftovers(self, side: Side) -> Sequence[str]:
        """Everything Tenure keeps in this store now (fences, marks, journals, publications, slots), each by name."""

    def unreachable(self) -> Store:
        """A store whose server does not exist."""

    def wrong_password(self) -> Store:
        """A store whose server does not let us in."""

    def close(self) -> None:
        """Let go of everything the rig made, and empty its servers of it."""
