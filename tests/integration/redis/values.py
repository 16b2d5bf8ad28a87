"""A tenant's keys of every type that Redis has, for the tests of the copy."""

from __future__ import annotations

from typing import Any

KEYS = 16
EXPIRES_MS = 4_102_444_800_123
FIELD_EXPIRES_MS = 4_102_444_800_457


def fill(client: Any) -> None:
    """One key of every type, small and large encodings, with and without expiry, and a key that is not UTF-8."""
    client.set("t:acme:s", "text", px=3_600_000)
    client.set("t:acme:n", 42)
    client.set(b"t:acme:\xff\x00binary", b"\x00\xff" * 100)
    client.rpush("t:acme:l", *range(5))
    client.rpush("t:acme:l2", *("x" * 50 for _ in range(500)))
    client.hset("t:acme:h", mapping={"a": "1", "b": "2"})
    client.hset("t:acme:h2", mapping={f"field {n}": "v" * 80 for n in range(300)})
    client.execute_command("HPEXPIRE", "t:acme:h", "3600000", "FIELDS", "1", "a")
    client.sadd("t:acme:set", *range(20))
    client.sadd("t:acme:set2", *(f"member {n}" for n in range(1000)))
    client.zadd("t:acme:z", {"a": 1.5, "b": float("inf"), "c": 0.1})
    client.zadd("t:acme:z2", {f"m{n}": n / 3 for n in range(500)})
    for n in range(10):
        client.xadd("t:acme:x", {"n": n})
    client.xgroup_create("t:acme:x", "group", "0")
    client.xreadgroup("group", "consumer", {"t:acme:x": ">"}, count=3)
    client.pfadd("t:acme:hll", *range(100))
    client.execute_command("HPEXPIREAT", "t:acme:h", str(FIELD_EXPIRES_MS), "FIELDS", "1", "b")
    client.setbit("t:acme:bits", 70_001, 1)
    client.geoadd("t:acme:geo", (13.361389, 38.115556, "Palermo", 15.087269, 37.502669, "Catania"))
    client.set("t:acme:until", "a moment kept to the millisecond", pxat=EXPIRES_MS)
