"""What the checker makes of histories: each anomaly is found, whatever can be explained passes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rag_app.checker import Anomaly, Served, check
from rag_app.history import ABSENT, History, Op, Outcome, Request

DOCUMENT, COUNTER, SESSION = "document:1000000001", "counter:a", "session:s"
BLUE_THEN_GREEN = {"t": (Served(cell="blue", since=0.0), Served(cell="green", since=10.0))}


def request(op: Op, start: float, end: float, **fields: Any) -> Request:
    given = {"tenant": "t", "worker": 0, "key": DOCUMENT, "outcome": Outcome.OK, "cell": "blue", **fields}
    return Request(op=op, start=start, end=end, **given)


def write(version: int, start: float, end: float, **fields: Any) -> Request:
    return request(Op.UPDATE, start, end, version=version, **fields)


def read(found: int, start: float, end: float, **fields: Any) -> Request:
    return request(Op.GET, start, end, found=found, **fields)


def count(value: int, start: float, end: float, **fields: Any) -> Request:
    return request(Op.COUNT, start, end, version=value, key=COUNTER, **fields)


def unanswered(told: Request) -> Request:
    return replace(told, outcome=Outcome.UNKNOWN, cell="", version=0 if told.op is Op.COUNT else told.version)


def anomalies(*requests: Request) -> list[Anomaly]:
    return [f.anomaly for f in check(History(requests), BLUE_THEN_GREEN).findings]


W1, W2 = write(1, 1, 1.5), write(2, 2, 2.5)


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        ([W1, W2, read(1, 3, 3.1)], [Anomaly.LOST]),
        ([W1, W2, read(ABSENT, 3, 3.1)], [Anomaly.LOST]),
        ([W1, W2, read(1, 3, 3.1), read(2, 4, 4.1)], [Anomaly.STALE]),
        ([W1, W2, request(Op.DELETE, 3, 4, version=3), read(2, 5, 6)], [Anomaly.LOST]),  # it came back
        # Another read had seen the new version already, though nobody had acknowledged it.
        ([W1, write(2, 2, 5), read(2, 3, 3.1), read(1, 4, 4.1), read(2, 6, 7)], [Anomaly.STALE]),
        ([read(1, 0.2, 0.4), W1], [Anomaly.NOWHERE]),
        ([W1, read(7, 2, 3)], [Anomaly.NOWHERE]),
        ([W1, replace(W2, outcome=Outcome.REFUSED), read(2, 3, 4)], [Anomaly.NOWHERE]),
        # A write without an answer may have happened or not, but it does not come and go.
        ([W1, unanswered(W2), read(2, 3, 4), read(1, 5, 6)], [Anomaly.LOST]),
        ([count(1, 1, 2), count(1, 3, 4)], [Anomaly.LOST]),
        ([count(1, 1, 2), count(3, 3, 4)], [Anomaly.NOWHERE]),
        ([count(1, 1, 2), unanswered(count(0, 2, 3)), count(4, 4, 5)], [Anomaly.NOWHERE]),
        (
            [count(1, 1, 2), request(Op.GET_COUNTER, 3, 4, key=COUNTER, found=ABSENT), count(2, 5, 6)],
            [Anomaly.LOST],
        ),
        # Blue acknowledged a write that began when green had been serving for a second.
        ([W1, write(2, 11, 12, cell="blue"), read(2, 13, 14, cell="green")], [Anomaly.TWO_WRITERS]),
        ([W1, write(2, 8, 9, cell="green"), read(2, 9.5, 9.6)], [Anomaly.TWO_WRITERS]),
        # Blue's write spans the switch, so it happened before it; a read that began after it has to show it.
        (
            [W1, write(2, 9, 12), read(1, 10.5, 11, cell="green"), read(2, 13, 14, cell="green")],
            [Anomaly.STALE],
        ),
        # Blue may answer reads until green is opened, but not after green has acknowledged a write.
        (
            [
                W1,
                read(1, 11, 12),
                write(2, 12, 13, cell="green"),
                read(1, 14, 15),
                read(2, 16, 17, cell="green"),
            ],
            [Anomaly.STALE],
        ),
    ],
)
def test_each_anomaly_is_found(requests: list[Request], expected: list[Anomaly]) -> None:
    assert anomalies(*requests) == expected


@pytest.mark.parametrize(
    "requests",
    [
        [W1, W2, read(2, 3, 4)],
        [W1, write(2, 2, 5), read(1, 3, 4)],
        [W1, write(2, 2, 5), read(2, 3, 4), read(2, 4.5, 4.6)],
        [W1, unanswered(W2), read(1, 3, 4), read(1, 5, 6)],
        [W1, unanswered(W2), read(1, 3, 4), read(2, 5, 6), read(2, 7, 8)],
        [W1, request(Op.DELETE, 2, 3, version=2), read(ABSENT, 4, 5)],
        [W1, replace(W2, outcome=Outcome.REFUSED), read(1, 3, 4)],
        [W1, read(ABSENT, 3, 4, outcome=Outcome.UNKNOWN)],
        [count(1, 1, 2), unanswered(count(0, 2, 3)), count(2, 4, 5), count(4, 6, 7)],
        [count(2, 1, 4), count(1, 1, 4), request(Op.GET_COUNTER, 2, 3, key=COUNTER, found=1)],
        # The file and the row are two registers: a write that is under way shows in one before the other.
        [W1, write(2, 2, 6), request(Op.FILE, 3, 4, found=2), read(1, 4.5, 5)],
        [W1, write(2, 9, 11, cell="green"), read(1, 9, 11), read(2, 12, 13, cell="green")],
    ],
)
def test_whatever_has_an_explanation_passes(requests: list[Request]) -> None:
    assert anomalies(*requests) == []


def test_a_verdict_says_what_it_looked_at() -> None:
    verdict = check(History([W1, unanswered(W2), read(1, 3, 4), count(1, 5, 6)]), BLUE_THEN_GREEN)
    told = verdict.as_dict()
    assert (told["reads"], told["writes_acked"], told["writes_unknown"]) == (1, 2, 1)
    assert told["reads_elsewhere"] == 0
    assert check(History([W1, read(1, 11, 12)]), BLUE_THEN_GREEN).reads_elsewhere == 1
    assert told["registers"] == 3, "a document is one in PostgreSQL and one in the bucket"
    assert told["anomalies"] == {}


# -- histories as they could have been -------------------------------------------------------------------------------


@st.composite
def truthful(draw: st.DrawFn) -> History:
    """Requests of three workers to a document, a session and a counter, each answered as what it did demands: every one
    happens at one instant, between its begin and its answer, in the cell that serves then."""
    versions = {DOCUMENT: 0, SESSION: 0}
    planned = []
    for number in range(draw(st.integers(1, 25))):
        key = draw(st.sampled_from([DOCUMENT, SESSION, COUNTER]))
        begin = draw(st.integers(0, 190)) / 10
        happens = begin + draw(st.integers(0, 20)) / 10
        end = happens + draw(st.integers(0, 20)) / 10
        fate = draw(st.sampled_from(["answered", "answered", "answered", "lost answer", "never happened"]))
        planned.append((happens + number * 1e-6, begin, end + 1e-4, key, draw(st.booleans()), fate))
    values = {DOCUMENT: 0, SESSION: 0, COUNTER: 0}
    reads = {DOCUMENT: Op.GET, SESSION: Op.GET_SESSION, COUNTER: Op.GET_COUNTER}
    writes = {DOCUMENT: Op.UPDATE, SESSION: Op.PUT_SESSION, COUNTER: Op.COUNT}
    told = []
    for happens, begin, end, key, is_read, fate in sorted(planned):
        where = {"key": key, "cell": "blue" if happens < 10 else "green"}
        if is_read:
            told.append(request(reads[key], begin, end, found=values[key], **where))
            continue
        if fate != "never happened":
            values[key] = values[key] + 1 if key == COUNTER else versions[key] + 1
        if key != COUNTER:
            versions[key] += 1
        version = values[key] if key == COUNTER else versions[key]
        made = request(writes[key], begin, end, version=version, **where)
        told.append(made if fate == "answered" else unanswered(made))
    return History(sorted(told, key=lambda r: r.end))


@settings(max_examples=150, deadline=None)
@given(truthful())
def test_a_history_that_happened_passes(history: History) -> None:
    assert check(history, BLUE_THEN_GREEN).findings == ()


@settings(max_examples=150, deadline=None)
@given(truthful(), st.data())
def test_a_history_that_is_falsified_fails(history: History, data: st.DataObject) -> None:
    """One answer is changed: a read to what had been overwritten for certain before it began, an acknowledged count to
    one that was given before, a write to a cell that had long stopped serving or did not serve yet."""
    lies = [(n, lie) for n, told in enumerate(history.requests) for lie in falsified(told, history)]
    assume(lies)
    number, lie = data.draw(st.sampled_from(lies))
    requests = [*history.requests[:number], lie, *history.requests[number + 1 :]]
    assert check(History(requests), BLUE_THEN_GREEN).findings


def falsified(told: Request, history: History) -> list[Request]:
    acked = [w for w in history.requests if w.key == told.key and w.is_write and w.outcome is Outcome.OK]
    if told.outcome is not Outcome.OK:
        return []
    lies = []
    if told.is_write and (told.end < 10 or told.start > 10):
        lies.append(replace(told, cell="green" if told.end < 10 else "blue"))
    if told.op is Op.COUNT:
        lies += [replace(told, version=w.version) for w in acked if w.version != told.version]
    elif not told.is_write:
        lies.append(replace(told, found=10_000))
        before = [w for w in acked if w.end < told.start]
        lies += [
            replace(told, found=old.version)
            for old in before
            if any(old.end < new.start and new.version > old.version for new in before)
        ]
    return lies
