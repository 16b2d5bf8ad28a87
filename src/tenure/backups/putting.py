"""Chunks on their way into a vault: several threads name, compress, seal and put them, with bounded memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from typing import Final

from tenure.backups.sealing import Sealer
from tenure.errors import StoreUnavailable, UsageError
from tenure.stores.vault.contract import ChunkId, Writing

WORKERS: Final = 6
IN_FLIGHT: Final = 18
"""Chunks at most that wait for a thread or are worked on: some 10 MiB, never over 80 MiB."""
RENEW_S: Final = 30.0
"""How often a writing says that it lives."""
PATIENCE_S: Final = 60.0
"""How long a vault that cannot be reached is asked again, before the backup gives up."""
_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What went to the vault so far. `known`: chunks that were there already, or came more than once."""

    chunks: int = 0
    known: int = 0
    put: int = 0
    put_bytes: int = 0
    """Sealed."""


class Putter:
    """Puts chunks of one backup. Once something has failed, everything raises that; what is put stays put."""

    def __init__(
        self,
        writing: Writing,
        sealer: Sealer,
        *,
        workers: int = WORKERS,
        in_flight: int = IN_FLIGHT,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._writing = writing
        self._sealer = sealer
        self._patience_s = patience_s
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="tenure-put")
        self._room = threading.BoundedSemaphore(in_flight)
        self._lock = threading.Lock()
        self._under_way: set[Future[ChunkId]] = set()
        self._tally = Tally()
        self._error: BaseException | None = None
        self._stopped = threading.Event()
        self._renewal = threading.Lock()
        self._renewed = time.monotonic()

    @property
    def tally(self) -> Tally:
        with self._lock:
            return self._tally

    def require_sound(self) -> None:
        """Raise what has failed; `UsageError` once it was closed."""
        if self._error is not None:
            raise self._error
        if self._stopped.is_set():
            raise UsageError("the backup is not being written any more")

    def add(self, plain: bytes) -> Future[ChunkId]:
        """Have it put; wait where the vault does not keep pace. The result is its id."""
        self.require_sound()
        self._room.acquire()
        made = self._pool.submit(self._work, plain)
        with self._lock:
            self._under_way.add(made)
        made.add_done_callback(self._done)
        return made

    def drain(self) -> None:
        """Wait until everything that was given is in the vault. Raises what has failed."""
        with self._lock:
            under_way = set(self._under_way)
        wait_for(under_way)
        self.require_sound()

    def renew(self) -> None:
        """Say that the writer lives, if that is due. Raises `LeaseLost` if it has been ended."""
        if time.monotonic() - self._renewed < RENEW_S or not self._renewal.acquire(blocking=False):
            return
        try:
            self._writing.renew()
            self._renewed = time.monotonic()
        finally:
            self._renewal.release()

    def close(self) -> None:
        """Stop. What is under way ends first; nothing new begins."""
        self._stopped.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _done(self, made: Future[ChunkId]) -> None:
        self._room.release()
        with self._lock:
            self._under_way.discard(made)
            error = None if made.cancelled() else made.exception()
            if error is not None and not isinstance(error, UsageError) and self._error is None:
                self._error = error
                self._stopped.set()

    def _work(self, plain: bytes) -> ChunkId:
        self.require_sound()
        self.renew()
        chunk = self._sealer.chunk_id(plain)
        size = 0
        if not self._patiently(lambda: self._writing.has(chunk)):
            sealed = self._sealer.seal(chunk, plain)
            if self._patiently(lambda: self._writing.put(chunk, sealed)):
                size = len(sealed)
        with self._lock:
            before = self._tally
            self._tally = Tally(
                chunks=before.chunks + 1,
                known=before.known + (not size),
                put=before.put + bool(size),
                put_bytes=before.put_bytes + size,
            )
        return chunk

    def _patiently(self, ask: Callable[[], bool]) -> bool:
        deadline, pause_s = time.monotonic() + self._patience_s, _FIRST_PAUSE_S
        while True:
            try:
                return ask()
            except StoreUnavailable:
                if time.monotonic() + pause_s >= deadline or self._stopped.wait(pause_s):
                    raise
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
