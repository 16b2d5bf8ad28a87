"""What the driver raises, as Tenure's errors. No message contains a URL or a password."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis

from tenure.errors import FenceRefused, LeaseLost, StoreRefused, StoreUnavailable

_TEMPORARY = (
    "LOADING",
    "READONLY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "BUSY ",
    "MISCONF",
    "max number of clients",
    "non local key",
)
_REARRANGED = (
    redis.exceptions.AskError,  # MOVED as well
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
    redis.exceptions.MasterDownError,
)
_NO_ENTRY = ("NOAUTH", "WRONGPASS", "invalid username-password", "Authentication required")

REPLY_OPEN = "TENUREOPEN"
REPLY_SUPERSEDED = "TENURESUPERSEDED"
REPLY_TOKEN = "TENURETOKEN"  # noqa: S105
"""What Tenure's own scripts answer when they refuse."""


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn what the driver raises inside into a `TenureError` that names `where`."""
    try:
        yield
    except (redis.AuthenticationError, redis.exceptions.AuthenticationWrongNumberOfArgsError) as error:
        raise _refused_login(where) from error
    except (redis.ConnectionError, redis.TimeoutError) as error:
        if any(word in str(error) for word in _NO_ENTRY):
            raise _refused_login(where) from error
        raise StoreUnavailable(
            f"{where} cannot be reached: {error}", hint="is the server up, and the address right?"
        ) from error
    except _REARRANGED as error:
        raise StoreUnavailable(
            f"{where}: the cluster is being rearranged: {error}",
            hint="wait until failover or resharding is over",
        ) from error
    except (
        redis.WatchError
    ) as error:  # so the driver calls a connection that dies, or a server that is loading, then
        raise StoreUnavailable(
            f"{where} went away in the middle of a change: {error}", hint="nothing was changed; try again"
        ) from error
    except redis.RedisError as error:
        raise _answered(where, str(error)) from error


def _refused_login(where: str) -> StoreUnavailable:
    return StoreUnavailable(f"{where} refuses the login", hint="check the user and the password in its URL")


def _answered(where: str, text: str) -> StoreUnavailable | StoreRefused | FenceRefused | LeaseLost:
    if REPLY_OPEN in text:
        return FenceRefused(
            f"{where} accepts the tenant's writes, so nothing may be changed there", hint="fence it first"
        )
    if REPLY_TOKEN in text:
        return FenceRefused(f"the fence of {where} is a newer holder's")
    if REPLY_SUPERSEDED in text:
        return LeaseLost(f"another process copies into {where} now")
    if any(word in text for word in _NO_ENTRY):
        return _refused_login(where)
    if any(word in text for word in _TEMPORARY):
        return StoreUnavailable(f"{where} cannot serve now: {text}")
    hint = None
    if "OOM" in text:
        hint = "the server is at its maxmemory: give it more"
    elif "DUMP payload version" in text or "Bad data format" in text:
        hint = "the source is a newer server than the target: upgrade the target"
    elif "NOPERM" in text or "no permissions" in text.lower():
        hint = "Tenure's own user needs all keys and commands: ACL SETUSER <user> ~* &* +@all"
    return StoreRefused(f"{where} refused: {text}", hint=hint)
