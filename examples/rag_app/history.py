"""What the load generator did, request by request, and what users felt: the record that lost writes are
looked for in.

A history is a JSONL file: one line for each request in the order in which they ended, and a last line that
says that nothing is missing. A file whose writer was killed is readable up to there, and says so.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

ABSENT: Final = 0
"""The version of a key that is not there."""


class Outcome(StrEnum):
    """`ok`: acknowledged. `refused`: it said no, nothing was done. `unknown`: nobody can say whether it was
    done."""

    OK = "ok"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Op(StrEnum):
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    COUNT = "count"
    PUT_SESSION = "put_session"
    GET = "get"
    FILE = "file"
    SEARCH = "search"
    SIMILAR = "similar"
    GET_COUNTER = "get_counter"
    GET_SESSION = "get_session"


WRITES: Final = frozenset({Op.CREATE, Op.UPDATE, Op.DELETE, Op.COUNT, Op.PUT_SESSION})


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One request. Times are seconds since 1970 of one monotonic clock, so that they can be compared within
    a history.

    `key` is `document:<id>`, `counter:<name>` or `session:<id>`. `version` is what a write was to leave
    behind (a delete's too: the versions of a key count up, whatever the write), for `count` the value
    answered. `found` is the version that a read saw. `label` names a document in its own text. A request without a
    key says nothing about any: a creation that was never answered, or a read that may be of yesterday (`similar`).
    """

    tenant: str
    worker: int
    op: Op
    key: str
    start: float
    end: float
    outcome: Outcome
    status: int = 0
    cell: str = ""
    version: int = 0
    found: int = 0
    label: str = ""
    expires: tuple[float, float] | None = None
    """Between which two instants a session that was written expires."""
    event: str = ""
    """The id of the usage event that was acknowledged with a write."""

    @property
    def is_write(self) -> bool:
        return self.op in WRITES

    @property
    def ms(self) -> float:
        return (self.end - self.start) * 1000


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long the requests took that were under way in a window. `failed` of them had no answer or a bad
    one."""

    requests: int
    failed: int
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, kw_only=True)
class Counts:
    requests: int
    ok: int
    refused: int
    unknown: int
    writes_acked: int
    cells: dict[str, int] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """Requests that a user would have seen fail."""
        return self.refused + self.unknown


class History:
    """Requests in the order in which they ended."""

    def __init__(self, requests: Iterable[Request] = (), *, complete: bool = False) -> None:
        self.requests: list[Request] = list(requests)
        self.complete = complete
        """The writer ended in order: no request is missing."""

    def add(self, request: Request) -> None:
        self.requests.append(request)

    @staticmethod
    def load(path: Path) -> History:
        """Read a history back; half a line at the end (its writer was killed) ends it."""
        history = History()
        with path.open(encoding="utf-8") as file:
            for line in file:
                if not line.endswith("\n"):
                    break
                told = json.loads(line)
                if "requests" in told:
                    history.complete = told["requests"] == len(history.requests)
                else:
                    history.add(decode(told))
        return history

    def between(
        self, since: float | None = None, until: float | None = None, tenant: str | None = None
    ) -> Iterator[Request]:
        """Requests that were under way at some instant of the window."""
        first = 0 if since is None else bisect_left(self.requests, since, key=lambda r: r.end)
        for request in self.requests[first:]:
            if (until is None or request.start <= until) and tenant in {None, request.tenant}:
                yield request

    def latency(
        self, since: float | None = None, until: float | None = None, tenant: str | None = None
    ) -> Latency:
        """Percentiles (nearest rank) over all requests of the window, the failed ones included."""
        window = list(self.between(since, until, tenant))
        times = sorted(request.ms for request in window)
        return Latency(
            requests=len(window),
            failed=sum(request.outcome is not Outcome.OK for request in window),
            p50_ms=_percentile(times, 50),
            p99_ms=_percentile(times, 99),
            max_ms=times[-1] if times else 0.0,
        )

    def counts(
        self, since: float | None = None, until: float | None = None, tenant: str | None = None
    ) -> Counts:
        window = list(self.between(since, until, tenant))
        outcomes = Counter(request.outcome for request in window)
        return Counts(
            requests=len(window),
            ok=outcomes[Outcome.OK],
            refused=outcomes[Outcome.REFUSED],
            unknown=outcomes[Outcome.UNKNOWN],
            writes_acked=sum(r.is_write and r.outcome is Outcome.OK for r in window),
            cells=dict(Counter(request.cell for request in window if request.cell)),
        )

    def cells(self, tenant: str, *, writes_only: bool = True) -> list[tuple[float, str]]:
        """Which cells answered the tenant, in order: the time of the first answer of each stretch and the
        cell.

        By default acknowledged writes alone: one writer means that no cell comes back but by another switch.
        """
        stretches: list[tuple[float, str]] = []
        answered = [
            r
            for r in self.requests
            if r.tenant == tenant and r.cell and r.outcome is Outcome.OK and (r.is_write or not writes_only)
        ]
        for request in sorted(answered, key=lambda r: r.end):
            if not stretches or stretches[-1][1] != request.cell:
                stretches.append((request.end, request.cell))
        return stretches


_DEFAULTS: Final = {f.name: f.default for f in fields(Request) if f.default is not MISSING}


def encode(request: Request) -> str:
    """A request as one line of the file, without what is as usual."""
    told = {name: value for name, value in asdict(request).items() if value != _DEFAULTS.get(name, MISSING)}
    return json.dumps(told, separators=(",", ":")) + "\n"


def decode(told: dict[str, Any]) -> Request:
    """What `encode` wrote."""
    low_high = told.get("expires")
    exact: dict[str, Any] = {"op": Op(told["op"]), "outcome": Outcome(told["outcome"])}
    if low_high:
        exact["expires"] = tuple(low_high)
    return Request(**told | exact)


def _percentile(ordered: list[float], percent: int) -> float:
    if not ordered:
        return 0.0
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
