"""Free TCP ports on 127.0.0.1, outside the range from which the kernel takes ports for outgoing connections.

A port inside that range could be taken by any client while its server restarts, and a client that knocks at a
closed port there may even connect to itself.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Container
from pathlib import Path
from typing import Final

from tenure.errors import StoreUnavailable

HOST: Final = "127.0.0.1"
LOWEST: Final = 10_240
ATTEMPTS: Final = 200


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def pick(taken: Container[int]) -> int:
    """A free port that is not in `taken`. Another process may still be faster: who binds it must be ready to
    pick again."""
    below = _ephemeral_range()[0]
    for _ in range(ATTEMPTS):
        port = LOWEST + secrets.randbelow(below - LOWEST) if below - LOWEST > ATTEMPTS else _any_port()
        if port not in taken and is_free(port):
            return port
    raise StoreUnavailable(f"no free port on {HOST} after {ATTEMPTS} attempts")


def _any_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _ephemeral_range() -> tuple[int, int]:
    low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    return int(low), int(high)
