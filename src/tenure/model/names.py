"""Names that users give: checked once, at the edge, so that everything below may rely on their shape."""

from __future__ import annotations

import re
from typing import Final, NewType

from tenure.errors import UsageError

TenantId = NewType("TenantId", str)
CellName = NewType("CellName", str)
StoreName = NewType("StoreName", str)

TENANT_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
CELL_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,30}")
_SHOWN: Final = 60


def _quote(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)")


def tenant_id(text: str) -> TenantId:
    """Check a tenant id. Raises `UsageError` that shows (a shortened form of) what was given.

    The characters exclude every delimiter that key prefixes, bucket prefixes, host names, patterns and SQL use, so
    `prefix + tenant + ':'` can never match another tenant.
    """
    if not TENANT_ID.fullmatch(text):
        raise UsageError(
            f"{_quote(text)} is not a tenant id: 1 to 63 letters, digits, '_', '-' or '.', "
            "starting with a letter or digit",
            hint="`tenure tenant list` shows the tenants there are",
        )
    return TenantId(text)


def cell_name(text: str) -> CellName:
    """Check a cell name. Raises `UsageError`."""
    if not CELL_NAME.fullmatch(text):
        raise UsageError(
            f"{_quote(text)} is not a cell name: 1 to 31 lower-case letters, digits or '-', starting with a letter",
            hint="`tenure estate status` shows the cells there are",
        )
    return CellName(text)
