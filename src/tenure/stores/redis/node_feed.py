"""What one server announces of one tenant's keys: client-side tracking in broadcasting mode on a connection of its own.

The server announces every key under the prefix that was written, deleted, expired or evicted, in order with the marks
that Tenure writes. What a lost connection or an emptied server has swallowed is a *gap*, and said so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import redis

from tenure.errors import DeadlineExceeded, StoreUnavailable, TenureError
from tenure.stores.redis.keyspace import Keyspace
from tenure.stores.redis.nodes import Node

if TYPE_CHECKING:
    from tenure.stores.redis.store import RedisStore

SILENCE_S: Final = 5.0
"""After so long without a word the server is asked whether it is still there."""
BACK_OFF_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
MARK_TTL_MS: Final = 10_000
_MARK: Final = """
local n = redis.call('INCR', KEYS[1])
redis.call('SET', ARGV[1] .. n, '1', 'PX', ARGV[2])
return n
"""


class NodeFeed:
    """Calls `on_change(keys)` for every change, and `on_gap()` once it listens again after a gap, from its thread."""

    def __init__(
        self,
        store: RedisStore,
        node: Node,
        keyspace: Keyspace,
        *,
        on_change: Callable[[list[bytes]], None],
        on_gap: Callable[[], None],
    ) -> None:
        self._store = store
        self._node = node
        self._keys = keyspace
        self._on_change = on_change
        self._on_gap = on_gap
        self._state = threading.Condition()
        self._seen = 0
        self._gaps = 0
        self._error: TenureError | None = None
        self._closed = True
        self._connection: Any = None
        self._thread: threading.Thread | None = None
        self._mark: Any = node.client.register_script(_MARK)

    @property
    def gaps(self) -> int:
        """How often it cannot be known what changed. Grows as soon as a gap is noticed."""
        with self._state:
            return self._gaps

    def open(self) -> None:
        """Listen from now on: everything after this returns is announced. Idempotent."""
        with self._state:
            if self._thread is not None:
                return
            self._closed = False
        connection = self._connect()
        with self._state:
            self._connection = connection
            self._thread = threading.Thread(target=self._run, name=f"feed-{self._store.cell}", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread and the connection. Idempotent."""
        with self._state:
            self._closed = True
            connection, thread = self._connection, self._thread
            self._connection = self._thread = None
            self._state.notify_all()
        if connection is not None:
            self._hang_up(connection)
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def raise_error(self) -> None:
        """Raise why there is no connection now, if there is none."""
        with self._state:
            if self._error is not None:
                raise self._error

    def mark(self) -> int:
        """Write the next mark of this tenant on this server; return its number."""
        tag = self._node.tag
        with self._store.translated():
            return int(
                self._mark(keys=[self._keys.counter(tag)], args=[self._keys.mark_start(tag), MARK_TTL_MS])
            )

    def wait(self, n: int, *, timeout_s: float) -> None:
        """Return when mark `n` has come by: every change before it has been announced."""
        deadline = time.monotonic() + timeout_s
        with self._state:
            gaps = self._gaps
            while self._seen < n:
                if self._closed:
                    raise StoreUnavailable(f"{self._store.where}: the change feed was closed")
                left = deadline - time.monotonic()
                if left <= 0 or self._gaps != gaps:
                    if self._error is not None:
                        raise self._error
                    raise DeadlineExceeded(f"{self._node.name} has not announced mark {n} in time")
                self._state.wait(left)

    # -- the thread --------------------------------------------------------------------------------------------------

    def _connect(self) -> Any:
        with self._store.translated():
            connection = self._store.nodes.connection(self._node, silence_s=SILENCE_S)
            connection.connect()
            connection._parser.set_invalidation_push_handler(lambda message: message)
            connection.send_command("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", self._keys.prefix)
            connection.read_response()
            return connection

    @staticmethod
    def _hang_up(connection: Any) -> None:
        try:
            connection.disconnect()
        except (redis.RedisError, OSError):
            return

    def _run(self) -> None:
        while True:
            try:
                with self._store.translated():
                    self._listen()
            except TenureError as error:
                if not self._gap(error) or not self._reconnect():
                    return
            except (OSError, ValueError) as error:
                # The connection was closed under the reader, by `close`.
                if not self._gap(StoreUnavailable(f"{self._store.where}: {error}")) or not self._reconnect():
                    return

    def _listen(self) -> None:
        connection = self._connection
        asked = False
        while True:
            with self._state:
                if self._closed:
                    raise StoreUnavailable("closed")
            try:
                message = connection.read_response(disconnect_on_error=False, push_request=True)
            except redis.TimeoutError:
                if asked:
                    raise
                connection.send_command("PING", check_health=False)
                asked = True
                continue
            asked = False
            if isinstance(message, list) and message and message[0] == b"invalidate":
                self._announced(message[1])

    def _announced(self, keys: list[bytes] | None) -> None:
        if keys is None:
            # FLUSHALL, FLUSHDB, or the server's table overflowed.
            with self._state:
                self._gaps += 1
                self._state.notify_all()
            self._on_gap()
            return
        changed = [key for key in keys if self._keys.owns(key)]
        if changed:
            self._on_change(changed)
        marks = [n for n in (self._keys.mark_number(k, self._node.tag) for k in keys) if n is not None]
        if marks:
            with self._state:
                self._seen = max(self._seen, *marks)
                self._state.notify_all()

    def _gap(self, error: TenureError) -> bool:
        """Note that what changes from now on goes unseen. False if that is because the feed was closed."""
        with self._state:
            if self._closed:
                return False
            self._gaps += 1
            self._error = error
            self._state.notify_all()
            return True

    def _reconnect(self) -> bool:
        attempt = 0
        while True:
            with self._state:
                if self._state.wait_for(
                    lambda: self._closed, timeout=BACK_OFF_S[min(attempt, len(BACK_OFF_S) - 1)]
                ):
                    return False
            attempt += 1
            try:
                connection = self._connect()
            except TenureError as error:
                with self._state:
                    self._error = error
                continue
            with self._state:
                if self._closed:
                    self._hang_up(connection)
                    return False
                old, self._connection = self._connection, connection
                self._error = None
                # Numbers of marks begin anew on a server that has lost its memory.
                self._seen = 0
            if old is not None:
                self._hang_up(old)
            self._on_gap()
            return True
