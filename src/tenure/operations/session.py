"""The live objects of one link in one process: a copy per store in each direction, and the threads to drive them.

A session holds nothing that cannot be made again: after a crash another process builds one from the link's name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from tenure.errors import EvidenceStale, LeaseLost
from tenure.model.comparison import Comparison
from tenure.model.names import CellName, StoreName, TenantId
from tenure.operations.served import Crew, Served
from tenure.stores.contract import Fence, LiveCopy, Store

R = TypeVar("R")


class StoreFactory(Protocol):
    """Makes the adapters of the estate. Stores are shared and kept; copies belong to the session that asked."""

    def names(self) -> Sequence[StoreName]:
        """All stores, which every cell has."""

    def moving(self) -> Sequence[StoreName]:
        """Those that have a live copy; a move leaves the data of the others where they are (`Capabilities.stays`)."""

    def store(self, cell: CellName, name: StoreName) -> Store: ...
    def copy(
        self, link: str, name: StoreName, tenant: TenantId, source: CellName, target: CellName
    ) -> LiveCopy: ...
    def close(self) -> None: ...


@dataclass(kw_only=True)
class Verification:
    """The full comparison of one store and what was compared again since. `at` is monotonic seconds."""

    full: Comparison
    at: float
    seconds: float


@dataclass(kw_only=True)
class Session:
    """One tenant's link seen from the cell that serves it (`source`) towards the one that follows (`target`)."""

    link: str
    tenant: TenantId
    source: CellName
    target: CellName
    factory: StoreFactory
    copies: dict[StoreName, LiveCopy] = field(default_factory=dict)
    reverse: dict[StoreName, LiveCopy] = field(default_factory=dict)
    verified: dict[StoreName, Verification] = field(default_factory=dict)
    started: bool = False
    crew: Crew | None = None

    def __post_init__(self) -> None:
        for name in self.factory.moving():
            if name not in self.copies:
                self.copies[name] = self.factory.copy(self.link, name, self.tenant, self.source, self.target)
        if self.crew is None:
            self.crew = Crew(f"link-{self.link[:8]}", workers=len(self.copies))

    # -- driving several stores at once ------------------------------------------------------------------------------

    @property
    def served(self) -> Served:
        """The stores of the link in the cell that serves the tenant."""
        assert self.crew is not None
        return Served(
            tenant=self.tenant,
            cell=self.source,
            names=tuple(self.copies),
            factory=self.factory,
            crew=self.crew,
        )

    def each(
        self, work: Callable[[StoreName], R], names: Iterable[StoreName] | None = None
    ) -> dict[StoreName, R]:
        """Run `work` for these stores (all by default) in parallel: see `Crew.each`."""
        return self.served.each(work, names)

    def begin(self, work: Callable[[], R]) -> Future[R]:
        """Run `work` beside everything else: see `Crew.begin`."""
        return self.served.crew.begin(work)

    def outcome(self, begun: Future[R], left_s: float, what: str) -> R:
        """What came of it: see `Crew.outcome`."""
        return self.served.crew.outcome(begun, left_s, what)

    def await_overdue(self) -> None:
        """Wait for the end of what `outcome` has left behind."""
        self.served.crew.await_overdue()

    def each_anchored(self, work: Callable[[StoreName], R]) -> dict[StoreName, R]:
        """As `each`, but first the stores that remember the newest token for good: see `Served.each_anchored`."""
        return self.served.each_anchored(work)

    def stores(self, cell: CellName) -> Mapping[StoreName, Store]:
        return {name: self.factory.store(cell, name) for name in self.copies}

    def source_store(self, name: StoreName) -> Store:
        return self.factory.store(self.source, name)

    def target_store(self, name: StoreName) -> Store:
        return self.factory.store(self.target, name)

    def draining(self) -> list[StoreName]:
        """Stores whose fence waits for open work, and therefore goes down first."""
        return self.served.draining()

    def others(self) -> list[StoreName]:
        """Stores with a fence of their own that does not wait."""
        return self.served.others()

    def riders(self) -> list[StoreName]:
        """Stores whose fence is another one's: they are fenced and opened with it."""
        return self.served.riders()

    def fenced(self) -> list[StoreName]:
        """Stores with a fence of their own."""
        return self.served.fenced()

    # -- phases ------------------------------------------------------------------------------------------------------

    def start(self, fence: Fence) -> None:
        """Fence the target and start (or carry on) every copy. Idempotent, and cheap once started in this process."""
        if self.started:
            return
        self.each_anchored(lambda n: self.target_store(n).fence(fence, expires_in_s=None, drain_s=5.0))
        # What holds the fence and the journal goes first: the others' first pass relies on both.
        for names in (self.draining(), self.others(), self.riders()):
            self.each(lambda n: self.copies[n].start(fence), names)
        self.started = True

    def displaced(self) -> bool:
        """Whether another process has taken over one of the copies since they were started here."""
        try:
            for copy in self.copies.values():
                copy.progress()
        except LeaseLost:
            return True
        return False

    def compare(
        self, progress: Callable[[StoreName, int], None], names: Iterable[StoreName] | None = None
    ) -> dict[StoreName, Verification]:
        """Compare everything in these stores. What is equal counts as evidence from then on, what differs does not."""

        def one(name: StoreName) -> Verification:
            self.verified.pop(name, None)
            began = time.monotonic()
            full = self.copies[name].compare(progress=lambda items: progress(name, items))
            seen = Verification(full=full, at=began, seconds=time.monotonic() - began)
            if full.equal:
                self.verified[name] = seen
            return seen

        return self.each(one, names)

    def require_evidence(self) -> None:
        """Raise `EvidenceStale` unless this process has compared every store in full."""
        missing = [n for n in self.copies if n not in self.verified]
        if missing:
            raise EvidenceStale(f"no comparison of {', '.join(missing)} in this process yet")

    def compare_changed(self) -> dict[StoreName, Comparison]:
        """Compare what changed since the last comparison of each store. Raises `EvidenceStale` without one."""
        self.require_evidence()
        return self.each(lambda n: self.copies[n].compare_changed())

    def oldest_evidence_s(self) -> float:
        """Age of the oldest full comparison in seconds; infinite without one."""
        if any(n not in self.verified for n in self.copies):
            return float("inf")
        return time.monotonic() - min(v.at for v in self.verified.values())

    def claim(self, fence: Fence) -> None:
        """Have every store of both cells refuse older holders from now on."""
        self.each_anchored(lambda n: self.source_store(n).claim(fence))
        self.each_anchored(lambda n: self.target_store(n).claim(fence))

    def arm(self, fence: Fence) -> None:
        """Arm the copies in the other direction. Idempotent."""
        if not self.reverse:
            self.reverse = self.each(lambda n: self.copies[n].arm_reverse(fence))

    def turned(self) -> Session:
        """The same link after its switch: the reverse copies lead, the former ones are let go of."""
        for copy in self.copies.values():
            copy.detach()
        return Session(
            link=self.link,
            tenant=self.tenant,
            source=self.target,
            target=self.source,
            factory=self.factory,
            copies=dict(self.reverse),
            crew=self.crew,
        )

    def detach(self) -> None:
        """Let go of this process's threads and connections; what the link created in the stores stays."""
        self.await_overdue()
        for copy in (*self.copies.values(), *self.reverse.values()):
            copy.detach()
        self.served.crew.close()


class Sessions:
    """The sessions of this process, one per link, always seen from the cell that serves."""

    def __init__(self, factory: StoreFactory) -> None:
        self._factory = factory
        self._open: dict[str, Session] = {}

    def get(self, link: str, tenant: TenantId, source: CellName, target: CellName) -> Session:
        """The session of that link and direction; one of the other direction is dropped and made anew."""
        session = self._open.get(link)
        if session is not None and session.source != source:
            session.detach()
            session = None
        if session is None:
            session = Session(link=link, tenant=tenant, source=source, target=target, factory=self._factory)
            self._open[link] = session
        return session

    def turn(self, session: Session) -> Session:
        turned = session.turned()
        self._open[session.link] = turned
        return turned

    def drop(self, link: str) -> None:
        session = self._open.pop(link, None)
        if session is not None:
            session.detach()

    def close(self) -> None:
        for link in list(self._open):
            self.drop(link)
