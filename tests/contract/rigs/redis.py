"""Two Valkey servers; the app writes as the tenant's own ACL user."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import redis

from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.secret import Secret
from tenure.stores.redis import RedisCopy, RedisStore
from tests.contract.rigs.protocol import AppRefused, Rig, Side

KINDS = ("redis",)
PREFIX = "t:{tenant}:"
PATTERN = "session:*"
PASSWORD = "app"


def make(kind: str, request: pytest.FixtureRequest) -> Rig:
    fresh = request.getfixturevalue("fresh_redis")
    return RedisRig({Side.BLUE: fresh("valkey-a"), Side.GREEN: fresh("valkey-b")})


class RedisRig:
    kind = "redis"

    def __init__(self, urls: Mapping[Side, str]) -> None:
        self.urls = urls
        self.admin: dict[Side, Any] = {side: redis.Redis.from_url(url) for side, url in urls.items()}
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
            self.admin[side].execute_command(
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
            )
            client = redis.Redis.from_url(self.urls[side])
            options = {**client.connection_pool.connection_kwargs, "username": user, "password": PASSWORD}
            client.close()
            self._apps[side, tenant] = redis.Redis(connection_pool=redis.ConnectionPool(**options))
        return self._apps[side, tenant]

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
        keys = [k.decode() for k in self.admin[side].keys(start + "*")]
        return {k.removeprefix(start): self.admin[side].get(k).decode() for k in keys if k.startswith(start)}

    def plant(self, side: Side, tenant: TenantId, item: str, value: str | None) -> None:
        if value is None:
            self.admin[side].delete(self.key(tenant, item))
        else:
            self.admin[side].set(self.key(tenant, item), value)

    def difference_key(self, tenant: TenantId, item: str) -> tuple[str, str]:
        return PATTERN, json.dumps(self.key(tenant, item))

    def leftovers(self, side: Side) -> Sequence[str]:
        keys = [
            k.decode() for k in (*self.admin[side].keys("tenure:*"), *self.admin[side].keys("*__tenure_*"))
        ]
        users = [u for u in self.admin[side].execute_command("ACL", "LIST") if b"%R~" in u]
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
            client.close()


@contextlib.contextmanager
def _refusal() -> Iterator[None]:
    try:
        yield
    except redis.exceptions.NoPermissionError as error:
        raise AppRefused from error
