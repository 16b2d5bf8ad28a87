"""What a chaos run does, decided by its seed before it begins: two runs of a seed make the same plan.

Pure. How far a run gets in its time, and what a blow hits at random times, is up to the machine; what is tried, on
whom, in which order and where it is struck is not.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

from tenure.estate.local.cell_plans import CELLS, CONTROL
from tests.faults.network import WAYS
from tests.faults.points import COMPLETE, MIGRATE, REHEARSE, ROLLBACK

T = TypeVar("T")


class Command(StrEnum):
    MIGRATE = "migrate"
    ROLLBACK = "rollback"
    COMPLETE = "complete"
    VERIFY = "verify"
    REHEARSE = "rehearse"


class Blow(StrEnum):
    """What happens to the process that carries a command out."""

    NONE = "none"
    KILL_AT = "kill at a point"
    KILL_AFTER = "kill after a time"
    PAUSE_AT = "pause at a point"
    """Until another process has taken over, or for a while within the lease."""
    PAUSE_AFTER = "pause after a time"
    CANCEL_AFTER = "cancel after a time"
    """By another process, while this one goes on."""

    @property
    def at_point(self) -> bool:
        return self in (Blow.KILL_AT, Blow.PAUSE_AT)


class Then(StrEnum):
    RESUME = "resume"
    CANCEL = "cancel"


class How(StrEnum):
    """What happens to a server, or to a way between two."""

    KILL = "kill"
    RESTART = "restart"
    FREEZE = "freeze"
    CUT = "cut"


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One command on one tenant and what becomes of it. A command that the tenant's state does not allow (it has no
    link to roll back or complete) is a migration instead."""

    number: int
    rest_s: float
    command: Command
    cell: int
    """Which of the other cells a tenant without a link moves to."""
    blow: Blow
    points: Mapping[Command, str]
    """Where a blow `at_point` strikes, for each command that it may turn out to be."""
    after_s: float
    pause_s: float
    """How long it sleeps where nobody takes over."""
    takeover: bool
    then: Then

    def as_dict(self) -> dict[str, Any]:
        """Only what matters for it."""
        told: dict[str, Any] = {
            "turn": self.number,
            "rest_s": self.rest_s,
            "command": self.command,
            "cell": self.cell,
        }
        if self.blow is Blow.NONE:
            return told
        told |= {"blow": self.blow, "then": self.then}
        told |= {"points": dict(self.points)} if self.blow.at_point else {"after_s": self.after_s}
        if self.blow in (Blow.PAUSE_AT, Blow.PAUSE_AFTER):
            told |= {"takeover": True} if self.takeover else {"pause_s": self.pause_s}
        return told


@dataclass(frozen=True, kw_only=True)
class Outage:
    """One server or way that fails `rest_s` after the one before it was over, for `for_s`."""

    number: int
    rest_s: float
    what: str
    how: How
    for_s: float


@dataclass(frozen=True, kw_only=True)
class Schedule:
    seed: int
    seconds: float
    turns: Mapping[str, Sequence[Turn]]
    outages: Sequence[Outage]

    def lines(self) -> Iterator[dict[str, Any]]:
        """All of it, one JSON object per line."""
        yield {"seed": self.seed, "seconds": self.seconds, "tenants": list(self.turns)}
        for tenant, turns in self.turns.items():
            for turn in turns:
                yield {"tenant": tenant, **turn.as_dict()}
        for outage in self.outages:
            yield {"outage": outage.number, **{k: v for k, v in asdict(outage).items() if k != "number"}}


POINTS: Final[Mapping[Command, Sequence[str]]] = {
    Command.MIGRATE: MIGRATE,
    Command.ROLLBACK: ROLLBACK,
    Command.COMPLETE: COMPLETE,
    Command.REHEARSE: REHEARSE,
    Command.VERIFY: ("verify:start", "verify.equal", "verify:end"),
}
COMMANDS: Final = {
    Command.MIGRATE: 8,
    Command.ROLLBACK: 5,
    Command.COMPLETE: 3,
    Command.VERIFY: 1,
    Command.REHEARSE: 1,
}
BLOWS: Final = {
    Blow.NONE: 6,
    Blow.KILL_AT: 5,
    Blow.KILL_AFTER: 3,
    Blow.PAUSE_AT: 3,
    Blow.PAUSE_AFTER: 2,
    Blow.CANCEL_AFTER: 2,
}
LEASE_S: Final = 15.0
"""A pause of less than half of it is within the lease."""

STORES: Final = (
    *(cell.postgres for cell in CELLS),
    *(cell.valkey for cell in CELLS),
    *dict.fromkeys(cell.objects for cell in CELLS),
)
APPS: Final = tuple(cell.app for cell in CELLS)
SERVERS: Final = (*STORES, *APPS, CONTROL, CONTROL, "envoy", "gate", "gate")
"""What may fail in every local estate. A run may name more of its servers: `plan(more_servers=...)`."""
SERVING: Final = frozenset({*STORES, *APPS, "envoy"})
"""What users' requests need in the steady state."""
ONE_PROCESS: Final = frozenset({*STORES[len(CELLS) :], *APPS, "envoy", "gate"})
"""What can be frozen by a signal to one process. A PostgreSQL's backends would go on."""


def plan(
    seed: int,
    seconds: float,
    tenants: Sequence[str],
    *,
    outages: bool = True,
    more_servers: Sequence[str] = (),
) -> Schedule:
    """The schedule of a seed. More turns than anyone can do in the time: the run takes what it gets to."""
    rng = random.Random(f"chaos:{seed}")
    number = max(4, int(seconds / 3))
    return Schedule(
        seed=seed,
        seconds=seconds,
        turns={tenant: tuple(_turn(rng, n) for n in range(number)) for tenant in tenants},
        outages=tuple(_outage(rng, n, (*SERVERS, *more_servers)) for n in range(max(1, int(seconds / 10))))
        if outages
        else (),
    )


def _turn(rng: random.Random, number: int) -> Turn:
    return Turn(
        number=number,
        rest_s=round(rng.uniform(0.0, 2.0), 2),
        command=_chosen(rng, COMMANDS) if number else Command.MIGRATE,
        cell=rng.randrange(len(CELLS) - 1),
        blow=_chosen(rng, BLOWS),
        points={command: rng.choice(points) for command, points in POINTS.items()},
        after_s=round(rng.uniform(0.8, 9.0), 2),
        pause_s=round(rng.uniform(0.5, LEASE_S / 2), 2),
        takeover=rng.random() < 0.5,
        then=rng.choice(list(Then)),
    )


def _outage(rng: random.Random, number: int, servers: Sequence[str]) -> Outage:
    what = rng.choice([*servers, *WAYS])
    if what in WAYS:
        how = How.CUT
    else:
        how = rng.choice([How.KILL, How.KILL, How.RESTART, *([How.FREEZE] if what in ONE_PROCESS else [])])
    longest = 30.0 if what == CONTROL and rng.random() < 0.3 else 6.0
    return Outage(
        number=number,
        rest_s=round(rng.uniform(3.0, 25.0), 1),
        what=what,
        how=how,
        for_s=round(rng.uniform(0.5, longest), 1),
    )


def _chosen(rng: random.Random, weights: Mapping[T, int]) -> T:
    return rng.choices(list(weights), list(weights.values()))[0]
