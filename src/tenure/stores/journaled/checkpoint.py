"""How far the first pass over everything has come, so that the next process need not begin anew.

The app's journal holds every change since before the pass began, until it is copied. So whatever the pass has copied is
current but for what the journal says, as long as that journal goes on: also for a process that starts later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

SLICE: Final = 2_000
"""Items between two notes."""
_EVERYTHING: Final = "*"
_UP_TO: Final = ">"


@dataclass(frozen=True)
class Checkpoint:
    """A point in the order of all keys. `text` is how it is written down; '' is before the first."""

    text: str = ""

    def passed(self, key: str) -> bool:
        """Whether the pass has come past this key."""
        return self.text == _EVERYTHING or (self.text.startswith(_UP_TO) and key <= self.text[1:])


EVERYTHING: Final = Checkpoint(_EVERYTHING)


def slices(keys: Sequence[str]) -> Iterator[tuple[Sequence[str], Checkpoint]]:
    """The keys in their order, a slice at a time, and where the pass has come to when that slice is copied."""
    ordered = sorted(keys)
    for start in range(0, len(ordered), SLICE):
        part = ordered[start : start + SLICE]
        yield part, Checkpoint(f"{_UP_TO}{part[-1]}")
