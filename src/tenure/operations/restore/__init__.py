"""Restores: a backup's state of a tenant, in place, in another cell, or under another name."""

from tenure.operations.restore.request import Request
from tenure.operations.restore.restore import Restore

__all__ = ["Request", "Restore"]
