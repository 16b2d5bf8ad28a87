"""What a driver's error means for an operation: can the same be tried again?"""

from __future__ import annotations

from psycopg import errors

from tenure.errors import StoreUnavailable
from tenure.stores.postgres.connect import translate


def test_a_transaction_that_a_store_gave_up_while_its_process_slept_can_be_tried_again() -> None:
    slept = errors.IdleInTransactionSessionTimeout(
        "terminating connection due to idle-in-transaction timeout"
    )
    translated = translate(slept, "postgres of blue")
    assert isinstance(translated, StoreUnavailable)
    assert translated.retryable
