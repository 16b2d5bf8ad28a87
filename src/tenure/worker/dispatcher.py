"""Wakes workers: a message per operation, sent only where somebody lives who would read it."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final

from tenure.errors import StoreUnavailable
from tenure.estate.config import Estate
from tenure.model.operation import Operation
from tenure.operations.queues import queue_of
from tenure.registry.registry import Registry
from tenure.worker.broker import broker_name, require_fleet

WORKER: Final = "worker"
"""The kind of process that reads the queues."""
TASK: Final = "tenure.look_at"
"""The one task there is."""


class CeleryDispatcher:
    """Implements `operations.deps.Dispatcher`. Thread-safe; loads Celery and connects when first needed."""

    def __init__(self, estate: Estate, registry: Registry) -> None:
        self._estate = estate
        self._fleet = require_fleet(estate)
        self._workers = registry.workers

    def queue(self, operation: Operation) -> str:
        return queue_of(self._estate, operation)

    def living(self, queue: str) -> int:
        return len(self._workers.living(silent_s=self._fleet.silent_s, kind=WORKER, queue=queue))

    def wake(self, operation: Operation, *, again: bool = False) -> bool:
        queue = self.queue(operation)
        if not self.living(queue):
            return False
        again_after_s = 0.0 if again else self._fleet.wake_again_s
        if not self._workers.note_wake(operation.id, again_after_s=again_after_s):
            return False
        from kombu.exceptions import OperationalError

        try:
            self._app.send_task(TASK, args=[operation.id], queue=queue, retry=False, ignore_result=True)
        except (OperationalError, OSError) as error:
            self._workers.drop_wake(operation.id)
            raise StoreUnavailable(
                f"the broker {broker_name(self._estate)} cannot be reached: {error}",
                hint=f"{operation.id} is in the control database all the same; the scheduler announces it again",
            ) from error
        return True

    def close(self) -> None:
        if "_app" in vars(self):
            self._app.close()

    @cached_property
    def _app(self) -> Any:
        from tenure.worker.app import make_app

        return make_app(self._estate)
