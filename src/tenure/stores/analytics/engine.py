"""The port behind which the engines of analytics are: DuckDB files, ClickHouse servers, warehouses that speak SQL."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from tenure.catalogue import AnalyticsTable, QualifiedName
from tenure.model.names import TenantId
from tenure.stores.analytics.packs import Brought, Pack
from tenure.stores.analytics.units import Content

Allowed = Callable[[], None]
"""Raises if this process may no longer write to the target."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column as the engine describes it. A `computed` one is made by the engine and never written."""

    name: str
    type: str
    computed: bool = False
    comment: str = ""


@dataclass(frozen=True, kw_only=True)
class Hazard:
    """Something about a table that a move should know, with what to do about it."""

    table: QualifiedName
    code: str
    message: str
    fix: str
    refuses: bool = False


class Rows(Protocol):
    """The rows of some units of a table, read once and valid inside the block that gave them."""

    @property
    def count(self) -> int: ...

    @property
    def columns(self) -> Sequence[str]: ...

    def batches(self) -> Iterator[pa.RecordBatch]:
        """In Arrow's form, for another kind of engine."""


class Engine(Protocol):
    """One database of analytics. Safe for several threads; errors come out as `tenure.errors`.

    Units are named by a table, the tenant and partitions. Whatever takes a table expects it to be there, but for
    `columns`.
    """

    @property
    def server(self) -> str:
        """As `Store.server`."""

    @property
    def where(self) -> str:
        """How messages name it."""

    @property
    def dialect(self) -> str:
        """Engines of one dialect understand each other's `Rows` as they are, and their digests can be compared."""

    @property
    def residue(self) -> str:
        """As `Capabilities.residue`."""

    def ping(self) -> None:
        """As `Store.ping`."""

    def tables(
        self, schemas: Collection[str], *, everywhere: bool = False
    ) -> Mapping[QualifiedName, Sequence[Column]]:
        """Every table that the login can see, but for the engine's own and for Tenure's. Where a server has databases
        of others, only those of these schemas, unless `everywhere`."""

    def views(self) -> Mapping[QualifiedName, str]:
        """The definition of every view that the login can see, but for the engine's own; empty where none is shown."""

    def columns(self, table: QualifiedName) -> Sequence[Column]:
        """In the table's order; none where there is no such table."""

    def hazards(self, table: AnalyticsTable) -> Sequence[Hazard]:
        """What stands in the way of moving into or out of this table."""

    def partitions(self, table: AnalyticsTable, tenant: TenantId) -> Mapping[str, int]:
        """How many rows the tenant has, by partition; only partitions with rows."""

    def contents(
        self,
        table: AnalyticsTable,
        tenant: TenantId,
        partitions: Collection[str],
        *,
        only: Collection[str] | None = None,
    ) -> Mapping[str, Content]:
        """What these partitions hold of the tenant, computed in the engine; absent where that is nothing. Of these
        columns `only`, else of all."""

    def rows(
        self, table: AnalyticsTable, tenant: TenantId, partitions: Sequence[str]
    ) -> AbstractContextManager[Rows]:
        """The rows of these units, as of one moment."""

    def replace(
        self,
        table: AnalyticsTable,
        tenant: TenantId,
        partitions: Sequence[str],
        rows: Rows | Brought,
        allowed: Allowed,
    ) -> None:
        """Make these units consist of these rows, as atomically as the engine can; asks `allowed` right before.

        An interruption before that leaves the units as they were. Whether they can be seen half done in between is up
        to the engine. Idempotent.
        """

    def packs(self, table: AnalyticsTable, tenant: TenantId, partitions: Sequence[str]) -> Iterator[Pack]:
        """Those of these units that hold rows, in the order given, exact to the last bit of every type."""

    def bring(self, table: AnalyticsTable, tenant: TenantId) -> AbstractContextManager[Brought]:
        """Rows from packs of an engine of this dialect, for `replace`; valid inside the block."""

    def erase(self, table: AnalyticsTable, tenant: TenantId, progress: Callable[[int], None]) -> int:
        """Delete the tenant's rows in batches, and their bytes as far as the engine does that; return how many went.

        `progress` is told how many so far. Repeating goes on where an interruption came, and returns 0 in the end.
        """

    def sweep(self, tenant: TenantId) -> None:
        """Remove what interrupted calls of `replace` have left behind for the tenant. Idempotent."""

    def texts(
        self, table: QualifiedName, columns: Sequence[str], needles: Sequence[str]
    ) -> Iterator[Sequence[tuple[Any, ...]]]:
        """Rows in which one of these columns, as text, contains one of the needles (without any: every row), in pages.
        Each value as text, bytes where they are no text."""

    def count(self, table: QualifiedName) -> tuple[int, int]:
        """How many rows the table has, and about how many bytes they are."""

    def close(self) -> None:
        """Give connections back. Idempotent."""
