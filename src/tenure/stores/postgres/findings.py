"""Short ways to write down what a check has found."""

from __future__ import annotations

from tenure.model.finding import Finding, Severity


def refusal(code: str, where: str, message: str, fix: str, command: str = "") -> Finding:
    return Finding(
        severity=Severity.REFUSAL, code=code, where=where, message=message, fix=fix, command=command
    )


def warning(code: str, where: str, message: str, fix: str, command: str = "") -> Finding:
    return Finding(
        severity=Severity.WARNING, code=code, where=where, message=message, fix=fix, command=command
    )


def info(code: str, where: str, message: str, fix: str, command: str = "") -> Finding:
    return Finding(severity=Severity.INFO, code=code, where=where, message=message, fix=fix, command=command)
