"""The live copy between two Valkey servers: every type of value, gaps in the feed, processes thought dead."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tenure.errors import EvidenceStale, FenceRefused, LeaseLost, StoreRefused, StoreUnavailable
from tenure.estate.local import RunningEstate, ValkeyServer
from tenure.model.comparison import DifferenceKind
from tenure.model.names import TenantId
from tenure.stores.contract import Fence
from tenure.stores.redis import RedisCopy
from tests.contract.rigs.protocol import Side
from tests.contract.rigs.redis import RedisRig
from tests.integration.redis.values import EXPIRES_MS, FIELD_EXPIRES_MS, KEYS, fill
from tests.slow_link import slow_link

ACME = TenantId("acme")
BLUE, GREEN = Side.BLUE, Side.GREEN
Wait = Callable[..., None]


@pytest.fixture
def rig(fresh_redis: Callable[..., str]) -> Iterator[RedisRig]:
    made = RedisRig({BLUE: fresh_redis("valkey-a"), GREEN: fresh_redis("valkey-b")})
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


def sealed(copy: RedisCopy) -> None:
    copy.seal(copy.mark(), timeout_s=10.0)


def test_more_workers_copy_over_more_connections_at_once(
    fresh_redis: Callable[..., str], wait_until: Wait
) -> None:
    """Over a link on which every answer takes long, one worker waits for one answer at a time."""
    green = fresh_redis("valkey-b")
    address, _, port = green.rpartition("@")[2].partition("/")[0].partition(":")
    with slow_link(address, int(port)) as link:
        distant = green.replace(f"@{address}:{port}", f"@127.0.0.1:{link.port}")
        rig = RedisRig({BLUE: fresh_redis("valkey-a"), GREEN: distant})
        try:
            copy = linked(rig, wait_until)
            link.stalled = True
            rig.admin[BLUE].mset({f"t:acme:session:{n}": n for n in range(3000)})
            wait_until(lambda: (copy.progress().lag_items or 0) >= 3000 and link.knocked, "the copy is late")
            assert len(link.knocked) == 1
            assert copy.hurry(4) == 4
            wait_until(lambda: len(link.knocked) == 4, "four at once")
            link.stalled = False
            sealed(copy)
            assert copy.compare().equal
            assert copy.progress().applied == copy.progress().items_done >= 3000
        finally:
            link.stalled = False
            rig.close()


def test_every_type_of_value_arrives_with_its_expiry(rig: RedisRig, wait_until: Wait) -> None:
    fill(rig.admin[BLUE])
    copy = linked(rig, wait_until)
    sealed(copy)
    seen = copy.compare()
    assert seen.equal
    assert seen.processed == KEYS
    arrived = rig.admin[GREEN]
    for key in rig.admin[BLUE].keys("t:acme:[^_]*"):
        assert arrived.pexpiretime(key) == rig.admin[BLUE].pexpiretime(key)
    assert arrived.pexpiretime("t:acme:until") == EXPIRES_MS
    assert arrived.execute_command("HPEXPIRETIME", "t:acme:h", "FIELDS", "1", "b") == [FIELD_EXPIRES_MS]
    assert arrived.xpending("t:acme:x", "group")["pending"] == 3
    assert arrived.pfcount("t:acme:hll") == rig.admin[BLUE].pfcount("t:acme:hll")
    assert (arrived.bitcount("t:acme:bits"), arrived.getbit("t:acme:bits", 70_001)) == (1, 1)
    assert arrived.geodist("t:acme:geo", "Palermo", "Catania") == pytest.approx(166274.15)
    assert (
        copy.source.inventory(ACME).collections["*"].digest
        == copy.target.inventory(ACME).collections["*"].digest
    )


def test_equal_values_in_another_order_or_encoding_are_equal(rig: RedisRig) -> None:
    """Written on both sides by hand, not by the copy."""
    members = [f"member {n}" for n in range(1000)]
    rig.admin[GREEN].config_set("list-max-listpack-size", "4")
    for client, ordered in ((rig.admin[BLUE], members), (rig.admin[GREEN], members[::-1])):
        client.rpush("t:acme:l", *range(20))
        client.sadd("t:acme:set", *ordered)
        client.hset("t:acme:h", mapping={m: m.upper() for m in ordered})
        client.zadd("t:acme:z", {m: len(m) for m in ordered})
        client.sadd("t:acme:i", *range(10))
    rig.admin[GREEN].sadd("t:acme:i", "not a number")
    rig.admin[GREEN].srem("t:acme:i", "not a number")
    rig.admin[GREEN].config_set("list-max-listpack-size", "-2")
    for key, encodings in (("l", {b"listpack", b"quicklist"}), ("i", {b"intset", b"listpack"})):
        assert {c.object("encoding", f"t:acme:{key}") for c in rig.admin.values()} == encodings
    assert rig.copy(ACME, BLUE, GREEN).compare().equal


@pytest.mark.parametrize(
    ("key", "spoil"),
    [
        ("t:acme:s", lambda c: c.set("t:acme:s", "texT", px=3_600_000)),
        ("t:acme:s", lambda c: c.persist("t:acme:s")),
        ("t:acme:l", lambda c: c.lset("t:acme:l", 0, "other")),
        ("t:acme:h", lambda c: c.hset("t:acme:h", "b", "3")),
        ("t:acme:h", lambda c: c.execute_command("HPERSIST", "t:acme:h", "FIELDS", "1", "a")),
        ("t:acme:set2", lambda c: c.srem("t:acme:set2", "member 7")),
        ("t:acme:z2", lambda c: c.zadd("t:acme:z2", {"m7": 7 / 3 + 1e-15})),
        ("t:acme:x", lambda c: c.xadd("t:acme:x", {"n": "extra"})),
        ("t:acme:x", lambda c: c.xack("t:acme:x", "group", c.xrange("t:acme:x")[0][0])),
        ("t:acme:x", lambda c: c.xgroup_create("t:acme:x", "second", "0")),
        ("t:acme:n", lambda c: (c.delete("t:acme:n"), c.rpush("t:acme:n", 42))),
    ],
    ids=["value", "expiry", "list", "hash", "field-expiry", "set", "score", "entry", "ack", "group", "type"],
)
def test_the_smallest_difference_is_found(
    rig: RedisRig, wait_until: Wait, key: str, spoil: Callable[[Any], object]
) -> None:
    fill(rig.admin[BLUE])
    copy = linked(rig, wait_until)
    sealed(copy)
    spoil(rig.admin[GREEN])
    seen = copy.compare()
    assert [(d.key, d.kind) for d in seen.differences] == [(f'"{key}"', DifferenceKind.MISMATCHED)]
    copy.repair(seen.differences, fence())
    assert copy.compare().equal


def test_a_lost_connection_is_made_up_for_and_the_evidence_is_stale(rig: RedisRig, wait_until: Wait) -> None:
    rig.write(BLUE, ACME, "a", "1")
    rig.write(BLUE, ACME, "b", "1")
    copy = linked(rig, wait_until)
    assert copy.compare().equal
    tracking = [c for c in rig.admin[BLUE].client_list() if "t" in c["flags"]]
    assert len(tracking) == 1
    pipe = rig.admin[BLUE].pipeline(transaction=True)
    pipe.client_kill_filter(_id=tracking[0]["id"])
    pipe.set("t:acme:session:a", "while nobody listened")
    pipe.delete("t:acme:session:b")
    pipe.execute()
    wait_until(lambda: rig.read(GREEN, ACME) == {"a": "while nobody listened"}, "the pass after the gap")
    with pytest.raises(EvidenceStale):
        copy.compare_changed()
    wait_until(lambda: copy.progress().following, "the end of the pass")
    sealed(copy)
    assert copy.compare().equal
    assert copy.compare_changed().equal


def test_a_target_that_is_full_for_a_while_refuses_a_part_and_gets_it_later(
    rig: RedisRig, wait_until: Wait
) -> None:
    """A server without memory refuses every `RESTORE` of a batch that would need some, and carries out the others."""
    for n in range(40):
        rig.write(BLUE, ACME, f"k{n}", "as it was")
    copy = linked(rig, wait_until)
    rig.admin[GREEN].config_set("maxmemory", 1)
    try:
        for n in range(20):
            rig.write(BLUE, ACME, f"k{n}", f"changed {n}")
            rig.delete(BLUE, ACME, f"k{n + 20}")
        time.sleep(1.0)
        assert rig.read(GREEN, ACME) != rig.read(BLUE, ACME)
    finally:
        rig.admin[GREEN].config_set("maxmemory", 0)
    copy.source.fence(fence(), expires_in_s=None, drain_s=1.0)
    wait_until(lambda: rig.read(GREEN, ACME) == rig.read(BLUE, ACME), "what was refused", deadline_s=30)
    sealed(copy)
    assert copy.compare().equal


def test_a_source_that_lost_everything_does_not_empty_the_target(rig: RedisRig, wait_until: Wait) -> None:
    rig.write(BLUE, ACME, "a", "1")
    copy = linked(rig, wait_until)
    rig.admin[BLUE].flushall()

    def refused() -> bool:
        try:
            copy.progress()
        except StoreRefused:
            return True
        return False

    wait_until(refused, "the refusal")
    assert rig.read(GREEN, ACME) == {"a": "1"}
    copy.resync(fence(), workers=2)
    assert not rig.read(GREEN, ACME)


def test_a_process_that_was_thought_dead_cannot_write_any_more(rig: RedisRig, wait_until: Wait) -> None:
    rig.write(BLUE, ACME, "a", "1")
    zombie = linked(rig, wait_until)
    heir = linked(rig, wait_until, token=2)
    rig.write(BLUE, ACME, "a", "2")
    sealed(heir)

    def superseded() -> bool:
        try:
            zombie.progress()
        except LeaseLost:
            return True
        return False

    wait_until(superseded, "the zombie's refusal")
    heir.target.open(fence(3))
    rig.write(BLUE, ACME, "a", "3")
    rig.write(GREEN, ACME, "a", "the new cell's own")
    time.sleep(0.2)
    assert rig.read(GREEN, ACME)["a"] == "the new cell's own"


def test_a_comparison_of_changes_that_fails_forgets_none_of_them(
    rig: RedisRig, wait_until: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = linked(rig, wait_until)
    assert copy.compare().equal
    rig.write(BLUE, ACME, "a", "changed")
    sealed(copy)
    rig.plant(GREEN, ACME, "a", "spoilt")

    def away(*_: Any, **__: Any) -> None:
        raise redis.ConnectionError("away for a moment")

    with monkeypatch.context() as patch:
        patch.setattr(copy.target.nodes.current().masters[0].client, "pipeline", away)
        with pytest.raises(StoreUnavailable):
            copy.compare_changed()
    seen = copy.compare_changed()
    assert (seen.processed, len(seen.differences)) == (1, 1)


def test_a_comparison_that_breaks_off_is_no_evidence(rig: RedisRig, wait_until: Wait) -> None:
    rig.write(BLUE, ACME, "a", "1")
    copy = linked(rig, wait_until)

    def broken(_items: int) -> None:
        raise StoreUnavailable("away for a moment")

    with pytest.raises(StoreUnavailable):
        copy.compare(progress=broken)
    with pytest.raises(EvidenceStale):
        copy.compare_changed()


def test_a_stale_holder_cannot_stop_a_link_and_takes_no_marks(rig: RedisRig, wait_until: Wait) -> None:
    heir = linked(rig, wait_until, token=2)
    heir.arm_reverse(fence(2))
    sealed(heir)
    with pytest.raises(FenceRefused):
        rig.copy(ACME, BLUE, GREEN).stop(fence(1))
    for side in Side:
        assert rig.admin[side].exists("tenure:marks:acme")
    rig.write(BLUE, ACME, "a", "still follows")
    sealed(heir)
    assert rig.read(GREEN, ACME) == {"a": "still follows"}


def test_nothing_flows_back_that_the_copy_brought(rig: RedisRig, wait_until: Wait) -> None:
    for n in range(50):
        rig.write(BLUE, ACME, f"k{n}", "1")
    copy = linked(rig, wait_until)
    reverse = copy.arm_reverse(fence())
    for n in range(50):
        rig.write(BLUE, ACME, f"k{n}", "2")
    copy.source.fence(fence(), expires_in_s=None, drain_s=1.0)
    sealed(copy)
    copy.target.open(fence())
    rig.write(GREEN, ACME, "k7", "3")
    copy.detach()
    reverse.start(fence())
    sealed(reverse)
    assert reverse.progress().items_done == 1
    assert rig.read(BLUE, ACME)["k7"] == "3"


def test_keys_that_expire_are_no_difference(rig: RedisRig, wait_until: Wait) -> None:
    for n in range(200):
        rig.app(BLUE, ACME).set(f"t:acme:session:{n}", "x", px=200 + n)
    copy = linked(rig, wait_until)
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        assert copy.compare().differences == ()
    sealed(copy)
    assert not rig.read(GREEN, ACME)


def test_marks_are_never_copied_and_never_counted(rig: RedisRig, wait_until: Wait) -> None:
    rig.write(BLUE, ACME, "a", "1")
    copy = linked(rig, wait_until)
    for _ in range(5):
        sealed(copy)
    assert copy.compare().processed == 1
    assert copy.source.inventory(ACME).items == 1
    assert [k for k in rig.admin[GREEN].keys("*") if b"mark" in k] == []


def test_large_values_and_many_keys_arrive(rig: RedisRig, wait_until: Wait) -> None:
    for n in range(12):
        rig.admin[BLUE].set(f"t:acme:big:{n}", bytes([n]) * 3_000_000)
    pipe = rig.admin[BLUE].pipeline(transaction=False)
    for n in range(20_000):
        pipe.set(f"t:acme:session:{n}", n)
    pipe.execute()
    copy = linked(rig, wait_until)
    seen = copy.compare()
    assert (seen.processed, seen.matching) == (20_012, 20_012)


def test_two_cells_on_one_server_are_refused(rig: RedisRig) -> None:
    rig.urls = dict.fromkeys(Side, rig.urls[BLUE])
    assert "redis_same_server" in [
        f.code for f in rig.copy(ACME, BLUE, GREEN).preflight() if f.severity == "refusal"
    ]


def test_databases_other_than_0_are_stores_of_their_own(rig: RedisRig, wait_until: Wait) -> None:
    default = {side: rig.urls[side] for side in Side}
    rig.write(BLUE, ACME, "a", "in database 0")
    rig.plant(GREEN, ACME, "a", "somebody else's")
    rig.urls = {
        BLUE: default[BLUE].removesuffix("/0") + "/3",
        GREEN: default[GREEN].removesuffix("/0") + "/7",
    }
    with redis.Redis.from_url(rig.urls[BLUE]) as source, redis.Redis.from_url(rig.urls[GREEN]) as target:
        source.set("t:acme:session:a", "in database 3", px=3_600_000)
        copy = linked(rig, wait_until)
        source.set("t:acme:session:b", "and followed")
        sealed(copy)
        assert copy.compare().equal
        assert target.mget("t:acme:session:a", "t:acme:session:b") == [b"in database 3", b"and followed"]
        assert target.pexpiretime("t:acme:session:a") == source.pexpiretime("t:acme:session:a")
        copy.detach()
        copy.stop(fence())
        assert copy.target.erase(fence()) == 2
    assert rig.read(GREEN, ACME) == {"a": "somebody else's"}


def test_functions_belong_to_no_tenant_and_preflight_says_which_the_target_lacks(rig: RedisRig) -> None:
    library = "#!lua name=counters\nserver.register_function('hit', function() return 1 end)"
    rig.admin[BLUE].function_load(library)
    try:
        found = {f.code: f for f in rig.copy(ACME, BLUE, GREEN).preflight()}
    finally:
        rig.admin[BLUE].function_flush()
    assert "counters" in found["redis_functions"].message
    assert "redis_functions" not in {f.code for f in rig.copy(ACME, BLUE, GREEN).preflight()}


def test_a_type_that_only_a_module_knows_is_refused_by_name(rig: RedisRig, servers: RunningEstate) -> None:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs Debian's package gcc")
    module = servers.folder / "foreign.so"
    source = Path(__file__).with_name("foreign_type.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-o", module, source], check=True)
    servers.add(ValkeyServer(name="valkey-module", settings={"loadmodule": str(module)}))
    try:
        rig.urls = {**rig.urls, BLUE: servers.url("valkey-module")}
        with redis.Redis.from_url(rig.urls[BLUE]) as source_server:
            source_server.set("t:acme:session:a", "x")
            source_server.execute_command("FOREIGN.SET", "t:acme1:session:a")
            assert "redis_module_type" not in {f.code for f in rig.copy(ACME, BLUE, GREEN).preflight()}
            source_server.execute_command("FOREIGN.SET", "t:acme:session:foreign")
        found = {f.code: f for f in rig.copy(ACME, BLUE, GREEN).preflight() if f.severity == "refusal"}
        assert "t:acme:session:foreign" in found["redis_module_type"].message
        assert "forgntype" in found["redis_module_type"].message
    finally:
        servers.remove("valkey-module")
