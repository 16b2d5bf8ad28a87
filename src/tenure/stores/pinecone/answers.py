"""Makes the types of the SDK's answers known to its decoder, in one thread, before several need them.

The SDK decodes with msgspec, which describes a type to itself at its first use; when two threads are the first ones at
the same time, msgspec 0.22 crashes the process.
"""

from __future__ import annotations

from typing import Final

import msgspec
from pinecone import (
    DescribeIndexStatsResponse,
    FetchByMetadataResponse,
    FetchResponse,
    ListNamespacesResponse,
    ListResponse,
    NamespaceDescription,
    QueryResponse,
    UpdateResponse,
    UpsertResponse,
)

ANSWERS: Final = (
    DescribeIndexStatsResponse,
    FetchByMetadataResponse,
    FetchResponse,
    ListNamespacesResponse,
    ListResponse,
    NamespaceDescription,
    QueryResponse,
    UpdateResponse,
    UpsertResponse,
)


def describe_answers() -> None:
    """To be called while one thread alone can use the SDK."""
    for answer in ANSWERS:
        msgspec.json.Decoder(answer)
