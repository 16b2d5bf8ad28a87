"""A request such as users make, to find out which cell answers it."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Sequence
from urllib.parse import urlsplit

from tenure.errors import StoreUnavailable


class HttpProbe:
    """Implements `Probe`: a GET of `path`; the answer's `header` names the cell, whatever its status. Thread-safe."""

    def __init__(self, *, path: str, header: str, timeout_s: float) -> None:
        self._path = path
        self._header = header
        self._timeout_s = timeout_s

    def cell_at(self, url: str, host: str, addresses: Sequence[str] = ()) -> str | None:
        """The cell that answers for the host at the url; None if the answer names none.

        `addresses` are tried instead of looking the url's own host up. Raises `StoreUnavailable` without an answer.
        """
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        problem: Exception | None = None
        for address in addresses or (str(parts.hostname),):
            try:
                return self._ask(address, port, host, tls=parts.scheme == "https")
            except (OSError, http.client.HTTPException) as error:
                problem = error
        raise StoreUnavailable(
            f"nobody answers for {host!r} at {url}: {problem or type(problem).__name__}",
            hint="is it up, and reachable from here?",
        ) from problem

    def _ask(self, address: str, port: int, host: str, *, tls: bool) -> str | None:
        connection = http.client.HTTPConnection(address, port, timeout=self._timeout_s)
        try:
            sock = socket.create_connection((address, port), timeout=self._timeout_s)
            connection.sock = (
                ssl.create_default_context().wrap_socket(sock, server_hostname=host) if tls else sock
            )
            connection.request("GET", self._path, headers={"Host": host, "Connection": "close"})
            return connection.getresponse().getheader(self._header)
        finally:
            connection.close()
