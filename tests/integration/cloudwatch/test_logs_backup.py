"""Backups of logs: what is taken, what comes back and with which times, what CloudWatch Logs takes no more, and what
goes wrong on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tenure.errors import StoreRefused
from tenure.model.comparison import DifferenceKind
from tenure.model.finding import Severity
from tenure.model.names import TenantId
from tenure.stores.cloudwatch import LogsStore
from tenure.stores.cloudwatch.events import HOUR_MS, Event
from tenure.stores.contract import Fence
from tests.aws_faults import Answer, refused
from tests.contract.memory_backup import MemoryBackup
from tests.contract.rigs.cloudwatch_logs import KINDS, VARIANTS, LogsRig
from tests.contract.rigs.protocol import Side
from tests.variants import marked

MakeRig = Callable[..., LogsRig]
ACME, OTHER, NEIGHBOUR = TenantId("acme"), TenantId("zeta"), TenantId("acme1")
BLUE, GREEN = Side.BLUE, Side.GREEN


@pytest.fixture
def rig(logs_rig: MakeRig) -> Iterator[LogsRig]:
    made = logs_rig()
    yield made
    for side in Side:
        store = made.store(side)
        for tenant in (ACME, OTHER):
            store.open(fence(99, tenant))


def fence(token: int = 10, tenant: TenantId = ACME) -> Fence:
    return Fence(tenant=tenant, epoch=1, token=token)


def close(store: LogsStore, tenant: TenantId = ACME) -> None:
    store.fence(fence(tenant=tenant), expires_in_s=None, drain_s=5.0)


def put(rig: LogsRig, item: str, stamped: Sequence[tuple[int, str]], side: Side = BLUE) -> None:
    """Past the journal, as a log shipper does."""
    for at, message in stamped:
        rig.put(side, rig.stream(ACME, item), at, message)


def events(rig: LogsRig, side: Side, item: str, tenant: TenantId = ACME) -> list[Event]:
    return list(rig.store(side).events(rig.stream(tenant, item)))


def taken(store: LogsStore, between: Callable[[], None] = lambda: None) -> MemoryBackup:
    backup, capture = MemoryBackup(ACME), store.capture(ACME)
    capture.start(fence())
    capture.first_pass(backup)
    between()
    capture.settle(backup)
    close(store)
    capture.pin(backup, fence())
    store.open(fence())
    backup.complete(store.name, capture.rest(backup))
    capture.close(fence())
    return backup


def test_events_come_back_with_their_times_their_order_and_their_copies(rig: LogsRig) -> None:
    at = rig.now()
    put(rig, "web", [(at - 3 * HOUR_MS, "early"), (at, "one"), (at, "one"), (at, "two"), (at + 7, "ü\nü")])
    put(rig, "worker", [(at - HOUR_MS, f"event {n}") for n in range(30)])
    backup, there = taken(rig.store(BLUE)), rig.store(GREEN)
    close(there)
    restored = there.restoring(ACME, ACME).load(backup, fence())
    assert restored.items == 3
    for item in ("web", "worker"):
        assert events(rig, GREEN, item) == events(rig, BLUE, item)
    assert there.inventory(ACME).collections == rig.store(BLUE).inventory(ACME).collections


def test_what_cloudwatch_takes_no_more_is_told_before_and_left_out_and_never_called_restored(
    rig: LogsRig,
) -> None:
    """moto keeps what a group's retention would have removed, as CloudWatch may for 72 hours."""
    at = rig.now()
    put(rig, "web", [(at - 72 * HOUR_MS, "old"), (at - 71 * HOUR_MS, "old too"), (at, "young")])
    backup = taken(rig.store(BLUE))
    put(rig, "other", [(at, "makes the group")], GREEN)
    rig.client(GREEN).put_retention_policy(logGroupName=f"{rig.prefix}/app/acme", retentionInDays=1)
    rig.client(GREEN).delete_log_stream(logGroupName=f"{rig.prefix}/app/acme", logStreamName="other")
    there = rig.store(GREEN)
    restoring = there.restoring(ACME, ACME)
    (told,) = restoring.preflight(backup)
    assert (told.code, told.severity) == ("events_too_old", Severity.WARNING)
    assert "export" in told.fix
    close(there)
    restored = restoring.load(backup, fence())
    assert restored.items == 1
    assert sum(restored.left_out.values()) == 2
    assert [e.message for e in events(rig, GREEN, "web")] == ["young"]
    assert not list(restoring.differences(backup))


def test_a_restore_in_place_adds_what_is_lacking_and_removes_nothing(rig: LogsRig) -> None:
    at = rig.now()
    put(rig, "web", [(at, "a"), (at + 1, "b"), (at - HOUR_MS, "c")])
    put(rig, "worker", [(at, "d")])
    store = rig.store(BLUE)
    backup = taken(store)
    rig.client(BLUE).delete_log_stream(logGroupName=f"{rig.prefix}/app/acme", logStreamName="web")
    put(rig, "web", [(at, "a"), (at + 2, "logged since")])
    put(rig, "worker", [(at + 3, "logged since")])
    put(rig, "newer", [(at, "logged since")])
    restoring = store.restoring(ACME, ACME)
    found = list(restoring.differences(backup))
    assert Counter(d.kind for d in found) == {DifferenceKind.MISMATCHED: 1, DifferenceKind.MISSING: 1}
    assert {d.collection for d in found} == {"/app/acme:web"}
    close(store)
    assert restoring.apply(backup, found, fence()) == 2
    assert [e.message for e in events(rig, BLUE, "web")] == ["c", "a", "b", "logged since"]
    assert [e.message for e in events(rig, BLUE, "worker")] == ["d", "logged since"]
    assert [e.message for e in events(rig, BLUE, "newer")] == ["logged since"]
    assert not list(restoring.differences(backup))


def test_what_a_shipper_delivers_late_is_taken_while_nobody_waits(rig: LogsRig) -> None:
    at = rig.now()
    put(rig, "web", [(at, "in time")])
    backup = taken(rig.store(BLUE), between=lambda: put(rig, "web", [(at + 1, "late")]))
    there = rig.store(GREEN)
    close(there)
    there.restoring(ACME, ACME).load(backup, fence())
    assert [e.message for e in events(rig, GREEN, "web")] == ["in time", "late"]


def test_without_a_journal_the_last_listing_is_under_the_fence_and_its_time_is_told(rig: LogsRig) -> None:
    at = rig.now()
    put(rig, "web", [(at, "a"), (at - HOUR_MS, "early")])
    store, backup = rig.store(BLUE, anchor=None), MemoryBackup(ACME)
    capture = store.capture(ACME)
    told = {f.code: f for f in capture.preflight()}["backup_lists_in_hold"]
    assert "while the tenant is held" in told.message
    capture.start(fence())
    capture.first_pass(backup)
    put(rig, "web", [(at + 1, "b")])
    put(rig, "worker", [(at, "c")])
    assert capture.settle(backup) == 2
    assert capture.settle(backup) == 0
    assert capture.estimate().pin_s > 0
    put(rig, "web", [(at + 2, "last")])
    rig.client(BLUE).delete_log_stream(logGroupName=f"{rig.prefix}/app/acme", logStreamName="worker")
    close(store)
    capture.pin(backup, fence())
    store.open(fence())
    put(rig, "web", [(at + 3, "after the point")])
    backup.complete(store.name, capture.rest(backup))
    capture.close(fence())
    there = rig.store(GREEN)
    close(there)
    there.restoring(ACME, ACME).load(backup, fence())
    assert [e.message for e in events(rig, GREEN, "web")] == ["early", "a", "b", "last"]
    assert not events(rig, GREEN, "worker")


@pytest.mark.parametrize("kind", marked(KINDS, VARIANTS))
def test_a_backup_becomes_another_tenants_groups_and_streams(logs_rig: MakeRig, kind: str) -> None:
    rig = logs_rig(kind)
    at = rig.now()
    put(rig, "web", [(at, "a"), (at - HOUR_MS, "acme logs in")])
    rig.put(GREEN, rig.stream(NEIGHBOUR, "web"), at, "a neighbour's")
    neighbour = rig.store(GREEN).inventory(NEIGHBOUR).collections
    backup, there = taken(rig.store(BLUE)), rig.store(GREEN)
    close(there, OTHER)
    restoring = there.restoring(OTHER, ACME)
    restored = restoring.load(backup, fence(tenant=OTHER))
    assert restored.collections == {str(rig.stream(OTHER, "web")): 2}
    assert events(rig, GREEN, "web", OTHER) == events(rig, BLUE, "web")
    assert not events(rig, GREEN, "web")
    assert rig.store(GREEN).inventory(NEIGHBOUR).collections == neighbour
    there.open(fence(tenant=OTHER))


def test_throttling_lost_answers_and_expired_tokens_are_survived_and_nothing_is_there_twice(
    rig: LogsRig,
) -> None:
    at = rig.now()
    for n in range(3):
        put(rig, f"web{n}", [(at + m, f"{n} {m}") for m in range(5)])
    source, ours = rig.faulty(BLUE)
    ours.answer(refused("ThrottlingException"), operation="GetLogEvents", times=3)
    ours.answer(
        refused("InvalidParameterException"),
        operation="GetLogEvents",
        when=lambda asked: "nextToken" in asked.fields,
        times=3,
    )
    backup = taken(source)
    target, theirs = rig.faulty(GREEN)
    for n in range(3):
        target.groups.make(rig.stream(ACME, f"web{n}"), retention_days=None)
    theirs.answer(refused("ThrottlingException"), operation="PutLogEvents", times=2)
    theirs.answer(Answer(status=None, after=True), operation="PutLogEvents", times=2)
    close(target)
    assert target.restoring(ACME, ACME).load(backup, fence()).items == 3
    for n in range(3):
        assert events(rig, GREEN, f"web{n}") == events(rig, BLUE, f"web{n}")
    assert theirs.asked.count("PutLogEvents") >= 5


def test_events_that_are_refused_as_too_old_after_all_are_never_called_restored(rig: LogsRig) -> None:
    put(rig, "web", [(rig.now(), "refused")])
    backup = taken(rig.store(BLUE))
    target, proxy = rig.faulty(GREEN)
    target.groups.make(rig.stream(ACME, "web"), retention_days=None)

    def all_left_out(answer: dict[str, Any]) -> dict[str, Any]:
        return {**answer, "rejectedLogEventsInfo": {"tooOldLogEventEndIndex": 1}}

    proxy.answer(Answer(edit=all_left_out), operation="PutLogEvents", times=1)
    close(target)
    with pytest.raises(StoreRefused, match="too old"):
        target.restoring(ACME, ACME).load(backup, fence())


def test_a_group_that_hides_its_events_is_refused(rig: LogsRig) -> None:
    put(rig, "web", [(rig.now(), "a")])
    store, proxy = rig.faulty(BLUE)

    def masked(answer: dict[str, Any]) -> dict[str, Any]:
        return {
            **answer,
            "logGroups": [{**group, "dataProtectionStatus": "ACTIVATED"} for group in answer["logGroups"]],
        }

    proxy.answer(Answer(edit=masked), operation="DescribeLogGroups")
    found = {f.code: f.severity for f in store.capture(ACME).preflight()}
    assert found["events_are_masked"] is Severity.REFUSAL
