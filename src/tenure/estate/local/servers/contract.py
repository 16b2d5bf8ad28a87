"""What the supervisor asks of every kind of server, and what it gives it."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from tenure.estate.local.accounts import Account
from tenure.estate.local.binaries import Programs
from tenure.estate.local.layout import Folder
from tenure.estate.local.ports import HOST

_REFERENCE: Final = re.compile(r"\$\{([a-z0-9-]+)(?:\.([a-z0-9_-]+))?\}")
_PROBE_S: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class Site:
    """One server's place in the estate: what is its own, and how it sees the others."""

    name: str
    estate: Folder
    ports: Mapping[str, int]
    secrets: Mapping[str, str]
    account: Account
    programs: Programs
    durable: bool
    lookup: Callable[[str, str | None], str]
    # Runs a program as the servers' account to its end; raises with its output if it fails.
    run: Callable[[Sequence[str], Path], Awaitable[None]]
    once: Callable[[str], asyncio.Lock]

    @property
    def folder(self) -> Path:
        return self.estate.server(self.name)

    def fill(self, text: str) -> str:
        """Replace `${NAME.ATTRIBUTE}`. Raises `UnknownName` for names that do not exist."""
        return _REFERENCE.sub(
            lambda found: self.lookup(self.name if found[1] == "self" else found[1], found[2]), text
        )


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A program to start: without a shell, in `cwd`, with exactly this environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None


class Recipe(Protocol):
    """One server of one kind. Nothing here blocks for long: the supervisor has one thread."""

    @property
    def ports(self) -> Mapping[str, int]:
        """Port names and numbers; 0 means any free one."""

    @property
    def secrets(self) -> Mapping[str, str]:
        """Names of the secrets to make, each with a label under which several servers share it, or ''."""

    @property
    def stop(self) -> tuple[tuple[int, float], ...]:
        """Signals and how many seconds each is given; SIGKILL follows."""

    @property
    def death_signal(self) -> int:
        """What the server gets if the supervisor dies."""

    @property
    def serves_requests(self) -> bool:
        """It is stopped before the stores it needs."""

    @property
    def transient(self) -> tuple[str, ...]:
        """Words in its log after which starting it again at once may work."""

    def account(self, site: Site) -> Account:
        """Who it runs as; its folder is theirs."""

    def attributes(self, site: Site) -> dict[str, str]:
        """What others may know: `dsn`, `url`, ... Secrets included."""

    async def prepare(self, site: Site) -> None:
        """Write its files. Safe to run again; an interruption leaves nothing half-made."""

    def launch(self, site: Site) -> Launch: ...

    async def ready(self, site: Site, pid: int) -> bool:
        """Whether it serves now. Answers within about a second."""

    async def furnish(self, site: Site) -> None:
        """Make what the spec wants inside it, now that it serves. Safe to run again."""

    def tidy(self, site: Site) -> None:
        """Remove what a stopped server leaves outside its folder."""


def environment(site: Site) -> dict[str, str]:
    """What a server needs to see of the environment: nothing of the user's."""
    return {"PATH": os.defpath, "HOME": str(site.folder), "LC_ALL": "C", "TZ": "UTC"}


async def answer(port: int, request: bytes) -> bytes | None:
    """All that the server at the port answers until it closes the connection; None if it does not answer or
    listen."""
    try:
        async with asyncio.timeout(_PROBE_S):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                writer.write(request)
                return await reader.read() if request else b""
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None


async def http(port: int, path: str, *, method: str = "GET") -> tuple[int, bytes]:
    """Status and body of a request without a body; status 0 if there is no answer."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n\r\n"
    found = re.match(
        rb"HTTP/1\.[01] (\d{3}).*?\r\n\r\n(.*)", await answer(port, head.encode()) or b"", re.DOTALL
    )
    return (int(found[1]), found[2]) if found else (0, b"")
