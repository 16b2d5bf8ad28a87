"""Keeps a lease alive while its step runs, and tells the step when it is lost or when a cancel was asked for."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

from tenure.engine.settings import EngineSettings
from tenure.errors import Cancelled, LeaseLost, TenureError
from tenure.model.operation import JsonObject, Lease, Operation
from tenure.registry.steps import Steps

log = logging.getLogger(__name__)

_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Goes on while the machine is suspended, unlike `time.monotonic` on Linux: leases run out meanwhile."""


class HandBack(BaseException):
    """Raised by a check where this process was asked to stop: the step is given back, and another process goes on.

    No error of the step: like Ctrl-C it passes every handler that mends things or tries again.
    """


def never() -> bool:
    """Nobody asks this process to stop."""
    return False


class Heartbeat:
    """A thread that extends one lease every `heartbeat_s` for as long as the context is open.

    `check` is cheap: it looks at what the thread has seen. Only when the lease should have run out by this
    process's own clock (it was paused, the machine was suspended, or the control database was away) does it
    ask the database itself.
    """

    def __init__(
        self,
        steps: Steps,
        lease: Lease,
        settings: EngineSettings,
        *,
        heeds_cancel: bool,
        stopping: Callable[[], bool] = never,
    ) -> None:
        self._steps = steps
        self._lease = lease
        self._settings = settings
        self._heeds_cancel = heeds_cancel
        self._stopping = stopping
        self._cancelled = threading.Event()
        self._lost: LeaseLost | None = None
        self._until = time.clock_gettime(_CLOCK) + settings.lease_ttl_s
        self._ended = threading.Event()
        self._progress: dict[str, JsonObject] = {}
        self._lock = threading.Lock()
        self._beating = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"heartbeat-{lease.token}", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(timeout=self._settings.lease_ttl_s)

    def check(self) -> None:
        """Return if the step may go on.

        Raises `LeaseLost`, `Cancelled`, why the database does not answer, or `HandBack` if this process is to stop.
        """
        if self._lost is None and time.clock_gettime(_CLOCK) >= self._until:
            self._beat()
        if self._lost is not None:
            raise self._lost
        if self._cancelled.is_set():
            raise Cancelled(
                f"{self._lease.operation} is to be cancelled",
                hint=f"`tenure op watch {self._lease.operation}`",
            )
        if self._stopping():
            raise HandBack

    def wait(self, seconds: float) -> None:
        """Wait that long, and raise as `check` does as soon as there is a reason."""
        deadline = time.monotonic() + seconds
        self.check()
        while (left := deadline - time.monotonic()) > 0:
            self._cancelled.wait(min(left, self._settings.poll_s))
            self.check()

    def report(self, what: str, progress: JsonObject) -> None:
        """Have the next beat write how far the step is with that."""
        with self._lock:
            self._progress[what] = progress

    def committed(self) -> None:
        """From now on a cancel is not heeded: the operation is past its point of no return."""
        self._heeds_cancel = False
        self._cancelled.clear()

    def renew(self) -> tuple[Lease, Operation]:
        """Exchange the token for a new one, and give the operation as it was then.

        Whatever was sent with the old token and has not arrived yet will be refused. Raises `LeaseLost`.
        """
        with self._beating:
            self._lease, operation = self._steps.renew(self._lease)
        return self._lease, operation

    def _run(self) -> None:
        while not self._ended.wait(self._settings.heartbeat_s):
            try:
                self._beat()
            except TenureError as error:
                # The database may be back before the lease runs out; if not, `check` asks and raises.
                log.warning(
                    "heartbeat_missed",
                    extra={"action": "heartbeat_missed", "operation": self._lease.operation},
                )
                log.debug("heartbeat of %s: %s", self._lease.operation, error)
            if self._lost is not None:
                return

    def _beat(self) -> None:
        with self._beating:
            self._extend()

    def _extend(self) -> None:
        began = time.clock_gettime(_CLOCK)
        with self._lock:
            progress = dict(self._progress) or None
        try:
            cancel = self._steps.heartbeat(self._lease, ttl_s=self._settings.lease_ttl_s, progress=progress)
        except LeaseLost as error:
            self._lost = error
            return
        self._until = began + self._settings.lease_ttl_s
        if cancel and self._heeds_cancel:
            self._cancelled.set()
