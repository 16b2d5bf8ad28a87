"""What stands in the way of a move between two servers, or should be known before it. Changes nothing on either."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import redis

from tenure.errors import StoreUnavailable
from tenure.model.finding import Finding, Severity
from tenure.model.names import TenantId
from tenure.stores.redis.canonical import TYPES, types
from tenure.stores.redis.fencing import AppUser
from tenure.stores.redis.keyspace import RESERVED, Keyspace
from tenure.stores.redis.nodes import SEGMENTS, SLOTS, Node, Topology
from tenure.stores.redis.store import RedisStore
from tenure.stores.redis.transfer import dump

SKEW_MS: Final = 50
TOO_OLD: Final = "redis_too_old"
_SHUT_OUT: Final = frozenset(
    {TOO_OLD, "redis_cluster_in_pieces", "redis_cluster_layout", "redis_cluster_resharding"}
)
"""Where one of these is found, two servers cannot be looked at together."""
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
        with store.translated():
            found += _cluster(store)
    for store in (source, target) if not found else ():
        with store.translated():
            for node in store.nodes.current().nodes:
                found += _server(store, node)
                found += _fence(tenant, store, node)
    if not any(finding.code in _SHUT_OUT for finding in found):
        with target.translated():
            found += _pair(tenant, source, target)
    return sorted(found)


def _finding(severity: Severity, code: str, where: str, message: str, fix: str) -> Finding:
    return Finding(severity=severity, code=code, where=where, message=message, fix=fix)


def _name(store: RedisStore, node: Node) -> str:
    return f"{store.where} ({node.name})" if store.nodes.current().clustered else store.where


def _cluster(store: RedisStore) -> Iterator[Finding]:
    """What keeps a cluster from being moved from or to. Where it is in pieces, nothing else can be told."""
    try:
        topology = store.nodes.agreed()
    except StoreUnavailable as error:
        yield _finding(
            Severity.REFUSAL, "redis_cluster_in_pieces", store.where, error.message, error.hint or "repair it"
        )
        return
    for name in topology.failed:
        yield _finding(
            Severity.REFUSAL,
            "redis_cluster_in_pieces",
            store.where,
            f"{name} is down: its ACL user cannot be fenced, and would be open when it comes back",
            "bring it back, or make the cluster forget it (CLUSTER FORGET) if it is gone for good",
        )
    for node in topology.masters if topology.clustered else ():
        if not node.tags:
            yield _finding(
                Severity.REFUSAL,
                "redis_cluster_layout",
                f"{store.where} ({node.name})",
                "the master owns so few slots that Tenure's records find no place on it",
                f"give every master {SLOTS // SEGMENTS} slots that follow one another, or none",
            )
        if moving := _moving_slots(node):
            yield _finding(
                Severity.REFUSAL,
                "redis_cluster_resharding",
                f"{store.where} ({node.name})",
                f"{moving} slots are being moved to or from this master",
                "wait until the resharding is over (CLUSTER SETSLOT ... NODE ends one that was broken off)",
            )


def _moving_slots(node: Node) -> int:
    lines: bytes = node.client.execute_command("CLUSTER", "NODES")
    text = lines if isinstance(lines, bytes) else b"\n".join(lines)
    return sum(line.count(b"[") for line in text.splitlines() if b"myself" in line)


def _server(store: RedisStore, node: Node) -> Iterator[Finding]:
    topology = store.nodes.current()
    info: dict[str, Any] = node.client.info("everything")
    version = tuple(int(part) for part in str(info.get("redis_version", "0")).split(".")[:2])
    if version < (7, 0):
        yield _finding(
            Severity.REFUSAL,
            TOO_OLD,
            _name(store, node),
            f"the server speaks the commands of version {info.get('redis_version')}; absolute expiry times need 7.0",
            "upgrade the server to Redis 7 or Valkey",
        )
    if info.get("role") not in (None, "master") and not topology.clustered:
        yield _finding(
            Severity.REFUSAL,
            "redis_replica",
            _name(store, node),
            "the server is a replica",
            "give the URL of its primary",
        )
    policy, limit = str(info.get("maxmemory_policy", "noeviction")), int(info.get("maxmemory", 0))
    if limit and policy != "noeviction":
        yield _finding(
            Severity.WARNING,
            "redis_evicts",
            _name(store, node),
            f"the server evicts keys when it holds {limit} bytes ({policy}): each cell may lack what it has evicted",
            "set maxmemory-policy to noeviction, or accept that this data is a cache",
        )
    if int(info.get("connected_slaves", 0)) and not topology.clustered:
        yield _finding(
            Severity.WARNING,
            "fence_not_on_replicas",
            _name(store, node),
            "the server has replicas, which keep ACL users of their own: one that is promoted while the tenant is "
            "fenced accepts its writes",
            "fail over between moves only, and end a soak before a planned failover",
        )


def _fence(tenant: TenantId, store: RedisStore, node: Node) -> Iterator[Finding]:
    user_name = store.acl_user(tenant)
    if user_name is None:
        yield _finding(
            Severity.WARNING,
            "fence_cooperates",
            _name(store, node),
            "the catalogue names no ACL user per tenant: the server does not refuse a fenced tenant's writes, "
            "only the gate and tenure.client keep them out",
            "give every tenant an ACL user with its prefix as the only key pattern, and name it in the catalogue",
        )
        return
    user = store.fencing(tenant).app_user(node)
    wanted = f"~{store.keyspace(tenant).prefix.decode()}*"
    if not user.ours:
        what = (
            "does not exist" if user is AppUser.MISSING else "has other key patterns than the tenant's prefix"
        )
        yield _finding(
            Severity.WARNING,
            "fence_cooperates",
            _name(store, node),
            f"the ACL user {user_name} {what}: the server does not refuse a fenced tenant's writes",
            f"ACL SETUSER {user_name} resetkeys {wanted}",
        )
        return
    yield from _ways_around(tenant, store, node, user_name)
    if not str(node.client.config_get("aclfile").get("aclfile", "")):
        yield _finding(
            Severity.WARNING,
            "fence_not_durable",
            _name(store, node),
            "the server has no aclfile: after a restart it would accept a fenced tenant's writes again",
            "configure `aclfile`",
        )


def _ways_around(tenant: TenantId, store: RedisStore, node: Node, user_name: str) -> Iterator[Finding]:
    pipe = node.client.pipeline(transaction=False)
    for command in _AROUND_THE_FENCE:
        pipe.execute_command("ACL", "DRYRUN", user_name, *command)
    answers = pipe.execute(raise_on_error=False)
    allowed = [" ".join(c[:2]) for c, a in zip(_AROUND_THE_FENCE, answers, strict=True) if a == b"OK"]
    if allowed:
        yield _finding(
            Severity.WARNING,
            "fence_has_ways_around",
            _name(store, node),
            f"the ACL user {user_name} may run {', '.join(allowed)}, which no key pattern stops",
            f"ACL SETUSER {user_name} -@admin -@dangerous",
        )
    own = node.client.execute_command("ACL", "WHOAMI")
    others = [u for u in node.client.execute_command("ACL", "USERS") if u not in (own, user_name.encode())]
    probe = store.keyspace(tenant).prefix + b"probe"
    pipe = node.client.pipeline(transaction=False)
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
            _name(store, node),
            f"other ACL users may write the tenant's keys too: {shown}",
            "take the tenants' prefixes from their key patterns, or make sure that nothing uses them",
        )


def _pair(tenant: TenantId, source: RedisStore, target: RedisStore) -> Iterator[Finding]:
    keyspace = source.keyspace(tenant)
    where = f"{source.where}, {target.where}"
    ours, theirs = source.nodes.current(), target.nodes.current()
    if _run_ids(ours) & _run_ids(theirs):
        yield _finding(
            Severity.REFUSAL,
            "redis_same_server",
            where,
            "both cells use one server",
            "use one server per cell",
        )
        return
    skew_ms = max(
        abs(_clock_ms(one.client) - _clock_ms(other.client))
        for one in ours.masters
        for other in theirs.masters
    )
    if skew_ms > SKEW_MS:
        yield _finding(
            Severity.WARNING,
            "clock_skew",
            where,
            f"the servers' clocks differ by {skew_ms:.0f} ms: keys expire that much earlier or later after the switch",
            "let both hosts follow the same NTP servers",
        )
    if theirs.clustered and not ours.clustered:
        yield _finding(
            Severity.WARNING,
            "redis_becomes_cluster",
            where,
            "the source is one server and the target a cluster: there, commands, transactions and scripts over several "
            "keys are refused unless the keys share a hash tag",
            "make sure that the app runs on a cluster",
        )
    if missing := sorted(_libraries(ours) - _libraries(theirs)):
        yield _finding(
            Severity.WARNING,
            "redis_functions",
            where,
            f"the target lacks the source's function libraries {', '.join(missing)}: they belong to no tenant and do "
            "not travel",
            "load them (FUNCTION LOAD) if the app calls them",
        )
    if not target.fencing(tenant).read().record.link and next(keyspace.scan(target.nodes), None) is not None:
        yield _finding(
            Severity.REFUSAL,
            "target_not_empty",
            target.where,
            f"the target already holds keys of {tenant}, and no link that explains them",
            "erase the tenant there if that is residue",
        )
    yield from _foreign_types(keyspace, source)
    sample = next(keyspace.scan(source.nodes), [])[:50]
    if sample and (refusal := _restorable(source, target, sample)) is not None:
        yield _finding(
            Severity.REFUSAL,
            "redis_format",
            where,
            f"the target cannot read what the source serialises: {refusal}",
            "upgrade the target to the source's version",
        )


def _run_ids(topology: Topology) -> set[str]:
    return {str(node.client.info("server").get("run_id")) for node in topology.masters}


def _libraries(topology: Topology) -> set[str]:
    """The function libraries that every master has."""
    named = [
        {_field(library, b"library_name") for library in node.client.execute_command("FUNCTION", "LIST")}
        for node in topology.masters
    ]
    return set.intersection(*named)


def _field(answer: Any, name: bytes) -> str:
    fields = answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))
    return bytes(fields[name]).decode()


def _foreign_types(keyspace: Keyspace, source: RedisStore) -> Iterator[Finding]:
    """Keys of types that only a module knows. All keys are looked at, where the server has modules at all."""
    if not any(node.client.execute_command("MODULE", "LIST") for node in source.nodes.current().masters):
        return
    found: dict[str, bytes] = {}
    for keys in keyspace.scan(source.nodes):
        for key, kind in zip(keys, source.nodes.gather(types, keys), strict=True):
            if kind not in TYPES:
                found.setdefault(kind, key)
    for kind, key in found.items():
        yield _finding(
            Severity.REFUSAL,
            "redis_module_type",
            source.where,
            f"keys such as {keyspace.text(key)} are of the type {kind!r}, which belongs to a module",
            "what a module keeps cannot be compared: move it by the module's own means, and delete these keys",
        )


def _clock_ms(client: Any) -> float:
    seconds, microseconds = client.time()
    return int(seconds) * 1000 + int(microseconds) / 1000


def _restorable(source: RedisStore, target: RedisStore, keys: Sequence[bytes]) -> str | None:
    """Why the target refuses a payload of the source, or None. RESTORE with a time long past checks the payload in full
    and creates nothing."""
    for item in source.nodes.gather(dump, keys):
        for node in target.nodes.current().masters if item.payload is not None else ():
            probe = RESERVED + b"probe:" + node.tag
            try:
                node.client.execute_command("RESTORE", probe, 1, item.payload, "ABSTTL")
            except redis.ResponseError as error:
                return str(error)
    return None
