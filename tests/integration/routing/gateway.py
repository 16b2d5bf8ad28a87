"""A real gateway for tests: Envoy, the gate process and two small cells, on free ports, ended by their
ids."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import envoy
from aiohttp import web

from tenure.estate.local import ports
from tenure.model.names import CellName, TenantId
from tenure.model.secret import Secret
from tenure.routing.contract import TenantAddress
from tenure.routing.envoy import EnvoyOptions, EnvoyRouter, GateEndpoint
from tenure.routing.envoy.bootstrap import bootstrap, write_bootstrap

BLUE = CellName("blue")
GREEN = CellName("green")
ENVOY = Path(next(iter(envoy.__path__))) / "_bin" / "envoy"


def wait_until(condition: Callable[[], bool], *, what: str, timeout_s: float = 30.0) -> None:
    """Poll until the condition holds; fail the test otherwise."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        threading.Event().wait(0.01)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listened on a moment ago, and that no client is given for an outgoing connection.

    Envoy binds without `SO_REUSEADDR`: those on which connections of an earlier server linger are none.
    """
    found: list[int] = []
    while len(found) < count:
        port = ports.pick(found)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((ports.HOST, port))
            found.append(port)
    return found


def tenant(name: str) -> TenantAddress:
    """A tenant and its host."""
    return TenantAddress(tenant=TenantId(name), host=f"{name.replace('_', '-')}.rag.localhost")


@dataclass(kw_only=True)
class Cell:
    """An app of one cell: says who it is and what it got; can be fenced, and can be made to wait before it
    answers."""

    name: CellName
    port: int
    fenced: bool = False
    served: int = 0
    refused: int = 0
    under_way: int = 0
    arrived: int = 0
    before_answer: threading.Event | None = None
    answer_now: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.arrived += 1
        if self.before_answer is not None:
            await asyncio.to_thread(self.before_answer.wait, 10)
        if elsewhere := request.headers.get("x-test-location"):
            return web.Response(status=307, headers={"Location": elsewhere})
        if self.fenced:
            self.refused += 1
            place = f"{request.headers['X-Forwarded-Proto']}://{request.headers['Host']}{request.raw_path}"
            return web.Response(status=307, headers={"Location": place})
        if request.path == "/slow":
            self.under_way += 1
            try:
                await self.answer_now.wait()
            finally:
                self.under_way -= 1
        self.served += 1
        return web.json_response(
            {
                "cell": self.name,
                "tenant": request.headers.get("x-tenant-id"),
                "told_cell": request.headers.get("x-tenure-cell"),
                "path": request.raw_path,
                "method": request.method,
                "body": body.decode("latin-1"),
            }
        )


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a user got."""

    status: int
    body: bytes
    headers: dict[str, str]
    took_s: float

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


class User:
    """One kept-alive connection of a user."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def ask(
        self,
        host: str,
        path: str = "/",
        *,
        method: str = "GET",
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        begun = time.monotonic()
        self._http.request(method, path, body=body, headers={"Host": host, **(headers or {})})
        response = self._http.getresponse()
        data = response.read()
        return Answer(
            status=response.status, body=data, headers=dict(response.headers), took_s=time.monotonic() - begun
        )

    def close(self) -> None:
        self._http.close()


class Relay:
    """Passes connections on to a local port, and can keep the answers to itself for a while."""

    def __init__(self, target: int, loop: asyncio.AbstractEventLoop) -> None:
        [self.port] = free_ports(1)
        self._target = target
        self._loop = loop
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    def pause(self) -> None:
        self._loop.call_soon_threadsafe(self._open.clear)

    def resume(self) -> None:
        self._loop.call_soon_threadsafe(self._open.set)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        answers, questions = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            await asyncio.gather(
                self._pass(reader, questions, wait=False), self._pass(answers, writer, wait=True)
            )
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            questions.close()
            writer.close()

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, wait: bool) -> None:
        while data := await source.read(65536):
            if wait:
                await self._open.wait()
            sink.write(data)
            await sink.drain()
        sink.close()


class Gateway:
    """Everything together, and the means to break parts of it."""

    def __init__(self, folder: Path, options: EnvoyOptions) -> None:
        self.folder = folder
        self.options = options
        self.listen, self.admin, self.check, self.control, blue, green = free_ports(6)
        self.cells = {BLUE: Cell(name=BLUE, port=blue), GREEN: Cell(name=GREEN, port=green)}
        self.addresses = {name: f"http://127.0.0.1:{cell.port}" for name, cell in self.cells.items()}
        self.token = secrets.token_hex(16)
        (folder / "token").write_text(self.token)
        self.config_dir = folder / "envoy"
        self.envoy_log = folder / "envoy.log"
        self.max_waiting = 4096
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runners: list[web.AppRunner] = []
        self.gate: subprocess.Popen[bytes] | None = None
        self.envoy: subprocess.Popen[bytes] | None = None
        self._routers: list[EnvoyRouter] = []

    def start(self) -> None:
        self._thread.start()
        self.call(self._start_cells())
        write_bootstrap(
            config_dir=self.config_dir,
            listen=f"http://127.0.0.1:{self.listen}",
            admin=f"http://127.0.0.1:{self.admin}",
            gate_check=f"http://127.0.0.1:{self.check}",
            cells=self.addresses,
            options=self.options,
        )
        self.start_gate()
        self.start_envoy()

    def start_envoy(self) -> None:
        command = [str(ENVOY), "-c", str(self.config_dir / "envoy.json"), "--concurrency", "2"]
        with self.envoy_log.open("ab") as log:
            self.envoy = subprocess.Popen(
                [*command, "--disable-hot-restart", "-l", "warning"], stdout=log, stderr=log
            )
        wait_until(self._envoy_ready, what="Envoy is ready")

    def gate_command(self) -> list[str]:
        command = [sys.executable, "-m", "tenure.routing.envoy.gate", "--check", f"127.0.0.1:{self.check}"]
        command += ["--control", f"127.0.0.1:{self.control}", "--state", str(self.folder / "gate.json")]
        return [*command, "--token-file", str(self.folder / "token"), "--max-waiting", str(self.max_waiting)]

    def start_gate(self) -> None:
        with (self.folder / "gate.log").open("ab") as log:
            self.gate = subprocess.Popen(self.gate_command(), stdout=log, stderr=log, env={**os.environ})
        wait_until(lambda: _listens(self.check) and _listens(self.control), what="the gate listens")

    @contextlib.contextmanager
    def second_envoy(self) -> Iterator[tuple[int, str]]:
        """Another Envoy of the same fleet: its listening port and its admin address."""
        listen, admin = free_ports(2)
        document = bootstrap(
            config_dir=self.config_dir,
            listen=f"http://127.0.0.1:{listen}",
            admin=f"http://127.0.0.1:{admin}",
            options=self.options,
        )
        path = self.folder / "second.json"
        path.write_text(json.dumps(document))
        with self.envoy_log.open("ab") as log:
            second = subprocess.Popen(
                [str(ENVOY), "-c", str(path), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"],
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(lambda: _listens(listen), what="the second Envoy listens")
            yield listen, f"http://127.0.0.1:{admin}"
        finally:
            _end(second)

    def kill_gate(self) -> None:
        assert self.gate is not None
        self.gate.kill()
        self.gate.wait(10)

    def stop_envoy(self) -> None:
        _end(self.envoy)

    def router(
        self,
        *,
        admin: tuple[str, ...] | None = None,
        token: str | None = None,
        check: int | None = None,
        config_dir: Path | None = None,
        options: EnvoyOptions | None = None,
    ) -> EnvoyRouter:
        router = EnvoyRouter(
            config_dir=config_dir or self.config_dir,
            admin=admin or (f"http://127.0.0.1:{self.admin}",),
            listen=f"http://127.0.0.1:{self.listen}",
            gate=GateEndpoint(
                check=f"http://127.0.0.1:{check or self.check}",
                control=f"http://127.0.0.1:{self.control}",
                token=Secret(token or self.token),
            ),
            cells=self.addresses,
            options=options or self.options,
            logs=(self.envoy_log,),
        )
        self._routers.append(router)
        return router

    @contextlib.contextmanager
    def user(self) -> Iterator[User]:
        user = User(self.listen)
        try:
            yield user
        finally:
            user.close()

    def ask(self, host: str, path: str = "/", **request: Any) -> Answer:
        with self.user() as user:
            return user.ask(host, path, **request)

    def ask_admin(self, path: str) -> Answer:
        user = User(self.admin)
        try:
            return user.ask("admin", path)
        finally:
            user.close()

    def until(self, condition: Callable[[], bool], *, what: str) -> None:
        wait_until(condition, what=what)

    def stop_cells(self) -> None:
        self.call(self._stop_cells())

    def finish_slow(self, cell: CellName) -> None:
        self._loop.call_soon_threadsafe(self.cells[cell].answer_now.set)

    @contextlib.contextmanager
    def relay(self, port: int) -> Iterator[Relay]:
        """A relay in front of a local port."""
        relay = Relay(port, self._loop)
        self.call(relay.start())
        try:
            yield relay
        finally:
            self.call(relay.stop())

    def stats(self, pattern: str) -> dict[str, str]:
        answer = self.ask_admin(f"/stats?filter={pattern}")
        return dict(line.split(": ", 1) for line in answer.body.decode().splitlines() if ": " in line)

    def call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def stop(self) -> None:
        for router in self._routers:
            router.close()
        _end(self.envoy)
        _end(self.gate)
        if self._thread.is_alive():
            self.stop_cells()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
        self._loop.close()
        shutil.rmtree(self.config_dir, ignore_errors=True)

    async def _start_cells(self) -> None:
        for cell in self.cells.values():
            app = web.Application(client_max_size=64 * 1024 * 1024)
            app.router.add_route("*", "/{path:.*}", cell.answer)
            runner = web.AppRunner(app, access_log=None, keepalive_timeout=75, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", cell.port, backlog=1024).start()
            self._runners.append(runner)

    async def _stop_cells(self) -> None:
        for runner in self._runners:
            await runner.cleanup()

    def _envoy_ready(self) -> bool:
        assert self.envoy is not None
        assert self.envoy.poll() is None, self.envoy_log.read_text()
        try:
            return self.ask_admin("/ready").status == 200 and _listens(self.listen)
        except OSError:
            return False


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
