"""Restores: a backup's state of a tenant, in place, in another cell, or under another name."""
