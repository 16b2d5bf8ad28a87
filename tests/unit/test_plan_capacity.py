"""Whose turn it is: never over a limit, in order, and nobody is kept out for ever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenure.model.capacity import Limit, Resource, Scope, What
from tenure.plan.capacity import Verdict, Waiting, decide, in_order

STEP_UP_S = 3600.0
SLOTS = Resource(scope=Scope.SERVER, name="pg:5432", what=What.SLOTS)
MOVES = Resource(scope=Scope.CELL, name="blue", what=What.MOVES)
STORE = Resource(scope=Scope.STORE, name="blue/redis", what=What.MOVES)
BANDWIDTH = Resource(scope=Scope.SERVER, name="pg:5432", what=What.BANDWIDTH)
RESOURCES = (SLOTS, MOVES, STORE, BANDWIDTH)
AT = datetime(2026, 1, 1, tzinfo=UTC)


def waiting(
    name: str,
    needs: Mapping[Resource, int],
    *,
    rank: int = 1,
    waited_s: float = 0.0,
    served: int | None = None,
) -> Waiting:
    return Waiting(
        operation=name,
        tenant=name,
        rank=rank,
        waited_s=waited_s,
        needs=needs,
        served_before=None if served is None else AT + timedelta(days=served),
    )


def limit(most: int) -> Limit:
    return Limit(most=most, why="chosen")


def judged(
    limits: Mapping[Resource, int], used: Mapping[Resource, int], queue: Sequence[Waiting]
) -> dict[str, Verdict]:
    found = decide({r: limit(n) for r, n in limits.items()}, used, queue, step_up_s=STEP_UP_S)
    return {verdict.operation: verdict for verdict in found}


amounts = st.dictionaries(st.sampled_from(RESOURCES), st.integers(0, 6), max_size=4)


@st.composite
def queues(draw: st.DrawFn) -> list[Waiting]:
    size = draw(st.integers(0, 12))
    return [
        waiting(
            f"op_{n:02}",
            draw(amounts),
            rank=draw(st.integers(0, 3)),
            waited_s=draw(st.floats(0, 4 * STEP_UP_S)),
            served=draw(st.none() | st.integers(0, 5)),
        )
        for n in range(size)
    ]


@given(limits=amounts, used=amounts, queue=queues())
def test_what_is_used_and_admitted_never_exceeds_a_limit(
    limits: dict[Resource, int], used: dict[Resource, int], queue: list[Waiting]
) -> None:
    verdicts = judged(limits, used, queue)
    for resource, most in limits.items():
        admitted = sum(w.needs.get(resource, 0) for w in queue if verdicts[w.operation].admitted)
        assert admitted == 0 or used.get(resource, 0) + admitted <= most


@given(limits=amounts, used=amounts, queue=queues())
def test_who_comes_after_never_stands_in_the_way(
    limits: dict[Resource, int], used: dict[Resource, int], queue: list[Waiting]
) -> None:
    """Once all that was in use has ended, whoever waits fits beside everything that was admitted after it."""
    verdicts = judged(limits, used, queue)
    ordered = in_order(queue, step_up_s=STEP_UP_S)
    for n, one in enumerate(ordered):
        if verdicts[one.operation].admitted or verdicts[one.operation].hopeless:
            continue
        after = [w for w in ordered[n + 1 :] if verdicts[w.operation].admitted]
        taken = {r: sum(w.needs.get(r, 0) for w in after) for r in RESOURCES}
        assert judged(limits, taken, [one])[one.operation].admitted


@given(limits=amounts, used=amounts, queue=queues())
def test_a_verdict_depends_on_nobody_after_it(
    limits: dict[Resource, int], used: dict[Resource, int], queue: list[Waiting]
) -> None:
    verdicts = judged(limits, used, queue)
    ordered = in_order(queue, step_up_s=STEP_UP_S)
    for n in range(len(ordered) + 1):
        assert list(judged(limits, used, ordered[:n]).values()) == list(verdicts.values())[:n]


@given(limits=amounts, used=amounts, queue=queues())
def test_nobody_waits_without_a_reason_that_is_true(
    limits: dict[Resource, int], used: dict[Resource, int], queue: list[Waiting]
) -> None:
    """Who waits lacks something that is in use, or that is kept for somebody before it who waits as well; only who
    needs more than a limit is hopeless."""
    verdicts = judged(limits, used, queue)
    order = [w.operation for w in in_order(queue, step_up_s=STEP_UP_S)]
    for one in queue:
        verdict = verdicts[one.operation]
        assert verdict.hopeless == any(n > limits[r] for r, n in one.needs.items() if n and r in limits)
        for lack in verdict.lacks:
            if lack.kept_for is None:
                assert lack.used + lack.wanted > lack.limit.most
            else:
                assert order.index(lack.kept_for) < order.index(one.operation)
                assert not verdicts[lack.kept_for].admitted
                assert lack.used + lack.wanted <= lack.limit.most


@settings(max_examples=30, deadline=None)
@given(
    large=st.integers(2, 6),
    small=st.integers(1, 2),
    lasts=st.integers(1, 4),
    per_tick=st.integers(1, 3),
    rank=st.integers(1, 3),
)
def test_a_large_move_of_the_lowest_tier_begins_under_an_endless_stream_of_small_ones_of_the_highest(
    large: int, small: int, lasts: int, per_tick: int, rank: int
) -> None:
    """As soon as it has waited its ranks off, it is first; then it takes what ends, whoever comes."""
    tick_s, most = 1200.0, 6
    running: list[tuple[int, int]] = []
    queue: list[tuple[int, str, int, int]] = [(0, "large", large, rank)]
    began_at: int | None = None
    for tick in range(40):
        running = [(until, units) for until, units in running if until > tick]
        queue += [(tick, f"small_{tick}_{n}", small, 0) for n in range(per_tick)]
        verdicts = judged(
            {SLOTS: most},
            {SLOTS: sum(units for _, units in running)},
            [
                waiting(name, {SLOTS: units}, rank=its, waited_s=(tick - since) * tick_s, served=0)
                for since, name, units, its in queue
            ],
        )
        for entry in [e for e in queue if verdicts[e[1]].admitted]:
            queue.remove(entry)
            running.append((tick + lasts, entry[2]))
            if entry[1] == "large":
                began_at = tick
        assert sum(units for _, units in running) <= most
        if began_at is not None:
            break
        queue = queue[:1] + queue[1:][-10:]
    assert began_at is not None
    assert began_at * tick_s <= (rank + 1) * STEP_UP_S + (lasts + 1) * tick_s


def test_the_highest_tier_goes_first_then_who_was_served_longest_ago_then_who_asked_first() -> None:
    queue = [
        waiting("bronze", {}, rank=2, waited_s=900),
        waiting("gold_lately", {}, rank=1, served=9, waited_s=500),
        waiting("gold_long_ago", {}, rank=1, served=1),
        waiting("gold_never_asked_later", {}, rank=1, waited_s=10),
        waiting("gold_never", {}, rank=1, waited_s=20),
        waiting("platinum", {}, rank=0, served=9),
    ]
    assert [w.operation for w in in_order(queue, step_up_s=STEP_UP_S)] == [
        "platinum",
        "gold_never",
        "gold_never_asked_later",
        "gold_long_ago",
        "gold_lately",
        "bronze",
    ]


@pytest.mark.parametrize(("waited_s", "first"), [(2 * STEP_UP_S - 1, "platinum"), (3 * STEP_UP_S, "bronze")])
def test_whoever_waits_gains_ranks(waited_s: float, first: str) -> None:
    queue = [waiting("platinum", {}, rank=0), waiting("bronze", {}, rank=2, waited_s=waited_s, served=1)]
    assert in_order(queue, step_up_s=STEP_UP_S)[0].operation == first


def test_what_becomes_free_is_kept_for_a_large_move_and_not_given_to_small_ones_behind_it() -> None:
    large, small = waiting("large", {SLOTS: 4, MOVES: 1}, waited_s=9), waiting("small", {SLOTS: 1})
    verdicts = judged({SLOTS: 6, MOVES: 9}, {SLOTS: 4}, [small, large])
    assert not verdicts["large"].admitted
    (lack,) = verdicts["small"].lacks
    assert lack.kept_for == "large"
    elsewhere = waiting("elsewhere", {MOVES: 8})
    assert judged({SLOTS: 6, MOVES: 9}, {SLOTS: 4}, [large, elsewhere])["elsewhere"].admitted


def test_one_that_could_never_begin_keeps_nobody_else_out() -> None:
    verdicts = judged({SLOTS: 3}, {}, [waiting("huge", {SLOTS: 4}, waited_s=9), waiting("small", {SLOTS: 3})])
    assert verdicts["huge"].hopeless
    assert verdicts["small"].admitted


def test_keys_say_the_resource_and_come_back() -> None:
    for resource in (*RESOURCES, Resource(scope=Scope.SERVER, name="/run/pg:5432", what=What.WORKERS)):
        assert Resource.of(resource.key) == resource
    assert SLOTS.one() == "a replication slot on server pg:5432"
    assert BANDWIDTH.amount(2_500_000) == "2.5 MB/s"
