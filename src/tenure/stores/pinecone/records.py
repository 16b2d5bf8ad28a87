"""One record as Tenure compares and copies it: exact to the bit in its 32-bit values, whatever the JSON on the way."""

from __future__ import annotations

import hashlib
import json
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

UPSERT_RECORDS: Final = 1000
UPSERT_BYTES: Final = 1_800_000
"""Of the 2 MB that one upsert may have; sizes are estimated."""
FETCH_IDS: Final = 1000
FETCH_LINE_BYTES: Final = 14_000
"""A fetch is a GET that names every id in its line; gateways on the way take no line of any length."""
DIGIT_BYTES: Final = 21
"""What one value takes in JSON, about."""


def bits(values: Sequence[float]) -> bytes:
    """The values as the service keeps them: 32 bits each, little-endian."""
    packed = array("f", values)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


@dataclass(frozen=True, kw_only=True)
class Record:
    """A record. `sparse` are index and value, in the order of the indices."""

    id: str
    values: Sequence[float] = ()
    sparse: tuple[tuple[int, float], ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def canonical(self) -> bytes:
        """Equal for equal records only: values and weights by their bits, metadata whatever the order of its keys.

        The service knows numbers of one kind only (64-bit floating point), so 1 and 1.0 are the same.
        """
        indices = [index for index, _ in self.sparse]
        parts = (
            self.id.encode(),
            bits(self.values),
            array("Q", indices).tobytes(),
            bits([value for _, value in self.sparse]),
            json.dumps({k: _number(v) for k, v in self.metadata.items()}, sort_keys=True).encode(),
        )
        return b"".join(len(part).to_bytes(8, "little") + part for part in parts)

    @property
    def digest(self) -> int:
        return int.from_bytes(hashlib.blake2b(self.canonical, digest_size=16).digest(), "little")

    @property
    def size_bytes(self) -> int:
        """What it holds: 4 bytes a value, 12 a weight, id and metadata as text."""
        return 4 * len(self.values) + 12 * len(self.sparse) + len(self.id) + self._metadata_bytes

    @property
    def wire_bytes(self) -> int:
        """About what it takes in a request."""
        return (
            DIGIT_BYTES * len(self.values) + 33 * len(self.sparse) + self._metadata_bytes + len(self.id) + 80
        )

    @cached_property
    def _metadata_bytes(self) -> int:
        return len(json.dumps(self.metadata).encode()) if self.metadata else 0


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def upserts(records: Iterable[Record]) -> Iterator[list[Record]]:
    """The records in batches that one upsert takes each."""
    batch: list[Record] = []
    size = 0
    for record in records:
        if batch and (len(batch) >= UPSERT_RECORDS or size + record.wire_bytes > UPSERT_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += record.wire_bytes
    if batch:
        yield batch


def fetches(ids: Iterable[str], *, most: int = FETCH_IDS) -> Iterator[list[str]]:
    """The ids in batches that one fetch takes each."""
    batch: list[str] = []
    line = 0
    for one in ids:
        takes = len("&ids=") + 3 * len(one) if not one.isalnum() else len("&ids=") + len(one)
        if batch and (len(batch) >= most or line + takes > FETCH_LINE_BYTES):
            yield batch
            batch, line = [], 0
        batch.append(one)
        line += takes
    if batch:
        yield batch
