"""How the tenants of a tier are backed up: how often, where to, and how long each backup is kept."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, Field

from tenure.document import Described, Settings, refuse, setting
from tenure.estate.values import Region

PERIOD_DAYS: Final = {"daily": 1.0, "weekly": 7.0, "monthly": 30.0}
CRON_OF: Final = {"daily": "0 0 * * *", "weekly": "0 0 * * sun", "monthly": "0 0 1 * *"}
"""The beginnings of the periods, in UTC."""
_FIELD: Final = re.compile(r"[0-9a-z*/,-]+")
_FIELDS: Final = 5


def _every(text: str) -> str:
    fields = text.split()
    if text not in CRON_OF and (
        len(fields) != _FIELDS or not all(_FIELD.fullmatch(field) for field in fields)
    ):
        raise refuse("must be daily, weekly, monthly, or a cron expression of five fields")
    return text


Every = Annotated[
    str, AfterValidator(_every), Described(words="`daily`, `weekly`, `monthly` or a cron expression")
]


class TierBackup(Settings):
    """How the tier's tenants are backed up. Times are UTC."""

    title: ClassVar[str] = "tiers.NAME.backup"
    every: Every | None = setting(
        "How often: `daily` begins at midnight, `weekly` on Sunday, `monthly` on the first. A cron expression says it "
        "more closely (`30 1 * * *`); minute, hour, day, month, day of the week by name. Without it only when somebody "
        "asks for a backup.",
        default=None,
    )
    window_h: Annotated[float, Field(ge=0, le=168)] = setting(
        "The time from that beginning over which the tenants are spread, each at a place of its own that stays the "
        "same. Those of a higher tier go first where several are due.",
        default=4,
        unit="h",
    )
    keep_days: Annotated[float, Field(gt=0, le=36_500)] = setting(
        "How long each backup is kept at least, by the vault's own clock and the control database's. Nothing makes it "
        "shorter, however many newer ones there are.",
        unit="days",
    )
    keep_at_least: Annotated[int, Field(ge=1, le=1000)] = setting(
        "How many good backups are kept in each region however old they are, besides the newest one. Only one counts "
        "for each time that the schedule has, so that many fresh ones do not push out the others.",
        default=2,
    )
    copy_to: Region | None = setting(
        "Another region whose vault gets every backup as well, sealed as it is, and verifies it there.",
        default=None,
    )
    lock: Literal["governance", "compliance"] | None = setting(
        "Have the vault's server itself refuse to delete a backup for `keep_days`. `compliance` can be lifted by "
        "nobody, not even for an erasure: then only the tenant's key is destroyed. Needs buckets with object lock.",
        default=None,
    )
    verify: Literal["sample", "full"] = setting(
        "How much of a fresh backup, and of its copy, is read back before it counts as good. Whether every chunk is "
        "there is looked at in either case.",
        default="sample",
    )
    drill: Every | None = setting(
        "How often one backup of the tier is restored into a scratch place and compared, that of the tenant whose turn "
        "it is.",
        default=None,
    )

    @property
    def period_days(self) -> float:
        """About how far apart its backups are; a cron expression counts as daily, which keeps rather more."""
        return PERIOD_DAYS.get(self.every or "daily", PERIOD_DAYS["daily"])
