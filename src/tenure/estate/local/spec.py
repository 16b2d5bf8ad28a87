"""What a local estate consists of: one frozen value per server, written as JSON into the data folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from tenure.errors import ConfigurationError, UsageError

SERVER_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,30}")
SPEC_VERSION: Final = 1


@dataclass(frozen=True, kw_only=True)
class PostgresServer:
    """A PostgreSQL cluster with pgvector, logical replication switched on, and the superuser `tenure`
    (scram).

    `settings` are lines of postgresql.conf that override Tenure's.
    """

    name: str
    version: Literal[16, 18] = 18
    settings: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    autostart: bool = True
    kind: Literal["postgresql"] = "postgresql"


@dataclass(frozen=True, kw_only=True)
class ValkeyServer:
    """A Valkey with the ACL user `tenure` (everything) in an ACL file, so that ACL SAVE works; `default` is
    off.

    `settings` are lines of valkey.conf that override Tenure's.
    """

    name: str
    settings: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    autostart: bool = True
    kind: Literal["valkey"] = "valkey"


@dataclass(frozen=True, kw_only=True)
class SeaweedServer:
    """A SeaweedFS whose S3 knows two identities: `tenure` (admin) and `app` (read, write, list, tag).

    `buckets` are created when it has started. Its inner ports (master, volume, filer) ask for no login: any
    user of this machine can reach them, so this is no place for data of others.
    """

    name: str
    buckets: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    autostart: bool = True
    kind: Literal["seaweedfs"] = "seaweedfs"


@dataclass(frozen=True, kw_only=True)
class EnvoyServer:
    """An Envoy. `bootstrap` is its configuration as a mapping, or the path of a JSON file.

    `${NAME.ATTRIBUTE}` in any string of it is replaced (see `CommandServer`); its own ports are
    `${self.PORT}`. One port is named `admin` and belongs to the admin listener: readiness is asked there.
    """

    name: str
    bootstrap: Mapping[str, Any] | Path
    ports: Mapping[str, int] = field(default_factory=lambda: {"http": 0, "admin": 0})
    concurrency: int = 2
    after: tuple[str, ...] = ()
    autostart: bool = True
    kind: Literal["envoy"] = "envoy"


@dataclass(frozen=True, kw_only=True)
class CommandServer:
    """Any program, started without a shell.

    Port 0 means a free one, kept over restarts. In `argv` and in the values of `env`, `${NAME.ATTRIBUTE}`
    stands for an attribute of a server of this estate (its ports by their names, `folder`, and `dsn`, `url`,
    `endpoint`, ...), `${self.ATTRIBUTE}` for one of its own, `${python}` for this Python. `ready` is
    `tcp:PORT`, `http:PORT/PATH` (any answer under 400), or nothing: ready when started. The program sees the
    environment of who starts the estate. It is killed `stop_within_s` after its `stop_signal`. As root it runs
    as the servers' account where that account can reach the program and this Python (`account="reachable"`),
    always (`"server"`), or never (`"own"`).
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=lambda: {"http": 0})
    ready: str = "tcp:http"
    cwd: Path | None = None
    stop_signal: str = "SIGTERM"
    stop_within_s: float = 3.0
    account: Literal["reachable", "server", "own"] = "reachable"
    after: tuple[str, ...] = ()
    autostart: bool = True
    kind: Literal["command"] = "command"


@dataclass(frozen=True, kw_only=True)
class PineconeServer:
    """A stand-in for one project of Pinecone, which says in every answer that it is one.

    `indexes` are the names of its indexes with their dimensions; more can be made through its API.
    """

    name: str
    indexes: Mapping[str, int] = field(default_factory=dict)
    metric: Literal["cosine", "dotproduct", "euclidean"] = "cosine"
    after: tuple[str, ...] = ()
    autostart: bool = True
    kind: Literal["pinecone"] = "pinecone"


Server = PostgresServer | ValkeyServer | SeaweedServer | PineconeServer | EnvoyServer | CommandServer

_KINDS: Final[Mapping[str, type[Server]]] = {
    "postgresql": PostgresServer,
    "valkey": ValkeyServer,
    "seaweedfs": SeaweedServer,
    "pinecone": PineconeServer,
    "envoy": EnvoyServer,
    "command": CommandServer,
}
_PATHS: Final = ("cwd",)
_TUPLES: Final = ("after", "buckets", "argv")


@dataclass(frozen=True, kw_only=True)
class EstateSpec:
    """A data folder and the servers in it. Construction raises `UsageError` for names that cannot work.

    `durable=False` switches fsync off (tests): what was committed survives the death of any process, not of
    the machine. `account` is who the servers run as when root starts the estate.
    """

    folder: Path
    servers: tuple[Server, ...]
    durable: bool = True
    account: str = "nobody"

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder).resolve())
        names = [server.name for server in self.servers]
        for server in self.servers:
            check_server(server, [name for name in names if name != server.name])
        if len(set(names)) != len(names):
            raise UsageError("two servers of the estate have the same name")


def check_server(server: Server, others: list[str]) -> None:
    """Check one server against the names of the others. Raises `UsageError`."""
    if not SERVER_NAME.fullmatch(server.name) or server.name == "self":
        raise UsageError(
            f"{server.name!r} is not a server name: 1 to 31 of a-z, 0-9, '-', starting with a letter"
        )
    for name in server.after:
        if name not in others:
            raise UsageError(f"server {server.name} is to start after {name}, which the estate does not have")
    if isinstance(server, EnvoyServer) and "admin" not in server.ports:
        raise UsageError(f"the ports of {server.name} lack `admin`")
    if isinstance(server, CommandServer) and not server.argv:
        raise UsageError(f"server {server.name} has no program to start")


def server_as_json(server: Server) -> dict[str, Any]:
    """The server as plain JSON values."""
    plain = asdict(server)
    if isinstance(server, EnvoyServer) and isinstance(server.bootstrap, Path):
        plain["bootstrap"] = {"@path": str(server.bootstrap.resolve())}
    return {key: str(value) if isinstance(value, Path) else value for key, value in plain.items()}


def server_from_json(plain: Mapping[str, Any]) -> Server:
    """The server of such values. Raises `ConfigurationError` if they are of another version of Tenure."""
    fields = dict(plain)
    for key in _TUPLES:
        if key in fields:
            fields[key] = tuple(fields[key])
    for key in _PATHS:
        if fields.get(key):
            fields[key] = Path(fields[key])
    bootstrap = fields.get("bootstrap")
    if isinstance(bootstrap, dict) and set(bootstrap) == {"@path"}:
        fields["bootstrap"] = Path(bootstrap["@path"])
    try:
        return _KINDS[fields["kind"]](**fields)
    except (KeyError, TypeError) as error:
        raise ConfigurationError(
            f"the estate's folder was written by another version of Tenure ({error})",
            hint="`tenure estate down --remove` and start anew",
        ) from error


def dump(spec: EstateSpec) -> str:
    """The spec as one line of JSON."""
    servers = [server_as_json(server) for server in spec.servers]
    return json.dumps(
        {"version": SPEC_VERSION, "durable": spec.durable, "account": spec.account, "servers": servers}
    )


def load(folder: Path, text: str) -> EstateSpec:
    """The spec of `folder` from that line."""
    plain = json.loads(text)
    return EstateSpec(
        folder=folder,
        durable=plain["durable"],
        account=plain["account"],
        servers=tuple(server_from_json(server) for server in plain["servers"]),
    )
