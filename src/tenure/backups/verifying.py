"""Whether a backup could be restored, without restoring it and without the tenant's cell: by a sample of its chunks, or
by every byte. Without the tenant's key, what is there is compared with what the estate has signed; with it, chunks are
opened and streams digested. Every finding says what is wrong, and where."""

from __future__ import annotations

import hashlib
import random
import threading
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate, islice
from typing import Final

from tenure.backups.manifest import Index, Placed, Run, named_stream
from tenure.backups.reading import Verified, open_index, require_signed, verify_manifest
from tenure.backups.sealing import Sealer
from tenure.backups.signing import Trust
from tenure.errors import BackupTooNew, BackupUntrusted, KeyUnusable, TenureError, VaultDamaged
from tenure.model.names import TenantId
from tenure.stores.vault.contract import Backup, ChunkId, Vault

THREADS: Final = 6
SHOWN_STREAMS: Final = 5
Progress = Callable[[int, int], None]
"""Chunks and sealed bytes that were looked at since the last call."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong. `code` is stable; `chunk` and `streams` say where, as far as that can be known."""

    code: str
    message: str
    chunk: ChunkId | None = None
    streams: tuple[str, ...] = ()
    """What cannot be restored because of it; the first few."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was looked at and what was found. `opened`: with the key, so that contents were checked and not only what
    was signed; `whole`: every byte was looked at."""

    backup: Backup
    problems: tuple[Problem, ...]
    opened: bool
    whole: bool
    chunks_of: int
    chunks_looked_at: int
    bytes_looked_at: int
    streams_checked: int
    """How many streams were read through and had their digest."""

    @property
    def notices(self) -> tuple[str, ...]:
        """What is no damage and should be known: what protects the backup no longer, and what somebody tried."""
        found = []
        if self.backup.lock is not None and self.backup.lock.until <= datetime.now(UTC):
            found.append(
                f"its lock ended on {self.backup.lock.until:%Y-%m-%d at %H:%M:%S} UTC: the vault deletes it if told to"
            )
        if self.backup.hidden:
            found.append("somebody deleted it; the vault keeps versions, so it is still there")
        if self.backup.disputed:
            found.append("somebody wrote another manifest over it; this is the first one")
        return tuple(found)

    @property
    def good(self) -> bool:
        return not self.problems

    @property
    def damaged(self) -> frozenset[ChunkId]:
        """The chunks to put anew: what `Vault.distrust` wants to hear."""
        return frozenset(p.chunk for p in self.problems if p.chunk is not None)


def quiet(chunks: int, size_bytes: int) -> None:
    """A `Progress` that tells nobody."""


def verify(
    vault: Vault,
    backup: Backup,
    trust: Trust,
    *,
    tenant: TenantId,
    sealer: Sealer | None = None,
    share: float | None = None,
    refusal: KeyUnusable | None = None,
    progress: Progress = quiet,
) -> Verification:
    """Look at a share of the chunks, chosen anew each time, or at every byte (None); the manifest, that no chunk is
    missing, and with the key the index are looked at in any case.

    `refusal`: why there is no key, where one was looked for. What is wrong is in the answer.
    Raises only what says nothing about the backup: `StoreUnavailable` and the like.
    """
    look = _Look(vault, backup, sealer, progress)
    if refusal is not None:
        look.found(refusal.code, refusal)
    try:
        known = verify_manifest(vault, backup, trust, tenant=tenant)
    except (BackupUntrusted, BackupTooNew, VaultDamaged) as error:
        look.found(error.code, error)
        return look.answer(0, whole=False)
    return look.at(known, share)


@dataclass(eq=False)
class _Look:
    vault: Vault
    backup: Backup
    sealer: Sealer | None
    progress: Progress
    problems: list[Problem] = field(default_factory=list)
    bad: set[ChunkId] = field(default_factory=set)
    seen: set[ChunkId] = field(default_factory=set)
    size_bytes: int = 0
    streams: int = 0
    opened: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def at(self, known: Verified, share: float | None) -> Verification:
        index = self._index(known)
        uses = _uses(index)
        missing = self.vault.missing(known.contents)
        for chunk in sorted(missing):
            self._bad(chunk, "chunk_missing", f"chunk {chunk} is missing, or has another size", uses)
        with ThreadPoolExecutor(THREADS, thread_name_prefix="tenure-verify") as pool:
            if share is None and index is not None and self.sealer is not None:
                self._every_byte(known, index, uses, pool)
                self._each(known, known.public.index, uses, pool)
            else:
                chosen = _chosen(known, share)
                self._each(known, chosen, uses, pool)
        return self.answer(len(known.contents.chunks), whole=share is None)

    def found(self, code: str, error: TenureError) -> None:
        self.problems.append(Problem(code=code, message=error.message))

    def answer(self, chunks: int, *, whole: bool) -> Verification:
        return Verification(
            backup=self.backup,
            problems=tuple(self.problems),
            opened=self.opened,
            whole=whole,
            chunks_of=chunks,
            chunks_looked_at=len(self.seen),
            bytes_looked_at=self.size_bytes,
            streams_checked=self.streams,
        )

    def _index(self, known: Verified) -> Index | None:
        if self.sealer is None:
            return None
        try:
            index = open_index(self.vault, known, self.sealer)
        except (BackupUntrusted, BackupTooNew, KeyUnusable, VaultDamaged) as error:
            self.found("index_unreadable" if isinstance(error, VaultDamaged) else error.code, error)
            return None
        self.opened = True
        return index

    def _bad(self, chunk: ChunkId, code: str, message: str, uses: _Uses) -> None:
        with self.lock:
            if chunk in self.bad:
                return
            self.bad.add(chunk)
            streams = tuple(islice(uses.get(chunk, ()), SHOWN_STREAMS))
            self.problems.append(Problem(code=code, message=message, chunk=chunk, streams=streams))

    def _each(
        self, known: Verified, chunks: Collection[ChunkId], uses: _Uses, pool: ThreadPoolExecutor
    ) -> None:
        for _ in _ahead(pool, lambda chunk: self._plain(known, chunk, uses), chunks):
            pass

    def _plain(self, known: Verified, chunk: ChunkId, uses: _Uses) -> bytes | None:
        """A chunk looked at: its bytes, empty without the key; None if something is wrong with it."""
        if chunk in self.bad:
            return None
        try:
            sealed = self.vault.get(known.contents, chunk)
            if self.sealer is not None and self.opened:
                plain = self.sealer.open(chunk, sealed)
            else:
                plain = b""
                require_signed(known.contents, chunk, sealed)
        except VaultDamaged as error:
            self._bad(chunk, "chunk_damaged", error.message, uses)
            return None
        with self.lock:
            first = chunk not in self.seen
            self.seen.add(chunk)
            self.size_bytes += len(sealed) if first else 0
        if first:
            self.progress(1, len(sealed))
        return plain

    def _every_byte(self, known: Verified, index: Index, uses: _Uses, pool: ThreadPoolExecutor) -> None:
        in_run: dict[int, list[Placed]] = defaultdict(list)
        for placed in index.streams:
            in_run[placed.run].append(placed)
        for n, run in enumerate(index.runs):
            plains = _ahead(pool, lambda chunk: self._plain(known, chunk, uses), run.chunks)
            self._digests(run, in_run[n], plains, uses)

    def _digests(
        self, run: Run, placed: Sequence[Placed], plains: Iterator[bytes | None], uses: _Uses
    ) -> None:
        """Every stream of a run against its digest; of those that lack a chunk, that was said already."""
        coming = deque(_Digest(p) for p in sorted(placed, key=lambda p: p.start))
        begun: list[_Digest] = []
        at = 0
        for chunk, size, plain in zip(run.chunks, run.sizes, plains, strict=True):
            fits = plain is None or len(plain) == size
            if not fits:
                self._bad(chunk, "chunk_size", f"chunk {chunk} has another size than it had", uses)
            while coming and coming[0].placed.start < at + size:
                begun.append(coming.popleft())
            for one in begun:
                one.take(at, size, plain if fits else None)
            at += size
            begun = [one for one in begun if not self._done(one, at)]
        for empty in coming:
            self._done(empty, at)

    def _done(self, one: _Digest, at: int) -> bool:
        if one.end > at:
            return False
        if one.broken:
            return True
        if one.digest.hexdigest() != one.placed.stream.digest:
            name = named_stream(one.placed.stream)
            self.problems.append(
                Problem(code="stream_differs", message=f"{name} has another digest", streams=(name,))
            )
        self.streams += 1
        return True


_Uses = dict[ChunkId, list[str]]


class _Digest:
    """A stream of a run being digested."""

    def __init__(self, placed: Placed) -> None:
        self.placed = placed
        self.end = placed.start + placed.stream.size_bytes
        self.digest = hashlib.sha256()
        self.broken = False

    def take(self, at: int, size: int, plain: bytes | None) -> None:
        """What of these bytes, which begin at `at` of the run, is the stream's."""
        begin, end = max(self.placed.start, at), min(self.end, at + size)
        if begin >= end:
            return
        if plain is None:
            self.broken = True
        else:
            self.digest.update(memoryview(plain)[begin - at : end - at])


def _uses(index: Index | None) -> _Uses:
    """The streams that need each chunk."""
    uses: _Uses = defaultdict(list)
    if index is None:
        return uses
    ends = [list(accumulate(run.sizes)) for run in index.runs]
    for placed in index.streams:
        chunks, its = index.runs[placed.run].chunks, ends[placed.run]
        n, end = bisect_right(its, placed.start), placed.start + placed.stream.size_bytes
        while n < len(chunks) and (its[n - 1] if n else 0) < end:
            uses[chunks[n]].append(named_stream(placed.stream))
            n += 1
    return uses


def _chosen(known: Verified, share: float | None) -> Sequence[ChunkId]:
    every = sorted(known.contents.chunks)
    if share is None:
        return every
    index = set(known.public.index)
    others = [chunk for chunk in every if chunk not in index]
    n = min(len(others), max(1, round(share * len(others))))
    return [*sorted(index), *sorted(random.SystemRandom().sample(others, n))]


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[ChunkId], bytes | None], chunks: Iterable[ChunkId]
) -> Iterator[bytes | None]:
    """The results in order, with few under way at once."""
    left = iter(chunks)
    under_way = [pool.submit(work, chunk) for chunk in islice(left, 2 * THREADS)]
    while under_way:
        result = under_way.pop(0).result()
        under_way += [pool.submit(work, chunk) for chunk in islice(left, 1)]
        yield result
