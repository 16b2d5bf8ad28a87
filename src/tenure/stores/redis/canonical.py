"""Digests of values that are equal for equal contents on any server: by type, without the order that hashes and sets
have by accident, and without what only describes the server (encodings, idle times)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

_MASK: Final = (1 << 128) - 1
NO_EXPIRY: Final = -1
TYPES: Final = frozenset({"none", "string", "list", "hash", "set", "zset", "stream"})
"""What the server itself keeps. Bitmaps and HyperLogLogs are strings, geo sets are sorted sets."""
_VOLATILE: Final = frozenset(
    {b"seen-time", b"active-time", b"idle", b"inactive", b"radix-tree-keys", b"radix-tree-nodes"}
)


@dataclass(frozen=True, kw_only=True)
class Value:
    """One key's value: a digest of 128 bits, and when it expires (Unix milliseconds, -1: never)."""

    digest: bytes
    expires_at: int
    size_bytes: int = 0


def fingerprint(parts: Iterable[bytes]) -> bytes:
    """A digest of a sequence; lengths go in, so that no two sequences run together."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()


def unordered(digests: Iterable[bytes]) -> bytes:
    """A digest of a bag: the sum of its members' digests modulo 2**128, with their number."""
    total = count = 0
    for digest in digests:
        total = (total + int.from_bytes(digest, "little")) & _MASK
        count += 1
    return fingerprint([total.to_bytes(16, "little"), str(count).encode()])


@dataclass(frozen=True, kw_only=True)
class Read:
    """One key's value as the driver gives it: `body` as GET, LRANGE, HGETALL, SMEMBERS, ZRANGE with scores or XRANGE
    do, or DUMP for types that Tenure does not know. `field_expiries`: of a hash, where there are any."""

    kind: bytes
    body: Any
    value: Value
    field_expiries: tuple[tuple[bytes, int], ...] = ()


def values(client: Any, keys: Sequence[bytes]) -> list[Value | None]:
    """The values of these keys, None for a key that does not exist. Three pipelined round trips."""
    return [None if found is None else found.value for found in read(client, keys)]


def read(client: Any, keys: Sequence[bytes]) -> list[Read | None]:
    """As `values`, with what they hold."""
    head = client.pipeline(transaction=False)
    for key in keys:
        head.execute_command("TYPE", key)
        head.execute_command("PEXPIRETIME", key)
        head.execute_command("MEMORY USAGE", key, "SAMPLES", "1")
    heads = head.execute()
    kinds = [bytes(kind) if isinstance(kind, bytes) else str(kind).encode() for kind in heads[::3]]
    body = client.pipeline(transaction=False)
    for key, kind in zip(keys, kinds, strict=True):
        _ask(body, kind, key)
    bodies = body.execute(raise_on_error=False)
    extras = _extras(client, keys, kinds, bodies)
    found: list[Read | None] = []
    for n, kind in enumerate(kinds):
        expires_at = int(heads[3 * n + 1])
        if kind == b"none" or expires_at == -2 or bodies[n] is None:
            found.append(None)
        elif isinstance(bodies[n], Exception):
            raise bodies[n]
        else:
            digest = fingerprint([kind, _digest(kind, bodies[n]), extras[n][0]])
            value = Value(digest=digest, expires_at=expires_at, size_bytes=int(heads[3 * n + 2] or 0))
            found.append(Read(kind=kind, body=bodies[n], value=value, field_expiries=extras[n][1]))
    return found


def types(client: Any, keys: Sequence[bytes]) -> list[str]:
    """The types of these keys' values; "none" for a key that does not exist."""
    pipe = client.pipeline(transaction=False)
    for key in keys:
        pipe.execute_command("TYPE", key)
    return [kind.decode() if isinstance(kind, bytes) else str(kind) for kind in pipe.execute()]


def _ask(pipe: Any, kind: bytes, key: bytes) -> None:
    match kind:
        case b"string":
            pipe.execute_command("GET", key)
        case b"list":
            pipe.execute_command("LRANGE", key, 0, -1)
        case b"hash":
            pipe.hgetall(key)
        case b"set":
            pipe.smembers(key)
        case b"zset":
            pipe.zrange(key, 0, -1, withscores=True)
        case b"stream":
            pipe.execute_command("XRANGE", key, "-", "+")
        case _:
            pipe.execute_command("DUMP", key)


def _digest(kind: bytes, body: Any) -> bytes:
    match kind:
        case b"string":
            return fingerprint([body])
        case b"list":
            return fingerprint(body)
        case b"hash":
            return unordered(fingerprint(pair) for pair in body.items())
        case b"set":
            return unordered(fingerprint([member]) for member in body)
        case b"zset":
            return unordered(fingerprint([member, float(score).hex().encode()]) for member, score in body)
        case b"stream":
            return fingerprint(fingerprint([entry, *(fields or {})]) for entry, fields in map(_entry, body))
        case _:
            return fingerprint([body[:-10]])


def _entry(entry: Any) -> tuple[bytes, list[bytes]]:
    identifier, fields = entry
    if isinstance(fields, dict):
        return identifier, [part for pair in fields.items() for part in pair]
    return identifier, list(fields or [])


def _extras(
    client: Any, keys: Sequence[bytes], kinds: Sequence[bytes], bodies: Sequence[Any]
) -> list[tuple[bytes, tuple[tuple[bytes, int], ...]]]:
    """What a value has beside its contents: expiries of hash fields, groups and counters of streams; as a digest, and
    the expiries themselves."""
    pipe = client.pipeline(transaction=False)
    asked: list[int] = []
    for n, (key, kind) in enumerate(zip(keys, kinds, strict=True)):
        if kind == b"hash" and isinstance(bodies[n], dict) and bodies[n]:
            fields = sorted(bodies[n])
            pipe.execute_command("HPEXPIRETIME", key, "FIELDS", len(fields), *fields)
            asked.append(n)
        elif kind == b"stream":
            pipe.execute_command("XINFO", "STREAM", key, "FULL", "COUNT", 0)
            asked.append(n)
    extras: list[tuple[bytes, tuple[tuple[bytes, int], ...]]] = [(b"", ())] * len(keys)
    for n, answer in zip(asked, pipe.execute(raise_on_error=False) if asked else [], strict=True):
        if isinstance(answer, Exception):
            # Servers before 7.4 (Redis) and 9 (Valkey) have no expiry of hash fields.
            continue
        if kinds[n] == b"hash":
            times = [int(t) for t in answer or []]
            if any(t != NO_EXPIRY for t in times):
                fields = [pair for pair in zip(sorted(bodies[n]), times, strict=True) if pair[1] != NO_EXPIRY]
                extras[n] = fingerprint(str(t).encode() for t in times), tuple(fields)
        else:
            extras[n] = fingerprint([repr(_stable(answer)).encode()]), ()
    return extras


def _stable(value: Any) -> Any:
    """An XINFO answer without times that go on by themselves, in one shape for both protocols."""
    if isinstance(value, dict):
        return [(k, _stable(v)) for k, v in sorted(value.items()) if k not in _VOLATILE and k != b"entries"]
    if isinstance(value, list):
        if (
            len(value) % 2 == 0
            and value
            and all(isinstance(k, bytes) for k in value[::2])
            and b"name" in value[::2]
        ):
            return _stable(dict(zip(value[::2], value[1::2], strict=True)))
        if value and value[0] == b"length":
            return _stable(dict(zip(value[::2], value[1::2], strict=True)))
        return [_stable(v) for v in value]
    return value
