"""The live copy of every store without a change feed, and the fence of those that cannot refuse writes."""

from tenure.stores.journaled.anchored import Anchored, AnchoredRecord
from tenure.stores.journaled.copy import JournaledCopy
from tenure.stores.journaled.ownership import ANSWER_S
from tenure.stores.journaled.ports import Allowed, Comparer, Item, LinkRecord, Listing, Tally, Transfer
from tenure.stores.journaled.verification import key_of, key_text

__all__ = [
    "ANSWER_S",
    "Allowed",
    "Anchored",
    "AnchoredRecord",
    "Comparer",
    "Item",
    "JournaledCopy",
    "LinkRecord",
    "Listing",
    "Tally",
    "Transfer",
    "key_of",
    "key_text",
]
