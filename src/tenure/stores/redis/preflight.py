"""What stands in the way of a move between two servers, or should be known before it. Changes nothing on either."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import redis

from tenure.model.finding import Finding, Severity
from tenure.model.names import TenantId
from tenure.stores.redis.errors import translated
from tenure.stores.redis.fencing import AppUser
from tenure.stores.redis.store import RedisStore
from tenure.stores.redis.transfer import dump

SKEW_MS: Final = 50
_PROBE: Final = b"tenure:probe"
_AROUND_THE_FENCE: Final[tuple[tuple[str, ...], ...]] = (
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("SWAPDB", "0", "1"),
    ("ACL", "SETUSER", "x"),
    ("CONFIG", "SET", "maxmemory", "0"),
    ("REPLICAOF", "NO", "ONE"),
    ("DEBUG", "JMAP"),
)


def findings(tenant: TenantId, source: RedisStore, target: RedisStore) -> Sequence[Finding]:
    """Everything at once, each with its fix."""
    found: list[Finding] = []
    for store in (source, target):
        with translated(store.where):
            found += _server(store)
            found += _fence(tenant, store)
    with translated(target.where):
        found += _pair(tenant, source, target)
    return sorted(found)


def _finding(severity: Severity, code: str, where: str, message: str, fix: str) -> Finding:
    return Finding(severity=severity, code=code, where=where, message=message, fix=fix)


def _server(store: RedisStore) -> Iterator[Finding]:
    info: dict[str, Any] = store.client.info("everything")
    version = tuple(int(part) for part in str(info.get("redis_version", "0")).split(".")[:2])
    if version < (7, 0):
        yield _finding(
            Severity.REFUSAL,
            "redis_too_old",
            store.where,
            f"the server speaks the commands of version {info.get('redis_version')}; absolute expiry times need 7.0",
            "upgrade the server to Redis 7 or Valkey",
        )
    if info.get("redis_mode", info.get("server_mode")) == "cluster" or info.get("cluster_enabled") == 1:
        yield _finding(
            Severity.REFUSAL,
            "redis_cluster",
            store.where,
            "the server is in cluster mode",
            "not supported yet: move to a standalone server",
        )
    if info.get("role") not in (None, "master"):
        yield _finding(
            Severity.REFUSAL,
            "redis_replica",
            store.where,
            "the server is a replica",
            "give the URL of its primary",
        )
    policy, limit = str(info.get("maxmemory_policy", "noeviction")), int(info.get("maxmemory", 0))
    if limit and policy != "noeviction":
        yield _finding(
            Severity.WARNING,
            "redis_evicts",
            store.where,
            f"the server evicts keys when it holds {limit} bytes ({policy}): each cell may lack what it has evicted",
            "set maxmemory-policy to noeviction, or accept that this data is a cache",
        )


def _fence(tenant: TenantId, store: RedisStore) -> Iterator[Finding]:
    user_name = store.acl_user(tenant)
    if user_name is None:
        yield _finding(
            Severity.WARNING,
            "fence_cooperates",
            store.where,
            "the catalogue names no ACL user per tenant: the server does not refuse a fenced tenant's writes, "
            "only the gate and tenure.client keep them out",
            "give every tenant an ACL user with its prefix as the only key pattern, and name it in the catalogue",
        )
        return
    _, user = store.fencing(tenant).read()
    wanted = f"~{store.keyspace(tenant).prefix.decode()}*"
    if not user.ours:
        what = (
            "does not exist" if user is AppUser.MISSING else "has other key patterns than the tenant's prefix"
        )
        yield _finding(
            Severity.WARNING,
            "fence_cooperates",
            store.where,
            f"the ACL user {user_name} {what}: the server does not refuse a fenced tenant's writes",
            f"ACL SETUSER {user_name} resetkeys {wanted}",
        )
        return
    yield from _ways_around(tenant, store, user_name)
    if not str(store.client.config_get("aclfile").get("aclfile", "")):
        yield _finding(
            Severity.WARNING,
            "fence_not_durable",
            store.where,
            "the server has no aclfile: after a restart it would accept a fenced tenant's writes again",
            "configure `aclfile`",
        )


def _ways_around(tenant: TenantId, store: RedisStore, user_name: str) -> Iterator[Finding]:
    pipe = store.client.pipeline(transaction=False)
    for command in _AROUND_THE_FENCE:
        pipe.execute_command("ACL", "DRYRUN", user_name, *command)
    answers = pipe.execute(raise_on_error=False)
    allowed = [" ".join(c[:2]) for c, a in zip(_AROUND_THE_FENCE, answers, strict=True) if a == b"OK"]
    if allowed:
        yield _finding(
            Severity.WARNING,
            "fence_has_ways_around",
            store.where,
            f"the ACL user {user_name} may run {', '.join(allowed)}, which no key pattern stops",
            f"ACL SETUSER {user_name} -@admin -@dangerous",
        )
    own = store.client.execute_command("ACL", "WHOAMI")
    others = [u for u in store.client.execute_command("ACL", "USERS") if u not in (own, user_name.encode())]
    probe = store.keyspace(tenant).prefix + b"probe"
    pipe = store.client.pipeline(transaction=False)
    for other in others:
        pipe.execute_command("ACL", "DRYRUN", other, "SET", probe, "x")
    writers = [
        o.decode() for o, a in zip(others, pipe.execute(raise_on_error=False), strict=True) if a == b"OK"
    ]
    if writers:
        shown = ", ".join(sorted(writers)[:5]) + (f" and {len(writers) - 5} more" if len(writers) > 5 else "")
        yield _finding(
            Severity.WARNING,
            "fence_other_writers",
            store.where,
            f"other ACL users may write the tenant's keys too: {shown}",
            "take the tenants' prefixes from their key patterns, or make sure that nothing uses them",
        )


def _pair(tenant: TenantId, source: RedisStore, target: RedisStore) -> Iterator[Finding]:
    keyspace = source.keyspace(tenant)
    where = f"{source.where}, {target.where}"
    if source.client.info("server").get("run_id") == target.client.info("server").get("run_id"):
        yield _finding(
            Severity.REFUSAL,
            "redis_same_server",
            where,
            "both cells use one server",
            "use one server per cell",
        )
        return
    skew_ms = abs(_clock_ms(source.client) - _clock_ms(target.client))
    if skew_ms > SKEW_MS:
        yield _finding(
            Severity.WARNING,
            "clock_skew",
            where,
            f"the servers' clocks differ by {skew_ms:.0f} ms: keys expire that much earlier or later after the switch",
            "let both hosts follow the same NTP servers",
        )
    record, _ = target.fencing(tenant).read()
    if not record.link and next(keyspace.scan(target.client), None) is not None:
        yield _finding(
            Severity.REFUSAL,
            "target_not_empty",
            target.where,
            f"the target already holds keys of {tenant}, and no link that explains them",
            "erase the tenant there if that is residue",
        )
    sample = next(keyspace.scan(source.client), [])[:50]
    if sample and (refusal := _restorable(source, target, sample)) is not None:
        yield _finding(
            Severity.REFUSAL,
            "redis_format",
            where,
            f"the target cannot read what the source serialises: {refusal}",
            "upgrade the target to the source's version",
        )


def _clock_ms(client: Any) -> float:
    seconds, microseconds = client.time()
    return int(seconds) * 1000 + int(microseconds) / 1000


def _restorable(source: RedisStore, target: RedisStore, keys: Sequence[bytes]) -> str | None:
    """Why the target refuses a payload of the source, or None. RESTORE with a time long past checks the payload in full
    and creates nothing."""
    for item in dump(source.client, keys):
        if item.payload is not None:
            try:
                target.client.execute_command("RESTORE", _PROBE, 1, item.payload, "ABSTTL")
            except redis.ResponseError as error:
                return str(error)
    return None
