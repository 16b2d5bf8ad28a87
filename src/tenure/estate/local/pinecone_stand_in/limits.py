"""The vendor's documented limits, and the counting of requests by which the stand-in keeps them.

Sources: https://docs.pinecone.io/reference/api/database-limits (rates; sizes of batches; names),
https://docs.pinecone.io/guides/index-data/indexing-overview (what metadata may be).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tenure.estate.local.pinecone_stand_in.refusals import Refused

UPSERT_RECORDS: Final = 1000
UPSERT_BYTES: Final = 2 * 1024 * 1024
METADATA_BYTES: Final = 40 * 1024
ID_LENGTH: Final = 512
FETCH_IDS: Final = 1000
DELETE_IDS: Final = 1000
LIST_PAGE: Final = 100
NAMESPACE_PAGE: Final = 100
METADATA_PAGE: Final = 10_000
METADATA_DEFAULT: Final = 100
QUERY_TOP_K: Final = 10_000
RESULT_BYTES: Final = 4 * 1024 * 1024
SPARSE_VALUES: Final = 2048
DIMENSION: Final = 20_000

PER_INDEX: Final = "index"
PER_NAMESPACE: Final = "namespace"


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How many requests (or bytes, or records) of an operation a second, counted per index or per namespace."""

    most: float
    scope: str


RATES: Final[Mapping[str, Rate]] = {
    "query": Rate(most=100, scope=PER_NAMESPACE),
    "upsert": Rate(most=100, scope=PER_NAMESPACE),
    "upsert_bytes": Rate(most=50 * 1024 * 1024, scope=PER_NAMESPACE),
    "update": Rate(most=100, scope=PER_NAMESPACE),
    "delete": Rate(most=100, scope=PER_NAMESPACE),
    "delete_records": Rate(most=5000, scope=PER_NAMESPACE),
    "delete_by_metadata": Rate(most=5, scope=PER_NAMESPACE),
    "update_by_metadata": Rate(most=5, scope=PER_NAMESPACE),
    "fetch": Rate(most=100, scope=PER_INDEX),
    "list": Rate(most=200, scope=PER_INDEX),
    "describe_index_stats": Rate(most=100, scope=PER_INDEX),
}


class Counter:
    """Counts what was asked for within the running second. `scale` multiplies every limit; None switches them off."""

    def __init__(self) -> None:
        self.scale: float | None = 1.0
        self._windows: dict[tuple[str, str], tuple[int, float]] = {}

    def charge(self, operation: str, index: str, namespace: str, amount: float = 1) -> None:
        """Count it, or raise `Refused` with 429 when this second has no room for it."""
        rate = RATES.get(operation)
        if rate is None or self.scale is None:
            return
        scope = f"{index}\0{namespace}" if rate.scope == PER_NAMESPACE else index
        now = int(time.monotonic())
        window, used = self._windows.get((operation, scope), (now, 0.0))
        if window != now:
            used = 0.0
        most = rate.most * self.scale
        if used and used + amount > most:
            where = f"namespace {namespace!r} of index {index}" if "\0" in scope else f"index {index}"
            raise Refused(429, f"Reached the max {operation} rate of {most:g} per second for {where}")
        self._windows[operation, scope] = (now, used + amount)


def check_id(text: Any) -> str:
    """An id of a record. Raises `Refused`."""
    if not isinstance(text, str) or not text:
        raise Refused(400, "Vector ID must not be empty")
    if len(text) > ID_LENGTH:
        raise Refused(400, f"Vector ID length {len(text)} exceeds the limit of {ID_LENGTH}")
    if not text.isascii() or "\0" in text:
        raise Refused(400, f"Vector ID must be ASCII, but got {text!r:.80}")
    return text


def check_metadata(metadata: Any, encoded: bytes) -> None:
    """Flat: texts, numbers, booleans, lists of texts; 40 KB at most. Raises `Refused`."""
    if not isinstance(metadata, dict):
        raise Refused(400, "Metadata must be an object")
    if len(encoded) > METADATA_BYTES:
        raise Refused(
            400, f"Metadata size is {len(encoded)} bytes, which exceeds the limit of {METADATA_BYTES}"
        )
    for key, value in metadata.items():
        listed = isinstance(value, list) and all(isinstance(part, str) for part in value)
        if key.startswith("$") or not (listed or isinstance(value, str | int | float | bool)):
            raise Refused(
                400,
                "Metadata value must be a string, number, boolean or list of strings, "
                f"got {value!r:.60} for field {key!r:.60}",
            )
