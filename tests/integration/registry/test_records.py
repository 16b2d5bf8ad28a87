"""The success record: counted from the journal's own rows, per kind of route, by work that does not grow with it."""

from __future__ import annotations

from typing import Any

import pytest

from tenure.errors import UnknownName
from tenure.model.record import RouteKind, Spread
from tenure.registry.records import SUMMARY
from tenure.registry.registry import Registry

ENDED = """
    insert into registry.operations
        (id, kind, state, phase, plan, requested_by, created_at, started_at, committed_at, finished_at, result, cost,
         stuck)
    select %(prefix)s || n, %(kind)s, %(state)s, '', jsonb_build_object('route_kind', %(route)s::text,
               'predicted', jsonb_build_object('estimated_s', 10)), 'alice',
           t, t, case when %(committed)s then t + interval '5 s' end,
           case when not %(stuck)s then t + %(seconds)s * interval '1 s' end,
           jsonb_build_object('hold_ms', n), '{"total": 100, "currency": "INR"}', %(stuck)s
    from generate_series(1, %(number)s) n, lateral (select now() + (%(after)s + n) * interval '1 s' as t) at
"""


def have(registry: Registry, prefix: str, number: int, **given: Any) -> None:
    """Write that many operations, each after the one before."""
    values = {
        "kind": "migrate",
        "state": "soaking",
        "route": "blue_green",
        "seconds": 20,
        "committed": True,
        "stuck": False,
        "after": 0,
        **given,
    }
    with registry.database.connection() as connection:
        connection.execute(ENDED.encode(), {"prefix": prefix, "number": number, **values})
        connection.execute(
            "insert into registry.steps (operation, position, name, state, attempt) "
            "select id, p, 'step' || p, 'done', p from registry.operations, generate_series(1, 2) p "
            "where id like %s || '%%' on conflict do nothing",
            (prefix,),
        )


def test_outcomes_are_counted_per_kind_of_route_and_the_initial_ones_judge_nobody(registry: Registry) -> None:
    have(registry, "first", 2, state="aborted", committed=False)
    have(registry, "good", 7, after=10)
    have(registry, "done", 1, state="completed", after=20)
    have(registry, "back", 1, state="rolled_back", after=30)
    have(registry, "bad", 1, state="failed", committed=False, after=40)
    have(registry, "stuck", 1, state="running", stuck=True, after=50)
    have(registry, "abroad", 3, route="cross_region", seconds=60, after=60)
    have(registry, "way-back", 4, kind="rollback", state="succeeded", seconds=30, after=70)
    seen = {r.route_kind: r for r in registry.records.routes("migrate", last=100, initial=2, currency="INR")}
    assert list(seen) == list(RouteKind)
    near = seen[RouteKind.BLUE_GREEN]
    assert (near.number, near.succeeded, near.rolled_back, near.aborted, near.failed, near.stuck) == (
        13,
        8,
        1,
        2,
        1,
        1,
    )
    assert (near.judged, near.judged_succeeded) == (11, 8)
    assert near.duration_s == Spread(p50=20, p95=20)
    assert near.rollback_s == Spread(p50=5, p95=5)
    assert near.attempts == Spread(p50=3, p95=3)
    assert near.cost == Spread(p50=100, p95=100)
    assert near.stretch == 2.0
    assert near.sentence == (
        "8 of the last 13 migrate operations on blue-green routes succeeded, "
        "1 rolled back, 2 aborted, 1 failed, 1 stuck"
    )
    far = seen[RouteKind.CROSS_REGION]
    assert (far.number, far.succeeded, far.rate, far.judged) == (3, 3, 1.0, 1)
    assert far.chance == 0.8
    assert far.rollback_s is None
    none = seen[RouteKind.MAJOR_UPGRADE]
    assert (none.number, none.rate, none.chance, none.duration_s, none.judged_rate) == (
        0,
        None,
        None,
        None,
        None,
    )
    (last,) = registry.records.routes("migrate", last=4, route_kinds=(RouteKind.BLUE_GREEN,), currency="EUR")
    assert (last.number, last.succeeded, last.cost) == (5, 2, None)
    one = registry.records.of("back1")
    assert (one.outcome, one.duration_s, one.attempts, one.hold_ms) == ("rolled_back", 20, 3, 1)


def test_what_has_not_begun_has_no_record(registry: Registry) -> None:
    planned = registry.operations.create(
        kind="migrate", tenant=None, steps=["a"], requested_by="a", plan={"route_kind": "blue_green"}
    )
    with pytest.raises(UnknownName, match="has begun"):
        registry.records.of(planned.id)
    (near, *_) = registry.records.routes("migrate", last=10)
    assert near.number == 0


def test_the_record_of_the_last_hundred_takes_no_more_reads_with_ten_thousand_operations(
    registry: Registry,
) -> None:
    def pages() -> int:
        """What the summary reads, however much of it is in memory."""
        with registry.database.transaction() as connection:
            connection.execute("analyze registry.operations, registry.steps")
            row = connection.execute(
                b"explain (analyze, buffers, format json) " + SUMMARY.encode(),
                {
                    "kind": "migrate",
                    "last": 100,
                    "initial": 5,
                    "currency": "INR",
                    "route_kinds": [k.value for k in RouteKind],
                },
            ).fetchone()
        assert row is not None
        plan = row[0][0]["Plan"]
        return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])

    have(registry, "few", 1000)
    have(registry, "few-back", 1000, kind="rollback", state="succeeded", after=5000)
    before = pages()
    have(registry, "many", 10_000, after=10_000)
    have(registry, "ways-back", 1_000, kind="rollback", state="succeeded", after=30_000)
    assert pages() < 2 * before
