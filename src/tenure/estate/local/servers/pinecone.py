"""The stand-in for Pinecone (`tenure.estate.local.pinecone_stand_in`), which is no Pinecone, as a server."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Final

from tenure.estate.local import accounts
from tenure.estate.local.accounts import Account
from tenure.estate.local.layout import write
from tenure.estate.local.ports import HOST
from tenure.estate.local.servers.contract import Launch, Site, answer
from tenure.estate.local.spec import PineconeServer

MODULE: Final = "tenure.estate.local.pinecone_stand_in"
CONTROL: Final = "control"
_INDEX: Final = "index-"


class Pinecone:
    """One stand-in: a port for the control plane, and one for each index."""

    serves_requests: ClassVar[bool] = False
    transient: ClassVar[tuple[str, ...]] = ()
    stop: ClassVar[tuple[tuple[int, float], ...]] = ((signal.SIGTERM, 3.0),)
    death_signal: ClassVar[int] = signal.SIGKILL

    def __init__(self, server: PineconeServer) -> None:
        self._server = server
        self.ports: Mapping[str, int] = {CONTROL: 0, **{f"{_INDEX}{name}": 0 for name in server.indexes}}
        self.secrets: Mapping[str, str] = {"api_key": ""}

    def account(self, site: Site) -> Account:
        """The servers' account where that can reach this Python and Tenure; else who starts the estate."""
        needed = (Path(sys.executable), Path(os.__file__), Path(__file__))
        reachable = site.account.is_current or all(site.account.can(path, os.R_OK) for path in needed)
        return site.account if reachable else accounts.current()

    def attributes(self, site: Site) -> dict[str, str]:
        hosts = {f"host-{name}": self._url(site, f"{_INDEX}{name}") for name in self._server.indexes}
        return {"endpoint": self._url(site, CONTROL), **hosts, **site.secrets}

    @staticmethod
    def _url(site: Site, port: str) -> str:
        return f"http://{HOST}:{site.ports[port]}"

    async def prepare(self, site: Site) -> None:
        owner = self.account(site).owner
        write(site.folder / "api-key", site.secrets["api_key"], mode=0o600, owner=owner)

    def launch(self, site: Site) -> Launch:
        indexes = [
            f"--index={name}:{dimension}:{self._server.metric}:{site.ports[f'{_INDEX}{name}']}"
            for name, dimension in self._server.indexes.items()
        ]
        argv = (
            *(sys.executable, "-P", "-m", MODULE, "--control", str(site.ports[CONTROL])),
            *("--data", str(site.folder), "--key-file", str(site.folder / "api-key"), *indexes),
            *(() if site.durable else ("--not-durable",)),
        )
        # It finds Tenure as this process does.
        return Launch(argv=argv, env={**os.environ, "TZ": "UTC"})

    async def ready(self, site: Site, pid: int) -> bool:  # noqa: ARG002
        return await answer(site.ports[CONTROL], b"") is not None

    async def furnish(self, site: Site) -> None:
        pass

    def tidy(self, site: Site) -> None:
        pass
