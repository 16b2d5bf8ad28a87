"""A tenant's keys in a backup: every type, whatever the server announces or forgets to, and times that have come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tenure.backups.contract import Part
from tenure.errors import StoreRefused, TenureError
from tenure.model.names import StoreName, TenantId
from tenure.stores.backup import Captured
from tenure.stores.contract import Fence
from tenure.stores.records import records
from tenure.stores.redis import RedisStore
from tests.contract.memory_backup import MemoryBackup
from tests.contract.rigs.protocol import Side
from tests.contract.rigs.redis import RedisRig
from tests.integration.redis.values import fill

ACME, OTHER = TenantId("acme"), TenantId("other")
REDIS = StoreName("redis")
BLUE, GREEN = Side.BLUE, Side.GREEN


@pytest.fixture
def rig(fresh_redis: Callable[..., str]) -> Iterator[RedisRig]:
    made = RedisRig({BLUE: fresh_redis("valkey-a"), GREEN: fresh_redis("valkey-b")})
    yield made
    made.close()


def fence(tenant: TenantId = ACME) -> Fence:
    return Fence(tenant=tenant, epoch=1, token=1)


def down(store: RedisStore, tenant: TenantId = ACME) -> Fence:
    store.fence(fence(tenant), expires_in_s=None, drain_s=1)
    return fence(tenant)


def taken(
    rig: RedisRig, between: Callable[[], None] = lambda: None, *, late: Callable[[], None] = lambda: None
) -> MemoryBackup:
    store, backup = rig.store(BLUE), MemoryBackup(ACME)
    capture = store.capture(ACME)
    capture.start(fence())
    capture.first_pass(backup)
    between()
    capture.settle(backup)
    late()
    at = down(store)
    capture.pin(backup, at)
    store.open(at)
    backup.complete(REDIS, capture.rest(backup))
    capture.close(at)
    return backup


def digests(store: RedisStore, tenant: TenantId = ACME) -> dict[str, str]:
    return {name: c.digest for name, c in store.inventory(tenant).collections.items()}


def test_values_of_every_type_come_back_exactly_and_under_another_name(rig: RedisRig) -> None:
    fill(rig.admin[BLUE])
    rig.admin[BLUE].set("t:acme:long", b"\x00\xff" * 3_000_000)
    backup, green = taken(rig), rig.store(GREEN)
    before = digests(rig.store(BLUE))
    assert {f.collection: f.digest for f in backup.collections()} == before
    restoring = green.restoring(ACME, ACME)
    assert not restoring.preflight(backup)
    restoring.load(backup, down(green))
    assert digests(green) == before
    assert not list(restoring.differences(backup))
    # Single values are made anew over whatever is there, also of another type.
    rig.admin[GREEN].delete("t:acme:x", "t:acme:h2")
    rig.admin[GREEN].set("t:acme:z", "a text by now")
    rig.admin[GREEN].rpush("t:acme:l", "one more")
    found = list(restoring.differences(backup))
    assert len(found) == 4
    assert restoring.apply(backup, found, fence()) == 4
    assert digests(green) == before
    other = green.restoring(OTHER, ACME)
    other.load(backup, down(green, OTHER))
    assert green.inventory(OTHER).items == green.inventory(ACME).items
    assert not list(other.differences(backup))


def test_a_stream_of_the_backup_can_be_read_without_a_server(rig: RedisRig) -> None:
    rig.admin[BLUE].hset("t:acme:h", mapping={"b": "2", "a": "1"})
    rig.admin[BLUE].set("t:acme:s", "text")
    backup = taken(rig)
    name = (REDIS, "*", Part.BASE, 0)
    assert backup.headers[name]["prefix"] == "t:acme:"
    found = {r.key: (r.head["type"], r.whole()) for r in records(iter([backup.bytes[name]]), "a test")}
    element = b"\x01\x00\x00\x00%s"
    assert found == {
        b"h": ("hash", b"".join(element % part for part in (b"a", b"1", b"b", b"2"))),
        b"s": ("string", b"text"),
    }


def test_what_changes_meanwhile_is_taken_again_and_what_has_not_is_not(rig: RedisRig) -> None:
    app = rig.app(BLUE, ACME)
    app.mset({f"t:acme:session:{n}": n for n in range(700)})

    def changes() -> None:
        app.set("t:acme:session:3", "changed")
        app.set("t:acme:session:4", 4)
        app.delete("t:acme:session:5")
        app.rename("t:acme:session:6", "t:acme:session:new")

    backup = taken(rig, changes, late=lambda: app.set("t:acme:session:7", "late") and None)
    late = records(iter([backup.bytes[REDIS, "session:*", Part.LATE, 0]]), "a test")
    assert [(r.key, r.gone, r.whole()) for r in late] == [
        (b"session:3", False, b"changed"),
        (b"session:5", True, b""),
        (b"session:6", True, b""),
        (b"session:new", False, b"6"),
        (b"session:7", False, b"late"),
    ]
    green = rig.store(GREEN)
    green.restoring(ACME, ACME).load(backup, down(green))
    assert digests(green) == digests(rig.store(BLUE))


def test_after_a_gap_in_the_feed_every_key_is_looked_at_again(rig: RedisRig) -> None:
    admin = rig.admin[BLUE]
    admin.mset({f"t:acme:session:{n}": n for n in range(300)})

    def unheard() -> None:
        """The server ends the connection that announces, and an app writes before another one listens."""
        for client in admin.client_list():
            if client.get("flags", "").find("t") >= 0 or client.get("resp") == "3":
                admin.client_kill_filter(_id=client["id"])
        admin.set("t:acme:session:3", "unheard")
        admin.delete("t:acme:session:4")

    store, backup = rig.store(BLUE), MemoryBackup(ACME)
    capture = store.capture(ACME)
    capture.start(fence())
    capture.first_pass(backup)
    unheard()
    at = down(store)
    deadline = time.monotonic() + 20
    while True:
        try:
            capture.pin(backup, at)
            break
        except TenureError:
            assert time.monotonic() < deadline, "the feed does not come back"
    store.open(at)
    backup.complete(REDIS, capture.rest(backup))
    capture.close(at)
    green = rig.store(GREEN)
    green.restoring(ACME, ACME).load(backup, down(green))
    assert digests(green) == digests(store)
    assert admin.get("t:acme:session:3") == rig.admin[GREEN].get("t:acme:session:3") == b"unheard"


def test_a_key_whose_time_has_come_is_not_brought_back(rig: RedisRig) -> None:
    rig.admin[BLUE].set("t:acme:session:short", "soon gone", px=1500)
    rig.admin[BLUE].set("t:acme:session:long", "stays", px=3_600_000)
    backup, green = taken(rig), rig.store(GREEN)
    deadline = time.monotonic() + 20
    while rig.admin[BLUE].exists("t:acme:session:short"):
        assert time.monotonic() < deadline
    restoring = green.restoring(ACME, ACME)
    restoring.load(backup, down(green))
    assert rig.keys(GREEN, "t:acme:*") == ["t:acme:session:long"]
    assert rig.admin[GREEN].pexpiretime("t:acme:session:long") == rig.admin[BLUE].pexpiretime(
        "t:acme:session:long"
    )
    assert not list(restoring.differences(backup))


def test_what_only_a_newer_server_can_load_is_refused_before_anything_is_written(rig: RedisRig) -> None:
    rig.admin[BLUE].xadd("t:acme:x", {"n": 1})
    rig.admin[BLUE].set("t:acme:session:a", "a")
    backup, green = taken(rig), rig.store(GREEN)
    known = backup.facts(REDIS)["rdb_version"]
    backup.complete(REDIS, Captured(collections=(), facts={"rdb_version": known + 1}))
    at = down(green)
    restoring = green.restoring(ACME, ACME)
    assert [f.code for f in restoring.preflight(backup)] == ["server_too_old"]
    with pytest.raises(StoreRefused, match=f"in version {known + 1} of the server's format"):
        restoring.load(backup, at)
    assert rig.keys(GREEN, "t:acme:*") == []
