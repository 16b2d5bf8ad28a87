"""Where a restore goes, and the steps that each way takes."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from tenure.plan.move import PlannedStep


class Mode(StrEnum):
    """Where a restore goes: over the live data, into a cell that has nothing of the tenant, or to a new tenant."""

    IN_PLACE = "in place"
    OTHER_CELL = "other cell"
    NEW_TENANT = "new tenant"


_STAGE: Final = PlannedStep(
    name="stage",
    does="where the schema is older: load it into a scratch database, run the app's migrations, check every rule",
)
_PREFLIGHT: Final = PlannedStep(
    name="preflight", does="check the backup, the erasure ledger, every store and the rules"
)
STEPS: Final[Mapping[Mode, tuple[PlannedStep, ...]]] = {
    Mode.IN_PLACE: (
        _PREFLIGHT,
        _STAGE,
        PlannedStep(name="protect", does="back up what is live now"),
        PlannedStep(name="compare", does="compare the backup with what is live; change nothing"),
        PlannedStep(name="arm", does="put the tenant behind the gate"),
        PlannedStep(
            name="switch",
            does="hold requests, drain, fence, compare, raise the epoch, make every item as in the backup, open",
        ),
        PlannedStep(
            name="settle", does="take the gate out of the path, drop what was staged", after_commit=True
        ),
    ),
    Mode.OTHER_CELL: (
        _PREFLIGHT,
        _STAGE,
        PlannedStep(name="protect", does="back up what is live now"),
        PlannedStep(name="load", does="fence the tenant in the target cell and load the backup there"),
        PlannedStep(
            name="compare", does="compare what was loaded with the backup, and the backup with what is live"
        ),
        PlannedStep(name="arm", does="put the tenant behind the gate"),
        PlannedStep(
            name="switch",
            does="hold requests, drain, fence the former cell, change the placement, open the target",
        ),
        PlannedStep(
            name="settle", does="take the gate out of the path, drop what was staged", after_commit=True
        ),
    ),
    Mode.NEW_TENANT: (
        _PREFLIGHT,
        _STAGE,
        PlannedStep(
            name="load", does="fence the new tenant in its cell and load the backup there under its name"
        ),
        PlannedStep(name="compare", does="compare what was loaded with the backup"),
        PlannedStep(name="switch", does="raise the epoch, open the cell for the new tenant"),
        PlannedStep(name="settle", does="route the new tenant, drop what was staged", after_commit=True),
    ),
}
CLEAR: Final = PlannedStep(
    name="clear",
    does="delete the former copy from the cell that served the tenant, and see that it is gone",
    after_commit=True,
)


def steps_of(mode: Mode, *, protected: bool, erases_former: bool) -> tuple[PlannedStep, ...]:
    """The steps of such a restore, in their order."""
    steps = tuple(s for s in STEPS[mode] if s.name != "protect" or protected)
    return (*steps, CLEAR) if erases_former else steps
