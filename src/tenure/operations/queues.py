"""Which queue an operation belongs to: one per purpose and region, so that a region's workers sit beside its data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Final

from tenure.errors import UsageError
from tenure.estate.config import Estate
from tenure.model.operation import Operation


class Purpose(StrEnum):
    """What a worker may be for: the long ones must not keep the short ones waiting."""

    CONTROL = "control"
    COPY = "copy"
    VERIFY = "verify"
    ERASE = "erase"
    BACKUP = "backup"


PURPOSES: Final[Mapping[str, Purpose]] = {
    "migrate": Purpose.COPY,
    "verify": Purpose.VERIFY,
    "complete": Purpose.ERASE,
    "backup": Purpose.BACKUP,
    "restore": Purpose.COPY,
}
"""By kind of operation; all others are short or urgent, and go to `control`. A rollback is there only if the process
that ran it has died: it is never queued."""


def purpose_of(kind: str) -> Purpose:
    return PURPOSES.get(kind, Purpose.CONTROL)


def queue_of(estate: Estate, operation: Operation) -> str:
    """The queue of the region that the operation writes to. Raises `UnknownName` if its cell is not there any more."""
    region = estate.cell(str(operation.request["to"])).region
    return queue_name(estate, purpose_of(operation.kind), region)


def queue_name(estate: Estate, purpose: Purpose, region: str) -> str:
    """`tenure.copy.eu-west-1`."""
    namespace = estate.fleet.namespace
    return f"{namespace}.{purpose}.{region}"


def queues_for(
    estate: Estate, purposes: Collection[str] = (), regions: Collection[str] = ()
) -> tuple[str, ...]:
    """The queues of these purposes and regions, of all of them by default. Raises `UsageError` for what is unknown."""
    known = sorted({cell.region for cell in estate.cells.values()})
    for given, all_, what in ((purposes, list(Purpose), "purpose"), (regions, known, "region")):
        unknown = [name for name in given if name not in all_]
        if unknown:
            raise UsageError(
                f"no queue is for the {what} {unknown[0]!r:.60}", hint=f"there are {', '.join(all_)}"
            )
    wanted = [p for p in Purpose if p in purposes or not purposes]
    return tuple(queue_name(estate, p, region) for region in (sorted(regions) or known) for p in wanted)
