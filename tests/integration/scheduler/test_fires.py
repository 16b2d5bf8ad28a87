"""A fire time is dealt with once, by the one that leads, and what was missed is said."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from tenure.errors import LeaseLost, StoreUnavailable
from tenure.estate.settings_fleet import Scheduler
from tenure.model.names import TenantId
from tenure.model.operation import Operation
from tenure.registry.fires import Wanted
from tenure.registry.leadership import Election
from tenure.registry.registry import Registry
from tenure.scheduler.jobs import Jobs
from tenure.scheduler.schedule import Schedule, every
from tests.integration.scheduler.conftest import TENANTS, Elections


def ignored(action: str, **data: Any) -> None:
    pass


class Woken:
    """A dispatcher that only remembers."""

    def __init__(self) -> None:
        self.operations: list[str] = []
        self.away = False

    def wake(self, operation: Operation, *, again: bool = False) -> bool:
        if self.away:
            raise StoreUnavailable("the broker is away")
        self.operations.append(operation.id)
        return True


def wanted(*tenants: TenantId) -> list[Wanted]:
    return [Wanted(kind="sample", tenant=t, steps=("look", "do"), request={}) for t in tenants or TENANTS]


def schedule(every_s: int = 3600, found: Callable[[], list[Wanted]] = wanted) -> Schedule:
    return Schedule(name="samples", trigger=every(every_s), wanted=found)


def jobs_of(election: Election, waker: Woken | None = None, **settings: int) -> Jobs:
    return Jobs(
        election=election,
        settings=Scheduler.model_validate(settings),
        waker=waker,
        actor="scheduler@test",
        tell=ignored,
    )


def fire_rows(registry: Registry) -> list[tuple[datetime, bool, int, list[str]]]:
    with registry.database.connection() as connection:
        query = "select fire_at, missed, term, operations from registry.fires order by fire_at"
        return connection.execute(query).fetchall()


def end(registry: Registry, operation: str) -> None:
    registry.operations.request_cancel(operation, actor="test")
    registry.steps.cut_off(
        operation, gone_holders=frozenset(), error={"code": "cancelled"}, abortable=False, actor="test"
    )


def test_each_fire_time_inserts_its_operations_once_whoever_leads_then(
    registry: Registry, elections: Elections
) -> None:
    for holder in ("first", "second"):  # the second one leads after a restart, within the same fire time
        with elections(holder) as election:
            assert election.elect()
            for _ in range(2):
                jobs_of(election).fire(schedule())
                for operation in registry.operations.list(limit=10):
                    if operation.state.active:
                        end(registry, operation.id)  # so that only the fire time keeps it from a second one
    ((fire_at, missed, term, created),) = fire_rows(registry)
    assert (missed, term) == (False, 1)
    operations = registry.operations.list(limit=10)
    assert {o.tenant for o in operations} == set(TENANTS)
    assert {o.id for o in operations} == set(created)
    assert all(o.request["fire_at"] == fire_at.isoformat() for o in operations)
    assert all([s.name for s in registry.steps.list(o.id)] == ["look", "do"] for o in operations)
    assert sum(e.action == "operation_created" for e in registry.events.list()) == len(TENANTS)


def test_of_two_that_have_found_the_same_fire_time_due_one_inserts(
    registry: Registry, elections: Elections
) -> None:
    with elections("a") as election:
        assert election.elect()

        def overtaken() -> list[Wanted]:
            jobs_of(election).fire(schedule())
            for operation in registry.operations.list(limit=10):
                end(registry, operation.id)
            return wanted()

        jobs_of(election).fire(schedule(found=overtaken))
    assert len(fire_rows(registry)) == 1
    assert len(registry.operations.list(limit=10)) == len(TENANTS)


def test_a_tenant_in_an_operation_gets_none_and_the_others_get_theirs(
    registry: Registry, elections: Elections
) -> None:
    busy = registry.operations.create(kind="migrate", tenant=TENANTS[1], steps=["copy"], requested_by="bob")
    with elections("a") as election:
        assert election.elect()
        jobs_of(election).fire(schedule())
        assert {o.tenant for o in registry.operations.list(kind="sample")} == {TENANTS[0], TENANTS[2]}
        assert registry.operations.active_for(TENANTS[1]) == busy


def test_a_fire_inserts_no_more_than_it_may_and_the_rest_comes_with_the_next(
    registry: Registry, elections: Elections, wait_until: Callable[..., None]
) -> None:
    def still_wanted() -> list[Wanted]:
        return wanted(*(t for t in TENANTS if registry.operations.active_for(t) is None))

    with elections("a") as election:
        assert election.elect()
        jobs = jobs_of(election, most_per_fire=2)
        jobs.fire(schedule(1, still_wanted))
        assert len(registry.operations.list(kind="sample")) == 2

        def all_there() -> bool:
            jobs.fire(schedule(1, still_wanted))
            return len(registry.operations.list(kind="sample")) == 3

        wait_until(all_there, "the third with a later fire time")


def test_a_leader_that_was_replaced_while_it_looked_inserts_nothing(
    registry: Registry, elections: Elections
) -> None:
    """It looks at the stores for long; meanwhile its session ends and another process deals with the fire time."""
    with ExitStack() as stack:
        old, new = stack.enter_context(elections("old")), stack.enter_context(elections("new"))
        assert old.elect()
        assert not new.elect()

        def look_for_long() -> list[Wanted]:
            with registry.database.connection() as connection:
                connection.execute(
                    "select pg_terminate_backend(pid, 5000) from pg_locks "
                    "where locktype = 'advisory' and granted and database = "
                    "(select oid from pg_database where datname = current_database())"
                )
            assert new.elect()
            jobs_of(new).fire(schedule(found=lambda: wanted(TENANTS[0])))
            return wanted(*TENANTS[1:])

        with pytest.raises(LeaseLost, match="does not lead"):
            jobs_of(old).fire(schedule(found=look_for_long))
        assert [o.tenant for o in registry.operations.list(kind="sample")] == [TENANTS[0]]
        assert [term for _, _, term, _ in fire_rows(registry)] == [2]
        leader = new.last()
        assert leader is not None
        assert (leader.holder, leader.term) == ("new", 2)


def test_a_session_that_still_lives_writes_nothing_after_the_term_of_another(
    registry: Registry, elections: Elections
) -> None:
    """Even where the lock itself could not be trusted, such as behind a pooler, the term is compared."""
    with elections("a") as election:
        assert election.elect()
        with registry.database.connection() as connection:
            connection.execute("update registry.leaders set holder = 'b', term = term + 1")
        with pytest.raises(LeaseLost, match="another process was elected"):
            jobs_of(election).fire(schedule())
    assert fire_rows(registry) == []
    assert registry.operations.list() == ()


def test_a_leader_that_says_nothing_is_replaced_and_one_that_does_is_not(
    elections: Elections, wait_until: Callable[..., None]
) -> None:
    with elections("silent", silence_s=3.0) as silent, elections("next", silence_s=30.0) as other:
        assert silent.elect()
        bounds = "select current_setting('tcp_user_timeout'), current_setting('idle_session_timeout')"
        with silent.transaction() as connection:
            assert connection.execute(bounds).fetchone() == ("3000", "3s")
            assert connection.info.get_parameters()["tcp_user_timeout"] == "3000"
        until = time.monotonic() + 4.0
        while time.monotonic() < until:
            silent.beat()
            assert not other.elect()
            time.sleep(0.2)  # the beat's own pace
        wait_until(other.elect, "the silent one's session ends", deadline_s=15)
        with pytest.raises(LeaseLost):
            silent.beat()


def test_after_an_outage_the_latest_fire_time_is_made_up_for_and_the_others_are_journaled_as_missed(
    registry: Registry, elections: Elections
) -> None:
    with elections("a") as election:
        assert election.elect()
        jobs_of(election).fire(schedule(60))
        with registry.database.connection() as connection:  # five minutes in which nobody led
            connection.execute(
                "update registry.fires set fire_at = fire_at - interval '5 minutes', operations = '{}'"
            )
        for operation in registry.operations.list(limit=10):
            end(registry, operation.id)
        jobs_of(election, grace_s=60).fire(schedule(60))
        rows = fire_rows(registry)
        assert [missed for _, missed, _, _ in rows] == [False, *[True] * (len(rows) - 2), False]
        assert len(rows) in {6, 7}, "five fire times, or six if a minute began meanwhile"
        assert len(rows[-1][3]) == len(TENANTS)
        (told,) = [e.data for e in registry.events.list() if e.action == "fires_missed"]
        assert told["count"] == len(rows) - 2
        assert told["schedule"] == "samples"
        assert datetime.fromisoformat(told["first"]) == rows[1][0]
        assert all(b[0] - a[0] == timedelta(minutes=1) for a, b in pairwise(rows))


def test_what_is_later_than_the_grace_is_missed_as_well(registry: Registry, elections: Elections) -> None:
    with elections("a") as election:
        assert election.elect()
        jobs_of(election, grace_s=0).fire(schedule(86_400))
        assert fire_rows(registry) == [], "at the first start only what lies within the grace is made up for"
        jobs_of(election, grace_s=86_400).fire(schedule(86_400))
        ((first, _, _, _),) = fire_rows(registry)
        with registry.database.connection() as connection:
            connection.execute("update registry.fires set fire_at = fire_at - interval '3 days'")
        jobs_of(election, grace_s=0).fire(schedule(86_400))
        rows = fire_rows(registry)
        assert [(at - first).days for at, _, _, _ in rows] == [-3, -2, -1, 0]
        assert [missed for _, missed, _, _ in rows] == [False, True, True, True]


def test_the_control_database_may_be_away_in_the_middle_and_nothing_is_inserted_twice_or_forgotten(
    registry: Registry, elections: Elections, servers: Any, wait_until: Callable[..., None]
) -> None:
    def look_while_it_goes() -> list[Wanted]:
        servers.stop("control")
        return wanted()

    try:
        with elections("a") as election:
            assert election.elect()
            with pytest.raises(LeaseLost):
                jobs_of(election).fire(schedule(1, look_while_it_goes))
    finally:
        servers.start("control")
    registry.close()  # its idle connections have ended with the server
    with elections("a") as again:
        wait_until(again.elect, "the control database is back")
        assert fire_rows(registry) == []
        jobs_of(again).fire(schedule(1))
        assert len(registry.operations.list(kind="sample")) == len(TENANTS)


def test_what_was_left_lying_is_woken_once_until_it_was_claimed_or_the_time_is_over(
    registry: Registry, elections: Elections, wait_until: Callable[..., None]
) -> None:
    woken = Woken()
    quiet, patient = {"quiet_s": 1}, {"quiet_s": 1, "wake_again_s": 3600}
    with elections("a") as election:
        assert election.elect()
        operation = registry.operations.create(
            kind="sample", tenant=TENANTS[0], steps=["look", "do"], requested_by="bob"
        ).id
        jobs_of(election, woken, **quiet).wake()
        assert woken.operations == [], "whoever asked for it has just begun"
        woken.away = True

        def broker_is_asked() -> bool:
            try:
                jobs_of(election, woken, **patient).wake()
            except StoreUnavailable:
                return True
            return False

        wait_until(broker_is_asked, "nothing happens to it")
        woken.away = False
        for _ in range(3):
            jobs_of(election, woken, **patient).wake()
        assert woken.operations == [operation], (
            "not forgotten while the broker was away, and not flooded after"
        )

        def woken_after_a_look(times: int, **settings: int) -> bool:
            jobs_of(election, woken, **settings).wake()
            return len(woken.operations) == times

        wait_until(lambda: woken_after_a_look(2, quiet_s=1, wake_again_s=1), "nobody claimed it in time")
        (step, _) = registry.steps.list(operation)
        claim = registry.steps.claim(
            step, holder="elsewhere", holder_is_gone=False, ttl_s=0.5, phase=None, actor="w"
        )
        assert claim is not None
        assert woken_after_a_look(2, **quiet), "somebody is at it"
        wait_until(lambda: woken_after_a_look(3, **patient), "its holder died: at once, however patient")
        told: list[str] = []
        unattended = replace(
            jobs_of(election, quiet_s=1, wake_again_s=1), tell=lambda action, **data: told.append(action)
        )

        def told_as_due() -> bool:
            unattended.wake()
            return told == ["due"]

        wait_until(told_as_due, "without anybody to wake it is told")
        end(registry, operation)
        jobs_of(election, woken, **quiet).wake()
        with registry.database.connection() as connection:
            assert connection.execute("select count(*) from registry.wakes").fetchone() == (0,)
