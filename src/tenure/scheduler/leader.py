"""One term: APScheduler calls the jobs, a thread keeps the session alive, and the calling thread carries on what it is
given where there is no fleet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from tenure.errors import LeaseLost, TenureError
from tenure.scheduler.in_process import InProcess
from tenure.scheduler.jobs import Jobs
from tenure.scheduler.schedule import Schedule, every

BEATS_PER_SILENCE: Final = 4
IDLE_S: Final = 0.2


class Term:
    """Leads until the session is lost, `stop` is set, or a job fails in a way that nobody thought of."""

    def __init__(
        self, jobs: Jobs, schedules: Sequence[Schedule], in_process: InProcess | None, stop: threading.Event
    ) -> None:
        self._jobs = jobs
        self._schedules = schedules
        self._in_process = in_process
        self._stop = stop
        self._over = threading.Event()
        self._why: BaseException | None = None
        self._said: dict[str, str] = {}

    def serve(self) -> None:
        """Return when `stop` is set. Raises `LeaseLost` when somebody else may lead."""
        timer = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(max_workers=len(self._schedules) + 1)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        settings = self._jobs.settings
        timer.add_job(self._guarded("wake", self._jobs.wake), every(settings.tick_s), next_run_time=_now())
        for schedule in self._schedules:
            job = self._guarded(schedule.name, partial(self._jobs.fire, schedule))
            timer.add_job(job, schedule.trigger, next_run_time=_now())
        beat = threading.Thread(target=self._beat, name="leader-beat", daemon=True)
        beat.start()
        timer.start()
        try:
            while not self._over.is_set() and not self._stop.is_set():
                if self._in_process is None:
                    self._over.wait(IDLE_S)
                else:
                    self._in_process.carry_on(within_s=IDLE_S)
        finally:
            self._over.set()
            timer.shutdown(wait=True)
            beat.join()
        if self._why is not None:
            raise self._why

    def _beat(self) -> None:
        pause_s = self._jobs.settings.silence_s / BEATS_PER_SILENCE
        beat = self._guarded("beat", self._jobs.election.beat)
        while not self._over.wait(pause_s):
            beat()

    def _guarded(self, name: str, job: Callable[[], None]) -> Callable[[], None]:
        """The job with its errors dealt with: what may pass by itself is told and tried again the next time."""

        def run() -> None:
            if self._over.is_set():
                return
            try:
                job()
            except LeaseLost as error:
                self._end(error)
            except TenureError as error:
                if self._said.get(name) != error.message:
                    self._said[name] = error.message
                    self._jobs.tell("failed", job=name, because=error.message)
            except BaseException as error:  # noqa: BLE001  (raised again by `serve`)
                self._end(error)
            else:
                self._said.pop(name, None)

        return run

    def _end(self, why: BaseException) -> None:
        self._why = self._why or why
        self._over.set()


def _now() -> datetime:
    return datetime.now(UTC)
