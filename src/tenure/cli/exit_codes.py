"""The one table from error codes to exit codes. Scripts rely on both."""

from __future__ import annotations

from typing import Final

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
DECLINED: Final = 3
NOT_ALLOWED: Final = 4
OPERATION_FAILED: Final = 5
PLAN_STALE: Final = 6
ROLLED_BACK: Final = 7
STILL_RUNNING: Final = 8
APPROVAL_NEEDED: Final = 10
LOCKED: Final = 11
INTERRUPTED: Final = 130

EXIT_CODES: Final[dict[str, int]] = {
    "failed": FAILED,
    "usage": USAGE,
    "unknown_name": USAGE,
    "configuration": USAGE,
    "declined": DECLINED,
    "not_allowed": NOT_ALLOWED,
    "operation_failed": OPERATION_FAILED,
    "data_differs": OPERATION_FAILED,
    "outpaced": OPERATION_FAILED,
    "target_unfit": OPERATION_FAILED,
    "route_drifted": OPERATION_FAILED,
    "confirmation_needed": APPROVAL_NEEDED,
    "approval_needed": APPROVAL_NEEDED,
    "plan_stale": PLAN_STALE,
    "rolled_back": ROLLED_BACK,
    "still_running": STILL_RUNNING,
    "tenant_locked": LOCKED,
    "interrupted": INTERRUPTED,
    "unavailable": FAILED,
    "store_refused": FAILED,
    "lease_lost": FAILED,
    "cancelled": OPERATION_FAILED,
    "deadline_exceeded": FAILED,
    "fence_refused": FAILED,
    "fenced": FAILED,
    "evidence_stale": FAILED,
    "vault_damaged": FAILED,
    "backup_untrusted": FAILED,
    "backup_too_new": NOT_ALLOWED,
    "key_unusable": FAILED,
    "audit_broken": OPERATION_FAILED,
    "certificate_withheld": OPERATION_FAILED,
    "certificate_untrusted": OPERATION_FAILED,
}
"""Every code of `tenure.errors` (a test asserts that none is missing)."""
