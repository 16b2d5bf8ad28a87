"""One worker: a process that reads queues, and as many children as it may carry operations on at a time.

An operation has a child to itself: its hold is not disturbed by what others compute, and what hangs or dies takes
nothing else along. SIGTERM has every step given back at its next check; another worker goes on at once.
"""

from __future__ import annotations

import logging
import mmap
import os
import secrets
import signal
import socket
import warnings
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Final

from celery import Celery, signals
from celery.exceptions import Reject, SecurityWarning

from tenure.engine.observer import Observer, nobody
from tenure.errors import TenureError
from tenure.estate.config import Estate, Fleet
from tenure.operations.queues import queues_for
from tenure.registry.registry import Registry
from tenure.registry.workers import Worker
from tenure.service import Service
from tenure.worker.app import make_app
from tenure.worker.broker import require_fleet
from tenure.worker.dispatcher import TASK, WORKER
from tenure.worker.presence import Presence

log = logging.getLogger(__name__)

LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(processName)s %(name)s: %(message)s"
ServiceOpener = Callable[[Callable[[], bool]], Service]
"""Opens the service in the process that calls it; given is what says whether that process is to stop."""


class StopRequest:
    """One byte that a worker and its children share: set once, by a signal to any of them, and never taken back.

    Safe to use in a signal handler, unlike an `Event`, whose lock the interrupted code may hold.
    """

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 1)

    def make(self) -> None:
        self._shared[0] = 1

    def made(self) -> bool:
        return self._shared[0] == 1


class Looker:
    """What a child does with a message. The service is opened in the child, by its first look, and kept."""

    def __init__(
        self, open_service: ServiceOpener, fleet: Fleet, stop: StopRequest, observer: Observer
    ) -> None:
        self._open = open_service
        self._fleet = fleet
        self._stop = stop
        self._observer = observer
        self._service: Service | None = None

    def look_at(self, operation: str) -> None:
        """Move the operation on as far as it goes now; what goes wrong is in the journal, or the log if that is away.

        Raises `Reject` for a message that has come too late for this worker: another one gets it.
        """
        if self._stop.made():
            raise Reject("the worker ends", requeue=True)
        try:
            if self._service is None:
                signal.signal(signal.SIGTERM, self._asked)  # a supervisor may signal the whole group
                self._service = self._open(self._stop.made)
            left = self._service.look_at(operation, wait_s=self._fleet.sit_out_s, observer=self._observer)
        except TenureError as error:
            log.error("look_failed: %s: %s", operation, error, extra={"action": "look_failed"})
        else:
            log.info("looked: %s is %s (%s)", operation, left.state, left.phase, extra={"action": "looked"})

    def _asked(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._stop.make()


def run(
    estate: Estate,
    registry: Registry,
    open_service: ServiceOpener,
    *,
    purposes: Sequence[str] = (),
    regions: Sequence[str] = (),
    concurrency: int,
    observer: Observer = nobody,
) -> int:
    """Serve the queues of these purposes and regions (all by default) until told to stop; the exit code.

    `registry` is used by this process only, `open_service` in each child.
    """
    fleet, stop = require_fleet(estate), StopRequest()
    queues = queues_for(estate, purposes, regions)
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    app = make_app(estate)
    add_task(app, Looker(open_service, fleet, stop, observer))
    this = Worker(
        id=name,
        kind=WORKER,
        host=socket.gethostname(),
        pid=os.getpid(),
        queues=queues,
        regions=tuple(sorted(regions or {cell.region for cell in estate.cells.values()})),
        slots=concurrency,
    )

    # It is about messages that run code; ours are JSON with one name in it.
    warnings.simplefilter("ignore", SecurityWarning)

    def setup_logging(**_: Any) -> None:
        logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)

    with Presence(registry.workers, this, fleet, stopping=stop.made) as presence:
        signals.setup_logging.connect(setup_logging, weak=False)
        signals.worker_ready.connect(lambda **_: presence.start(), weak=False)
        signals.worker_shutting_down.connect(lambda **_: stop.make(), weak=False)
        worker: Any = app.Worker(
            hostname=f"tenure@{name}",
            pool_cls="prefork",
            concurrency=concurrency,
            queues=list(queues),
            optimization="fair",
            loglevel="INFO",
            quiet=True,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        )
        worker.start()
        return int(worker.exitcode or 0)


def add_task(app: Celery, looker: Looker) -> None:
    """The one task there is: have a look at an operation."""

    def look_at(operation: str) -> None:
        looker.look_at(operation)

    app.task(name=TASK, max_retries=0)(look_at)
