"""Runs one command and kills its own process when a named point is reached: `killed CONFIG POINT COMMAND ...`.

A point is the name that a step announces (`switch.fenced`), or `STEP:start` and `STEP:end` for the journal writes
around it. What befalls the process there instead may stand behind it:

    POINT:stop         it stops itself (SIGSTOP)
    POINT:disconnect   every connection to the control database is ended
    POINT:deliver      the fleet is told of the operation twice more
    POINT:with-PID     that process is killed as well

The observer is an ordinary one: the code under test has no hook for this.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import psycopg

from tenure.cli.output import show_error
from tenure.engine.observer import Notice, PointReached, StepEnded, StepStarted
from tenure.errors import TenureError
from tenure.estate.config import load_estate
from tenure.model.operation import Operation
from tenure.operations.erasing import Wish as ErasureWish
from tenure.operations.restoring import Wish
from tenure.wiring import open_dispatcher, open_registry, open_service


class Killer:
    """Does it the first time that the process comes to the point; killed means without any clean-up."""

    def __init__(self, config: Path, point: str) -> None:
        self._config = config
        self._point, self._blow = point, ""
        for blow in ("stop", "disconnect", "deliver"):
            if point.endswith(f":{blow}"):
                self._point, self._blow = point.removesuffix(f":{blow}"), blow
        self._also, at = None, point.rfind(":with-")
        if at >= 0:
            self._point, self._also = point[:at], int(point[at + len(":with-") :])
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
            self._strike()

    def _strike(self) -> None:
        sys.stdout.flush()
        match self._blow:
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "disconnect":
                end_connections(self._config)
            case "deliver":
                announce(self._config)
            case _:
                if self._also is not None:
                    os.kill(self._also, signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)


def end_connections(config: Path) -> None:
    """End everybody's connections to the control database, as its restart would."""
    with psycopg.connect(load_estate(config).control.dsn.resolve().reveal(), autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"
        )


def announce(config: Path, *, times: int = 2) -> None:
    """Tell the fleet of every operation that is under way, though it knows."""
    estate = load_estate(config)
    registry = open_registry(estate)
    dispatcher = open_dispatcher(estate, registry)
    assert dispatcher is not None
    try:
        under_way = [o for o in registry.operations.list(limit=50) if o.state.active]
        for operation in under_way * times:
            assert dispatcher.wake(operation, again=True)
    finally:
        dispatcher.close()
        registry.close()


def main() -> int:
    config, point, command, *rest = sys.argv[1:]
    killer = Killer(Path(config), point)
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
            case "verify", [tenant]:
                operation = service.verify(tenant, repair=True, observer=killer)
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
            case "restore", [tenant, backup, *options]:
                to = options[0] if options else None
                name = None if tenant == service.backups.get(backup).tenant else tenant
                wish = Wish(backup=backup, to=to, name=name)
                operation = service.restores.restore(wish, apply=None, observer=killer)
            case "backup", [tenant]:
                operation = service.backups.create(tenant, apply=None, observer=killer)
            case "erase", [tenant, *requests]:
                asked = ErasureWish(
                    request=requests[0] if requests else f"req-{tenant}",
                    tenant=tenant,
                    role="processor",
                    ground="end-of-contract",
                )
                operation = service.erasures.erase(asked, apply=None, observer=killer)
            case "drill", [tenant]:
                operation = service.backups.drill(tenant, cell="green", observer=killer)
            case "prune", [tenant]:
                operation = service.backups.prune(tenant, apply=None, observer=killer)
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
