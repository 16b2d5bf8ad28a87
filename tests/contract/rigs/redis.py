"""Two Valkey servers, or a cluster and a server; the app writes as the tenant's own ACL user."""

from __future__ import annotations

import contextlib
import functools
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import Coverage, Place, PlaceKind
from tenure.model.secret import Secret
from tenure.stores.redis import RedisCopy, RedisStore
from tests.contract.rigs.protocol import AppRefused, Rig, Side, Stray

KINDS = ("redis", "redis_cluster")
VARIANTS = ("redis_cluster",)
PREFIX = "t:{tenant}:"
PATTERN = "session:*"
PASSWORD = "app"


def make(kind: str, request: pytest.FixtureRequest) -> Rig:
    fresh = request.getfixturevalue("fresh_redis")
    clustered = kind == "redis_cluster"
    blue = request.getfixturevalue("valkey_cluster").fresh() if clustered else fresh("valkey-a")
    return RedisRig({Side.BLUE: blue, Side.GREEN: fresh("valkey-b")}, kind=kind)


class RedisRig:
    def __init__(self, urls: Mapping[Side, str], *, kind: str = "redis") -> None:
        self.kind = kind
        self.urls = urls
        self.admin: dict[Side, Any] = {side: _connect(url) for side, url in urls.items()}
        self._apps: dict[tuple[Side, TenantId], Any] = {}
        self._made: list[RedisStore] = []
        self._copies: list[RedisCopy] = []
        for side in Side:
            for tenant in map(TenantId, ("acme", "acme1", "Acme")):
                self.app(side, tenant)

    def store(self, side: Side) -> RedisStore:
        store = RedisStore(
            name=StoreName("redis"),
            cell=CellName(side.value),
            url=Secret(self.urls[side]),
            prefix=PREFIX,
            acl_user="app-{tenant}",
            collections=(PATTERN,),
        )
        self._made.append(store)
        return store

    def copy(self, tenant: TenantId, source: Side, target: Side) -> RedisCopy:
        copy = RedisCopy(
            link=f"link-{tenant}", tenant=tenant, source=self.store(source), target=self.store(target)
        )
        self._copies.append(copy)
        return copy

    def app(self, side: Side, tenant: TenantId) -> Any:
        """A connection as the tenant's app."""
        if (side, tenant) not in self._apps:
            user = f"app-{tenant}"
            for server in self.servers(side).values():
                server.execute_command(
                    "ACL",
                    "SETUSER",
                    user,
                    "reset",
                    "on",
                    f">{PASSWORD}",
                    f"~t:{tenant}:*",
                    "&*",
                    "+@all",
                    "-@admin",
                    "-@dangerous",
                    "+cluster|slots",
                    "+cluster|shards",
                )
            address = urlsplit(self.urls[side])
            place = address.netloc.rpartition("@")[2]
            self._apps[side, tenant] = _connect(f"redis://{user}:{PASSWORD}@{place}{address.path}")
        return self._apps[side, tenant]

    def clustered(self, side: Side) -> bool:
        return isinstance(self.admin[side], redis.RedisCluster)

    def servers(self, side: Side) -> Mapping[str, Any]:
        """The admin's client for every server of a side, replicas included."""
        admin = self.admin[side]
        if self.clustered(side):
            return {node.name: admin.get_redis_connection(node) for node in admin.get_nodes()}
        return {"": admin}

    def keys(self, side: Side, pattern: str) -> Sequence[str]:
        """Every key that matches, on whatever master it lies."""
        admin = self.admin[side]
        masters = {node.name for node in admin.get_primaries()} if self.clustered(side) else {""}
        return [
            key.decode("utf-8", "replace")
            for name, server in self.servers(side).items()
            if name in masters
            for key in server.keys(pattern)
        ]

    def key(self, tenant: TenantId, item: str) -> str:
        return f"t:{tenant}:session:{item}"

    def write(self, side: Side, tenant: TenantId, item: str, value: str) -> None:
        with _refusal():
            self.app(side, tenant).set(self.key(tenant, item), value)

    def delete(self, side: Side, tenant: TenantId, item: str) -> None:
        with _refusal():
            self.app(side, tenant).delete(self.key(tenant, item))

    def read(self, side: Side, tenant: TenantId) -> Mapping[str, str]:
        start = self.key(tenant, "")
        keys = [key for key in self.keys(side, start + "*") if key.startswith(start)]
        values = {key: self.admin[side].get(key) for key in keys}  # None: gone since it was listed
        return {k.removeprefix(start): v.decode() for k, v in values.items() if v is not None}

    def plant(self, side: Side, tenant: TenantId, item: str, value: str | None) -> None:
        if value is None:
            self.admin[side].delete(self.key(tenant, item))
        else:
            self.admin[side].set(self.key(tenant, item), value)

    def stray(self, side: Side, text: str) -> Stray:
        self.admin[side].hset(f"audit:{secrets.token_hex(4)}", "note", text)
        return Stray(
            place=Place(kind=PlaceKind.VALUE, name="audit:*"),
            coverage=Coverage.UNDOCUMENTED,
            surveyed=Place(kind=PlaceKind.KEY, name="audit:*"),
        )

    def difference_key(self, tenant: TenantId, item: str) -> tuple[str, str]:
        return PATTERN, json.dumps(self.key(tenant, item))

    def leftovers(self, side: Side) -> Sequence[str]:
        keys = [*self.keys(side, "tenure:*"), *self.keys(side, "*__tenure_*")]
        users = [
            u
            for server in self.servers(side).values()
            for u in server.execute_command("ACL", "LIST")
            if b"%R~" in u
        ]
        return [*keys, *map(str, users)]

    def unreachable(self) -> RedisStore:
        return self._other_url("redis://tenure:x@127.0.0.1:1/0")

    def wrong_password(self) -> RedisStore:
        address = self.urls[Side.BLUE].rpartition("@")[2]
        return self._other_url(f"redis://tenure:wrong-password@{address}")

    def _other_url(self, url: str) -> RedisStore:
        store = RedisStore(
            name=StoreName("redis"),
            cell=CellName("blue"),
            url=Secret(url),
            prefix=PREFIX,
            acl_user="app-{tenant}",
        )
        self._made.append(store)
        return store

    def close(self) -> None:
        copies = list(self._copies)
        while copies:
            copy = copies.pop()
            copies += copy.armed_reverse()
            copy.detach()
        for store in self._made:
            store.close()
        for client in (*self._apps.values(), *self.admin.values()):
            if not isinstance(client, redis.RedisCluster):
                client.close()


def _connect(url: str) -> Any:
    """A client for the server, or for the cluster it belongs to."""
    client: Any = redis.Redis.from_url(url)
    try:
        client.execute_command("CLUSTER", "MYID")
    except redis.ResponseError:
        return client
    client.close()
    return _cluster(url)


@functools.cache
def _cluster(url: str) -> Any:
    """Kept for all tests: it takes such a client a second to learn what its cluster looks like and can do."""
    return redis.RedisCluster.from_url(url)


@contextlib.contextmanager
def _refusal() -> Iterator[None]:
    try:
        yield
    except redis.exceptions.NoPermissionError as error:
        raise AppRefused from error
