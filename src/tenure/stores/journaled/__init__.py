"""The live copy of every store without a change feed, and the fence of those that cannot refuse writes."""

from tenure.stores.journaled.anchored import Anchored, AnchoredRecord
from tenure.stores.journaled.ports import Allowed, Comparer, Item, LinkRecord, Listing, Tally, Transfer

__all__ = [
    "Allowed",
    "Anchored",
    "AnchoredRecord",
    "Comparer",
    "Item",
    "LinkRecord",
    "Listing",
    "Tally",
    "Transfer",
]
