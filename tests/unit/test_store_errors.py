"""What a driver's error means for an operation: can the same be tried again?"""

from __future__ import annotations

import pytest
import redis
from psycopg import errors

from tenure.errors import StoreUnavailable
from tenure.stores.postgres.connect import translate
from tenure.stores.redis.errors import translated


def test_a_transaction_that_a_store_gave_up_while_its_process_slept_can_be_tried_again() -> None:
    slept = errors.IdleInTransactionSessionTimeout(
        "terminating connection due to idle-in-transaction timeout"
    )
    meant = translate(slept, "postgres of blue")
    assert isinstance(meant, StoreUnavailable)
    assert meant.retryable


def test_a_redis_that_goes_away_under_a_watch_can_be_tried_again() -> None:
    """The driver hides a lost connection, or a server that is still loading its data, in a `WatchError` then."""
    with pytest.raises(StoreUnavailable, match="BusyLoadingError") as raised, translated("redis of green"):
        raise redis.WatchError("A BusyLoadingError occurred while watching one or more keys")
    assert raised.value.retryable
