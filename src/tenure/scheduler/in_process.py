"""Carries operations on in the scheduler's own process, one after the other, where there is no fleet."""

from __future__ import annotations

import queue
import threading

from tenure.engine.observer import Observer
from tenure.errors import Interrupted, TenureError
from tenure.model.operation import Operation
from tenure.scheduler.told import Tell
from tenure.service import Service


class InProcess:
    """A `Waker` whose only worker is the thread that calls `carry_on`."""

    def __init__(self, service: Service, tell: Tell, observer: Observer) -> None:
        self._service = service
        self._tell = tell
        self._observer = observer
        self._waiting: queue.SimpleQueue[Operation] = queue.SimpleQueue()
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def wake(self, operation: Operation, *, again: bool = False) -> bool:
        """Put it into the line, unless it waits there already."""
        del again
        with self._lock:
            if operation.id in self._known:
                return True
            self._known.add(operation.id)
        self._waiting.put(operation)
        return True

    def carry_on(self, *, within_s: float) -> bool:
        """Move the next operation on as far as it goes; False if none came within that time.

        What keeps one from going on is told, and the reaper finds it again. Raises `Interrupted` on Ctrl-C.
        """
        try:
            operation = self._waiting.get(timeout=within_s) if within_s else self._waiting.get_nowait()
        except queue.Empty:
            return False
        with self._lock:
            self._known.discard(operation.id)
        try:
            left = self._service.look_at(operation.id, wait_s=0.0, observer=self._observer)
        except Interrupted:
            raise
        except TenureError as error:
            self._tell("left_alone", operation=operation.id, kind=operation.kind, because=error.message)
        else:
            self._tell(
                "carried_on", operation=left.id, kind=left.kind, tenant=left.tenant, state=str(left.state)
            )
        return True
