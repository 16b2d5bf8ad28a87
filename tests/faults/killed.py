"""Runs one command and kills its own process when a named point is reached: `killed CONFIG POINT COMMAND ...`.

A point is the name that a step announces (`switch.fenced`), or `STEP:start` and `STEP:end` for the journal writes
around it; with `:stop` behind it the process stops itself (SIGSTOP) instead. The observer is an ordinary one: the code
under test has no hook for this.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from tenure.cli.output import show_error
from tenure.engine.observer import Notice, PointReached, StepEnded, StepStarted
from tenure.errors import TenureError
from tenure.model.operation import Operation
from tenure.wiring import open_service


class Killer:
    """Ends the process at the point, without any clean-up; or stops it there, the first time that it comes there."""

    def __init__(self, point: str) -> None:
        self._point = point.removesuffix(":stop")
        self._signal = signal.SIGSTOP if point.endswith(":stop") else signal.SIGKILL
        self.seen: list[str] = []

    def __call__(self, notice: Notice) -> None:
        if isinstance(notice, PointReached):
            name = notice.point
        elif isinstance(notice, StepStarted):
            name = f"{notice.step}:start"
        elif isinstance(notice, StepEnded):
            name = f"{notice.step}:end"
        else:
            return
        self.seen.append(name)
        if name == self._point and self.seen.count(name) == 1:
            sys.stdout.flush()
            os.kill(os.getpid(), self._signal)


def main() -> int:
    config, point, command, *rest = sys.argv[1:]
    killer = Killer(point)
    operation: Operation
    try:
        service = open_service(Path(config))
    except TenureError as error:
        show_error(error, as_json=False)
        return 1
    try:
        match command, rest:
            case "migrate", [tenant, cell]:
                operation = service.migrate(tenant, cell, apply=None, observer=killer)
            case "rollback", [tenant]:
                operation = service.rollback(tenant, apply=None, observer=killer)
            case "complete", [tenant]:
                operation = service.complete(tenant, apply=None, observer=killer)
            case "verify", [tenant]:
                operation = service.verify(tenant, repair=False, observer=killer)
            case "resume", [operation_id]:
                operation = service.resume(operation_id, killer)
            case "confirm", [operation_id]:
                operation = service.confirm(operation_id, killer)
            case "rehearse", [tenant]:
                operation = service.rehearse_rollback(tenant, observer=killer)
            case "expire", [tenant]:
                (report,) = service.check_soaks(tenant, end=True, observer=killer)
                assert report.ended is not None
                operation = report.ended
            case "cancel", [operation_id]:
                operation = service.cancel(operation_id, killer)
            case _:
                raise SystemExit(f"unknown command {command} {rest}")
    except TenureError as error:
        show_error(error, as_json=False)
        return 1
    finally:
        service.close()
    print(operation.state)
    print(" ".join(killer.seen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
