"""Carries a schedule out: a thread for each tenant's commands, one for the outages, and then everything is healed.

What a blow leaves behind is mended as a user would do it: `op resume` or `op cancel`, again until the operation has
ended.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from bench.chaos.carrier import Carrier, run
from bench.chaos.journal import Journal
from bench.chaos.schedule import Blow, Command, How, Outage, Schedule, Then, Turn
from tenure.errors import StoreUnavailable, TenureError
from tenure.estate.config import load_estate
from tenure.estate.local.cell_plans import CELLS
from tenure.model.names import TenantId
from tenure.model.operation import Operation, OperationState
from tenure.registry.links import Link
from tenure.registry.registry import Registry
from tenure.wiring import open_registry
from tests.estate import TestEstate
from tests.faults.network import Network

T = TypeVar("T")

RECOVERY_S: Final = 300.0
"""How long a user tries to carry an operation on before it counts as stuck: the longest outage, a lease, some
attempts."""
_AGAIN_S: Final = 0.5
_NOT_ALLOWED, _STILL_RUNNING = 4, 8


class Lanes:
    """One run. `network` is the estate as Tenure sees it."""

    def __init__(self, network: Network, schedule: Schedule, journal: Journal) -> None:
        self._network = network
        self._estate: TestEstate = network.estate
        self._schedule = schedule
        self._journal = journal
        self._registry: Registry = open_registry(load_estate(self._estate.config))
        self._over = threading.Event()
        self.turns_done = 0

    def run(self) -> None:
        """Go on for the schedule's time; then end what is under way and make everything whole again."""
        lanes = [
            threading.Thread(
                target=self._guarded, args=(lambda t=tenant: self._lane(t),), name=f"lane-{tenant}"
            )
            for tenant in self._schedule.turns
        ]
        lanes.append(threading.Thread(target=self._guarded, args=(self._outages,), name="outages"))
        for thread in lanes:
            thread.start()
        try:
            self._over.wait(self._schedule.seconds)
        finally:
            self._over.set()
            for thread in lanes:
                thread.join()
        self._heal()

    def close(self) -> None:
        self._registry.close()

    def _guarded(self, lane: Callable[[], None]) -> None:
        try:
            lane()
        except Exception as error:
            self._journal.violation(f"the run itself failed: {type(error).__name__}: {error}")
            raise

    # -- commands ----------------------------------------------------------------------------------------------------

    def _lane(self, tenant: str) -> None:
        for turn in self._schedule.turns[tenant]:
            if self._over.wait(turn.rest_s):
                return
            self._turn(tenant, turn)
            self.turns_done += 1

    def _turn(self, tenant: str, turn: Turn) -> None:
        command, args = self._command(tenant, turn)
        point = turn.points[command] if turn.blow.at_point else None
        self._journal.note(
            "turn", tenant=tenant, turn=turn.number, command=command, blow=turn.blow, point=point or ""
        )
        self._journal.count("blows", turn.blow)
        stopping = f"{point}:stop" if turn.blow is Blow.PAUSE_AT else point
        process = Carrier(self._estate, self._journal, args, point=stopping)
        began = time.time()
        match turn.blow:
            case Blow.NONE | Blow.KILL_AT:
                process.finish()
            case Blow.KILL_AFTER:
                if process.wait(turn.after_s) is None:
                    process.kill()
            case Blow.PAUSE_AT:
                if process.wait_until_stopped() is None:
                    self._paused(tenant, turn, process)
            case Blow.PAUSE_AFTER:
                if process.wait(turn.after_s) is None:
                    process.freeze()
                    self._paused(tenant, turn, process)
            case Blow.CANCEL_AFTER:
                if process.wait(turn.after_s) is None:
                    self._cancelled(tenant)
                    process.finish()
        self._recover(tenant, turn.then)
        if turn.blow is not Blow.NONE:
            self._journal.struck[tenant].append((began, time.time()))

    def _command(self, tenant: str, turn: Turn) -> tuple[Command, tuple[str, ...]]:
        """The turn's command as it is possible now."""
        link, cell = self._look(tenant)
        command = turn.command if link is not None else Command.MIGRATE
        match command:
            case Command.MIGRATE:
                others = [c.name for c in CELLS if c.name != cell]
                follows = [c for c in (link.cell_a, link.cell_b) if c != cell] if link else []
                target = follows[0] if follows else others[turn.cell]
                return command, ("migrate", tenant, "--to", target)
            case Command.COMPLETE:
                return command, ("complete", tenant, "--yes", tenant)
            case Command.REHEARSE:
                return command, ("rollback", tenant, "--rehearse")
            case _:
                return command, (str(command), tenant)

    def _look(self, tenant: str) -> tuple[Link | None, str]:
        known = TenantId(tenant)
        return self._asked(
            lambda: (self._registry.links.active(known), str(self._registry.placements.get(known).cell))
        )

    def _paused(self, tenant: str, turn: Turn, process: Carrier) -> None:
        """Someone else takes over what a sleeping process does; or it wakes up in time and goes on."""
        if turn.takeover:
            self._recover(tenant, turn.then)
        else:
            time.sleep(turn.pause_s)  # it is the length of the pause
        process.wake()
        process.finish()

    def _cancelled(self, tenant: str) -> None:
        operation = self._active(tenant)
        if operation is not None:
            run(self._estate, self._journal, "op", "cancel", operation.id)

    # -- recovery ----------------------------------------------------------------------------------------------------

    def _recover(self, tenant: str, then: Then) -> None:
        """Carry the tenant's operation on, or cancel it, until it has ended."""
        deadline = time.monotonic() + RECOVERY_S
        while (operation := self._active(tenant)) is not None:
            if time.monotonic() > deadline:
                self._journal.violation(
                    f"{operation.kind} {operation.id} of {tenant} is stuck: {operation.error}"
                )
                return
            if operation.state is OperationState.AWAITING:
                run(self._estate, self._journal, "drift", tenant, "--repair")
                run(self._estate, self._journal, "op", "confirm", operation.id)
                continue
            cancels = then is Then.CANCEL and operation.committed_at is None
            tried = run(self._estate, self._journal, "op", "cancel" if cancels else "resume", operation.id)
            if tried.exit_code == _NOT_ALLOWED:
                then = Then.RESUME  # past its point of no return meanwhile
            if tried.exit_code != 0:
                time.sleep(2.0 if tried.exit_code == _STILL_RUNNING else _AGAIN_S)

    def _active(self, tenant: str) -> Operation | None:
        return self._asked(lambda: self._registry.operations.active_for(TenantId(tenant)))

    def _asked(self, question: Callable[[], T]) -> T:
        """What the control database says, as soon as it says anything."""
        deadline = time.monotonic() + RECOVERY_S
        while True:
            try:
                return question()
            except (StoreUnavailable, TenureError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(_AGAIN_S)

    def _heal(self) -> None:
        for tenant in self._schedule.turns:
            self._recover(tenant, Then.RESUME)
        for tenant in self._schedule.turns:
            deadline = time.monotonic() + RECOVERY_S
            while self._look(tenant)[0] is not None:
                if time.monotonic() > deadline:
                    self._journal.violation(f"the move of {tenant} cannot be completed")
                    break
                if run(self._estate, self._journal, "complete", tenant, "--yes", tenant).exit_code != 0:
                    self._recover(tenant, Then.RESUME)
                    time.sleep(_AGAIN_S)

    # -- outages -----------------------------------------------------------------------------------------------------

    def _outages(self) -> None:
        for outage in self._schedule.outages:
            if self._over.wait(outage.rest_s):
                return
            self._journal.note("outage", down=outage.what, how=outage.how, for_s=outage.for_s)
            self._journal.count("outages", f"{outage.how} {outage.what}")
            began = time.time()
            back = self._take_down(outage)
            self._over.wait(outage.for_s)
            back()
            self._journal.outages.append((began, time.time(), outage.what))
            self._journal.note("outage over", up=outage.what)

    def _take_down(self, outage: Outage) -> Callable[[], None]:
        """Take it down; what is given back brings it up again."""
        running = self._estate.local.running
        match outage.how:
            case How.CUT:
                self._network.cut(outage.what)
                return lambda: self._network.heal(outage.what)
            case How.FREEZE:
                pid = running.status().servers[outage.what].pid
                assert pid is not None, f"{outage.what} does not run"
                os.kill(pid, signal.SIGSTOP)
                return lambda: os.kill(pid, signal.SIGCONT)
            case How.KILL:
                running.stop(outage.what, signal.SIGKILL)
            case How.RESTART:
                running.stop(outage.what)
        return lambda: running.start(outage.what)
