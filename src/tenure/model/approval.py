"""Approvals as plain values: what is asked of a second person, and what he has given."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

EVERY_TIER: Final = ""


class Identity(StrEnum):
    """By what two people are told apart: the names their clients give (`os`), or their roles in the control database,
    which only that itself can say."""

    OS = "os"
    DATABASE = "database"


@dataclass(frozen=True, kw_only=True)
class Demand:
    """An operation needs the approval of a second person, which is good for `ttl_s` seconds."""

    identity: Identity
    ttl_s: float


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Operations of that kind on tenants of that tier (`EVERY_TIER`: of all) need an approval."""

    tier: str
    kind: str
    demand: Demand


@dataclass(frozen=True, kw_only=True)
class Approval:
    """One approval of an operation's plan. `approved_as` is the database role, which the database itself wrote down."""

    id: int
    operation: str
    plan_digest: str
    approver: str
    approved_as: str
    at: datetime
    expires_at: datetime
    stands: bool
    """The operation may begin on it now: it has not expired."""
