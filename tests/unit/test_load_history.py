"""What the load generator's history says, and what may be found in the stores after it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

from rag_app.history import ABSENT, History, Op, Outcome, Request, encode
from rag_app.texts import body_of, stated, title_of
from rag_app.verify import expectations, stale_reads

DOCUMENT = "document:1000000001"


def request(op: Op, start: float, end: float, **fields: Any) -> Request:
    given = {"tenant": "t", "worker": 0, "key": DOCUMENT, "outcome": Outcome.OK, **fields}
    return Request(op=op, start=start, end=end, **given)


def write(version: int, outcome: Outcome = Outcome.OK, op: Op = Op.UPDATE) -> Request:
    return request(op, version, version + 0.5, version=version, outcome=outcome)


def test_a_request_comes_back_as_it_was_written() -> None:
    for told in (
        write(3, Outcome.UNKNOWN),
        request(Op.PUT_SESSION, 1.25, 2.5, status=201, cell="blue", version=1, expires=(3.0, 4.0), worker=7),
        request(Op.GET, 1.0, 2.0, found=ABSENT, status=404, tenant="other", key="", label="1-2-3"),
    ):
        line = encode(told)
        assert line.endswith("\n")
        history = _load(line)
        assert history.requests == [told]
        assert not history.complete


def _load(text: str) -> History:
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write(text)
        file.flush()
        return History.load(Path(file.name))


def test_a_history_whose_writer_was_killed_is_read_up_to_there_and_says_so() -> None:
    lines = encode(write(1)) + encode(write(2))
    assert _load(lines + '{"requests":2}\n').complete
    cut = _load(lines[:-5])
    assert [r.version for r in cut.requests] == [1]
    assert not cut.complete
    assert not _load(lines + '{"requests":3}\n').complete


def test_latency_is_of_the_requests_under_way_in_the_window() -> None:
    history = History(request(Op.GET, n, n + 0.001 * (n + 1)) for n in range(100))
    whole = history.latency()
    assert (whole.requests, whole.failed) == (100, 0)
    assert whole.p50_ms == pytest.approx(50)
    assert whole.p99_ms == pytest.approx(99)
    assert whole.max_ms == pytest.approx(100)
    assert history.latency(20.0, 29.5).requests == 10
    assert history.latency(20.01, 20.5).requests == 1, "the request that began before and ended inside"
    assert history.latency(200.0, 300.0) == History().latency()
    assert history.latency(tenant="nobody").requests == 0


def test_failed_requests_count_in_the_window_and_acknowledged_writes_do_not_include_them() -> None:
    history = History([write(1), write(2, Outcome.UNKNOWN), write(3, Outcome.REFUSED), request(Op.GET, 4, 5)])
    counts = history.counts()
    assert (counts.requests, counts.ok, counts.failed, counts.writes_acked) == (4, 2, 2, 1)
    assert history.latency().failed == 2
    assert history.counts(since=3.9).failed == 0


def test_the_cells_that_answered_are_told_in_order() -> None:
    history = History(
        request(Op.COUNT, n, n + 0.5, cell=cell, outcome=outcome)
        for n, (cell, outcome) in enumerate(
            [
                ("blue", Outcome.OK),
                ("blue", Outcome.OK),
                ("", Outcome.UNKNOWN),
                ("green", Outcome.REFUSED),
                ("green", Outcome.OK),
                ("blue", Outcome.OK),
            ]
        )
    )
    assert history.cells("t") == [(0.5, "blue"), (4.5, "green"), (5.5, "blue")]
    assert history.cells("other") == []


@pytest.mark.parametrize(
    ("writes", "allowed"),
    [
        ([write(1)], {1}),
        ([write(1), write(2)], {2}),
        ([write(1, Outcome.UNKNOWN)], {ABSENT, 1}),
        ([write(1), write(2, Outcome.UNKNOWN)], {1, 2}),
        ([write(1), write(2, Outcome.REFUSED)], {1}),
        ([write(1), write(2, Outcome.UNKNOWN), write(3)], {3}),
        ([write(1), write(2, op=Op.DELETE)], {ABSENT}),
        ([write(1), write(2, Outcome.UNKNOWN, Op.DELETE)], {1, ABSENT}),
    ],
)
def test_a_key_may_hold_what_was_acknowledged_last_or_what_nobody_can_be_sure_of(
    writes: list[Request], allowed: set[int]
) -> None:
    assert expectations(writes).allowed == allowed


def test_an_older_version_is_a_lost_write_and_one_that_was_never_written_a_riddle() -> None:
    expected = expectations([write(1), write(2), write(3)])
    assert [expected.judge(version) for version in (ABSENT, 1, 2, 3, 4)] == [
        "lost",
        "lost",
        "lost",
        None,
        "unexplained",
    ]
    deleted = expectations([write(1), write(2, op=Op.DELETE)])
    assert (deleted.judge(ABSENT), deleted.judge(1)) == (None, "lost"), "a document that came back"


@pytest.mark.parametrize(
    ("found", "start", "stale"),
    [
        (2, 3.0, False),
        (1, 3.0, True),
        (ABSENT, 3.0, True),
        (1, 2.2, False),  # began while version 2 was being written
        (2, 2.2, False),
        (1, 1.7, False),
        (ABSENT, 1.7, True),
    ],
)
def test_a_read_is_stale_if_it_shows_less_than_was_acknowledged_before_it_began(
    found: int, start: float, stale: bool
) -> None:
    read = request(Op.GET, start, start + 0.1, found=found)
    history = History([write(1), write(2), read])
    found_stale, looked_at = stale_reads(history)
    assert looked_at == 1
    assert [s.request for s in found_stale] == ([read] if stale else [])


def test_a_read_that_still_shows_a_deleted_document_is_stale() -> None:
    history = History([write(1), write(2, op=Op.DELETE), request(Op.GET, 3, 4, found=1)])
    assert len(stale_reads(history)[0]) == 1
    history = History([write(1), write(2, op=Op.DELETE), request(Op.GET, 3, 4, found=ABSENT)])
    assert stale_reads(history)[0] == []


def test_a_counter_that_shows_less_than_was_counted_before_is_stale() -> None:
    counts = [request(Op.COUNT, n, n + 0.5, key="counter:a", version=n) for n in (1, 2, 3)]
    for found, stale in ((3, 0), (2, 1), (4, 0)):
        read = request(Op.GET_COUNTER, 4, 5, key="counter:a", found=found)
        assert len(stale_reads(History([*counts, read]))[0]) == stale


def test_a_failed_read_shows_nothing_and_is_not_stale() -> None:
    read = request(Op.GET, 3, 4, found=ABSENT, outcome=Outcome.UNKNOWN)
    assert stale_reads(History([write(1), read])) == ([], 0)


def test_texts_state_what_they_are_and_depend_on_nothing_else() -> None:
    assert stated(title_of("7-1-12", 3)) == ("7-1-12", 3)
    assert stated(body_of("t", "7-1-12", 3)) == ("7-1-12", 3)
    assert body_of("t", "7-1-12", 3) == body_of("t", "7-1-12", 3)
    assert len({body_of(t, "7-1-12", v) for t in ("a", "b") for v in (1, 2)}) == 4
    assert stated("something else") is None
