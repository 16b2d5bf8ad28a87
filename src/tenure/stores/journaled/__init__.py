"""The live copy of every store without a change feed, its captures and restorings, and the fence of those that cannot
refuse writes."""

from tenure.stores.journaled.anchored import Anchored, AnchoredRecord
from tenure.stores.journaled.backup_ports import STAMP, Packed, Packing, Place, Unpacking
from tenure.stores.journaled.capture import JournaledCapture
from tenure.stores.journaled.copy import JournaledCopy
from tenure.stores.journaled.ownership import ANSWER_S
from tenure.stores.journaled.ports import Allowed, Comparer, Item, LinkRecord, Listing, Tally, Transfer
from tenure.stores.journaled.restoring import JournaledRestoring
from tenure.stores.journaled.verification import key_of, key_text

__all__ = [
    "ANSWER_S",
    "STAMP",
    "Allowed",
    "Anchored",
    "AnchoredRecord",
    "Comparer",
    "Item",
    "JournaledCapture",
    "JournaledCopy",
    "JournaledRestoring",
    "LinkRecord",
    "Listing",
    "Packed",
    "Packing",
    "Place",
    "Tally",
    "Transfer",
    "Unpacking",
    "key_of",
    "key_text",
]
