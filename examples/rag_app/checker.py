"""Judges a history in the style of Jepsen: is there an order of the requests that explains every answer?

Pure: it knows what the load generator wrote down (`rag_app.history`) and which cell served each tenant when, and
nothing else. What it proves, and what it cannot, is in `docs/verification.md`.

Pinecone is not judged: what it shows may be of some time ago, by its own rules. That it ends up with every acknowledged
version, and that no usage event is lost on its way to analytics, is what `rag_app.verify` looks for.

Each key in each store is a register of its own (a counter counts up). It is linearizable if every request can be
given an instant between its begin and its answer such that, in the order of these instants, each read shows what was
written last. An acknowledged write happened once, while its cell served the tenant; a refused one did not happen, and
one without an answer may have happened at any time after its begin, or never. The search is the one of Wing and Gong
as Lowe has it (doi:10.1002/cpe.3928): it goes through the answers in their order and keeps every state that the
register may be in.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from rag_app.history import ABSENT, History, Op, Outcome, Request

POSTGRES, OBJECTS, REDIS = "postgres", "objects", "redis"
_STORE_READ_BY: Final = {
    Op.GET: POSTGRES,
    Op.SEARCH: POSTGRES,
    Op.FILE: OBJECTS,
    Op.GET_COUNTER: REDIS,
    Op.GET_SESSION: REDIS,
}
_STORES_WRITTEN_BY: Final = {
    Op.CREATE: (POSTGRES, OBJECTS),
    Op.UPDATE: (POSTGRES, OBJECTS),
    Op.DELETE: (POSTGRES, OBJECTS),
    Op.COUNT: (REDIS,),
    Op.PUT_SESSION: (REDIS,),
}


class Anomaly(StrEnum):
    LOST = "lost write"
    """An acknowledged write that no read showed again, from some read on."""
    STALE = "stale read"
    """A read that showed less than had been acknowledged, or seen, before it began; a later one showed it again."""
    NOWHERE = "value from nowhere"
    """An answer that no write explains: never written, refused, written only later, or counted twice."""
    TWO_WRITERS = "two writers"
    """A write that a cell acknowledged without having served the tenant at any instant of the request."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """From `since` on (seconds since 1970) the cell served the tenant, until the next one did."""

    cell: str
    since: float


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that must not be, with the request that shows it."""

    anomaly: Anomaly
    store: str
    request: Request
    detail: str

    def as_dict(self) -> dict[str, Any]:
        r = self.request
        return {
            "anomaly": str(self.anomaly),
            "tenant": r.tenant,
            "key": r.key,
            "store": self.store,
            "request": str(r.op),
            "cell": r.cell,
            "start": r.start,
            "end": r.end,
            "detail": self.detail,
        }


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was looked at and what was found."""

    findings: tuple[Finding, ...]
    registers: int
    reads: int
    writes_acked: int
    writes_unknown: int
    reads_elsewhere: int
    """Answered by a cell that did not serve the tenant at any instant of the request: by the former one, between the
    change of the placement and the opening of the new cell. They may show nothing old all the same."""

    @property
    def clean(self) -> bool:
        return not self.findings

    def as_dict(self) -> dict[str, Any]:
        return {
            "registers": self.registers,
            "reads": self.reads,
            "writes_acked": self.writes_acked,
            "writes_unknown": self.writes_unknown,
            "reads_elsewhere": self.reads_elsewhere,
            "anomalies": dict(Counter(str(f.anomaly) for f in self.findings)),
            "findings": [f.as_dict() for f in self.findings],
        }


def check(history: History, served: Mapping[str, Sequence[Served]]) -> Verdict:
    """Judge a history of tenants of which `served` has every placement, the oldest first. No canary may have run."""
    findings: list[Finding] = []
    registers: defaultdict[tuple[str, str, str], list[_Act]] = defaultdict(list)
    told: Counter[str] = Counter()
    for request in history.requests:
        if not request.key or request.outcome is Outcome.REFUSED:
            continue
        if not request.is_write and request.outcome is not Outcome.OK:
            continue
        told["read" if not request.is_write else request.outcome] += 1
        window = _window(request, served[request.tenant])
        if window is None and request.is_write:
            findings.append(_elsewhere(request, served[request.tenant]))
        told["elsewhere"] += window is None and not request.is_write
        begin, end = window if window and request.is_write else (request.start, request.end)
        if request.outcome is not Outcome.OK:
            end = math.inf
        for store in _STORES_WRITTEN_BY[request.op] if request.is_write else (_STORE_READ_BY[request.op],):
            registers[request.tenant, request.key, store].append(_Act(request, begin, end))
    for (_, _, store), acts in registers.items():
        findings += _Register(store, acts).findings()
    return Verdict(
        findings=tuple(findings),
        registers=len(registers),
        reads=told["read"],
        writes_acked=told[Outcome.OK],
        writes_unknown=told[Outcome.UNKNOWN],
        reads_elsewhere=told["elsewhere"],
    )


# -- one writer ------------------------------------------------------------------------------------------------------


def _window(request: Request, served: Sequence[Served]) -> tuple[float, float] | None:
    """The part of a request in which the cell that answered it served the tenant; None if there is none.

    Nothing is known of a request that no cell answered.
    """
    if not request.cell or request.outcome is not Outcome.OK:
        return request.start, request.end
    parts = [
        (max(since, request.start), min(until, request.end))
        for cell, since, until in _stretches(served)
        if cell == request.cell and since <= request.end and until >= request.start
    ]
    return (parts[0][0], parts[-1][1]) if parts else None


def _stretches(served: Sequence[Served]) -> Iterator[tuple[str, float, float]]:
    """Each cell with the first and the last instant at which it served."""
    ends = [math.nextafter(later.since, 0) for later in served[1:]] + [math.inf]
    for placed, until in zip(served, ends, strict=True):
        yield placed.cell, placed.since, until


def _elsewhere(request: Request, served: Sequence[Served]) -> Finding:
    then = [
        f"{cell} from {since:.6f}"
        for cell, since, until in _stretches(served)
        if since <= request.end and until >= request.start
    ]
    return Finding(
        anomaly=Anomaly.TWO_WRITERS,
        store="",
        request=request,
        detail=f"{request.cell} answered a request of {request.start:.6f} to {request.end:.6f}, while the tenant was "
        f"served by {', '.join(then) or 'no cell'}",
    )


# -- one register ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Act:
    """A request and the instants between which it happened; `end` is infinite for one without an answer."""

    request: Request
    begin: float
    end: float

    @property
    def reads(self) -> bool:
        return not self.request.is_write

    @property
    def value(self) -> int:
        """What a read showed, a write left behind, or counting up answered."""
        if self.reads:
            return self.request.found
        return ABSENT if self.request.op is Op.DELETE else self.request.version

    def after(self, state: int) -> int | None:
        """The register's state after this, if it can happen in that state."""
        if self.request.op is Op.COUNT:
            possible = self.end == math.inf or state + 1 == self.value
            return state + 1 if possible else None
        if self.reads:
            return state if state == self.value else None
        return self.value


_State = tuple[int, frozenset[int]]
"""A value, and which of the acts that have begun have happened (those with an answer are left out)."""


class _Register:
    """One key in one store."""

    def __init__(self, store: str, acts: Iterable[_Act]) -> None:
        self._store = store
        self._acts = sorted(acts, key=lambda act: act.begin)
        self._states: set[_State] = {(ABSENT, frozenset())}
        self._open: list[int] = []

    def findings(self) -> list[Finding]:
        """Go through begins and answers in their order. After an answer that cannot be, go on without it."""
        if not any(act.reads or act.request.op is Op.COUNT for act in self._acts):
            return []
        found = []
        for _, answered, number in sorted(self._events()):
            if not answered:
                self._open.append(number)
                continue
            states = self._states_after(number)
            self._open.remove(number)
            if states:
                self._states = states
                continue
            act = self._acts[number]
            found.append(self._finding(act))
            if not act.reads:
                self._states = {(act.value, done - {number}) for _, done in self._states}
        return found

    def _events(self) -> Iterator[tuple[float, bool, int]]:
        for number, act in enumerate(self._acts):
            yield act.begin, False, number
            if act.end < math.inf:
                yield act.end, True, number

    def _states_after(self, number: int) -> set[_State]:
        """Every state that the register may be in when this act has its answer."""
        after: set[_State] = set()
        seen, ahead = set(self._states), list(self._states)
        while ahead:
            state, done = ahead.pop()
            if number in done:
                after.add((state, done - {number}))
                continue
            for candidate in self._candidates(done):
                value = self._acts[candidate].after(state)
                new = None if value is None else (value, done | {candidate})
                if new is not None and new not in seen:
                    seen.add(new)
                    ahead.append(new)
        return after

    def _candidates(self, done: frozenset[int]) -> Iterator[int]:
        """What may happen next. Of the unanswered counts, which are all alike, only the one that began first."""
        unanswered_count = False
        for number in self._open:
            act = self._acts[number]
            if number in done:
                continue
            if act.request.op is Op.COUNT and act.end == math.inf:
                if unanswered_count:
                    continue
                unanswered_count = True
            yield number

    def _finding(self, act: _Act) -> Finding:
        newest = self._newest_before(act)
        return Finding(
            anomaly=self._anomaly(act, newest),
            store=self._store,
            request=act.request,
            detail=f"{act.request.op} shows {_shown(act.value)} at {act.begin:.6f} to {act.end:.6f} in "
            f"{act.request.cell or 'no cell'}; possible: "
            f"{', '.join(sorted(_shown(state) for state, _ in self._states))}"
            + (
                f"; {newest.request.op} of {_shown(newest.value)} was acknowledged at {newest.end:.6f} by "
                f"{newest.request.cell}"
                if newest
                else ""
            ),
        )

    def _newest_before(self, act: _Act) -> _Act | None:
        before = [a for a in self._acts if not a.reads and a.end < act.begin]
        return max(before, key=lambda a: a.begin, default=None)

    def _anomaly(self, act: _Act, newest: _Act | None) -> Anomaly:
        counts = act.request.op in {Op.COUNT, Op.GET_COUNTER}
        if counts and act.value > max(state for state, _ in self._states):
            return Anomaly.NOWHERE
        if not counts and act.value != ABSENT and not self._written(act):
            return Anomaly.NOWHERE
        if not act.reads:
            return Anomaly.LOST
        later = [a.value for a in self._acts if a.reads and a.begin > act.end]
        wanted = {state for state, _ in self._states}
        shown_again = any(value >= min(wanted) if counts else value in wanted for value in later)
        return Anomaly.STALE if shown_again or newest is None else Anomaly.LOST

    def _written(self, act: _Act) -> bool:
        """Whether a write that had begun by then could have left this behind."""
        return any(not a.reads and a.value == act.value and a.begin <= act.end for a in self._acts)


def _shown(value: int) -> str:
    return "nothing" if value == ABSENT else f"v{value}"
