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

    @property
    def cure(self) -> str:
        """The fix in one sentence: with the command, unless that takes several lines, which a plan shows."""
        return f"{self.fix} ({self.command})" if self.command and "\n" not in self.command else self.fix
