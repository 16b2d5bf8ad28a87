"""Moves keys between two servers as the servers serialise them (DUMP and RESTORE). Every write checks, in the same
script, that the target is still fenced and that this process is still the one that copies into it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis

from tenure.stores.redis.canonical import NO_EXPIRY
from tenure.stores.redis.errors import REPLY_OPEN, REPLY_SUPERSEDED, REPLY_TOKEN
from tenure.stores.redis.keyspace import Keyspace
from tenure.stores.redis.nodes import Nodes

PORTION_BYTES: Final = 8 * 1024 * 1024
"""About how much is read at once; a single larger value still goes in one piece."""
SMALL_BATCH: Final = 8
TURN_BYTES: Final = 256 * 1024
"""About how much one script reads: others wait for as long as that takes the server."""
ABSENT: Final = -2

GUARD: Final = f"""
local r = redis.call('HMGET', KEYS[1], 'writable', 'copier', 'token')
if r[1] ~= '0' then return redis.error_reply('{REPLY_OPEN} not fenced') end
if ARGV[1] ~= '' and r[2] ~= ARGV[1] then return redis.error_reply('{REPLY_SUPERSEDED} superseded') end
if ARGV[2] ~= '' and tonumber(r[3] or '0') > tonumber(ARGV[2]) then return redis.error_reply('{REPLY_TOKEN} older') end
"""
RESTORE: Final = (
    GUARD
    + """
local changed = 0
for i = 3, #ARGV, 3 do
  if ARGV[i + 2] == '' then
    changed = changed + redis.call('UNLINK', ARGV[i])
  else
    redis.call('RESTORE', ARGV[i], ARGV[i + 1], ARGV[i + 2], 'REPLACE', 'ABSTTL')
    changed = changed + 1
  end
end
return changed
"""
)
"""The tenant's keys are arguments: a script may declare keys of one slot only, and use all that its server owns."""
SIZES: Final = """
local found = {}
for i = 1, #ARGV do found[i] = redis.call('MEMORY', 'USAGE', ARGV[i], 'SAMPLES', '1') or 0 end
return found
"""
READ: Final = """
local found, size, most = {}, 0, tonumber(ARGV[1])
for i = 2, #ARGV do
  local payload = redis.call('DUMP', ARGV[i])
  found[2 * i - 3], found[2 * i - 2] = payload, redis.call('PEXPIRETIME', ARGV[i])
  size = size + (payload and #payload or 0)
  if size >= most then break end
end
return found
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dumped:
    """A key as its server serialises it: `payload` None where it does not exist, `expires_at` in Unix milliseconds."""

    key: bytes
    payload: bytes | None
    expires_at: int

    def same(self, other: Dumped) -> bool:
        """Byte for byte the same contents (whatever the servers' versions) and the same expiry."""
        if self.payload is None or other.payload is None:
            return self.payload is other.payload
        # The last ten bytes are the format's version and a checksum.
        return self.expires_at == other.expires_at and self.payload[:-10] == other.payload[:-10]


def portions(nodes: Nodes, keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Split keys so that reading one portion needs about `PORTION_BYTES`."""
    if len(keys) <= SMALL_BATCH:
        yield keys
        return
    portion: list[bytes] = []
    size = 0
    for key, used in zip(keys, nodes.gather(_sizes, keys), strict=True):
        size += used
        portion.append(key)
        if size >= PORTION_BYTES:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def _sizes(client: Any, keys: Sequence[bytes]) -> list[int]:
    return [int(used) for used in _told(client, SIZES, keys)]


def dump(client: Any, keys: Sequence[bytes]) -> list[Dumped]:
    """These keys' contents and expiries, in one round trip, or in one per `TURN_BYTES`."""
    found: list[Dumped] = []
    while len(found) < len(keys):
        asked = keys[len(found) :]
        answers = _told(client, READ, asked, TURN_BYTES)
        found += (
            Dumped(key=key, payload=None if expires_at == ABSENT else payload, expires_at=int(expires_at))
            for key, payload, expires_at in zip(asked, answers[::2], answers[1::2], strict=False)
        )
    return found


def _told(client: Any, script: str, keys: Sequence[bytes], *arguments: int) -> list[Any]:
    """What a script says of these keys. Packing and parsing one command instead of hundreds is most of the work."""
    try:
        answer = client.evalsha(_sha(script), 0, *arguments, *keys)
    except redis.exceptions.NoScriptError:
        answer = client.eval(script, 0, *arguments, *keys)
    return list(answer)


@functools.cache
def _sha(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def exist(client: Any, keys: Sequence[bytes]) -> list[bool]:
    """Which of these keys there are."""
    pipe = client.pipeline(transaction=False)
    for key in keys:
        pipe.exists(key)
    return [bool(there) for there in pipe.execute()]


class Writer:
    """Writes into one tenant's keys on a fenced target. `copier` None: any process that holds the fence."""

    def __init__(self, nodes: Nodes, keyspace: Keyspace) -> None:
        self._nodes = nodes
        self._keys = keyspace
        self._script: Any = nodes.seed.register_script(RESTORE)

    def restore(self, dumped: Sequence[Dumped], *, copier: str = "", token: int | None = None) -> int:
        """Make these keys as dumped; absent ones are deleted. Returns how many were written or deleted."""
        changed = 0
        for node, portion in self._nodes.current().by_master(dumped, lambda item: item.key):
            arguments: list[Any] = [copier, "" if token is None else token]
            for item in portion:
                expires_at = 0 if item.expires_at == NO_EXPIRY else max(item.expires_at, 1)
                arguments += [item.key, expires_at, item.payload or b""]
            changed += int(
                self._script(keys=[self._keys.record(node.tag)], args=arguments, client=node.client)
            )
        return changed

    def delete(self, keys: Sequence[bytes], *, token: int) -> int:
        return self.restore([Dumped(key=k, payload=None, expires_at=ABSENT) for k in keys], token=token)
