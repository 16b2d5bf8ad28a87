"""The copy and the fence over clusters: every type between different layouts, failover, and slots that move."""

from __future__ import annotations

import contextlib
import itertools
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from tenure.errors import EvidenceStale, FenceRefused, StoreRefused, StoreUnavailable
from tenure.model.names import TenantId
from tenure.stores.contract import Fence
from tenure.stores.redis import RedisCopy
from tests.contract.rigs.protocol import AppRefused, Side
from tests.contract.rigs.redis import RedisRig
from tests.integration.redis.values import KEYS, fill
from tests.valkey_cluster import ValkeyCluster

ACME = TenantId("acme")
BLUE, GREEN = Side.BLUE, Side.GREEN
ONE_SLOT = 16383
Wait = Callable[..., None]


@pytest.fixture
def rig(valkey_cluster: ValkeyCluster, other_valkey_cluster: ValkeyCluster) -> Iterator[RedisRig]:
    made = RedisRig({BLUE: valkey_cluster.fresh(), GREEN: other_valkey_cluster.fresh()})
    yield made
    made.close()


def fence(token: int = 1) -> Fence:
    return Fence(tenant=ACME, epoch=1, token=token)


def linked(rig: RedisRig, wait_until: Wait, token: int = 1) -> RedisCopy:
    copy = rig.copy(ACME, BLUE, GREEN)
    copy.target.fence(fence(token), expires_in_s=None, drain_s=1.0)
    copy.start(fence(token))
    wait_until(lambda: copy.progress().following, "the first pass")
    return copy


def caught_up(copy: RedisCopy) -> bool:
    """Whether the copy could be sealed now; while a cluster is rearranged it cannot."""
    with contextlib.suppress(StoreUnavailable):
        copy.seal(copy.mark(), timeout_s=10.0)
        return True
    return False


def stale(copy: RedisCopy) -> bool:
    try:
        copy.compare_changed()
    except EvidenceStale:
        return True
    except StoreUnavailable:
        pass
    return False


def codes(rig: RedisRig) -> set[str]:
    return {f.code for f in rig.copy(ACME, BLUE, GREEN).preflight() if f.severity == "refusal"}


def test_every_type_of_value_moves_from_cluster_to_cluster(rig: RedisRig, wait_until: Wait) -> None:
    fill(rig.admin[BLUE])
    assert not codes(rig)
    copy = linked(rig, wait_until)
    for n in range(200):
        rig.write(BLUE, ACME, f"k{n}", str(n))
    copy.seal(copy.mark(), timeout_s=10.0)
    seen = copy.compare()
    assert (seen.processed, seen.matching) == (KEYS + 200, KEYS + 200)
    counts = [len(server.keys("t:acme:*")) for server in rig.servers(BLUE).values()]
    assert all(counts), "every server holds some of the keys"
    # One key on each master is spoilt: each is found.
    spoilt = {key_slot(f"t:acme:session:k{n}".encode()) // 8192: f"k{n}" for n in range(200)}
    for item in spoilt.values():
        rig.plant(GREEN, ACME, item, "spoilt")
    assert len(spoilt) == 2
    assert {d.key for d in copy.compare().differences} == {
        f'"t:acme:session:{item}"' for item in spoilt.values()
    }


def test_a_token_on_one_master_keeps_older_holders_from_all(rig: RedisRig) -> None:
    """A newer holder that came as far as the last master, and no further, is enough."""
    store = rig.store(BLUE)
    store.fence(fence(1), expires_in_s=None, drain_s=1.0)
    last = store.nodes.agreed().masters[-1]
    for tag in last.tags:
        last.client.hset(store.keyspace(ACME).record(tag), "token", 9)
    with pytest.raises(FenceRefused):
        rig.store(BLUE).open(fence(8))
    users = [s.execute_command("ACL", "GETUSER", "app-acme")[b"keys"] for s in rig.servers(BLUE).values()]
    assert users == [b"%R~t:acme:*"] * 4, "no server was opened"


def test_a_master_that_is_open_makes_the_store_writable(rig: RedisRig) -> None:
    store = rig.store(BLUE)
    store.fence(fence(1), expires_in_s=None, drain_s=1.0)
    assert not store.fence_state(ACME).writable
    last = store.nodes.agreed().masters[-1]
    last.client.execute_command("ACL", "SETUSER", "app-acme", "resetkeys", "~t:acme:*")
    assert store.fence_state(ACME).writable
    with pytest.raises(FenceRefused):
        store.erase(fence(1))
    store.fence(fence(1), expires_in_s=None, drain_s=1.0)
    assert not store.fence_state(ACME).writable


@pytest.mark.parametrize("side", Side)
def test_slots_that_move_are_followed_and_the_fence_moves_with_them(
    rig: RedisRig,
    valkey_cluster: ValkeyCluster,
    other_valkey_cluster: ValkeyCluster,
    wait_until: Wait,
    side: Side,
) -> None:
    """The slot of a master's first record, with keys of the tenant in it, moves to another master and back."""
    clients = (valkey_cluster if side is BLUE else other_valkey_cluster).admins()
    copy = rig.copy(ACME, BLUE, GREEN)
    nodes = (copy.source if side is BLUE else copy.target).nodes
    giver, taker = nodes.agreed().masters[-1], nodes.agreed().masters[0]
    slot = key_slot(copy.source.keyspace(ACME).record(giver.tag))
    moving = list(itertools.islice((f"k{n}" for n in itertools.count() if slot_of(f"k{n}") == slot), 3))
    for item in (*moving, *(f"k{n}" for n in range(100))):
        rig.write(BLUE, ACME, item, "before")
    copy = linked(rig, wait_until)
    assert copy.compare().equal
    migrating(giver.client, taker.client, slot)
    assert codes(rig) == {"redis_cluster_resharding"}
    migrate(giver.client, taker.client, slot)
    hand_over(clients, taker.client, slot)
    wait_until(lambda: nodes.agreed().owners[slot] == 0, "both to agree")
    if side is BLUE:
        wait_until(lambda: stale(copy), "the evidence to be stale")
    for item in moving:
        rig.write(BLUE, ACME, item, "after")
    wait_until(lambda: caught_up(copy), "the copy over the new owners")
    assert copy.compare().equal
    assert {rig.read(GREEN, ACME)[item] for item in moving} == {"after"}
    for store in (copy.source, copy.target):
        store.fence(fence(), expires_in_s=None, drain_s=1.0)
        assert not store.fence_state(ACME).writable
    for item in moving:
        with pytest.raises(AppRefused):
            rig.write(side, ACME, item, "after the fence")
    migrating(taker.client, giver.client, slot)
    migrate(taker.client, giver.client, slot)
    hand_over(clients, giver.client, slot)
    copy.detach()
    for one, other in ((BLUE, GREEN), (GREEN, BLUE)):
        wait_until(lambda a=one, b=other: stopped(rig, a, b), "the link's end")
    for store in (copy.source, copy.target):
        store.open(fence(2))
    assert not rig.leftovers(side)


def slot_of(item: str) -> int:
    return int(key_slot(f"t:acme:session:{item}".encode()))


def stopped(rig: RedisRig, source: Side, target: Side) -> bool:
    with contextlib.suppress(StoreUnavailable):
        rig.copy(ACME, source, target).stop(fence(2))
        return True
    return False


def migrating(giver: Any, taker: Any, slot: int) -> None:
    ids = [client.execute_command("CLUSTER", "MYID") for client in (giver, taker)]
    taker.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
    giver.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])


def migrate(giver: Any, taker: Any, slot: int) -> None:
    options = taker.connection_pool.connection_kwargs
    login = ("AUTH2", options["username"], options["password"])
    while keys := giver.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
        giver.execute_command("MIGRATE", options["host"], options["port"], "", 0, 5000, *login, "KEYS", *keys)


def hand_over(servers: Iterable[Any], taker: Any, slot: int) -> None:
    identity = taker.execute_command("CLUSTER", "MYID")
    for server in (taker, *servers):
        with contextlib.suppress(redis.ResponseError):  # a replica learns it from its master
            server.execute_command("CLUSTER", "SETSLOT", slot, "NODE", identity)


def test_a_failover_is_made_up_for_and_a_server_that_is_down_is_named(
    rig: RedisRig, wait_until: Wait, valkey_cluster: ValkeyCluster
) -> None:
    for n in range(300):
        rig.write(BLUE, ACME, f"k{n}", str(n))
    copy = linked(rig, wait_until)
    assert copy.compare().equal
    for server in rig.servers(BLUE).values():
        server.execute_command("ACL", "SAVE")  # so that the one that dies comes back open
    dead = valkey_cluster.master_with_replica()
    valkey_cluster.servers.stop(dead, signal.SIGKILL)
    try:
        wait_until(lambda: caught_up(copy), "the copy over the promoted replica", deadline_s=60.0)
        with pytest.raises(EvidenceStale):
            copy.compare_changed()
        rig.admin[BLUE].nodes_manager.initialize()
        for n in range(300):
            rig.write(BLUE, ACME, f"k{n}", f"{n} after the failover")
        copy.seal(copy.mark(), timeout_s=20.0)
        assert copy.compare().equal
        assert rig.read(GREEN, ACME) == rig.read(BLUE, ACME)
        assert codes(rig) == {"redis_cluster_in_pieces"}
        with pytest.raises(StoreUnavailable, match="is down and cannot be fenced"):
            copy.source.fence(fence(), expires_in_s=None, drain_s=1.0)
        rig.write(BLUE, ACME, "k0", "not fenced anywhere")
    finally:
        valkey_cluster.revive(dead)
    copy.source.fence(fence(), expires_in_s=None, drain_s=1.0)
    # The replica of now is fenced as well: after one more failover it refuses the tenant's writes.
    valkey_cluster.promote(dead)
    wait_until(lambda: caught_up(copy), "the copy over the promoted replica", deadline_s=60.0)
    rig.admin[BLUE].nodes_manager.initialize()
    for n in range(300):
        with pytest.raises(AppRefused):
            rig.write(BLUE, ACME, f"k{n}", "after the fence")
    assert rig.read(GREEN, ACME)["k0"] == "not fenced anywhere"
    assert not copy.source.fence_state(ACME).writable


def test_a_master_with_no_place_for_a_record_is_refused(
    rig: RedisRig, other_valkey_cluster: ValkeyCluster, wait_until: Wait
) -> None:
    """The server without slots is given one slot."""
    clients = other_valkey_cluster.admins()
    giver, taker = clients[1], clients[2]
    assert len(rig.store(GREEN).nodes.agreed().others) == 1
    migrating(giver, taker, ONE_SLOT)
    hand_over(clients, taker, ONE_SLOT)
    try:
        wait_until(lambda: codes(rig) == {"redis_cluster_layout"}, "the refusal")
        with pytest.raises(StoreRefused, match="so few slots"):
            rig.store(GREEN).fence(fence(), expires_in_s=None, drain_s=1.0)
    finally:
        migrating(taker, giver, ONE_SLOT)
        hand_over(clients, giver, ONE_SLOT)
    wait_until(lambda: not codes(rig), "the former owner")
