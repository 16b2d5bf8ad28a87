"""Settings of `tenure.yaml` about who has to agree to an operation, and what operations are measured against."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, Field

from tenure.document import Described, Settings, refuse, setting
from tenure.estate.values import Currency, unique

APPROVABLE: Final = ("migrate", "complete", "erase")
"""The operations that begin with a plan which a second person can look at."""


def _approvable(kind: str) -> str:
    if kind == "rollback":
        raise refuse("must not be rollback: the way back waits for nobody")
    if kind not in APPROVABLE:
        raise refuse(f"must be one of {', '.join(APPROVABLE)}: the operations with a plan to approve")
    return kind


Approvable = Annotated[str, AfterValidator(_approvable), Described(words="`migrate`, `complete` or `erase`")]
ApprovableKinds = Annotated[tuple[Approvable, ...], AfterValidator(unique)]


class ApprovalSettings(Settings):
    """Which operations a second person has to approve before they begin, besides those that a tier names. A rollback
    never waits. `tenure estate init` publishes this to the control database, which enforces it."""

    title: ClassVar[str] = "approval"
    kinds: ApprovableKinds = setting(
        "The operations that need an approval whatever the tenant's tier.", default=()
    )
    expires_h: Annotated[float, Field(gt=0, le=720)] = setting(
        "How long an approval is good for: enough for a colleague in another time zone, and no longer than a plan can "
        "be expected to hold. What has begun by then goes on.",
        default=24,
        unit="h",
    )
    identity: Literal["os", "database"] = setting(
        "How two people are told apart. `os`: by the operating system's user, which a client states and may forge. "
        "`database`: by the role with which each logs in to the control database, which that writes down itself.",
        default="os",
    )


class Targets(Settings):
    """What `tenure op stats` compares operations with."""

    title: ClassVar[str] = "targets"
    migration_h: Annotated[float, Field(gt=0, le=8760)] = setting(
        "How long a migration may take, at the 95th percentile.", default=8, unit="h"
    )
    rollback_s: Annotated[float, Field(gt=0, le=86_400)] = setting(
        "How long a rollback may take from the command until the other cell serves, at the 95th percentile.",
        default=60,
        unit="s",
    )
    success_rate: Annotated[float, Field(gt=0, le=1)] = setting(
        "The share of the migrations that succeed and are not rolled back.", default=0.98, unit="share"
    )
    initial: Annotated[int, Field(ge=0, le=1000)] = setting(
        "How many migrations on each kind of route are not counted for `success_rate`: an estate has to be learnt.",
        default=5,
    )
    cost: Annotated[float, Field(gt=0)] = setting(
        "What a migration may cost, at the 95th percentile.", default=80_000, unit="currency"
    )
    currency: Currency = setting(
        "The currency of `cost`; costs are compared if it is that of `prices` as well.", default="INR"
    )
