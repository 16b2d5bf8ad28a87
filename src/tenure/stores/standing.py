"""The standing of a direction that leaves nothing behind in its stores: all that can be wrong is that one is away."""

from __future__ import annotations

from tenure.errors import TenureError
from tenure.stores.contract import Standing, Store


def reachable(*stores: Store) -> Standing:
    """Ask each store; the first that does not answer, or does not let us in, is the problem."""
    for store in stores:
        try:
            store.ping()
        except TenureError as error:
            return Standing(problem=error.message)
    return Standing()
