"""One kept-alive HTTP connection to a part of the gateway, so that nothing is dialled while users wait."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tenure.errors import StoreUnavailable, UsageError
from tenure.routing.envoy.routes import split_address

_ATTEMPTS: Final = 2


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Status and body of an HTTP answer."""

    status: int
    body: bytes


class Connection:
    """A connection that opens itself again. Thread-safe: one request at a time."""

    def __init__(
        self, address: str, *, what: str, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> None:
        """`what` names the other side in errors. Nothing is opened yet."""
        host, port, tls = split_address(address)
        if tls:
            raise UsageError(
                f"{what} at {address} must be reached by http", hint="put it on a private network"
            )
        self.address = address
        self._what = what
        self._headers = dict(headers or {})
        self._lock = threading.Lock()
        self._http = http.client.HTTPConnection(host, port, timeout=timeout_s)

    def request(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """Ask, and ask once more on a new connection if a kept one turns out to be closed: only for
        idempotent requests.

        Raises `StoreUnavailable` if there is no answer.
        """
        with self._lock:
            for attempt in range(1, _ATTEMPTS + 1):
                kept = self._http.sock is not None
                try:
                    self._http.request(method, path, body=body, headers=self._headers)
                    response = self._http.getresponse()
                    return Answer(status=response.status, body=response.read())
                except (OSError, http.client.HTTPException) as error:
                    self._http.close()
                    closed = isinstance(error, ConnectionError | http.client.BadStatusLine)
                    if not (kept and closed and attempt < _ATTEMPTS):
                        raise StoreUnavailable(
                            f"{self._what} at {self.address} does not answer: {error or type(error).__name__}",
                            hint=f"is {self._what} running?",
                        ) from error
            raise AssertionError("unreachable")

    def close(self) -> None:
        """Idempotent; a later request opens it again."""
        with self._lock:
            self._http.close()
