"""A worker's word that it lives, given again and again in the control database."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from tenure.errors import TenureError
from tenure.estate.config import Fleet
from tenure.registry.workers import Worker, Workers

log = logging.getLogger(__name__)

_LOOK_S: Final = 0.25


class Presence:
    """A thread that notes the worker every `fleet.presence_s` until `stopping` says so, and takes the note back then.

    A control database that is away costs beats, not the thread.
    """

    def __init__(
        self, workers: Workers, worker: Worker, fleet: Fleet, *, stopping: Callable[[], bool]
    ) -> None:
        self._workers = workers
        self._worker = worker
        self._fleet = fleet
        self._stopping = stopping
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=self._fleet.silent_s)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._ended.is_set() and not self._stopping():
            if time.monotonic() >= due:
                due = time.monotonic() + self._fleet.presence_s
                self._try(lambda: self._workers.beat(self._worker, gone_after_s=self._fleet.gone_s))
            self._ended.wait(_LOOK_S)
        self._try(lambda: self._workers.leave(self._worker.id))

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except TenureError as error:
            log.warning("presence_missed: %s", error, extra={"action": "presence_missed"})
