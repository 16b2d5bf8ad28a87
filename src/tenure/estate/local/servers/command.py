"""Any program as a server: the gate, the sample app."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from tenure.errors import UsageError
from tenure.estate.local import accounts
from tenure.estate.local.accounts import Account
from tenure.estate.local.servers.contract import Launch, Site, answer, http
from tenure.estate.local.spec import CommandServer


class Command:
    """One program."""

    secrets: ClassVar[Mapping[str, str]] = {}
    serves_requests: ClassVar[bool] = True
    transient: ClassVar[tuple[str, ...]] = ()

    def __init__(self, server: CommandServer) -> None:
        self._server = server
        self.ports: Mapping[str, int] = server.ports
        self.stop: tuple[tuple[int, float], ...] = (
            (signal.Signals[server.stop_signal], server.stop_within_s),
        )
        self.death_signal: int = signal.SIGKILL

    def account(self, site: Site) -> Account:
        if self._server.account == "own":
            return accounts.current()
        if self._server.account == "server" or site.account.is_current:
            return site.account
        program = site.fill(self._server.argv[0])
        needed = [Path(sys.executable), Path(os.__file__), *([Path(program)] if "/" in program else [])]
        return site.account if all(site.account.can(path, os.R_OK) for path in needed) else accounts.current()

    def attributes(self, site: Site) -> dict[str, str]:  # noqa: ARG002
        return {}

    async def prepare(self, site: Site) -> None:
        pass

    def launch(self, site: Site) -> Launch:
        env = {**os.environ, **{name: site.fill(value) for name, value in self._server.env.items()}}
        argv = tuple(site.fill(part) for part in self._server.argv)
        return Launch(argv=argv, env=env, cwd=self._server.cwd)

    async def ready(self, site: Site, pid: int) -> bool:  # noqa: ARG002
        if not self._server.ready:
            return True
        how, _, where = self._server.ready.partition(":")
        port, slash, path = where.partition("/")
        if how not in ("tcp", "http") or port not in site.ports:
            raise UsageError(f"{self._server.ready!r} of {site.name} is neither tcp:PORT nor http:PORT/PATH")
        if how == "tcp":
            return await answer(site.ports[port], b"") is not None
        status, _ = await http(site.ports[port], slash + path or "/")
        return 0 < status < 400

    async def furnish(self, site: Site) -> None:
        pass

    def tidy(self, site: Site) -> None:
        pass
