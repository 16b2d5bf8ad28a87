"""The unit in which analytics are journaled, copied and compared: what one table holds of a tenant in one partition.

Its key is `schema.table/partition`, or `schema.table` where the catalogue names no partition for the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tenure.catalogue import AnalyticsTable, QualifiedName

DELIMITER: Final = "/"
WHOLE: Final = ""
"""The partition of a table without any, and of rows whose partition column holds nothing (NULL, or an empty text)."""
MASK: Final = (1 << 128) - 1


@dataclass(frozen=True, kw_only=True, order=True)
class Unit:
    """A table and a partition of it."""

    table: QualifiedName
    partition: str = WHOLE


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a unit holds: rows, about how many bytes, and the sum of its rows' hashes (modulo 2 ** 128), so that the sum
    over the units of a table is the table's own."""

    rows: int
    size_bytes: int
    digest: int


def total(contents: Iterable[Content]) -> Content:
    """All of them together."""
    found = list(contents)
    return Content(
        rows=sum(c.rows for c in found),
        size_bytes=sum(c.size_bytes for c in found),
        digest=sum(c.digest for c in found) & MASK,
    )


class Units:
    """Names the units of a store's tables, and understands the names that the app has noted."""

    def __init__(self, tables: Sequence[AnalyticsTable]) -> None:
        self.tables: Final[Mapping[QualifiedName, AnalyticsTable]] = {t.name: t for t in tables}
        self._texts: Final = {str(name): name for name in self.tables}

    def key(self, unit: Unit) -> str:
        if self.tables[unit.table].partition is None:
            return str(unit.table)
        return f"{unit.table}{DELIMITER}{unit.partition}"

    def unit(self, key: str) -> Unit | None:
        """The unit of that key; None if it names no table of this store, or a whole table that has partitions.

        What follows the name of a table without partitions is passed over.
        """
        if key in self._texts:
            name = self._texts[key]
            return Unit(table=name) if self.tables[name].partition is None else None
        found = [text for text in self._texts if key.startswith(text + DELIMITER)]
        if not found:
            return None
        text = max(found, key=len)
        name = self._texts[text]
        if self.tables[name].partition is None:
            return Unit(table=name)
        return Unit(table=name, partition=key[len(text) + 1 :])

    def whole(self, key: str) -> AnalyticsTable | None:
        """The table with partitions that the key names as a whole, if it does."""
        name = self._texts.get(key)
        return self.tables[name] if name is not None and self.tables[name].partition is not None else None
