"""The servers of one estate under one thread: started together, watched, steered over the control socket,
stopped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tenure.errors import StoreUnavailable, TenureError, UnknownName, UsageError
from tenure.estate.local import accounts, control, ports, processes
from tenure.estate.local.binaries import Programs
from tenure.estate.local.layout import Folder, read_json, write_json
from tenure.estate.local.member import Member
from tenure.estate.local.processes import Identity
from tenure.estate.local.report import Report
from tenure.estate.local.servers import Site, recipe
from tenure.estate.local.spec import EstateSpec, Server, check_server, server_from_json

READ_BYTES: Final = 65536


class Supervisor:
    """The servers of one estate, in the one thread of this process."""

    def __init__(self, spec: EstateSpec, keeper: Identity) -> None:
        self._spec = spec
        self._folder = Folder(spec.folder)
        self._account = accounts.for_servers(spec.account)
        self._account.require_way_to(spec.folder)
        self._programs = Programs(self._folder, self._account)
        self._ports: dict[str, dict[str, int]] = read_json(self._folder.ports)
        self._secrets: dict[str, dict[str, str]] = read_json(self._folder.secrets)
        self._once: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._members: dict[str, Member] = {}
        self._endpoints: dict[str, dict[str, str]] = {}
        self._conversations: set[asyncio.Task[Any]] = set()
        self._keeper = keeper
        self._ready = False
        self._stop = asyncio.Event()
        for server in spec.servers:
            self._admit(server)

    async def run(self, *, owner: int | None, report: Report) -> None:
        """Start the servers, say so, and keep them until told to stop, or until the owner is gone."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        if owner is not None:
            self._watch(owner)
        self._record()
        listener = control.listen(self._folder.path)
        door = await asyncio.start_unix_server(self._converse, sock=listener)
        try:
            starting = asyncio.create_task(self._start_all(report))
            stopping = asyncio.create_task(self._stop.wait())
            await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await starting
            else:
                starting.result()
                self._ready = True
                self._record()
                report.ready()
                await stopping
        finally:
            door.close()
            for conversation in self._conversations:
                conversation.cancel()
            await self._stop_all()
            self._folder.state.unlink(missing_ok=True)
            (self._folder.path / control.SOCKET).unlink(missing_ok=True)

    def _watch(self, owner: int) -> None:
        """Stop when the owner closes its end of the pipe, and when it ends.

        Its end also closes when it ends, unless a process that it has forked holds a copy.
        """
        loop = asyncio.get_running_loop()

        def read() -> None:
            if not os.read(0, READ_BYTES):
                loop.remove_reader(0)
                self._stop.set()

        def ended() -> None:
            loop.remove_reader(descriptor)
            self._stop.set()

        os.set_blocking(0, False)
        loop.add_reader(0, read)
        try:
            descriptor = os.pidfd_open(owner)
        except ProcessLookupError:
            self._stop.set()
        else:
            loop.add_reader(descriptor, ended)

    # -- the servers

    def _admit(self, server: Server) -> Member:
        """Give a server its folder, ports and secrets."""
        how = recipe(server)
        shared = {
            label: self._secrets.setdefault(f"shared {label}", {}) for label in how.secrets.values() if label
        }
        own = self._secrets.setdefault(server.name, {})
        for name, label in how.secrets.items():
            known = shared[label].setdefault(name, own.get(name) or secrets.token_hex(16)) if label else None
            own[name] = known or own.get(name) or secrets.token_hex(16)
        numbers = self._choose_ports(server.name, how.ports, self._ports.get(server.name, {}))
        site = Site(
            name=server.name,
            estate=self._folder,
            ports=numbers,
            secrets=own,
            account=self._account,
            programs=self._programs,
            durable=self._spec.durable,
            lookup=self._lookup,
            run=self._run,
            once=self._once.__getitem__,
        )
        self._members[server.name] = Member(server, how, site, self._record)
        write_json(self._folder.ports, self._ports)
        write_json(self._folder.secrets, self._secrets, mode=0o600)
        return self._members[server.name]

    def _choose_ports(
        self, server: str, wanted: Mapping[str, int], before: Mapping[str, int]
    ) -> dict[str, int]:
        """The wanted numbers, else those it had before if they are free, else free ones."""
        taken = {
            number for name, numbers in self._ports.items() if name != server for number in numbers.values()
        }
        chosen: dict[str, int] = {}
        for name, number in wanted.items():
            known = before.get(name, 0)
            if number:
                chosen[name] = number
            elif known and known not in taken and ports.is_free(known):
                chosen[name] = known
            else:
                chosen[name] = ports.pick(taken | set(chosen.values()))
        self._ports[server] = chosen
        return chosen

    def _move(self, member: Member) -> Site:
        """New ports for a server that has lost one of its own."""
        numbers = self._choose_ports(member.server.name, member.recipe.ports, member.site.ports)
        write_json(self._folder.ports, self._ports)
        return replace(member.site, ports=numbers)

    def _lookup(self, name: str, attribute: str | None) -> str:
        if name == "python" and attribute is None:
            return sys.executable
        known = self._known(self._member(name))
        if attribute is None or attribute not in known:
            raise UnknownName(
                f"{name} has no attribute {attribute}", hint=f"it has {', '.join(sorted(known))}"
            )
        return known[attribute]

    def _known(self, member: Member) -> dict[str, str]:
        return {
            **{port: str(number) for port, number in member.site.ports.items()},
            "folder": str(member.site.folder),
            **member.recipe.attributes(member.site),
        }

    def _member(self, name: str) -> Member:
        try:
            return self._members[name]
        except KeyError:
            raise UnknownName(
                f"the estate has no server {name}", hint=f"it has {', '.join(sorted(self._members))}"
            ) from None

    async def _start_all(self, report: Report) -> None:
        ready = {name: asyncio.Event() for name in self._members}

        async def start(member: Member) -> None:
            for name in member.server.after:
                await ready[name].wait()
            await member.start(lambda: self._move(member))
            ready[member.server.name].set()
            report.progress(member.server.name)

        wanted = [member for member in self._members.values() if member.server.autostart]
        names = {member.server.name for member in wanted}
        for member in wanted:
            for name in set(member.server.after) - names:
                raise UsageError(f"{member.server.name} starts after {name}, which does not start by itself")
        try:
            async with asyncio.TaskGroup() as group:
                for member in wanted:
                    group.create_task(start(member))
        except ExceptionGroup as group_error:
            deliberate, others = group_error.split(TenureError)
            if others is not None or deliberate is None:
                raise
            raise deliberate.exceptions[0] from None

    async def _stop_all(self) -> None:
        """First what serves requests, then the stores; each wave at once."""
        for wave in (True, False):
            members = [member for member in self._members.values() if member.recipe.serves_requests is wave]
            await asyncio.gather(*(member.stop() for member in members))

    def _record(self) -> None:
        """Write down what runs, so that whoever comes after a kill -9 can clean up."""
        own = processes.identity(os.getpid())
        state = {
            "version": 1,
            "folder": str(self._folder.path),
            "ready": self._ready,
            "supervisor": own.as_json() if own else {},
            "keeper": self._keeper.as_json(),
            "servers": {name: member.as_json() for name, member in self._members.items()},
        }
        write_json(self._folder.state, state)
        endpoints = {name: self._known(member) for name, member in self._members.items()}
        if endpoints != self._endpoints:
            self._endpoints = endpoints
            write_json(self._folder.endpoints, endpoints, mode=0o600)

    async def _run(self, argv: Sequence[str], cwd: Path) -> None:
        """Run a program as the servers' account to its end."""
        log = self._folder.log("setup")
        begin = log.stat().st_size if log.exists() else 0
        process = processes.spawn(
            argv,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            cwd=cwd,
            log=log,
            account=self._account,
            death_signal=signal.SIGKILL,
        )
        ended = asyncio.Event()
        descriptor = os.pidfd_open(process.pid)
        loop = asyncio.get_running_loop()
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            process.kill()
            process.wait()
        if process.returncode != 0:
            with log.open("rb") as file:
                file.seek(begin)
                said = file.read().decode(errors="replace").strip()
            raise StoreUnavailable(f"{' '.join(argv)} failed: {said}")

    # -- the control socket

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._conversations.add(task)
        try:
            line = await reader.readline()
            if line:
                answer: dict[str, Any] = {"ok": True}
                try:
                    await self._obey(json.loads(line))
                except TenureError as error:
                    answer = control.error_as_json(error)
                writer.write(json.dumps(answer).encode() + b"\n")
                with contextlib.suppress(ConnectionError):
                    await writer.drain()
        finally:
            self._conversations.discard(task)
            writer.close()

    async def _obey(self, request: dict[str, Any]) -> None:
        match request:
            case {"do": "start", "name": str(name)}:
                member = self._member(name)
                await member.start(lambda: self._move(member))
            case {"do": "stop", "name": str(name), "signal": int() | None as number}:
                await self._member(name).stop(number)
            case {"do": "add", "server": dict(plain)}:
                server = server_from_json(plain)
                if server.name in self._members:
                    raise UsageError(f"the estate already has a server {server.name}")
                check_server(server, list(self._members))
                self._admit(server)
                self._record()
            case {"do": "remove", "name": str(name)}:
                await self._member(name).stop()
                del self._members[name]
                self._record()
            case _:
                raise UsageError(f"the estate does not know how to do {request!r}")
