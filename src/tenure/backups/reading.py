"""A backup read back. The manifest is verified before anything else is looked at, each chunk before a byte of it is
given out, and each stream by its digest."""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_right
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from typing import Any, Final

from tenure.backups.contract import CollectionFacts, Stream
from tenure.backups.manifest import Index, Placed, Public, Run, named_stream, parsed_index, verified
from tenure.backups.sealing import Sealer
from tenure.backups.signing import Trust
from tenure.errors import KeyUnusable, UsageError, VaultDamaged
from tenure.model.names import StoreName, TenantId
from tenure.stores.vault.contract import Backup, ChunkId, Contents, Vault

AHEAD: Final = 6
"""Chunks that are fetched and opened ahead of the reader."""
THREADS: Final = 6
KEPT: Final = 8
"""Opened chunks with several streams in them that are kept at hand."""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What needs no key: a manifest that the estate has signed, and the list of chunks that it names."""

    backup: Backup
    public: Public
    contents: Contents


def verify_manifest(vault: Vault, backup: Backup, trust: Trust, *, tenant: TenantId) -> Verified:
    """Raises `VaultDamaged`, `BackupUntrusted` or `BackupTooNew` if it is not to be believed."""
    contents = vault.contents(backup)
    return Verified(backup=backup, public=verified(backup, contents, trust, tenant=tenant), contents=contents)


def open_index(vault: Vault, known: Verified, sealer: Sealer) -> Index:
    """The sealed part. Raises `KeyUnusable` for another key than the backup's, `VaultDamaged` for what does not fit."""
    public = known.public
    require_key(public, sealer)
    text = b"".join(sealer.open(chunk, vault.get(known.contents, chunk)) for chunk in public.index)
    return parsed_index(text, public, known.contents)


def require_key(public: Public, sealer: Sealer) -> None:
    """Raises `KeyUnusable` unless it is the key that sealed that backup."""
    if sealer.tenant != public.tenant or sealer.check != public.key_check:
        raise KeyUnusable(
            f"backup {public.backup} of {public.tenant} was sealed with another key than {sealer.reference}",
            hint=f"its key is {public.key}",
        )


def require_signed(contents: Contents, chunk: ChunkId, sealed: bytes) -> None:
    """Raises `VaultDamaged` unless these are the bytes that were signed for: the vault gives those of another upload of
    the chunk where the first one is lost, and without the key nobody can tell what is in them."""
    digest = hashlib.blake2b(sealed, digest_size=16).hexdigest()
    if contents.chunks[chunk].name.rpartition(".")[2] != digest:
        raise VaultDamaged(
            f"chunk {chunk} of backup {contents.backup} of {contents.tenant} is lost; the vault has another upload of "
            "it, which only the tenant's key can vouch for",
            hint="verify with the key; a newer backup can be copied",
        )


class BackupReader:
    """Implements `tenure.backups.contract.Source`."""

    def __init__(self, vault: Vault, known: Verified, sealer: Sealer) -> None:
        self._vault = vault
        self._known = known
        self._sealer = sealer
        self._index = open_index(vault, known, sealer)
        self._by_name = {_name(p.stream): p for p in self._index.streams}
        self._ends = [list(accumulate(run.sizes)) for run in self._index.runs]
        uses = Counter(placed.run for placed in self._index.streams)
        self._shared = {run for run, n in uses.items() if n > 1}
        self._recent: OrderedDict[ChunkId, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="tenure-get")

    @property
    def tenant(self) -> TenantId:
        return self._index.tenant

    @property
    def point(self) -> datetime:
        return self._index.point

    @property
    def public(self) -> Public:
        return self._known.public

    @property
    def index(self) -> Index:
        return self._index

    def streams(self, store: StoreName | None = None, collection: str | None = None) -> Sequence[Stream]:
        return tuple(
            placed.stream
            for placed in self._index.streams
            if store in (None, placed.stream.store) and collection in (None, placed.stream.collection)
        )

    def collections(self, store: StoreName | None = None) -> Sequence[CollectionFacts]:
        return tuple(c for c in self._index.collections if store in (None, c.store))

    def facts(self, store: StoreName) -> Mapping[str, Any]:
        return self._index.store_facts.get(store, {})

    def read(self, stream: Stream, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        placed = self._by_name.get(_name(stream))
        if placed is None or placed.stream.digest != stream.digest:
            raise UsageError(f"{named_stream(stream)} is no stream of backup {self.public.backup}")
        size = stream.size_bytes - start if length is None else length
        if start < 0 or size < 0 or start + size > stream.size_bytes:
            raise UsageError(f"{named_stream(stream)} has only {stream.size_bytes} bytes")
        whole = size == stream.size_bytes
        return self._verified_pieces(placed, start, size, whole=whole)

    def close(self) -> None:
        """Let go of threads and of what is kept at hand. Idempotent."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            self._recent.clear()

    def _verified_pieces(self, placed: Placed, start: int, size: int, *, whole: bool) -> Iterator[bytes]:
        digest = hashlib.sha256()
        for piece in self._pieces(placed, placed.start + start, size):
            if whole:
                digest.update(piece)
            yield piece
        if whole and digest.hexdigest() != placed.stream.digest:
            raise VaultDamaged(
                f"backup {self.public.backup} of {self.tenant}: {named_stream(placed.stream)} is not what was written: "
                "its digest is another one"
            )

    def _pieces(self, placed: Placed, begin: int, size: int) -> Iterator[bytes]:
        """The bytes from `begin` of a run on, chunk by chunk, some fetched ahead."""
        run, ends = self._index.runs[placed.run], self._ends[placed.run]
        left, at = size, bisect_right(ends, begin)
        skip = begin - (ends[at - 1] if at else 0)
        ahead: deque[Future[bytes]] = deque()
        coming = at
        try:
            while left > 0:
                while (
                    coming < len(run.chunks) and len(ahead) < AHEAD and _begins(ends, coming) < begin + size
                ):
                    ahead.append(self._pool.submit(self._chunk, placed, run, coming))
                    coming += 1
                plain = ahead.popleft().result()
                piece = plain[skip : skip + left]
                skip, left = 0, left - len(piece)
                yield piece
        finally:
            for each in ahead:
                each.cancel()

    def _chunk(self, placed: Placed, run: Run, at: int) -> bytes:
        chunk = run.chunks[at]
        shared = placed.run in self._shared
        with self._lock:
            kept = self._recent.get(chunk) if shared else None
        if kept is not None:
            return kept
        try:
            plain = self._sealer.open(chunk, self._vault.get(self._known.contents, chunk))
        except VaultDamaged as error:
            raise VaultDamaged(f"{named_stream(placed.stream)}: {error.message}", hint=error.hint) from error
        if len(plain) != run.sizes[at]:
            raise VaultDamaged(f"{named_stream(placed.stream)}: chunk {chunk} has another size than it had")
        if shared:
            with self._lock:
                self._recent[chunk] = plain
                while len(self._recent) > KEPT:
                    self._recent.popitem(last=False)
        return plain


def _begins(ends: Sequence[int], at: int) -> int:
    return ends[at - 1] if at else 0


def _name(stream: Stream) -> tuple[str, str, str, int]:
    return stream.store, stream.collection, stream.part, stream.n
