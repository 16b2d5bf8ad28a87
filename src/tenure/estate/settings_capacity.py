"""The block `capacity` of `tenure.yaml`: how much may be under way at the same time, and of what."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Final

from pydantic import AfterValidator, Field

from tenure.catalogue.words import CellKey
from tenure.document import Described, Settings, read_only, refuse, setting
from tenure.estate.values import StoreKey

_SERVER: Final = re.compile(r"[^\s@]+:[0-9,]+|[^\s:@]+")


def _server_key(text: str) -> str:
    if not _SERVER.fullmatch(text):
        raise refuse("must be a server's host:port, without user and password")
    return text


ServerKey = Annotated[str, AfterValidator(_server_key), Described(words="`host:port`")]
Moves = Annotated[int, Field(ge=1, le=10_000)]


class CellCapacity(Settings):
    """What may be under way in one cell, where that differs."""

    title: ClassVar[str] = "capacity.cells.NAME"
    moves: Moves | None = setting("As `capacity.moves`, for this cell.", default=None, unit="moves")
    stores: Annotated[Mapping[StoreKey, Moves], AfterValidator(read_only)] = setting(
        "How many moves may copy from or to that store at once: for one that is weaker than the rest of its cell.",
        default={},
        validate_default=True,
        unit="moves",
    )


class ServerCapacity(Settings):
    """What Tenure may take of one server, where that is not to be worked out from the server's own limits."""

    title: ClassVar[str] = "capacity.servers.NAME"
    slots: Annotated[int, Field(ge=1, le=10_000)] | None = setting(
        "Replication slots, and WAL senders with them; a link keeps one until its move is completed. Without it: what "
        "`max_replication_slots` and `max_wal_senders` leave after what others use and `slots_reserve`.",
        default=None,
        unit="slots",
    )
    workers: Annotated[int, Field(ge=1, le=10_000)] | None = setting(
        "Logical replication workers; a link keeps one. Without it: what `max_logical_replication_workers` leaves "
        "after what others use.",
        default=None,
        unit="workers",
    )
    connections: Annotated[int, Field(ge=1, le=100_000)] | None = setting(
        "Sessions of Tenure, 8 per move. Without it: what `max_connections` leaves after what others use and "
        "`connections_reserve`.",
        default=None,
        unit="connections",
    )
    bandwidth_mb_s: Annotated[float, Field(gt=0, le=1_000_000)] | None = setting(
        "As `capacity.bandwidth_mb_s`, for this server.", default=None, unit="MB/s"
    )


class Capacity(Settings):
    """How much may be under way at the same time. What does not fit waits for its turn: tenants of the highest tier
    first, then those that were moved longest ago. Rolling back, completing and ending a soak never wait."""

    title: ClassVar[str] = "capacity"
    moves: Moves = setting(
        "How many tenants may be moved into or out of one cell at once: each is copied and compared at full speed, "
        "beside the cell's users.",
        default=8,
        unit="moves",
    )
    bandwidth_mb_s: Annotated[float, Field(gt=0, le=1_000_000)] | None = setting(
        "How much all moves together may read from, or write to, one server, by the rates measured on their routes. On "
        "a route that was never measured a move counts as all of it. Without it, only the other limits hold.",
        default=None,
        unit="MB/s",
    )
    slots_reserve: Annotated[int, Field(ge=0, le=10_000)] = setting(
        "Replication slots that stay free on every server whose slots are not set: for replicas and backups that "
        "somebody else starts. One move is let in all the same where the server has room for it.",
        default=4,
        unit="slots",
    )
    connections_reserve: Annotated[int, Field(ge=0, le=100_000)] = setting(
        "Connections that stay free on every server whose connections are not set: for the app's own peaks.",
        default=20,
        unit="connections",
    )
    step_up_s: Annotated[float, Field(gt=0, le=604_800)] = setting(
        "A tenant that has waited this long goes before the next higher tier, and so on: nobody waits for ever.",
        default=3600,
        unit="s",
    )
    cells: Annotated[Mapping[CellKey, CellCapacity], AfterValidator(read_only)] = setting(
        "Cells with limits of their own, by name.", default={}, validate_default=True
    )
    servers: Annotated[Mapping[ServerKey, ServerCapacity], AfterValidator(read_only)] = setting(
        "Servers with limits of their own, by the host and port with which the cells' stores name them: several "
        "stores, also of several cells, may be on one.",
        default={},
        validate_default=True,
    )
