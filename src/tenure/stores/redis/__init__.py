"""Redis and Valkey: a per-tenant ACL user as the fence, client-side tracking as the change feed. The only module that
imports `redis`."""

from tenure.stores.redis.copy import RedisCopy
from tenure.stores.redis.store import RedisStore

__all__ = ["RedisCopy", "RedisStore"]
