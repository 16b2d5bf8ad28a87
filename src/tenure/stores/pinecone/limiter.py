"""Tenure's own rate limit towards Pinecone: one token bucket per operation, shared by all processes through Redis.

Without Redis, or while it is away, each process keeps to a share of the rate by itself, and says so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import redis

from tenure.model.secret import Secret

log = logging.getLogger("tenure.pinecone")

TIMEOUT_S: Final = 1.0
RETRY_REDIS_S: Final = 5.0
"""How long a Redis that did not answer is left alone."""
BURST_S: Final = 0.25
"""How much of a second's rate may be used at once."""
MOST_WAIT_S: Final = 5.0
"""Who would have to wait longer asks again after this time, and takes no tokens yet."""

# The bucket may go into debt: whoever takes what is not there yet waits until it is, so turns are kept.
SCRIPT: Final = """
local rate, burst, amount, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6
local held = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at = tonumber(held[1]) or burst, tonumber(held[2]) or now
tokens = math.min(burst, tokens + math.max(0, now - at) * rate)
local wait = math.max(0, math.min(amount, burst) - tokens) / rate
if most > 0 and wait > most then
  return tostring(-most)
end
local left = most > 0 and tokens - amount or math.min(tokens, -amount)
redis.call('HSET', KEYS[1], 'tokens', tostring(left), 'at', tostring(now))
redis.call('PEXPIRE', KEYS[1], math.ceil(1000 * ((burst - math.min(left, 0)) / rate + 60)))
return tostring(wait)
"""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How much Tenure may ask for a second: requests per index or namespace, and bytes of upserts."""

    per_second: Mapping[str, float]

    def of(self, operation: str) -> float | None:
        """None: not limited."""
        return self.per_second.get(operation)


class Buckets(Protocol):
    """Where the tokens are."""

    def take(self, key: str, rate: float, amount: float, *, most_s: float) -> float:
        """Take them, and return how long to wait before using them; below 0: nothing was taken, ask again after so
        many seconds. `most_s` 0 is a pause: the debt is at least `amount` then, however many ask for one. Raises
        `OSError` where the buckets are out of reach."""

    def close(self) -> None: ...


class RedisBuckets:
    """Buckets that all processes share, by the clock of the Redis. Thread-safe."""

    def __init__(self, url: Secret) -> None:
        self._client: Any = redis.Redis.from_url(
            url.reveal(), socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, decode_responses=True
        )
        self._script = self._client.register_script(SCRIPT)

    def take(self, key: str, rate: float, amount: float, *, most_s: float) -> float:
        try:
            return float(self._script(keys=[key], args=[rate, max(1.0, rate * BURST_S), amount, most_s]))
        except redis.RedisError as error:
            raise OSError(str(error)) from error

    def close(self) -> None:
        self._client.close()


class OwnBuckets:
    """Buckets of this process alone. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, tuple[float, float]] = {}

    def take(self, key: str, rate: float, amount: float, *, most_s: float) -> float:
        burst = max(1.0, rate * BURST_S)
        with self._lock:
            now = time.monotonic()
            tokens, at = self._held.get(key, (burst, now))
            tokens = min(burst, tokens + (now - at) * rate)
            wait = max(0.0, min(amount, burst) - tokens) / rate
            if 0 < most_s < wait:
                return -most_s
            self._held[key] = (tokens - amount if most_s > 0 else min(tokens, -amount), now)
            return wait


class Limiter:
    """Waits its turn before each request, of this process and of all others that use the same `shared` buckets.

    While Redis is out of reach, or where there is none, the process takes `alone` of each rate. Thread-safe.
    """

    def __init__(self, rates: Rates, *, shared: Buckets | None, alone: float) -> None:
        self._rates = rates
        self._shared = shared
        self._alone = alone
        self._own = OwnBuckets()
        self._lock = threading.Lock()
        self._away_until = 0.0
        self._away = False

    @property
    def alone(self) -> bool:
        """Whether this process limits itself without knowing of the others."""
        return self._shared is None or self._away

    def wait(self, operation: str, scope: str, amount: float = 1) -> None:
        """Return when so much may be asked for. `scope` names the index, and the namespace where that is counted."""
        rate = self._rates.of(operation)
        if rate is None:
            return
        while True:
            delay = self._take(f"tenure:pinecone:{operation}:{scope}", rate, amount, most_s=MOST_WAIT_S)
            if delay:
                time.sleep(abs(delay))
            if delay >= 0:
                return

    def penalise(self, operation: str, scope: str, seconds: float) -> None:
        """The service has asked for a pause: nobody asks for this for so long."""
        rate = self._rates.of(operation)
        if rate is not None:
            self._take(f"tenure:pinecone:{operation}:{scope}", rate, rate * seconds, most_s=0)

    def close(self) -> None:
        if self._shared is not None:
            self._shared.close()

    def _take(self, key: str, rate: float, amount: float, *, most_s: float) -> float:
        if self._shared is not None and time.monotonic() >= self._away_until:
            try:
                delay = self._shared.take(key, rate, amount, most_s=most_s)
            except OSError as error:
                self._lost(error)
            else:
                self._found()
                return delay
        mine = rate * self._alone
        # A pause is as long for a process by itself as for all together.
        return self._own.take(key, mine, amount * self._alone if most_s == 0 else amount, most_s=most_s)

    def _lost(self, error: OSError) -> None:
        with self._lock:
            self._away_until = time.monotonic() + RETRY_REDIS_S
            known, self._away = self._away, True
        if not known:
            log.warning("pinecone_limiter_alone", extra={"error": str(error), "share": self._alone})

    def _found(self) -> None:
        if self._away:
            self._away = False
            log.info("pinecone_limiter_shared")
