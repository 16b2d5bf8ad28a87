"""The servers behind one store: a single server, or the masters and replicas of a cluster and who owns which slot.

Whether it is a cluster, the server is asked (`INFO cluster`): a setting could only disagree with it. What happens on
one server alone looks the same either way; a cluster is the same on each of its masters. A cluster that is being
rearranged is unavailable until its masters agree again.
"""

from __future__ import annotations

import functools
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from tenure.errors import StoreRefused, StoreUnavailable
from tenure.model.secret import Secret

T = TypeVar("T")

CONNECT_TIMEOUT_S: Final = 2.0
ANSWER_TIMEOUT_S: Final = 20.0
PING_TIMEOUT_S: Final = 2.0
KEEPALIVE: Final = {
    getattr(socket, option): value
    for option, value in (
        ("TCP_KEEPIDLE", 5),
        ("TCP_KEEPINTVL", 2),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 10_000),
    )
    if hasattr(socket, option)
}
"""Seconds (and ms) after which a server counts as gone whose network says nothing any more. Linux has all of these."""
AT_ONCE: Final = 16
"""Servers of a cluster that are asked at the same time."""
SLOTS: Final = 16384
SEGMENTS: Final = 64
"""Tenure's own keys in a cluster lie in one slot of each of so many equal parts of all slots, so that they move with
the slots and every master has some."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """One server. `tags` are the hash tags that place a key of Tenure's own on it: empty text on a single server."""

    name: str
    client: Any
    tags: tuple[bytes, ...] = (b"",)

    @property
    def tag(self) -> bytes:
        """The tag for what is needed once per master."""
        if not self.tags:
            raise StoreRefused(
                f"{self.name} owns so few slots that Tenure's records find no place on it",
                hint=f"give every master {SLOTS // SEGMENTS} slots that follow one another, or none",
            )
        return self.tags[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Topology:
    """Who serves what. `others` are replicas and masters without slots; `failed` are the names of servers that the
    cluster has given up for now and that may come back."""

    masters: tuple[Node, ...]
    others: tuple[Node, ...] = ()
    failed: tuple[str, ...] = ()
    shape: frozenset[tuple[int, int, str]] = frozenset()
    """(first slot, last slot, the master's name); empty for a single server."""
    owners: tuple[int, ...] = ()
    """For each slot the index of its master."""

    @property
    def clustered(self) -> bool:
        return bool(self.shape)

    @property
    def nodes(self) -> tuple[Node, ...]:
        return (*self.masters, *self.others)

    def by_master(self, items: Iterable[T], key: Callable[[T], bytes]) -> Iterator[tuple[Node, list[T]]]:
        """The items by the master that owns the slot of their key, each in the order given."""
        if not self.clustered:
            yield self.masters[0], list(items)
            return
        portions: dict[int, list[T]] = {}
        for item in items:
            portions.setdefault(self.owners[key_slot(key(item))], []).append(item)
        for index, portion in portions.items():
            yield self.masters[index], portion


class Nodes:
    """The servers of one store, found when first asked for. Thread-safe. Raises the driver's errors and
    `StoreUnavailable`."""

    def __init__(self, url: Secret, where: str) -> None:
        self._where = where
        self._seed = _pool(url, answer_timeout_s=ANSWER_TIMEOUT_S)
        self._ping = _pool(url, answer_timeout_s=PING_TIMEOUT_S)
        self._pools: dict[str, redis.ConnectionPool] = {}
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(max_workers=AT_ONCE, thread_name_prefix="nodes")
        self._clustered: bool | None = None
        self._known: Topology | None = None
        self.seed: Any = redis.Redis(connection_pool=self._seed)

    @property
    def database(self) -> int:
        """The number of the database that the URL names."""
        return int(self._seed.connection_kwargs.get("db") or 0)

    def ping(self) -> None:
        redis.Redis(connection_pool=self._ping).ping()

    def current(self) -> Topology:
        """As known. What the cluster has changed since is answered with errors by the servers themselves."""
        known = self._known
        return known if known is not None else self.agreed()

    def forget(self) -> None:
        """Ask again when next needed. A single server stays one."""
        if self._clustered:
            self._known = None

    def agreed(self) -> Topology:
        """As every master sees it now. Raises `StoreUnavailable` while they do not agree or slots are not served."""
        if self._clustered is None:
            self._clustered = bool(self.seed.info("cluster").get("cluster_enabled"))
        if self._clustered:
            topology = self._topology(self._view())
            self.verify(topology)
        else:
            topology = self._known or Topology(masters=(Node(name=self._where, client=self.seed),))
        self._known = topology
        return topology

    def verify(self, topology: Topology) -> None:
        """Raise `StoreUnavailable` unless every master still says that this is who owns what."""
        if not topology.clustered:
            return
        views = self.on_each(topology.masters, lambda node: _Shards(self._shards(node.client), self._tls))
        for node, view in zip(topology.masters, views, strict=True):
            if view.shape != topology.shape:
                self.forget()
                raise StoreUnavailable(
                    f"{self._where}: the cluster is being rearranged ({node.name} sees other owners of slots)",
                    hint="wait until failover or resharding is over",
                )

    def gather(self, ask: Callable[[Any, Sequence[bytes]], Sequence[T]], keys: Sequence[bytes]) -> list[T]:
        """What `ask(client, keys)` answers for each key, asked where the key lies."""
        portions = dict(self.current().by_master(keys, lambda key: key))
        found = self.on_each(portions, lambda node: ask(node.client, portions[node]))
        answers: dict[bytes, T] = {}
        for portion, values in zip(portions.values(), found, strict=True):
            answers.update(zip(portion, values, strict=True))
        return [answers[key] for key in keys]

    def on_each(self, nodes: Iterable[Node], do: Callable[[Node], T]) -> list[T]:
        """`do` for each of these at the same time; returns, or raises what the first of them raised, when all are done.
        Not from within `do`."""
        several = tuple(nodes)
        if len(several) == 1:
            return [do(several[0])]
        futures = [self._threads.submit(do, node) for node in several]
        wait(futures)
        return [future.result() for future in futures]

    def connection(self, node: Node, *, silence_s: float) -> Any:
        """A connection of its own (RESP3, not from a pool), not yet connected."""
        pool = node.client.connection_pool
        return pool.connection_class(**{**pool.connection_kwargs, "protocol": 3, "socket_timeout": silence_s})

    def close(self) -> None:
        self._threads.shutdown(wait=False)
        with self._lock:
            for pool in (self._seed, self._ping, *self._pools.values()):
                pool.disconnect()

    # -- asking the cluster ------------------------------------------------------------------------------------------

    @property
    def _tls(self) -> bool:
        return issubclass(self._seed.connection_class, redis.SSLConnection)

    @staticmethod
    def _shards(client: Any) -> Any:
        return client.execute_command("CLUSTER", "SHARDS")

    def _view(self) -> _Shards:
        """What the first server says that can be reached: the one of the URL, or any that was ever known."""
        clients = [self.seed, *map(self._client, tuple(self._pools))]
        for n, client in enumerate(clients, start=1):
            try:
                return _Shards(self._shards(client), self._tls)
            except (redis.ConnectionError, redis.TimeoutError):
                if n == len(clients):
                    raise
        raise AssertionError("a loop that returns or raises")

    def _topology(self, seen: _Shards) -> Topology:
        missing = SLOTS - sum(last - first + 1 for first, last, _ in seen.shape)
        if missing:
            raise StoreUnavailable(
                f"{self._where}: {missing} slots of the cluster are not served",
                hint="bring their servers back (CLUSTER SHARDS names them), or assign the slots to others",
            )
        names = sorted({name for _, _, name in seen.shape})
        owners = [0] * SLOTS
        for first, last, name in seen.shape:
            owners[first : last + 1] = [names.index(name)] * (last - first + 1)
        tags: dict[int, list[bytes]] = {}
        for slot, tag in _tags().items():
            tags.setdefault(owners[slot], []).append(tag)
        return Topology(
            masters=tuple(
                Node(name=name, client=self._client(name), tags=tuple(tags.get(n, ())))
                for n, name in enumerate(names)
            ),
            others=tuple(
                Node(name=name, client=self._client(name), tags=()) for name in sorted(seen.online - {*names})
            ),
            failed=tuple(sorted(seen.failed)),
            shape=seen.shape,
            owners=tuple(owners),
        )

    def _client(self, name: str) -> Any:
        host, _, port = name.rpartition(":")
        with self._lock:
            pool = self._pools.get(name)
            if pool is None:
                options = {**self._seed.connection_kwargs, "port": int(port)}
                if host:
                    options["host"] = host
                pool = redis.ConnectionPool(connection_class=self._seed.connection_class, **options)
                self._pools[name] = pool
        return redis.Redis(connection_pool=pool)


class _Shards:
    """One server's answer to CLUSTER SHARDS. Servers are named by their address."""

    def __init__(self, answer: Any, tls: bool) -> None:
        shape: set[tuple[int, int, str]] = set()
        self.online: set[str] = set()
        self.failed: set[str] = set()
        for shard in map(_fields, answer):
            slots = [int(slot) for slot in shard[b"slots"]]
            for node in map(_fields, shard[b"nodes"]):
                endpoint = bytes(node.get(b"endpoint") or node.get(b"ip") or b"").decode()
                port = node.get(b"tls-port") if tls else node.get(b"port")
                name = f"{endpoint if endpoint != '?' else ''}:{int(port or 0)}"
                if node[b"health"] == b"fail" or node[b"health"] == b"failed":
                    self.failed.add(name)
                    continue
                self.online.add(name)
                if node[b"role"] == b"master":
                    shape |= {
                        (first, last, name) for first, last in zip(slots[::2], slots[1::2], strict=True)
                    }
        self.shape = frozenset(shape)


def _fields(answer: Any) -> Mapping[bytes, Any]:
    return answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))


@functools.cache
def _tags() -> Mapping[int, bytes]:
    """For each segment of the slots a hash tag, with braces and a colon, by the slot it leads to."""
    width = SLOTS // SEGMENTS
    found: dict[int, tuple[int, bytes]] = {}
    n = 0
    while len(found) < SEGMENTS:
        slot = key_slot(str(n).encode())
        found.setdefault(slot // width, (slot, b"{%d}:" % n))
        n += 1
    return dict(found[segment] for segment in sorted(found))


def _pool(url: Secret, *, answer_timeout_s: float) -> redis.ConnectionPool:
    return redis.ConnectionPool.from_url(
        url.reveal(),
        protocol=2,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_timeout=answer_timeout_s,
        socket_keepalive=True,
        socket_keepalive_options=KEEPALIVE,
        retry=Retry(NoBackoff(), 1),
        client_name="tenure",
    )
