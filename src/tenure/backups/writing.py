"""A backup being made: streams of any size go in by several threads, chunks go to the vault, at the end the manifest.

Holds bounded memory: some MiB for each stream that is open, and what is on its way to the vault. After a crash, or a
vault that refused, what was put is there for the next attempt; nothing is listed before `commit` has returned.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from tenure.backups.chunking import KIB, Chunker, Cutting
from tenure.backups.contract import MOST_HEADER_BYTES, CollectionFacts, Header, Part, Stream
from tenure.backups.manifest import (
    Facts,
    Index,
    Placed,
    Public,
    Run,
    canonical,
    digest_of,
    index_text,
    signed,
    totals,
)
from tenure.backups.putting import PATIENCE_S, Putter, Tally
from tenure.backups.sealing import Sealer
from tenure.backups.signing import Signer
from tenure.errors import UsageError
from tenure.model.names import StoreName, TenantId
from tenure.stores.vault.contract import Backup, ChunkId, Contents, Writing

SMALL_BYTES: Final = 256 * KIB
"""Streams up to this size are kept together with others."""
GATHERED_BYTES: Final = 4096 * KIB
"""How much of small streams is sorted before it is cut, so that their order does not depend on who was first."""

_Pieces = list[tuple[Future[ChunkId], int]]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A backup whose every chunk is in the vault, and the manifest that would make it one."""

    contents: Contents
    public: Mapping[str, Any]
    tally: Tally


@dataclass(eq=False)
class _Kept:
    """A finished stream and the pieces it is in: its own, or those of its pack, from `start`."""

    stream: Stream
    pieces: _Pieces
    start: int = 0


class _Cutter:
    """A run of chunks that grows."""

    def __init__(self, putter: Putter, cutting: Cutting) -> None:
        self._putter = putter
        self._chunker = Chunker(cutting)
        self.pieces: _Pieces = []
        self.size = 0

    def add(self, data: bytes | memoryview) -> None:
        self.size += len(data)
        for plain in self._chunker.add(data):
            self.pieces.append((self._putter.add(plain), len(plain)))

    def end(self) -> None:
        for plain in self._chunker.rest():
            self.pieces.append((self._putter.add(plain), len(plain)))


@dataclass(eq=False)
class _Pack:
    """The small streams of one store, one after the other."""

    cutter: _Cutter
    waiting: list[tuple[Stream, bytes]] = field(default_factory=list)
    size: int = 0

    def add(self, stream: Stream, content: bytes) -> list[_Kept]:
        self.waiting.append((stream, content))
        self.size += len(content)
        return self.flush() if self.size >= GATHERED_BYTES else []

    def flush(self) -> list[_Kept]:
        ready = sorted(self.waiting, key=lambda entry: _order(entry[0]))
        self.waiting, self.size = [], 0
        kept = []
        for stream, content in ready:
            kept.append(_Kept(stream, self.cutter.pieces, self.cutter.size))
            self.cutter.add(content)
        return kept


class BackupWriter:
    """Implements `tenure.backups.contract.Sink`, and finishes the backup."""

    def __init__(self, writing: Writing, sealer: Sealer, *, patience_s: float = PATIENCE_S) -> None:
        if (sealer.tenant, sealer.reference) != (writing.tenant, writing.key):
            raise UsageError(
                f"the key {sealer.reference} does not seal this backup of {writing.tenant}: {writing.key} does"
            )
        self._writing = writing
        self._sealer = sealer
        self._putter = Putter(writing, sealer, patience_s=patience_s)
        self._lock = threading.Lock()
        self._kept: list[_Kept] = []
        self._packs: dict[StoreName, _Pack] = {}
        self._open: set[_OpenStream] = set()
        self._named: dict[tuple[StoreName, str, Part], int] = {}
        self._given = 0

    @property
    def tenant(self) -> TenantId:
        return self._writing.tenant

    @property
    def tally(self) -> Tally:
        return self._putter.tally

    # -- streams -----------------------------------------------------------------------------------------------------

    def stream(self, store: StoreName, collection: str, part: Part, header: Header) -> _OpenStream:
        checked = _checked_header(header, store, collection)
        self._putter.require_sound()
        name = (store, collection, part)
        with self._lock:
            n = self._named.get(name, 0)
            if part is Part.BASE and n:
                raise UsageError(f"{store}, {collection}: there is a base stream already")
            self._named[name] = n + 1
            made = _OpenStream(self, store, collection, part, n, checked)
            self._open.add(made)
        return made

    def forget(self, store: StoreName) -> None:
        with self._lock:
            if any(made.store == store for made in self._open):
                raise UsageError(f"{store}: streams of it are still open")
            self._kept = [kept for kept in self._kept if kept.stream.store != store]
            self._packs.pop(store, None)
            self._named = {name: n for name, n in self._named.items() if name[0] != store}

    def written(self) -> int:
        with self._lock:
            return self._given

    def renew(self) -> None:
        """Say that the writer lives, if that is due; puts do so by themselves. Raises `LeaseLost` if it was ended."""
        self._putter.renew()

    # -- the end -----------------------------------------------------------------------------------------------------

    def prepare(
        self,
        facts: Facts,
        signer: Signer,
        collections: Sequence[CollectionFacts],
        store_facts: Mapping[StoreName, Mapping[str, Any]],
    ) -> Prepared:
        """Bring everything into the vault, and sign. All streams must be closed. May be repeated with other facts.

        Raises `VaultDamaged` if something that was there has been deleted meanwhile.
        """
        index = self._index(facts, collections, store_facts)
        text = index_text(index)
        cut = self.cutter()  # by contents, too: most of a long index is that of the backup before
        cut.add(text)
        cut.end()
        self._putter.drain()
        chunks = [made.result() for made, _ in cut.pieces]
        contents = self._writing.contents({c for run in index.runs for c in run.chunks}.union(chunks))
        public = Public(
            tenant=self.tenant,
            backup=self._writing.backup,
            key=self._sealer.reference,
            key_check=self._sealer.check,
            contents=digest_of(contents),
            facts=facts,
            stores=totals(index),
            index=chunks,
        )
        return Prepared(contents=contents, public=signed(public, signer), tally=self.tally)

    def commit(self, prepared: Prepared) -> Backup:
        """Write the manifest: from now on there is the backup. Idempotent. Raises `LeaseLost` as `Writing.commit`."""
        return self._writing.commit(prepared.contents, prepared.public)

    def abandon(self) -> None:
        """There will be no such backup. What was put goes with the vault's next collection. Idempotent."""
        self.close()
        self._writing.abandon()

    def close(self) -> None:
        """Let go of threads. The writing stays unfinished unless it was committed, and can be resumed. Idempotent."""
        self._putter.close()

    def _index(
        self,
        facts: Facts,
        collections: Sequence[CollectionFacts],
        store_facts: Mapping[StoreName, Mapping[str, Any]],
    ) -> Index:
        with self._lock:
            if self._open:
                one = next(iter(self._open))
                raise UsageError(f"{len(self._open)} streams are still open, such as {one.name}")
            for store in sorted(self._packs):
                pack = self._packs.pop(store)
                self._kept += pack.flush()
                pack.cutter.end()
            kept = sorted(self._kept, key=lambda one: _order(one.stream))
        self._putter.drain()
        runs: dict[int, int] = {}
        lists: list[_Pieces] = []
        for each in kept:
            if runs.setdefault(id(each.pieces), len(lists)) == len(lists):
                lists.append(each.pieces)
        return Index(
            tenant=self.tenant,
            backup=self._writing.backup,
            point=facts.point,
            streams=[Placed(stream=k.stream, run=runs[id(k.pieces)], start=k.start) for k in kept],
            runs=[
                Run(
                    chunks=[made.result() for made, _ in pieces],
                    sizes=[size for _, size in pieces],
                )
                for pieces in lists
            ],
            collections=sorted(collections, key=lambda c: (c.store, c.collection)),
            store_facts=store_facts,
        )

    # -- what streams ask for ----------------------------------------------------------------------------------------

    def cutter(self) -> _Cutter:
        return _Cutter(self._putter, self._sealer.cutting)

    def took(self, size: int) -> None:
        self._putter.require_sound()
        with self._lock:
            self._given += size

    def keep(self, made: _OpenStream, stream: Stream, content: bytes | _Pieces) -> None:
        with self._lock:
            if isinstance(content, bytes):
                pack = self._packs.setdefault(stream.store, _Pack(self.cutter()))
                self._kept += pack.add(stream, content)
            else:
                self._kept.append(_Kept(stream, content))
            self._open.discard(made)

    def drop(self, made: _OpenStream) -> None:
        with self._lock:
            self._open.discard(made)
            if made.part is Part.BASE:
                self._named.pop((made.store, made.collection, made.part), None)


class _OpenStream:
    """Implements `tenure.backups.contract.StreamWriter`."""

    def __init__(
        self, backup: BackupWriter, store: StoreName, collection: str, part: Part, n: int, header: Header
    ) -> None:
        self._backup = backup
        self.store = store
        self.collection = collection
        self.part = part
        self._n = n
        self._header = header
        self._digest = hashlib.sha256()
        self._size = 0
        self._small: bytearray | None = bytearray()
        self._cutter: _Cutter | None = None
        self._closed: Stream | None = None
        self._over = False

    @property
    def name(self) -> str:
        return f"{self.part} of {self.store}, {self.collection}"

    def write(self, data: bytes | memoryview) -> None:
        if self._over:
            raise UsageError(f"{self.name} is closed")
        given = memoryview(data).cast("B")
        self._backup.took(len(given))
        self._digest.update(given)
        self._size += len(given)
        if self._small is not None and self._size <= SMALL_BYTES:
            self._small += given
            return
        if self._cutter is None:
            self._cutter = self._backup.cutter()
            if self._small:
                self._cutter.add(bytes(self._small))
            self._small = None
        self._cutter.add(given)

    def close(self, *, items: int | None = None) -> Stream:
        if self._closed is not None:
            return self._closed
        if self._over:
            raise UsageError(f"{self.name} was discarded")
        stream = Stream(
            store=self.store,
            collection=self.collection,
            part=self.part,
            n=self._n,
            header=self._header,
            size_bytes=self._size,
            digest=self._digest.hexdigest(),
            items=items,
        )
        if self._cutter is not None:
            self._cutter.end()
            self._backup.keep(self, stream, self._cutter.pieces)
        else:
            self._backup.keep(self, stream, bytes(self._small or b""))
        self._over, self._closed, self._small, self._cutter = True, stream, None, None
        return stream

    def discard(self) -> None:
        if not self._over:
            self._over, self._small, self._cutter = True, None, None
            self._backup.drop(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


def _order(stream: Stream) -> tuple[str, str, str, int]:
    return stream.store, stream.collection, stream.part, stream.n


def _checked_header(header: Header, store: StoreName, collection: str) -> Header:
    try:
        text = canonical(header)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{store}, {collection}: the header of a stream has to be JSON") from error
    if len(text) > MOST_HEADER_BYTES:
        raise UsageError(f"{store}, {collection}: a header has at most {MOST_HEADER_BYTES} bytes")
    return dict(header)
