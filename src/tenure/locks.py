"""A lock per tenant in a Redis or Valkey, which keeps two executors off one tenant at the price of one round trip.

Its value is the fencing token of the step that is being run, so that of two that want it the later one has it. Nothing
depends on it: without Redis, or with one that has forgotten everything, the tokens in the stores and the journal decide
alone, and whoever runs an operation does not even wait.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tenure.errors import ConfigurationError
from tenure.model.names import TenantId
from tenure.model.secret import Secret

log = logging.getLogger(__name__)

TTL_S: Final = 10.0
"""How long a lock outlives a holder that died: less than the lease of its step."""
RENEW_S: Final = 3.0
"""How often it is renewed: two may be lost."""
ANSWER_S: Final = 0.5
"""How long Redis may take to answer before it counts as away."""
AWAY_S: Final = 5.0
"""How long Redis is left alone after it did not answer, so that it costs next to nothing while it is away."""

# Tokens are compared as text: Lua's numbers are exact up to 2^53 only. KEYS[1] the lock; ARGV token, holder, TTL in ms.
_TAKE: Final = """
local held = redis.call('get', KEYS[1])
if held then
    local token, mine = string.match(held, '^%d+'), ARGV[1]
    if #token > #mine or (#token == #mine and token > mine) then return 0 end
end
redis.call('set', KEYS[1], ARGV[1] .. ' ' .. ARGV[2], 'px', ARGV[3])
return 1
"""
_RELEASE: Final = """
if redis.call('get', KEYS[1]) == ARGV[1] .. ' ' .. ARGV[2] then return redis.call('del', KEYS[1]) end
return 0
"""


class RedisTenantLocks:
    """A `tenure.operations.deps.TenantLocks`. Safe to use from several threads, and after a fork.

    `holder` names this process, and `is_gone` says of a name that its process has certainly ended.
    """

    def __init__(self, url: Secret, *, holder: Callable[[], str], is_gone: Callable[[str], bool]) -> None:
        try:
            self._redis: Any = redis.Redis.from_url(
                url.reveal(),
                decode_responses=True,
                socket_timeout=ANSWER_S,
                socket_connect_timeout=ANSWER_S,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError:
            # The driver's message quotes the URL, password included: it must not be shown as the cause.
            raise ConfigurationError(
                "the URL of the locks' Redis is none",
                hint="check what `fleet.locks` in tenure.yaml refers to: redis://[user:password@]host:port/database",
            ) from None
        self._holder = holder
        self._is_gone = is_gone
        self._away_until = 0.0
        self._complained = False

    def held(self, tenant: TenantId) -> bool:
        """Whether somebody is at the tenant now, as far as Redis knows: one that is certainly gone does not count."""
        value = self._ask(lambda: self._redis.get(_key(tenant)))
        return value is not None and not self._is_gone(str(value).partition(" ")[2])

    @contextmanager
    def hold(self, tenant: TenantId, token: int, *, renewed_while: Callable[[], bool]) -> Iterator[None]:
        """Hold the lock as far as it can be had: a smaller token gives way, of a greater one nothing is taken.

        It is renewed only as long as the journal confirms the token: who is cut off from that keeps nobody out.
        """
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(RENEW_S):
                if renewed_while():
                    self._take(tenant, token)

        renewal = threading.Thread(target=renew, name=f"lock-{token}", daemon=True)
        self._take(tenant, token)
        renewal.start()
        try:
            yield
        finally:
            ended.set()
            renewal.join()
            self._ask(lambda: self._redis.eval(_RELEASE, 1, _key(tenant), str(token), self._holder()))

    def close(self) -> None:
        """Give the connections back. Idempotent."""
        self._redis.close()

    def _take(self, tenant: TenantId, token: int) -> None:
        wanted = (_key(tenant), str(token), self._holder(), str(round(TTL_S * 1000)))
        if self._ask(lambda: self._redis.eval(_TAKE, 1, *wanted)) == 0:
            log.warning(
                "tenant_lock_refused: a step with a token above %s is at %s",
                token,
                tenant,
                extra={"action": "tenant_lock_refused", "tenant": tenant, "token": token},
            )

    def _ask(self, what: Callable[[], Any]) -> Any:
        """The answer; None while Redis is away, which is logged once."""
        if time.monotonic() < self._away_until:
            return None
        try:
            answer = what()
        except (redis.RedisError, OSError) as error:
            self._away_until = time.monotonic() + AWAY_S
            if not self._complained:
                self._complained = True
                log.warning(
                    "tenant_locks_away: %s; everything goes on without them",
                    type(error).__name__,
                    extra={"action": "tenant_locks_away"},
                )
            return None
        if self._complained:
            self._complained = False
            log.info("tenant_locks_back", extra={"action": "tenant_locks_back"})
        return answer


def _key(tenant: TenantId) -> str:
    return f"tenure:lock:{tenant}"
