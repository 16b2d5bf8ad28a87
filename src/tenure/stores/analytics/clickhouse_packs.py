"""Units of a ClickHouse table in a backup: ClickHouse's own format, which loses nothing of any type."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Final

from tenure.catalogue import AnalyticsTable
from tenure.errors import StoreRefused
from tenure.stores.analytics.packs import Columns, Spool, require_form
from tenure.stores.journaled.backup_ports import Changed

FORM: Final = "clickhouse-native/1"
READINGS: Final = 3
"""How often a unit is read that changes meanwhile, before it is given up."""


def given_up() -> Iterator[bytes]:
    """The body of a unit that never rested: raises `Changed` where it is read."""

    def never() -> bytes:
        raise Changed

    return iter(never, b"")


class ClickHouseBrought:
    """Rows from a backup. Implements `Brought`; they become the tenant's when they are inserted."""

    def __init__(self, table: AnalyticsTable, where: str) -> None:
        self._table: Final = table
        self._where: Final = where
        self._spools: Final[list[Spool]] = []
        self.columns: Sequence[str] = ()
        self.count = 0

    def add(self, form: str, columns: Columns, rows: int, body: Iterable[bytes]) -> None:
        require_form(form, FORM, self._where)
        names = tuple(name for name, _ in columns)
        if self._spools and names != self.columns:
            raise StoreRefused(f"{self._where}: units of {self._table.name} differ in their columns")
        self.columns = names
        self._spools.append(Spool(body))
        self.count += rows

    def natives(self) -> Iterator[Generator[bytes, None, None]]:
        """Each unit that was added."""
        return (spool.blocks() for spool in self._spools)

    def close(self) -> None:
        while self._spools:
            self._spools.pop().close()
