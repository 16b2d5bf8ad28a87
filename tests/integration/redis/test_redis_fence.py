"""What a fence in Redis must not let through, and what it must survive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from tenure.errors import FenceRefused, StoreRefused
from tenure.estate.local import RunningEstate
from tenure.model.names import TenantId
from tenure.stores.contract import Fence
from tests.contract.rigs.protocol import AppRefused, Side
from tests.contract.rigs.redis import RedisRig

ACME = TenantId("acme")
BLUE, GREEN = Side.BLUE, Side.GREEN


@pytest.fixture
def rig(fresh_redis: Callable[..., str]) -> Iterator[RedisRig]:
    made = RedisRig({BLUE: fresh_redis("valkey-a"), GREEN: fresh_redis("valkey-b")})
    yield made
    made.close()


def fence(token: int = 1) -> Fence:
    return Fence(tenant=ACME, epoch=1, token=token)


def close(rig: RedisRig, side: Side = BLUE) -> None:
    rig.store(side).fence(fence(), expires_in_s=None, drain_s=1.0)


def test_a_transaction_queued_before_the_fence_is_refused_when_it_is_executed(rig: RedisRig) -> None:
    connection: Any = rig.app(BLUE, ACME).connection_pool.get_connection()
    for command in (("MULTI",), ("SET", "t:acme:session:a", "late"), ("SET", "t:acme:session:b", "late")):
        connection.send_command(*command)
        connection.read_response()
    close(rig)
    connection.send_command("EXEC")
    answers = connection.read_response()
    assert [type(answer) for answer in answers] == [redis.exceptions.NoPermissionError] * 2
    connection.disconnect()
    assert not rig.read(BLUE, ACME)


@pytest.mark.parametrize(
    "command",
    [
        ("EVAL", "return redis.call('SET', 't:acme:session:a', 'x')", "0"),
        ("EVAL", "return redis.call('SET', KEYS[1], 'x')", "1", "t:acme:session:a"),
        ("COPY", "t:acme:session:there", "t:acme:session:a"),
        ("RENAME", "t:acme:session:there", "t:acme:session:a"),
        ("GETDEL", "t:acme:session:there"),
        ("EXPIRE", "t:acme:session:there", "1"),
        ("BITFIELD", "t:acme:session:there", "SET", "u8", "0", "1"),
        ("LMOVE", "t:acme:list", "t:acme:list", "LEFT", "RIGHT"),
        ("FLUSHALL",),
        ("SWAPDB", "0", "1"),
        ("ACL", "SETUSER", "app-acme", "~*"),
    ],
    ids=lambda command: " ".join(command)[:40],
)
def test_no_command_of_the_app_writes_around_the_fence(rig: RedisRig, command: tuple[str, ...]) -> None:
    rig.write(BLUE, ACME, "there", "x")
    rig.admin[BLUE].rpush("t:acme:list", "1", "2")
    close(rig)
    before = rig.store(BLUE).inventory(ACME)
    with pytest.raises(redis.RedisError):
        rig.app(BLUE, ACME).execute_command(*command)
    assert rig.store(BLUE).inventory(ACME) == before
    assert rig.app(BLUE, ACME).get("t:acme:session:there") == b"x"


def test_a_client_that_blocks_on_a_list_takes_nothing_after_the_fence(rig: RedisRig) -> None:
    connection: Any = rig.app(BLUE, ACME).connection_pool.get_connection()
    connection.send_command("BLPOP", "t:acme:queue", "5")
    assert rig.admin[BLUE].ping()
    close(rig)
    rig.admin[BLUE].rpush("t:acme:queue", "job")
    with pytest.raises(redis.RedisError):
        connection.read_response()
    connection.disconnect()
    assert rig.admin[BLUE].llen("t:acme:queue") == 1


def test_a_fence_survives_a_restart_of_the_server(rig: RedisRig, servers: RunningEstate) -> None:
    close(rig)
    servers.restart("valkey-a")
    with pytest.raises(AppRefused):
        rig.write(BLUE, ACME, "a", "after the restart")
    assert not rig.store(BLUE).fence_state(ACME).writable


def test_a_user_of_another_shape_is_left_alone_and_preflight_says_so(rig: RedisRig) -> None:
    rig.admin[BLUE].execute_command("ACL", "SETUSER", "app-acme", "~shared:*")
    before = rig.admin[BLUE].execute_command("ACL", "GETUSER", "app-acme")
    close(rig)
    assert rig.admin[BLUE].execute_command("ACL", "GETUSER", "app-acme") == before
    assert not rig.store(BLUE).fence_state(ACME).writable
    found = rig.copy(ACME, BLUE, GREEN).preflight()
    assert [f.code for f in found if f.where == "redis of blue"] == ["fence_cooperates"]


def test_preflight_names_every_way_around_the_fence(rig: RedisRig) -> None:
    rig.admin[BLUE].execute_command("ACL", "SETUSER", "app-acme", "+@all")
    rig.admin[BLUE].execute_command("ACL", "SETUSER", "batch", "on", "nopass", "~t:*", "+@all")
    found = {f.code: f for f in rig.copy(ACME, BLUE, GREEN).preflight() if f.where == "redis of blue"}
    assert "FLUSHALL" in found["fence_has_ways_around"].message
    assert "ACL SETUSER" in found["fence_has_ways_around"].message
    assert "batch" in found["fence_other_writers"].message


def test_two_holders_at_once_leave_the_newer_ones_fence(rig: RedisRig) -> None:
    """The record and the user change in one transaction, so the older holder can never have the last word."""
    store = rig.store(BLUE)
    store.fencing(ACME).join(fence(1), "link")
    for token in range(2, 30, 2):
        store.fence(fence(token), expires_in_s=None, drain_s=1.0)
        rig.store(BLUE).open(fence(token + 1))
        with pytest.raises(FenceRefused):
            store.fence(fence(token), expires_in_s=None, drain_s=1.0)
    rig.write(BLUE, ACME, "a", "open")


def test_a_tenant_that_has_left_stays_closed_until_it_comes_back(rig: RedisRig) -> None:
    close(rig)
    for _ in range(2):
        rig.store(BLUE).retire(fence(2))
    with pytest.raises(AppRefused):
        rig.write(BLUE, ACME, "a", "a straggler")
    state = rig.store(BLUE).fence_state(ACME)
    assert (state.writable, state.token) == (False, 2)
    for older in (rig.store(BLUE).retire, rig.store(BLUE).open):
        with pytest.raises(FenceRefused):
            older(fence(1))
    rig.store(BLUE).open(fence(3))
    rig.write(BLUE, ACME, "a", "back")
    assert not rig.leftovers(BLUE)


def test_an_erasure_is_refused_while_a_link_holds_the_store(rig: RedisRig) -> None:
    close(rig)
    rig.store(BLUE).fencing(ACME).join(fence(), "link")
    with pytest.raises(StoreRefused):
        rig.store(BLUE).erase(fence())


def test_preflight_says_that_replicas_do_not_share_the_fence(
    rig: RedisRig, wait_until: Callable[..., None]
) -> None:
    source, replica = rig.admin[BLUE], rig.admin[GREEN]
    login = source.connection_pool.connection_kwargs
    assert "fence_not_on_replicas" not in {f.code for f in rig.copy(ACME, BLUE, GREEN).preflight()}
    replica.config_set("masteruser", login["username"])
    replica.config_set("masterauth", login["password"])
    replica.replicaof(login["host"], login["port"])
    try:
        wait_until(lambda: source.info("replication")["connected_slaves"] == 1, "the replica")
        found = {f.code: f.where for f in rig.copy(ACME, BLUE, GREEN).preflight()}
    finally:
        replica.replicaof("NO", "ONE")
        replica.config_set("masterauth", "")
    assert found["fence_not_on_replicas"] == "redis of blue"
    assert found["redis_replica"] == "redis of green"
