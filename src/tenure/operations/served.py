"""One tenant's stores in the cell that serves it, and the threads to drive several of them at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from tenure.errors import DeadlineExceeded
from tenure.model.names import CellName, StoreName, TenantId
from tenure.stores.contract import Store

R = TypeVar("R")


class StoresOfCells(Protocol):
    """Where the stores come from."""

    def store(self, cell: CellName, name: StoreName) -> Store: ...


class Crew:
    """Threads that work on several stores at once, for one tenant."""

    def __init__(self, name: str, *, workers: int) -> None:
        self._name = name
        self._pool = ThreadPoolExecutor(max_workers=max(4, workers), thread_name_prefix=name)
        self._overdue: set[Future[Any]] = set()

    def each(self, work: Callable[[StoreName], R], names: Iterable[StoreName]) -> dict[StoreName, R]:
        """Run `work` for these stores in parallel; return the results by store.

        Waits for all of them, then raises the first error in the stores' order: nothing is left running behind.
        """
        chosen = list(names)
        if len(chosen) == 1:
            return {chosen[0]: work(chosen[0])}
        futures: dict[StoreName, Future[R]] = {name: self._pool.submit(work, name) for name in chosen}
        wait(futures.values())
        return {name: future.result() for name, future in futures.items()}

    def begin(self, work: Callable[[], R]) -> Future[R]:
        """Run `work` beside everything else; `outcome` says what became of it."""
        begun: Future[R] = Future()

        def run() -> None:
            try:
                begun.set_result(work())
            except BaseException as error:  # noqa: BLE001  (raised again by `outcome`)
                begun.set_exception(error)

        threading.Thread(target=run, name=f"begun-{self._name}", daemon=True).start()
        return begun

    def outcome(self, begun: Future[R], left_s: float, what: str) -> R:
        """What came of it; raises `DeadlineExceeded` after `left_s`, whatever it does then.

        For what waits on the far side while users wait on this one. It may still be under way when the tenant's cell
        opens again, so it must change nothing that this restores. `await_overdue` waits for its end.
        """
        wait([begun], timeout=left_s)
        if not begun.done():
            self._overdue.add(begun)
            raise DeadlineExceeded(
                f"{what}: no answer within the hold budget",
                hint="the server, or the network on the way to it, does not answer; the hold is tried again",
            )
        return begun.result()

    def leave(self, begun: Future[Any]) -> None:
        """Not to wait for it here, but `await_overdue` is to."""
        self._overdue.add(begun)

    def await_overdue(self) -> None:
        """Wait for the end of what `outcome` has left behind: the timeouts of connections end it."""
        wait(self._overdue)
        self._overdue.clear()

    def close(self) -> None:
        """Wait for what is under way, and end the threads. Idempotent."""
        self.await_overdue()
        self._pool.shutdown(wait=True)


@dataclass(frozen=True, kw_only=True)
class Served:
    """The stores of `cell` that are fenced for the tenant together."""

    tenant: TenantId
    cell: CellName
    names: Sequence[StoreName]
    factory: StoresOfCells
    crew: Crew

    def store(self, name: StoreName) -> Store:
        return self.factory.store(self.cell, name)

    def each(
        self, work: Callable[[StoreName], R], names: Iterable[StoreName] | None = None
    ) -> dict[StoreName, R]:
        """As `Crew.each`, for all of them by default."""
        return self.crew.each(work, self.names if names is None else names)

    def each_anchored(self, work: Callable[[StoreName], R]) -> dict[StoreName, R]:
        """For all stores with a fence of their own, but first those that remember the newest token for good: if one of
        them refuses a stale holder, nothing else is touched."""
        return {**self.each(work, self.draining()), **self.each(work, self.others())}

    def draining(self) -> list[StoreName]:
        """Stores whose fence waits for open work, and therefore goes down first."""
        return [n for n in self.fenced() if self.store(n).capabilities.fence_drains]

    def others(self) -> list[StoreName]:
        """Stores with a fence of their own that does not wait."""
        drains = set(self.draining())
        return [n for n in self.fenced() if n not in drains]

    def riders(self) -> list[StoreName]:
        """Stores whose fence is another one's: they are fenced and opened with it."""
        return [n for n in self.names if self.store(n).capabilities.fenced_with is not None]

    def fenced(self) -> list[StoreName]:
        """Stores with a fence of their own."""
        riders = set(self.riders())
        return [n for n in self.names if n not in riders]
