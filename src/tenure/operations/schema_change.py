"""What DDL has changed between two looks at a store, in words."""

from __future__ import annotations

from collections.abc import Mapping


def schema_changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Each item of a fingerprint that is no longer what it was: what was added, removed, or became something else."""
    changes = []
    for item in sorted(before.keys() | now.keys()):
        was, is_ = before.get(item), now.get(item)
        if was == is_:
            continue
        if was is None:
            changes.append(f"{item} ({is_}) was added")
        elif is_ is None:
            changes.append(f"{item} ({was}) was removed")
        else:
            changes.append(f"{item} was {was} and is {is_}")
    return changes
