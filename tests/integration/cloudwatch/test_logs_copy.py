"""Moving logs: what is brought, when, with which times, what stays, and what goes wrong on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from tenure.errors import StoreUnavailable
from tenure.model.comparison import DifferenceKind
from tenure.model.finding import Finding, Severity
from tenure.model.names import TenantId
from tenure.stores.cloudwatch import LogsCopy, LogsStore
from tenure.stores.cloudwatch.events import Event
from tenure.stores.contract import Fence
from tests.aws_faults import Answer, FaultyAws, refused
from tests.contract.rigs.cloudwatch_logs import LogsRig
from tests.contract.rigs.protocol import Side

MakeRig = Callable[..., LogsRig]
Wait = Callable[..., None]
ACME, NEIGHBOUR = TenantId("acme"), TenantId("acme1")
BLUE, GREEN = Side.BLUE, Side.GREEN
DAY_MS = 24 * 3_600_000
DEADLINE_S = 60.0


def fence(token: int = 10) -> Fence:
    return Fence(tenant=ACME, epoch=1, token=token)


def close(store: LogsStore, token: int = 10) -> None:
    store.fence(fence(token), expires_in_s=None, drain_s=5.0)


def following(copy: LogsCopy, wait_until: Wait, token: int = 10) -> LogsCopy:
    close(copy.target, token)
    copy.start(fence(token))

    def passed() -> bool:
        try:
            return copy.progress().following
        except StoreUnavailable:
            return False  # it tries again

    wait_until(passed, "the first pass", deadline_s=DEADLINE_S)
    return copy


def events(rig: LogsRig, side: Side, item: str = "web", tenant: TenantId = ACME) -> list[Event]:
    return list(rig.store(side).events(rig.stream(tenant, item)))


def put(rig: LogsRig, side: Side, item: str, stamped: Sequence[tuple[int, str]]) -> None:
    """Past the journal, as a log shipper does."""
    for at, message in stamped:
        rig.put(side, rig.stream(ACME, item), at, message)


def codes(found: Sequence[Finding]) -> dict[str, Finding]:
    return {f.code: f for f in found}


def now_ms() -> int:
    return round(time.time() * 1000)


def with_retention(rig: LogsRig, side: Side, days: int, tenant: TenantId = ACME) -> None:
    group = rig.prefix + rig.stream(tenant, "web").group
    rig.client(side).put_retention_policy(logGroupName=group, retentionInDays=days)


def test_events_keep_their_times_their_order_and_their_copies(logs_rig: MakeRig, wait_until: Wait) -> None:
    rig = logs_rig()
    at = rig.now()
    put(rig, BLUE, "web", [(at + 7, "later"), (at, "same"), (at, "same"), (at, "größer: \U0001f642 \t\n")])
    with_retention(rig, BLUE, 400)
    copy = following(rig.copy(ACME, BLUE, GREEN), wait_until)
    assert sorted(events(rig, GREEN)) == sorted(events(rig, BLUE))
    assert [e.timestamp for e in events(rig, GREEN)] == [at, at, at, at + 7]
    assert copy.compare().equal
    assert rig.store(GREEN).retention(ACME) == rig.store(BLUE).retention(ACME)


def test_more_events_than_one_request_takes_arrive(logs_rig: MakeRig, wait_until: Wait) -> None:
    rig = logs_rig()
    at = rig.now()
    put(rig, BLUE, "web", [(at, "first")])
    for start in range(0, 24_000, 8_000):
        rig.client(BLUE).put_log_events(
            logGroupName=rig.prefix + "/app/acme",
            logStreamName="web",
            logEvents=[{"timestamp": at + n, "message": f"event {n}"} for n in range(start, start + 8_000)],
        )
    copy = following(rig.copy(ACME, BLUE, GREEN), wait_until)
    assert events(rig, GREEN) == events(rig, BLUE)
    assert copy.compare().processed == 1


def test_what_is_older_than_cloudwatch_takes_stays_and_is_told_with_its_count(
    logs_rig: MakeRig, wait_until: Wait
) -> None:
    """moto keeps what a group's retention would have removed, as CloudWatch may for 72 hours."""
    rig = logs_rig()
    at = now_ms()
    old = [(at - 3 * DAY_MS, "old"), (at - 2 * DAY_MS, "old too")]
    put(rig, BLUE, "web", [*old, (at - 3_600_000, "young")])
    put(rig, BLUE, "worker", [(at - 2 * DAY_MS, "old as well")])
    assert "events_stay" not in codes(rig.copy(ACME, BLUE, GREEN).preflight())
    with_retention(rig, BLUE, 1)
    told = codes(rig.copy(ACME, BLUE, GREEN).preflight())["events_stay"]
    assert told.severity is Severity.WARNING
    assert "3 events of acme in 2 streams" in told.message
    assert "export" in told.fix
    copy = following(rig.copy(ACME, BLUE, GREEN), wait_until)
    assert [e.message for e in events(rig, GREEN)] == ["young"]
    seen = copy.compare()
    assert (seen.equal, seen.processed) == (True, 1)
    assert len(events(rig, BLUE)) == 3


def test_what_the_server_rejects_as_too_old_is_left_out_and_the_rest_arrives(
    logs_rig: MakeRig, wait_until: Wait
) -> None:
    """Partial failure of a batch: the server's clock decides, whatever ours says."""
    rig = logs_rig()
    at = rig.now()
    put(rig, BLUE, "web", [(at, "rejected"), (at + 1, "taken")])
    target, proxy = rig.faulty(GREEN)
    target.groups.make(rig.stream(ACME, "web"), retention_days=None)

    def first_left_out(answer: dict[str, Any]) -> dict[str, Any]:
        return {**answer, "rejectedLogEventsInfo": {"tooOldLogEventEndIndex": 1}}

    proxy.answer(Answer(edit=first_left_out), operation="PutLogEvents", times=1)
    copy = following(rig.copy(ACME, BLUE, GREEN, entering=target), wait_until)
    close(copy.source)
    copy.seal(copy.mark(), timeout_s=DEADLINE_S)
    rig.client(GREEN).delete_log_stream(logGroupName=rig.prefix + "/app/acme", logStreamName="web")
    seen = copy.compare()
    assert {d.kind for d in seen.differences} == {DifferenceKind.MISSING}
    assert copy.repair(seen.differences, fence()) == 1
    assert [e.message for e in events(rig, GREEN)] == ["taken"]
    assert copy.compare().equal


def test_what_the_server_finds_too_far_in_the_future_is_brought_later(
    logs_rig: MakeRig, wait_until: Wait
) -> None:
    rig = logs_rig()
    put(rig, BLUE, "web", [(rig.now(), "of a fast clock")])
    target, proxy = rig.faulty(GREEN)
    target.groups.make(rig.stream(ACME, "web"), retention_days=None)
    too_new = b'{"rejectedLogEventsInfo": {"tooNewLogEventStartIndex": 0}}'
    proxy.answer(Answer(status=200, body=too_new), operation="PutLogEvents", times=2)
    following(rig.copy(ACME, BLUE, GREEN, entering=target), wait_until)
    assert proxy.asked.count("PutLogEvents") == 3
    assert events(rig, GREEN) == events(rig, BLUE)


def test_an_answer_that_is_lost_puts_no_event_twice(logs_rig: MakeRig, wait_until: Wait) -> None:
    rig = logs_rig()
    put(rig, BLUE, "web", [(rig.now(), f"event {n}") for n in range(20)])
    rig.put(GREEN, rig.stream(NEIGHBOUR, "web"), rig.now(), "makes no group for acme")
    target, proxy = rig.faulty(GREEN)
    target.groups.make(rig.stream(ACME, "web"), retention_days=None)
    proxy.answer(Answer(status=None, after=True), operation="PutLogEvents", times=2)
    copy = following(rig.copy(ACME, BLUE, GREEN, entering=target), wait_until)
    assert events(rig, GREEN) == events(rig, BLUE)
    assert copy.compare().equal


def test_a_copy_survives_throttling_silence_and_expired_tokens(logs_rig: MakeRig, wait_until: Wait) -> None:
    rig = logs_rig("cloudwatch_logs-streams")
    for n in range(4):
        put(rig, BLUE, f"web{n}", [(rig.now(), f"{n} {m}") for m in range(5)])
    rig.put(GREEN, rig.stream(NEIGHBOUR, "web"), rig.now(), "a neighbour's")
    before = rig.store(GREEN).inventory(NEIGHBOUR).collections
    source, ours = rig.faulty(BLUE)
    proxy = FaultyAws(rig.endpoint)
    impatient = rig.account(GREEN, proxy.endpoint, timeout_s=0.5)
    target = rig.store(GREEN, account=impatient)
    try:
        ours.answer(refused("ThrottlingException"), operation="GetLogEvents", times=3)
        ours.answer(
            refused("InvalidParameterException"),
            operation="GetLogEvents",
            when=lambda asked: "nextToken" in asked.fields,
            times=3,
        )
        ours.answer(refused("ThrottlingException"), operation="DescribeLogStreams", times=1)
        proxy.answer(refused("ThrottlingException"), operation="PutLogEvents", times=3)
        proxy.answer(refused("ServiceUnavailableException", status=503), operation="CreateLogStream", times=1)
        proxy.answer(Answer(silent=True), operation="PutLogEvents", times=1)
        copy = following(rig.copy(ACME, BLUE, GREEN, leaving=source, entering=target), wait_until)
        assert copy.compare().equal
        assert {f"web{n}": events(rig, GREEN, f"web{n}") for n in range(4)} == {
            f"web{n}": events(rig, BLUE, f"web{n}") for n in range(4)
        }
        assert rig.store(GREEN).inventory(NEIGHBOUR).collections == before
        assert proxy.asked.count("PutLogEvents") >= 8
        copy.detach()
    finally:
        proxy.close()


def test_events_that_a_shipper_delivers_late_are_brought_by_a_later_pass(
    logs_rig: MakeRig, wait_until: Wait
) -> None:
    """No journal names them: before the switch they come to the source, after it still to the cell that was left."""
    rig = logs_rig()
    rig.write(BLUE, ACME, "web", "before")
    copy = following(rig.copy(ACME, BLUE, GREEN, late_s=0.05), wait_until)
    put(rig, BLUE, "web", [(rig.now(), "late, before the switch")])
    wait_until(lambda: len(events(rig, GREEN)) == 2, "the late event", deadline_s=DEADLINE_S)
    reverse = copy.arm_reverse(fence(11))
    close(copy.source, 11)
    copy.seal(copy.mark(), timeout_s=DEADLINE_S)
    copy.target.open(fence(11))
    copy.detach()
    following(reverse, wait_until, 11)
    put(rig, BLUE, "web", [(rig.now(), "late, after the switch")])
    put(rig, BLUE, "cron", [(rig.now(), "late, and of a new stream")])
    wait_until(lambda: len(events(rig, GREEN)) == 3, "the late event", deadline_s=DEADLINE_S)
    wait_until(lambda: len(events(rig, GREEN, "cron")) == 1, "the late stream", deadline_s=DEADLINE_S)
    assert events(rig, BLUE) == events(rig, GREEN)
    assert reverse.compare().equal


def test_what_a_shipper_delivers_while_users_wait_is_no_difference_and_comes_later(
    logs_rig: MakeRig, wait_until: Wait
) -> None:
    rig = logs_rig()
    rig.write(BLUE, ACME, "web", "before")
    copy = following(rig.copy(ACME, BLUE, GREEN), wait_until)
    assert copy.compare().equal
    rig.write(BLUE, ACME, "web", "after the comparison")
    close(copy.source)
    copy.seal(copy.mark(), timeout_s=DEADLINE_S)
    taken = max(e.ingested for e in events(rig, BLUE))
    wait_until(lambda: now_ms() > taken, "the next millisecond")
    put(rig, BLUE, "web", [(rig.now(), "delivered late")])
    assert copy.compare_changed().equal
    seen = copy.compare()
    assert [d.kind for d in seen.differences] == [DifferenceKind.MISMATCHED]
    copy.repair(seen.differences, fence())
    rig.client(GREEN).delete_log_stream(logGroupName=rig.prefix + "/app/acme", logStreamName="web")
    assert [d.kind for d in copy.compare_changed().differences] == [DifferenceKind.MISSING]


def test_a_repair_adds_what_is_missing_and_removes_nothing(logs_rig: MakeRig, wait_until: Wait) -> None:
    rig = logs_rig()
    put(rig, BLUE, "web", [(rig.now(), "one"), (rig.now(), "two")])
    copy = following(rig.copy(ACME, BLUE, GREEN), wait_until)
    close(copy.source)
    put(rig, BLUE, "web", [(rig.now(), "only in blue")])
    put(rig, GREEN, "web", [(rig.now(), "only in green")])
    seen = copy.compare()
    assert [d.kind for d in seen.differences] == [DifferenceKind.MISMATCHED]
    copy.repair(seen.differences, fence())
    everything = ["one", "two", "only in blue", "only in green"]
    assert [e.message for e in events(rig, GREEN)] == [e.message for e in events(rig, BLUE)] == everything
    assert copy.compare().equal


def test_two_cells_on_the_same_groups_are_refused(logs_rig: MakeRig) -> None:
    rig = logs_rig()
    put(rig, BLUE, "web", [(rig.now(), "one")])
    same = rig.store(GREEN, account=rig.account(BLUE))
    found = codes(rig.copy(ACME, BLUE, GREEN, entering=same).preflight())
    assert found["same_groups"].severity is Severity.REFUSAL
    other = rig.store(GREEN, account=rig.account(BLUE), prefix=f"{rig.prefix}/green")
    assert "same_groups" not in codes(rig.copy(ACME, BLUE, GREEN, entering=other).preflight())


def test_a_group_that_hides_its_events_is_refused_and_one_with_a_key_of_its_own_is_told(
    logs_rig: MakeRig,
) -> None:
    rig = logs_rig()
    put(rig, BLUE, "web", [(rig.now(), "one")])
    source, proxy = rig.faulty(BLUE)

    def guarded(answer: dict[str, Any]) -> dict[str, Any]:
        more = {"dataProtectionStatus": "ACTIVATED", "kmsKeyId": "arn:aws:kms:us-east-1:1:key/x"}
        return {**answer, "logGroups": [{**group, **more} for group in answer["logGroups"]]}

    proxy.answer(Answer(edit=guarded), operation="DescribeLogGroups")
    found = codes(rig.copy(ACME, BLUE, GREEN, leaving=source).preflight())
    assert found["events_are_masked"].severity is Severity.REFUSAL
    assert found["key_differs"].severity is Severity.WARNING


def test_a_group_that_a_crash_left_without_its_retention_gets_it(logs_rig: MakeRig, wait_until: Wait) -> None:
    rig = logs_rig()
    put(rig, BLUE, "web", [(rig.now(), "one")])
    with_retention(rig, BLUE, 30)
    rig.client(GREEN).create_log_group(logGroupName=rig.prefix + "/app/acme")
    following(rig.copy(ACME, BLUE, GREEN), wait_until)
    assert rig.store(GREEN).retention(ACME) == rig.store(BLUE).retention(ACME)


def test_a_plan_tells_what_reacts_to_copied_events_and_whose_retention_differs(logs_rig: MakeRig) -> None:
    rig = logs_rig("cloudwatch_logs-streams")
    put(rig, BLUE, "web", [(rig.now(), "one")])
    rig.put(GREEN, rig.stream(NEIGHBOUR, "web"), rig.now(), "makes the group")
    with_retention(rig, GREEN, 30)
    found = codes(rig.copy(ACME, BLUE, GREEN).preflight())
    assert "30 days, the source for ever" in found["retention_differs"].message
    assert "copied_events_are_seen" not in found
    rig.client(GREEN).create_log_group(logGroupName=f"{rig.prefix}/sink")
    rig.client(GREEN).put_subscription_filter(
        logGroupName=f"{rig.prefix}/app/all",
        filterName="alerts",
        filterPattern="",
        destinationArn=f"arn:aws:logs:eu-west-1:123456789012:log-group:{rig.prefix}/sink:*",
    )
    assert "copied_events_are_seen" in codes(rig.copy(ACME, BLUE, GREEN).preflight())
    assert not [f for f in found.values() if f.severity is Severity.REFUSAL]
