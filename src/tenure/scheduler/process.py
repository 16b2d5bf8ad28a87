"""The scheduler's process: stands by, leads, stands by again; ends when it is told to."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Final

from tenure.engine.holder import this_process
from tenure.engine.observer import Observer, nobody
from tenure.errors import DeadlineExceeded, Interrupted, LeaseLost, StoreUnavailable
from tenure.estate.settings_fleet import Scheduler
from tenure.registry.database import Database
from tenure.registry.leadership import Election
from tenure.scheduler.in_process import InProcess
from tenure.scheduler.jobs import Jobs, schedules
from tenure.scheduler.leader import Term
from tenure.scheduler.told import Tell
from tenure.service import Service

ROLE: Final = "scheduler"
STAND_BY_S: Final = 1.0
"""How often one that stands by looks whether it may lead, and whether the control database is back."""


@dataclass(frozen=True, kw_only=True)
class SchedulerProcess:
    """One scheduler. In the main thread, Ctrl-C gives the step that it carries on back."""

    database: Database
    service: Service
    settings: Scheduler
    tell: Tell
    observer: Observer = nobody
    holder: str = field(default_factory=this_process)
    stop: threading.Event = field(default_factory=threading.Event)

    def serve(self) -> None:
        """Stand by and lead until `stop` is set or Ctrl-C. An absent control database is waited for."""
        away: str | None = None
        with suppress(Interrupted, KeyboardInterrupt):
            while not self.stop.is_set():
                try:
                    with self._session() as election:
                        away = None
                        self._stand_by(election)
                        if not self.stop.is_set():
                            self._lead(election)
                except LeaseLost as error:
                    self.tell("deposed", because=error.message)
                except (StoreUnavailable, DeadlineExceeded) as error:
                    if error.message != away:
                        self.tell("waiting", because=error.message)
                    away = error.message
                self.stop.wait(STAND_BY_S)
        self.tell("stopped")

    def once(self) -> bool:
        """Deal with everything that is due now and return; False if another process leads."""
        with self._session() as election:
            if not election.elect():
                self._tell_leader(election)
                return False
            jobs, in_process = self._jobs(election)
            for schedule in schedules(self.service, self.settings):
                jobs.fire(schedule)
            jobs.wake()
        while in_process is not None and in_process.carry_on(within_s=0.0):
            pass
        return True

    def _session(self) -> AbstractContextManager[Election]:
        return Election.open(self.database, ROLE, holder=self.holder, silence_s=self.settings.silence_s)

    def _stand_by(self, election: Election) -> None:
        seen: int | None = None
        while not self.stop.is_set() and not election.elect():
            leader = election.last()
            if leader is not None and leader.term != seen:
                seen = leader.term
                self._tell_leader(election)
            self.stop.wait(STAND_BY_S)

    def _tell_leader(self, election: Election) -> None:
        leader = election.last()
        if leader is not None:
            self.tell("standing_by", leader=leader.holder, term=leader.term, since=leader.since)

    def _lead(self, election: Election) -> None:
        jobs, in_process = self._jobs(election)
        self.tell("leading", leader=self.holder, term=jobs.term)
        Term(jobs, schedules(self.service, self.settings), in_process, self.stop).serve()

    def _jobs(self, election: Election) -> tuple[Jobs, InProcess | None]:
        dispatcher = self.service.dispatcher
        in_process = None
        if dispatcher is None and self.settings.carry_on:
            in_process = InProcess(self.service, self.tell, self.observer)
        jobs = Jobs(
            election=election,
            settings=self.settings,
            waker=dispatcher or in_process,
            actor=f"scheduler@{self.holder}",
            tell=self.tell,
            admit=self.service.admit_waiting,
        )
        return jobs, in_process
