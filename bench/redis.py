"""Redis' part of a move beside a plain pipelined DUMP and RESTORE of the same keys in the same run.

usage: python -m bench.redis [--keys 100000] [--rounds 5]

One tenant's keys of every type in one Valkey, beside a neighbour's, copied into a second one. Tenure's part is its
whole live copy, from nothing until the target follows: it listens to every change meanwhile, and each write checks in
the server that the target is fenced and its own. The plain way scans the prefix and copies 256 keys per round trip.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import redis

from bench.postgres import ratios
from tenure.estate.local import EstateSpec, ValkeyServer, down, up
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.secret import Secret
from tenure.stores.contract import Fence
from tenure.stores.redis import RedisCopy, RedisStore

TENANT: Final = TenantId("bench")
PREFIX: Final = f"t:{TENANT}:"
BATCH: Final = 256
NO_EXPIRY: Final = -1
DEADLINE_S: Final = 600.0


def fill(url: str, keys: int) -> None:
    """Strings of 200 bytes for the most part, then hashes, lists, sets and sorted sets of ten; every tenth expires."""
    with redis.Redis.from_url(url) as client:
        for who, count in ((PREFIX, keys), ("t:neighbour:", keys // 10)):
            for start in range(0, count, 1000):
                pipe = client.pipeline(transaction=False)
                for n in range(start, min(start + 1000, count)):
                    _write(pipe, f"{who}{n}", n)
                pipe.execute()


def _write(pipe: Any, key: str, n: int) -> None:
    match n % 8:
        case 0:
            pipe.hset(key, mapping={f"field{m}": f"value {n} {m}" for m in range(10)})
        case 1:
            pipe.rpush(key, *(f"value {n} {m}" for m in range(10)))
        case 2:
            pipe.zadd(key, {f"member {n} {m}": float(m) for m in range(10)})
        case 3:
            pipe.sadd(key, *(f"member {n} {m}" for m in range(10)))
        case _:
            pipe.set(key, os.urandom(200), ex=86_400 if n % 10 == 9 else None)


def _store(cell: str, url: str) -> RedisStore:
    return RedisStore(
        name=StoreName("redis"), cell=CellName(cell), url=Secret(url), prefix="t:{tenant}:", acl_user=None
    )


def by_tenure(source: str, target: str) -> float:
    fence = Fence(tenant=TENANT, epoch=1, token=time.time_ns())
    stores = _store("blue", source), _store("green", target)
    copy = RedisCopy(link="bench", tenant=TENANT, source=stores[0], target=stores[1])
    began = time.perf_counter()
    stores[1].fence(fence, expires_in_s=None, drain_s=5)
    copy.start(fence)
    while not copy.progress().following:
        if time.perf_counter() - began > DEADLINE_S:
            raise SystemExit("the copy did not end")
        time.sleep(0.005)
    took = time.perf_counter() - began
    copy.stop(fence)
    for store in stores:
        store.open(fence)
        store.close()
    return took


def by_pipeline(source: str, target: str) -> float:
    began = time.perf_counter()
    with redis.Redis.from_url(source) as here, redis.Redis.from_url(target) as there:
        batch: list[bytes] = []
        for key in here.scan_iter(match=f"{PREFIX}*", count=1000):
            batch.append(key)
            if len(batch) == BATCH:
                _pipe(here, there, batch)
                batch = []
        if batch:
            _pipe(here, there, batch)
    return time.perf_counter() - began


def _pipe(here: Any, there: Any, keys: list[bytes]) -> None:
    reading = here.pipeline(transaction=False)
    for key in keys:
        reading.dump(key)
        reading.execute_command("PEXPIRETIME", key)
    answers = reading.execute()
    writing = there.pipeline(transaction=False)
    for key, payload, expires_at in zip(keys, answers[::2], answers[1::2], strict=True):
        writing.restore(key, 0 if expires_at == NO_EXPIRY else expires_at, payload, replace=True, absttl=True)
    writing.execute()


def compared(source: str, target: str, keys: int, rounds: int) -> dict[str, dict[str, float]]:
    ways: dict[str, Callable[[str, str], float]] = {"tenure": by_tenure, "pipeline": by_pipeline}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in list(ways.items())[:: -1 if number % 2 else 1]:
            with redis.Redis.from_url(target) as client:
                client.flushall()
                times[name].append(way(source, target))
                there = sum(1 for _ in client.scan_iter(match=f"{PREFIX}*", count=1000))
                if there != keys:
                    raise SystemExit(f"{name} copied {there} of {keys} keys")
    return ratios(times, "pipeline")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tenure-bench-"))
    folder.chmod(0o755)
    both = (ValkeyServer(name="source"), ValkeyServer(name="target"))
    estate = up(EstateSpec(folder=folder / "estate", servers=both), owner=True)
    try:
        source, target = estate.url("source"), estate.url("target")
        fill(source, arguments.keys)
        report = {"keys": arguments.keys, **compared(source, target, arguments.keys, arguments.rounds)}
    finally:
        estate.close()
        down(estate.folder, remove=True)
        folder.rmdir()
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
