"""The result of comparing a tenant's data in two stores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from tenure.model.names import StoreName


class DifferenceKind(StrEnum):
    """How one item differs. `missing`: only the source has it; `extra`: only the target has it."""

    MISMATCHED = "mismatched"
    MISSING = "missing"
    EXTRA = "extra"


@dataclass(frozen=True, kw_only=True, order=True)
class Difference:
    """One row, key, object or vector that differs. `key` is the item's key as JSON text (a list for composite keys)."""

    collection: str
    key: str
    kind: DifferenceKind


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a comparison saw in one store.

    `processed` items were compared (the union of both sides' keys); `processed == matching + mismatched + missing +
    extra`. `differences` names every item that differs, none left off.
    """

    store: StoreName
    processed: int
    matching: int
    differences: tuple[Difference, ...] = ()
    bytes_read: int = 0
    changed_meanwhile: int = field(default=0)
    """Items that changed while the comparison ran: they are counted as matching here and compared again, under the
    fence, by `LiveCopy.compare_changed`."""

    def _count(self, kind: DifferenceKind) -> int:
        return sum(d.kind is kind for d in self.differences)

    @property
    def mismatched(self) -> int:
        return self._count(DifferenceKind.MISMATCHED)

    @property
    def missing(self) -> int:
        return self._count(DifferenceKind.MISSING)

    @property
    def extra(self) -> int:
        return self._count(DifferenceKind.EXTRA)

    @property
    def equal(self) -> bool:
        return not self.differences

    def as_dict(self) -> dict[str, int]:
        """The five figures, as evidence files and `--json` show them."""
        return {
            "processed": self.processed,
            "matching": self.matching,
            "mismatched": self.mismatched,
            "missing": self.missing,
            "extra": self.extra,
        }


def total(comparisons: Iterable[Comparison]) -> int:
    """How many items differ in all of them together."""
    return sum(len(c.differences) for c in comparisons)
