"""One server under supervision: start it until it serves, watch it, stop it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any, Final

from tenure.errors import StoreUnavailable
from tenure.estate.local import ports
from tenure.estate.local.layout import tail
from tenure.estate.local.processes import ESTATE_VARIABLE, Identity, identity, spawn
from tenure.estate.local.servers import Recipe, Site
from tenure.estate.local.spec import Server

READY_WITHIN_S: Final = 45.0
PROBE_EVERY_S: Final = 0.05
RETRY_AFTER_S: Final = 0.2
KILLED_WITHIN_S: Final = 5.0
PORTS_FREE_WITHIN_S: Final = 1.0


class Member:
    """A server and its process. `changed` is called whenever what `as_json` gives has changed."""

    def __init__(self, server: Server, recipe: Recipe, site: Site, changed: Callable[[], None]) -> None:
        self.server = server
        self.recipe = recipe
        self.site = site
        self.state = "stopped"
        self.gone = asyncio.Event()
        self.gone.set()
        self._changed = changed
        self._process: subprocess.Popen[bytes] | None = None
        self._identity: Identity | None = None
        self._user = ""
        self._log_begin = 0
        self._lock = asyncio.Lock()

    def as_json(self) -> dict[str, Any]:
        process = self._identity.as_json() if self._identity else {}
        return {
            "kind": self.server.kind,
            "state": self.state,
            "user": self._user,
            "ports": dict(self.site.ports),
            "log": str(self.site.estate.log(self.site.name)),
            "exit": None if self._process is None else self._process.returncode,
            "death_signal": self.recipe.death_signal,
            **process,
        }

    async def start(self, new_ports: Callable[[], Site]) -> None:
        """Start the server and wait until it serves; nothing happens if it does. Raises `StoreUnavailable`.

        If another process took one of its ports first, it is started once more with the site that `new_ports`
        gives.
        """
        async with self._lock:
            if self.state == "ready":
                return
            deadline = time.monotonic() + READY_WITHIN_S
            if await self._taken_ports():
                self._move(new_ports)
            moved = False
            while not await self._attempt(deadline):
                log = self._log_of_attempt()
                if not moved and await self._taken_ports():
                    moved = True
                    self._move(new_ports)
                elif not any(words in log for words in self.recipe.transient) or time.monotonic() > deadline:
                    self._failed(f"ended at once (exit status {self._exit_status()})")
                else:
                    await asyncio.sleep(RETRY_AFTER_S)

    async def stop(self, number: int | None = None) -> None:
        """Stop the server and wait until it is gone: by this one signal, or by its kind's own sequence."""
        async with self._lock:
            if self._process is None or self.gone.is_set():
                self._become("stopped")
                return
            self._become("stopping")
            sequence = ((number, READY_WITHIN_S),) if number is not None else self.recipe.stop
            for step, grace_s in (*sequence, (int(signal.SIGKILL), KILLED_WITHIN_S)):
                self._signal(step)
                try:
                    async with asyncio.timeout(grace_s):
                        await self.gone.wait()
                except TimeoutError:
                    continue
                break
            self.recipe.tidy(self.site)
            self._become("stopped")

    async def _taken_ports(self) -> list[int]:
        """Its ports that another process has, and does not give up within a moment."""
        deadline = time.monotonic() + PORTS_FREE_WITHIN_S
        while taken := [number for number in self.site.ports.values() if not ports.is_free(number)]:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(PROBE_EVERY_S)
        return taken

    def _move(self, new_ports: Callable[[], Site]) -> None:
        self.site = new_ports()
        for name, number in self.recipe.ports.items():
            if number and not ports.is_free(number):
                self._become("failed")
                raise StoreUnavailable(
                    f"port {number} ({name}) of {self.site.name} is taken by another process",
                    hint="stop that process, or let Tenure choose a port",
                )

    async def _attempt(self, deadline: float) -> bool:
        """One start. False if the process ended before it served. Raises `StoreUnavailable` when late."""
        self._become("starting")
        self._prepare_folder()
        await self.recipe.prepare(self.site)
        self._spawn()
        assert self._process is not None
        while not self.gone.is_set():
            if await self.recipe.ready(self.site, self._process.pid) and not self.gone.is_set():
                await self.recipe.furnish(self.site)
                self._become("ready")
                return True
            if time.monotonic() > deadline:
                self._signal(signal.SIGKILL)
                self._failed(f"did not serve within {READY_WITHIN_S:g} s")
            try:
                async with asyncio.timeout(PROBE_EVERY_S):
                    await self.gone.wait()
            except TimeoutError:
                continue
        return False

    def _prepare_folder(self) -> None:
        folder = self.site.folder
        folder.mkdir(mode=0o700, exist_ok=True)
        os.chown(folder, *self.recipe.account(self.site).owner)

    def _spawn(self) -> None:
        launch = self.recipe.launch(self.site)
        log = self.site.estate.open_log(self.site.name)
        self._log_begin = log.stat().st_size if log.exists() else 0
        account = self.recipe.account(self.site)
        try:
            self._process = spawn(
                launch.argv,
                env={**launch.env, ESTATE_VARIABLE: str(self.site.estate.path)},
                cwd=launch.cwd or self.site.folder,
                log=log,
                account=account,
                death_signal=self.recipe.death_signal,
            )
        except OSError as error:
            self._become("failed")
            raise StoreUnavailable(
                f"{self.site.name} cannot be started: {launch.argv[0]}: {error}"
            ) from error
        self._user = account.name
        self._identity = identity(self._process.pid)
        self.gone.clear()
        descriptor = os.pidfd_open(self._process.pid)
        asyncio.get_running_loop().add_reader(descriptor, self._ended, descriptor, self._process)
        self._changed()

    def _ended(self, descriptor: int, process: subprocess.Popen[bytes]) -> None:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
        process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # what it left behind in its group
        self._identity = None
        self.gone.set()
        if self.state in ("ready", "starting"):
            self._become("exited")
        self._changed()

    def _signal(self, number: int) -> None:
        if self._process is not None and not self.gone.is_set():
            self._process.send_signal(number)

    def _log_of_attempt(self) -> str:
        return tail(self.site.estate.log(self.site.name), begin=self._log_begin)

    def _exit_status(self) -> int | None:
        return self._process.returncode if self._process else None

    def _failed(self, what: str) -> None:
        self._become("failed")
        log = self.site.estate.log(self.site.name)
        raise StoreUnavailable(
            f"{self.site.name} ({self.server.kind}) {what}; the end of {log}:\n{self._log_of_attempt()}",
            hint=f"the whole log is {log}",
        )

    def _become(self, state: str) -> None:
        self.state = state
        self._changed()
