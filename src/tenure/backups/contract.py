"""What the stores see of a backup: a `Sink` while one is made, a `Source` when one is read back.

A backup is a set of streams: of each collection of each store (a table, a pattern of keys, a namespace) one `base`
stream, and `late` streams with what was taken again since. Streams are bytes; what they mean is between the store that
wrote them and the store that reads them, who say so in the streams' headers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import TracebackType
from typing import Any, Final, Protocol, Self

from tenure.model.names import StoreName, TenantId

MOST_HEADER_BYTES: Final = 256 * 1024

Header = Mapping[str, Any]
"""Plain JSON, sealed like everything else: the stream's format and its version, columns and types, whatever a reader
has to know before the first byte. By convention `format` names the form of the bytes, such as `copy-text/1`."""


class Part(StrEnum):
    """Of a collection. Late wins over base, and a later `LATE` stream over an earlier one."""

    BASE = "base"
    LATE = "late"


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A finished stream of a backup. `n` counts the late streams of one collection, from 0; a base stream has 0."""

    store: StoreName
    collection: str
    part: Part
    n: int
    header: Header = field(hash=False)
    size_bytes: int
    digest: str
    """The SHA-256 of all its bytes."""
    items: int | None = None
    """As its writer counted them."""


@dataclass(frozen=True, kw_only=True)
class CollectionFacts:
    """What a collection was at the backup's point, as its store says: for comparisons after a restore."""

    store: StoreName
    collection: str
    items: int
    size_bytes: int
    digest: str | None = None
    """In the store's own way of counting; None where it has none."""
    fingerprint: str | None = None
    """Of its schema: equal on equal schemas. None where there is no schema."""


class StreamWriter(Protocol):
    """A stream that is being written, by one thread at a time. As a context manager it closes, or, if an exception
    leaves the block, discards."""

    def write(self, data: bytes | memoryview) -> None:
        """Add these bytes; any sizes will do. What is given may be changed afterwards.

        May wait, for the vault to keep pace. Raises what has stopped the backup, if something has.
        """

    def close(self, *, items: int | None = None) -> Stream:
        """The stream is whole. `items`: how many it holds. Its last chunks may still be on their way to the vault."""

    def discard(self) -> None:
        """Forget the stream, as if it had never been opened. Idempotent; a no-op after `close`."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Sink(Protocol):
    """A backup that is being written. Streams may be written at the same time, each by a thread of its own; small ones
    (up to some 100 KiB) are kept together, so that there may be many thousands of them.

    Give equal data in an equal order, so that the next backup finds most of it in the vault.
    """

    @property
    def tenant(self) -> TenantId: ...

    def stream(self, store: StoreName, collection: str, part: Part, header: Header) -> StreamWriter:
        """Begin a stream. A collection has one base stream and any number of late ones, in the order of their opening.

        Raises `UsageError` for a second base stream, or a header that is not JSON.
        """

    def forget(self, store: StoreName) -> None:
        """Drop every stream of that store, because its capture starts over. Its streams must not be open any more.

        What has been put stays in the vault, and is not put again.
        """

    def written(self) -> int:
        """How many bytes of streams it has been given so far; for progress."""


class Source(Protocol):
    """A backup that is read back. Nothing is given out before it has been verified: the manifest before the first
    stream, each chunk before its first byte. Thread-safe."""

    @property
    def tenant(self) -> TenantId:
        """Whose backup it is: the name in its data, whatever name it is restored under."""

    @property
    def point(self) -> datetime:
        """The instant at which all its stores are taken together."""

    def streams(self, store: StoreName | None = None, collection: str | None = None) -> Sequence[Stream]:
        """The streams, of that store and collection, by store and collection, base first, then late in their order."""

    def collections(self, store: StoreName | None = None) -> Sequence[CollectionFacts]:
        """What the stores said of their collections."""

    def facts(self, store: StoreName) -> Mapping[str, Any]:
        """Whatever else that store wanted to have in the manifest."""

    def read(self, stream: Stream, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes of a stream in order, in pieces of some 100 KiB to a few MiB; a part of it reads only its chunks.

        Raises `VaultDamaged` that names the stream and the chunk before anything wrong is given out; at the end of a
        whole stream also if its digest is wrong.
        """
