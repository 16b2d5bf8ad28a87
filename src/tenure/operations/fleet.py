"""Whose an operation is: this process runs it, or the fleet does and this process follows; and what a worker does."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from tenure.engine.engine import Engine
from tenure.engine.observer import HandedOver, Observer
from tenure.engine.spec import OperationSpec
from tenure.errors import Interrupted, LeaseLost, StillRunning, StoreUnavailable
from tenure.model.operation import Operation, OperationState
from tenure.operations.deps import Deps
from tenure.operations.follow import Teller, looks

log = logging.getLogger(__name__)

ALWAYS_HERE: Final = frozenset({"rollback", "rehearse"})
"""Kinds of operation that nobody gives to the fleet: a way back must not wait for one. If the process that runs a
rollback dies, a worker carries it on like any other."""


class Fleet:
    """Runs operations here, or has workers run them."""

    def __init__(self, deps: Deps, engine: Engine, spec_of: Callable[[Operation], OperationSpec]) -> None:
        self._deps = deps
        self._engine = engine
        self._spec_of = spec_of

    def run(self, operation: Operation, observer: Observer, *, here: bool) -> Operation:
        """Run the operation in this process, or give it to the fleet if a living worker serves its queue.

        With `here` always in this process. Returns when it rests, in either case. A fleet that cannot be told because
        its broker is away has the operation all the same. Raises `Interrupted` on Ctrl-C: what runs here is given
        back, what the fleet has goes on.
        """
        rests = operation.rests and not self._approved(operation)
        ours = here or operation.kind in ALWAYS_HERE or rests
        dispatcher = None if ours else self._deps.dispatcher
        queue = dispatcher.queue(operation) if dispatcher is not None else ""
        if dispatcher is None or not (workers := dispatcher.living(queue)):
            return self._engine.run(operation.id, self._spec_of(operation), observer=observer)
        since, problem = self._deps.registry.events.last(), None
        try:
            dispatcher.wake(operation, again=True)
        except StoreUnavailable as error:
            problem = error.message
        observer(HandedOver(operation=operation.id, step="", queue=queue, workers=workers, problem=problem))
        return self._follow(operation, since, observer)

    def look_at(self, operation_id: str, observer: Observer, *, wait_s: float) -> Operation:
        """Move an operation on as far as it goes now: what a worker does when it is woken.

        Returns when it rests, when nothing is due within `wait_s`, when somebody else is at it or at its tenant (a
        duplicate of a message ends here), and when this process is to stop; then others are woken. Raises what
        `Engine.run` does otherwise.
        """
        registry, locks = self._deps.registry, self._deps.locks
        operation = registry.operations.get(operation_id)
        registry.workers.drop_wake(operation_id)
        if operation.tenant is not None and locks is not None and locks.held(operation.tenant):
            return self._left_alone(operation_id, f"somebody is at {operation.tenant} now, says its lock")
        try:
            spec = self._spec_of(operation)
            left = self._engine.run(operation_id, spec, observer=observer, wait_s=wait_s)
        except (StillRunning, LeaseLost) as error:
            return self._left_alone(operation_id, str(error))
        finally:
            # What follows a link in this process would go on following when another process is at it.
            self._deps.sessions.close()
        if self._engine.stopping and not left.rests and self._deps.dispatcher is not None:
            self._deps.dispatcher.wake(left, again=True)
        return left

    def _left_alone(self, operation_id: str, because: str) -> Operation:
        log.info(
            "operation_left_alone: %s",
            because,
            extra={"action": "operation_left_alone", "operation": operation_id},
        )
        return self._deps.registry.operations.get(operation_id)

    def _approved(self, operation: Operation) -> bool:
        """It was proposed and may begin."""
        return operation.state is OperationState.PROPOSED and self._deps.registry.approvals.stands(
            operation.id
        )

    def _follow(self, operation: Operation, since: int, observer: Observer) -> Operation:
        teller = Teller(observer)
        try:
            for look in looks(self._deps.registry, operation.id, since=since):
                teller.tell(look)
                operation = look.operation
        except KeyboardInterrupt as error:
            raise Interrupted(
                f"detached: {operation.kind} {operation.id} goes on in the fleet",
                hint=f"`tenure op watch {operation.id}` follows it, `tenure op cancel {operation.id}` ends it",
            ) from error
        return operation
