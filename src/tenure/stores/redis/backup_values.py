"""Keys as they are kept in a backup, and the commands that make them again on any server.

A record's key is what follows the tenant's prefix. Its head has the `type`, the `digest` that tells its value from any
other one (`canonical`), and `expires_at` (Unix milliseconds) if it expires. Bodies are elements, each after 4 bytes
with its length, little-endian; by type:

    string   the value itself, and nothing else
    list     its elements, from the left
    set      its members, sorted
    hash     field and value in turn, sorted by field; the head's `fields_expire` names, by their places in that order,
             when fields expire
    zset     member and score in turn, in their order; the score as a shortest decimal that gives the same number
    stream   the value as the server's DUMP has it, then of each entry: its id, how many fields it has (in decimal
             digits), and names and values in turn. The entries are for reading; groups are in the DUMP alone
    other    a type of a module: the server's DUMP

A DUMP can be loaded by a server that knows its format; `rdb` in the head is the version of that.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tenure.stores.redis import canonical
from tenure.stores.redis.canonical import NO_EXPIRY, Read

FORM: Final = "redis-keys/1"
ARGUMENTS: Final = 500
"""How many elements one command takes."""
PIECE_BYTES: Final = 1024 * 1024
"""How much of a long string one command takes."""
_LENGTH: Final = 4


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A key as it goes into a backup."""

    key: bytes
    head: Mapping[str, Any]
    body: bytes
    expires_at: int
    digest: bytes
    size_bytes: int


def kept(client: Any, keys: Sequence[bytes]) -> list[Kept | None]:
    """These keys of one server; None for a key that does not exist."""
    found = canonical.read(client, keys)
    dumped = [n for n, one in enumerate(found) if one is not None and one.kind == b"stream"]
    payloads: dict[int, bytes] = {}
    if dumped:
        pipe = client.pipeline(transaction=False)
        for n in dumped:
            pipe.execute_command("DUMP", keys[n])
        payloads = dict(zip(dumped, pipe.execute(), strict=True))
    return [
        None if one is None or payloads.get(n, b"") is None else _kept(key, one, payloads.get(n, b""))
        for n, (key, one) in enumerate(zip(keys, found, strict=True))
    ]


def _kept(key: bytes, found: Read, dump: bytes) -> Kept:
    kind = found.kind.decode()
    head: dict[str, Any] = {
        "type": kind if kind in canonical.TYPES else "other",
        "digest": base64.b85encode(found.value.digest).decode(),
    }
    if found.value.expires_at != NO_EXPIRY:
        head["expires_at"] = found.value.expires_at
    if found.field_expiries:
        places = {name: n for n, name in enumerate(sorted(found.body))}
        head["fields_expire"] = [[places[name], at] for name, at in found.field_expiries]
    payload = dump if kind == "stream" else found.body if head["type"] == "other" else b""
    if payload:
        head["rdb"] = rdb_version(payload)
    return Kept(
        key=key,
        head=head,
        body=_body(kind, found.body, dump),
        expires_at=found.value.expires_at,
        digest=found.value.digest,
        size_bytes=found.value.size_bytes,
    )


def rdb_version(payload: bytes) -> int:
    """Of a DUMP: two bytes before the checksum of eight."""
    return int.from_bytes(payload[-10:-8], "little")


def _body(kind: str, body: Any, dump: bytes) -> bytes:
    match kind:
        case "list":
            return _packed(body)
        case "set":
            return _packed(sorted(body))
        case "hash":
            return _packed(part for pair in sorted(body.items()) for part in pair)
        case "zset":
            return _packed(part for member, score in body for part in (member, repr(float(score)).encode()))
        case "stream":
            return _packed([dump, *(part for entry in body for part in _entry(entry))])
    return bytes(body)


def _entry(entry: Any) -> Iterator[bytes]:
    identifier, fields = entry
    parts = (
        [part for pair in fields.items() for part in pair] if isinstance(fields, dict) else list(fields or ())
    )
    yield identifier
    yield str(len(parts) // 2).encode()
    yield from parts


def _packed(elements: Iterable[bytes]) -> bytes:
    return b"".join(part for e in elements for part in (len(e).to_bytes(_LENGTH, "little"), e))


def _elements(body: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(body):
        length = int.from_bytes(body[at : at + _LENGTH], "little")
        yield body[at + _LENGTH : at + _LENGTH + length]
        at += _LENGTH + length


Command = list[bytes | int | str]


def commands(key: bytes, head: Mapping[str, Any], body: bytes) -> Iterator[Command]:
    """What makes the key anew, whatever was there. The first command removes it."""
    expires_at = int(head.get("expires_at", NO_EXPIRY))
    if "rdb" in head:
        payload = next(_elements(body)) if head["type"] == "stream" else body
        yield ["RESTORE", key, max(expires_at, 0), payload, "REPLACE", "ABSTTL"]
        return
    yield ["UNLINK", key]
    kind, elements = head["type"], list(_elements(body)) if head["type"] != "string" else []
    if kind == "string":
        yield ["SET", key, body[:PIECE_BYTES]]
        for n in range(PIECE_BYTES, len(body), PIECE_BYTES):
            yield ["APPEND", key, body[n : n + PIECE_BYTES]]
    elif kind == "zset":
        scored = [e for n in range(0, len(elements), 2) for e in (elements[n + 1], elements[n])]
        yield from _spread("ZADD", key, scored)
    else:
        yield from _spread({"list": "RPUSH", "set": "SADD", "hash": "HSET"}[kind], key, elements)
    for place, at in head.get("fields_expire", ()):
        yield ["HPEXPIREAT", key, at, "FIELDS", 1, elements[2 * place]]
    if expires_at != NO_EXPIRY:
        yield ["PEXPIREAT", key, expires_at]


def _spread(name: str, key: bytes, elements: Sequence[bytes]) -> Iterator[Command]:
    """One command, or several, so that none has too many arguments or bytes."""
    part: Command = []
    size = 0
    for n, element in enumerate(elements):
        part.append(element)
        size += len(element)
        if n % 2 and (len(part) >= ARGUMENTS or size >= PIECE_BYTES):
            yield [name, key, *part]
            part, size = [], 0
    if part:
        yield [name, key, *part]


def digest_of(head: Mapping[str, Any]) -> bytes:
    """The digest of the value, as `canonical.Value` has it."""
    return base64.b85decode(head["digest"])
