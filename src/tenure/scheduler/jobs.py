"""What the leader does: deals with the fire times of schedules, and wakes what was left lying.

Everything it writes goes through its session. What it says outside of it (a message to a worker) may be said twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol

from tenure.estate.settings_fleet import Scheduler
from tenure.model.operation import Operation
from tenure.registry import fires, wakes
from tenure.registry.leadership import Election
from tenure.scheduler.periods import period_of
from tenure.scheduler.schedule import Schedule, due, every
from tenure.scheduler.told import Tell
from tenure.service import Service

WOKEN_PER_TICK: Final = 100


class Waker(Protocol):
    """What the jobs need of a `Dispatcher`."""

    def wake(self, operation: Operation, *, again: bool = False) -> bool:
        """Have somebody look at the operation; whether anybody was told. Raises `StoreUnavailable`."""


def schedules(service: Service, settings: Scheduler) -> tuple[Schedule, ...]:
    """The schedules that these settings ask for."""
    always = (
        Schedule(name="soaks", trigger=every(settings.soaks_every_s), wanted=service.soaks_over),
        Schedule(
            name="backups",
            trigger=every(settings.backups_every_s),
            wanted=lambda: service.backups.due(period_of),
        ),
        Schedule(name="prunes", trigger=every(settings.prunes_every_s), wanted=service.backups.prunes_due),
    )
    max_age_s = settings.compare_after_s
    if max_age_s is None:
        return always
    comparisons = Schedule(
        name="comparisons",
        trigger=every(settings.comparisons_every_s),
        wanted=lambda: service.comparisons_due(max_age_s=max_age_s),
    )
    return *always, comparisons


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """The jobs of one term. All of them raise `LeaseLost` once that is over."""

    election: Election
    settings: Scheduler
    waker: Waker | None
    """None where nobody is to carry anything on: what is due is only told."""
    actor: str
    tell: Tell
    admit: Callable[[], object] = tuple
    """Lets everything begin that waited for capacity and whose turn it is."""

    @property
    def term(self) -> int:
        assert self.election.term is not None
        return self.election.term

    def fire(self, schedule: Schedule) -> None:
        """Insert what the schedule wants at the fire time that is due, if one is, and note those that were missed.

        Looking takes as long as it takes; then the fire time and its operations are written together or not at all.
        """
        with self.election.transaction() as connection:
            clock = fires.look(connection, schedule.name)
        now_due = due(schedule.trigger, last=clock.last, now=clock.now, grace_s=self.settings.grace_s)
        if now_due.missed:
            with self.election.transaction() as connection:
                fires.note_missed(connection, schedule.name, now_due.missed, term=self.term, actor=self.actor)
            self.tell("missed", schedule=schedule.name, count=len(now_due.missed), last=now_due.missed[-1])
        if now_due.fire is None:
            return
        wanted = tuple(islice(schedule.wanted(), self.settings.most_per_fire))
        with self.election.transaction() as connection:
            created = fires.fire(
                connection, schedule.name, now_due.fire, wanted, term=self.term, actor=self.actor
            )
        if created:
            self.tell("fired", schedule=schedule.name, at=now_due.fire, operations=[o.id for o in created])
            self._wake(created)

    def wake(self) -> None:
        """Wake whoever can move on what is due and was left lying; first let begin what waits for capacity."""
        self.admit()
        with self.election.transaction() as connection:
            lying = wakes.lying(
                connection,
                quiet_s=self.settings.quiet_s,
                again_after_s=self.settings.wake_again_s,
                limit=WOKEN_PER_TICK,
            )
        self._wake(lying)

    def _wake(self, operations: Sequence[Operation]) -> None:
        if not operations:
            return
        told: list[str] = []
        try:
            for operation in operations:
                woken = self.waker is not None and self.waker.wake(operation, again=True)
                told.append(operation.id)
                self.tell(
                    "woken" if woken else "due",
                    operation=operation.id,
                    kind=operation.kind,
                    tenant=operation.tenant,
                )
        finally:
            with self.election.transaction() as connection:
                wakes.note(connection, told)
