"""What a check before an operation found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    REFUSAL = "refusal"


@dataclass(frozen=True, kw_only=True, order=True)
class Finding:
    """One finding: a stable `code`, where it was found (store, table, server), what it is, and how to mend it.

    `command` does that where it can be done safely without knowing more: SQL for the server that `where` names, or a
    `tenure` command. Empty where it takes a decision.
    """

    severity: Severity
    code: str
    where: str
    message: str
    fix: str
    command: str = ""
