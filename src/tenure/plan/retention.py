"""Which backups are kept and which may go: a pure decision about one tenant's backups in one vault.

The invariant: nothing goes before `keep_days` have passed by both clocks that no writer of backups can set, the vault's
and the control database's; the newest good one stays, and `keep_at_least` others, however old; whoever adds backups,
however many, makes nothing go that a single further scheduled backup would not. Absence of anything is never a reason
to delete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

SAME_PERIOD: Final = 0.5
"""Backups that follow the first one of a time within this share of the schedule's period count as one with it."""
CLOCKS_AGREE: Final = timedelta(hours=1)
"""How far what the vault says of a backup's time may be from what it said when the backup was made."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How long a backup is kept, and how many good ones at least; `period` is about how far apart they are."""

    keep: timedelta
    keep_at_least: int
    period: timedelta


@dataclass(frozen=True, kw_only=True)
class Held:
    """One backup as the vault shows it and as the control database knows it; None where one of them knows nothing.

    `good`: both know it as the same one, nobody disputes it, and its last verification found it whole.
    """

    id: str
    vault_stored_at: datetime | None
    recorded_stored_at: datetime | None
    policy: Policy | None
    """Of the tier it was made for, or of the tenant's tier now: whichever keeps longer. None: the estate has neither
    any more."""
    good: bool = False
    same: bool = True
    """What the vault has is what the control database noted down."""
    disputed: bool = False
    locked_until: datetime | None = None
    object_hold: bool = False
    deleting: bool = False
    """An earlier prune has decided to delete it and begun."""
    size_bytes: int = 0


class Fate(StrEnum):
    """`LOST`: the control database knows it, and the vault does not have it. `FOREIGN`: the other way round."""

    KEEP = "keep"
    DELETE = "delete"
    LOST = "lost"
    FOREIGN = "foreign"


@dataclass(frozen=True, kw_only=True)
class Decision:
    backup: str
    fate: Fate
    because: str
    stored_at: datetime | None
    size_bytes: int = 0


def decide(held: Sequence[Held], *, now: datetime, tenant_hold: str | None = None) -> tuple[Decision, ...]:
    """What becomes of each, the oldest first. `now` is the control database's time."""
    spared = _spared(held)
    ordered = sorted(held, key=lambda one: (_stored(one) or now, one.id))
    return tuple(_decide(one, spared=one.id in spared, now=now, tenant_hold=tenant_hold) for one in ordered)


def _decide(one: Held, *, spared: bool, now: datetime, tenant_hold: str | None) -> Decision:
    fate, because = _fate(one, spared=spared, now=now, tenant_hold=tenant_hold)
    return Decision(
        backup=one.id, fate=fate, because=because, stored_at=_stored(one), size_bytes=one.size_bytes
    )


def _fate(one: Held, *, spared: bool, now: datetime, tenant_hold: str | None) -> tuple[Fate, str]:
    stored = _stored(one)
    if one.recorded_stored_at is None or stored is None:
        return Fate.FOREIGN, "the control database does not know it: it was not made by this estate"
    if one.vault_stored_at is None:
        return (
            (Fate.DELETE, "its deletion was begun before")
            if one.deleting
            else (Fate.LOST, "the vault does not have it any more, and nobody here has deleted it")
        )
    kept = _kept(one, stored, spared=spared, now=now, tenant_hold=tenant_hold)
    if kept is not None:
        return Fate.KEEP, kept
    assert one.policy is not None
    days = f"stored {_days(now - stored)} ago, kept for {_days(one.policy.keep)}"
    return Fate.DELETE, days


def _kept(one: Held, stored: datetime, *, spared: bool, now: datetime, tenant_hold: str | None) -> str | None:
    """Why it stays; None if nothing speaks for it."""
    assert one.vault_stored_at is not None
    assert one.recorded_stored_at is not None
    if tenant_hold is not None:
        return f"the tenant is on legal hold: {tenant_hold}"
    if one.object_hold:
        return "it is on legal hold in the vault"
    if one.locked_until is not None and one.locked_until > now:
        return f"the vault keeps it locked until {one.locked_until:%Y-%m-%d %H:%M} UTC"
    if not one.same or one.disputed:
        return "the vault has something else in its place than what was stored: look at it first"
    if abs(one.vault_stored_at - one.recorded_stored_at) > CLOCKS_AGREE:
        return "the vault says another time than when it was stored: look at it first"
    if one.policy is None:
        return "no tier says for how long it is kept"
    if stored + one.policy.keep > now:
        left = stored + one.policy.keep - now
        return f"kept for {_days(one.policy.keep)}, {_days(left)} of them to come"
    if spared:
        return "one of the good ones that are always kept"
    return None


def _stored(one: Held) -> datetime | None:
    """The later of both clocks: neither alone can make a backup older than it is."""
    if one.vault_stored_at is None or one.recorded_stored_at is None:
        return one.recorded_stored_at or one.vault_stored_at
    return max(one.vault_stored_at, one.recorded_stored_at)


def _spared(held: Sequence[Held]) -> frozenset[str]:
    """The good ones that stay whatever their age: the newest, and the first of each of the newest periods."""
    good = sorted((one for one in held if _counts(one)), key=lambda one: (_at(one), one.id))
    firsts: list[Held] = []
    for one in good:
        if one.policy is None:
            continue
        if not firsts or _at(one) - _at(firsts[-1]) >= one.policy.period * SAME_PERIOD:
            firsts.append(one)
    most = max((one.policy.keep_at_least for one in firsts if one.policy is not None), default=0)
    newest = firsts[-most:] if most else []
    return frozenset(one.id for one in (*newest, *good[-1:]))


def _counts(one: Held) -> bool:
    """It can be relied on: both sides know it, as the same thing, and it was found whole."""
    known = one.vault_stored_at is not None and one.recorded_stored_at is not None
    return known and one.good and one.same and not one.disputed and not one.deleting


def _at(one: Held) -> datetime:
    stored = _stored(one)
    assert stored is not None
    return stored


def _days(span: timedelta) -> str:
    days = span / timedelta(days=1)
    return f"{days:.0f} days" if days >= 2 else f"{span / timedelta(hours=1):.0f} h"
