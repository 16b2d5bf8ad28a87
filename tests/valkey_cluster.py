"""Valkey clusters for the tests: real servers in cluster mode that know one another and own all slots."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import redis

from tenure.estate.local import RunningEstate, ValkeyServer
from tenure.estate.local.ports import pick

SLOTS = 16384
FORMED_S = 60.0


@dataclass(frozen=True, kw_only=True)
class ValkeyCluster:
    """Masters with equal shares of the slots, replicas of the first master, and masters without slots."""

    servers: RunningEstate
    masters: tuple[str, ...]
    others: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.masters, *self.others)

    @property
    def url(self) -> str:
        """The admin's, of the last master; the admin's password is the first one's everywhere."""
        secret = urlsplit(self.servers.url(self.names[0])).password
        place = urlsplit(self.servers.url(self.masters[-1]))
        return f"redis://{place.username}:{secret}@{place.hostname}:{place.port}/0"

    def admins(self) -> list[Any]:
        """A client for every server, in the order of `names`."""
        return [redis.Redis.from_url(self.servers.url(name)) for name in self.names]

    def fresh(self) -> str:
        """Empty it, forget every user but the admin, and give the admin's URL."""
        for client in self.admins():
            with client:
                if client.info("replication")["role"] == "master":
                    client.flushall()
                for user in set(map(str, client.acl_users())) - {"default", "tenure"}:
                    client.acl_deluser(user)
        return self.url

    def master_with_replica(self) -> str:
        """The name of the server that now is a master and has a replica."""
        found = [n for n, c in zip(self.names, self.admins(), strict=True) if c.info()["connected_slaves"]]
        return found[0]

    def revive(self, name: str) -> None:
        """Start a server that was killed, and return when it follows its new master."""
        self.servers.start(name)
        clients = self.admins()
        revived = clients[self.names.index(name)]
        _share_login(clients[0], revived)
        await_all(clients, lambda c: b"fail" not in c.execute_command("CLUSTER", "NODES"), "all are up")
        await_all([revived], lambda c: c.info()["master_link_status"] == "up", "it follows")

    def promote(self, name: str) -> None:
        """Make a replica the master, with no write lost, and return when all know it."""
        clients = self.admins()
        promoted = clients[self.names.index(name)]
        promoted.execute_command("CLUSTER", "FAILOVER")
        await_all([promoted], lambda c: c.info()["role"] == "master", "it is the master")
        await_all([promoted], lambda c: c.info()["connected_slaves"] == 1, "the former one follows")


def form(
    servers: RunningEstate, name: str, *, masters: int, replicas: int = 0, idle: int = 0
) -> ValkeyCluster:
    """Start the servers, give the masters their slots, and return when every server knows all of it."""
    cluster = ValkeyCluster(
        servers=servers,
        masters=tuple(f"{name}-{n}" for n in range(masters)),
        others=tuple(f"{name}-{masters + n}" for n in range(replicas + idle)),
    )
    taken: set[int] = set()
    for server in cluster.names:
        port = pick(taken)
        taken.add(port)
        settings = {
            "cluster-enabled": "yes",
            "cluster-port": str(port),
            "cluster-node-timeout": "3000",
            "repl-diskless-sync-delay": "0",
        }
        servers.add(ValkeyServer(name=server, settings=settings))
    clients = cluster.admins()
    first = clients[0]
    for n, client in enumerate(clients[:masters]):
        start, end = SLOTS * n // masters, SLOTS * (n + 1) // masters - 1
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", start, end)
    address = first.connection_pool.connection_kwargs
    bus = first.config_get("cluster-port")["cluster-port"]
    for client in clients:
        _share_login(first, client)
        if client is not first:
            client.execute_command("CLUSTER", "MEET", address["host"], address["port"], bus)
    await_all(clients, lambda c: info(c)["cluster_known_nodes"] == str(len(clients)), "all know one another")
    followers = clients[masters : masters + replicas]
    for client in followers:
        client.execute_command("CLUSTER", "REPLICATE", first.execute_command("CLUSTER", "MYID"))
    await_all(clients, lambda c: info(c)["cluster_state"] == "ok", "the cluster is up")
    await_all(followers, lambda c: c.info()["master_link_status"] == "up", "the replica follows")
    for client in clients:
        client.close()
    return cluster


def _share_login(first: Any, client: Any) -> None:
    """The first server's login holds on all of them, also between master and replica."""
    options = first.connection_pool.connection_kwargs
    client.execute_command("ACL", "SETUSER", options["username"], f">{options['password']}")
    client.execute_command("ACL", "SAVE")
    client.config_set("masteruser", options["username"])
    client.config_set("masterauth", options["password"])


def info(client: Any) -> dict[str, str]:
    answer = client.execute_command("CLUSTER", "INFO")
    lines = answer.decode().split()
    return dict(line.split(":", 1) for line in lines)


def await_all(clients: Sequence[Any], condition: Callable[[Any], bool], what: str) -> None:
    deadline = time.monotonic() + FORMED_S
    for client in clients:
        while not condition(client):
            assert time.monotonic() < deadline, f"not within {FORMED_S:g} s: {what}"
            time.sleep(0.05)
