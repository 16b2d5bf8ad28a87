"""Starts, finds, steers and stops local estates."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

from tenure.errors import DeadlineExceeded, NotAllowed, StoreUnavailable, TenureError, UnknownName
from tenure.estate.local import control, spec
from tenure.estate.local.layout import Folder, read_json, tail
from tenure.estate.local.leftovers import end_leftovers
from tenure.estate.local.processes import ESTATE_VARIABLE, Identity, identity_from_json
from tenure.model.secret import Secret

CONTROL_DEADLINE_S: Final = 60.0
CLOSE_DEADLINE_S: Final = 30.0
LOCK_TRY_S: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class ServerStatus:
    """One server. `state` is starting, ready, stopping, stopped, exited (by itself), failed, or orphaned (it
    runs and its supervisor does not)."""

    name: str
    kind: str
    state: str
    pid: int | None
    user: str
    ports: Mapping[str, int]
    log: Path
    exit_status: int | None


@dataclass(frozen=True, kw_only=True)
class EstateStatus:
    """What runs in a data folder. `ready`: every server that starts by itself has served once."""

    folder: Path
    running: bool
    ready: bool
    supervisor: int | None
    servers: Mapping[str, ServerStatus]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where a server is: its ports by their names, its own folder (which it may read and write), its log."""

    ports: Mapping[str, int]
    folder: Path
    log: Path


@dataclass(frozen=True, kw_only=True)
class S3Endpoint:
    """An S3 of the estate with the keys of its two identities: the admin, and the app."""

    endpoint: str
    region: str
    access_key: Secret
    secret_key: Secret
    app_access_key: Secret
    app_secret_key: Secret


@dataclass(frozen=True, kw_only=True)
class PineconeEndpoint:
    """A stand-in for Pinecone: where its control plane and its indexes are, and the key of its one project."""

    control: str
    hosts: Mapping[str, str]
    api_key: Secret


class RunningEstate:
    """A running estate. As a context manager it is closed at the end."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes] | None) -> None:
        self.folder = folder
        self._process = process

    def attribute(self, name: str, attribute: str) -> str:
        """What `${name.attribute}` stands for in specs. Raises `UnknownName`."""
        known = read_json(Folder(self.folder).endpoints).get(name)
        if known is None or attribute not in known:
            what = f"server {name}" if known is None else f"attribute {attribute} of {name}"
            raise UnknownName(f"the estate in {self.folder} has no {what}")
        return str(known[attribute])

    def endpoint(self, name: str) -> Endpoint:
        """Where a server is, started or not. Raises `UnknownName`."""
        folder = Path(self.attribute(name, "folder"))
        server = self.status().servers[name]
        return Endpoint(ports=server.ports, folder=folder, log=server.log)

    def port(self, name: str, port: str = "port") -> int:
        """A port of a server, by its name (`port` for PostgreSQL and Valkey)."""
        return int(self.attribute(name, port))

    def dsn(self, name: str, database: str = "postgres") -> str:
        """The URL of a database of a PostgreSQL, as its superuser."""
        return urlsplit(self.attribute(name, "dsn"))._replace(path=f"/{database}").geturl()

    def url(self, name: str) -> str:
        """The URL of a Valkey, as the user who may do everything."""
        return self.attribute(name, "url")

    def s3(self, name: str) -> S3Endpoint:
        """Where an S3 is and how to log in."""
        keys = ("access_key", "secret_key", "app_access_key", "app_secret_key")
        return S3Endpoint(
            endpoint=self.attribute(name, "endpoint"),
            region=self.attribute(name, "region"),
            **{key: Secret(self.attribute(name, key)) for key in keys},
        )

    def pinecone(self, name: str) -> PineconeEndpoint:
        """Where a stand-in for Pinecone is and how to log in."""
        control = self.attribute(name, "endpoint")
        known = read_json(Folder(self.folder).endpoints)[name]
        hosts = {key.removeprefix("host-"): str(at) for key, at in known.items() if key.startswith("host-")}
        return PineconeEndpoint(control=control, hosts=hosts, api_key=Secret(self.attribute(name, "api_key")))

    def start(self, name: str) -> None:
        """Start a server and wait until it serves; nothing happens if it does. Raises `StoreUnavailable`."""
        self._ask({"do": "start", "name": name})

    def stop(self, name: str, number: int | None = None) -> None:
        """Stop a server and wait until it is gone: in its kind's own way, or by this signal alone."""
        self._ask({"do": "stop", "name": name, "signal": None if number is None else int(number)})

    def restart(self, name: str) -> None:
        """Stop and start a server; its ports stay the same unless someone else has taken them."""
        self.stop(name)
        self.start(name)

    def add(self, server: spec.Server, *, start: bool = True) -> None:
        """Let the estate have another server until it ends. The spec in the folder stays as it is."""
        self._ask({"do": "add", "server": spec.server_as_json(server)})
        if start:
            self.start(server.name)

    def remove(self, name: str) -> None:
        """Stop a server and forget it; its data stays in the folder."""
        self._ask({"do": "remove", "name": name})

    def status(self) -> EstateStatus:
        return status(self.folder)

    def close(self) -> None:
        """End the estate if this process owns it; otherwise it goes on. Safe to call again."""
        if self._process is None:
            return
        process, self._process = self._process, None
        _end_owned(process, self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: dict[str, Any]) -> None:
        control.ask(self.folder, request, deadline_s=CONTROL_DEADLINE_S)


def up(
    estate: spec.EstateSpec,
    *,
    owner: bool,
    deadline_s: float = 120.0,
    progress: Callable[[str, float], None] | None = None,
) -> RunningEstate:
    """Start an estate and wait until every server that starts by itself serves.

    With `owner` it ends with this process, however that ends; otherwise it goes on until `down`. `progress`
    gets the name of each server that serves, and the seconds it took. What a killed estate left behind in the
    folder is ended first. If a server does not start, everything is stopped again. Raises `NotAllowed` (an
    estate already runs there, or the folder is closed to the servers), `StoreUnavailable` with the end of the
    log, `ConfigurationError` (a wheel is missing), `DeadlineExceeded`.
    """
    if not sys.platform.startswith("linux"):
        raise NotAllowed("a local estate needs Linux")
    folder = Folder(estate.folder)
    folder.create()
    log = folder.log("supervisor")
    with log.open("ab") as errors:
        process = subprocess.Popen(  # noqa: S603
            _supervisor_command(folder.path, owned=owner),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, ESTATE_VARIABLE: str(folder.path)},
            start_new_session=True,
        )
    try:
        with contextlib.suppress(BrokenPipeError):  # then its log says why
            _hand_over(estate, process, keep_open=owner)
        _await_ready(process, folder, deadline_s=deadline_s, progress=progress)
    except BaseException as error:
        _end_owned(process, folder.path)
        unreported = not isinstance(error, TenureError) or isinstance(error, DeadlineExceeded)
        if unreported and not owner:
            down(folder.path)
        raise
    if owner:
        return RunningEstate(folder.path, process)
    process.wait()  # it has forked the supervisor and ended
    return RunningEstate(folder.path, None)


def attach(folder: Path) -> RunningEstate:
    """The estate that runs in the folder. Raises `StoreUnavailable` if there is none."""
    if not status(folder).running:
        raise StoreUnavailable(f"no estate is running in {folder}", hint="`tenure estate up` starts it")
    return RunningEstate(Path(folder).resolve(), None)


def status(folder: Path) -> EstateStatus:
    """What runs in the folder, as the processes themselves show it; of a killed supervisor, what it left
    behind."""
    place = Folder(Path(folder).resolve())
    state = read_json(place.state)
    supervisor = _supervisor(state)
    servers = {}
    for name, server in state.get("servers", {}).items():
        process = identity_from_json(server)
        alive = process is not None and process.alive
        now = server["state"] if supervisor else ("orphaned" if alive else "stopped")
        servers[name] = ServerStatus(
            name=name,
            kind=server["kind"],
            state=now,
            pid=process.pid if process and alive else None,
            user=server["user"],
            ports=server["ports"],
            log=Path(server["log"]),
            exit_status=server["exit"],
        )
    return EstateStatus(
        folder=place.path,
        running=supervisor is not None,
        ready=supervisor is not None and bool(state.get("ready")),
        supervisor=supervisor.pid if supervisor else None,
        servers=servers,
    )


def down(folder: Path, *, remove: bool = False, deadline_s: float = CLOSE_DEADLINE_S) -> None:
    """Stop the estate of the folder, or end what a killed one left behind; with `remove`, delete the folder
    then.

    Safe to run again. Raises `NotAllowed` if the folder is not an estate's, or belongs to another user, and
    `DeadlineExceeded` if something of the estate still runs.
    """
    place = Folder(Path(folder).resolve())
    if not place.path.exists():
        return
    if not place.is_ours():
        raise NotAllowed(f"{place.path} is not the folder of an estate")
    signalled: set[Identity] = set()
    deadline = time.monotonic() + deadline_s
    while True:
        supervisor = _supervisor(read_json(place.state))
        if supervisor is not None and supervisor not in signalled and supervisor.belongs_to(place.path):
            supervisor.send(signal.SIGTERM)
            signalled.add(supervisor)
        try:
            lock = place.take_lock(deadline_s=LOCK_TRY_S)
        except NotAllowed as error:
            if time.monotonic() > deadline:
                raise DeadlineExceeded(
                    f"the estate in {place.path} did not end in {deadline_s:g} s"
                ) from error
            continue
        break
    try:
        end_leftovers(place)
        if remove:
            place.remove()
    finally:
        os.close(lock)


def _hand_over(estate: spec.EstateSpec, process: subprocess.Popen[bytes], *, keep_open: bool) -> None:
    assert process.stdin is not None
    process.stdin.write(spec.dump(estate).encode() + b"\n")
    process.stdin.flush()
    if not keep_open:
        process.stdin.close()


def _supervisor(state: Mapping[str, Any]) -> Identity | None:
    found = identity_from_json(state.get("supervisor", {}))
    return found if found is not None and found.alive else None


def _supervisor_command(folder: Path, *, owned: bool) -> list[str]:
    module = "tenure.estate.local.supervisor"
    return [sys.executable, "-P", "-m", module, str(folder), "--new-spec", *(["--owned"] if owned else [])]


def _await_ready(
    process: subprocess.Popen[bytes],
    folder: Folder,
    *,
    deadline_s: float,
    progress: Callable[[str, float], None] | None,
) -> None:
    """Read the supervisor's report to its verdict. Raises what it reports."""
    assert process.stdout is not None
    deadline = time.monotonic() + deadline_s
    pending = b""
    with process.stdout as report:
        while True:
            readable, _, _ = select.select([report], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                raise DeadlineExceeded(f"the estate in {folder.path} was not ready within {deadline_s:g} s")
            block = os.read(report.fileno(), 65536)
            if not block:
                log = folder.log("supervisor")
                raise StoreUnavailable(f"the supervisor ended without a word; the end of {log}:\n{tail(log)}")
            *lines, pending = (pending + block).split(b"\n")
            for said in map(json.loads, lines):
                control.raise_error(said)
                if "started" in said and progress is not None:
                    progress(said["started"], said["seconds"])
                if said.get("ready"):
                    return


def _end_owned(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Close the owner's end of the pipe and wait for the supervisor; what is left after the deadline is
    killed."""
    if process.stdin is not None and not process.stdin.closed:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    try:
        process.wait(CLOSE_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        down(folder)
