"""CloudWatch Logs as a store: what it counts, what it can erase and what it writes out before, and what stays."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import pytest

from tenure.catalogue import DataClass, LogPlace, NamePattern
from tenure.errors import FenceRefused, StoreRefused, StoreUnavailable
from tenure.model.names import TenantId
from tenure.stores.cloudwatch import FolderSink, LogsStore
from tenure.stores.cloudwatch.events import Event, Stream, Sum
from tenure.stores.contract import Fence
from tests.aws_faults import refused
from tests.contract.rigs.cloudwatch_logs import LogsRig
from tests.contract.rigs.protocol import Side

MakeRig = Callable[..., LogsRig]
ACME, NEIGHBOURS = TenantId("acme"), (TenantId("acme1"), TenantId("Acme"))
BLUE = Side.BLUE
SHARED = LogPlace(
    group=NamePattern.parse("/aws/lambda/api"), streams=NamePattern.parse("*"), data_class=DataClass.PERSONAL
)


def fence(token: int = 10) -> Fence:
    return Fence(tenant=ACME, epoch=1, token=token)


def closed(store: LogsStore) -> LogsStore:
    store.fence(fence(), expires_in_s=None, drain_s=5.0)
    return store


def fill(rig: LogsRig) -> None:
    for tenant in (ACME, *NEIGHBOURS):
        for item in ("web", "worker"):
            for n in range(3):
                rig.put(BLUE, rig.stream(tenant, item), rig.now(), f"{tenant} {item} {n}")


def manifests(folder: Path) -> list[Path]:
    return sorted(folder.rglob("manifest.json"))


def test_an_inventory_has_the_events_bytes_and_digest_of_every_stream(logs_rig: MakeRig) -> None:
    rig = logs_rig()
    stream = rig.stream(ACME, "web")
    events = [Event(rig.now(), message) for message in ("one", "zwei", "größer")]
    for event in events:
        rig.put(BLUE, stream, event.timestamp, event.message)
    rig.put(BLUE, rig.stream(ACME, "worker"), rig.now(), "alone")
    found = rig.store(BLUE).inventory(ACME).collections
    assert set(found) == {"/app/acme:web", "/app/acme:worker"}
    expected = Sum()
    for event in events:
        expected.add(event)
    web = found["/app/acme:web"]
    assert (web.items, web.size_bytes, web.digest) == (3, 3 + 4 + 8 + 3 * 26, expected.digest)


@pytest.mark.parametrize("kind", ["cloudwatch_logs", "cloudwatch_logs-streams"])
def test_an_erasure_takes_groups_or_streams_whole_and_no_neighbours(logs_rig: MakeRig, kind: str) -> None:
    rig = logs_rig(kind)
    fill(rig)
    store = rig.store(BLUE)
    before = {n: store.inventory(n).collections for n in NEIGHBOURS}
    assert closed(store).erase(fence()) == 2
    assert store.erase(fence()) == 0
    assert not store.inventory(ACME).collections
    assert {n: store.inventory(n).collections for n in NEIGHBOURS} == before
    assert store.groups.group("/app/acme") is None
    assert store.groups.listed("/app/")


def test_everything_is_written_out_before_it_is_deleted_and_reads_back(
    logs_rig: MakeRig, tmp_path: Path
) -> None:
    rig = logs_rig()
    fill(rig)
    store = closed(rig.store(BLUE, export=FolderSink(tmp_path)))
    counted = store.inventory(ACME).collections
    assert store.erase(fence()) == 2
    [manifest] = manifests(tmp_path)
    told = json.loads(manifest.read_text())
    assert {
        f"{s['group']}:{s['stream']}": (s["events"], s["size_bytes"], s["digest"]) for s in told["streams"]
    } == {name: (its.items, its.size_bytes, its.digest) for name, its in counted.items()}
    web = next(s for s in told["streams"] if s["stream"] == "web")
    lines = gzip.decompress((manifest.parent / web["file"]).read_bytes()).decode().splitlines()
    assert [json.loads(line)["message"] for line in lines] == [f"acme web {n}" for n in range(3)]
    assert store.erase(fence()) == 0
    assert len(manifests(tmp_path)) == 1


def test_nothing_is_deleted_where_the_export_cannot_be_written(logs_rig: MakeRig, tmp_path: Path) -> None:
    rig = logs_rig()
    fill(rig)
    (tmp_path / "file").write_text("in the way")
    store = closed(rig.store(BLUE))
    with pytest.raises(StoreUnavailable, match="cannot be written"):
        store.erase(fence(), export=FolderSink(tmp_path / "file"))
    assert store.inventory(ACME).items == 6


class Interrupting(FolderSink):
    """Has the app's log shipper deliver one more event while a stream is written out."""

    def __init__(self, folder: Path, deliver: Callable[[], object], times: int) -> None:
        super().__init__(folder)
        self._deliver = deliver
        self._times = times

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        with super().create(name) as file:
            yield file
        if self._times and name.endswith(".gz"):
            self._times -= 1
            self._deliver()


def test_an_event_that_comes_during_an_export_is_in_the_export(logs_rig: MakeRig, tmp_path: Path) -> None:
    rig = logs_rig()
    fill(rig)
    late = rig.stream(ACME, "web")
    sink = Interrupting(tmp_path, lambda: rig.put(BLUE, late, rig.now(), "late"), 2)
    assert closed(rig.store(BLUE)).erase(fence(), export=sink) == 2
    [manifest] = manifests(tmp_path)
    web = next(s for s in json.loads(manifest.read_text())["streams"] if s["stream"] == "web")
    assert web["events"] == 5


def test_a_stream_that_never_comes_to_rest_is_not_deleted(logs_rig: MakeRig, tmp_path: Path) -> None:
    rig = logs_rig()
    fill(rig)
    late = rig.stream(ACME, "web")
    sink = Interrupting(tmp_path, lambda: rig.put(BLUE, late, rig.now(), "late"), 1000)
    store = closed(rig.store(BLUE))
    with pytest.raises(StoreUnavailable, match="gets new events"):
        store.erase(fence(), export=sink)
    assert store.inventory(ACME).items > 6


def test_a_stream_that_comes_after_the_export_is_not_deleted_with_its_group(
    logs_rig: MakeRig, tmp_path: Path
) -> None:
    rig = logs_rig()
    fill(rig)
    newcomer = rig.stream(ACME, "new")

    class Late(FolderSink):
        @contextmanager
        def create(self, name: str) -> Iterator[BinaryIO]:
            with super().create(name) as file:
                yield file
            if name.endswith("manifest.json"):
                rig.put(BLUE, newcomer, rig.now(), "not exported")

    store = closed(rig.store(BLUE))
    with pytest.raises(StoreUnavailable, match="has come since the export"):
        store.erase(fence(), export=Late(tmp_path))
    assert store.inventory(ACME).items == 7


def test_shared_streams_stay_and_are_reported_with_the_day_they_are_gone(logs_rig: MakeRig) -> None:
    rig = logs_rig()
    fill(rig)
    store = closed(rig.store(BLUE, places=(*rig.places, SHARED)))
    shared = Stream("/aws/lambda/api", "2026/11/23/[$LATEST]0a")
    newest = round(time.time() * 1000) - 1000
    for at, message in (
        (newest - 5000, '{"tenant": "acme", "path": "/x"}'),
        (newest, "tenant=acme again"),
        (newest, "tenant=acme1, acme-corp, xacme and ACME are others"),
    ):
        rig.put(BLUE, shared, at, message)
    assert store.erase(fence()) == 2
    [kept] = store.retained(ACME, known=[ACME, *NEIGHBOURS, TenantId("acme-corp")])
    assert (kept.stream, kept.events, kept.until) == (shared, 2, None)
    rig.client(BLUE).put_retention_policy(logGroupName=store.groups.full(shared.group), retentionInDays=30)
    [kept] = store.retained(ACME, known=[ACME, *NEIGHBOURS, TenantId("acme-corp")])
    assert kept.until == datetime.fromtimestamp(newest / 1000, UTC) + timedelta(days=30, hours=72)
    assert f"{kept.until:%Y-%m-%d}" in kept.sentence
    assert len(list(store.events(shared))) == 3


def test_a_group_that_the_catalogue_names_by_itself_is_no_tenants_of_that_name(logs_rig: MakeRig) -> None:
    rig = logs_rig()
    shared = LogPlace(
        group=NamePattern.parse("/app/all"), streams=NamePattern.parse("*"), data_class=DataClass.PERSONAL
    )
    store = rig.store(BLUE, places=(shared, *rig.places))
    rig.put(BLUE, Stream("/app/all", "web"), rig.now(), "of everybody")
    tenant = Fence(tenant=TenantId("all"), epoch=1, token=10)
    assert store.inventory(tenant.tenant).items == 0
    store.fence(tenant, expires_in_s=None, drain_s=5.0)
    assert store.erase(tenant) == 0
    assert len(list(store.events(Stream("/app/all", "web")))) == 1


def test_the_retention_of_a_tenants_groups_is_reported(logs_rig: MakeRig) -> None:
    rig = logs_rig()
    fill(rig)
    store = rig.store(BLUE)
    assert store.retention(ACME) == {"/app/acme": None}
    rig.client(BLUE).put_retention_policy(logGroupName=store.groups.full("/app/acme"), retentionInDays=7)
    assert store.retention(ACME) == {"/app/acme": timedelta(days=7)}


def test_without_a_journal_a_move_leaves_the_logs_and_erasing_works_under_a_noted_fence(
    logs_rig: MakeRig,
) -> None:
    rig = logs_rig()
    fill(rig)
    store = rig.store(BLUE, anchor=None)
    assert store.capabilities.stays
    assert "journal" in store.capabilities.stays
    with pytest.raises(StoreRefused, match="journal"):
        _ = store.anchored
    with pytest.raises(FenceRefused):
        store.erase(fence())
    closed(store)
    with pytest.raises(FenceRefused):
        store.erase(fence(9))
    assert store.erase(fence()) == 2


def test_a_protected_group_is_refused_and_kept(logs_rig: MakeRig) -> None:
    rig = logs_rig()
    fill(rig)
    store, proxy = rig.faulty(BLUE)
    proxy.answer(refused("ValidationException"), operation="DeleteLogGroup")
    with pytest.raises(StoreRefused, match="DeleteLogGroup") as caught:
        closed(store).erase(fence())
    assert caught.value.hint
    assert "protected" in caught.value.hint
    assert store.inventory(ACME).items == 6


def test_an_erasure_survives_throttling_and_lost_answers_and_says_so_if_it_does_not_end(
    logs_rig: MakeRig,
) -> None:
    rig = logs_rig("cloudwatch_logs-streams")
    fill(rig)
    store, proxy = rig.faulty(BLUE)
    proxy.answer(refused("ThrottlingException"), operation="DescribeLogStreams", times=2)
    proxy.answer(refused("ThrottlingException", after=True), operation="DeleteLogStream", times=1)
    proxy.answer(refused("OperationAbortedException"), operation="DeleteLogStream", times=1)
    with pytest.raises(StoreUnavailable) as caught:
        closed(store).erase(fence())
    assert caught.value.retryable
    assert store.erase(fence()) == 1
    assert not store.inventory(ACME).collections


def test_a_listing_whose_page_token_expires_halfway_leaves_no_stream_out(logs_rig: MakeRig) -> None:
    rig = logs_rig()
    names = [f"s{n:03d}" for n in range(120)]
    for name in names:
        rig.put(BLUE, rig.stream(ACME, name), rig.now(), "x")
    store, proxy = rig.faulty(BLUE)
    proxy.answer(
        refused("InvalidParameterException"),
        operation="DescribeLogStreams",
        when=lambda asked: "nextToken" in asked.fields,
        skip=1,
        times=1,
    )
    assert [s.name for s in store.groups.of(ACME)] == names
    assert proxy.asked.count("DescribeLogStreams") == 3 + 3


def test_reading_goes_on_where_a_token_expired_without_losing_or_repeating_an_event(
    logs_rig: MakeRig,
) -> None:
    rig = logs_rig()
    stream, at = rig.stream(ACME, "web"), rig.now()
    rig.put(BLUE, stream, at, "first")
    group = rig.prefix + stream.group
    for start in range(0, 24_000, 8_000):
        rig.client(BLUE).put_log_events(
            logGroupName=group,
            logStreamName=stream.name,
            logEvents=[
                {"timestamp": at + n // 7, "message": f"event {n}"} for n in range(start, start + 8_000)
            ],
        )
    store, proxy = rig.faulty(BLUE)
    proxy.answer(
        refused("InvalidParameterException"),
        operation="GetLogEvents",
        when=lambda asked: "nextToken" in asked.fields,
        times=2,
    )
    read = [event.message for event in store.events(stream)]
    assert len(read) == len(set(read)) == 24_001
    assert proxy.asked.count("GetLogEvents") > 4
