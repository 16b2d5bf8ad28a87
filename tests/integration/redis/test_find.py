"""A search in Redis over several pages: nothing is lost between them, whatever happens to the server meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import FindPage, PlaceKind, Search, tenant_identifier
from tenure.model.secret import Secret
from tenure.stores import bodies
from tenure.stores.redis import RedisStore

ACME = TenantId("acme")
SEARCH = Search(identifiers=(tenant_identifier(ACME),), known=frozenset({ACME, TenantId("acme2")}))
KEYS = 3000


@pytest.fixture
def url(fresh_redis: Callable[..., str]) -> str:
    made = fresh_redis("valkey-a")
    with redis.Redis.from_url(made) as client:
        pipe = client.pipeline(transaction=False)
        for n in range(KEYS):
            pipe.set(f"note:{n}", "for acme" if n % 10 == 0 else "for acme2")
        pipe.execute()
    return made


@pytest.fixture
def store(url: str) -> Iterator[RedisStore]:
    made = RedisStore(
        name=StoreName("redis"),
        cell=CellName("blue"),
        url=Secret(url),
        prefix="t:{tenant}:",
        acl_user=None,
        ignore=["ignored:*"],
    )
    yield made
    made.close()


def items(pages: list[FindPage]) -> int:
    return sum(f.items for page in pages for f in page.found if f.place.name == "note:*")


def tampered(cursor: str, **changes: Any) -> str:
    return json.dumps({**json.loads(cursor), **changes})


def test_a_search_goes_on_where_it_was_and_begins_anew_where_the_server_has_forgotten(
    store: RedisStore,
) -> None:
    pages = list(store.find(SEARCH))
    assert len(pages) > 4
    assert items(pages) == KEYS / 10
    middle = next(n for n, page in enumerate(pages) if page.cursor and '"scan"' in page.cursor) + 2
    cursor = str(pages[middle].cursor)
    rest = list(store.find(SEARCH, cursor=cursor))
    assert items([*pages[: middle + 1], *rest]) == KEYS / 10
    assert items(rest) < KEYS / 10
    for forgotten in (tampered(cursor, run="another"), tampered(cursor, shape="another")):
        assert items(list(store.find(SEARCH, cursor=forgotten))) == KEYS / 10
    assert items(list(store.find(SEARCH, cursor=tampered(cursor, database=9)))) == KEYS / 10


def test_large_and_binary_values_and_containers_are_looked_into(url: str, store: RedisStore) -> None:
    with redis.Redis.from_url(url) as client:
        client.set("big:1", b"x" * 300_000 + b" acme")
        client.set("cut:1", b"x" * 3_000_000 + b" acme")
        client.hset("packed:1", "a", b"PK\x03\x04broken")
        client.set(b"odd\xff:acme:\x00", b"\x00\xffacme\x00")
        client.set("ignored:1", "acme")
    what = Search(identifiers=SEARCH.identifiers, known=SEARCH.known, body_limit_bytes=1_000_000)
    pages = list(store.find(what))
    found = {(str(f.place), f.coverage.value): f.items for page in pages for f in page.found}
    assert found["value big:*", "undocumented"] == 1
    assert ("value cut:*", "undocumented") not in found
    assert found["value ignored:*", "ignored"] == 1
    assert found["key *:{tenant}:*", "undocumented"] == 1
    assert found["value *:{tenant}:*", "undocumented"] == 1
    skipped = {(str(s.place), s.reason) for page in pages for s in page.skipped}
    assert skipped == {("value cut:*", bodies.TOO_LONG), ("value packed:*", bodies.UNREADABLE)}


def test_what_a_user_authenticates_with_is_not_looked_at(url: str, store: RedisStore) -> None:
    with redis.Redis.from_url(url) as client:
        client.execute_command("ACL", "SETUSER", "worker", "on", ">acme", "~jobs:acme:*", "+get")
    try:
        found = [f for page in store.find(SEARCH) for f in page.found if f.place.kind is PlaceKind.ACL_USER]
        assert [f.place.name for f in found] == ["worker"]
        assert "#" not in repr(found)
    finally:
        with redis.Redis.from_url(url) as client:
            client.acl_deluser("worker")
