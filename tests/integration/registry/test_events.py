"""The journal: ordered, complete for those who follow it, and quick to read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tenure.model.names import TenantId
from tenure.model.operation import Event
from tenure.registry.registry import Registry


def test_events_come_back_in_their_order_by_operation_and_tenant(registry: Registry) -> None:
    for n in range(3):
        registry.events.append("counted", actor="a", operation=f"op_{n % 2}", tenant="acme", data={"n": n})
    assert [e.data["n"] for e in registry.events.list()] == [0, 1, 2]
    assert [e.data["n"] for e in registry.events.list(operation="op_0")] == [0, 2]
    assert registry.events.list(tenant="globex") == ()
    second = registry.events.list()[1]
    assert second.tenant == TenantId("acme")
    assert [e.data["n"] for e in registry.events.list(since=second.seq)] == [2]
    assert [e.data["n"] for e in registry.events.list(limit=1)] == [0]
    assert registry.events.last() == registry.events.list()[-1].seq


def test_a_follower_sees_every_event_of_many_writers_once_and_in_order(registry: Registry) -> None:
    """The numbers become visible in their order: a reader that goes on after the last one misses none."""
    writers, each = 4, 50
    stop = threading.Event()
    seen: list[Event] = []

    def follow() -> None:
        for event in registry.events.follow(poll_s=0.2, stop=stop):
            seen.append(event)
            if len(seen) == writers * each:
                stop.set()

    def write(writer: int) -> None:
        for n in range(each):
            registry.events.append("written", actor=f"writer-{writer}", data={"n": n})

    threads = [threading.Thread(target=follow)]
    threads += [threading.Thread(target=write, args=(w,)) for w in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads[1:]:
        thread.join(60)
    threads[0].join(20)
    stop.set()
    assert [e.seq for e in seen] == sorted(e.seq for e in seen)
    for writer in range(writers):
        assert [e.data["n"] for e in seen if e.actor == f"writer-{writer}"] == list(range(each))


def test_an_event_written_before_a_later_one_commits_is_never_missed(registry: Registry) -> None:
    """While a transaction with an event is open, no later number can become visible before it."""
    with registry.database.transaction() as first:
        first.execute("insert into registry.events (actor, action) values ('a', 'first')")
        late = threading.Thread(target=registry.events.append, args=("second",), kwargs={"actor": "b"})
        late.start()
        late.join(0.3)
        assert late.is_alive(), "the second waits for the first"
        assert registry.events.list() == ()
    late.join(10)
    assert [e.action for e in registry.events.list()] == ["first", "second"]


def test_a_follower_is_woken_and_stops_when_told(registry: Registry, wait_until: Callable[..., None]) -> None:
    stop = threading.Event()
    seen: list[tuple[float, str]] = []
    start = registry.events.append("before", actor="a")

    def follow() -> None:
        for event in registry.events.follow(since=start, operation="op_1", poll_s=1.0, stop=stop):
            seen.append((time.monotonic(), event.action))

    thread = threading.Thread(target=follow)
    thread.start()
    registry.events.append("elsewhere", actor="a", operation="op_2")
    registry.events.append("here", actor="a", operation="op_1")
    wait_until(lambda: seen, "the follower sees the event")
    assert [action for _, action in seen] == ["here"]
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def test_ten_thousand_events_are_read_by_index_and_in_one_go(registry: Registry) -> None:
    with registry.database.connection() as connection:
        connection.execute(
            """
            insert into registry.events (operation, tenant, actor, action, data)
            select 'op_' || n % 10, 'acme', 'a', 'counted', jsonb_build_object('n', n)
            from generate_series(1, 10000) n
            """
        )
        connection.execute("analyze registry.events")
        plan = connection.execute(
            "explain select * from registry.events where seq > 9000 and operation = 'op_3' order by seq limit 100"
        ).fetchall()
    assert len(registry.events.list()) == 10_000
    assert len(registry.events.list(operation="op_3")) == 1_000
    assert "Index" in str(plan)
